"""A transformer's step on a GPU with its launches recorded once and replayed: a step of small kernels costs more to launch than to compute.

A recording (a CUDA graph) is of fixed shapes and addresses: rows and positions of the input, how far the cache is read, and its memory.
What differs from step to step is on the device, the rows' lengths included, so that `KVCache.rewind`, `replace` and `keep` are heard by the
next replay; none of them moves a cache. A recording is found by the addresses it reads: a later cache in the memory of an earlier one is
the same to it. As rows grow, the cache is read up to the next multiple of `BUCKET` positions, and each of these lengths is recorded anew.

Nothing that is recorded may ask the device for a value or have a shape that depends on one. Where a way of computing the step cannot be
recorded, one warning says so and the next way is taken; behind the last, steps are launched one kernel at a time.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from audiotok.nn.kv_cache import KVCache
from audiotok.nn.transformer import Transformer

BUCKET = 256  # positions: less is read in vain by fewer, but each is recorded anew, and replayed as many times at least
STEP = 32  # positions of a step: more are a prompt, which is heard once and is worth no recording
UNRECORDED = 2  # steps of a shape that pass first, for the same reason
WARM = 2  # steps before a recording, in which libraries take their memory and choose their kernels
KEPT = 64  # recordings, those replayed last


class Way(Protocol):
    """`module(hidden_BND, cache=cache)`, computed in one way or another."""

    def __call__(self, module: Transformer, hidden_BND: Tensor, *, cache: KVCache) -> Tensor: ...


class Capture(Protocol):
    """(replay, what each replay overwrites with its result) of a step, which may be run any number of times before; `undo` follows each."""

    def __call__(self, step: Callable[[], Tensor], *, undo: Callable[[], None]) -> tuple[Callable[[], None], Tensor]: ...


@dataclass(frozen=True)
class Recording:
    """`replay` reads hidden_BND and overwrites out_BND. The module is kept alive, as its weights are read."""

    replay: Callable[[], None]
    hidden_BND: Tensor
    out_BND: Tensor
    module: Transformer


class Graphs:
    """The recordings of one or several transformers, which must not run at the same time: they share memory for what lies between.

    `ways` are those that have not been refused; recordings are made by the first.
    """

    def __init__(self, capture: Capture, ways: Sequence[Way]) -> None:
        self._capture, self.ways = capture, list(ways)
        self._found: OrderedDict[tuple, Recording | int] = OrderedDict()  # or how often the step has passed unrecorded

    def __len__(self) -> int:
        """How many recordings there are."""
        return sum(isinstance(found, Recording) for found in self._found.values())

    def __call__(self, module: Transformer, hidden_BND: Tensor, *, cache: KVCache) -> Tensor:
        """As the module's call with a cache that grows by all N positions. Raises ValueError where they do not fit."""
        read = -(-cache.room_for(hidden_BND.shape[1]) // BUCKET) * BUCKET
        out_BND = self._step(module, hidden_BND, cache.within(min(read, cache.capacity)))
        cache.longest += hidden_BND.shape[1]  # the lengths themselves are counted by the step
        return out_BND

    def _step(self, module: Transformer, hidden_BND: Tensor, cache: KVCache) -> Tensor:
        recording = self._recording(module, hidden_BND, cache)
        if recording is None:
            return module(hidden_BND, cache=cache)
        recording.hidden_BND.copy_(hidden_BND)
        recording.replay()
        return recording.out_BND.clone()

    def _recording(self, module: Transformer, hidden_BND: Tensor, cache: KVCache) -> Recording | None:
        """That of this step, made now if it has passed often enough; None where it is not to be recorded."""
        if not self.ways or hidden_BND.shape[1] > STEP:
            return None
        key = _key(module, hidden_BND, cache)
        found = self._found.pop(key, 0)
        if isinstance(found, int):
            found = found + 1 if found < UNRECORDED else self._recorded(module, hidden_BND, cache) or 0
        self._found[key] = found
        if len(self._found) > KEPT:
            self._found.popitem(last=False)
        return None if isinstance(found, int) else found

    def _recorded(self, module: Transformer, hidden_BND: Tensor, cache: KVCache) -> Recording | None:
        """A recording by the first way that allows one; None, once all have been warned of, where none does."""
        while self.ways:
            try:
                return self._record(self.ways[0], module, hidden_BND, cache)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:  # what a refused capture and a compiler that fails raise
                refused = self.ways.pop(0)
                reason = str(error).strip().splitlines()[:1]
                warnings.warn(f"{refused.__module__}.{refused.__name__} is not recorded for the GPU: {reason}", stacklevel=2)  # type: ignore[attr-defined]
        return None

    def _record(self, way: Way, module: Transformer, hidden_BND: Tensor, cache: KVCache) -> Recording:
        held_BND, lengths_B = hidden_BND.clone(), cache.lengths_B.clone()

        def undo() -> None:
            cache.lengths_B.copy_(lengths_B)  # what was written behind them is written again

        try:
            replay, out_BND = self._capture(lambda: way(module, held_BND, cache=cache), undo=undo)
        finally:
            undo()
        return Recording(replay, held_BND, out_BND, module)


def plain(module: Transformer, hidden_BND: Tensor, *, cache: KVCache) -> Tensor:
    """The module's own operations, one after another."""
    return module(hidden_BND, cache=cache)


class CudaCapture:
    """Recordings as CUDA graphs of one device, which share a pool of memory; never written while another is read, as they run in turn."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None  # PyTorch's handle of it, whose type it does not name

    def __call__(self, step: Callable[[], Tensor], *, undo: Callable[[], None]) -> tuple[Callable[[], None], Tensor]:
        with torch.cuda.device(self._device):
            self._warm(step, undo)
            # A pool in which a recording was refused is not used again: PyTorch may hold it to be recorded into still.
            pool, self._pool = self._pool or torch.cuda.graph_pool_handle(), None
            graph = torch.cuda.CUDAGraph()
            # Other threads may use the device meanwhile: a vocoder, say.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                out_BND = step()
            self._pool = pool
        return graph.replay, out_BND

    def _warm(self, step: Callable[[], Tensor], undo: Callable[[], None]) -> None:
        """Beside the stream in use, as a recording begins on one of its own."""
        aside, stream = torch.cuda.Stream(), torch.cuda.current_stream()
        aside.wait_stream(stream)
        with torch.cuda.stream(aside):
            for _ in range(WARM):
                step()
                undo()
        stream.wait_stream(aside)


def _key(module: Transformer, hidden_BND: Tensor, cache: KVCache) -> tuple:
    """All that a recording takes for granted."""
    memory = cache.keys.data_ptr(), cache.values.data_ptr(), cache.lengths_B.data_ptr()
    return id(module), *memory, cache.keys.shape, cache.keys.stride(), cache.keys.dtype, hidden_BND.shape, hidden_BND.dtype
