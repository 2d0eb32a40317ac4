"""Codes that sound alike -> groups, what they are like, how they sound.

Reads: EXP_ROOT/tokens/NAME-FP/TOKENIZER-FP/ (what tokenize writes), for the codes that the examples are made of.
Writes: EXP_DIR/groups/TOKENIZER/ACCEPTANCE/ with groups.safetensors (what the coarse rule of `audiotok synthesize ... acceptance=` makes of
the codes' vectors in the codec), groups.json and groups.html: sizes, coverage over thresholds, and members to listen to.
Told by: acceptance (coarse_hard, coarse_soft, coarse_nearest) and its keys, tokenizer, transform, seed; data and prepare as for tokenize.
"""

from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from audiotok import files
from audiotok.data.code_vectors import code_vectors
from audiotok.decoding import kernels
from audiotok.decoding.acceptance import Coarse
from audiotok.evaluation import groups_page
from audiotok.stages import paths
from audiotok.store import TokenStore
from audiotok.transforms.base import as_layout

SECTIONS: tuple[str, ...] = ("data", "prepare", "tokenizer", "transform", "acceptance")
SAVED = "groups.safetensors"


def run(cfg: DictConfig) -> None:
    console = Console()
    tokenizer, transform, rule = instantiate(cfg.tokenizer), as_layout(instantiate(cfg.transform)), instantiate(cfg.acceptance)
    if not isinstance(rule, Coarse):
        raise ValueError(f"acceptance={cfg.choices.acceptance} has no groups; choose coarse_hard, coarse_soft or coarse_nearest")
    tokens = paths.tokens(cfg, tokenizer.spec.fingerprint)
    made_from = files.fingerprint_of(tokens, made_by=f"tokenize {cfg.recipe} tokenizer={cfg.choices.tokenizer}")
    folder = paths.groups(cfg) / cfg.choices.tokenizer / cfg.choices.acceptance

    def work(partial: Path) -> None:
        _write(partial, tokenizer, code_vectors(tokenizer, transform), rule, TokenStore(tokens / "train"), cfg)

    settings = {"tokens": made_from, **paths.settings(cfg, "transform", "acceptance", "seed")}
    made = files.build(folder, settings, work, overwrite=cfg.overwrite)
    console.print(f"{folder} is {'there already' if made == 'present' else 'written'}")


def _write(folder: Path, tokenizer: Any, vectors: list, rule: Coarse, store: TokenStore, cfg: DictConfig) -> None:
    found = rule.similarity.kernels(vectors)
    kernels.save(folder / SAVED, found, made_by=rule.similarity)
    about = [groups_page.about(kernel, vectors_VD) for kernel, vectors_VD in zip(found, vectors)]
    files.write_json(folder / "groups.json", {"acceptance": paths.settings(cfg, "acceptance")["acceptance"], "codebooks": about})
    sounds = groups_page.listen(found, tokenizer, store, seed=cfg.seed) if groups_page.can_be_heard(tokenizer, len(found)) else []
    groups_page.write(folder / "groups.html", about, sounds, title=f"{cfg.choices.tokenizer}, {cfg.choices.acceptance}")
