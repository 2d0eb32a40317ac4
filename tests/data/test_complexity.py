"""Multiply-adds against hand formulas, memory against what was allocated, latency against what a tokenizer hears."""

from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.data import complexity
from audiotok.tokenizers.base import Reach, StreamState
from audiotok.tokenizers.codec import Codec
from audiotok.tokenizers.lyra import Lyra
from audiotok.tokenizers.streaming import Windowed
from audiotok.types import TokenSpec

HOP, RATE = 10, 1000
MEGABYTE = 2**20


class Encoded:
    """A tokenizer that gives zeros, after putting its samples [1, 1, T] through one network and its frames [1, N, 1] through another."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module | None = None, *, after: int | None = 0) -> None:
        self.spec = TokenSpec(RATE, Fraction(RATE, HOP), (2,), "test")
        self.reach = Reach(0, after, period=HOP)
        self.encoder = encoder
        if decoder is not None:
            self.decoder = decoder
            self.decode = self._decode

    def encode(self, wav_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        self.encoder(wav_BT[:, None])
        return torch.zeros(1, 1, -(-wav_BT.shape[1] // HOP), dtype=torch.long), -(-lengths_B // HOP)

    def _decode(self, codes_BKN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        self.decoder(codes_BKN.float().mT)
        return torch.zeros(1, HOP * codes_BKN.shape[-1]), HOP * lengths_B


class Recurrent(nn.Module):
    def __init__(self, kind: str, **options) -> None:
        super().__init__()
        self.network = getattr(nn, kind)(HOP, 7, batch_first=True, **options)

    def forward(self, wav_B1T: Tensor) -> Tensor:
        return self.network(wav_B1T.unflatten(-1, (-1, HOP))[:, 0])[0]


class Distances(nn.Module):
    def forward(self, wav_B1T: Tensor) -> Tensor:
        return torch.cdist(wav_B1T.view(-1, HOP), torch.ones(self.codewords, HOP))

    def __init__(self, codewords: int) -> None:
        super().__init__()
        self.codewords = codewords


class SelfAttention(nn.Module):
    def forward(self, wav_B1T: Tensor) -> Tensor:
        frames_BHND = wav_B1T.unflatten(-1, (-1, HOP))
        return F.scaled_dot_product_attention(frames_BHND, frames_BHND, frames_BHND, is_causal=True)


@pytest.mark.parametrize("seconds", [1.0, 4.0])
@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (nn.Conv1d(1, 8, 10, stride=10), 100 * 8 * 10),
        (
            nn.Sequential(nn.Conv1d(1, 8, 10, stride=10, bias=False), nn.ReLU(), nn.Conv1d(8, 6, 3, padding=1, groups=2)),
            8000 + 100 * 6 * 4 * 3,
        ),
        (nn.Sequential(nn.Unflatten(-1, (-1, HOP)), nn.Linear(HOP, 32), nn.LayerNorm(32), nn.Linear(32, 5)), 100 * (HOP * 32 + 32 * 5)),
        (Recurrent("LSTM"), 100 * 4 * 7 * (HOP + 7)),
        (Recurrent("GRU"), 100 * 3 * 7 * (HOP + 7)),
        (Recurrent("LSTM", num_layers=2, bidirectional=True), 100 * 2 * 4 * 7 * ((HOP + 7) + (14 + 7))),
        (Distances(30), 100 * 30 * HOP),
        (Distances(5), 100 * 5 * HOP),
    ],
    ids=["conv", "conv-conv", "linear", "lstm", "gru", "lstm-2", "distances", "few-distances"],
)
def test_multiply_adds_of_a_second_are_those_of_the_formula(network, expected, seconds):
    counted = complexity.multiply_adds(Encoded(network), seconds=seconds)
    assert counted.encode == pytest.approx(expected, rel=0.001)
    assert counted.decode is None and counted.reason == "it cannot decode"


def test_decoding_is_counted_by_itself_and_what_is_not_counted_is_told():
    decoder = nn.Sequential(nn.Linear(1, 16), nn.GELU(), nn.Linear(16, HOP))
    counted = complexity.multiply_adds(Encoded(nn.Conv1d(1, 8, 10, stride=10), decoder), seconds=2.0)
    assert (counted.encode, counted.decode, counted.reason) == (8000, 100 * (16 + 16 * HOP), None)
    assert counted.not_counted["aten.gelu"] == 1 and "aten.convolution" not in counted.not_counted


def test_attention_over_the_whole_grows_with_the_seconds():
    once, twice = (complexity.multiply_adds(Encoded(SelfAttention()), seconds=seconds).encode for seconds in (1.0, 2.0))
    assert (once, twice) == (2 * 100 * 100 * HOP, 2 * 200 * 200 * HOP // 2)


def test_the_depthwise_convolutions_of_the_projects_codec_are_counted():
    codec = Codec.from_pretrained("codec_50hz")
    counted = complexity.multiply_adds(codec, seconds=10.0)
    assert counted.reason is None and "aten.addcmul" not in counted.not_counted and counted.not_counted["aten._fft_r2c"] == 1
    linear = sum(part.weight.numel() for part in codec.network.encoder.modules() if isinstance(part, nn.Linear))
    assert 50 * linear < counted.encode < 4 * 50 * linear  # and mel filters, codewords and rows up to a block of 64


def test_what_pytorch_does_not_run_has_no_number_but_a_reason(lyra_models):
    counted = complexity.multiply_adds(Lyra(lyra_models, num_stages=16), seconds=1.0)
    assert (counted.encode, counted.decode) == (None, None) and "only PyTorch's operations are seen" in counted.reason
    assert "no codes" in complexity.multiply_adds(object(), seconds=1.0).reason


def test_an_engine_is_found_at_any_depth():
    foreign = type("Session", (), {"__module__": "onnxruntime.capi"})()
    holder = type("Holder", (), {})()
    assert complexity.other_engine(holder) is None
    holder.features = type("Holder", (), {})()
    holder.features.session, holder.features.back = foreign, holder
    assert complexity.other_engine(holder) == "onnxruntime"


def test_latency_is_a_hop_and_the_look_ahead_and_none_where_the_end_is_heard():
    assert complexity.latency(Encoded(nn.Identity(), after=0)) == 10
    assert complexity.latency(Encoded(nn.Identity(), after=25)) == 35
    assert complexity.latency(Encoded(nn.Identity(), after=None)) is None


class SlowStream:
    """Gives its first code once it has heard 25 samples; each push takes 30 ms of its own clock."""

    def __init__(self) -> None:
        self.now = 0.0

    spec = TokenSpec(RATE, Fraction(RATE, HOP), (2,), "slow")

    def open(self) -> StreamState:
        return {"heard": torch.tensor(0)}

    def push(self, state: StreamState, wav_T: Tensor) -> tuple[Tensor, StreamState]:
        self.now += 0.03
        heard = state["heard"] + len(wav_T)
        return torch.zeros(1, int(heard >= 25), dtype=torch.long), {"heard": heard}

    def close(self, state: StreamState) -> Tensor:
        return torch.zeros(1, 1, dtype=torch.long)


@pytest.mark.parametrize(
    ("chunk", "heard", "work", "seconds"),
    [(0.01, 0.03, 0.09, 0.10), (0.02, 0.04, 0.06, 0.08), (0.1, 0.1, 0.03, 0.13)],  # faster chunks than the work: they queue
)
def test_the_first_code_waits_for_its_sound_and_for_the_work_on_what_came_before(chunk, heard, work, seconds, monkeypatch):
    stream = SlowStream()
    monkeypatch.setattr(complexity, "perf_counter", lambda: stream.now)
    first = complexity.time_to_first_code(stream, torch.zeros(RATE), chunk=chunk)
    assert first.heard == heard
    assert (first.work, first.seconds) == (pytest.approx(work), pytest.approx(seconds))


def test_the_first_code_of_a_real_tokenizer_comes_once_it_has_heard_its_frame_and_the_look_ahead(wav_16k):
    codec = Codec.from_pretrained("codec_50hz")
    stream = Windowed(codec, block=1)
    complexity.time_to_first_code(stream, wav_16k, chunk=0.02)
    first = complexity.time_to_first_code(stream, wav_16k, chunk=0.005)
    assert first.heard == pytest.approx(complexity.latency(codec) / 1000, abs=0.0051)
    assert first.seconds >= first.heard and first.work > 0


def test_a_stream_that_gives_no_code_before_the_end_says_so():
    with pytest.raises(ValueError, match=r"none came in 0\.02 s"):
        complexity.time_to_first_code(SlowStream(), torch.zeros(20), chunk=0.01)


class Greedy(Encoded):
    """Keeps 40 MB, takes 100 MB to encode (numpy, that torch knows nothing of) and gives them back."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())
        self.kept = np.ones(40 * MEGABYTE, dtype=np.uint8)

    def encode(self, wav_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        taken = np.ones(100 * MEGABYTE, dtype=np.uint8)
        assert taken[-1] == 1
        return super().encode(wav_BT, lengths_B)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of a process's memory")
def test_peak_memory_is_what_was_kept_and_what_was_taken_at_once_by_native_code_too():
    measured = complexity.peak_memory(Greedy, torch.zeros(RATE), device="cpu")
    assert measured["loaded"] / MEGABYTE == pytest.approx(40, abs=8)
    assert measured["work"] / MEGABYTE == pytest.approx(100, abs=10)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_peak_memory_of_a_gpu_is_that_of_its_tensors(wav_16k):
    codec = partial(Codec.from_pretrained, "codec_50hz")
    weights = sum(
        weight.numel() * 4 for part in ("encoder", "quantiser", "decoder") for weight in getattr(codec().network, part).parameters()
    )
    measured = complexity.peak_memory(codec, wav_16k, device="cuda")
    assert measured["loaded"] >= weights and measured["work"] > len(wav_16k) * 4
