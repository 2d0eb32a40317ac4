"""Speech and noise that nobody has trained on -> fixed mixes, and the systems between which enhancers lie.

Reads: EXP_ROOT/data/NAME-FP/ (what prepare writes): the test split's speech of people who do not speak in the training split, and the
noise and the responses of rooms of every split but the training split; where mix.pairs tells noisy recordings from their clean ones, these
as they are.
Writes: EXP_ROOT/mixes/NAME-FP/ with clean/ID.flac, noisy/ID.flac, noisy/utterances.jsonl (ratio, noise and room of each) and
cuts_test.jsonl.gz, the test set where evaluate.mixes=true; EXP_DIR/audio/unprocessed/, the noisy recordings as a system that does nothing;
EXP_DIR/audio/ceiling/ (or enhance.ceiling), the clean ones through the tokenizer and back: what is left where nothing but the codec is at
fault, with its bits per second in system.json; and EXP_DIR/audio/floor/ (or enhance.floor), the noisy ones likewise: what an enhancer over
its codes makes of them that changes nothing.
Where mix.together says how many speak at once and how loud, no noise: each of them a voice of a mixture, as audiotok/data/together.py says.
What another program made of noisy/ is scored as a system where it lies in EXP_DIR/audio/NAME/ under the same file names beside a copy of
noisy/utterances.jsonl.
Told by: everything under mix, tokenizer, noise.datasets, noise.left_out, enhance.ceiling, enhance.floor, seed, device; data and prepare as
for prepare.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lhotse import MonoCut
from omegaconf import DictConfig
from rich.progress import track
from torch import Tensor

from audiotok import audio, distributed, files
from audiotok.data.manifests import dataset_of, file_name, load_cuts
from audiotok.data.mixes import Mix, Mixer, mix_of, spread, unheard, write_mixes
from audiotok.data.pairs import paired
from audiotok.data.resynthesis import SYSTEM, UTTERANCES
from audiotok.data.rooms import Rooms, Shoeboxes
from audiotok.data.splits import SPLITS
from audiotok.data.together import Together, mixtures, write_mixtures
from audiotok.data.tokenization import read_cut
from audiotok.stages import paths
from audiotok.tokenizers.base import Decoder

SECTIONS: tuple[str, ...] = ("data", "prepare", "tokenizer", "noise", "mix", "enhance")


def run(cfg: DictConfig) -> None:
    mixed = {"manifests": paths.manifests_fingerprint(cfg)} | paths.mix_settings(cfg)
    _build(cfg, paths.mixes(cfg), mixed, lambda folder: _write(cfg, folder))
    made = {"mixes": paths.mixes_fingerprint(cfg)}
    _build(cfg, paths.audio(cfg) / "unprocessed", made, lambda folder: _copy(paths.mixes(cfg) / "noisy", folder))
    made |= paths.settings(cfg, "tokenizer")
    for name, heard, settings in ((cfg.enhance.ceiling, _clean, made), (cfg.enhance.floor, _noisy, made | {"of": "noisy"})):
        _build(cfg, paths.audio(cfg) / name, settings, partial(_through, cfg, heard))


def _build(cfg: DictConfig, folder: Path, settings: dict, work: Callable[[Path], None]) -> None:
    made = files.build(folder, settings, work, overwrite=cfg.overwrite)
    print(f"{folder} is {'there already' if made == 'present' else 'written'}")


def _write(cfg: DictConfig, folder: Path) -> None:
    told = paths.settings(cfg, "mix")["mix"]
    cuts = {split: list(load_cuts(paths.manifests(cfg), split)) for split in SPLITS}
    tested, heard = ([cut for cut in cuts[split] if _is_speech(cfg, cut)] for split in ("test", "train"))
    if not tested:
        found = ", ".join(sorted({str(dataset_of(cut)) for cut in cuts["test"]})) or "nothing"
        raise ValueError(
            f"mix.datasets={cfg.mix.datasets}: no speech of these is in the test split, which has {found}; set it to one of them"
        )
    speech = unheard(tested, heard)
    if "together" not in told:  # only recipes of separation say it: the mixes of the others are kept under what they were made with
        write_mixes(folder, _mixes(cfg, told, speech, cuts), told["sample_rate"])
        return
    chosen, together = spread(speech, told["utterances"], **told["seconds"]), Together(**told["together"])
    write_mixtures(folder, mixtures(chosen, together, sample_rate=told["sample_rate"], seed=cfg.seed), told["sample_rate"])


def _mixes(cfg: DictConfig, told: dict[str, Any], speech: Sequence[MonoCut], cuts: Mapping[str, Sequence[MonoCut]]) -> Iterator[Mix]:
    """Each chosen utterance at each ratio, or each pair."""
    if told["pairs"]:
        pairs = {pair.clean.id: pair for pair in paired(speech, **told["pairs"])}
        chosen = spread((pair.clean for pair in pairs.values()), told["utterances"], **told["seconds"])
        yield from (mix_of(pairs[cut.id], told["sample_rate"]) for cut in track(chosen, description="copying", transient=True))
        return
    others = [cut for split in cuts if split != "train" for cut in cuts[split]]
    mixer = _mixer(cfg, told, speech, others)
    for cut in track(spread(speech, told["utterances"], **told["seconds"]), description="mixing", transient=True):
        for snr in told["snrs"]:
            yield mixer.mix(cut, snr)


def _mixer(cfg: DictConfig, told: dict[str, Any], speech: Sequence[MonoCut], others: Sequence[MonoCut]) -> Mixer:
    noises, responses = ([cut for cut in others if dataset_of(cut) in names] for names in (cfg.noise.datasets, told["responses"]))
    seed = int(files.fingerprint([cfg.seed, "mix"])[:8], 16)  # of other shoeboxes than those of training
    rooms = Rooms(told["rooms"], responses, Shoeboxes(**told["shoebox"]), sample_rate=told["sample_rate"], seed=seed, setting="mix.rooms")
    options = {key: told[key] for key in ("sample_rate", "kinds", "num_voices")}
    return Mixer(noises, speech, **options, rooms=rooms, seed=cfg.seed)


def _is_speech(cfg: DictConfig, cut: MonoCut) -> bool:
    wanted = cfg.mix.datasets
    return dataset_of(cut) in wanted if wanted else dataset_of(cut) not in (*cfg.noise.datasets, *cfg.noise.left_out)


def _copy(source: Path, folder: Path) -> None:
    for path in source.iterdir():
        shutil.copy(path, folder / path.name)


Heard = Callable[[DictConfig, int], Callable[[str], Tensor]]  # of a rate, wav_T by the id of a mix


def _clean(cfg: DictConfig, rate: int) -> Callable[[str], Tensor]:
    cuts = {cut.id: cut for cut in load_cuts(paths.mixes(cfg), "test")}
    return lambda id: read_cut(cuts[id], rate)


def _noisy(cfg: DictConfig, rate: int) -> Callable[[str], Tensor]:
    folder = paths.mixes(cfg) / "noisy"
    files_of = {row["id"]: folder / row["path"] for row in files.read_jsonl(folder / UTTERANCES)}
    return lambda id: audio.resample(*audio.read(files_of[id]), rate)


def _through(cfg: DictConfig, heard: Heard, folder: Path) -> None:
    """What the tokenizer makes of the clean recordings, or of the noisy ones."""
    codec = instantiate(cfg.tokenizer)
    if not isinstance(codec, Decoder):
        raise ValueError(f"tokenizer={cfg.choices.tokenizer} has no way back to sound; choose one that has, such as tokenizer=codec")
    device, rate = distributed.device(cfg.device), codec.spec.sample_rate
    read = heard(cfg, rate)
    rows = [row | {"path": f"{file_name(row['id'])}.flac"} for row in files.read_jsonl(paths.mixes(cfg) / "noisy" / UTTERANCES)]
    for row in track(rows, description="resynthesising", transient=True):
        audio.write(folder / row["path"], _there_and_back(codec, read(row["id"]).to(device)), rate)
    files.write_jsonl(folder / UTTERANCES, rows)
    files.write_json(folder / SYSTEM, {"sample_rate": rate, "bits_per_second": codec.spec.bits_per_second})


@torch.inference_mode()
def _there_and_back(codec: Any, wav_T: Tensor) -> Tensor:
    lengths_1 = torch.tensor([len(wav_T)], device=wav_T.device)
    wav_1T, _ = codec.decode(*codec.encode(wav_T[None], lengths_1))
    return wav_1T[0, : len(wav_T)].clamp(-1, 1).cpu()
