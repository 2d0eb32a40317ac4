"""What a tokenizer takes that does not depend on the machine, and the two things beside its speed that do: memory and the first code.

Multiply-adds and algorithmic latency are properties of the tokenizer; peak memory and the time to the first code are measured, with the
conditions that `audiotok.data.costs.machine` tells.
"""

import ctypes
import ctypes.util
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from time import perf_counter
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from audiotok.tokenizers.base import Decoder, Encoder, Streaming, Tokenizer
from audiotok.types import TokenSpec

MEMORY_STATUS, MEMORY_RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
OTHER_ENGINES = {"ai_edge_litert", "ctranslate2", "onnxruntime", "tflite_runtime"}
RESET_PEAK = "5"  # what Linux takes to forget the largest resident set so far (proc_pid_clear_refs(5))


@dataclass(frozen=True)
class MultiplyAdds:
    """Of one second of sound. `encode` and `decode` are None where they cannot be counted, and `reason` says why.

    `not_counted`: how often each other operation of PyTorch was called.
    """

    encode: int | None
    decode: int | None
    reason: str | None
    not_counted: dict[str, int]


def multiply_adds(system: object, *, seconds: float) -> MultiplyAdds:
    """Multiply-adds per second of sound, of encoding and decoding `seconds` seconds of noise at a time.

    Counted are convolutions (transposed ones too), matrix products, attention, recurrent layers, `torch.cdist` and `torch.addcmul`,
    wherever PyTorch computes them. Not counted is all else: activations, norms, Fourier transforms, sums. What a tokenizer computes for
    nothing, such as rows up to a block of 64, counts: take 10 s or more. Attention over the whole utterance grows with `seconds`: compare
    at the same.

    None, with the reason, for a network that PyTorch does not run (LiteRT, CTranslate2, ONNX) and what has no codes.
    """
    if not isinstance(system, Encoder):
        return MultiplyAdds(None, None, "it has no codes: what its program computes is not seen", {})
    if engine := other_engine(system):
        return MultiplyAdds(None, None, f"its network is run by {engine}, and only PyTorch's operations are seen", {})
    num_samples = round(seconds * system.spec.sample_rate)
    wav_1T = torch.randn(1, num_samples, generator=torch.Generator().manual_seed(0)).clamp(-1, 1) * 0.1
    (codes_1KN, frames_1), encode, not_counted = _counted(lambda: system.encode(wav_1T, torch.tensor([num_samples])))
    if not isinstance(system, Decoder):
        return MultiplyAdds(round(encode / seconds), None, "it cannot decode", dict(not_counted))
    _, decode, more = _counted(lambda: system.decode(codes_1KN, frames_1))
    return MultiplyAdds(round(encode / seconds), round(decode / seconds), None, dict(not_counted + more))


def other_engine(part: object) -> str | None:
    """What runs a tokenizer's network where PyTorch does not: the package of an attribute, at any depth; None for PyTorch."""
    if isinstance(getattr(part, "num_parameters", None), int):  # `audiotok.data.costs`: what is no torch module tells its number itself
        return "another engine"
    return next(_engines(part, set()), None)


def _engines(part: object, seen: set[int]) -> Iterator[str]:
    if id(part) in seen or isinstance(part, (type, ModuleType, FunctionType, Tensor, nn.Module)):
        return
    seen.add(id(part))
    if (package := type(part).__module__.partition(".")[0]) in OTHER_ENGINES:
        yield package
    for value in getattr(part, "__dict__", {}).values():
        yield from _engines(value, seen)


def _of_distances(left_shape: torch.Size, right_shape: torch.Size, *args: Any, **kwargs: Any) -> int:
    """A difference and its square for each component of each pair, or their product."""
    return 2 * prod(left_shape) * right_shape[-2]


def _of_recurrence(input_shape: torch.Size, input_weight: torch.Size, hidden_weight: torch.Size, *args: Any, **kwargs: Any) -> int:
    return 2 * prod(input_shape[:-1]) * (prod(input_weight) + prod(hidden_weight))


def _of_elements(*args: Any, out_shape: torch.Size, **kwargs: Any) -> int:
    return 2 * prod(out_shape)


# What PyTorch's counter does not know, in floating-point operations as it counts them: two for a multiply-add.
ALSO_COUNTED = {
    torch.ops.aten._cdist_forward: _of_distances,
    torch.ops.aten._euclidean_dist: _of_distances,
    torch.ops.aten.mkldnn_rnn_layer: _of_recurrence,
    torch.ops.aten.addcmul: _of_elements,  # the depthwise convolutions of audiotok.nn.convnext are made of them
}


