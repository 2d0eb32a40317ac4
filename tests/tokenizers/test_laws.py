"""The laws of audiotok/tokenizers/base.py, over every tokenizer of tokenizer_cases.py."""

import pytest
import torch
from tokenizer_cases import CASES, Case
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from audiotok import audio
from audiotok.tokenizers.base import Decoder, Tokenizer

LENGTHS = (1, 319, 320, 321, 4800, 8001, 17003)  # of an utterance in samples: less than a frame, whole frames, a sample more


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def tokenizer(case: Case, request: pytest.FixtureRequest) -> Tokenizer:
    return case.make(request)


@pytest.fixture(scope="module")
def decoder(tokenizer: Tokenizer) -> Decoder:
    if not isinstance(tokenizer, Decoder):
        pytest.skip("units have no way back to sound")
    return tokenizer


@pytest.fixture(scope="module")
def waves(tokenizer: Tokenizer, wav_16k: Tensor) -> list[Tensor]:
    speech_T = audio.resample(wav_16k[8000:], 16000, tokenizer.spec.sample_rate)
    return [speech_T[1000 * index :][:length].clone() for index, length in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def batch(waves: list[Tensor]) -> tuple[Tensor, Tensor]:
    return pad_sequence(waves, batch_first=True), torch.tensor([len(wav_T) for wav_T in waves])


@pytest.fixture(scope="module")
def encoded(tokenizer: Tokenizer, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return tokenizer.encode(*batch)


@pytest.fixture(scope="module")
def decoded(decoder: Decoder, encoded: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return decoder.decode(*encoded)


def test_an_utterance_has_the_same_codes_alone_and_in_a_batch(
    tokenizer: Tokenizer, waves: list[Tensor], encoded: tuple[Tensor, Tensor]
) -> None:
    for wav_T, codes_KN, num_frames in zip(waves, *encoded):
        alone_1KN, _ = tokenizer.encode(wav_T[None], torch.tensor([len(wav_T)]))
        assert torch.equal(alone_1KN[0], codes_KN[:, :num_frames])


def test_codes_do_not_depend_on_what_lies_past_the_length(
    tokenizer: Tokenizer, batch: tuple[Tensor, Tensor], encoded: tuple[Tensor, Tensor]
) -> None:
    wav_BT, lengths_B = batch
    longer_BT = torch.nn.functional.pad(wav_BT, (0, 777))
    beyond_BT = torch.arange(longer_BT.shape[1]) >= lengths_B[:, None]
    for filling in (0.5, float("nan")):
        codes_BKN, frames_B = tokenizer.encode(longer_BT.masked_fill(beyond_BT, filling), lengths_B)
        assert torch.equal(codes_BKN, encoded[0]) and torch.equal(frames_B, encoded[1])


def test_a_second_run_gives_the_same_and_changes_no_input(
    tokenizer: Tokenizer, batch: tuple[Tensor, Tensor], encoded: tuple[Tensor, Tensor]
) -> None:
    wav_BT, lengths_B = batch[0].clone(), batch[1].clone()
    codes_BKN, frames_B = tokenizer.encode(wav_BT, lengths_B)
    assert torch.equal(codes_BKN, encoded[0]) and torch.equal(frames_B, encoded[1])
    assert torch.equal(wav_BT, batch[0]) and torch.equal(lengths_B, batch[1])


def test_the_number_of_frames_is_what_the_spec_says(tokenizer: Tokenizer, encoded: tuple[Tensor, Tensor]) -> None:
    codes_BKN, frames_B = encoded
    assert frames_B.tolist() == [tokenizer.spec.num_frames(length) for length in LENGTHS]
    assert codes_BKN.shape == (len(LENGTHS), tokenizer.spec.num_codebooks, max(frames_B.tolist()))


def test_codes_are_in_range_and_zero_past_the_length(tokenizer: Tokenizer, encoded: tuple[Tensor, Tensor]) -> None:
    codes_BKN, frames_B = encoded
    sizes_K1 = torch.tensor(tokenizer.spec.codebook_sizes)[:, None]
    assert codes_BKN.dtype == frames_B.dtype == torch.int64
    assert ((codes_BKN >= 0) & (codes_BKN < sizes_K1)).all()
    assert all(codes_KN[:, num_frames:].eq(0).all() for codes_KN, num_frames in zip(codes_BKN, frames_B))


def test_codes_tell_speech_apart(tokenizer: Tokenizer, encoded: tuple[Tensor, Tensor]) -> None:
    assert len(encoded[0][-1].flatten().unique()) >= 8


def test_embed_gives_one_vector_for_each_code_and_the_same_for_equal_codes(tokenizer: Tokenizer, encoded: tuple[Tensor, Tensor]) -> None:
    codes_BKN, _ = encoded
    hidden_BKND = tokenizer.embed(codes_BKN)
    assert hidden_BKND.shape[:3] == codes_BKN.shape and hidden_BKND.is_floating_point()
    assert torch.equal(tokenizer.embed(codes_BKN[1:2, :, :1]), hidden_BKND[1:2, :, :1])
    first_KN, vectors_KND = codes_BKN[-1], hidden_BKND[-1]
    same_N, other_N = (first_KN[0] == first_KN[0, 0]), (first_KN[0] != first_KN[0, 0])
    assert (vectors_KND[0, same_N] == vectors_KND[0, 0]).all() and (vectors_KND[0, other_N] != vectors_KND[0, 0]).any(dim=-1).all()


def test_decoded_audio_has_the_length_of_its_frames_and_is_zero_beyond(
    decoder: Decoder, encoded: tuple[Tensor, Tensor], decoded: tuple[Tensor, Tensor]
) -> None:
    wav_BT, lengths_B = decoded
    assert lengths_B.tolist() == [decoder.spec.num_samples(frames) for frames in encoded[1].tolist()]
    assert wav_BT.shape == (len(LENGTHS), max(lengths_B.tolist())) and wav_BT.dtype == torch.float32
    assert wav_BT.isfinite().all() and wav_BT.abs().max() <= 1
    assert all(wav_T[length:].eq(0).all() for wav_T, length in zip(wav_BT, lengths_B))


def test_audio_is_decoded_the_same_alone_and_in_a_batch_and_no_input_changes(
    decoder: Decoder, encoded: tuple[Tensor, Tensor], decoded: tuple[Tensor, Tensor]
) -> None:
    codes_BKN, frames_B = encoded[0].clone(), encoded[1].clone()
    for codes_KN, num_frames, wav_T, length in zip(codes_BKN, frames_B.tolist(), *decoded):
        alone_1T, _ = decoder.decode(codes_KN[None, :, :num_frames], torch.tensor([num_frames]))
        assert torch.equal(alone_1T[0], wav_T[:length])
    assert torch.equal(codes_BKN, encoded[0]) and torch.equal(frames_B, encoded[1])


@pytest.mark.parametrize(
    ("wav_BT", "lengths_B", "told"),
    [
        (torch.zeros(1, 800, dtype=torch.float64), torch.tensor([800]), "float64"),
        (torch.zeros(1, 800, dtype=torch.int16), torch.tensor([800]), "int16"),
        (torch.zeros(800), torch.tensor([800]), r"\[batch, samples\]"),
        (torch.zeros(1, 800), torch.tensor([0]), "between 1 and 800"),
        (torch.zeros(1, 800), torch.tensor([801]), "between 1 and 800"),
        (torch.zeros(1, 0), torch.tensor([0]), "between 1 and 0"),
        (torch.zeros(0, 800), torch.zeros(0, dtype=torch.int64), r"got \[\]"),
        (torch.zeros(2, 800), torch.tensor([800]), "for 2 rows"),
        (torch.zeros(1, 800), torch.tensor([800.0]), "int64"),
        (torch.full((1, 800), float("nan")), torch.tensor([800]), "row 0 holds NaN"),
        (torch.full((1, 800), float("inf")), torch.tensor([800]), "infinity"),
    ],
)
def test_audio_that_is_none_is_refused_with_the_reason(tokenizer: Tokenizer, wav_BT: Tensor, lengths_B: Tensor, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        tokenizer.encode(wav_BT, lengths_B)


def test_codes_that_are_none_are_refused_with_the_reason(decoder: Decoder) -> None:
    num_codebooks = decoder.spec.num_codebooks
    good = torch.zeros(1, num_codebooks, 3, dtype=torch.int64)
    for codes_BKN, lengths_B, told in [
        (good.int(), torch.tensor([3]), "int32"),
        (good[:, :-1], torch.tensor([3]), rf"\[batch, {num_codebooks}, frames\]"),
        (good, torch.tensor([4]), "between 1 and 3"),
        (good - 1, torch.tensor([3]), "outside"),
        (good + decoder.spec.codebook_sizes[0], torch.tensor([3]), "outside"),
    ]:
        with pytest.raises(ValueError, match=told):
            decoder.decode(codes_BKN, lengths_B)
