"""A trained `Transformer` made ready to speak: smaller weights where wanted, and a step that costs little beyond reading them.

    fast = for_inference(transformer, weights="bf16")
    cache = fast.cache(rows, positions=600)
    hidden_BND = fast(hidden_BND, cache=cache)      # as the transformer's own call

Few vectors (rows times positions, `FEW`) on a CPU go through native.cpp, compiled at first use. There a vector's result has the same bits
whatever else is in the step, so a batch equals its rows one by one, and several positions at once equal one after the other. On a GPU a
step's launches are recorded once and replayed (`audiotok.nn.graphs`), compiled first where that is asked for (`audiotok.nn.fused`).
Prompts, other devices, and machines without a compiler go through the transformer's own code with the same weights.
"""

import copy
import ctypes
import warnings
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from audiotok.nn import fused, native
from audiotok.nn.graphs import CudaCapture, Graphs, Way, plain
from audiotok.nn.kv_cache import KVCache
from audiotok.nn.matrix import FEW, Matrix, Weights, with_matrices
from audiotok.nn.ranked import MadeHeads
from audiotok.nn.transformer import Block, Transformer, rotary
from audiotok.nn.vocabulary import KnownVectors, Settled

M = TypeVar("M", bound=nn.Module)


def for_inference(transformer: Transformer, *, weights: Weights, compiled: bool = False) -> "FastTransformer":
    """The transformer as it speaks, on the device it is on; its large weights are copies (`matrix.in_large_pages`).

    `compiled` is for a GPU and a process that speaks for long: the first step waits for torch.compile, later ones are fewer kernels.
    Without it a GPU writes int8 weights out in bf16 at each step, which moves more than bf16 weights do; elsewhere it changes nothing.
    """
    return FastTransformer(transformer, weights, compiled=compiled)


def quickened(model: M, weights: Weights, *, compiled: bool = False) -> M:
    """The model with every transformer and vocabulary in it as it speaks; it shares all else with the first, and cannot be trained."""
    twin = copy.copy(model)
    twin._modules = {}
    for name, child in model._modules.items():
        if isinstance(child, Transformer):
            twin.__dict__[name] = for_inference(child, weights=weights, compiled=compiled)
        elif isinstance(child, KnownVectors):
            twin._modules[name] = Settled(child)
        else:
            twin._modules[name] = None if child is None else quickened(child, weights, compiled=compiled)
    return twin


