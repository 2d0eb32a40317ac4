"""Each quantiser as it learns, and the plain one that is left of it."""

from collections import Counter
from itertools import pairwise

import learning
import pytest
import small_codec
import torch
from scipy.stats import norm
from torch import Tensor, nn

from audiotok.models.codec import Crops
from audiotok.models.continuous import TrainableContinuous
from audiotok.models.multiscale import TrainableMultiScale
from audiotok.models.nesting import kept_columns
from audiotok.models.product import TrainableProduct
from audiotok.models.quantisers import TrainableResidual, TrainableScalar
from audiotok.tokenizers import quantisers
from audiotok.tokenizers.codec import Codec
from audiotok.tokenizers.quantisers import DimensionWise, MultiScaleCodebooks, ProductCodebooks, ResidualCodebooks

DIM = small_codec.DIM


def multi_scale(**options) -> TrainableMultiScale:
    options = {
        "dim": DIM, "factors": [4, 2, 1], "codebook_size": 32, "decay": 0.9, "dead_below": 0.0, "dropout": 0.0, "sizes": "uniform",
        "commitment": 1.0,
    } | options  # fmt: skip
    return TrainableMultiScale(**options)


def product(*, dropout: float = 0.0) -> TrainableProduct:
    parts = [
        TrainableResidual(dim=6, num_codebooks=1, codebook_size=32, decay=0.9, dead_below=0.0, dropout=0.0, commitment=1.0),
        TrainableResidual(dim=10, num_codebooks=2, codebook_size=16, decay=0.9, dead_below=0.0, dropout=0.0, commitment=1.0),
    ]
    return TrainableProduct(parts, dim=DIM, dropout=dropout)


def continuous(*, levels: int = 16) -> TrainableContinuous:
    return TrainableContinuous(dim=DIM, latent_dim=8, levels=levels, divergence=0.01, decay=0.8)


MAKE = {
    "residual": small_codec.trainable_residual,
    "single": lambda: small_codec.trainable_residual(num_codebooks=1),
    "scalar": lambda: TrainableScalar(dim=DIM, levels=[5, 4, 3]),
    "multi_scale": multi_scale,
    "product": product,
    "continuous": continuous,
}


def latents(seed: int, *, frames: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(99))
    return torch.randn(8, frames, DIM, generator=generator) @ mixing + 0.5


def fitted(kind: str) -> nn.Module:
    torch.manual_seed(0)
    quantiser = MAKE[kind]().train()
    with torch.no_grad():
        for step in range(4):
            quantiser(latents(step))
    return quantiser.eval()


def decoded(plain, codes_BKN: Tensor) -> Tensor:
    return plain.embed(codes_BKN).sum(dim=1).unflatten(-1, (plain.stride, -1)).flatten(1, 2)


@pytest.mark.parametrize("kind", sorted(set(MAKE) - {"continuous"}))
def test_the_plain_quantiser_gives_what_training_hears(kind: str) -> None:
    quantiser, latent_BND = fitted(kind), latents(7)
    plain = quantiser.plain()
    codes_BKN = torch.stack([plain.encode(latent_ND) for latent_ND in latent_BND])
    torch.testing.assert_close(decoded(plain, codes_BKN), quantiser(latent_BND)[0], rtol=1e-3, atol=1e-4)
    assert codes_BKN.shape[1] == len(plain.codebook_sizes)
    assert all(row.min() >= 0 and row.max() < size for row, size in zip(codes_BKN.transpose(0, 1), plain.codebook_sizes))


@pytest.mark.parametrize("kind", ["residual", "single"])
def test_plain_codes_are_those_of_vector_quantize_pytorch(kind: str) -> None:
    quantiser, latent_BND = fitted(kind), latents(7)
    plain = quantiser.plain()
    assert torch.equal(torch.stack([plain.encode(latent_ND) for latent_ND in latent_BND]), quantiser.quantise(latent_BND)[1])


def test_multi_scale_codes_of_one_rate_are_those_of_residual_quantisation() -> None:
    plain, latent_ND = fitted("residual").plain(), latents(7)[0]
    flat = MultiScaleCodebooks(factors=[1, 1, 1, 1], codebook_size=32, dim=DIM)
    flat.codebooks_SVD.copy_(plain.codebooks_KVD)
    assert torch.equal(flat.encode(latent_ND), plain.encode(latent_ND))
    assert torch.equal(flat.embed(plain.encode(latent_ND)[None]), plain.embed(plain.encode(latent_ND)[None]))


