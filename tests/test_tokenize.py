"""Manifests to token store to sound, over real speech with dMel; bad recordings, interruptions, and what a second run does."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment
from omegaconf import DictConfig, OmegaConf
from tiny import tiny_speech_folder
from torch import Tensor

from audiotok import audio, files
from audiotok.data.manifests import load_cuts
from audiotok.data.resynthesis import decode_utterance, resynthesise
from audiotok.data.selection import select_utterances
from audiotok.data.tokenization import batches_by_length, encoder, read_cut, tokenize_cuts
from audiotok.data.workers import Workers
from audiotok.stages import decode, paths, prepare, tokenize
from audiotok.store import TokenStore
from audiotok.types import TokenSpec

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
CPU = torch.device("cpu")


class Loudness:
    """Mean magnitude of every 160 samples in 200 steps: a tokenizer small enough to see through."""

    def __init__(self, mark: str = "loudness") -> None:
        self.spec = TokenSpec(sample_rate=16_000, frame_rate=Fraction(100), codebook_sizes=(200, 2), fingerprint=mark)
        self.batches: list[list[int]] = []

    def encode(self, wav_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        self.batches.append(lengths_B.tolist())
        frames_BNT = torch.nn.functional.pad(wav_BT, (0, -wav_BT.shape[1] % 160)).unflatten(1, (-1, 160))
        level_BN = (frames_BNT.abs().mean(-1) * 199).long()
        return torch.stack([level_BN, level_BN % 2], 1), (lengths_B + 159) // 160


class Fussy(Loudness):
    """Refuses a batch that holds an utterance of one of these lengths."""

    def __init__(self, refused: Sequence[int], error: type[Exception]) -> None:
        super().__init__()
        self.refused, self.error = refused, error

    def encode(self, wav_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        if set(self.refused) & set(lengths_B.tolist()):
            raise self.error("this one I do not like")
        return super().encode(wav_BT, lengths_B)


def cut_of(path: Path, id: str, *, start: float = 0.0, seconds: float | None = None) -> MonoCut:
    wav_T, rate = audio.read(path)
    source = AudioSource(type="file", channels=[0], source=str(path))
    recording = Recording(id=id, sources=[source], sampling_rate=rate, num_samples=len(wav_T), duration=len(wav_T) / rate)
    duration = recording.duration - start if seconds is None else seconds
    segment = SupervisionSegment(id=id, recording_id=id, start=0.0, duration=duration, text=f"say {id}", speaker="s", language="en")
    return MonoCut(id=id, start=start, duration=duration, channel=0, supervisions=[segment], recording=recording)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, speech: Path) -> Path:
    return tiny_speech_folder(tmp_path_factory.mktemp("corpus") / "tiny", speech, utterances=11)


@pytest.fixture(scope="session")
def cuts(corpus: Path) -> list[MonoCut]:
    """Eleven utterances of real speech, ids out of the order of their lengths."""
    return [cut_of(path, path.stem) for path in sorted(corpus.glob("*.flac"))]


def run(
    cuts: Iterable[MonoCut], folder: Path, *, tokenizer: Loudness | None = None, shard: int = 4, seconds: float = 8.0
) -> dict[str, str]:
    return tokenize_cuts(cuts, tokenizer or Loudness(), folder, batch_seconds=seconds, shard_utterances=shard, device=CPU)


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): files.file_digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_cut_is_stored_in_the_order_of_the_corpus_with_what_it_says(cuts: list[MonoCut], tmp_path: Path) -> None:
    assert run(cuts, tmp_path) == {}
    store = TokenStore(tmp_path)
    assert [shard.num_rows for shard in store.shards] == [4, 4, 3]
    assert store.ids == [cut.id for cut in cuts]
    for cut in cuts:
        row, wav_T = store[cut.id], audio.read(cut.recording.sources[0].source)[0]
        assert (row.text, row.speaker, row.language, row.duration) == (f"say {cut.id}", "s", "en", cut.duration)
        assert row.num_samples == len(wav_T)
        expected_1KN, _ = Loudness().encode(wav_T[None], torch.tensor([len(wav_T)]))
        assert torch.equal(row.codes_KN, expected_1KN[0])


def test_batches_hold_neighbours_in_length_and_no_more_padded_audio_than_asked(cuts: list[MonoCut]) -> None:
    batches = list(batches_by_length(cuts, 8.0))
    assert sorted(cut.id for batch in batches for cut in batch) == sorted(cut.id for cut in cuts)
    durations = [cut.duration for batch in batches for cut in batch]
    assert durations == sorted(durations)
    assert max(len(batch) for batch in batches) > 1
    assert all(len(batch) == 1 or len(batch) * max(cut.duration for cut in batch) <= 8.0 for batch in batches)
    assert [len(batch) for batch in batches_by_length(cuts, 0.01)] == [1] * len(cuts)


def test_the_codes_do_not_depend_on_the_size_of_batches(cuts: list[MonoCut], tmp_path: Path) -> None:
    run(cuts, tmp_path / "small", seconds=1.0)
    run(cuts, tmp_path / "large", seconds=100.0)
    assert digests(tmp_path / "small") == digests(tmp_path / "large")


def test_audio_is_resampled_to_the_rate_of_the_tokenizer(wav_16k: Tensor, tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", audio.resample(wav_16k, 16_000, 22_050), 22_050)
    run([cut_of(tmp_path / "a.wav", "a")], tmp_path / "store")
    row = TokenStore(tmp_path / "store")["a"]
    assert abs(row.num_samples - len(wav_16k)) <= 1
    expected_1KN, _ = Loudness().encode(wav_16k[None], torch.tensor([len(wav_16k)]))
    assert (row.codes_KN[0, :-1] - expected_1KN[0, 0, : row.num_frames - 1]).abs().max() <= 1


def test_a_cut_of_a_part_of_a_recording_is_that_part(wav_16k: Tensor, tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", wav_16k, 16_000)
    whole_T = audio.read(tmp_path / "a.wav")[0]
    part = cut_of(tmp_path / "a.wav", "part", start=0.5, seconds=1.25)
    assert torch.equal(read_cut(part, 16_000), whole_T[8000:28_000])
    with pytest.raises(ValueError, match=r"the cut late wants 1\.000 to 61\.000 s; prepare it again"):
        read_cut(cut_of(tmp_path / "a.wav", "late", start=1.0, seconds=60.0), 16_000)


def test_an_utterance_that_cannot_be_read_is_left_out_with_its_reason_and_the_others_stay(cuts: list[MonoCut], tmp_path: Path) -> None:
    broken = tmp_path / "broken.flac"
    shutil.copy(cuts[0].recording.sources[0].source, broken)
    bad, gone = cut_of(broken, "bad"), cut_of(broken, "gone")
    broken.write_bytes(broken.read_bytes()[:5000])
    gone.recording.sources[0].source = str(tmp_path / "nowhere.flac")
    failed = run([cuts[0], bad, cuts[1], gone, cuts[2]], tmp_path / "store")
    assert list(failed) == ["bad", "gone"]
    assert failed["bad"].startswith("cannot be read: ") and str(tmp_path) not in failed["bad"]
    assert failed["gone"] == "cannot be read: no such file"
    store = TokenStore(tmp_path / "store")
    assert store.ids == [cut.id for cut in cuts[:3]] and store.failed == failed


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_an_utterance_that_the_tokenizer_refuses_does_not_take_its_batch_along(
    cuts: list[MonoCut], tmp_path: Path, error: type[Exception]
) -> None:
    tokenizer = Fussy([cuts[1].num_samples], error)
    assert run(cuts[:4], tmp_path, tokenizer=tokenizer, seconds=100.0) == {cuts[1].id: "cannot be encoded: this one I do not like"}
    assert TokenStore(tmp_path).ids == [cuts[0].id, cuts[2].id, cuts[3].id]


def test_running_out_of_memory_on_one_utterance_is_no_fault_of_the_utterance(cuts: list[MonoCut], tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        run(cuts[:4], tmp_path, tokenizer=Fussy([cuts[1].num_samples], torch.OutOfMemoryError))


def test_a_programming_error_in_a_tokenizer_is_not_swallowed(cuts: list[MonoCut], tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        run(cuts[:4], tmp_path, tokenizer=Fussy([cuts[1].num_samples], TypeError))


def test_a_shard_that_fails_as_a_whole_stops_the_run_and_is_not_written(cuts: list[MonoCut], tmp_path: Path) -> None:
    tokenizer = Fussy([cut.num_samples for cut in cuts[4:8]], ValueError)
    with pytest.raises(ValueError, match=f"all 4 utterances of a shard failed; the first: {cuts[4].id}: cannot be encoded"):
        run(cuts, tmp_path, tokenizer=tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["shard-00000.parquet"]


def test_a_run_goes_on_behind_the_shards_that_are_there_and_ends_with_the_same_bytes(cuts: list[MonoCut], tmp_path: Path) -> None:
    run(cuts, tmp_path / "undisturbed")
    with pytest.raises(TypeError):
        run(cuts, tmp_path / "resumed", tokenizer=Fussy([cuts[8].num_samples], TypeError))
    assert len(list((tmp_path / "resumed").iterdir())) == 2
    tokenizer, done = Loudness(), []
    tokenize_cuts(cuts, tokenizer, tmp_path / "resumed", batch_seconds=8.0, shard_utterances=4, device=CPU, progress=done.append)
    assert sum(map(len, tokenizer.batches)) == 3 and sum(done) == len(cuts)
    assert digests(tmp_path / "resumed") == digests(tmp_path / "undisturbed")


def test_cuts_are_taken_as_they_are_needed_so_that_memory_does_not_grow_with_the_corpus(cuts: list[MonoCut], tmp_path: Path) -> None:
    written_before = []

    def stream() -> Iterator[MonoCut]:
        for repeat in range(3):
            for cut in cuts:
                written_before.append(len(list(tmp_path.glob("shard-*"))))
                yield cut.with_id(f"{cut.id}-{repeat}")

    run(stream(), tmp_path, shard=4)
    assert all(written >= number // 4 - 1 for number, written in enumerate(written_before))


def test_shards_of_other_utterances_or_another_tokenizer_are_not_built_upon(cuts: list[MonoCut], tmp_path: Path) -> None:
    run(cuts, tmp_path)
    with pytest.raises(ValueError, match=r"shard-00000\.parquet holds other utterances than the corpus has now"):
        run(cuts[1:], tmp_path)
    with pytest.raises(ValueError, match=r"holds more shards than the corpus fills \(\[1, 2\]\)"):
        run(cuts[:4], tmp_path)
    with pytest.raises(ValueError, match=r"another tokenizer.*'loudness'.*'other'"):
        run(cuts, tmp_path, tokenizer=Loudness("other"))


class Deadly(Loudness):
    """Ends its process at an utterance of a length that is in a file, which it takes away."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def encode(self, wav_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        if self.file.exists() and int(self.file.read_text()) in lengths_B.tolist():
            self.file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(wav_BT, lengths_B)


