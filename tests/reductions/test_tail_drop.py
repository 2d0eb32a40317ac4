"""Tail drop against a loop that tries one codebook after another, what stands for dropped ones against every choice, and real speech."""

from fractions import Fraction
from functools import cache
from itertools import product
from math import log10
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from audiotok.reductions.tail_drop import TailDrop, frame_mel
from audiotok.tokenizers.codec import Codec
from audiotok.types import TokenSpec

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "transform" / "tail_drop.yaml"


class Codebooks:
    """A tokenizer of random vectors, each codebook's half as large as those before; it has nothing but `embed`."""

    def __init__(self, sizes: tuple[int, ...], *, dim: int = 3, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.spec = TokenSpec(16_000, Fraction(50), sizes, f"codebooks {seed}")
        self.vectors = [torch.randn(size, dim, generator=generator) / 2**k for k, size in enumerate(sizes)]

    def embed(self, codes_BKN: Tensor) -> Tensor:
        return torch.stack([vectors_VD[codes_BKN[:, k]] for k, vectors_VD in enumerate(self.vectors)], dim=1)


def drop(tokenizer: Codebooks | Codec, quality: float, *, frames: int | None = None, metric: str = "latent_snr") -> TailDrop:
    return TailDrop(tokenizer, quality, metric=metric, frames=frames)  # type: ignore[arg-type]


def random_codes(sizes: tuple[int, ...], num_frames: int, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(len(sizes), num_frames, generator=generator) * torch.tensor(sizes)[:, None]).long()


def slow_snr(tokenizer: Codebooks, codes_KN: Tensor, kept: int) -> float:
    """dB, of the first `kept` codebooks against all, over the frames given."""
    centre_D = sum(vectors_VD.double().mean(dim=0) for vectors_VD in tokenizer.vectors)
    signal = noise = 0.0
    for codes_K in codes_KN.T.tolist():
        vectors = [tokenizer.vectors[k][code].double() for k, code in enumerate(codes_K)]
        signal += float((sum(vectors) - centre_D).square().sum())
        noise += float((sum(vectors) - sum(vectors[:kept])).square().sum())
    return float("inf") if noise == 0 else 10 * log10(signal / noise)


def slow_kept(tokenizer: Codebooks, codes_KN: Tensor, quality: float, frames: int | None) -> list[int]:
    kept: list[int] = []
    for chunk_KN in codes_KN.split(frames or max(codes_KN.shape[1], 1), dim=1):
        numbers = range(1, len(codes_KN) + 1)
        kept += [next(k for k in numbers if k == len(codes_KN) or slow_snr(tokenizer, chunk_KN, k) >= quality)] * chunk_KN.shape[1]
    return kept


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[int, ...], int, int | None, float, int]:
    sizes = tuple(draw(st.lists(st.sampled_from([2, 3, 7, 1000]), min_size=1, max_size=6)))
    return (
        sizes, draw(st.integers(0, 12)), draw(st.none() | st.integers(1, 14)), draw(st.sampled_from([-5.0, 3.0, 6.5, 12.0, 40.0])),
        draw(st.integers(0, 999)),
    )  # fmt: skip


@settings(deadline=None, max_examples=120, derandomize=True)
@given(cases())
def test_the_fewest_codebooks_that_are_good_enough_are_kept(case: tuple[tuple[int, ...], int, int | None, float, int]) -> None:
    sizes, num_frames, frames, quality, seed = case
    tokenizer, codes_KN = Codebooks(sizes, seed=seed), random_codes(sizes, num_frames, seed=seed)
    transform, before_KN = drop(tokenizer, quality, frames=frames), codes_KN.clone()
    expected = slow_kept(tokenizer, codes_KN, quality, frames)
    assert transform.kept(codes_KN, tokenizer.spec).tolist() == expected
    applied_KN = transform.apply(codes_KN, tokenizer.spec)
    for n, kept in enumerate(expected):
        assert applied_KN[:, n].tolist() == codes_KN[:kept, n].tolist() + list(sizes[kept:])
    assert torch.equal(codes_KN, before_KN)
    assert (applied_KN < torch.tensor(transform.out_spec(tokenizer.spec).codebook_sizes)[:, None]).all()


@settings(deadline=None, max_examples=60, derandomize=True)
@given(cases())
def test_invert_keeps_what_was_kept_and_gives_codes_of_the_tokenizer(case: tuple[tuple[int, ...], int, int | None, float, int]) -> None:
    sizes, num_frames, frames, quality, seed = case
    tokenizer, codes_KN = Codebooks(sizes, seed=seed), random_codes(sizes, num_frames, seed=seed)
    transform = drop(tokenizer, quality, frames=frames)
    inverted_KN = transform.invert(transform.apply(codes_KN, tokenizer.spec), tokenizer.spec)
    assert inverted_KN.shape == codes_KN.shape
    assert ((inverted_KN >= 0) & (inverted_KN < torch.tensor(sizes)[:, None])).all()
    for n, kept in enumerate(transform.kept(codes_KN, tokenizer.spec).tolist()):
        assert torch.equal(inverted_KN[:kept, n], codes_KN[:kept, n])