class FastTransformer:
    """See the module's docstring; made by `for_inference`. `graphs` are None where each step is launched anew, as on a CPU."""

    def __init__(self, transformer: Transformer, weights: Weights, *, compiled: bool) -> None:
        self.weights: Weights = weights
        self.module = cast(Transformer, with_matrices(transformer, weights).eval())
        for norm in (part for part in self.module.modules() if isinstance(part, nn.RMSNorm)):
            norm.weight = nn.Parameter(norm.weight.detach().float(), requires_grad=False)
        self.head_width = transformer.head_width
        device = transformer.norm.weight.device
        self.made_heads = MadeHeads()
        self.graphs = Graphs(CudaCapture(device), _ways(compiled)) if device.type == "cuda" else None
        self._cached_as = torch.float32 if weights == "fp32" else torch.bfloat16
        self._rotation: tuple[Tensor, Tensor] | None = None
        self._model = self._native_model()

    def cache(self, rows: int, *, positions: int) -> KVCache:
        """An empty cache; in bf16 unless the weights are float32."""
        return KVCache.empty(
            rows,
            layers=len(self.module.blocks),
            heads=self.module.heads,
            positions=positions,
            width=self.head_width,
            dtype=self._cached_as,
            device=self.module.norm.weight.device,
        )

    @torch.inference_mode()
    def __call__(self, hidden_BND: Tensor, *, cache: KVCache, lengths_B: Tensor | None = None) -> Tensor:
        """As the transformer's call with a cache: hidden_BND, after which the cache is longer by `lengths_B` positions, or by N."""
        rows, num, _ = hidden_BND.shape
        if self.graphs is not None and lengths_B is None:
            self._check_shape(hidden_BND, cache)
            return self.graphs(self.module, hidden_BND, cache=cache)
        library = native.library() if self._model is not None and rows * num <= FEW[self.weights] else None
        if library is None:
            return self.module(hidden_BND, cache=cache, lengths_B=lengths_B)
        self._check(hidden_BND, cache)
        out_BND = self._native_step(library, hidden_BND, cache)
        cache.grow(num, lengths_B=lengths_B)
        return out_BND

    def _check_shape(self, hidden_BND: Tensor, cache: KVCache) -> None:
        (layers, held, heads, _, width), rows = cache.keys.shape, len(hidden_BND)
        wanted = len(self.module.blocks), rows, self.module.heads, self.head_width, self._cached_as, rows
        if (got := (layers, held, heads, width, cache.keys.dtype, len(cache.lengths_B))) != wanted:
            raise ValueError(f"the cache has layers, rows, heads, width, type and lengths {got}, {wanted} are wanted; make it by cache()")

    def _check(self, hidden_BND: Tensor, cache: KVCache) -> None:
        """What native.cpp takes for granted: it reads and writes where it is told to."""
        self._check_shape(hidden_BND, cache)
        num, capacity = hidden_BND.shape[1], cache.capacity
        shortest, longest = (int(length) for length in cache.lengths_B.aminmax())
        if shortest < 0 or longest + num > capacity:
            raise ValueError(f"{num} positions do not fit in a cache of {capacity} whose rows hold {shortest} to {longest}")

    def _native_step(self, library: ctypes.CDLL, hidden_BND: Tensor, cache: KVCache) -> Tensor:
        assert self._model is not None
        hidden_BND = hidden_BND.float().clone(memory_format=torch.contiguous_format)  # it is added to in place
        out_BND = torch.empty_like(hidden_BND)
        getattr(library, f"step_{self.weights}")(
            ctypes.byref(self._model),
            ctypes.byref(self._native_cache(cache)),
            hidden_BND.shape[1],
            native.address(hidden_BND),
            native.address(out_BND),
            torch.get_num_threads(),
        )
        return out_BND

    def _native_cache(self, cache: KVCache) -> native.Cache:
        if self._rotation is None or len(self._rotation[0]) < cache.capacity:
            turns = rotary(torch.arange(cache.capacity)[None], width=self.head_width)
            self._rotation = turns[0][0, 0].contiguous(), turns[1][0, 0].contiguous()
        tensors = cache.keys, cache.values, cache.lengths_B
        return native.Cache(*map(native.address, tensors), len(cache.lengths_B), cache.capacity, *map(native.address, self._rotation))

    def _native_model(self) -> native.Model | None:
        """What native.cpp reads of the transformer; None where it cannot."""
        module = self.module
        if self.head_width % native.LANES or not all(part.is_native() for part in module.modules() if isinstance(part, Matrix)):
            return None
        blocks = [_native_block(cast(Block, block)) for block in module.blocks]
        first = cast(Block, module.blocks[0])
        return native.Model(
            layers=len(blocks),
            width=module.norm.weight.numel(),
            heads=module.heads,
            hidden=cast(Matrix, first.feed_forward.down).weight.shape[1],
            epsilon=torch.finfo(torch.float32).eps,  # nn.RMSNorm's own
            blocks=(native.Block * len(blocks))(*blocks),
            norm=native.address(module.norm.weight),
        )


def _ways(compiled: bool) -> list[Way]:
    """How a step may be recorded, the best first."""
    if compiled and not fused.is_likely():
        warnings.warn("no triton or no C compiler: steps on the GPU are not compiled, and slower", stacklevel=4)
    return [fused.step, plain] if compiled and fused.is_likely() else [plain]


def _native_block(block: Block) -> native.Block:
    attention, feed_forward = block.attention, block.feed_forward
    matrices = [cast(Matrix, part).view() for part in (attention.input, attention.output, feed_forward.input, feed_forward.down)]
    norms = native.address(block.attention_norm.weight), native.address(block.feed_forward_norm.weight)
    return native.Block(norms[0], *matrices[:2], norms[1], *matrices[2:])
