from collections.abc import Mapping
from itertools import repeat
from pathlib import Path

import learning
import pytest
import small_codec
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from audiotok.models.adversarial import AdversarialCodec
from audiotok.models.balancer import Balancer, WeightedSum
from audiotok.models.codec import CodecModel, Crops
from audiotok.models.discriminators import MultiPeriod, MultiResolution, discriminator_loss, feature_matching, generator_loss
from audiotok.models.posttraining import FrozenQuantiser, from_checkpoint, frozen, trained_codec
from audiotok.models.vocoder import VocoderModel
from audiotok.tokenizers import weights
from audiotok.tokenizers.codec import Codec
from audiotok.training.loop import TrainSettings, fit

WEIGHTS = {"mel": 1.0, "stft": 1.0, "adversarial": 0.1, "matching": 1.0}


@pytest.fixture
def batch(wav_16k: Tensor) -> Crops:
    return Crops(small_codec.crops(wav_16k, number=4, samples=6400))


def adversarial(codec: CodecModel, **options) -> AdversarialCodec:
    options = {"balance": WeightedSum(WEIGHTS), "kind": "hinge", "rate": 1.0, "update_share": 1.0, "quiet_steps": 0} | options
    return AdversarialCodec(codec=codec, adversary=learning.adversary(), **options)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight.grad.clone() for name, weight in module.named_parameters() if weight.grad is not None}


def test_a_period_view_sees_samples_a_period_apart_side_by_side() -> None:
    torch.manual_seed(0)
    (maps,) = MultiPeriod(periods=[3], channels=[2], kernel=5, stride=1)(torch.zeros(1, 30))
    moved = torch.zeros(1, 30)
    moved[0, 3 * 4 + 1] = 1.0  # column 1, row 4
    (others,) = MultiPeriod(periods=[3], channels=[2], kernel=5, stride=1)(moved)
    assert [tuple(layer.shape) for layer in maps] == [(3, 2, 10), (3, 1, 10)]
    torch.manual_seed(0)
    (others,) = MultiPeriod(periods=[3], channels=[2], kernel=5, stride=1)(moved)
    changed = (others[0] != maps[0]).any(dim=1)
    assert changed.nonzero().tolist() == [[1, row] for row in range(2, 7)]


@pytest.mark.parametrize("spectrum", ["magnitude", "complex"])
def test_a_view_of_magnitudes_is_deaf_to_sign_and_one_of_complex_values_is_not(spectrum: str) -> None:
    torch.manual_seed(0)
    views = MultiResolution(windows=[128], spectrum=spectrum, channels=[4], strides=[(1, 2)], kernel=(3, 5))
    wav_BT = torch.randn(1, 2000)
    ours, theirs = (views(wav)[0][-1] for wav in (wav_BT, -wav_BT))
    assert torch.allclose(ours, theirs, atol=1e-5) == (spectrum == "magnitude")


def test_strides_that_leave_no_band_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing of the 32 bands"):
        MultiResolution(windows=[64], spectrum="complex", channels=[2, 2], strides=[(1, 8), (1, 8)], kernel=(3, 5))


def test_losses_are_those_of_the_papers() -> None:
    real, fake = [[torch.tensor([2.0, 4.0]), torch.tensor([0.5, 2.0])]], [[torch.tensor([1.0, 1.0]), torch.tensor([-2.0, 0.0])]]
    assert discriminator_loss(real, fake, kind="hinge").item() == pytest.approx((0.5 + 0) / 2 + (0 + 1) / 2)
    assert generator_loss(fake, kind="hinge").item() == pytest.approx(1.0)
    assert discriminator_loss(real, fake, kind="least_squares").item() == pytest.approx((0.25 + 1) / 2 + (4 + 0) / 2)
    assert generator_loss(fake, kind="least_squares").item() == pytest.approx((9 + 1) / 2)
    assert feature_matching(real, fake).item() == pytest.approx((1 + 3) / 2 / 3)