def with_workers(cuts: Iterable[MonoCut], folder: Path, make: Callable[[], Loudness]) -> dict[str, str]:
    with Workers(partial(encoder, make, CPU), num=2, after=0.0) as workers:
        while not workers.ready():
            time.sleep(0.01)
        return tokenize_cuts(cuts, Loudness(), folder, batch_seconds=4.0, shard_utterances=4, device=CPU, workers=workers)


def test_no_byte_depends_on_the_number_of_processes_not_even_after_one_was_killed(cuts: list[MonoCut], tmp_path: Path) -> None:
    gone = cuts[5].with_id("gone")
    gone.recording.sources[0].source = str(tmp_path / "nowhere.flac")
    cuts = [*cuts[:5], gone, *cuts[6:]]
    assert run(cuts, tmp_path / "one") == {"gone": "cannot be read: no such file"}
    death = tmp_path / "death"
    death.write_text(str(cuts[9].num_samples))
    with pytest.raises(ValueError, match=r"was killed by SIGKILL; what is written stays"):
        with_workers(cuts, tmp_path / "two", partial(Deadly, death))
    assert not death.exists() and 1 <= len(list((tmp_path / "two").glob("shard-*"))) <= 2
    assert with_workers(cuts, tmp_path / "two", partial(Deadly, death)) == {"gone": "cannot be read: no such file"}
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


