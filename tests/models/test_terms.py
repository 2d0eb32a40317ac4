import copy

import learning
import pytest
import small_codec
import torch
from torch import Tensor, nn

from audiotok.models.codec import Coded, Crops
from audiotok.models.product import TrainableProduct
from audiotok.models.terms import SemanticDistillation, SliceConsistency, at_rate
from audiotok.tokenizers.features import SpeechEncoder


@pytest.fixture
def batch(wav_16k: Tensor) -> Crops:
    return Crops(small_codec.crops(wav_16k, number=4, samples=9600))


@pytest.fixture(scope="module")
def hubert() -> SpeechEncoder:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.HubertConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=(8,) * 7, num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    return SpeechEncoder(transformers.HubertModel(config), layer=1, normalize=True, sample_rate=16000)


def product() -> TrainableProduct:
    narrow = small_codec.trainable_residual(dim=6, num_codebooks=1)
    return TrainableProduct([narrow, small_codec.trainable_residual(dim=10, num_codebooks=2)], dim=16, dropout=0.0)


def distilled(hubert: SpeechEncoder, **options):
    term = SemanticDistillation(**{"features": hubert, "feature_dim": 24, "dims": 6, "weight": 2.0} | options)
    return small_codec.model(quantiser=product(), terms=[term])


def test_the_first_part_of_the_latent_comes_to_tell_the_features_of_a_speech_encoder(batch: Crops, hubert: SpeechEncoder) -> None:
    codec = distilled(hubert)
    seen = learning.descend(codec, batch, steps=40, rate=1e-2)
    assert seen[-1]["semantic"] < 0.87 * seen[0]["semantic"]
    assert seen[-1]["mel"] < seen[0]["mel"]


def test_distillation_is_one_minus_the_cosine_to_the_features_frame_by_frame(batch: Crops, hubert: SpeechEncoder) -> None:
    codec = distilled(hubert).eval()
    codec.quantiser.train()(codec.encoder(batch.wav_BT))
    codec.eval()
    coded = codec(batch.wav_BT)
    (term,) = codec.terms
    ours = term.project(coded.quantised_BND[..., :6])
    theirs = torch.stack([hubert(wav_T) for wav_T in batch.wav_BT])  # 320 samples a frame, as the codec
    cosine = (ours * theirs).sum(dim=-1) / ours.norm(dim=-1) / theirs.norm(dim=-1)
    torch.testing.assert_close(term(codec, batch.wav_BT, coded)["semantic"], 2 * (1 - cosine).mean())


def test_distillation_reaches_the_first_part_and_not_the_others(batch: Crops, hubert: SpeechEncoder) -> None:
    codec = distilled(hubert).train()
    latent_BND = codec.encoder(batch.wav_BT).detach().requires_grad_()
    quantised_BND, _ = codec.quantiser(latent_BND)
    coded = codec(batch.wav_BT)._replace(quantised_BND=quantised_BND)
    codec.terms[0](codec, batch.wav_BT, coded)["semantic"].backward()
    assert latent_BND.grad[..., :6].abs().sum() > 0 and (latent_BND.grad[..., 6:] == 0).all()


def test_the_speech_encoder_is_neither_trained_nor_saved_nor_copied(hubert: SpeechEncoder) -> None:
    codec = distilled(hubert)
    assert not any("hubert" in name or "network" in name for name in codec.state_dict())
    assert copy.deepcopy(codec).terms[0].features.value is hubert


@pytest.mark.parametrize(
    ("options", "told"), [({"feature_dim": 12}, "24 dimensions, feature_dim=12"), ({"features": "slow"}, "features of 8000 Hz")]
)
def test_features_that_do_not_fit_are_refused(batch: Crops, hubert: SpeechEncoder, options: dict, told: str) -> None:
    if options.get("features") == "slow":
        slow = copy.copy(hubert)
        slow.sample_rate = 8000
        options = {"features": slow}
    with pytest.raises(ValueError, match=told):
        distilled(hubert, **options).loss(batch)


def test_frames_at_another_rate_are_taken_at_the_middles_of_those_wanted() -> None:
    ramp = (torch.arange(8.0) + 0.5)[None, :, None] * 100  # the time of each frame's middle, in samples
    assert at_rate(ramp, hop=100, other=200, frames=4)[0, :, 0].tolist() == [100, 300, 500, 700]
    assert at_rate(ramp, hop=100, other=50, frames=16)[0, 2:6, 0].tolist() == [125, 175, 225, 275]
    assert torch.equal(at_rate(ramp, hop=100, other=100, frames=8), ramp)


class Echoes(nn.Module):
    """An encoder whose latents are the means of the samples, and of all samples before."""

    hop = 100
    sample_rate = 16000

    def __init__(self, *, past: float) -> None:
        super().__init__()
        self.past = nn.Parameter(torch.tensor(past))

    def forward(self, wav_BT: Tensor) -> Tensor:
        mean_BN = wav_BT.unflatten(1, (-1, self.hop)).mean(dim=2)
        return torch.stack([mean_BN, mean_BN + self.past * mean_BN.cumsum(dim=1)], dim=2)


def test_slices_agree_where_frames_hear_only_themselves_and_disagree_where_they_hear_the_past() -> None:
    codec = small_codec.model(terms=[SliceConsistency(frames=4, edge=0, weight=1.0)])
    wav_BT = torch.randn(2, 2000)
    for past, agree in ((0.0, True), (1.0, False)):
        codec.encoder = Echoes(past=past)
        latent_BND = codec.encoder(wav_BT)
        coded = Coded(latent_BND, latent_BND, wav_BT, torch.zeros(()))
        torch.manual_seed(0)
        loss = codec.terms[0](codec, wav_BT, coded)["slice"]
        assert (loss.item() < 1e-9) == agree
    loss.backward()
    assert codec.encoder.past.grad != 0


def test_training_makes_slices_more_consistent(batch: Crops) -> None:
    def inconsistency(weight: float) -> float:
        codec = small_codec.model(
            encoder=small_codec.loud(small_codec.encoder()), terms=[SliceConsistency(frames=6, edge=0, weight=weight)]
        )
        learning.descend(codec, batch, steps=30, rate=3e-3)
        codec.terms[0].weight = 1.0
        with torch.no_grad():
            return sum(codec.eval().loss(batch)[1]["slice"].item() for _ in range(8))

    assert inconsistency(5.0) < 0.7 * inconsistency(0.0)


def test_slices_without_frames_to_compare_and_crops_that_are_too_short_are_refused(batch: Crops) -> None:
    with pytest.raises(ValueError, match="nothing remains"):
        SliceConsistency(frames=4, edge=2, weight=1.0)
    codec = small_codec.model(terms=[SliceConsistency(frames=31, edge=2, weight=1.0)])
    with pytest.raises(ValueError, match="slices of 31 frames, crops of 30"):
        codec.loss(batch)
