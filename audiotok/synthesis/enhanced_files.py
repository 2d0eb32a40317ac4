"""Folders of recordings of any rate, length and number of channels, made clean under the same names."""

from pathlib import Path

import torch

from audiotok import audio
from audiotok.synthesis.enhancing import Enhancer, enhanced

READ = {".wav", ".flac", ".ogg", ".opus", ".mp3", *audio.PYAV_FORMATS}


def plan(source: Path, out: Path) -> list[tuple[Path, Path]]:
    """(recording, where its enhanced sound goes) of a folder and those in it, by name; what cannot be written as it is becomes .flac.

    Raises ValueError where there is no recording, `out` lies in `source`, or two recordings would be written to one file.
    """
    if out.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"enhance.out={out} lies in enhance.input={source}; choose a folder outside it")
    found = [path for path in sorted(source.rglob("*")) if path.suffix.lower() in READ and path.is_file()]
    if not found:
        raise ValueError(f"enhance.input={source} holds no recording; files with {', '.join(sorted(READ))} are read")
    pairs, taken = [], dict[Path, Path]()
    for path in found:
        kept = path.suffix.lower() in audio.WRITTEN_FORMATS
        target = out / (path if kept else path.with_suffix(".flac")).relative_to(source)
        if target in taken:
            raise ValueError(f"{taken[target]} and {path} would both be written to {target}; rename one of them")
        taken[target] = path
        pairs.append((path, target))
    return pairs


def enhance_file(
    enhancer: Enhancer, path: Path, target: Path, *, seconds: float, overlap_seconds: float, left_in: float, device: torch.device
) -> None:
    """Write the recording made clean, mono, at its own rate and as long as it is to the sample. Raises ValueError as `audio.read` does.

    `left_in` is the share of the noisy recording that is left in it: what an enhancer damages weighs less then (arXiv 2201.06685).
    """
    wav_T, rate = audio.read(path)
    heard_T = audio.resample(wav_T, rate, enhancer.codec.spec.sample_rate)
    made_T = enhanced(enhancer, heard_T.to(device), seconds=seconds, overlap_seconds=overlap_seconds).cpu()
    made_T = (1 - left_in) * made_T + left_in * heard_T
    back_T = audio.resample(made_T, enhancer.codec.spec.sample_rate, rate)[: len(wav_T)]
    audio.write(target, back_T.clamp(-1, 1), rate)
