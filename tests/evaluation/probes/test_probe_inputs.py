"""What a probe is given: checked, batched, averaged."""

from fractions import Fraction

import pytest
import torch

from audiotok.evaluation.probes import inputs
from audiotok.evaluation.probes.inputs import ProbeInput


def test_a_code_out_of_range_is_named_with_its_codebook():
    with pytest.raises(ValueError, match=r"codebook 1 holds 16, wanted 0 \.\.\. 15"):
        ProbeInput(torch.tensor([[0, 15], [3, 16]]), 50, (16, 16))
    with pytest.raises(ValueError, match="codebook 0 holds -1"):
        ProbeInput(torch.tensor([[0, -1], [3, 5]]), 50, (16, 16))
    with pytest.raises(ValueError, match="whole numbers of 3 codebooks"):
        ProbeInput(torch.tensor([[0, 1], [3, 5]]), 50, (16, 16, 16))


@pytest.mark.parametrize(
    ("frames", "rate", "reason"),
    [
        (torch.zeros(0, 4), 50, "at least one frame"),
        (torch.zeros(4), 50, "at least one frame"),
        (torch.zeros(3, 4), 0, "frame rate is positive"),
        (torch.full((3, 4), float("nan")), 50, "12 of 12 numbers"),
    ],
)
def test_what_cannot_be_heard_is_refused(frames, rate, reason):
    with pytest.raises(ValueError, match=reason):
        ProbeInput(frames, rate)


def test_a_batch_is_filled_up_with_zeros_and_keeps_lengths():
    batch = inputs.collate([ProbeInput(torch.tensor([[1, 2, 3]]), 50, (4,)), ProbeInput(torch.tensor([[3]]), 50, (4,))])
    assert batch.frames.tolist() == [[[1, 2, 3]], [[3, 0, 0]]]
    assert batch.lengths_B.tolist() == [3, 1]
    batch = inputs.collate([ProbeInput(torch.ones(2, 3), 50), ProbeInput(torch.ones(1, 3), 50)])
    assert batch.frames[:, :, 0].tolist() == [[1, 1], [1, 0]]


def test_inputs_of_two_kinds_do_not_share_a_batch():
    with pytest.raises(ValueError, match="one kind"):
        inputs.collate([ProbeInput(torch.ones(2, 3), 50), ProbeInput(torch.ones(2, 3), 25)])
    with pytest.raises(ValueError, match="one kind, got none"):
        inputs.common_kind([])


@pytest.mark.parametrize("factor", [1, 2, 3, 7, 20])
def test_averaging_is_the_mean_of_each_rows_own_frames(factor):
    hidden_BND, lengths_B = torch.randn(3, 11, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([11, 4, 7])
    means_BMD, lengths = inputs.averaged(hidden_BND, lengths_B, factor=factor)
    for row, length in enumerate(lengths_B.tolist()):
        slow = torch.stack([part.mean(dim=0) for part in hidden_BND[row, :length].split(factor)])
        torch.testing.assert_close(means_BMD[row, : lengths[row]], slow)
        assert not means_BMD[row, lengths[row] :].any()


@pytest.mark.parametrize(("rate", "most", "factor"), [(50, 100, 1), (100, 100, 1), (Fraction(16000), 100, 160), (Fraction(75), 50, 2)])
def test_frames_are_joined_until_there_are_few_enough(rate, most, factor):
    assert inputs.reduction(Fraction(rate), most) == factor


def test_a_mel_spectrogram_at_a_lower_rate_is_its_means(digits):
    mel = digits.train[0].input
    lower = inputs.downsampled(mel, max_frame_rate=16)
    assert lower.frame_rate == Fraction(mel.frame_rate) / 4
    torch.testing.assert_close(lower.frames[0], mel.frames[:4].mean(dim=0))
    with pytest.raises(ValueError, match="codes cannot be averaged"):
        inputs.downsampled(ProbeInput(torch.tensor([[1, 2, 3]]), 50, (4,)), max_frame_rate=10)
