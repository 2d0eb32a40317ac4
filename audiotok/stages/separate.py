"""Checkpoint, recordings of several people at once -> each of them alone.

Reads: EXP_DIR/train/step_*/ of a separator (enhance.checkpoint=FOLDER for another), and the recordings in enhance.input, a folder, of any
rate and length; where none is given, those that mix made of several people at once.
Writes: enhance.out, a folder: NAME_1.flac, NAME_2.flac ... of each recording (.wav of .wav), mono, at its own rate and as long as it was,
and enhanced.json: how they were made. Whose voice comes first is nobody's to know. Of the fixed mixtures the voices are named as the
references that they fit best, by the sum of their scale-invariant ratios (scores are permutation-invariant), and their list is beside them,
so that evaluate finds a system. What is there already is kept, and refused where it was made otherwise; overwrite=true makes it anew. A
recording that cannot be read stops no other; its reason is said at the end.
Told by: enhancer and its keys (as it was trained), tokenizer, enhance.input, enhance.out, enhance.checkpoint, enhance.seconds,
enhance.overlap_seconds, device, overwrite.
"""

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from audiotok import audio, distributed, files
from audiotok.data.manifests import file_name, load_cuts
from audiotok.data.resynthesis import SYSTEM, UTTERANCES
from audiotok.data.tokenization import read_cut
from audiotok.models.enhancement.permutations import best_order
from audiotok.models.enhancement.separation import TokenSeparator
from audiotok.stages import enhance, paths
from audiotok.synthesis.enhanced_files import plan
from audiotok.synthesis.separating import Separator, separate_file

SECTIONS: tuple[str, ...] = ("tokenizer", "enhancer", "enhance")


def run(cfg: DictConfig) -> None:
    if cfg.enhance.left_in:
        raise ValueError(
            f"enhance.left_in={cfg.enhance.left_in} is for `audiotok enhance`; what is left of two voices would be both: set it to 0"
        )
    source, out = enhance.folders(cfg)
    separator = enhance.loaded(cfg)
    if not isinstance(separator, Separator):
        raise ValueError(f"enhancer={cfg.choices.enhancer} makes one voice; choose one that tells several apart, such as conformer_two")
    rows = [] if cfg.enhance.input else list(files.read_jsonl(source / UTTERANCES))
    failed = _separate(cfg, separator, source, out, _references(rows))
    if failed:
        raise ValueError(f"{len(failed)} recordings were not separated: {'; '.join(failed)}")
    if rows:
        _list(separator, rows, out)
    Console().print(f"{out} is written", soft_wrap=True)


def _references(rows: list[dict]) -> dict[str, list[str]]:
    """The ids of the voices in each of the fixed mixtures, by the name of its file. Raises ValueError for mixes of another kind."""
    voices = defaultdict[str, list[str]](list)
    for row in rows:
        voices[row["path"]].append(row["id"])
    if alone := [path for path, ids in voices.items() if len(ids) < 2]:
        raise ValueError(f"{alone[0]} of mix is of one person; choose a recipe whose mixes are of several, such as speech/separate")
    return voices


def _separate(cfg: DictConfig, separator: Separator, source: Path, out: Path, references: Mapping[str, list[str]]) -> list[str]:
    """Why some could not be separated."""
    cuts = {cut.id: cut for cut in load_cuts(paths.mixes(cfg), "test")} if references else {}
    device, failed = distributed.device(cfg.device), []
    work = partial(separate_file, separator, seconds=cfg.enhance.seconds, overlap_seconds=cfg.enhance.overlap_seconds, device=device)
    told = [(path, target, references.get(path.name, [])) for path, target in plan(source, out)]
    enhance.begin(cfg, [_named(target, ids, 0) for _, target, ids in told], sections=("tokenizer", "enhancer"))
    for path, target, ids in track(told, description="separating", transient=True):
        if _named(target, ids, 0).exists():
            continue
        try:
            made_ST, rate = work(path)
        except ValueError as error:
            failed.append(str(error))
            continue
        if ids:
            made_ST = made_ST[best_order(made_ST, torch.stack([read_cut(cuts[id], rate) for id in ids]))]
        for number in reversed(range(len(made_ST))):  # the first is there when all are
            audio.write(_named(target, ids, number), made_ST[number], rate)
    return failed


def _named(target: Path, ids: list[str], number: int) -> Path:
    """The file of a voice."""
    return target.with_name(f"{file_name(ids[number]) if ids else f'{target.stem}_{number + 1}'}{target.suffix}")


def _list(separator: Separator, rows: list[dict], out: Path) -> None:
    """What evaluate reads of a system."""
    if isinstance(separator, TokenSeparator):
        spec = separator.codec.spec  # of each voice
        files.write_json(out / SYSTEM, {"sample_rate": spec.sample_rate, "bits_per_second": spec.bits_per_second})
    files.write_jsonl(out / UTTERANCES, [row | {"path": f"{file_name(row['id'])}.flac"} for row in rows])