class Threads(Loudness):
    """Codes that tell the number of threads."""

    def encode(self, wav_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        codes_BKN, frames_B = super().encode(wav_BT, lengths_B)
        return torch.full_like(codes_BKN, torch.get_num_threads() % 2), frames_B


def test_a_cpu_encodes_on_one_thread_whatever_the_process_was_set_to(cuts: list[MonoCut], tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run(cuts[:2], tmp_path, tokenizer=Threads())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert all((row.codes_KN == 1).all() for row in TokenStore(tmp_path))


def test_an_id_that_comes_twice_is_refused(cuts: list[MonoCut], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="in this split already"):
        run([*cuts[:5], cuts[0]], tmp_path)


def test_the_chosen_utterances_do_not_depend_on_order_and_hardly_on_company() -> None:
    class Row:
        def __init__(self, id: str, text: str | None, language: str | None) -> None:
            self.id, self.text, self.language = id, text, language

    rows = [Row(f"r{number:03d}", " ".join(["word"] * (number % 7)), "en") for number in range(100)] + [Row("none", None, None)]
    wanted: dict[str, Any] = {"min_words": 3, "max_utterances": 20, "languages": None}
    chosen = [row.id for row in select_utterances(rows, **wanted)]
    assert len(chosen) == 20 and chosen == sorted(chosen) and all(int(id[1:]) % 7 >= 3 for id in chosen)
    assert [row.id for row in select_utterances(rows[::-1], **wanted)] == chosen
    fewer = [row for row in rows if row.id != chosen[4]]
    assert len({row.id for row in select_utterances(fewer, **wanted)} & set(chosen)) == 19
    assert len(select_utterances(rows, **wanted | {"min_words": 0, "max_utterances": 1000})) == 101
    assert len(select_utterances(rows, **wanted | {"min_words": 0, "max_utterances": 1000, "languages": ["en", "es"]})) == 100
    with pytest.raises(ValueError, match="of 0 in the languages wanted"):
        select_utterances(rows, **wanted | {"languages": ["es"]})
    with pytest.raises(ValueError, match="0 have 9 words or more"):
        select_utterances(rows, **wanted | {"min_words": 9})


def recipe(root: Path, corpus: Path, **changes: object) -> DictConfig:
    """What the command line makes of a recipe on that corpus with dMel."""
    cfg = OmegaConf.load(CONFIGS / "config.yaml")
    del cfg["defaults"]
    chosen = {"data": "speech", "tokenizer": "dmel", "engine": "processes"}
    groups = {group: OmegaConf.load(CONFIGS / group / f"{name}.yaml") for group, name in chosen.items()}
    given = {
        "recipe": "tiny",
        "exp_root": str(root),
        "data": {"root": str(corpus)},
        "choices": {"tokenizer": "dmel"},
        "prepare": {"workers": 1},
    }
    cfg = OmegaConf.merge(cfg, groups, given)
    cfg.tokenizer.vocoder.iterations = 2
    cfg.tokenize.shard_utterances = 3
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value)
    return cfg


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Callable[..., DictConfig]:
    root = tmp_path_factory.mktemp("exp")
    prepare.run(recipe(root, corpus))

    def configured(folder: Path, **changes: object) -> DictConfig:
        shutil.copytree(root, folder, dirs_exist_ok=True)
        return recipe(folder, corpus, **changes)

    return configured


def test_the_stages_bring_real_speech_to_codes_and_back(
    prepared: Callable[..., DictConfig], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    cfg = prepared(tmp_path)
    tokenize.run(cfg)
    dmel = instantiate(cfg.tokenizer)
    folder = paths.tokens(cfg, dmel.spec.fingerprint)
    assert sorted(path.name for path in folder.iterdir()) == ["audiotok.sha256", "dev", "failed.jsonl", "stage.json", "test", "train"]
    cuts = load_cuts(paths.manifests(cfg), "train")
    train, test = TokenStore(folder / "train"), TokenStore(folder / "test")
    assert train.spec == dmel.spec and train.ids == [cut.id for cut in cuts] and len(test) == 2
    assert all(row.num_frames == dmel.spec.num_frames(row.num_samples) for row in train)

    decode.run(cfg)
    made = paths.audio(cfg) / "dmel"
    rows = list(files.read_jsonl(made / "utterances.jsonl"))
    assert [row["id"] for row in rows] == sorted(test.ids)
    for row in rows:
        wav_T, rate = audio.read(made / row["path"])
        stored = test[row["id"]]
        assert rate == 16_000 and len(wav_T) == stored.num_samples
        assert (row["text"], row["speaker"], row["language"]) == (stored.text, stored.speaker, stored.language)
        quantised_T = (decode_utterance(stored, dmel, device=CPU) * 32768).round().clamp(-32768, 32767) / 32768
        assert torch.equal(wav_T, quantised_T)

    before = digests(tmp_path)
    capsys.readouterr()
    tokenize.run(cfg)
    decode.run(cfg)
    assert capsys.readouterr().out.count("is there already") == 2
    assert digests(tmp_path) == before


def test_the_batch_size_may_change_without_tokenizing_again_and_the_shard_size_may_not(
    prepared: Callable[..., DictConfig], tmp_path: Path
) -> None:
    tokenize.run(prepared(tmp_path))
    tokenize.run(prepared(tmp_path, tokenize__batch_seconds=7))
    with pytest.raises(ValueError, match=r"shard_utterances: 3 there, 2 now.*overwrite=true"):
        tokenize.run(prepared(tmp_path, tokenize__shard_utterances=2))


def test_the_stage_takes_the_processes_it_is_told_and_finds_the_same(prepared: Callable[..., DictConfig], tmp_path: Path) -> None:
    one, two = prepared(tmp_path / "one", tokenize__workers=1), prepared(tmp_path / "two", tokenize__workers=2)
    tokenize.run(one)
    tokenize.run(two)
    stored = digests(tmp_path / "one" / "tokens")
    assert stored == digests(tmp_path / "two" / "tokens") and len(stored) > 4
    with pytest.raises(ValueError, match=r"tokenize\.workers=0: auto, or a number of workers"):
        tokenize.run(prepared(tmp_path / "none", tokenize__workers=0))


def test_a_stage_says_which_stage_it_waits_for(prepared: Callable[..., DictConfig], corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run `audiotok prepare tiny`"):
        tokenize.run(recipe(tmp_path, corpus))
    with pytest.raises(ValueError, match="run `audiotok tokenize tiny tokenizer=dmel`"):
        decode.run(prepared(tmp_path))


def test_what_could_not_be_tokenised_is_counted_and_listed(
    prepared: Callable[..., DictConfig], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = prepared(tmp_path)
    lost = load_cuts(paths.manifests(cfg), "train")[1]
    read = audio.read

    def damaged(path: str | Path) -> tuple[Tensor, int]:
        if str(path) == lost.recording.sources[0].source:
            raise ValueError(f"{path}: the disk ate it")
        return read(path)

    monkeypatch.setattr(audio, "read", damaged)
    tokenize.run(cfg)
    assert "could not be tokenised: 1" in capsys.readouterr().out
    [listed] = paths.tokens(cfg, instantiate(cfg.tokenizer).spec.fingerprint).glob("failed.jsonl")
    assert list(files.read_jsonl(listed)) == [{"id": lost.id, "split": "train", "reason": "cannot be read: the disk ate it"}]


def test_a_decode_that_goes_on_keeps_what_is_there(prepared: Callable[..., DictConfig], tmp_path: Path) -> None:
    cfg = prepared(tmp_path)
    tokenize.run(cfg)
    dmel = instantiate(cfg.tokenizer)
    store, folder = TokenStore(paths.tokens(cfg, dmel.spec.fingerprint) / "test"), tmp_path / "wavs"
    resynthesise(store, dmel, folder, device=CPU)
    whole = digests(folder)
    kept, lost = sorted(folder.glob("*.flac"))
    lost.unlink()
    (folder / "utterances.jsonl").unlink()
    moment = kept.stat().st_mtime_ns
    resynthesise(store, dmel, folder, device=CPU)
    assert kept.stat().st_mtime_ns == moment and digests(folder) == whole


def test_a_tokenizer_without_a_way_back_says_so(prepared: Callable[..., DictConfig], tmp_path: Path) -> None:
    cfg = prepared(tmp_path)
    cfg.tokenizer = {"_target_": "test_tokenize.Loudness"}
    cfg.choices.tokenizer = "loudness"
    with pytest.raises(ValueError, match="tokenizer=loudness has no way back to sound"):
        decode.run(cfg)
