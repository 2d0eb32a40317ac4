"""EnCodec's stream: short utterances, its delay, and a state that does not grow."""

import pytest
import torch
from tokenizer_cases import tiny_encodec
from torch import Tensor

from audiotok.tokenizers.base import Streaming
from audiotok.tokenizers.encodec import Encodec
from audiotok.tokenizers.encodec_streaming import BLOCK
from audiotok.tokenizers.streaming import encode_chunks, streamed


@pytest.fixture(scope="module")
def encodec() -> Encodec:
    return tiny_encodec(24000)


@pytest.mark.parametrize("length", [1, 319, 320, 2240, 2559, 2560, 2561, 2881, 5120, 7001])
def test_a_short_utterance_has_its_codes_in_chunks_too(encodec: Encodec, wav_16k: Tensor, length: int) -> None:
    wav_T = wav_16k[9000 : 9000 + length]
    whole_1KN, _ = encodec.encode(wav_T[None], torch.tensor([length]))
    for size in (100, 320, 3000):
        assert torch.equal(torch.cat(list(encode_chunks(encodec, wav_T.split(size))), dim=1), whole_1KN[0])


def test_a_block_comes_with_its_last_sample_and_the_state_stays_small(encodec: Encodec, wav_16k: Tensor) -> None:
    state, given, sizes = encodec.open(), [], []
    for wav_T in wav_16k[:32000].split(160):
        codes_KN, state = encodec.push(state, wav_T)
        given.append(codes_KN.shape[1])
        sizes.append(sum(tensor.numel() for tensor in state.values()))
    assert given == ([0] * (2 * BLOCK - 1) + [BLOCK]) * (200 // (2 * BLOCK)) + [0] * (200 % (2 * BLOCK))
    assert max(sizes[100:]) == max(sizes[:100])


def test_a_stream_that_ends_at_once_has_no_frames(encodec: Encodec) -> None:
    assert encodec.close(encodec.open()).shape == (8, 0)
    _, state = encodec.push(encodec.open(), torch.zeros(BLOCK * 320))
    assert encodec.close(state).shape == (8, 0)


def test_it_is_its_own_stream_and_takes_one_utterance(encodec: Encodec) -> None:
    assert isinstance(encodec, Streaming) and streamed(encodec, block=1) is encodec
    with pytest.raises(ValueError, match="one utterance's"):
        encodec.push(encodec.open(), torch.zeros(1, 320))
