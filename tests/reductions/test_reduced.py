"""Reductions as transforms: what they make of codes, what they give back, and what they refuse."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from reduction_cases import UNIFORM, VARYING, Codewords, random_codes
from torch import Tensor

from audiotok.reductions.plan import Composed, Reduction
from audiotok.reductions.pruning import ChangeAbove
from audiotok.reductions.reduced import Downsampled, Reduced
from audiotok.reductions.segments import Agglomerative, Similar
from audiotok.reductions.uniform import Average, Blur, First
from audiotok.tokenizers.codec import Codec
from audiotok.transforms.base import Constrained, Layout
from audiotok.transforms.chain import chain
from audiotok.transforms.patterns import Flatten
from audiotok.transforms.streaming import TransformStream
from audiotok.types import TokenSpec

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "transform"
TOKENIZER = Codewords(12, 9)
SPEC = TOKENIZER.spec
DOWNSAMPLED = [
    "decimate2", "decimate3", "decimate4", "average2", "average3", "average4", "average2_linear", "max2", "soft2", "ada2", "blur2",
]  # fmt: skip
REDUCED = [
    "threshold", "agglomerative2", "density_peaks", "by_density2", "kmeans2", "kmedoids2", "change", "change2", "diversity2", "redundancy2",
    "average2_threshold",
]  # fmt: skip


def downsampled(reduction: Reduction, tokenizer: Any = TOKENIZER, **changes: Any) -> Downsampled:
    return Downsampled(tokenizer, reduction, **{"upsampling": "repeat", "summed": None, "beam": 1} | changes)


def reduced(reduction: Reduction, tokenizer: Any = TOKENIZER, **changes: Any) -> Reduced:
    return Reduced(tokenizer, reduction, **{"longest": 4, "upsampling": "repeat", "summed": None, "beam": 1} | changes)


def configured(name: str, tokenizer: Any) -> Any:
    transform = OmegaConf.load(CONFIGS / f"{name}.yaml")
    del transform["tokenizer"]
    return instantiate(transform, tokenizer=tokenizer)


every_uniform = pytest.mark.parametrize("reduction", UNIFORM, ids=repr)
every_varying = pytest.mark.parametrize("reduction", VARYING, ids=repr)


def slow_tokens(transform: Downsampled | Reduced, codes_KN: Tensor) -> list[list[int]]:
    """The codes of each row of the plan's dense matrix, one by one."""
    vectors, rows = transform.vectors, []
    for weights_N in transform.plan(codes_KN).down_MN.to_dense():
        heard = codes_KN[:, weights_N > 0]
        mean_D = weights_N @ vectors.latent(codes_KN).double()
        rows.append(heard[:, 0].tolist() if (heard == heard[:, :1]).all() else vectors.nearest(mean_D[None])[:, 0].tolist())
    return [list(row) for row in zip(*rows)]


@every_uniform
def test_a_downsampled_frame_has_the_codes_nearest_to_its_mean(reduction: Reduction) -> None:
    transform = downsampled(reduction)
    for num_frames in (1, 2, 7, 24):
        codes_KN = random_codes(SPEC, num_frames, seed=num_frames)
        assert transform.apply(codes_KN, SPEC).tolist() == slow_tokens(transform, codes_KN)


