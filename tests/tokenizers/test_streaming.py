"""What a stream gives out and when, what it keeps, and that products of frames are rounded alike."""

from fractions import Fraction

import pytest
import torch
from tokenizer_cases import dmel, mel
from torch import Tensor

from audiotok.tokenizers.base import Reach, Streaming
from audiotok.tokenizers.exact import BLOCK, product
from audiotok.tokenizers.streaming import Windowed, encode_chunks
from audiotok.types import TokenSpec


class Bells:
    """Frame n is the number of ones in the samples that it hears, counted in one pass over zeros on both sides."""

    def __init__(self, hop: Fraction, reach: Reach) -> None:
        self.spec = TokenSpec(hop.numerator, Fraction(hop.denominator), (1 << 20,), "bells")
        self.reach = reach
        self.encoded: list[int] = []

    def encode(self, wav_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        self.encoded.append(wav_BT.shape[1])
        spans = [(int(n * self.spec.hop), int((n + 1) * self.spec.hop)) for n in range(self.spec.num_frames(wav_BT.shape[1]))]
        ones = [wav_BT[0, max(a - (self.reach.before or 0), 0) : b + (self.reach.after or 0)].sum() for a, b in spans]
        return torch.stack(ones).long()[None, None], torch.tensor([len(ones)])


@pytest.mark.parametrize("hop", [Fraction(10), Fraction(15, 2)])
@pytest.mark.parametrize(("before", "after", "periods"), [(0, 0, 1), (33, 0, 1), (0, 12, 1), (33, 12, 1), (7, 41, 4), (100, 100, 3)])
@pytest.mark.parametrize("block", [1, 3])
def test_any_chunks_give_the_codes_of_the_whole(hop: Fraction, before: int, after: int, periods: int, block: int) -> None:
    tokenizer = Bells(hop, Reach(before, after, period=hop.numerator * periods))
    draws = torch.Generator().manual_seed(0)
    for length in (1, 9, 10, 97, 300):
        wav_T = torch.randint(2, (length,), generator=draws).float()
        whole_1KN, _ = tokenizer.encode(wav_T[None], torch.tensor([length]))
        for _ in range(5):
            sizes, rest = [], length
            while rest:
                sizes.append(min(int(torch.randint(0, 60, (), generator=draws)), rest))
                rest -= sizes[-1]
            codes = encode_chunks(Windowed(tokenizer, block=block), wav_T.split(sizes))
            assert torch.equal(torch.cat(list(codes), dim=1), whole_1KN[0])


def test_a_frame_comes_as_soon_as_its_block_and_look_ahead_are_there() -> None:
    stream = Windowed(Bells(Fraction(10), Reach(20, 5, period=10)), block=2)
    state, given = stream.open(), []
    for _ in range(50):
        codes_KN, state = stream.push(state, torch.ones(1))
        given.append(codes_KN.shape[1])
    assert [sample + 1 for sample, frames in enumerate(given) if frames] == [25, 45] and sum(given) == 4
    assert stream.close(state).shape == (1, 1)


def test_blocks_are_encoded_from_what_they_hear_whatever_the_chunks() -> None:
    lengths = []
    for size in (1, 7, 200):
        tokenizer = Bells(Fraction(10), Reach(20, 5, period=10))
        list(encode_chunks(Windowed(tokenizer, block=2), torch.ones(200).split(size)))
        lengths.append(tokenizer.encoded)
    assert lengths[0] == lengths[1] == lengths[2] == [25, 45, *[45] * 7, 40]


def test_a_stream_keeps_no_more_than_its_frames_hear() -> None:
    stream = Windowed(Bells(Fraction(10), Reach(20, 5, period=10)), block=2)
    state = stream.open()
    for _ in range(100):
        _, state = stream.push(state, torch.ones(30))
        assert len(state["wav_T"]) < 20 + 5 + 2 * 10 + 10


def test_a_stream_that_ends_at_once_has_no_frames() -> None:
    stream = Windowed(dmel(), block=4)
    assert isinstance(stream, Streaming) and stream.close(stream.open()).shape == (80, 0)


def test_what_cannot_be_streamed_is_refused_with_the_reason() -> None:
    for tokenizer, block, told in [
        (Bells(Fraction(10), Reach(None, 0, period=10)), 1, "the frames of Bells hear without bound"),
        (Bells(Fraction(10), Reach(0, None, period=10)), 1, "encode whole utterances"),
        (Bells(Fraction(10), Reach(0, 0, period=15)), 1, "every 15 samples, which is no whole number of hops of 10"),
        (Bells(Fraction(10), Reach(0, 0, period=10)), 0, "a block of 0 frames"),
    ]:
        with pytest.raises(ValueError, match=told):
            Windowed(tokenizer, block=block)
    stream = Windowed(dmel(), block=1)
    with pytest.raises(ValueError, match="one utterance's"):
        stream.push(stream.open(), torch.zeros(1, 100))


def test_a_row_of_a_product_is_the_same_to_the_bit_however_many_rows_there_are() -> None:
    draws = torch.Generator().manual_seed(0)
    rows_ND, matrix_DM = torch.randn(3 * BLOCK + 5, 513, generator=draws), torch.randn(513, 80, generator=draws)
    whole_NM = product(rows_ND, matrix_DM)
    torch.testing.assert_close(whole_NM, rows_ND @ matrix_DM)
    for begin, end in [(0, 1), (7, 8), (60, 70), (3, BLOCK + 3), (100, 3 * BLOCK + 5)]:
        assert torch.equal(product(rows_ND[begin:end], matrix_DM), whole_NM[begin:end])
    assert torch.equal(product(rows_ND[: 2 * BLOCK].view(2, BLOCK, 513), matrix_DM), whole_NM[: 2 * BLOCK].view(2, BLOCK, 80))


def test_a_log_mel_frame_is_the_same_to_the_bit_in_any_window_of_its_utterance(wav_16k: Tensor) -> None:
    whole_NM = mel(400)(wav_16k)
    for frame in range(2, len(whole_NM) - 2):
        assert torch.equal(mel(400)(wav_16k[(frame - 2) * 400 : (frame + 2) * 400])[2], whole_NM[frame])
