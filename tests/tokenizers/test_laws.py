"""The laws of audiotok/tokenizers/base.py, over every tokenizer of tokenizer_cases.py."""

from collections.abc import Iterator
from fractions import Fraction
from functools import reduce
from math import floor

import pytest
import torch
from safetensors.torch import load, save
from tokenizer_cases import CASES, Case
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from audiotok import audio
from audiotok.tokenizers.base import Decoder, Reach, Streaming, Tokenizer
from audiotok.tokenizers.streaming import encode_chunks, streamed

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


# What a frame hears: probed by putting loud noise where it should not hear, and where it should


SECONDS = 2.4  # of speech that is probed: two segments of EnCodec 48 kHz and a part of a third


def loud_T(length: int) -> Tensor:
    return torch.rand(length, generator=torch.Generator().manual_seed(0)) * 1.8 - 0.9


def with_noise(wav_T: Tensor, begin: int, end: int) -> Tensor:
    """A copy with noise in [begin, end), as far as there are samples."""
    inside_T = (torch.arange(len(wav_T)) >= begin) & (torch.arange(len(wav_T)) < end)
    return torch.where(inside_T, loud_T(len(wav_T)), wav_T)


def encode(tokenizer: Tokenizer, wav_T: Tensor) -> Tensor:
    return tokenizer.encode(wav_T[None], torch.tensor([len(wav_T)]))[0][0]


@pytest.fixture(scope="module")
def speech_T(tokenizer: Tokenizer, wav_16k: Tensor) -> Tensor:
    return audio.resample(wav_16k[8000 : 8000 + int(16000 * SECONDS)], 16000, tokenizer.spec.sample_rate).contiguous()


@pytest.fixture(scope="module")
def spoken_KN(tokenizer: Tokenizer, speech_T: Tensor) -> Tensor:
    return encode(tokenizer, speech_T)


def heard(tokenizer: Tokenizer, frame: int, num_samples: int) -> tuple[int, int]:
    """The samples [begin, end) that a frame hears."""
    reach, hop = tokenizer.reach, tokenizer.spec.hop
    begin = 0 if reach.before is None else floor(frame * hop) - reach.before
    return max(begin, 0), num_samples if reach.after is None else floor((frame + 1) * hop) + reach.after