@every_varying
def test_a_reduced_frame_says_behind_its_codes_how_long_it_is(reduction: Reduction) -> None:
    transform = reduced(reduction)
    for num_frames in (1, 2, 7, 24):
        codes_KN = random_codes(SPEC, num_frames, seed=num_frames)
        made_KM = transform.apply(codes_KN, SPEC)
        assert made_KM[:-1].tolist() == slow_tokens(transform, codes_KN)
        durations = []
        for duration in reduction.plan(transform.vectors.latent(codes_KN) - transform.vectors.centre_D).durations_M.tolist():
            durations += [4] * (duration // 4) + [duration % 4] * (duration % 4 > 0)
        assert (made_KM[-1] + 1).tolist() == durations


@pytest.mark.parametrize("upsampling", ["repeat", "linear"])
@pytest.mark.parametrize("reduction", UNIFORM + VARYING, ids=repr)
def test_codes_lie_within_the_out_spec_and_come_back_as_many(reduction: Reduction, upsampling: str) -> None:
    made = downsampled if reduction.uniform else reduced
    transform = made(reduction, upsampling=upsampling)
    for num_frames in (0, 1, 5, 24):
        codes_KN = random_codes(SPEC, num_frames, seed=num_frames)
        before_KN = codes_KN.clone()
        out, made_KM = transform.out_spec(SPEC), transform.apply(codes_KN, SPEC)
        assert torch.equal(codes_KN, before_KN)
        assert made_KM.dtype == torch.int64 and made_KM.shape[0] == out.num_codebooks
        assert ((made_KM >= 0) & (made_KM < torch.tensor(out.codebook_sizes)[:, None])).all()
        frames = num_frames if not reduction.uniform else -(-num_frames // reduction.uniform) * reduction.uniform
        back_KN = transform.invert(made_KM, SPEC)
        assert back_KN.shape == (2, frames)
        assert ((back_KN >= 0) & (back_KN < torch.tensor(SPEC.codebook_sizes)[:, None])).all()


def test_repetition_says_each_token_for_its_frames_and_lines_go_between_their_middles() -> None:
    codes_KM = torch.tensor([[3, 7, 0], [1, 8, 2], [0, 2, 1]])
    assert reduced(ChangeAbove(0.5)).invert(codes_KM, SPEC).tolist() == [[3, 7, 7, 7, 0, 0], [1, 8, 8, 8, 2, 2]]
    assert downsampled(First(2)).invert(codes_KM[:2], SPEC).tolist() == [[3, 3, 7, 7, 0, 0], [1, 1, 8, 8, 2, 2]]
    transform = downsampled(First(2), upsampling="linear")
    hidden_MD = transform.vectors.latent(codes_KM[:2]).double()
    between = [hidden_MD[0] * 0.75 + hidden_MD[1] * 0.25, hidden_MD[0] * 0.25 + hidden_MD[1] * 0.75]
    between += [hidden_MD[1] * 0.75 + hidden_MD[2] * 0.25, hidden_MD[1] * 0.25 + hidden_MD[2] * 0.75]
    expected_KN = transform.vectors.nearest(torch.stack(between))
    assert torch.equal(transform.invert(codes_KM[:2], SPEC), torch.cat([codes_KM[:2, :1], expected_KN, codes_KM[:2, 2:]], dim=1))


def test_rates_are_the_most_positions_that_a_second_can_have() -> None:
    assert downsampled(Average(3)).out_spec(SPEC).frame_rate == Fraction(50, 3)
    assert downsampled(Composed([Average(3), First(2)])).out_spec(SPEC).frame_rate == Fraction(50, 6)
    out = reduced(Similar(0.9, longest=4), longest=7).out_spec(SPEC)
    assert (out.frame_rate, out.codebook_sizes) == (50, (12, 9, 7))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 80), st.integers(2, 50), st.integers(0, 60), st.integers(0, 99), st.booleans())
def test_any_number_of_codebooks_of_any_size(num_codebooks: int, size: int, num_frames: int, seed: int, summed: bool) -> None:
    tokenizer = Codewords(*[size] * num_codebooks, width=2)
    codes_KN = random_codes(tokenizer.spec, num_frames, seed=seed)
    varying = reduced(Agglomerative(0.5, linkage="ward", longest=4), tokenizer, summed=summed)
    made_KM = varying.apply(codes_KN, tokenizer.spec)
    assert made_KM.shape[0] == num_codebooks + 1 and varying.invert(made_KM, tokenizer.spec).shape == codes_KN.shape
    still_KN = codes_KN[:, :1].expand(-1, num_frames)
    assert torch.equal(varying.invert(varying.apply(still_KN, tokenizer.spec), tokenizer.spec), still_KN)


def test_a_codebook_of_65536_codes() -> None:
    tokenizer = Codewords(65_536, width=4)
    codes_KN = random_codes(tokenizer.spec, 200)
    transform = downsampled(Average(2), tokenizer)
    made_KM = transform.apply(codes_KN, tokenizer.spec)
    distances_MV = torch.cdist(transform.plan(codes_KN).tokens(transform.vectors.latent(codes_KN).double()), transform.vectors.vectors[0])
    assert torch.allclose(distances_MV.gather(1, made_KM.T)[:, 0], distances_MV.amin(dim=1))


def test_ten_thousand_frames() -> None:
    codes_KN = random_codes(SPEC, 10_000)
    for transform in (reduced(Similar(0.9, longest=4)), reduced(Agglomerative(0.5, linkage="ward", longest=4))):
        assert transform.invert(transform.apply(codes_KN, SPEC), SPEC).shape == (2, 10_000)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 3), st.integers(0, 20), st.integers(0, 9999))
