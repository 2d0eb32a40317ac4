"""UTMOS with the weights that a user brings, and without."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from audiotok.evaluation.metric import MetricFailure, NotApplicable, Utterance
from audiotok.evaluation.opinion import Utmos
from audiotok.files import file_digest


class Loudness(nn.Module):
    """An opinion of 1 to 5 that grows with the root mean square: what a judge must be told can be told from it."""

    def forward(self, wav_BT: Tensor) -> Tensor:
        return 1 + 4 * wav_BT.square().mean(dim=1).sqrt().clamp(max=1)


class Pair(nn.Module):
    def forward(self, wav_BT: Tensor) -> Tensor:
        return torch.stack([wav_BT.mean(), wav_BT.mean()])


def scripted(network: nn.Module, path: Path) -> str:
    torch.jit.trace(network, torch.zeros(1, 16000)).save(str(path))
    return str(path)


def utterance(wav_T: Tensor, *, sample_rate: int = 16000) -> Utterance:
    return Utterance("a", wav_T, sample_rate)


def field(number: int, value: bytes | int | str) -> bytes:
    """One field of a protocol buffer shorter than 128 bytes."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    value = value.encode() if isinstance(value, str) else value
    assert len(value) < 128
    return bytes([number << 3 | 2, len(value)]) + value


def onnx_of_mean_magnitude(path: Path) -> str:
    """An ONNX file (onnx.proto3) of ReduceL1 over samples that are given as [1, T]."""
    dimensions = field(1, field(1, 1)) + field(1, field(2, "T"))
    sound = field(1, "wav") + field(2, field(1, field(1, 1) + field(2, dimensions)))
    score = field(1, "score") + field(2, field(1, field(1, 1)))
    nodes = field(1, field(1, "wav") + field(2, "score") + field(4, "ReduceL1"))
    graph = nodes + field(2, "g") + field(11, sound) + field(12, score)
    path.write_bytes(field(1, 8) + field(7, graph) + field(8, field(2, 13)))
    return str(path)


def test_the_score_is_what_the_users_weights_say_of_the_estimate_at_16_khz(wav_16k, tmp_path):
    path = scripted(Loudness(), tmp_path / "utmos.pt")
    metric = Utmos(weights=path, threads=1)
    expected = Loudness()(wav_16k[None]).item()
    assert metric(utterance(torch.zeros(16000)), utterance(wav_16k)) == {"utmos": pytest.approx(expected, rel=1e-6)}
    held = utterance(wav_16k.repeat_interleave(3), sample_rate=48000)
    assert metric(held, held)["utmos"] == pytest.approx(expected, abs=0.02)
    assert metric.judge == f"UTMOS utmos.pt sha256:{file_digest(Path(path))[:12]}"


def test_an_onnx_file_serves_as_well(tmp_path):
    pytest.importorskip("onnxruntime", reason="pip install 'audiotok[eval]'")
    metric = Utmos(weights=onnx_of_mean_magnitude(tmp_path / "utmos.onnx"), threads=1)
    wav_T = torch.full((16000,), 3.25 / 16000)
    assert metric(utterance(wav_T), utterance(wav_T))["utmos"] == pytest.approx(3.25, rel=1e-4)


def test_without_weights_nothing_is_scored_and_the_reason_says_how_to_get_them(wav_16k):
    metric = Utmos(weights=None, threads=1)
    assert metric.judge == "UTMOS, no weights"
    with pytest.raises(NotApplicable, match=r"utmos22_strong.*weights=FILE"):
        metric(utterance(wav_16k), utterance(wav_16k))


def test_silence_and_snippets_fail_with_their_reason(wav_16k, tmp_path):
    metric = Utmos(weights=scripted(Loudness(), tmp_path / "utmos.ts"), threads=1)
    for estimate_T, reason in ((torch.zeros(16000), "silence"), (wav_16k[:4000], "too short")):
        with pytest.raises(MetricFailure, match=reason):
            metric(utterance(wav_16k), utterance(estimate_T))


def test_weights_that_are_no_utmos_are_refused_with_what_they_are(wav_16k, tmp_path):
    pytest.importorskip("onnxruntime", reason="pip install 'audiotok[eval]'")
    for name in ("damaged.pt", "damaged.onnx", "weights.bin"):
        (tmp_path / name).write_bytes(b"no weights")
    for name, reason in {
        "absent.pt": "no such file",
        "weights.bin": "TorchScript file .* or an ONNX file",
        "damaged.pt": "no TorchScript file",
        "damaged.onnx": "no ONNX file",
    }.items():
        with pytest.raises(ValueError, match=reason):
            Utmos(weights=str(tmp_path / name), threads=1)
    with pytest.raises(ValueError, match="2 values"):
        Utmos(weights=scripted(Pair(), tmp_path / "pair.pt"), threads=1)(utterance(wav_16k), utterance(wav_16k))
    with pytest.raises(ValueError, match="between 1 and 5"):
        loud = Utmos(weights=onnx_of_mean_magnitude(tmp_path / "sum.onnx"), threads=1)
        loud(utterance(wav_16k), utterance(wav_16k))
