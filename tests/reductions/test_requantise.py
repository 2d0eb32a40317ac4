"""Codes to latents and back, against brute force over all codes, and on real codes of the shipped codec."""

import itertools
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from reduction_cases import Codewords, random_codes, walk
from torch import Tensor

from audiotok.reductions.plan import Plan, interpolation, means
from audiotok.reductions.requantise import CodeVectors
from audiotok.tokenizers.codec import Codec
from audiotok.types import TokenSpec


class Bands:
    """A tokenizer whose codebooks each say a number of their own, as dMel's do."""

    spec = TokenSpec(16_000, Fraction(40), (5, 3, 7), "bands")

    def embed(self, codes_BKN: Tensor) -> Tensor:
        return (codes_BKN * 0.5 - 1)[..., None].float()


def every_code(sizes: tuple[int, ...]) -> Tensor:
    """codes_KN of all that there are."""
    return torch.tensor(list(itertools.product(*map(range, sizes)))).T


def greedy(hidden_D: Tensor, vectors: tuple[Tensor, ...]) -> list[int]:
    codes = []
    for vectors_VD in vectors:
        distances = [float((hidden_D - vector_D).square().sum()) for vector_D in vectors_VD]
        codes.append(distances.index(min(distances)))
        hidden_D = hidden_D - vectors_VD[codes[-1]]
    return codes


def test_a_latent_is_the_sum_of_the_codes_vectors() -> None:
    tokenizer = Codewords(7, 5, 9)
    codes_KN = random_codes(tokenizer.spec, 20)
    hidden_ND = CodeVectors.of(tokenizer).latent(codes_KN)
    assert hidden_ND.dtype == torch.float32
    assert torch.allclose(hidden_ND, tokenizer.embed(codes_KN[None])[0].sum(dim=0), atol=1e-6)


def test_codebooks_of_single_numbers_stand_side_by_side_and_come_back_exactly() -> None:
    vectors, codes_KN = CodeVectors.of(Bands()), every_code(Bands.spec.codebook_sizes)
    assert not vectors.summed
    assert torch.equal(vectors.latent(codes_KN), codes_KN.T * 0.5 - 1)
    assert torch.equal(vectors.nearest(vectors.latent(codes_KN)), codes_KN)
    assert torch.equal(vectors.nearest(vectors.latent(codes_KN) + 0.2), codes_KN)
    assert vectors.nearest(torch.full((1, 3), 100.0)).T.tolist() == [[4, 2, 6]]


def test_what_is_said_of_sums_goes_before_what_the_width_tells() -> None:
    assert not CodeVectors.of(Codewords(4, 4), summed=False).summed
    assert CodeVectors.of(Bands(), summed=True).summed
    assert CodeVectors.of(Codewords(4, width=1)).summed
    wide = CodeVectors.of(Codewords(7, 5), summed=False)
    codes_KN = random_codes(Codewords(7, 5).spec, 30)
    assert wide.latent(codes_KN).shape == (30, 12)
    assert torch.equal(wide.nearest(wide.latent(codes_KN)), codes_KN)


@pytest.mark.parametrize("sizes", [(6,), (7, 5, 9), (1, 4)])
def test_a_greedy_search_takes_the_nearest_codebook_by_codebook(sizes: tuple[int, ...]) -> None:
    vectors, hidden_ND = CodeVectors.of(Codewords(*sizes)), walk(25).double()
    assert vectors.nearest(hidden_ND).T.tolist() == [greedy(hidden_D, vectors.vectors) for hidden_D in hidden_ND]


def test_a_beam_that_holds_everything_finds_the_nearest_of_all_sums() -> None:
    tokenizer = Codewords(6, 5, 4)
    codes_KN = every_code(tokenizer.spec.codebook_sizes)
    sums_ND = CodeVectors.of(tokenizer).latent(codes_KN).double()
    hidden_ND = walk(40).double()
    expected_KN = codes_KN[:, torch.cdist(hidden_ND, sums_ND).argmin(dim=1)]
    assert torch.equal(CodeVectors.of(tokenizer, beam=120).nearest(hidden_ND), expected_KN)
    assert not torch.equal(CodeVectors.of(tokenizer, beam=1).nearest(hidden_ND), expected_KN)