def test_any_stream_inverts_or_is_refused_by_position(rows: int, length: int, seed: int) -> None:
    codes_KM = torch.randint(-2, 13, (rows, length), generator=torch.Generator().manual_seed(seed))
    for transform in (downsampled(Average(2)), reduced(Similar(0.9, longest=4))):
        out = transform.out_spec(SPEC)
        inside_KM = (codes_KM >= 0) & (codes_KM < torch.tensor(out.codebook_sizes)[:rows, None]) if rows == out.num_codebooks else None
        if inside_KM is None:
            with pytest.raises(ValueError, match=rf"want torch\.int64 \[{out.num_codebooks}, frames\]"):
                transform.invert(codes_KM, SPEC)
        elif inside_KM.all():
            assert transform.invert(codes_KM, SPEC).shape[0] == 2
        else:
            with pytest.raises(ValueError, match=r"at position \d+ is outside codebook"):
                transform.invert(codes_KM, SPEC)


def test_a_downsampling_is_a_layout() -> None:
    transform = downsampled(Average(3))
    assert isinstance(transform, Layout) and not isinstance(transform, Constrained)
    for num_frames in (0, 1, 3, 7):
        made_KM = transform.apply(random_codes(SPEC, num_frames), SPEC)
        assert transform.frame_index(num_frames, SPEC).tolist() == list(range(0, num_frames, 3))
        assert transform.legal(num_frames, SPEC).tolist() == torch.ones_like(made_KM).bool().tolist()
        first_KM, end_KM = transform.legal_ids(num_frames, SPEC)
        assert first_KM.tolist() == torch.zeros_like(made_KM).tolist()
        assert end_KM.tolist() == torch.tensor(SPEC.codebook_sizes)[:, None].expand_as(made_KM).tolist()
    assert transform.sources(SPEC) == ((0,), (1,))


def test_what_the_grammar_lets_through_inverts_and_nothing_else() -> None:
    transform = reduced(Similar(0.9, longest=4))
    assert isinstance(transform, Constrained) and not isinstance(transform, Layout)
    grammar, codes_KM = transform.grammar(SPEC), transform.apply(random_codes(SPEC, 20), SPEC)
    state = grammar.start()
    for place, code in enumerate(codes_KM.T.flatten().tolist()):
        assert grammar.complete(state) == (place % 3 == 0)
        assert grammar.legal(state).tolist() == [True] * (12, 9, 4)[place % 3]
        state = grammar.advance(state, code)
    assert grammar.complete(state)
    for code in (-1, 12):
        with pytest.raises(ValueError, match=f"code {code} is outside codebook 0, which holds 12"):
            grammar.advance(grammar.start(), code)


@pytest.mark.parametrize(
    "transform",
    [downsampled(Average(3)), reduced(Similar(0.7, longest=3)), reduced(ChangeAbove(0.7), longest=2), reduced(Similar(0.7, longest=9))],
    ids=repr,
)
def test_a_causal_reduction_streams(transform: Downsampled | Reduced) -> None:
    stream = TransformStream(transform, SPEC)
    for seed in range(8):
        codes_KN = random_codes(SPEC, 40, seed=seed)
        cuts = torch.randint(1, 6, (40,), generator=torch.Generator().manual_seed(seed)).cumsum(0)
        state, parts = stream.open(), []
        for piece_KN in codes_KN.tensor_split(cuts[cuts < 40], dim=1):
            made_KM, state = stream.push(state, piece_KN)
            parts.append(made_KM)
        assert sum(part.shape[1] for part in parts) > 4
        assert torch.equal(torch.cat([*parts, stream.close(state)], dim=1), transform.apply(codes_KN, SPEC))


def test_what_looks_ahead_is_refused_a_stream() -> None:
    for transform in (downsampled(Blur(2, taps=4)), reduced(Agglomerative(0.5, linkage="ward", longest=4))):
        stream = TransformStream(transform, SPEC)
        with pytest.raises(ValueError, match=r"(Blur|Agglomerative)\(.*\) cannot stream"):
            stream.push(stream.open(), random_codes(SPEC, 9))


def test_every_setting_changes_the_fingerprint_and_so_does_the_tokenizer() -> None:
    other = Codewords(12, 9, seed=1)
    made = [
        downsampled(Average(2)), downsampled(Average(3)), downsampled(First(2)), downsampled(Average(2), upsampling="linear"),
        downsampled(Average(2), summed=False), downsampled(Average(2), beam=2), downsampled(Average(2), other),
        reduced(Average(2)), reduced(Average(2), longest=5), reduced(Average(2), other), reduced(Similar(0.9, longest=3)),
    ]  # fmt: skip
    assert len({transform.out_spec(SPEC).fingerprint for transform in made} | {SPEC.fingerprint}) == len(made) + 1
    assert len({repr(transform) for transform in made}) == len(made)
    assert downsampled(Average(2)).out_spec(SPEC) == downsampled(Average(2)).out_spec(SPEC)


