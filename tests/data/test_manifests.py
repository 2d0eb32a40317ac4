import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import MonoCut, Recording
from torch import Tensor
from zoo import RATE, bad_files, odd_files

from audiotok import audio
from audiotok.data.manifests import Utterance, count_cuts, file_name, load_cuts, stream_cuts, write_manifests
from audiotok.data.splits import hashed_split

LIMITS = {"max_rejected": 0.5, "max_seconds": 60, "workers": 1}


def utterances(paths: list[Path]) -> list[Utterance]:
    return [Utterance(path.name, path, text=f"text of {path.name}", speaker="s", language="en") for path in paths]


def zoo(folder: Path, wav_16k: Tensor) -> tuple[dict[Path, str], dict[Path, tuple[int, bool]]]:
    return bad_files(folder / "bad", wav_16k.numpy()), odd_files(folder / "odd", wav_16k.numpy())


def test_good_files_are_converted_or_used_and_bad_ones_quarantined_with_reasons(tmp_path: Path, wav_16k: Tensor) -> None:
    bad, odd = zoo(tmp_path, wav_16k)
    out = tmp_path / "manifests"
    rejected = write_manifests(out, {"train": utterances([*bad, *odd])}, **LIMITS)
    rows = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [row.id for row in rejected] == sorted(path.name for path in bad)
    reasons = {Path(row["path"]): row["reason"] for row in rows}
    for path, reason in bad.items():
        with pytest.raises(ValueError, match=reason):
            raise ValueError(reasons[path])
        assert str(path) not in reasons[path], "the path is beside the reason, not in it"
    cuts = load_cuts(out, "train")
    assert {cut.id for cut in cuts} == {path.name for path in odd}
    for path, (rate, in_place) in odd.items():
        cut = cuts[path.name]
        source = Path(cut.recording.sources[0].source)
        assert cut.sampling_rate == rate
        assert (source == path) == in_place, path.name
        assert in_place or (source.is_relative_to(out / "audio") and soundfile.info(source).format == "FLAC")


def test_lhotse_and_our_reader_load_every_kept_recording_alike(tmp_path: Path, wav_16k: Tensor) -> None:
    _, odd = zoo(tmp_path, wav_16k)
    out = tmp_path / "manifests"
    write_manifests(out, {"test": utterances(list(odd))}, **LIMITS)
    for cut in load_cuts(out, "test"):
        wav_T, _ = audio.read(cut.recording.sources[0].source)
        loaded_CT = torch.from_numpy(cut.load_audio())
        assert loaded_CT.shape == (1, cut.recording.num_samples)
        torch.testing.assert_close(loaded_CT[0], wav_T, atol=1e-6, rtol=0)


def test_a_recording_that_is_too_long_is_quarantined(tmp_path: Path, wav_16k: Tensor) -> None:
    audio.write(tmp_path / "long.flac", wav_16k.repeat(3), RATE)
    audio.write(tmp_path / "short.flac", wav_16k, RATE)
    write_manifests(tmp_path / "out", {"dev": utterances([tmp_path / "long.flac", tmp_path / "short.flac"])}, **LIMITS | {"max_seconds": 4})
    assert [cut.id for cut in load_cuts(tmp_path / "out", "dev")] == ["short.flac"]
    assert "more than 4 s" in (tmp_path / "out" / "rejected.jsonl").read_text()


def test_more_bad_recordings_than_the_share_fail_with_counts_and_reasons(tmp_path: Path, wav_16k: Tensor) -> None:
    good = [tmp_path / f"{index}.flac" for index in range(3)]
    for path in good:
        audio.write(path, wav_16k, RATE)
    missing = utterances([*good, tmp_path / "missing.flac"])
    write_manifests(tmp_path / "at_the_share", {"train": missing}, **LIMITS | {"max_rejected": 0.25})
    with pytest.raises(ValueError, match=r"1 of 4 recordings are bad.*max_rejected=0\.2 .*missing\.flac: no such file.*rejected\.jsonl"):
        write_manifests(tmp_path / "above", {"train": missing}, **LIMITS | {"max_rejected": 0.2})
    assert "missing.flac" in (tmp_path / "above" / "rejected.jsonl").read_text()
    with pytest.raises(ValueError, match="1 of 1 recordings are bad"):
        write_manifests(tmp_path / "nothing", {"train": missing[3:]}, **LIMITS | {"max_rejected": 1})


