"""Vocoders beyond the laws: how they learn, their folder, the voice, and which codes they refuse."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_codec
import soundfile
import torch
from torch import Tensor

from audiotok import audio, files
from audiotok.models.codec import Crops
from audiotok.models.vocoder import VocoderModel
from audiotok.tokenizers.codec import Codec, save_network
from audiotok.tokenizers.dmel import DMel
from audiotok.tokenizers.griffin_lim import GriffinLimVocoder
from audiotok.tokenizers.kmeans import KMeans
from audiotok.tokenizers.mel import LogMel
from audiotok.tokenizers.vocoder import Vocoded, VocoderNetwork, VoiceEncoder, save_vocoder

BANDS = 40


def dmel(*, num_levels: int = 16, hop: int = 320) -> DMel:
    mel = LogMel(sample_rate=16000, n_fft=1024, window=640, hop=hop, num_mels=BANDS, low_hz=0, high_hz=8000, floor=1e-10)
    return DMel(mel=mel, low=-7.0, high=2.0, num_levels=num_levels, vocoder=GriffinLimVocoder(iterations=1, momentum=0.0, upsample=4))


def units(wav_16k: Tensor) -> KMeans:
    tokenizer = KMeans(dmel().mel, num_clusters=20, warmup_frames=60, batch_frames=40, seed=0, fitted=None)
    tokenizer.fit([wav_16k])
    return tokenizer


def model(tokenizer: Any, *, voice: bool, **decoder: int) -> VocoderModel:
    torch.manual_seed(0)
    return VocoderModel(
        tokenizer=tokenizer,
        decoder=small_codec.decoder(**{"dim": BANDS, "speaker_dim": small_codec.DIM if voice else 0} | decoder),
        voice=VoiceEncoder(small_codec.encoder()) if voice else None,
        distance=small_codec.distance(),
    )


@pytest.fixture(scope="module")
def batch(wav_16k: Tensor) -> Crops:
    return Crops(small_codec.crops(wav_16k, number=4, samples=8000))


@pytest.fixture
def voices(wav_16k: Tensor, tmp_path: Path) -> list[Path]:
    """Two recordings, the second of a lower voice."""
    paths = [tmp_path / "high.wav", tmp_path / "low.flac"]
    audio.write(paths[0], wav_16k, 16000)
    audio.write(paths[1], audio.resample(wav_16k, 12000, 16000).clamp(-1, 1), 16000)
    return paths


def encode(tokenizer: Any, wav_T: Tensor) -> tuple[Tensor, Tensor]:
    return tokenizer.encode(wav_T[None], torch.tensor([len(wav_T)]))


# How it learns


@pytest.mark.parametrize("voice", [False, True])
def test_the_loss_falls_on_real_speech_and_the_export_decodes_as_the_model_does(
    voice: bool, batch: Crops, wav_16k: Tensor, voices: list[Path], tmp_path: Path
) -> None:
    tokenizer = units(wav_16k) if voice else dmel()
    learner = model(tokenizer, voice=voice)
    optimizer, losses = torch.optim.AdamW(learner.parameters(), lr=3e-3), []
    for _ in range(20):
        loss, parts = learner.train().loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert parts.keys() == {"mel", "stft"} and losses[-1] < 0.9 * losses[0]
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in learner.parameters())

    learner.eval().export(tmp_path / "vocoder")
    spoken = Vocoded.from_pretrained(tmp_path / "vocoder", tokenizer=tokenizer, voice=voices[0] if voice else None)
    codes_BKN, frames_B = encode(spoken, wav_16k)
    sound_BT, lengths_B = spoken.decode(codes_BKN, frames_B)
    with torch.no_grad():
        expected_BT = learner(wav_16k[None])
    assert lengths_B.tolist() == [frames_B.item() * 320] and len(expected_BT[0]) == len(wav_16k)
    tolerance = {"rtol": 0, "atol": 2e-3 if voice else 1e-4}  # the voice's recording is of 16 bits
    torch.testing.assert_close(sound_BT[:, : len(wav_16k)], expected_BT.clamp(-1, 1), **tolerance)


def test_a_copy_of_the_model_shares_its_tokenizer_which_is_neither_trained_nor_saved(batch: Crops) -> None:
    tokenizer = Codec(small_codec.network(batch.wav_BT.flatten()), num_codebooks=2)
    learner = model(tokenizer, voice=False, dim=2 * small_codec.DIM)
    copied = copy.deepcopy(learner)
    assert copied.tokenizer is learner.tokenizer is tokenizer
    assert {name.split(".")[1] for name in learner.state_dict()} == {"decoder"}
    loss, _ = copied.loss(batch)
    loss.backward()
    assert all(weight.grad is None for weight in tokenizer.network.parameters())


# In all else the tokenizer


def test_codes_and_their_meaning_are_the_tokenizers(wav_16k: Tensor) -> None:
    tokenizer = dmel()
    spoken = Vocoded(tokenizer, model(tokenizer, voice=False).network, made_for=None, voice=None)
    assert (spoken.spec, spoken.reach) == (tokenizer.spec, tokenizer.reach)
    codes_BKN, frames_B = encode(spoken, wav_16k)
    assert torch.equal(codes_BKN, encode(tokenizer, wav_16k)[0])
    assert torch.equal(spoken.embed(codes_BKN), tokenizer.embed(codes_BKN))
    assert not torch.equal(spoken.decode(codes_BKN, frames_B)[0], tokenizer.decode(codes_BKN, frames_B)[0])


def test_a_vocoder_that_was_trained_on_other_codes_is_refused(tmp_path: Path) -> None:
    model(dmel(), voice=False).export(tmp_path)
    assert Vocoded.from_pretrained(tmp_path, tokenizer=dmel(), voice=None).spec == dmel().spec
    with pytest.raises(ValueError, match=rf"trained on codes {dmel().spec.fingerprint[:8]}, this tokenizer makes [0-9a-f]{{8}}; choose"):
        Vocoded.from_pretrained(tmp_path, tokenizer=dmel(num_levels=8), voice=None)


def test_codes_of_other_frames_or_vectors_are_refused(wav_16k: Tensor) -> None:
    for tokenizer, decoder, told in (
        (dmel(hop=160), {}, "a code stands for 160 samples, the decoder makes 320"),
        (dmel(), {"dim": 80}, "embedded as 40 numbers, the decoder hears 80"),
    ):
        with pytest.raises(ValueError, match=told):
            model(tokenizer, voice=False, **decoder)
        network = VocoderNetwork(decoder=small_codec.decoder(**{"dim": BANDS} | decoder), voice=None)
        with pytest.raises(ValueError, match=told):
            Vocoded(tokenizer, network, made_for=None, voice=None)


def test_what_cannot_embed_its_codes_has_no_vocoder() -> None:
    class Silent:
        spec, reach, encode = dmel().spec, dmel().reach, None

    with pytest.raises(ValueError, match="Silent cannot embed its codes"):
        Vocoded(Silent(), model(dmel(), voice=False).network, made_for=None, voice=None)  # type: ignore[arg-type]


# The voice


def test_a_voice_is_needed_where_codes_do_not_tell_it_and_refused_where_they_do(wav_16k: Tensor, voices: list[Path]) -> None:
    tokenizer = units(wav_16k)
    with pytest.raises(ValueError, match=r"set tokenizer\.voice to a recording"):
        Vocoded(tokenizer, model(tokenizer, voice=True).network, made_for=None, voice=None)
    with pytest.raises(ValueError, match=r"set tokenizer\.voice=null"):
        Vocoded(tokenizer, model(tokenizer, voice=False).network, made_for=None, voice=voices[0])
    with pytest.raises(ValueError, match=r"absent\.wav: no such file"):
        Vocoded(tokenizer, model(tokenizer, voice=True).network, made_for=None, voice=voices[0].with_name("absent.wav"))


def test_the_voice_is_that_of_the_recording_at_any_rate(wav_16k: Tensor, voices: list[Path], tmp_path: Path) -> None:
    tokenizer = units(wav_16k)
    soundfile.write(tmp_path / "high_48k.wav", audio.resample(wav_16k, 16000, 48000).numpy(), 48000)
    high, low, again = (
        Vocoded(tokenizer, model(tokenizer, voice=True).network, made_for=None, voice=path) for path in (*voices, tmp_path / "high_48k.wav")
    )
    codes_BKN, frames_B = encode(tokenizer, wav_16k)
    sounds = [spoken.decode(codes_BKN, frames_B)[0] for spoken in (high, low, again)]
    other, same = ((sound_BT - sounds[0]).norm() / sounds[0].norm() for sound_BT in sounds[1:])
    assert same < 0.1 * other and other > 1e-3


@pytest.mark.parametrize("speaker_dim", [0, 8])
def test_a_voice_that_the_decoder_cannot_take_is_refused(speaker_dim: int) -> None:
    with pytest.raises(ValueError, match="speaker_dim"):
        VocoderNetwork(decoder=small_codec.decoder(speaker_dim=speaker_dim), voice=VoiceEncoder(small_codec.encoder()))


def test_a_voice_encoder_at_another_rate_is_refused() -> None:
    mel = LogMel(sample_rate=8000, n_fft=512, window=480, hop=160, num_mels=40, low_hz=0, high_hz=4000, floor=1e-5)
    with pytest.raises(ValueError, match="codes at 16000 Hz, a voice encoder at 8000 Hz"):
        VocoderModel(
            tokenizer=dmel(),
            decoder=small_codec.decoder(dim=BANDS, speaker_dim=small_codec.DIM),
            voice=VoiceEncoder(small_codec.encoder(mel=mel)),
            distance=small_codec.distance(),
        )


# Its folder


CONFIGS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda config: config.pop("decoder"), "describes none of this version"),
    (lambda config: config.pop("voice"), "describes none of this version"),
    (lambda config: config.update(voice=[1]), "describes none of this version"),
    (lambda config: config["decoder"].update(width=-8), "describes none of this version"),
    (lambda config: config["decoder"].update(_target_="os.mkdir"), "describes none of this version"),
    (lambda config: config["decoder"].update(width=48), r"the network's is \[48"),
    (lambda config: config["decoder"].update(speaker_dim=16), "needs a voice encoder"),
]


@pytest.mark.parametrize(("change", "told"), CONFIGS)
def test_a_config_of_another_architecture_is_refused(change: Callable[[dict[str, Any]], Any], told: str, tmp_path: Path) -> None:
    model(dmel(), voice=False).export(tmp_path)
    config = files.read_json(tmp_path / "config.json")
    change(config)
    files.write_json(tmp_path / "config.json", config)
    with pytest.raises(ValueError, match=told):
        Vocoded.from_pretrained(tmp_path, tokenizer=dmel(), voice=None)


def test_a_codec_is_no_vocoder_and_a_vocoder_is_no_codec(wav_16k: Tensor, tmp_path: Path) -> None:
    save_network(small_codec.network(wav_16k), tmp_path / "codec")
    save_vocoder(model(dmel(), voice=False).network, tmp_path / "vocoder", made_for="", rounded=False)
    with pytest.raises(ValueError, match="describes none of this version"):
        Vocoded.from_pretrained(tmp_path / "codec", tokenizer=dmel(), voice=None)
    with pytest.raises(ValueError, match="describes no codec of this version"):
        Codec.from_pretrained(tmp_path / "vocoder")
    with pytest.raises(ValueError, match="is no folder, nor"):
        Vocoded.from_pretrained(tmp_path / "absent", tokenizer=dmel(), voice=None)