def test_one_backward_gives_each_side_the_gradient_of_its_own_loss_alone(batch: Crops) -> None:
    model = adversarial(small_codec.model()).train()
    model.loss(batch)[0].backward()
    found = gradients(model)
    model.zero_grad()
    model.eval()  # k-means has set the codebooks: from here on they stay
    coded = model.codec(batch.wav_BT)
    fake = coded.wav_BT.detach()
    discriminator_loss(model.adversary(batch.wav_BT), model.adversary(fake), kind="hinge").backward()
    for name, gradient in gradients(model.adversary).items():
        torch.testing.assert_close(found[f"adversary.{name}"], gradient, rtol=1e-3, atol=1e-6)
    model.adversary.zero_grad()
    real, fake_maps = model.adversary(batch.wav_BT), model.adversary(coded.wav_BT)
    (0.1 * generator_loss(fake_maps, kind="hinge") + feature_matching(real, fake_maps)).backward(retain_graph=True)
    (sum(model.codec.distance(coded.wav_BT, batch.wav_BT).values()) + coded.commitment).backward()
    for name, gradient in gradients(model.codec.decoder).items():
        torch.testing.assert_close(found[f"codec.decoder.{name}"], gradient, rtol=2e-2, atol=2e-3)


def test_quiet_discriminators_learn_and_are_not_heard_until_their_time(batch: Crops) -> None:
    model = adversarial(small_codec.model(), quiet_steps=2)
    seen = learning.descend(model, batch, steps=3, rate=1e-3)
    assert ["adversarial" in parts for parts in seen] == [False, False, True]
    assert all("discriminator" in parts for parts in seen)
    assert model.state_dict()["steps"] == 3


def test_discriminators_learn_in_their_share_of_the_steps(batch: Crops) -> None:
    model = adversarial(small_codec.model(), update_share=0.5)
    small = Crops(batch.wav_BT[:1, :3200])
    learnt = 0
    for step in range(24):
        torch.manual_seed(step)
        learnt += "discriminator" in model.train().loss(small)[1]
    assert 5 <= learnt <= 19


@pytest.mark.parametrize("kind", ["hinge", "least_squares"])
def test_discriminators_come_to_tell_speech_from_a_codec_that_stands_still(batch: Crops, kind: str) -> None:
    codec = small_codec.model().requires_grad_(False)
    seen = learning.descend(adversarial(codec, kind=kind), batch, steps=45, rate=1e-2)
    assert seen[-1]["discriminator"] < 0.8 * seen[0]["discriminator"]


def test_a_codec_against_adversaries_comes_nearer_to_speech(batch: Crops) -> None:
    shares = Balancer(WEIGHTS, total_norm=1.0, decay=0.99)
    seen = learning.descend(adversarial(small_codec.model(), balance=shares), batch, steps=40, rate=3e-3)
    assert seen[-1]["mel"] < 0.7 * seen[0]["mel"]


def exported(folder, batch: Crops) -> Codec:
    """A codec after a few steps, in a folder."""
    codec = small_codec.model(quantiser=small_codec.trainable_residual(dropout=0.5))
    learning.descend(codec, batch, steps=5, rate=1e-3)
    codec.export(folder)
    return Codec.from_pretrained(folder)


def test_a_frozen_codec_keeps_its_codes_and_betters_its_sound(batch: Crops, tmp_path) -> None:
    before = exported(tmp_path / "a", batch)
    model = adversarial(trained_codec(str(tmp_path / "a"), distance=small_codec.distance(), dropout=0.0))
    state = {name: value.clone() for name, value in model.codec.state_dict().items() if not name.startswith("decoder.")}
    seen = learning.descend(model, batch, steps=25, rate=3e-3)
    assert seen[-1]["mel"] < 0.9 * seen[0]["mel"]
    assert all(torch.equal(model.codec.state_dict()[name], value) for name, value in state.items())
    model.export(tmp_path / "b")
    after = Codec.from_pretrained(tmp_path / "b")
    assert after.spec == before.spec
    lengths_B = torch.full((4,), 6400)
    assert torch.equal(after.encode(batch.wav_BT, lengths_B)[0], before.encode(batch.wav_BT, lengths_B)[0])


def test_a_frozen_quantiser_gives_what_the_exported_codec_decodes(batch: Crops, tmp_path) -> None:
    codec = exported(tmp_path / "a", batch)
    model = trained_codec(str(tmp_path / "a"), distance=small_codec.distance(), dropout=1.0).eval()
    codes_BKN, lengths_B = codec.encode(batch.wav_BT, torch.full((4,), 6400))
    torch.testing.assert_close(model(batch.wav_BT).wav_BT.clamp(-1, 1), codec.decode(codes_BKN, lengths_B)[0], rtol=1e-3, atol=1e-4)


