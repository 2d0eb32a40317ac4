"""Tokenizers for tests of the benchmark: an honest one, and one for each way to be wrong."""

import os
from fractions import Fraction
from pathlib import Path

import torch

from audiotok.tokenizers.base import Reach
from audiotok.types import TokenSpec

HOP, LEVELS = 320, 16

SUITE = """\
# @package _global_
# A suite for tests.
defaults:
  - /data@corpora.speech: speech
  - /task@tasks.laws: laws
  - /task@tasks.codebook_use: codebook_use
  - /task@tasks.reconstruction: tiny_reconstruction
  - /task@tasks.cost: cost
  - override /data: speech

bench: { aligned: [], seeds: [0], workers: 0 }
"""
TASK = """\
_target_: audiotok.bench.reconstruction.Reconstruction
selection: { _target_: audiotok.bench.subject.Selection, corpus: speech, splits: [test] }
metrics:
  si_sdr: { _target_: audiotok.evaluation.reconstruction.SiSdr, max_delay: 0.1 }
  mel: { _target_: audiotok.evaluation.reconstruction.MelDistance, windows: [512], bands: [40], max_delay: 0.1 }
primary: [si_sdr]
"""


def tiny_suite(folder: Path) -> Path:
    """`folder` with a suite of its own, a task beside it; returns the suite's path."""
    for path, text in (("recipes/tiny.yaml", SUITE), ("configs/task/tiny_reconstruction.yaml", TASK)):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return folder / "recipes" / "tiny.yaml"


class Loudness:
    """The level of each frame of 20 ms in 16 steps; decoded to noise of that level, the same each time."""

    reach = Reach(0, 0, HOP)

    def __init__(self, *, fault: str | None = None, name: str = "loudness") -> None:
        self.fault = fault
        self.spec = TokenSpec(16000, Fraction(50), (LEVELS, LEVELS), f"{name} {fault}")
        self.calls = 0

    def encode(self, wav_BT, lengths_B):
        self.calls += 1
        if self.fault == "crash":
            raise RuntimeError("no such thing as this sound")
        if self.fault == "die":
            os._exit(3)
        frames_B = -(-lengths_B // HOP)
        padded_BT = torch.nn.functional.pad(wav_BT, (0, int(frames_B.max()) * HOP - wav_BT.shape[1]) if wav_BT.shape[1] % HOP else (0, 0))
        level_BN = padded_BT.unflatten(1, (-1, HOP)).square().mean(dim=2).clamp(min=1e-8).log10()[:, : int(frames_B.max())]
        codes_BN = ((level_BN + 8) / 8 * LEVELS).long().clamp(0, LEVELS - 1)
        codes_BKN = torch.stack([codes_BN, (codes_BN + 3) % LEVELS], dim=1)
        if self.fault == "range":
            codes_BKN[:, 1] += LEVELS
        if self.fault == "float":
            codes_BKN = codes_BKN.float()
        if self.fault == "changes":
            wav_BT.mul_(0.5)
        if self.fault == "frames":
            frames_B = frames_B + 1
        if self.fault == "batch":
            codes_BKN = (codes_BKN + len(wav_BT) - 1) % LEVELS
        if self.fault == "random":
            codes_BKN = (codes_BKN + self.calls) % LEVELS
        inside_BN = torch.arange(codes_BKN.shape[2]) < frames_B[:, None]
        return codes_BKN * inside_BN[:, None], frames_B

    def decode(self, codes_BKN, lengths_B):
        noise_T = torch.randn(codes_BKN.shape[2] * HOP, generator=torch.Generator().manual_seed(0))
        gain_BN = 10 ** ((codes_BKN[:, 0].float() + 0.5) / LEVELS * 4 - 4)
        wav_BT = (gain_BN.repeat_interleave(HOP, dim=1) * noise_T).clamp(-1, 1)
        if self.fault == "nan":
            wav_BT[:, 100] = torch.nan
        if self.fault == "short":
            return wav_BT[:, :-7], lengths_B * HOP - 7
        return wav_BT, lengths_B * HOP


FAULTS = {
    "crash": "crashed",
    "range": "codes_out_of_range",
    "float": "codes_not_integers",
    "changes": "input_changed",
    "frames": "wrong_frames",
    "batch": "batch_dependent",
    "random": "not_deterministic",
    "nan": "audio_not_finite",
    "short": "wrong_samples",
}
