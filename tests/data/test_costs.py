"""Parameters counted, time measured."""

from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from audiotok.data import costs
from audiotok.tokenizers.base import Reach, Transmission
from audiotok.types import TokenSpec

CPU = torch.device("cpu")


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


time = Clock()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "perf_counter", lambda: time.now)


class Slow:
    """A tokenizer that takes 10 ms to encode and 30 ms to decode; it notes how long what it was given is, and on how many threads."""

    def __init__(self) -> None:
        self.spec = TokenSpec(100, Fraction(10), (2,), "slow")
        self.reach = Reach(0, 0, period=10)
        self.given: list[int] = []
        self.threads: set[int] = set()

    def encode(self, wav_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        assert lengths_B.tolist() == [wav_BT.shape[1]]
        self.given.append(wav_BT.shape[1])
        self.threads.add(torch.get_num_threads())
        time.sleep(0.01)
        return torch.zeros(1, 1, wav_BT.shape[1] // 10, dtype=torch.long), lengths_B // 10

    def decode(self, codes_BKN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        time.sleep(0.03)
        return torch.zeros(1, 10 * codes_BKN.shape[-1]), 10 * lengths_B


class Classical:
    sample_rate = 100
    bits_per_second = 50.0

    def transmit(self, wav_T: Tensor) -> Transmission:
        time.sleep(0.02)
        return Transmission(wav_T, 1, 1)


def test_the_real_time_factor_is_seconds_of_work_per_second_of_speech_after_one_call_to_warm_up():
    slow, wavs = Slow(), [torch.zeros(100), torch.zeros(300)]
    factors = costs.real_time_factor(slow, wavs, sample_rate=100, device=CPU)
    assert slow.given == [100, 100, 300]
    assert factors["encode"] == pytest.approx(0.02 / 4) and factors["decode"] == pytest.approx(0.06 / 4)
    assert factors["both"] == factors["encode"] + factors["decode"]


def test_a_codec_without_codes_is_timed_both_ways_at_once():
    factors = costs.real_time_factor(Classical(), [torch.zeros(100)], sample_rate=100, device=CPU)
    assert factors == {"both": pytest.approx(0.02)}


def test_what_has_no_way_back_is_timed_as_it_encodes():
    units = Slow()
    one_way = type("OneWay", (), {"spec": units.spec, "encode": lambda self, wav_BT, lengths_B: units.encode(wav_BT, lengths_B)})()
    assert costs.real_time_factor(one_way, [torch.zeros(100)], sample_rate=100, device=CPU) == {"encode": pytest.approx(0.01)}


def test_what_was_measured_says_where_and_how_and_leaves_the_threads_as_they_were():
    slow, before = Slow(), torch.get_num_threads()
    measured = costs.measure(slow, [torch.zeros(200)] * 2, sample_rate=100, device=CPU, threads=before + 1)
    assert (slow.threads, torch.get_num_threads()) == ({before + 1}, before)
    conditions = measured["conditions"]
    assert (conditions["utterances"], conditions["seconds"], conditions["threads"], conditions["device"]) == (2, 4.0, before + 1, "cpu")
    assert conditions["torch"] == torch.__version__ and conditions["cores"] >= 1 and conditions["cpu"]
    assert measured["parameters"] is None


@pytest.mark.parametrize(("system", "wavs"), [(Slow(), []), (object(), [torch.zeros(100)])])
def test_without_speech_or_a_way_to_encode_there_is_no_factor(system, wavs):
    assert costs.real_time_factor(system, wavs, sample_rate=100, device=CPU) == {}


class Part:
    def __init__(self, **parts: object) -> None:
        vars(self).update(parts)


def test_parameters_are_those_of_every_network_that_a_tokenizer_and_its_parts_hold_counted_once():
    inner, outer = nn.Linear(3, 2), nn.Linear(5, 1, bias=False)
    stacked = nn.Sequential(inner, nn.Linear(2, 2))
    assert costs.num_parameters(Part(network=stacked, encoder=inner)) == 8 + 6
    assert costs.num_parameters(Part(encoder=inner, tokenizer=Part(network=outer, again=inner), name="x", size=3)) == 8 + 5
    assert costs.num_parameters(Part(mel=Part(hop=3))) is None


def test_a_network_that_is_no_torch_module_tells_its_number_itself(lyra_models):
    assert costs.num_parameters(Part(num_parameters=7)) == 7
    from audiotok.tokenizers.lyra import Lyra

    assert 1.3e6 < costs.num_parameters(Lyra(lyra_models, num_stages=16)) < 1.5e6
