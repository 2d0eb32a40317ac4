"""Enhancement by semantic units: learnt as acoustic codes are, spoken by a vocoder in the voice of the noisy recording."""

import pytest
import small_codec
import torch
from learning import descend
from small_enhancers import GREEDY, codec, enhancer, noisy_batch, transducer

from audiotok import audio
from audiotok.synthesis.enhancing import Speaking, enhanced
from audiotok.synthesis.own_voice import OwnVoice
from audiotok.tokenizers.kmeans import KMeans
from audiotok.tokenizers.vocoder import Vocoded, VocoderNetwork, VoiceEncoder


def mel_of_a_frame():
    return small_codec.mel().__class__(**small_codec.mel().settings | {"hop": 320})


@pytest.fixture(scope="module")
def units(wav_16k, tmp_path_factory):
    """Twenty units over log-mel spectra and an untrained vocoder that is told the voice."""
    torch.manual_seed(0)
    voice = tmp_path_factory.mktemp("voice") / "voice.wav"
    audio.write(voice, wav_16k, 16000)
    tokenizer = KMeans(mel_of_a_frame(), num_clusters=20, warmup_frames=60, batch_frames=40, seed=0, fitted=None)
    tokenizer.fit([wav_16k])
    decoder = small_codec.loud(small_codec.decoder(dim=40, speaker_dim=small_codec.DIM))
    return Vocoded(tokenizer, VocoderNetwork(decoder=decoder, voice=VoiceEncoder(small_codec.encoder())), made_for=None, voice=voice)


def test_a_transducer_learns_units_as_it_learns_acoustic_codes(units, wav_16k):
    torch.manual_seed(0)
    seen = descend(transducer(units), noisy_batch(wav_16k, 6400, 5000), steps=40, rate=3e-3)
    assert sum(each["loss"] for each in seen[-5:]) < 0.9 * sum(each["loss"] for each in seen[:5])


def test_units_are_spoken_in_the_voice_of_the_noisy_recording(units, wav_16k):
    torch.manual_seed(0)
    speaking = Speaking(transducer(units).eval(), GREEDY, None, 0)
    batch = noisy_batch(wav_16k, 6400, 3001)
    made_BT = OwnVoice(speaking).enhance(batch.noisy_BT, batch.lengths_B)
    assert made_BT.shape == batch.noisy_BT.shape and not made_BT[1, 3001:].any()
    given_BT = speaking.enhance(batch.noisy_BT, batch.lengths_B)
    assert not torch.allclose(made_BT, given_BT, atol=1e-4)
    units.speaker_1D, given = units.network.voice(batch.noisy_BT[:1]), units.speaker_1D
    try:
        torch.testing.assert_close(speaking.enhance(batch.noisy_BT[:1], batch.lengths_B[:1])[0], made_BT[0])
    finally:
        units.speaker_1D = given


@pytest.mark.parametrize("samples", [1, 5000, 16000])
def test_recordings_of_any_length_are_gone_through(samples, units, wav_16k):
    torch.manual_seed(0)
    one = OwnVoice(Speaking(transducer(units).eval(), GREEDY, None, 0))
    made_T = enhanced(one, wav_16k[8000 : 8000 + samples], seconds=0.3, overlap_seconds=0.05)
    assert len(made_T) == samples and bool(torch.isfinite(made_T).all())


def test_codes_that_tell_the_voice_are_not_spoken_in_another(wav_16k):
    with pytest.raises(ValueError, match=r"set enhance\.voice=given"):
        OwnVoice(enhancer("transducer", codec(wav_16k)))