def _counted(work: Callable[[], Any]) -> tuple[Any, float, Counter[str]]:
    """(what `work` returns, multiply-adds, calls of operations that were not counted)."""
    flops, others = FlopCounterMode(display=False, custom_mapping=ALSO_COUNTED), _Others()
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # made of matrix products; the counter does not know the CPU's fused attention
        stack.enter_context(others)
        stack.enter_context(flops)
        result = work()
    return result, flops.get_total_flops() / 2, others.calls


class _Others(TorchDispatchMode):
    """Counts the calls of operations that the counter of multiply-adds does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func.overloadpacket not in flop_registry and func.overloadpacket not in ALSO_COUNTED and not func.is_view:
            self.calls[str(func.overloadpacket)] += 1
        return func(*args, **kwargs or {})


def latency(tokenizer: Tokenizer) -> float | None:
    """Algorithmic latency in milliseconds: a hop and the look-ahead. None where a frame hears to the end of the utterance.

    The first sample of a frame waits that long for its code on an infinitely fast machine.
    """
    if tokenizer.reach.after is None:
        return None
    return 1000 * float(tokenizer.spec.hop + tokenizer.reach.after) / tokenizer.spec.sample_rate


@dataclass(frozen=True)
class FirstCode:
    """When the first code of a stream comes, in seconds after its first sample was spoken, and how many of them were work."""

    seconds: float
    heard: float  # of sound that had come by then
    work: float  # of computing


def time_to_first_code(stream: Streaming, wav_T: Tensor, *, chunk: float) -> FirstCode:
    """As `wav_T` comes in chunks of `chunk` seconds, in real time: a chunk waits for its last sample, and for the chunks before it.

    Nothing is waited for in fact: the clock runs on by what each chunk took to compute. Run it once before, since the first call of a
    network costs what no later one does.
    """
    spec: TokenSpec = stream.spec
    samples = max(1, round(chunk * spec.sample_rate))
    state, clock, work = stream.open(), 0.0, 0.0
    for end in range(samples, len(wav_T) + samples, samples):
        heard = min(end, len(wav_T)) / spec.sample_rate
        begun = perf_counter()
        codes_KN, state = stream.push(state, wav_T[end - samples : end])
        codes_KN = codes_KN.cpu()  # a GPU is done only when its result is here
        took = perf_counter() - begun
        clock, work = max(clock, heard) + took, work + took
        if codes_KN.shape[1]:
            return FirstCode(clock, heard, work)
    seconds = len(wav_T) / spec.sample_rate
    raise ValueError(f"time to the first code: none came in {seconds:.2f} s before the end of the utterance; take a longer one")


def peak_memory(make: Callable[[], Any], wav_T: Tensor, *, device: str) -> dict[str, int] | None:
    """Bytes of memory: {"loaded": what stays once `make()` was called and an utterance went through, "work": the most beyond that}.

    "loaded" holds the weights and the libraries that come with the first use, "work" grows with the utterance. Measured in a process of
    its own, as memory that this one was given before is not seen to be used again. On a CPU it is the resident set as the system counts
    it, native code's too; on a GPU PyTorch's own count. `make` must be picklable: a function of a module, or a partial of one. None where
    a CPU's peak cannot be read (only Linux tells it).
    """
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_memory, make, wav_T.cpu().numpy(), device, torch.get_num_threads()).result()


def _peak_memory(make: Callable[[], Any], samples: Any, device: str, threads: int) -> dict[str, int] | None:
    torch.set_num_threads(threads)
    on_gpu = torch.device(device).type == "cuda"
    if not (on_gpu or MEMORY_RESET.exists()):
        return None
    wav_1T, length_1 = torch.from_numpy(samples)[None].to(device), torch.tensor([len(samples)], device=device)
    now, peak = (_gpu_now, _gpu_peak) if on_gpu else (_resident, _largest_resident)
    before = now()
    system = make()
    _there_and_back(system, wav_1T, length_1)  # libraries are loaded, and networks move where the samples are
    loaded = now()
    _there_and_back(system, wav_1T, length_1)
    return {"loaded": loaded - before, "work": max(peak() - loaded, 0)}


@torch.inference_mode()
def _there_and_back(system: Any, wav_1T: Tensor, length_1: Tensor) -> None:
    codes_1KN, frames_1 = system.encode(wav_1T, length_1)
    if isinstance(system, Decoder):
        system.decode(codes_1KN, frames_1)


def _resident() -> int:
    """Bytes of this process in memory, once what the C library holds back is given back; the peak starts anew from here."""
    library = ctypes.CDLL(ctypes.util.find_library("c"))
    if hasattr(library, "malloc_trim"):  # glibc alone
        library.malloc_trim(0)
    MEMORY_RESET.write_text(RESET_PEAK)
    return _status("VmRSS")


def _largest_resident() -> int:
    return _status("VmHWM")


def _gpu_now() -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _gpu_peak() -> int:
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def _status(name: str) -> int:
    (line,) = (line for line in MEMORY_STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024  # given in kB of 1024 bytes