def test_processes_change_neither_the_order_nor_a_byte(tmp_path: Path, wav_16k: Tensor) -> None:
    bad, odd = zoo(tmp_path, wav_16k)
    listed = utterances([*odd, *bad])
    for name, workers, given in (("one", 1, listed), ("three", 3, listed[::-1])):
        write_manifests(tmp_path / name, {"train": given}, **LIMITS | {"workers": workers})
    files = [path.relative_to(tmp_path / "one") for path in sorted((tmp_path / "one").rglob("*")) if path.is_file()]
    assert len(files) > 5
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "three" / path).read_bytes(), path


def test_an_id_given_twice_is_quarantined_even_across_splits_and_the_others_are_kept(tmp_path: Path, wav_16k: Tensor) -> None:
    soundfile.write(tmp_path / "a.wav", wav_16k.numpy(), RATE)
    a, b, c = (Utterance(name, tmp_path / "a.wav") for name in "abc")
    rejected = write_manifests(tmp_path / "out", {"train": [a, b, c], "test": [a]}, **LIMITS)
    assert [(row.id, row.split) for row in rejected] == [("a", "train"), ("a", "test")]
    assert all("its id is given 2 times" in row.reason for row in rejected)
    assert [cut.id for cut in load_cuts(tmp_path / "out", "train")] == ["b", "c"]
    with pytest.raises(ValueError, match=r"2 of 2 recordings are bad.*given 2 times"):
        write_manifests(tmp_path / "none", {"train": [a], "test": [a]}, **LIMITS)


def test_ids_that_no_file_can_tell_apart_or_hold_are_quarantined(tmp_path: Path, wav_16k: Tensor) -> None:
    soundfile.write(tmp_path / "a.wav", wav_16k.numpy(), RATE)
    crafted = file_name("a/b")  # another's id as it is spelled as the name of a file
    ids = ["a/b", crafted, "\udcff", "good", "fine"]
    rejected = write_manifests(
        tmp_path / "out", {"train": [Utterance(id, tmp_path / "a.wav") for id in ids]}, **LIMITS | {"max_rejected": 0.6}
    )
    reasons = {row.id: row.reason for row in rejected}
    assert set(reasons) == {"a/b", crafted, "\\udcff"}
    assert "as the name of a file" in reasons["a/b"] and "no Unicode text" in reasons["\\udcff"]
    assert [cut.id for cut in load_cuts(tmp_path / "out", "train")] == ["fine", "good"]


@pytest.mark.parametrize(
    "damage", [lambda whole: whole[:-9], lambda whole: b"", lambda whole: b"not gzip", lambda whole: whole[:40] + b"\0" + whole[41:]]
)
def test_a_damaged_manifest_is_named(damage, tmp_path: Path, wav_16k: Tensor) -> None:
    soundfile.write(tmp_path / "a.wav", wav_16k.numpy(), RATE)
    write_manifests(tmp_path, {"train": [Utterance("a", tmp_path / "a.wav")]}, **LIMITS)
    path = tmp_path / "cuts_train.jsonl.gz"
    path.write_bytes(damage(path.read_bytes()))
    for reading in (load_cuts, count_cuts, lambda *told: list(stream_cuts(*told))):
        with pytest.raises(ValueError, match=r"cuts_train\.jsonl\.gz is damaged.*audiotok verify"):
            reading(tmp_path, "train")