def test_codes_that_have_no_vectors_are_refused() -> None:
    flat = Flatten()
    for transform in (downsampled(Average(2)), reduced(Similar(0.9, longest=4))):
        with pytest.raises(ValueError, match=r"codebooks \(21,\), want the tokenizer's \(12, 9\).*put it before"):
            transform.out_spec(flat.out_spec(SPEC))
        with pytest.raises(ValueError, match="put it before"):
            transform.apply(torch.zeros(1, 4, dtype=torch.int64), flat.out_spec(SPEC))
        with pytest.raises(ValueError, match="code 12 at position 1 is outside codebook 0"):
            transform.apply(torch.tensor([[0, 12], [0, 0]]), SPEC)

    class Units:
        spec = SPEC

    with pytest.raises(ValueError, match="Units has no `embed`"):
        downsampled(Average(2), Units()).apply(torch.zeros(2, 4, dtype=torch.int64), SPEC)
    assert downsampled(Average(2), Units()).out_spec(SPEC).frame_rate == 25


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="different numbers of frames; use Reduced"):
        downsampled(Similar(0.9, longest=4))
    with pytest.raises(ValueError, match="at most 0 frames"):
        reduced(Average(2), longest=0)
    for made in (downsampled, reduced):
        with pytest.raises(ValueError, match="upsampling=cubic, want repeat or linear"):
            made(Average(2), upsampling="cubic")
        with pytest.raises(ValueError, match="a beam of 0"):
            made(Average(2), beam=0)


def test_a_reduction_goes_before_other_transforms_in_a_chain() -> None:
    codes_KN = random_codes(SPEC, 21)
    both = chain({"step0": downsampled(Average(2)), "step1": Flatten()})
    flat_1M = both.apply(codes_KN, SPEC)
    assert flat_1M.shape == (1, 22) and both.out_spec(SPEC).frame_rate == 50
    assert torch.equal(both.invert(flat_1M, SPEC), downsampled(Average(2)).invert(downsampled(Average(2)).apply(codes_KN, SPEC), SPEC))


@pytest.mark.parametrize("name", DOWNSAMPLED + REDUCED)
def test_each_config_makes_a_transform(name: str) -> None:
    transform, num_frames = configured(name, TOKENIZER), 24
    assert isinstance(transform, Downsampled if name in DOWNSAMPLED else Reduced)
    codes_KN = random_codes(SPEC, num_frames)
    made_KM = transform.apply(codes_KN, SPEC)
    assert transform.invert(made_KM, SPEC).shape == (2, num_frames)
    if name in DOWNSAMPLED:
        assert transform.frames == int(name.split("_")[0][-1])
    elif name.endswith("2") and "kmeans" not in name and "kmedoids" not in name:
        assert transform.reduction.plan(torch.randn(24, 3)).num_tokens == 12


@pytest.mark.parametrize("name", ["average2", "agglomerative2", "threshold", "density_peaks"])
def test_merging_alike_frames_of_speech_loses_less_than_plain_downsampling(name: str, wav_16k: Tensor) -> None:
    codec = Codec.from_pretrained("codec_50hz")
    codes_KN = codec.encode(wav_16k[None], torch.tensor([len(wav_16k)]))[0][0]

    def lost(transform: Downsampled | Reduced) -> float:
        back_KN = transform.invert(transform.apply(codes_KN, codec.spec), codec.spec)[:, : codes_KN.shape[1]]
        hidden_ND = transform.vectors.latent(codes_KN)
        return float((transform.vectors.latent(back_KN) - hidden_ND).square().mean())

    transform = configured(name, codec)
    assert transform.apply(codes_KN, codec.spec).shape[1] < 0.56 * codes_KN.shape[1]
    assert lost(transform) < 0.8 * lost(configured("decimate2", codec))


def test_a_store_of_another_spec_is_told_apart_before_anything_is_read() -> None:
    stack = TokenSpec(16_000, Fraction(50), (12, 9, 1), "other")
    with pytest.raises(ValueError, match="want the tokenizer's"):
        reduced(Similar(0.9, longest=4)).out_spec(stack)