def test_what_stands_for_dropped_codebooks_is_of_all_choices_the_one_whose_vectors_sum_nearest_to_zero() -> None:
    tokenizer = Codebooks((5, 4, 4, 4), seed=3)
    transform = drop(tokenizer, 0.0)
    for kept in range(1, 4):
        choices = product(*(range(4) for _ in range(kept, 4)))
        nearest = min(choices, key=lambda codes: sum(tokenizer.vectors[kept + i][c].double() for i, c in enumerate(codes)).square().sum())
        assert tuple(transform.fillers[kept, kept:].tolist()) == nearest


def test_a_target_that_nothing_short_of_all_reaches_keeps_all_and_one_that_anything_reaches_keeps_one() -> None:
    tokenizer, codes_KN = Codebooks((9, 9, 9)), random_codes((9, 9, 9), 20, seed=1)
    assert torch.equal(drop(tokenizer, 300.0).apply(codes_KN, tokenizer.spec), codes_KN)
    assert drop(tokenizer, -300.0).kept(codes_KN, tokenizer.spec).tolist() == [1] * 20


def test_random_walks_of_the_grammar_invert_and_what_apply_makes_is_a_walk() -> None:
    tokenizer = Codebooks((3, 2, 4))
    transform, generator = drop(tokenizer, 6.0, frames=2), torch.Generator().manual_seed(0)
    grammar = transform.grammar(tokenizer.spec)
    for length in range(1, 12):
        state, codes = grammar.start(), []
        assert grammar.complete(state)
        while len(codes) < 3 * length:
            legal = grammar.legal(state).nonzero()[:, 0]
            codes.append(int(legal[int(torch.randint(len(legal), (), generator=generator))]))
            state = grammar.advance(state, codes[-1])
            assert grammar.complete(state) == (len(codes) % 3 == 0)
        assert transform.invert(torch.tensor(codes).reshape(length, 3).T, tokenizer.spec).shape == (3, length)
    state = grammar.start()
    for code in transform.apply(random_codes((3, 2, 4), 40, seed=2), tokenizer.spec).T.flatten().tolist():
        assert grammar.legal(state)[code]
        state = grammar.advance(state, code)


def test_what_the_grammar_does_not_allow_is_refused() -> None:
    grammar = drop(Codebooks((3, 2, 4)), 6.0).grammar(Codebooks((3, 2, 4)).spec)
    with pytest.raises(ValueError, match="code 3 cannot stand in codebook 0 of 3 ids"):
        grammar.advance(grammar.start(), 3)
    with pytest.raises(ValueError, match="code -1 cannot stand in codebook 1 of 3 ids"):
        grammar.advance((1, False), -1)
    with pytest.raises(ValueError, match="code 0 cannot stand in codebook 2 of 5 ids, behind a dropped one"):
        grammar.advance(grammar.advance(grammar.advance(grammar.start(), 0), 2), 0)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.lists(st.tuples(*(st.integers(-1, 5) for _ in range(3))), max_size=6))
def test_any_stream_inverts_or_is_refused_with_its_position(frames: list[tuple[int, int, int]]) -> None:
    sizes = (3, 2, 4)
    tokenizer = Codebooks(sizes)
    bad = [
        any(not 0 <= code <= size - (k == 0) for k, (code, size) in enumerate(zip(frame, sizes, strict=True)))
        or (frame[1] == 2 and frame[2] != 4)
        for frame in frames
    ]
    codes_KN = torch.tensor(frames, dtype=torch.int64).reshape(-1, 3).T
    if not any(bad):
        assert drop(tokenizer, 6.0).invert(codes_KN, tokenizer.spec).shape == codes_KN.shape
        return
    with pytest.raises(ValueError, match=r"position \d") as refused:
        drop(tokenizer, 6.0).invert(codes_KN, tokenizer.spec)
    assert any(f"position {n} " in str(refused.value) for n in range(len(bad)) if bad[n])


def test_the_fingerprint_tells_every_setting() -> None:
    one = Codebooks((3, 4))
    transforms = [drop(one, 6.0), drop(one, 7.0), drop(one, 6.0, frames=3), drop(Codebooks((3, 4), seed=1), 6.0)]
    assert len({transform.out_spec(one.spec).fingerprint for transform in transforms}) == len(transforms)
    assert drop(one, 6.0).out_spec(one.spec) == drop(Codebooks((3, 4)), 6.0).out_spec(one.spec)
    assert drop(one, 6.0).out_spec(one.spec).codebook_sizes == (3, 5)


