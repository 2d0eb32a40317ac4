"""The codec as it learns: its losses, what it exports, and that it learns speech."""

from pathlib import Path
from typing import Any

import librosa
import pytest
import small_codec
import torch
from torch import Tensor, nn

from audiotok.models.codec import CodecModel, Coded, Crops
from audiotok.models.reconstruction import FLOOR, SpectralDistance
from audiotok.tokenizers.codec import Codec


@pytest.fixture(scope="module")
def batch(wav_16k: Tensor) -> Crops:
    return Crops(small_codec.crops(wav_16k, number=4, samples=8000))


def learnt(model: CodecModel, batch: Crops, *, steps: int) -> list[dict[str, float]]:
    """The loss and its parts over some steps."""
    optimizer, seen = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for step in range(steps):
        torch.manual_seed(step)
        loss, parts = model.train().loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append({"loss": loss.item(), **{name: part.item() for name, part in parts.items()}})
    return seen


@pytest.mark.parametrize("quantiser", [small_codec.trainable_residual, small_codec.trainable_scalar])
def test_the_loss_falls_on_real_speech_and_the_export_encodes_as_the_model_does(quantiser: Any, batch: Crops, tmp_path: Path) -> None:
    model = small_codec.model(quantiser=quantiser())
    seen = learnt(model, batch, steps=30)
    assert seen[-1]["mel"] < 0.8 * seen[0]["mel"] and seen[-1]["loss"] < seen[0]["loss"]
    assert seen[0].keys() == {"loss", "mel", "stft", "commitment"}
    assert seen[0]["loss"] == pytest.approx(sum(value for name, value in seen[0].items() if name != "loss"), rel=1e-5)

    model.eval().export(tmp_path)
    codec, lengths_B = Codec.from_pretrained(tmp_path), torch.full((4,), 8000)
    codes_BKN, frames_B = codec.encode(batch.wav_BT, lengths_B)
    with torch.no_grad():
        coded = model(batch.wav_BT)
        if hasattr(model.quantiser, "quantise"):
            assert torch.equal(codes_BKN, model.quantiser.quantise(coded.latent_BND)[1])
        else:
            assert torch.equal(codes_BKN[:, 0], model.quantiser.fsq(coded.latent_BND)[1].long())
    torch.testing.assert_close(codec.embed(codes_BKN).sum(dim=1), coded.quantised_BND, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(codec.decode(codes_BKN, frames_B)[0], coded.wav_BT.clamp(-1, 1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("samples", [320, 6400, 6401, 7999])
def test_what_is_decoded_is_as_long_as_what_was_heard(samples: int, batch: Crops) -> None:
    coded = small_codec.model()(batch.wav_BT[:, :samples])
    assert coded.wav_BT.shape == (4, samples) and coded.latent_BND.shape == (4, -(-samples // 320), small_codec.DIM)


class Loudness(nn.Module):
    def forward(self, codec: CodecModel, wav_BT: Tensor, coded: Coded) -> dict[str, Tensor]:
        assert codec.sample_rate == 16000 and wav_BT.shape == coded.wav_BT.shape
        return {"loudness": (coded.wav_BT.std() - wav_BT.std()).abs()}


def test_terms_are_added_to_the_loss(batch: Crops) -> None:
    torch.manual_seed(0)
    plain, parts = small_codec.model().eval().loss(batch)
    loss, more = small_codec.model(terms=[Loudness()]).eval().loss(batch)
    assert more.keys() - parts.keys() == {"loudness"}
    torch.testing.assert_close(loss, plain + more["loudness"])


def test_an_encoder_and_a_decoder_of_other_frames_are_refused_before_they_learn() -> None:
    with pytest.raises(ValueError, match="a frame of 320 samples, the decoder one of 240; they must agree"):
        small_codec.model(decoder=small_codec.decoder(hop=120))


# The distance


def test_the_distance_of_a_waveform_to_itself_is_nothing_and_grows_with_noise(batch: Crops) -> None:
    distance, wav_BT = small_codec.distance(), batch.wav_BT
    assert all(part == 0 for part in distance(wav_BT, wav_BT).values())
    noise_BT = torch.randn(wav_BT.shape, generator=torch.Generator().manual_seed(0))
    parts = [distance(wav_BT + level * noise_BT, wav_BT) for level in (1e-3, 1e-2, 1e-1)]
    for name in ("mel", "stft"):
        assert 0 < parts[0][name] < parts[1][name] < parts[2][name]


def slow_mel(wav_BT: Tensor, reference_BT: Tensor, window: int, bands: int) -> float:
    """By librosa, one utterance at a time."""
    distances = []
    for pair in zip(wav_BT.double().numpy(), reference_BT.double().numpy()):
        ours, theirs = (
            librosa.feature.melspectrogram(
                y=wav_T, sr=16000, n_fft=window, hop_length=window // 4, n_mels=bands, htk=True, norm=None, power=1.0, pad_mode="reflect"
            )
            for wav_T in pair
        )
        distances.append(abs(torch.from_numpy(ours).clamp(min=FLOOR).log() - torch.from_numpy(theirs).clamp(min=FLOOR).log()).mean())
    return float(torch.stack(distances).mean())


def test_the_mel_distance_is_librosas(batch: Crops) -> None:
    wav_BT, reference_BT = batch.wav_BT.roll(1, dims=0), batch.wav_BT
    expected = slow_mel(wav_BT, reference_BT, 256, 20) + slow_mel(wav_BT, reference_BT, 512, 40)
    assert float(small_codec.distance()(wav_BT, reference_BT)["mel"]) == pytest.approx(expected, rel=1e-4)


def test_the_distance_of_transforms_is_relative_to_the_reference_and_only_the_complex_one_hears_phase(batch: Crops) -> None:
    def stft(wav_BT: Tensor, *, magnitude: float, complexity: float, compression: float = 1.0) -> float:
        options = {"sample_rate": 16000, "mel_windows": [512], "mel_bands": [40], "stft_windows": [512, 1024], "compression": compression}
        return float(SpectralDistance(**options, magnitude_weight=magnitude, complex_weight=complexity)(wav_BT, batch.wav_BT)["stft"])

    for magnitude, complexity, expected in ((1.0, 0.0, 0.5), (0.0, 1.0, 0.5), (2.0, 3.0, 2.5)):
        assert stft(0.75 * batch.wav_BT, magnitude=magnitude, complexity=complexity) == pytest.approx(expected, rel=1e-3)
    assert stft(-batch.wav_BT, magnitude=1.0, complexity=0.0) == pytest.approx(0, abs=1e-5)
    assert stft(-batch.wav_BT, magnitude=0.0, complexity=1.0) == pytest.approx(4, rel=1e-3)
    for magnitude, complexity in ((1.0, 0.0), (0.0, 1.0)):
        compressed = stft(0.75 * batch.wav_BT, magnitude=magnitude, complexity=complexity, compression=0.3)
        assert compressed == pytest.approx(2 * (1 - 0.75**0.3), rel=0.1)  # but for what is too quiet


def test_the_distance_is_in_float32_whatever_the_autocast_and_lets_gradients_through(batch: Crops) -> None:
    wav_BT = (batch.wav_BT * 0.9).requires_grad_()
    plain = small_codec.distance()(wav_BT, batch.wav_BT)
    with torch.autocast("cpu", torch.bfloat16):
        under = small_codec.distance()(wav_BT, batch.wav_BT)
    assert all(torch.equal(plain[name], under[name]) and under[name].dtype is torch.float32 for name in plain)
    torch.stack(list(plain.values())).sum().backward()
    assert wav_BT.grad.isfinite().all() and wav_BT.grad.abs().sum() > 0


def test_silence_has_a_finite_distance_with_finite_gradients(batch: Crops) -> None:
    silent_BT = torch.zeros_like(batch.wav_BT).requires_grad_()
    for reference_BT in (batch.wav_BT, torch.zeros_like(batch.wav_BT)):
        loss = torch.stack(list(small_codec.distance()(silent_BT, reference_BT).values())).sum()
        gradient_BT = torch.autograd.grad(loss, silent_BT)[0]
        assert loss.isfinite() and gradient_BT.isfinite().all()


def test_windows_and_bands_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="2 mel windows but 1 numbers of bands"):
        SpectralDistance(
            sample_rate=16000,
            mel_windows=[256, 512],
            mel_bands=[20],
            stft_windows=[],
            magnitude_weight=1.0,
            complex_weight=0.0,
            compression=1.0,
        )
