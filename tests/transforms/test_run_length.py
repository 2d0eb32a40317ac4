"""Runs of frames against itertools.groupby, and the laws of transforms/base.py on every size that a tokenizer has."""

import itertools
import re
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
from audiotok.transforms.base import Constrained, Transform
from audiotok.transforms.run_length import Deduplicate, ImplicitRunLength, RunLength
from audiotok.types import TokenSpec

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "transform"
KINDS = [RunLength, ImplicitRunLength]

every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
often = settings(deadline=None, max_examples=60, derandomize=True)


def spec_of(*sizes: int) -> TokenSpec:
    return TokenSpec(sample_rate=16_000, frame_rate=Fraction(50), codebook_sizes=sizes, fingerprint="abc")


@st.composite
def utterances(draw: st.DrawFn, most_codes: int) -> tuple[TokenSpec, Tensor]:
    """Few different frames, each of them some times in a row."""
    num_codebooks = draw(st.sampled_from([1, 2, 3, 8, 80]))
    size = draw(st.sampled_from([2, 3, 16, 1024, 65_536]))
    num_frames = draw(st.sampled_from([0, 1, 2, 7, 100, 1000, 10_000])) % (most_codes // num_codebooks + 1)
    different, longest = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    frames_KV = torch.randint(size, (num_codebooks, different), generator=generator)
    frames_N = torch.randint(different, (num_frames,), generator=generator)
    repeats_N = torch.randint(1, longest + 1, (num_frames,), generator=generator)
    return spec_of(*[size] * num_codebooks), frames_KV[:, frames_N.repeat_interleave(repeats_N)[:num_frames]]


def slow_runs(codes_KN: Tensor, longest: int) -> list[tuple[tuple[int, ...], int]]:
    found = []
    for frame, run in itertools.groupby(zip(*codes_KN.tolist(), strict=True)):
        frames = len(list(run))
        found += [(frame, longest)] * (frames // longest) + ([(frame, frames % longest)] if frames % longest else [])
    return found


def rows(positions: list[list[int]], num_codebooks: int) -> list[list[int]]:
    return [[position[codebook] for position in positions] for codebook in range(num_codebooks)]


def test_the_pictures_show_what_is_done() -> None:
    codes_KN, spec = torch.tensor([[1, 1, 1, 1, 1, 2, 2], [5, 5, 5, 5, 5, 5, 5]]), spec_of(10, 10)
    assert RunLength(longest=3).apply(codes_KN, spec).tolist() == [[1, 1, 2], [5, 5, 5], [2, 1, 1]]
    assert ImplicitRunLength(longest=3).apply(codes_KN, spec).tolist() == [[21, 11, 12], [5, 5, 5]]
    assert Deduplicate().apply(codes_KN, spec).tolist() == [[1, 2], [5, 5]]


@often
@given(utterances(most_codes=4000), st.sampled_from([1, 2, 3, 8, 100]))
def test_runs_are_those_that_groupby_finds(case: tuple[TokenSpec, Tensor], longest: int) -> None:
    spec, codes_KN = case
    num_codebooks, size = spec.num_codebooks, spec.codebook_sizes[0]
    found = slow_runs(codes_KN, longest)
    explicit = rows([[*frame, frames - 1] for frame, frames in found], num_codebooks + 1)
    implicit = rows([[frame[0] + (frames - 1) * size, *frame[1:]] for frame, frames in found], num_codebooks)
    units = rows([list(frame) for frame, _ in slow_runs(codes_KN, 10_000)], num_codebooks)
    assert RunLength(longest).apply(codes_KN, spec).tolist() == explicit
    assert ImplicitRunLength(longest).apply(codes_KN, spec).tolist() == implicit
    assert Deduplicate().apply(codes_KN, spec).tolist() == units


@every_kind
@often
@given(case=utterances(most_codes=200_000), longest=st.sampled_from([1, 2, 8, 65_536]))
def test_invert_undoes_apply_within_the_out_spec_and_leaves_its_input_alone(
    kind: type[RunLength | ImplicitRunLength], case: tuple[TokenSpec, Tensor], longest: int
) -> None:
    (spec, codes_KN), transform = case, kind(longest)
    before_KN = codes_KN.clone()
    made_KN = transform.apply(codes_KN, spec)
    sizes = transform.out_spec(spec).codebook_sizes
    assert len(made_KN) == len(sizes) and (made_KN < torch.tensor(sizes)[:, None]).all() and (made_KN >= 0).all()
    assert made_KN.shape[1] <= codes_KN.shape[1] and made_KN.dtype == torch.int64
    again_KN = made_KN.clone()
    assert torch.equal(transform.invert(made_KN, spec), codes_KN)
    assert torch.equal(codes_KN, before_KN) and torch.equal(made_KN, again_KN)


@often
@given(utterances(most_codes=100_000))
def test_units_hold_no_run_and_units_they_stay(case: tuple[TokenSpec, Tensor]) -> None:
    spec, codes_KN = case
    units_KN = Deduplicate().apply(codes_KN, spec)
    assert (units_KN[:, 1:] != units_KN[:, :-1]).any(0).all()
    assert torch.equal(Deduplicate().invert(units_KN, spec), units_KN)
    assert torch.equal(Deduplicate().apply(units_KN, spec), units_KN)
    assert not Deduplicate().lossless


@every_kind
@often
@given(seed=st.integers(0, 2**32), longest=st.integers(1, 5))
def test_a_fuzzed_stream_inverts_or_is_refused_by_the_position_of_its_first_wrong_code(
    kind: type[RunLength | ImplicitRunLength], seed: int, longest: int
) -> None:
    generator, spec, transform = torch.Generator().manual_seed(seed), spec_of(3, 7), kind(longest)
    sizes = transform.out_spec(spec).codebook_sizes
    codes_KN = (torch.rand(len(sizes), 9, generator=generator) * torch.tensor(sizes)[:, None]).long()
    assert transform.invert(codes_KN, spec).shape[1] >= 9
    row, position = int(torch.randint(len(sizes), (), generator=generator)), int(torch.randint(9, (), generator=generator))
    for wrong in (-1, sizes[row], 2**62, -(2**63)):
        codes_KN[row, position] = wrong
        with pytest.raises(ValueError, match=rf"^code {re.escape(str(wrong))} at position {position} is outside codebook {row}"):
            transform.invert(codes_KN, spec)


@every_kind
def test_a_run_in_two_halves_inverts_to_the_whole_run(kind: type[RunLength | ImplicitRunLength]) -> None:
    spec, transform = spec_of(10), kind(longest=4)
    whole_KN = transform.apply(torch.tensor([[7, 7, 7, 7]]), spec)
    halves_KN = transform.apply(torch.tensor([[7, 7]]), spec).repeat(1, 2)
    assert whole_KN.shape[1] == 1
    assert torch.equal(transform.invert(halves_KN, spec), transform.invert(whole_KN, spec))


def test_real_silence_and_vowels_are_shorter_in_units_of_a_coarse_codebook(wav_16k: Tensor) -> None:
    codec = Codec.from_pretrained("codec_50hz", num_codebooks=1)
    codes_KN, spec = codec.encode(wav_16k[None], torch.tensor([len(wav_16k)]))[0][0], codec.spec
    for transform in (RunLength(8), ImplicitRunLength(4)):
        made_KN = transform.apply(codes_KN, spec)
        assert made_KN.shape[1] < 0.95 * codes_KN.shape[1]
        assert torch.equal(transform.invert(made_KN, spec), codes_KN)


@pytest.mark.parametrize("transform", [RunLength(4), ImplicitRunLength(4), Deduplicate()], ids=str)
def test_codes_that_do_not_fit_the_spec_are_refused(transform: Transform) -> None:
    spec = spec_of(4, 9)
    for codes_KN in (torch.tensor([[0], [9]]), torch.tensor([[-1], [0]])):
        with pytest.raises(ValueError, match="at position 0 is outside codebook"):
            transform.apply(codes_KN, spec)
    for codes_KN in (torch.zeros(4, 2).long(), torch.zeros(2, 2), torch.zeros(2).long()):
        with pytest.raises(ValueError, match=r"want torch\.int64 \[2, frames\]"):
            transform.apply(codes_KN, spec)
    with pytest.raises(ValueError, match=r"want torch\.int64 \[\d, frames\]"):
        transform.invert(torch.zeros(5, 8).long(), spec)


@every_kind
def test_runs_of_no_frames_are_refused(kind: type[RunLength | ImplicitRunLength]) -> None:
    with pytest.raises(ValueError, match="got runs of at most 0 frames, want 1 or more"):
        kind(longest=0)


def test_out_specs_say_the_sizes_and_each_setting_has_its_mark() -> None:
    spec = spec_of(10, 20)
    assert RunLength(3).out_spec(spec).codebook_sizes == (10, 20, 3)
    assert ImplicitRunLength(3).out_spec(spec).codebook_sizes == (30, 20)
    assert Deduplicate().out_spec(spec).codebook_sizes == (10, 20)
    specs = [
        transform.out_spec(spec) for transform in (RunLength(3), RunLength(4), ImplicitRunLength(3), ImplicitRunLength(4), Deduplicate())
    ]
    assert len({out.fingerprint for out in specs} | {spec.fingerprint}) == 6
    assert {out.frame_rate for out in specs} == {spec.frame_rate}


def test_what_drops_durations_has_no_grammar_and_what_keeps_them_has_one() -> None:
    assert isinstance(RunLength(3), Constrained) and isinstance(ImplicitRunLength(3), Constrained)
    assert not isinstance(Deduplicate(), Constrained)


@pytest.mark.parametrize(
    ("name", "transform"),
    [("run_length", RunLength(longest=8)), ("implicit_run_length", ImplicitRunLength(longest=4)), ("deduplicate", Deduplicate())],
)
def test_each_config_builds_its_transform(name: str, transform: Transform) -> None:
    assert instantiate(OmegaConf.load(CONFIGS / f"{name}.yaml")) == transform