def test_settings_and_codes_that_mean_nothing_are_refused() -> None:
    tokenizer = Codebooks((3, 4))
    with pytest.raises(ValueError, match="got metric=snr, want latent_snr or mel_distance"):
        drop(tokenizer, 6.0, metric="snr")
    with pytest.raises(ValueError, match="Codebooks has no `decode`"):
        drop(tokenizer, 6.0, metric="mel_distance")
    with pytest.raises(ValueError, match="got frames=0, want 1 or more"):
        drop(tokenizer, 6.0, frames=0)
    with pytest.raises(ValueError, match="no first part stands for all"):
        drop(Codebooks((3, 4), dim=1), 6.0)  # of numbers side by side, as dMel's
    with pytest.raises(ValueError, match=r"want the tokenizer's \(3, 4\)"):
        drop(tokenizer, 6.0).apply(torch.zeros(2, 2).long(), Codebooks((3, 5)).spec)
    with pytest.raises(ValueError, match="outside codebook 1"):
        drop(tokenizer, 6.0).apply(torch.tensor([[0], [4]]), tokenizer.spec)


@cache
def codec() -> Codec:
    return Codec.from_pretrained("codec_50hz")


def real_codes(wav_T: Tensor) -> Tensor:
    return codec().encode(wav_T[None], torch.tensor([len(wav_T)]))[0][0]


def snr(reference_ND: Tensor, estimate_ND: Tensor, centre_D: Tensor) -> float:
    return 10 * log10((reference_ND - centre_D).square().sum() / (reference_ND - estimate_ND).square().sum())


def test_on_real_speech_the_codes_that_come_back_are_as_good_as_was_asked(wav_16k: Tensor) -> None:
    codes_KN, spec, means = real_codes(wav_16k), codec().spec, []
    for quality in (8.0, 12.0, 16.0):
        transform = drop(codec(), quality)
        back_KN = transform.invert(transform.apply(codes_KN, spec), spec)
        got = snr(transform.vectors.latent(codes_KN), transform.vectors.latent(back_KN), transform.vectors.centre_D)
        assert got > quality - 0.15  # what stands for dropped codebooks is not quite zero
        means.append(float(transform.kept(codes_KN, spec).float().mean()))
    assert 1 <= means[0] < means[1] < means[2] <= 5


def test_what_stands_for_dropped_codebooks_decodes_almost_as_fewer_codebooks_do(wav_16k: Tensor) -> None:
    codes_KN, spec, transform = real_codes(wav_16k), codec().spec, drop(codec(), 0.0)
    lengths_B, mel = torch.tensor([codes_KN.shape[1]]), frame_mel(codec().spec)
    everything = mel(codec().decode(codes_KN[None], lengths_B)[0][0])
    for kept in (1, 3, 5):
        dropped_KN = torch.where(torch.arange(6)[:, None] < kept, codes_KN, 1024)
        filled = mel(codec().decode(transform.invert(dropped_KN, spec)[None], lengths_B)[0][0])
        fewer = mel(Codec.from_pretrained("codec_50hz", num_codebooks=kept).decode(codes_KN[None, :kept], lengths_B)[0][0])
        lost, lost_by_fewer = (20 * float((each - everything).abs().mean()) for each in (filled, fewer))
        assert abs(lost - lost_by_fewer) < 0.15 and lost_by_fewer > 0.5  # dB


def test_a_mel_distance_keeps_the_fewest_codebooks_that_sound_near_enough(wav_16k: Tensor) -> None:
    codes_KN, spec = real_codes(wav_16k)[:, :97], codec().spec
    lengths_B, mel = torch.tensor([codes_KN.shape[1]]), frame_mel(codec().spec)
    silent = drop(codec(), 0.0)
    heard = []
    for kept in range(1, 7):
        dropped_KN = torch.where(torch.arange(6)[:, None] < kept, codes_KN, 1024)
        heard.append(mel(codec().decode(silent.invert(dropped_KN, spec)[None], lengths_B)[0][0]))
    for frames in (None, 30):
        expected = []
        for chunk_N in torch.arange(97).split(frames or 97):
            distances = [20 * float((mel_NM - heard[-1])[chunk_N].abs().mean()) for mel_NM in heard]
            expected += [next(k for k, distance in enumerate(distances, start=1) if distance <= 2.0)] * len(chunk_N)
        assert drop(codec(), 2.0, metric="mel_distance", frames=frames).kept(codes_KN, spec).tolist() == expected
        assert 1 < sum(expected) / 97 < 6
    assert drop(codec(), 2.0, metric="mel_distance").apply(codes_KN[:, :0], spec).shape == (6, 0)


def test_the_config_builds_it() -> None:
    config = OmegaConf.create({"tokenizer": {"_target_": f"{__name__}.Codebooks", "sizes": [3, 4]}, "transform": OmegaConf.load(CONFIG)})
    assert repr(instantiate(config.transform)) == f"TailDrop({'codebooks 0'}, quality=12, metric='latent_snr', frames=None)"
