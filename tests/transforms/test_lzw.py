"""LZW against a dictionary of tuples, both ways, and the laws of transforms/base.py on every size that a tokenizer has."""

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from audiotok.tokenizers.codec import Codec
from audiotok.transforms.lzw import Lzw
from audiotok.transforms.patterns import Flatten
from audiotok.types import TokenSpec

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "transform"

often = settings(deadline=None, max_examples=80, derandomize=True)


def spec_of(*sizes: int) -> TokenSpec:
    return TokenSpec(sample_rate=16_000, frame_rate=Fraction(50), codebook_sizes=sizes, fingerprint="abc")


@st.composite
def utterances(draw: st.DrawFn, most_codes: int) -> tuple[TokenSpec, Tensor]:
    """Few different stretches of frames, again and again, among frames of chance."""
    num_codebooks = draw(st.sampled_from([1, 2, 3, 8, 80]))
    size = draw(st.sampled_from([1, 2, 3, 16, 1024, 65_536]))
    num_frames = draw(st.sampled_from([0, 1, 2, 7, 100, 1000, 10_000])) % (most_codes // num_codebooks + 1)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    codes_KN = torch.randint(size, (num_codebooks, num_frames), generator=generator)
    period = draw(st.integers(1, 9))
    again_N = torch.rand(num_frames, generator=generator) < draw(st.sampled_from([0.0, 0.5, 0.95, 1.0]))
    stretch_KN = codes_KN[:, torch.arange(num_frames) % period]
    return spec_of(*[size] * num_codebooks), torch.where(again_N, stretch_KN, codes_KN)


def slow_encode(codes: list[int], num_base: int, transform: Lzw) -> list[int]:
    numbers: dict[tuple[int, ...], int] = {(code,): code for code in codes}
    made, written, at = 0, [], 0
    while at < len(codes):
        length = 1
        while at + length < len(codes) and tuple(codes[at : at + length + 1]) in numbers:
            length += 1
        written.append(numbers[tuple(codes[at : at + length])])
        if at + length < len(codes) and made < transform.hypertokens and length < transform.longest:
            numbers[tuple(codes[at : at + length + 1])] = num_base + made
            made += 1
        at += length
    return written


def slow_decode(ids: list[int], spec: TokenSpec, transform: Lzw) -> list[int] | str:
    """The flat codes, or where they end in what is wrong."""
    num_base, phrases, before, codes = sum(spec.codebook_sizes), [], [], []
    for position, number in enumerate(ids):
        makes = bool(before) and len(phrases) < transform.hypertokens and len(before) < transform.longest
        if 0 <= number < num_base:
            phrase = [number]
        elif 0 <= number - num_base < len(phrases):
            phrase = phrases[number - num_base]
        elif makes and number - num_base == len(phrases):
            phrase = [*before, before[0]]
        else:
            return f"position {position} "
        turn = len(codes) % spec.num_codebooks
        if not 0 <= phrase[0] - spec.vocabulary_offsets[turn] < spec.codebook_sizes[turn]:
            return f"position {position} "
        if makes:
            phrases.append([*before, phrase[0]])
        before, codes = phrase, codes + phrase
    return f"ends at position {len(ids)}, " if len(codes) % spec.num_codebooks else codes


transforms = st.builds(Lzw, st.sampled_from([1, 2, 5, 40, 5000]), st.sampled_from([2, 3, 8, 10_000]))


def test_the_picture_shows_what_is_done() -> None:
    codes_1N, spec = torch.tensor([[1, 2, 1, 2, 1, 2, 1]]), spec_of(10)
    ids_1M = Lzw(hypertokens=5, longest=3).apply(codes_1N, spec)
    assert ids_1M.tolist() == [[1, 2, 10, 12]]
    assert torch.equal(Lzw(hypertokens=5, longest=3).invert(ids_1M, spec), codes_1N)


@often
@given(utterances(most_codes=2000), transforms)
def test_ids_are_those_of_a_dictionary_of_tuples(case: tuple[TokenSpec, Tensor], transform: Lzw) -> None:
    spec, codes_KN = case
    flat = Flatten().apply(codes_KN, spec)[0].tolist()
    assert transform.apply(codes_KN, spec)[0].tolist() == slow_encode(flat, sum(spec.codebook_sizes), transform)


@often
@given(utterances(most_codes=200_000), transforms)
def test_invert_undoes_apply_within_the_out_spec_and_leaves_its_input_alone(case: tuple[TokenSpec, Tensor], transform: Lzw) -> None:
    spec, codes_KN = case
    before_KN = codes_KN.clone()
    ids_1M = transform.apply(codes_KN, spec)
    (size,) = transform.out_spec(spec).codebook_sizes
    assert len(ids_1M) == 1 and ids_1M.dtype == torch.int64 and ((ids_1M >= 0) & (ids_1M < size)).all()
    assert ids_1M.shape[1] <= codes_KN.numel()
    again_1M = ids_1M.clone()
    assert torch.equal(transform.invert(ids_1M, spec), codes_KN)
    assert torch.equal(codes_KN, before_KN) and torch.equal(ids_1M, again_1M)


@often
@given(st.integers(0, 2**32), st.sampled_from([(2,), (3, 2), (1, 1, 2)]), transforms)
def test_a_fuzzed_stream_gives_what_the_slow_decoder_gives_or_is_refused_where_it_refuses(
    seed: int, sizes: tuple[int, ...], transform: Lzw
) -> None:
    generator, spec = torch.Generator().manual_seed(seed), spec_of(*sizes)
    codes_KN = (torch.rand(len(sizes), 12, generator=generator) * torch.tensor(sizes)[:, None]).long()
    ids_1M = transform.apply(codes_KN, spec)
    for position in torch.randint(ids_1M.shape[1], (2,), generator=generator).tolist():
        ids_1M[0, position] = torch.randint(-2, sum(sizes) + 12, (), generator=generator)
    ids_1M = ids_1M[:, : int(torch.randint(ids_1M.shape[1] + 1, (), generator=generator))]
    expected = slow_decode(ids_1M[0].tolist(), spec, transform)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            transform.invert(ids_1M, spec)
    else:
        assert Flatten().apply(transform.invert(ids_1M, spec), spec)[0].tolist() == expected


@pytest.mark.parametrize("wrong", [-1, -(2**63), 2**62, 5_000_000])
def test_an_id_far_outside_the_vocabulary_is_refused_by_its_position(wrong: int) -> None:
    with pytest.raises(
        ValueError, match=rf"^id {wrong} at position 2 stands for nothing there, with 2 hypertokens made and codebook 0 next"
    ):
        Lzw(40, 8).invert(torch.tensor([[1, 2, wrong]]), spec_of(4))


def test_a_hypertoken_can_be_used_as_soon_as_it_is_made_and_no_sooner() -> None:
    spec, transform = spec_of(4), Lzw(40, 8)
    assert transform.invert(torch.tensor([[1, 4, 5]]), spec).tolist() == [[1, 1, 1, 1, 1, 1]]
    for ids in ([4], [1, 5], [1, 4, 6]):
        with pytest.raises(ValueError, match=rf"^id {ids[-1]} at position {len(ids) - 1} "):
            transform.invert(torch.tensor([ids]), spec)


def test_a_dictionary_that_is_full_is_not_changed_and_none_of_its_entries_is_too_long() -> None:
    spec, codes_1N = spec_of(4), torch.zeros(1, 64, dtype=torch.int64)
    assert Lzw(hypertokens=2, longest=8).apply(codes_1N, spec).tolist() == [[0, 4, *[5] * 20, 0]]
    assert Lzw(hypertokens=40, longest=2).apply(codes_1N, spec).tolist() == [[0, *[4] * 31, 0]]


def test_a_stream_that_ends_within_a_frame_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^the stream ends at position 3, within a frame: 3 codes of 2 codebooks"):
        Lzw(4, 4).invert(torch.tensor([[0, 5, 1]]), spec_of(4, 9))


def test_a_periodic_stream_takes_about_the_square_root_of_twice_its_length() -> None:
    spec, codes_1N = spec_of(1), torch.zeros(1, 10_000, dtype=torch.int64)
    assert Lzw(hypertokens=1000, longest=1000).apply(codes_1N, spec).shape[1] == 141  # 1 + 2 + ... + 140 = 9,870, and the rest


def test_real_codes_come_back_and_the_coarse_ones_are_shorter(wav_16k: Tensor) -> None:
    for num_codebooks, at_most in ((1, 0.97), (6, 1.0)):
        codec = Codec.from_pretrained("codec_50hz", num_codebooks=num_codebooks)
        codes_KN, spec = codec.encode(wav_16k[None], torch.tensor([len(wav_16k)]))[0][0], codec.spec
        ids_1M = Lzw(4096, 8).apply(codes_KN, spec)
        assert ids_1M.shape[1] <= at_most * codes_KN.numel()
        assert torch.equal(Lzw(4096, 8).invert(ids_1M, spec), codes_KN)


def test_codes_that_do_not_fit_the_spec_are_refused() -> None:
    spec = spec_of(4, 9)
    for codes_KN, message in (([[0, 0], [0, 9]], "code 9 at position 1 is outside codebook 1"), ([[-1], [0]], "code -1 at position 0")):
        with pytest.raises(ValueError, match=message):
            Lzw(4, 4).apply(torch.tensor(codes_KN), spec)
    for codes in (torch.zeros(3, 2).long(), torch.zeros(2, 2), torch.zeros(2).long()):
        with pytest.raises(ValueError, match=r"want torch\.int64 \[2, frames\]"):
            Lzw(4, 4).apply(codes, spec)
    with pytest.raises(ValueError, match=r"want torch\.int64 \[1, frames\]"):
        Lzw(4, 4).invert(torch.zeros(2, 8).long(), spec)


@pytest.mark.parametrize(("hypertokens", "longest"), [(0, 4), (4, 1)])
def test_settings_that_mean_nothing_are_refused(hypertokens: int, longest: int) -> None:
    with pytest.raises(ValueError, match=f"got {hypertokens} hypertokens of at most {longest} codes, want 1 or more, of at least 2"):
        Lzw(hypertokens, longest)


def test_the_out_spec_says_the_ids_and_the_most_positions_and_marks_each_setting() -> None:
    spec = spec_of(10, 20)
    out = Lzw(7, 3).out_spec(spec)
    assert out.codebook_sizes == (37,) and out.frame_rate == 100
    assert len({transform.out_spec(spec).fingerprint for transform in (Lzw(7, 3), Lzw(7, 4), Lzw(8, 3))} | {spec.fingerprint}) == 4


def test_the_config_builds_its_transform() -> None:
    assert instantiate(OmegaConf.load(CONFIGS / "lzw.yaml")) == Lzw(hypertokens=4096, longest=8)