def probes(spoken_KN: Tensor) -> list[int]:
    """Frames at the begin, where padding may reflect what follows, in the middle and at the end."""
    return [0, 1, *range(5, spoken_KN.shape[1] - 2, max(spoken_KN.shape[1] // 5, 1)), spoken_KN.shape[1] - 1]


def test_the_reach_is_declared_in_whole_samples_and_hops(tokenizer: Tokenizer) -> None:
    reach = tokenizer.reach
    assert isinstance(reach, Reach) and reach.period >= 1 and reach.period % tokenizer.spec.hop == 0
    assert all(side is None or (isinstance(side, int) and side >= 0) for side in (reach.before, reach.after))


def test_a_frame_hears_nothing_beyond_its_reach(tokenizer: Tokenizer, speech_T: Tensor, spoken_KN: Tensor) -> None:
    for frame in probes(spoken_KN):
        begin, end = heard(tokenizer, frame, len(speech_T))
        changed_T = with_noise(with_noise(speech_T, 0, begin), end, len(speech_T))
        assert torch.equal(encode(tokenizer, changed_T)[:, frame], spoken_KN[:, frame]), f"frame {frame}"


def inner(far: int | None, hop: Fraction) -> int:
    """The part of what is heard beyond a frame that is not its outer quarter: of all the past or future, that beyond two frames."""
    if far is None:
        return floor(2 * hop)
    return far - far // 4 if far else -floor(hop / 4)


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_frame_hears_as_far_as_its_reach_says(tokenizer: Tokenizer, speech_T: Tensor, spoken_KN: Tensor, side: str) -> None:
    """Noise in the outer quarter of what is heard on a side changes the codes of some frame."""
    hop = tokenizer.spec.hop
    kept = inner(getattr(tokenizer.reach, side), hop)

    def changes(frame: int) -> bool:
        begin, end = heard(tokenizer, frame, len(speech_T))
        outer = (begin, floor(frame * hop) - kept) if side == "before" else (floor((frame + 1) * hop) + kept, end)
        return not torch.equal(encode(tokenizer, with_noise(speech_T, *outer))[:, frame], spoken_KN[:, frame])

    num_frames = spoken_KN.shape[1]
    assert any(changes(frame) for first in range(11) for frame in range(first, num_frames, 11))


def streams(tokenizer: Tokenizer) -> bool:
    return isinstance(tokenizer, Streaming) or None not in (tokenizer.reach.before, tokenizer.reach.after)


def chunks(wav_T: Tensor, hop: int) -> Iterator[Tensor]:
    """The samples in chunks of none, one, nearly a hop, a hop, a little more, and many."""
    sizes = [0, 1, hop - 1, hop, hop + 1, 0, 17, 3 * hop, 5000, 12345]
    begin = 0
    while begin < len(wav_T):
        for size in sizes:
            yield wav_T[begin : begin + size]
            begin += size


def test_speech_in_chunks_has_the_codes_of_the_whole(tokenizer: Tokenizer, speech_T: Tensor, spoken_KN: Tensor) -> None:
    if not streams(tokenizer):
        with pytest.raises(ValueError, match="hear without bound"):
            streamed(tokenizer, block=4)
        return
    codes = list(encode_chunks(streamed(tokenizer, block=4), chunks(speech_T, floor(tokenizer.spec.hop))))
    assert torch.equal(torch.cat(codes, dim=1), spoken_KN)
    assert codes[-1].shape[1] < spoken_KN.shape[1]


def test_a_stream_goes_on_from_its_saved_state_and_a_push_changes_none(tokenizer: Tokenizer, speech_T: Tensor, spoken_KN: Tensor) -> None:
    if not streams(tokenizer):
        pytest.skip("its frames hear the whole utterance")
    half, stream = len(speech_T) // 2 + 77, streamed(tokenizer, block=4)
    first_KN, state = stream.push(stream.open(), speech_T[:half])
    saved = save(dict(state))
    stream.push(state, loud_T(5000))
    assert save(dict(state)) == saved
    second_KN, state = stream.push(load(saved), speech_T[half:])
    assert torch.equal(torch.cat([first_KN, second_KN, stream.close(state)], dim=1), spoken_KN)


# What a code stands for


@pytest.fixture
def consumed(case: Case, decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor]]:
    """What `decode` gives to what makes sound of latents, call by call."""
    assert case.latent_into, "name in tokenizer_cases.py what decode calls with the latent"
    *above, name = case.latent_into.split(".")
    owner = reduce(getattr, above, decoder)
    called, seen = getattr(owner, name), []
    if isinstance(called, torch.nn.Module):
        with called.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0])):
            yield seen
    else:
        monkeypatch.setattr(owner, name, lambda latent, *rest: seen.append(latent) or called(latent, *rest))
        yield seen


def test_what_is_decoded_is_what_embed_says_of_the_codes(case: Case, decoder: Decoder, consumed: list[Tensor]) -> None:
    sizes_K1, num_frames = torch.tensor(decoder.spec.codebook_sizes)[:, None], 157
    draws_KN = torch.rand(decoder.spec.num_codebooks, num_frames, generator=torch.Generator().manual_seed(0))
    codes_KN = (draws_KN * sizes_K1).long()
    decoder.decode(codes_KN[None], torch.tensor([num_frames]))
    latent_ND = case.latent(decoder.embed(codes_KN[None])[0])
    parts = [part[0] if part.ndim == 3 else part for part in consumed]
    consumed_ND = torch.cat([part if part.shape[1] == latent_ND.shape[1] else part.T for part in parts])
    assert latent_ND.std(dim=0).max() > 0
    torch.testing.assert_close(consumed_ND, latent_ND, rtol=1e-4, atol=1e-5 * float(latent_ND.abs().max()))