def test_cuts_stream_in_the_order_of_the_manifest_and_a_broken_line_stops_at_its_place(tmp_path: Path, wav_16k: Tensor) -> None:
    soundfile.write(tmp_path / "a.wav", wav_16k.numpy(), RATE)
    write_manifests(tmp_path / "out", {"train": [Utterance(name, tmp_path / "a.wav") for name in "abc"]}, **LIMITS)
    assert list(stream_cuts(tmp_path / "out", "train")) == list(load_cuts(tmp_path / "out", "train"))
    assert count_cuts(tmp_path / "out", "train") == 3
    path = tmp_path / "out" / "cuts_train.jsonl.gz"
    lines = gzip.decompress(path.read_bytes()).splitlines()
    path.write_bytes(gzip.compress(b"\n".join([lines[0], b'{"id": "b"}', lines[2]])))
    coming = stream_cuts(tmp_path / "out", "train")
    assert next(coming).id == "a"
    with pytest.raises(ValueError, match=r"cuts_train\.jsonl\.gz is damaged"):
        next(coming)


def test_what_goes_wrong_with_a_cut_where_it_is_used_is_not_said_of_the_manifest(tmp_path: Path, wav_16k: Tensor) -> None:
    soundfile.write(tmp_path / "a.wav", wav_16k.numpy(), RATE)
    write_manifests(tmp_path / "out", {"train": [Utterance("a", tmp_path / "a.wav")]}, **LIMITS)
    with pytest.raises(ValueError, match=r"^of the user$"):
        for _ in stream_cuts(tmp_path / "out", "train"):
            raise ValueError("of the user")


def test_an_unknown_split_and_an_empty_corpus_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="also gives valid"):
        write_manifests(tmp_path, {"valid": []}, **LIMITS)
    with pytest.raises(ValueError, match="no utterances"):
        write_manifests(tmp_path, {"train": []}, **LIMITS)


@pytest.mark.parametrize("name", ["../../escaped", "/etc/passwd", "a\0b", "..", "", "ü" * 300, "a/b", "con: nul*?"])
def test_no_id_leads_out_of_the_folder(name: str, tmp_path: Path, wav_16k: Tensor) -> None:
    soundfile.write(tmp_path / "stereo.wav", np.stack([wav_16k, wav_16k], axis=1), RATE)
    out = tmp_path / "inner" / "manifests"
    write_manifests(out, {"train": [Utterance(name, tmp_path / "stereo.wav")]}, **LIMITS)
    (cut,) = load_cuts(out, "train")
    assert cut.id == name
    assert Path(cut.recording.sources[0].source).resolve().parent == (out / "audio" / "train").resolve()
    assert {path.name for path in tmp_path.iterdir()} == {"inner", "stereo.wav"}


def test_ids_that_differ_get_file_names_that_differ() -> None:
    ids = ["a/b", "a_b", "a.b", "A_b", "x" * 101, "x" * 102]
    assert len({file_name(name) for name in ids}) == len(ids)
    assert file_name("en_digits_7") == "en_digits_7"


def test_a_cut_holds_what_the_corpus_said_and_the_folder_may_move(tmp_path: Path, wav_16k: Tensor) -> None:
    soundfile.write(tmp_path / "stereo.wav", np.stack([wav_16k, wav_16k], axis=1), RATE)
    utterance = Utterance("a", tmp_path / "stereo.wav", text="says", speaker="who", language="it", custom={"key": "digits/7"})
    write_manifests(tmp_path / "before", {"test": [utterance]}, **LIMITS)
    (tmp_path / "before").rename(tmp_path / "after")
    (cut,) = load_cuts(tmp_path / "after", "test")
    assert isinstance(cut, MonoCut)
    (segment,) = cut.supervisions
    assert (segment.text, segment.speaker, segment.language, cut.custom["key"]) == ("says", "who", "it", "digits/7")
    assert cut.duration == segment.duration == len(wav_16k) / RATE
    assert cut.load_audio().shape == (1, len(wav_16k))
    assert json.loads((tmp_path / "after" / "summary.json").read_text())[2] == {
        "split": "test",
        "utterances": 1,
        "hours": round(len(wav_16k) / RATE / 3600, 4),
        "speakers": 1,
        "languages": ["it"],
        "rejected": 0,
    }


