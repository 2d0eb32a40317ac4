"""Token store -> audio.

Reads: EXP_ROOT/tokens/NAME-FP/TOKENIZER-FP/test (what tokenize writes); for a classical codec, which has no tokens, the recordings of the
test split in EXP_ROOT/data/NAME-FP/ (what prepare writes).
Writes: EXP_DIR/audio/SYSTEM/ with a FLAC of each chosen utterance, as long as its recording, utterances.jsonl, system.json (bits per
second) and costs.json (parameters, and the real-time factors of encoding and decoding with the machine they were measured on): what the
tokenizer or codec alone does to speech, for evaluate to score. The chosen utterances are those that synthesize speaks.
Told by: tokenizer (one that can decode, or opus_6k, codec2_3200, codec2_1200), decode.system (a name for it, where one tokenizer stands
for several systems), decode.threads and decode.timed_seconds (how it is timed; audio that is there is not timed again, unless
overwrite=true), select.max_utterances, select.min_words, device; data and prepare as for prepare.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.progress import Progress

from audiotok import distributed, files
from audiotok.data import costs
from audiotok.data.manifests import load_cuts
from audiotok.data.resynthesis import Recording, resynthesise, transmit
from audiotok.data.selection import select_utterances
from audiotok.data.tokenization import read_cut
from audiotok.stages import paths
from audiotok.store import TokenStore
from audiotok.tokenizers.base import Decoder, WaveformCodec

SECTIONS: tuple[str, ...] = ("data", "prepare", "tokenizer", "select", "decode")

Work = Callable[[Path], None]


def run(cfg: DictConfig) -> None:
    name = cfg.choices.tokenizer
    system = instantiate(cfg.tokenizer)
    if isinstance(system, WaveformCodec):
        settings, work = _from_recordings(cfg, system)
    elif isinstance(system, Decoder):
        settings, work = _from_tokens(cfg, system)
    else:
        raise ValueError(f"tokenizer={name} has no way back to sound; choose one that has, such as tokenizer=dmel")
    folder = paths.audio(cfg) / (cfg.decode.system or name)
    settings |= paths.settings(cfg, "tokenizer", "select")
    made = files.build(folder, settings, work, overwrite=cfg.overwrite, resumable="*.flac")
    print(f"{folder} is there already" if made == "present" else f"{folder} is written")


def _from_tokens(cfg: DictConfig, decoder: Decoder) -> tuple[dict, Work]:
    """What the sound depends on, and the work that fills its folder."""
    tokens = paths.tokens(cfg, decoder.spec.fingerprint)
    made_by = f"tokenize {cfg.recipe} tokenizer={cfg.choices.tokenizer}"

    def work(partial: Path) -> None:
        store = TokenStore(tokens / "test")
        chosen = [row.id for row in select_utterances(store.descriptions(), **cfg.select)]
        device = distributed.device(cfg.device)
        _write_costs(cfg, decoder, chosen, decoder.spec.sample_rate, partial)
        with Progress() as progress:
            task = progress.add_task(f"decoding {cfg.choices.tokenizer}", total=len(chosen))
            resynthesise(
                map(store.__getitem__, chosen), decoder, partial, device=device, progress=lambda more: progress.advance(task, more)
            )

    return {"tokens": files.fingerprint_of(tokens, made_by=made_by)}, work


def _from_recordings(cfg: DictConfig, codec: WaveformCodec) -> tuple[dict, Work]:
    """What the sound depends on, and the work that fills its folder."""

    def work(partial: Path) -> None:
        recordings = [Recording.of(cut) for cut in load_cuts(paths.manifests(cfg), "test")]
        chosen = select_utterances(recordings, **cfg.select)
        _write_costs(cfg, codec, [recording.id for recording in chosen], codec.sample_rate, partial)
        with Progress() as progress:
            task = progress.add_task(f"coding with {cfg.choices.tokenizer}", total=len(chosen))
            transmit(chosen, codec, partial, progress=lambda more: progress.advance(task, more))

    return {"manifests": paths.manifests_fingerprint(cfg)}, work


def _write_costs(cfg: DictConfig, system: object, ids: Iterable[str], sample_rate: int, folder: Path) -> None:
    """Time the system on the first of the utterances, `decode.timed_seconds` of them, unless an interrupted run has."""
    if (folder / costs.COSTS).exists():
        return
    cuts, wavs, left = load_cuts(paths.manifests(cfg), "test"), [], cfg.decode.timed_seconds
    for id in ids:
        if left <= 0:
            break
        wavs.append(read_cut(cuts[id], sample_rate))
        left -= len(wavs[-1]) / sample_rate
    device, threads = distributed.device(cfg.device), cfg.decode.threads
    files.write_json(folder / costs.COSTS, costs.measure(system, wavs, sample_rate=sample_rate, device=device, threads=threads))
