"""The compressor untrained against means and repetition, trained against them on frames that it can learn to tell, and what it saves."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from math import pi
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from audiotok import files
from audiotok.reductions.compressor import CONFIG, WEIGHTS, Compressor, CompressorNetwork, Training, _crops
from audiotok.reductions.requantise import CodeVectors
from audiotok.tokenizers.codec import Codec
from audiotok.types import TokenSpec

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "transform"
POINTS = 12
TRAINING = Training(steps=100, rows=4, frames=12, learning_rate=1e-2, weight_decay=0.01, commitment=0.25, seed=0)


class Circle:
    """A tokenizer of points on a circle, and a second codebook of small steps away from it."""

    def __init__(self, *, fingerprint: str = "a circle", points: int = POINTS) -> None:
        self.spec = TokenSpec(16_000, Fraction(50), (points, 3), fingerprint)
        angle_V = torch.arange(points) * 2 * pi / points
        self.vectors = [torch.stack([angle_V.cos(), angle_V.sin()], dim=1), torch.tensor([[0.0, 0.0], [0.02, 0.0], [0.0, 0.02]])]

    def embed(self, codes_BKN: Tensor) -> Tensor:
        return torch.stack([vectors_VD[codes_BKN[:, k]] for k, vectors_VD in enumerate(self.vectors)], dim=1)


def walk(num_frames: int, *, start: int) -> Tensor:
    """codes_KN of steady steps around the circle: of two neighbours either tells the other."""
    angle_N = (start + torch.arange(num_frames)) % POINTS
    return torch.stack([angle_N, torch.zeros_like(angle_N)])


CORPUS = [walk(40 + start, start=start) for start in range(12)]


def compressor(tokenizer: Any = None, frames: int = 2, *, fitted: Path | None = None, **changes: Any) -> Compressor:
    options = {"rates": [2, 3], "width": 16, "layers": 1, "kernel": 3, "expansion": 2, "beam": 1, "training": TRAINING} | changes
    return Compressor(tokenizer or Circle(), frames, fitted=fitted, **options)


def fitted(tmp_path: Path, **changes: Any) -> Path:
    made = compressor(training=replace(TRAINING, steps=2), **changes)
    made.fit(CORPUS, Circle().spec)
    made.save(tmp_path / "fitted")
    return tmp_path / "fitted"


def test_untrained_it_takes_means_and_repeats_them() -> None:
    network = CompressorNetwork(dim=5, rates=[2, 3], width=16, layers=2, kernel=3, expansion=2)
    network.mean.copy_(torch.randn(5))
    network.deviation.fill_(2.5)
    hidden_BND = torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(0))
    for rate in (2, 3):
        tokens_BMD = network.compress(hidden_BND, rate)
        torch.testing.assert_close(tokens_BMD, torch.stack([each.mean(dim=1) for each in hidden_BND.split(rate, dim=1)], dim=1))
        torch.testing.assert_close(network.expand(tokens_BMD, rate), tokens_BMD.repeat_interleave(rate, dim=1))


@pytest.mark.parametrize("frames", [2, 3])
def test_it_learns_to_tell_frames_that_a_mean_repeated_cannot_and_one_network_serves_every_rate(tmp_path: Path, frames: int) -> None:
    one = compressor()
    one.fit(CORPUS, Circle().spec)
    one.save(tmp_path)
    transform, codes_KN = compressor(frames=frames, fitted=tmp_path), walk(60, start=5)
    tokens_KM = transform.apply(codes_KN, Circle().spec)
    assert tokens_KM.shape == (2, 60 // frames)
    back_KN = transform.invert(tokens_KM, Circle().spec)
    vectors = CodeVectors.of(Circle())
    means = vectors.latent(vectors.nearest(vectors.latent(codes_KN).unflatten(0, (-1, frames)).mean(dim=1))).repeat_interleave(
        frames, dim=0
    )
    lost, lost_by_means = (float((each - vectors.latent(codes_KN)).square().mean()) for each in (vectors.latent(back_KN), means))
    assert lost < 0.05 * lost_by_means


def test_on_codes_of_real_speech_a_few_steps_do_not_make_it_worse_than_means(wav_16k: Tensor) -> None:
    codec = Codec.from_pretrained("codec_50hz")
    codes_KN, _ = codec.encode(wav_16k[None], torch.tensor([len(wav_16k)]))
    (codes_KN,), steps = codes_KN, 8
    transform = compressor(codec, rates=[2], width=32, training=replace(TRAINING, steps=steps, rows=2, learning_rate=1e-3))
    transform.fit([codes_KN], codec.spec)
    latent_ND = transform.vectors.latent(codes_KN[:, : codes_KN.shape[1] // 2 * 2])
    means_ND = transform.vectors.latent(transform.vectors.nearest(latent_ND.unflatten(0, (-1, 2)).mean(dim=1))).repeat_interleave(2, dim=0)
    back_ND = transform.expanded(transform.vectors.latent(transform.apply(codes_KN, codec.spec)))[: len(latent_ND)]
    assert not torch.equal(back_ND, means_ND)
    assert (back_ND - latent_ND).square().mean() < 1.02 * (means_ND - latent_ND).square().mean()


def test_both_sides_learn_through_the_codes() -> None:
    transform = compressor(training=replace(TRAINING, steps=3, commitment=0.0))
    transform.fit(CORPUS, Circle().spec)
    assert float(transform.network.encoder.leave.weight.abs().sum()) > 0  # which began at 0, and hear of the loss through the codes alone
    assert float(transform.network.decoder.leave.weight.abs().sum()) > 0


def test_the_same_seed_learns_the_same_and_leaves_other_random_numbers_alone() -> None:
    digests = []
    for seed in (0, 0, 1):
        transform = compressor(training=replace(TRAINING, steps=3, seed=seed))
        torch.manual_seed(7)
        transform.fit(iter(CORPUS), Circle().spec)
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(7)))
        digests.append(repr(transform))
    assert digests[0] == digests[1] != digests[2]


def test_what_was_saved_acts_as_what_was_learnt(tmp_path: Path) -> None:
    transform = compressor(training=replace(TRAINING, steps=3))
    transform.fit(CORPUS, Circle().spec)
    transform.save(tmp_path / "there")
    loaded, codes_KN = compressor(fitted=tmp_path / "there"), walk(31, start=2)
    assert loaded.fitted == tmp_path / "there" and transform.fitted is None
    assert loaded.out_spec(Circle().spec) == transform.out_spec(Circle().spec)
    tokens_KM = transform.apply(codes_KN, Circle().spec)
    assert torch.equal(loaded.apply(codes_KN, Circle().spec), tokens_KM)
    assert torch.equal(loaded.invert(tokens_KM, Circle().spec), transform.invert(tokens_KM, Circle().spec))


@pytest.mark.parametrize("frames", [2, 3])
def test_any_codes_come_back_as_whole_tokens(tmp_path: Path, frames: int) -> None:
    transform, spec = compressor(frames=frames, fitted=fitted(tmp_path)), Circle().spec
    generator = torch.Generator().manual_seed(3)
    for num_frames in (0, 1, 2, 3, 7, 12):
        codes_KN = torch.stack([torch.randint(size, (num_frames,), generator=generator) for size in spec.codebook_sizes])
        tokens_KM, before_KN = transform.apply(codes_KN, spec), codes_KN.clone()
        assert tokens_KM.shape == (2, -(-num_frames // frames)) and tokens_KM.dtype == torch.int64
        first_KM, end_KM = transform.legal_ids(num_frames, spec)
        assert ((first_KM <= tokens_KM) & (tokens_KM < end_KM)).all() and transform.legal(num_frames, spec).all()
        assert transform.frame_index(num_frames, spec).tolist() == list(range(0, num_frames, frames))
        assert transform.invert(codes_KN, spec).shape == (2, num_frames * frames)
        assert torch.equal(codes_KN, before_KN)
    assert transform.out_spec(spec).frame_rate == Fraction(50, frames)
    assert transform.out_spec(spec).codebook_sizes == spec.codebook_sizes
    assert transform.sources(spec) == ((0,), (1,))


def test_the_last_frame_is_repeated_until_there_is_a_whole_token(tmp_path: Path) -> None:
    transform, codes_KN = compressor(frames=3, fitted=fitted(tmp_path)), walk(7, start=0)
    longer_KN = torch.cat([codes_KN, codes_KN[:, -1:], codes_KN[:, -1:]], dim=1)
    assert torch.equal(transform.apply(codes_KN, Circle().spec), transform.apply(longer_KN, Circle().spec))


def test_latents_are_scaled_by_their_mean_and_deviation_over_the_whole_corpus() -> None:
    transform = compressor(training=replace(TRAINING, steps=2))
    transform.fit(CORPUS, Circle().spec)
    together_ND = transform.vectors.latent(torch.cat(CORPUS, dim=1))
    torch.testing.assert_close(transform.network.mean, together_ND.mean(dim=0))
    torch.testing.assert_close(transform.network.deviation, (together_ND - together_ND.mean(dim=0)).square().mean().sqrt())


def test_crops_are_pieces_of_the_utterances_drawn_by_length() -> None:
    utterances = [walk(500, start=0), torch.full((2, 3), 1)]
    crops_KBN = _crops(utterances, replace(TRAINING, rows=200, frames=14), 3, torch.Generator().manual_seed(0))
    assert crops_KBN.shape == (2, 200, 12)
    steady_B = ((crops_KBN[0].diff(dim=1) % POINTS) == 1).all(dim=1)
    ended_B = (crops_KBN == 1).all(dim=2).all(dim=0)
    assert (steady_B | ended_B).all() and steady_B.sum() > 180
    short_KBN = _crops([walk(4, start=0)], replace(TRAINING, rows=1, frames=9), 3, torch.Generator().manual_seed(0))
    assert short_KBN[0, 0].tolist() == [0, 1, 2, 3, 3, 3, 3, 3, 3]


def test_the_fingerprint_tells_the_codes_the_rate_the_search_and_what_was_learnt(tmp_path: Path) -> None:
    folder, other = fitted(tmp_path / "one"), tmp_path / "other"
    again = compressor(training=replace(TRAINING, steps=3))
    again.fit(CORPUS, Circle().spec)
    again.save(other)
    transforms = [
        compressor(fitted=folder),
        compressor(frames=3, fitted=folder),
        compressor(beam=4, fitted=folder),
        compressor(fitted=other),
    ]
    assert len({transform.out_spec(Circle().spec).fingerprint for transform in transforms}) == 4
    assert str(tmp_path) not in "".join(map(repr, transforms))


def damaged(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / CONFIG).unlink(), "config.json: cannot be read .*learn again with overwrite=true"),
        (lambda folder: damaged(folder, CONFIG, b"{"), "config.json: cannot be read"),
        (lambda folder: damaged(folder, CONFIG, b"[]"), "config.json: holds a list, not the settings"),
        (lambda folder: (folder / WEIGHTS).unlink(), "model.safetensors: no such file"),
        (lambda folder: damaged(folder, WEIGHTS, b"x" * 99), "model.safetensors: damaged"),
        (lambda folder: files.write_json(folder / CONFIG, {}), "was learnt with other settings"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    folder = fitted(tmp_path)
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        compressor(fitted=folder)


def test_what_was_learnt_for_other_codes_or_sizes_is_refused(tmp_path: Path) -> None:
    folder = fitted(tmp_path)
    with pytest.raises(ValueError, match=r"other settings \(codes: 'a circle' there, 'another' now"):
        compressor(Circle(fingerprint="another"), fitted=folder)
    with pytest.raises(ValueError, match=r"network\.width: 16 there, 8 now"):
        compressor(width=8, fitted=folder)


def test_before_it_has_learnt_and_for_codes_that_are_not_the_tokenizers_it_says_what_to_do(tmp_path: Path) -> None:
    unfitted, spec = compressor(fitted=tmp_path / "later"), Circle().spec
    for use in (
        unfitted.out_spec,
        lambda spec: unfitted.apply(walk(4, start=0), spec),
        lambda spec: unfitted.invert(walk(4, start=0), spec),
    ):
        with pytest.raises(ValueError, match=r"has not learnt yet \(.*later\); run `audiotok reduce"):
            use(spec)
    with pytest.raises(ValueError, match="no frames to learn from"):
        unfitted.fit([walk(0, start=0)], spec)
    transform = compressor(fitted=fitted(tmp_path))
    with pytest.raises(ValueError, match=r"want the tokenizer's \(12, 3\)"):
        transform.apply(walk(4, start=0), Circle(points=7).spec)
    for codes_KN in (torch.tensor([[0], [3]]), torch.tensor([[12], [0]])):
        with pytest.raises(ValueError, match="at position 0 is outside codebook"):
            transform.invert(codes_KN, spec)
    with pytest.raises(ValueError, match=r"got frames=4, want one of the rates \[2, 3\]"):
        compressor(frames=4)


@pytest.mark.parametrize("frames", [2, 4])
def test_each_config_builds_its_compressor(frames: int) -> None:
    loaded = OmegaConf.load(CONFIGS / f"compressor{frames}.yaml")
    assert OmegaConf.to_container(loaded, resolve=False)["fitted"] == "${fitted_transform:}"
    loaded.fitted = None
    config = OmegaConf.create({"tokenizer": {"_target_": f"{__name__}.Circle"}, "transform": loaded})
    made = instantiate(config.transform)
    assert isinstance(made, Compressor) and made.frames == frames and made.fitted is None and isinstance(made.training, Training)