def test_the_first_of_equal_codes_is_taken() -> None:
    vectors = CodeVectors((torch.tensor([[1.0], [0.0], [1.0], [0.0]]).double(),), True)
    assert vectors.nearest(torch.tensor([[0.9], [0.1]])).tolist() == [[0, 1]]


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("summed", [True, False])
def test_distances_held_at_a_time_do_not_matter(beam: int, summed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = CodeVectors.of(Codewords(7, 5), summed=summed, beam=beam)
    hidden_ND = walk(23, width=6 if summed else 12)
    whole_KN = vectors.nearest(hidden_ND)
    monkeypatch.setattr("audiotok.reductions.requantise.CHUNK", 20)
    assert torch.equal(vectors.nearest(hidden_ND), whole_KN)


@pytest.mark.parametrize("summed", [True, False])
def test_no_frames_have_no_codes(summed: bool) -> None:
    vectors = CodeVectors.of(Codewords(7, 5), summed=summed)
    empty_K0 = torch.zeros(2, 0, dtype=torch.int64)
    assert torch.equal(vectors.nearest(vectors.latent(empty_K0)), empty_K0)
    assert torch.equal(vectors.mixed(means(torch.zeros(0, dtype=torch.int64)).down_MN, empty_K0), empty_K0)


def test_the_centre_is_the_mean_latent_of_all_codes() -> None:
    for tokenizer in (Codewords(6, 5, 4), Bands()):
        vectors = CodeVectors.of(tokenizer)
        all_ND = vectors.latent(every_code(tokenizer.spec.codebook_sizes))
        assert torch.allclose(vectors.centre_D, all_ND.mean(dim=0), atol=1e-5)


def test_a_part_is_a_tokenizer_of_fewer_codebooks() -> None:
    part, hidden_ND = CodeVectors.of(Codewords(6, 5, 4), beam=2).part(1, None), walk(15)
    assert torch.equal(part.nearest(hidden_ND), CodeVectors(part.vectors, True, 2).nearest(hidden_ND))
    assert part.nearest(hidden_ND).shape == (2, 15)
    assert CodeVectors.of(Codewords(6, 5)).part(2, None).nearest(hidden_ND).shape == (0, 15)


@pytest.mark.parametrize("beam", [1, 4])
def test_a_mean_of_frames_with_the_same_codes_has_them_and_others_the_nearest(beam: int) -> None:
    tokenizer = Codewords(16, 16, 16)
    vectors = CodeVectors.of(tokenizer, beam=beam)
    codes_KN = random_codes(tokenizer.spec, 40)
    plan = means(torch.tensor([1, 2, 3, 4] * 4))
    mixed_KM = vectors.mixed(plan.down_MN, codes_KN)
    nearest_KM = vectors.nearest(plan.tokens(vectors.latent(codes_KN)))
    alike = 0
    for token, frames_KN in enumerate(codes_KN.split(plan.durations_M.tolist(), dim=1)):
        same = bool((frames_KN == frames_KN[:, :1]).all())
        alike += same
        assert torch.equal(mixed_KM[:, token], frames_KN[:, 0] if same else nearest_KM[:, token])
    assert 4 < alike < 16
    assert not torch.equal(CodeVectors.of(tokenizer).nearest(vectors.latent(codes_KN)), codes_KN)  # which is why


def test_the_way_back_by_interpolation_keeps_what_does_not_change() -> None:
    vectors, codes_KN = CodeVectors.of(Codewords(16, 16)), torch.tensor([[3, 3, 9], [5, 5, 0]])
    up_KN = vectors.mixed(interpolation(torch.tensor([2, 2, 2])), codes_KN)
    assert up_KN[:, :3].tolist() == [[3, 3, 3], [5, 5, 5]] and up_KN[:, 5].tolist() == [9, 0]


def test_a_tokenizer_without_vectors_is_refused() -> None:
    class Units:
        spec = Bands.spec

    with pytest.raises(ValueError, match="Units has no `embed`: a lossy reduction needs the vectors"):
        CodeVectors.of(Units())
    with pytest.raises(ValueError, match="a beam of 0"):
        CodeVectors.of(Bands(), beam=0)


def test_real_codes_are_the_sum_that_is_decoded_and_a_beam_finds_nearly_all_of_them_again(wav_16k: Tensor) -> None:
    codec = Codec.from_pretrained("codec_50hz")
    codes_KN = codec.encode(wav_16k[None], torch.tensor([len(wav_16k)]))[0][0]
    greedy, wide = CodeVectors.of(codec), CodeVectors.of(codec, beam=16)
    hidden_ND = greedy.latent(codes_KN)
    assert torch.allclose(hidden_ND, codec.embed(codes_KN[None])[0].sum(dim=0), atol=1e-4)
    narrow_KN, wide_KN = greedy.nearest(hidden_ND), wide.nearest(hidden_ND)
    assert 0.5 < (narrow_KN == codes_KN).float().mean() < 0.9 < (wide_KN == codes_KN).float().mean()

    def error(found_KN: Tensor) -> float:
        return float((greedy.latent(found_KN) - hidden_ND).square().sum() / (hidden_ND - greedy.centre_D).square().sum())

    assert error(wide_KN) < 1e-3 < error(narrow_KN) < 1e-2


def test_the_nearest_code_of_each_code_of_the_single_codebook_codec_is_itself() -> None:
    codec = Codec.from_pretrained("codec_single")
    vectors = CodeVectors.of(codec)
    codes_KN = torch.arange(0, 32_768, 97)[None]
    assert torch.equal(vectors.nearest(vectors.latent(codes_KN)), codes_KN)


def test_vectors_of_fewer_codebooks_are_those_of_the_first_ones() -> None:
    tokenizer = Codewords(6, 5, 4)
    fewer = Codewords(6, 5)
    fewer.vectors, fewer.spec = tokenizer.vectors[:2], replace(tokenizer.spec, codebook_sizes=(6, 5))
    for one, other in zip(CodeVectors.of(fewer).vectors, CodeVectors.of(tokenizer).vectors):
        assert torch.equal(one, other)


def test_a_plan_that_takes_frames_as_they_are_changes_no_code() -> None:
    tokenizer = Codewords(16, 16, 16)
    codes_KN = random_codes(tokenizer.spec, 30)
    kept = torch.arange(0, 30, 3)
    plan = Plan(torch.eye(30)[kept], torch.full((10,), 3))
    assert torch.equal(CodeVectors.of(tokenizer).mixed(plan.down_MN, codes_KN), codes_KN[:, kept])