def test_an_absent_split_is_an_error_that_names_the_present_ones(tmp_path: Path, wav_16k: Tensor) -> None:
    audio.write(tmp_path / "a.flac", wav_16k, RATE)
    write_manifests(tmp_path / "out", {"train": utterances([tmp_path / "a.flac"]), "dev": []}, **LIMITS)
    with pytest.raises(ValueError, match=r"no split 'dev'; it has train$"):
        load_cuts(tmp_path / "out", "dev")
    with pytest.raises(ValueError, match="run `audiotok prepare` first"):
        load_cuts(tmp_path / "nowhere", "dev")
    for reading in (stream_cuts, count_cuts):
        with pytest.raises(ValueError, match="no split 'dev'"):
            reading(tmp_path / "out", "dev")


def test_a_part_of_a_recording_and_a_mixture_are_rendered(tmp_path: Path, wav_16k: Tensor) -> None:
    audio.write(tmp_path / "a.flac", wav_16k, RATE)
    audio.write(tmp_path / "b.flac", wav_16k.flip(0), RATE)
    first, second = (Recording.from_file(tmp_path / name).to_cut() for name in ("a.flac", "b.flac"))
    loud = first.perturb_volume(3.0).mix(second.perturb_volume(3.0), preserve_id="left")
    listed = [Utterance("part", first.truncate(offset=0.5, duration=1.0)), Utterance("mixture", loud)]
    write_manifests(tmp_path / "out", {"train": listed}, **LIMITS)
    mixture, part = load_cuts(tmp_path / "out", "train")
    assert torch.equal(torch.from_numpy(part.load_audio()[0]), wav_16k[RATE // 2 : RATE // 2 + RATE])
    sum_T = 3 * (wav_16k + wav_16k.flip(0))
    assert sum_T.abs().max() > 1, "the mixture must be too loud, or the test shows nothing"
    torch.testing.assert_close(torch.from_numpy(mixture.load_audio()[0]), sum_T / sum_T.abs().max(), atol=1e-4, rtol=0)


def test_a_mixture_of_a_broken_recording_is_quarantined(tmp_path: Path, wav_16k: Tensor) -> None:
    audio.write(tmp_path / "a.flac", wav_16k, RATE)
    audio.write(tmp_path / "b.flac", wav_16k, RATE)
    first, second = (Recording.from_file(tmp_path / name).to_cut() for name in ("a.flac", "b.flac"))
    (tmp_path / "b.flac").write_bytes((tmp_path / "b.flac").read_bytes()[:9000])
    listed = [Utterance("mixture", first.mix(second)), Utterance("alone", tmp_path / "a.flac")]
    (row,) = write_manifests(tmp_path / "out", {"train": listed}, **LIMITS)
    assert row.id == "mixture"
    assert "truncated" in row.reason and "b.flac" in row.path


def test_a_key_has_one_split_and_the_shares_are_kept() -> None:
    fractions = {"dev": 0.1, "test": 0.2}
    splits = [hashed_split(f"key {index}", fractions) for index in range(4000)]
    assert splits == [hashed_split(f"key {index}", fractions) for index in range(4000)]
    assert abs(splits.count("test") / 4000 - 0.2) < 0.03
    assert abs(splits.count("dev") / 4000 - 0.1) < 0.02
    for wrong in ({"dev": 0.5, "test": 0.5}, {"dev": -0.1}, {"valid": 0.1}):
        with pytest.raises(ValueError, match="together below 1"):
            hashed_split("a", wrong)