def test_multi_scale_codes_are_those_of_vector_quantize_pytorch_stage_by_stage() -> None:
    quantiser, latent_BND = fitted("multi_scale"), latents(7)
    codes_KN = quantiser.plain().encode(latent_BND[0])
    residual, rows = latent_BND[:1], []
    for factor, stage in zip([4, 2, 1], quantiser.stages):
        pooled = torch.stack([residual[0, place : place + factor].mean(dim=0) for place in range(0, 64, factor)])[None]
        words, codes, _ = stage(pooled)
        residual = residual - words.repeat_interleave(factor, dim=1)
        rows += [codes[0, place :: 4 // factor] for place in range(4 // factor)]
    assert torch.equal(codes_KN, torch.stack(rows))


def test_multi_scale_columns_are_a_frame_of_the_widest_factor() -> None:
    plain = MultiScaleCodebooks(factors=[4, 2, 1], codebook_size=8, dim=2)
    assert plain.codebook_sizes == (8,) * 7
    plain.codebooks_SVD.copy_(torch.arange(3.0)[:, None, None] * 10 + torch.arange(8.0)[:, None] + 1)
    vectors = plain.embed(torch.arange(7)[None, :, None])[0, :, 0].unflatten(-1, (4, 2))[..., 0]
    assert vectors.tolist() == [
        [1, 1, 1, 1],
        [12, 12, 0, 0], [0, 0, 13, 13],
        [24, 0, 0, 0], [0, 25, 0, 0], [0, 0, 26, 0], [0, 0, 0, 27],
    ]  # fmt: skip


def test_latents_that_fill_no_frame_are_coded_as_if_the_last_went_on() -> None:
    plain, latent_ND = fitted("multi_scale").plain(), latents(7, frames=10)[0]
    whole = torch.cat([latent_ND, latent_ND[-1:], latent_ND[-1:]])
    assert torch.equal(plain.encode(latent_ND), plain.encode(whole))
    quantiser = fitted("multi_scale")
    torch.testing.assert_close(quantiser(latent_ND[None])[0], quantiser(whole[None])[0][:, :10])


@pytest.mark.parametrize("kind", ["residual", "multi_scale", "product"])
def test_longer_first_parts_of_a_code_come_nearer_to_the_latent(kind: str) -> None:
    latent_BND = latents(3)
    plain = fitted(kind).plain()
    codes_BKN = torch.stack([plain.encode(latent_ND) for latent_ND in latent_BND])
    errors = [(decoded(plain, codes_BKN[:, :columns]) - latent_BND).square().mean() for columns in range(1, codes_BKN.shape[1] + 1)]
    assert all(later < earlier for earlier, later in pairwise(errors))


def test_nested_dropout_lets_training_hear_each_first_part_of_the_columns() -> None:
    quantiser = fitted("multi_scale")
    plain, latent_ND = quantiser.plain(), latents(7)[0]
    codes_KN = plain.encode(latent_ND)
    prefixes = [decoded(plain, codes_KN[None, :columns])[0] for columns in range(1, 8)]
    quantiser.dropout = 1.0
    torch.manual_seed(0)
    for stage in quantiser.stages:
        stage.eval()
    quantiser.training = True  # the dropout's switch alone: the codebooks stand still
    heard_BND, _ = quantiser(latent_ND.expand(96, -1, -1))
    found = [[place for place, prefix in enumerate(prefixes) if torch.allclose(row, prefix, atol=1e-4)] for row in heard_BND]
    assert {place for (place,) in found} == set(range(7))


def test_kept_columns_are_drawn_as_told() -> None:
    torch.manual_seed(0)
    lengths = kept_columns(7000, 7, share=0.7, sizes="uniform").sum(dim=1)
    counts = Counter(lengths.tolist())
    assert all(abs(counts[number] - 700) < 130 for number in range(1, 7)) and abs(counts[7] - 2800) < 200
    powers = kept_columns(4000, 6, share=1.0, sizes="powers")
    assert set(powers.sum(dim=1).tolist()) == {1, 2, 4, 6}
    assert torch.equal(powers, powers.cummin(dim=1).values)
    assert kept_columns(5, 4, share=0.0, sizes="uniform").all()


def test_parts_that_do_not_make_up_the_latent_are_refused() -> None:
    with pytest.raises(ValueError, match="make 16, the latent has 20"):
        TrainableProduct(list(product().parts), dim=20, dropout=0.0)
    with pytest.raises(ValueError, match="one latent a frame"):
        ProductCodebooks(parts=[fitted("multi_scale").plain()], dims=[DIM])


def test_a_factor_that_does_not_divide_the_widest_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of every other"):
        MultiScaleCodebooks(factors=[4, 3], codebook_size=8, dim=2)


def test_a_product_quantiser_may_have_to_do_without_its_later_parts() -> None:
    quantiser = product(dropout=1.0).train()
    torch.manual_seed(0)
    heard_BND, _ = quantiser(latents(0))
    silent_B = (heard_BND[..., 6:] == 0).all(dim=-1).all(dim=-1)
    assert 0 < silent_B.sum() < 8 and not (heard_BND[..., :6] == 0).all(dim=-1).any()


def test_the_bins_of_a_dimension_are_equally_probable_and_stand_for_their_means() -> None:
    plain = DimensionWise(levels=8, latent_dim=1, dim=1)
    edges = norm.ppf([step / 8 for step in range(9)])
    means = [norm.expect(lambda x: x, lb=low, ub=high, conditional=True) for low, high in pairwise(edges)]
    torch.testing.assert_close(plain.edges, torch.tensor(edges[1:-1], dtype=torch.float32))
    torch.testing.assert_close(plain.centres, torch.tensor(means, dtype=torch.float32), rtol=1e-4, atol=1e-5)


def test_more_levels_come_nearer_to_the_continuous_latent_and_use_every_bin_alike() -> None:
    torch.manual_seed(0)
    quantiser = continuous().train()
    for step in range(20):
        quantiser(latents(step))
    latent_BND, errors = latents(77), []
    reference = quantiser.eval()(latent_BND)[0]
    for levels in (2, 4, 16, 64):
        quantiser.levels = levels
        plain = quantiser.plain()
        codes_BKN = torch.stack([plain.encode(latent_ND) for latent_ND in latent_BND])
        errors.append((decoded(plain, codes_BKN) - reference).square().mean().item())
        shares = torch.bincount(codes_BKN.flatten(), minlength=levels) / codes_BKN.numel()
        assert shares.min() > 0.5 / levels and shares.max() < 1.8 / levels
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.02 * errors[0]


def test_a_dimension_that_is_left_out_is_at_its_mean() -> None:
    plain = fitted("continuous").plain()
    codes_KN = plain.encode(latents(7)[0])
    first = (plain.centres[codes_KN[0]] * plain.deviation[0])[:, None] * plain.project_out.weight[:, 0]
    torch.testing.assert_close(plain.embed(codes_KN[None, :1])[0, 0], first + plain.project_out(plain.mean))


def test_a_continuous_latent_that_was_never_seen_is_not_quantised() -> None:
    with pytest.raises(ValueError, match="train it first"):
        continuous().plain()


def test_one_level_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 levels"):
        DimensionWise(levels=1, latent_dim=2, dim=2)


@pytest.mark.parametrize("kind", sorted(MAKE))
def test_gradients_pass_to_the_encoder(kind: str) -> None:
    quantiser = fitted(kind).train()
    latent_BND = latents(7).requires_grad_()
    quantised_BND, commitment = quantiser(latent_BND)
    (quantised_BND.square().sum() + commitment).backward()
    assert torch.isfinite(latent_BND.grad).all()
    assert (latent_BND.grad.abs().sum(dim=(1, 2)) > 0).all()


@pytest.mark.parametrize("kind", sorted(MAKE))
def test_a_codec_learns_real_speech_through_it_and_is_exported_whole(kind: str, wav_16k: Tensor, tmp_path) -> None:
    batch = Crops(small_codec.crops(wav_16k, number=4, samples=6400))
    codec = small_codec.model(quantiser=MAKE[kind]())
    seen = learning.descend(codec, batch, steps=30, rate=5e-3)
    assert seen[-1]["mel"] < 0.7 * seen[0]["mel"]
    codec.export(tmp_path)
    tokenizer = Codec.from_pretrained(tmp_path)
    stride = tokenizer.network.quantiser.stride
    assert tokenizer.spec.hop == small_codec.HOP * stride
    lengths_B = torch.tensor([6400, 3300, 6400, 6001])
    codes_BKN, frames_B = tokenizer.encode(batch.wav_BT, lengths_B)
    assert frames_B.tolist() == [tokenizer.spec.num_frames(length) for length in lengths_B.tolist()]
    wav_BT, samples_B = tokenizer.decode(codes_BKN, frames_B)
    assert samples_B.tolist() == [tokenizer.spec.num_samples(frames) for frames in frames_B.tolist()]
    if kind != "continuous":  # which training hears unquantised
        torch.testing.assert_close(wav_BT[0, :6400], codec.eval()(batch.wav_BT[:1]).wav_BT[0].clamp(-1, 1), rtol=1e-2, atol=2e-3)
    shorter = Codec.from_pretrained(tmp_path, num_codebooks=1)
    assert torch.equal(shorter.encode(batch.wav_BT, lengths_B)[0], codes_BKN[:, :1])
    assert torch.isfinite(shorter.decode(codes_BKN[:, :1], frames_B)[0]).all()


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'pq'; known are residual, fsq, multi_scale, product, dimension_wise"):
        quantisers.load({"kind": "pq"})


def test_settings_make_the_same_quantiser_again() -> None:
    for kind in MAKE:
        plain = fitted(kind).plain()
        again = quantisers.load(plain.settings)
        again.load_state_dict(plain.state_dict())
        assert torch.equal(again.encode(latents(7)[0]), plain.encode(latents(7)[0]))
    assert isinstance(fitted("single").plain(), ResidualCodebooks)
