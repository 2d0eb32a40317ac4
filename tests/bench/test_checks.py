"""What is wrong with a tokenizer gets a name, and what is right with it is left alone."""

import pytest
import torch
from bench_cases import FAULTS, Loudness

from audiotok.bench.checks import VERDICTS, Broken, Checked


def speech_like(batch: int, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    wav_BT = torch.randn(batch, samples, generator=torch.Generator().manual_seed(0)) * 0.1
    return wav_BT, torch.full((batch,), samples)


def test_an_honest_tokenizer_passes_unchanged() -> None:
    honest = Loudness()
    checked = Checked(honest)
    wav_BT, lengths_B = speech_like(2, 1000)
    codes_BKN, frames_B = checked.encode(wav_BT, lengths_B)
    assert torch.equal(codes_BKN, honest.encode(wav_BT, lengths_B)[0]) and frames_B.tolist() == [4, 4]
    assert torch.equal(checked.decode(codes_BKN, frames_B)[0], honest.decode(codes_BKN, frames_B)[0])
    assert checked.spec is honest.spec and checked.decodes and not checked.embeds and checked.reach is honest.reach


@pytest.mark.parametrize("fault", ["range", "float", "changes", "frames", "nan", "short"])
def test_a_broken_contract_is_named(fault: str) -> None:
    checked = Checked(Loudness(fault=fault))
    with pytest.raises(Broken) as caught:
        codes_BKN, frames_B = checked.encode(*speech_like(2, 1600))
        checked.decode(codes_BKN, frames_B)
    assert caught.value.verdict == FAULTS[fault] and caught.value.verdict in VERDICTS
    assert caught.value.reason


def test_codes_out_of_range_are_told_with_codebook_and_value() -> None:
    with pytest.raises(Broken, match="codebook 1 has codes from 0 to 15; got"):
        Checked(Loudness(fault="range")).encode(*speech_like(1, 1600))


def test_something_that_is_no_pair_is_no_result() -> None:
    class Alone(Loudness):
        def encode(self, wav_BT, lengths_B):
            return super().encode(wav_BT, lengths_B)[0]

    with pytest.raises(Broken, match="a Tensor in place of"):
        Checked(Alone()).encode(*speech_like(1, 1600))


def test_a_copy_of_a_checked_tokenizer_can_be_pickled() -> None:
    import pickle

    again = pickle.loads(pickle.dumps(Checked(Loudness())))  # noqa: S301
    assert again.spec == Loudness().spec
