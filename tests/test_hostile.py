"""Files, names and headers made to break a program: each is left out with its reason, the good ones beside it go through every stage."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audiotok import audio, cli, files
from audiotok.data.manifests import Utterance, load_cuts, write_manifests
from audiotok.store import TokenStore

MEMORY = 2 << 30  # bytes that the stages may take beyond what the imports take
STAGES = """
import os, resource, sys
from audiotok import cli
from audiotok.stages import prepare, tokenize
from audiotok.tokenizers import dmel
bound = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE") + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
for stage in ("prepare", "tokenize"):
    cli.main([stage, *sys.argv[2:]])
"""
RECIPE = """
# @package _global_
defaults:
  - override /data: speech
  - override /tokenizer: dmel
prepare: {workers: 1, max_rejected: 0.95, max_seconds: 20}
tokenize: {workers: 1, batch_seconds: 4, shard_utterances: 4}
"""


def wav(
    *, channels: int = 1, rate: int = 16_000, declared: int | None = None, samples: bytes = bytes(3200), kind: int = 1, bits: int = 16
) -> bytes:
    """A WAV file with whatever header."""
    align, size = channels * bits // 8, len(samples) if declared is None else declared
    form = struct.pack("<HHIIHH", kind, channels, rate, rate * align & 0xFFFFFFFF, align & 0xFFFF, bits)
    return (
        b"RIFF" + struct.pack("<I", min(size + 36, 0xFFFFFFFF)) + b"WAVEfmt \x10\0\0\0" + form + b"data" + struct.pack("<I", size) + samples
    )


def flac(folder: Path, wav_T: np.ndarray, rate: int = 16_000) -> bytes:
    soundfile.write(folder / "made.flac", wav_T, rate)
    return (folder / "made.flac").read_bytes()


def hostile(folder: Path, speech_T: np.ndarray) -> dict[str, tuple[bytes, str]]:
    """Bytes and the reason for which they are left out, by the name of a file."""
    sound = flac(folder, speech_T)
    lying = bytearray(sound)
    lying[21:26] = b"\x0f\xff\xff\xff\xff"  # of the stream's 36 bits of samples
    floats = speech_T.astype("<f4")
    nan, infinite = floats.copy(), floats.copy()
    nan[100], infinite[5] = np.nan, -np.inf
    return {
        "declares_1_gb.wav": (wav(declared=1 << 30), "truncated"),
        "declares_all_samples.flac": (bytes(lying), "truncated|damaged"),
        "nan.wav": (wav(samples=nan.tobytes(), kind=3, bits=32), "1 of .* NaN or infinite"),
        "infinity.wav": (wav(samples=infinite.tobytes(), kind=3, bits=32), "1 of .* NaN or infinite"),
        "channels_10000.wav": (wav(channels=10_000, samples=bytes(40_000)), "channels"),
        "channels_1000.wav": (wav(channels=1000, samples=bytes(40_000)), "1000 channels at 16000 Hz; at most 64"),
        "channels_none.wav": (wav(channels=0), "damaged"),
        "rate_none.wav": (wav(rate=0), "damaged"),
        "rate_2_ghz.wav": (wav(rate=2**31 - 1), "at 2147483647 Hz; at most"),
        "empty.wav": (b"", "empty"),
        "no_samples.wav": (wav(samples=b""), "holds no samples"),
        "loses_sync.flac": (sound[: len(sound) // 2] + bytes(3000) + sound[len(sound) // 2 + 3000 :], "sync|damaged"),
        "cut.flac": (sound[: len(sound) // 2], "sync|truncated|damaged"),
        "text.wav": (b"To be, or not to be, that is the question.\n" * 99, "no audio, or of an unknown format"),
        "archive.wav": (b"PK\x03\x04" + bytes(5000), "no audio, or of an unknown format"),
        "noise.m4a": (np.random.default_rng(0).bytes(5000), "cannot be decoded"),
        "page.mp3": (b"<html>not found</html>" * 50, "no audio|damaged"),
        "too_long.wav": (wav(samples=bytes(16_000 * 2 * 21)), "more than 20 s"),
    }


def test_the_stages_leave_out_what_is_hostile_with_its_reason_keep_the_good_ones_and_stay_within_their_memory(
    tmp_path: Path, wav_16k: torch.Tensor
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    bad = hostile(tmp_path, wav_16k.numpy())
    good = {"streamed.wav": wav(declared=0xFFFFFFF0, samples=(wav_16k.numpy() * 32767).astype("<i2").tobytes())}
    good |= {f"good-{number}.flac": flac(tmp_path, wav_16k.numpy()) for number in range(5)}
    odd = {"rate_16001.wav": wav(rate=16_001, samples=bytes(32_000))}  # sound, but no filter for it fits into memory
    for name, content in {**{name: content for name, (content, _) in bad.items()}, **good, **odd}.items():
        (corpus / name).write_bytes(content)
    absent = ["../../etc/passwd", "-rf", "--help", "nul\0byte.wav", "x" * 4096 + ".wav", "/", ".", "folder.wav"]
    (corpus / "folder.wav").mkdir()
    rows = [f"{name}\ttrain\n" for name in [*bad, *good, *odd, *absent]]
    (corpus / "manifest.tsv").write_text("path\tsplit\n" + "".join(rows), encoding="utf-8")
    (tmp_path / "hostile.yaml").write_text(RECIPE)
    told = [str(tmp_path / "hostile.yaml"), f"data.root={corpus}", f"exp_root={tmp_path / 'exp'}"]
    command = [sys.executable, "-c", STAGES, str(MEMORY), *told]
    ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(cli.ROOT)}, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    (rejected,) = tmp_path.glob("exp/data/*/rejected.jsonl")
    reasons = {row["path"]: row["reason"] for row in files.read_jsonl(rejected)}
    for name, (_, reason) in bad.items():
        with pytest.raises(ValueError, match=reason):
            raise ValueError(reasons[str(corpus / name)])
    assert len(reasons) == len(bad) + len(absent)
    (store,) = tmp_path.glob("exp/tokens/*/*/train")
    assert sorted(TokenStore(store).ids) == sorted(Path(name).stem for name in good)
    assert list(TokenStore(store).failed) == ["rate_16001"] and "takes a filter of" in TokenStore(store).failed["rate_16001"]


def test_names_made_to_leave_a_folder_name_what_is_in_it(tmp_path: Path, wav_16k: torch.Tensor) -> None:
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "stereo.wav", np.stack([wav_16k, wav_16k], axis=1), 16_000)
    ids = ["../../escaped", "/etc/passwd", "nul\0byte", "n" * 4096, "-rf", "--help", "..", "", "line\nbreak", "$(touch x)", "a/b", "a\\b"]
    before = set(tmp_path.rglob("*"))
    listed = {"train": [Utterance(id, tmp_path / "in" / "stereo.wav") for id in ids]}
    assert write_manifests(tmp_path / "in" / "out", listed, max_rejected=0, max_seconds=60, workers=1) == []
    cuts = list(load_cuts(tmp_path / "in" / "out", "train"))
    assert sorted(cut.id for cut in cuts) == sorted(ids)
    assert all(Path(cut.recording.sources[0].source).resolve().is_relative_to(tmp_path / "in" / "out" / "audio") for cut in cuts)
    assert all(path.is_relative_to(tmp_path / "in" / "out") for path in set(tmp_path.rglob("*")) - before)


def test_a_name_that_no_file_can_have_is_an_error_like_any_absent_file(tmp_path: Path) -> None:
    for name in ("x" * 4096, "nul\0byte"):
        with pytest.raises(ValueError, match=r"cannot be opened: File name too long|no such file"):
            audio.read(tmp_path / f"{name}.wav")


def test_sound_that_unfolds_to_more_than_memory_is_given_up_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "silence.flac", np.zeros((1 << 20, 8), np.int16), 192_000)
    assert (tmp_path / "silence.flac").stat().st_size < 1 << 14
    monkeypatch.setattr(audio, "MOST_SAMPLES", 1 << 22)
    blocks = []
    monkeypatch.setattr(
        audio, "_soundfile_blocks", lambda path, real=audio._soundfile_blocks: (blocks.append(one) or one for one in real(path))
    )
    with pytest.raises(ValueError, match="holds more than 4194304 samples in 8 channels; cut it into pieces"):
        audio.read(tmp_path / "silence.flac")
    assert sum(block_CT.size for block_CT, _ in blocks) <= (1 << 22) + audio.BLOCK_SAMPLES


def test_usual_rates_have_filters_and_a_damaged_one_is_refused() -> None:
    rates = [8000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 192_000]
    for one in rates:
        for other in rates:
            assert audio.resample(torch.zeros(64), one, other).shape == (-(-64 * other // one),)
    with pytest.raises(ValueError, match="from 16001 to 16000 Hz takes a filter of"):
        audio.resample(torch.zeros(64), 16_001, 16_000)


def test_json_that_is_broken_in_any_way_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for line in (b"{", b"[1]", b"null", b'{"a": "\xff"}', b"[" * 100_000, b'{"a": 1} x', b'{"a": ' + b"9" * 5000 + b"}"):
        path.write_bytes(b'{"id": 1}\n' + line + b"\n")
        with pytest.raises(ValueError, match=r"rows\.jsonl, line 2"):
            list(files.read_jsonl(path))
        (tmp_path / "one.json").write_bytes(line)
        if line not in (b"[1]", b"null"):
            with pytest.raises(ValueError, match=r"one\.json is damaged"):
                files.read_json(tmp_path / "one.json")


def test_a_sample_of_the_fuzzed_cases_neither_crashes_hangs_grows_nor_loses_a_good_file(tmp_path: Path) -> None:
    command = [sys.executable, str(cli.ROOT / "tools" / "fuzz.py"), "--cases", "48", "--seed", "5", "--json", str(tmp_path / "cases.json")]
    ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(cli.ROOT)}, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    cases = json.loads((tmp_path / "cases.json").read_text())
    assert len(cases) == 48 and len({case["kind"] for case in cases}) == 12
    assert sum(case["outcome"] == "refused" for case in cases) > 20


def test_the_fuzzer_sees_what_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(cli.ROOT / "tools"))
    import fuzz

    def outcome(read, *, sealed: bool = False) -> str:
        kind = fuzz.Kind("a.bin", lambda path: path.write_bytes(bytes(range(200))), read, sealed)
        return fuzz.outcome(kind, 1, tmp_path)[0]

    whole = bytes(range(200))

    def raising(error: Exception):
        def read(path: Path) -> int:
            if path.read_bytes() != whole:
                raise error
            return 0

        return read

    assert outcome(raising(ValueError())) == "refused"
    assert (
        outcome(raising(KeyError())) == "crashed"
        and outcome(raising(MemoryError())) == "memory"
        and outcome(raising(fuzz.Lost())) == "lost"
    )
    assert outcome(lambda path: 0) == "unchanged"
    assert (
        outcome(lambda path: path.read_bytes().hex()) == "changed"
        and outcome(lambda path: path.read_bytes().hex(), sealed=True) == "silent"
    )