def test_a_frozen_quantiser_with_dropout_gives_prefixes_of_the_codebooks(batch: Crops, tmp_path) -> None:
    codec = exported(tmp_path / "a", batch)
    quantiser = FrozenQuantiser(codec.network.quantiser, dropout=1.0).train()
    latent_ND = codec.network.encoder(batch.wav_BT)[0]
    hidden_KND = quantiser.quantiser.embed(quantiser.quantiser.encode(latent_ND)[None])[0]
    prefixes = hidden_KND.cumsum(dim=0)
    torch.manual_seed(0)
    quantised_BND, _ = quantiser(latent_ND.expand(64, -1, -1))
    kept = [[k for k in range(4) if torch.allclose(row, prefixes[k], atol=1e-5)] for row in quantised_BND]
    assert sorted({k for (k,) in kept}) == [0, 1, 2, 3]


def test_training_goes_on_from_a_checkpoint_as_a_whole_or_frozen(batch: Crops, tmp_path) -> None:
    trained = small_codec.model()
    learning.descend(trained, batch, steps=3, rate=1e-3)
    weights.save(trained, tmp_path / "ema.safetensors")
    codec = from_checkpoint(small_codec.model(seed=1), str(tmp_path)).eval()
    torch.testing.assert_close(codec(batch.wav_BT).wav_BT, trained.eval()(batch.wav_BT).wav_BT)
    alone = frozen(codec, dropout=0.0)
    assert {name.split(".")[0] for name, weight in alone.named_parameters() if weight.requires_grad} == {"decoder"}
    torch.testing.assert_close(alone.eval()(batch.wav_BT).quantised_BND, trained(batch.wav_BT).quantised_BND, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_of_another_codec_is_refused(tmp_path) -> None:
    weights.save(small_codec.model(), tmp_path / "ema.safetensors")
    with pytest.raises(ValueError, match="another network"):
        from_checkpoint(small_codec.model(quantiser=small_codec.trainable_residual(num_codebooks=2)), str(tmp_path))


def test_a_vocoder_learns_against_the_same_adversaries(batch: Crops, tmp_path) -> None:
    tokenizer = exported(tmp_path / "a", batch)
    vocoder = VocoderModel(
        tokenizer=tokenizer, decoder=small_codec.decoder(dim=4 * small_codec.DIM), voice=None, distance=small_codec.distance()
    )
    seen = learning.descend(adversarial(vocoder), batch, steps=25, rate=3e-3)
    assert seen[-1]["mel"] < 0.9 * seen[0]["mel"] and "discriminator" in seen[-1]


def test_a_run_against_adversaries_that_was_interrupted_ends_bit_for_bit_where_an_undisturbed_one_does(batch: Crops, tmp_path) -> None:
    small = Crops(batch.wav_BT[:2, :6400])
    settings = TrainSettings(
        steps=4, learning_rate=1e-3, warmup_steps=1, weight_decay=0.01, max_norm=1.0, ema_decay=0.9, precision="bf16", log_every=1,
        save_every=2, validate_every=2, keep=2,
    )  # fmt: skip

    def run(folder: Path, *, killed_at: int | None) -> Path:
        def progress(step: int, values: Mapping[str, float]) -> None:
            if step == killed_at:
                raise KeyboardInterrupt

        balance = Balancer(WEIGHTS, total_norm=1.0, decay=0.9)
        model = adversarial(small_codec.model(), balance=balance, update_share=0.7, quiet_steps=2)
        return fit(
            model, lambda step: repeat(small), folder=folder, settings=settings, seed=1, device=torch.device("cpu"), dev=[small],
            records={}, progress=progress,
        )  # fmt: skip

    whole = run(tmp_path / "a", killed_at=None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", killed_at=3)
    pieces = run(tmp_path / "b", killed_at=None)
    found = load_file(whole / "model.safetensors")
    assert found["steps"] == 4 and (found["balance.counts"] > 1).all()
    for name in ("model.safetensors", "ema.safetensors", "training.pt"):
        assert (whole / name).read_bytes() == (pieces / name).read_bytes()
