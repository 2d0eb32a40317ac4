"""Token store -> audio.

Reads: EXP_ROOT/tokens/NAME-FP/TOKENIZER-FP/test (what tokenize writes).
Writes: EXP_DIR/audio/TOKENIZER/ with a FLAC of each chosen utterance, as long as its recording, and utterances.jsonl: what the tokenizer
alone does to speech, for evaluate to score. The chosen utterances are those that synthesize speaks.
Told by: tokenizer (one that can decode), select.max_utterances, select.min_words, device; data and prepare as for prepare.
"""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.progress import Progress

from audiotok import distributed, files
from audiotok.data.resynthesis import resynthesise
from audiotok.data.selection import select_utterances
from audiotok.stages import paths
from audiotok.store import TokenStore
from audiotok.tokenizers.base import Decoder

SECTIONS: tuple[str, ...] = ("data", "prepare", "tokenizer", "select")


def run(cfg: DictConfig) -> None:
    name = cfg.choices.tokenizer
    tokenizer = instantiate(cfg.tokenizer)
    if not isinstance(tokenizer, Decoder):
        raise ValueError(f"tokenizer={name} has no way back to sound; choose one that has, such as tokenizer=dmel")
    tokens = paths.tokens(cfg, tokenizer.spec.fingerprint)
    settings = paths.settings(cfg, "tokenizer", "select") | {
        "tokens": files.fingerprint_of(tokens, made_by=f"tokenize {cfg.recipe} tokenizer={name}")
    }

    def work(partial: Path) -> None:
        store = TokenStore(tokens / "test")
        chosen = [row.id for row in select_utterances(store.descriptions(), **cfg.select)]
        with Progress() as progress:
            task = progress.add_task(f"decoding {name}", total=len(chosen))
            device = distributed.device(cfg.device)
            resynthesise(
                map(store.__getitem__, chosen), tokenizer, partial, device=device, progress=lambda more: progress.advance(task, more)
            )

    folder = paths.audio(cfg) / name
    made = files.build(folder, settings, work, overwrite=cfg.overwrite, resumable="*.flac")
    print(f"{folder} is there already" if made == "present" else f"{folder} is written")
