"""What a tokenizer or codec takes: its parameters, and its time for a second of speech, with the machine and the conditions."""

import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from audiotok.tokenizers.base import Decoder, Encoder, WaveformCodec

COSTS = "costs.json"


def measure(system: object, wavs: Sequence[Tensor], *, sample_rate: int, device: torch.device, threads: int) -> dict[str, Any]:
    """{"parameters", "real_time_factor", "conditions"}: the number of `num_parameters`, the seconds of `real_time_factor`, and where.

    `wavs` are utterances wav_T at `sample_rate`, the system's own.
    """
    seconds = sum(map(len, wavs)) / sample_rate
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # of the machine before this began to work
    with _threads(threads):
        factors = real_time_factor(system, wavs, sample_rate=sample_rate, device=device)
    timed = {"utterances": len(wavs), "seconds": round(seconds, 3), "threads": threads, "load_before": load}
    return {"parameters": num_parameters(system), "real_time_factor": factors, "conditions": timed | machine(device)}


def real_time_factor(system: object, wavs: Sequence[Tensor], *, sample_rate: int, device: torch.device) -> dict[str, float]:
    """Seconds of work per second of speech, an utterance at a time: to "encode", to "decode", and "both".

    Only "both" for a codec without codes, only "encode" where there is no way back; nothing for what cannot encode. The first utterance
    goes through once more before, since the first call of a network costs what no later one does.
    """
    if not (wavs and isinstance(system, WaveformCodec | Encoder)):
        return {}
    _seconds_of(system, wavs[0], device=device)
    spent = [_seconds_of(system, wav_T, device=device) for wav_T in wavs]
    seconds = sum(map(len, wavs)) / sample_rate
    factors = {part: sum(row[part] for row in spent) / seconds for part in spent[0]}
    return factors | {"both": sum(factors.values())} if "decode" in factors else factors


def _seconds_of(system: Any, wav_T: Tensor, *, device: torch.device) -> dict[str, float]:
    start = perf_counter()
    if isinstance(system, WaveformCodec):
        system.transmit(wav_T)
        return {"both": perf_counter() - start}
    with torch.inference_mode():
        codes_1KN, frames_1 = system.encode(wav_T[None].to(device), torch.tensor([len(wav_T)], device=device))
        codes_1KN = codes_1KN.cpu()  # a GPU is done only when its result is here
        encoded = perf_counter()
        if not isinstance(system, Decoder):
            return {"encode": encoded - start}
        system.decode(codes_1KN.to(device), frames_1.to(device))[0].cpu()
    return {"encode": encoded - start, "decode": perf_counter() - encoded}


def num_parameters(system: object) -> int | None:
    """What its `num_parameters` says, else the sum over the networks that it and its parts hold; None where there is no network."""
    told = getattr(system, "num_parameters", None)
    if isinstance(told, int):
        return told
    networks = list(_networks(system, set()))
    return sum(parameter.numel() for network in networks for parameter in network.parameters()) or None


def _networks(part: object, seen: set[int]) -> Iterator[nn.Module]:
    """Each outermost network among an object's attributes, once."""
    if id(part) in seen or isinstance(part, (type, ModuleType, FunctionType, Tensor)):
        return
    seen.add(id(part))
    if isinstance(part, nn.Module):
        seen.update(map(id, part.modules()))
        yield part
    else:
        for value in getattr(part, "__dict__", {}).values():
            yield from _networks(value, seen)


def machine(device: torch.device) -> dict[str, Any]:
    """The processor, its cores, the device and the versions."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
