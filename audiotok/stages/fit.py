"""Manifests -> fitted tokenizer.

Reads: EXP_ROOT/data/NAME-FP/ (what prepare writes), the train split and its audio, in a random order, once.
Writes: EXP_ROOT/tokenizers/TOKENIZER-FP/ with the fitted state (safetensors and JSON), where tokenize, decode and train find it.
A tokenizer without anything to fit (dmel, lyra, encodec) needs no such run: the stage says so and returns.
Told by: tokenizer (tokenizer=kmeans_whisper), fit.hours, seed, device; data and prepare as for prepare.
"""

import random
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from hydra.utils import instantiate
from lhotse import MonoCut
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from audiotok import distributed, files
from audiotok.data.manifests import load_cuts
from audiotok.data.tokenization import read_cut
from audiotok.stages import paths
from audiotok.tokenizers.base import Fittable

SECTIONS: tuple[str, ...] = ("data", "prepare", "tokenizer", "fit")


def run(cfg: DictConfig) -> None:
    console, manifests = Console(), paths.manifests(cfg)
    if "fitted" not in cfg.tokenizer:
        console.print(f"tokenizer={cfg.choices.tokenizer} has nothing to fit; go on with `audiotok tokenize {cfg.recipe}`", soft_wrap=True)
        return
    prepared = paths.manifests_fingerprint(cfg)

    def work(partial: Path) -> None:
        tokenizer: Fittable = instantiate(cfg.tokenizer, fitted=None)
        cuts = chosen(list(load_cuts(manifests, "train")), hours=cfg.fit.hours, seed=cfg.seed)
        device = distributed.device(cfg.device)
        shown = track(cuts, description=f"fitting {cfg.choices.tokenizer}", console=console)
        tokenizer.fit(read_cut(cut, tokenizer.sample_rate).to(device) for cut in shown)
        tokenizer.save(partial)

    folder = paths.fitted(cfg)
    made = files.build(folder, paths.fit_settings(cfg) | {"manifests": prepared}, work, overwrite=cfg.overwrite)
    console.print(f"{folder} is there already" if made == "present" else f"{folder} is written", soft_wrap=True)


def chosen(cuts: Sequence[MonoCut], *, hours: float, seed: int) -> list[MonoCut]:
    """Cuts in a random order, as many as make up at most `hours`; one at least."""
    shuffled = random.Random(seed).sample(cuts, len(cuts))
    ends = accumulate(cut.duration for cut in shuffled)
    return [cut for index, (cut, end) in enumerate(zip(shuffled, ends)) if index == 0 or end <= hours * 3600]
