"""Token store and a transform -> what the shorter codes cost, and what they lose.

Reads: EXP_ROOT/tokens/NAME-FP/TOKENIZER-FP/ (what tokenize writes) and, where the transform loses something, the recordings of the test
split in EXP_ROOT/data/NAME-FP/. A transform that learns does so from the train split, as reduce has it.
Writes: EXP_DIR/account/TOKENIZER/TRANSFORM/ with account.json (positions, codes and bits a second of speech, of a fixed-length code, an
arithmetic coder and a small language model; seconds in 2,048 codes; speed) and, for what is not lossless, utterances.parquet and
summary.json with the metrics of every utterance decoded again. `audiotok report RECIPE` draws the fronts of all that are there.
Told by: transform (transform=decimate2,average2,[merge2,bpe1024] goes through several) and its keys, tokenizer, metrics, select, everything
under account, seed, device; data and prepare as for tokenize.
"""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress

from audiotok import distributed, files
from audiotok.data.manifests import load_cuts
from audiotok.data.resynthesis import decode_utterance
from audiotok.data.selection import select_utterances
from audiotok.evaluation import account, results, scoring, sources
from audiotok.evaluation.metric import Utterance as Heard
from audiotok.reductions.picture import draw
from audiotok.reductions.reduced import Downsampled, Reduced
from audiotok.stages import paths
from audiotok.stages.reduce import learnt
from audiotok.store import TokenStore, Utterance
from audiotok.tokenizers.base import Decoder
from audiotok.transforms.base import Transform

SECTIONS: tuple[str, ...] = ("data", "prepare", "tokenizer", "transform", "metrics", "select", "account")
ACCOUNT, PICTURE = "account.json", "matrix.png"


def run(cfg: DictConfig) -> None:
    console = Console()
    tokenizer = instantiate(cfg.tokenizer)
    tokens = paths.tokens(cfg, tokenizer.spec.fingerprint)
    made_from = files.fingerprint_of(tokens, made_by=f"tokenize {cfg.recipe} tokenizer={cfg.choices.tokenizer}")
    transform = learnt(cfg, tokens, made_from, console)
    folder = paths.account(cfg) / cfg.choices.tokenizer / cfg.choices.transform
    chosen = list(_chosen(TokenStore(tokens / "test"), cfg))

    def work(partial: Path) -> None:
        found = _numbers(cfg, transform, tokens, chosen)
        heard = not transform.lossless or cfg.choices.transform in cfg.account.baseline
        if heard and isinstance(tokenizer, Decoder):
            files.write_json(partial / results.SUMMARY, _heard(cfg, transform, tokenizer, chosen, partial))
        if isinstance(transform, Downsampled | Reduced):
            draw(transform.plan(chosen[0].codes_KN), partial / PICTURE)
        files.write_json(partial / ACCOUNT, found | {"lossless": transform.lossless, "transform": repr(transform)})

    settings = paths.settings(cfg, "select", "metrics", "seed") | {"tokens": made_from, "transform": repr(transform)}
    settings["account"] = {key: value for key, value in paths.settings(cfg, "account")["account"].items() if key != "families"}
    made = files.build(folder, settings, work, overwrite=cfg.overwrite, resumable="**/*.parquet")
    console.print(f"{folder} is {'there already' if made == 'present' else 'written'}: {_told(folder)}", soft_wrap=True, highlight=False)


def _chosen(store: TokenStore, cfg: DictConfig) -> list[Utterance]:
    ids = [row.id for row in select_utterances(store.descriptions(), **cfg.select)]
    return [store[id] for id in ids]


def _numbers(cfg: DictConfig, transform: Transform, tokens: Path, test: list[Utterance]) -> dict[str, Any]:
    train = TokenStore(tokens / "train")
    seen = [train[id] for id in train.ids[: cfg.account.train_utterances]]
    told = instantiate(cfg.account.foretelling)
    return account.account(
        [_coded(one, train) for one in seen], [_coded(one, train) for one in test], transform, train.spec, by=told, seed=cfg.seed,
        device=distributed.device(cfg.device),
    )  # fmt: skip


def _coded(one: Utterance, store: TokenStore) -> account.Coded:
    return account.Coded(one.id, one.codes_KN, one.num_samples / store.spec.sample_rate)


def _heard(cfg: DictConfig, transform: Transform, decoder: Decoder, chosen: list[Utterance], folder: Path) -> dict[str, Any]:
    """The summary of all metrics between the recordings and what is decoded of the codes that came back."""
    metrics = instantiate(cfg.metrics, _convert_="all")
    recordings, device = sources.Recordings(load_cuts(paths.manifests(cfg), "test")), distributed.device(cfg.device)
    by_id = {one.id: one for one in chosen}

    def load(id: str) -> scoring.Pair:
        reference = recordings.load(id)
        estimate = _again(by_id[id], transform, decoder, reference, device=device)
        return sources.pair(reference, estimate)

    with Progress(transient=True) as progress:
        task = progress.add_task(f"{cfg.choices.tokenizer}, {cfg.choices.transform}", total=len(chosen))
        rows = scoring.score_all(list(by_id), load, metrics, folder=folder, progress=functools.partial(progress.advance, task))
    return results.summarise(rows, metrics, resamplings=cfg.evaluate.bootstrap, seed=cfg.seed)


def _again(one: Utterance, transform: Transform, decoder: Decoder, reference: Heard, *, device: torch.device) -> Heard:
    """The utterance as its transformed codes sound, as long as it was."""
    back_KN = transform.invert(transform.apply(one.codes_KN, decoder.spec), decoder.spec)[:, : one.num_frames]
    wav_T = decode_utterance(replace(one, codes_KN=back_KN), decoder, device=device)
    return Heard(one.id, wav_T, decoder.spec.sample_rate, reference.text, reference.language, reference.speaker)


def _told(folder: Path) -> str:
    found = files.read_json(folder / ACCOUNT)
    return f"{found['codes']:.1f} codes/s, {found['fixed_bits']:.0f} bit/s, language model {found['lm_bits']:.0f} bit/s"
