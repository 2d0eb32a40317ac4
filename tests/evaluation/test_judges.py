"""The speaker and the quality judge, against the packages called directly."""

import pytest
import torch

from audiotok import audio
from audiotok.evaluation.metric import MetricFailure, Utterance
from audiotok.evaluation.quality import Dnsmos
from audiotok.evaluation.speaker import SpeakerSimilarity


def utterance(wav_T: torch.Tensor) -> Utterance:
    return Utterance("a", wav_T, 16000)


@pytest.fixture(scope="module")
def speaker():
    pytest.importorskip("resemblyzer", reason="pip install 'audiotok[eval]'")
    return SpeakerSimilarity(device="cpu")


@pytest.fixture(scope="module")
def dnsmos():
    pytest.importorskip("speechmos", reason="pip install 'audiotok[eval]'")
    return Dnsmos(threads=1)


def read(speech, name: str) -> torch.Tensor:
    return audio.read(speech / "librispeech" / "test-other" / f"{name}.flac")[0]


def test_a_voice_is_its_own_and_nearer_to_itself_than_to_another(speaker, speech):
    here, there, other = (utterance(read(speech, name)) for name in ("1688-142285-0002", "1688-142285-0004", "1998-15444-0001"))
    same, different = (speaker(here, another)["speaker_similarity"] for another in (there, other))
    assert speaker(here, here)["speaker_similarity"] == pytest.approx(1, abs=1e-5)
    assert same > 0.75 > different


def test_similarity_is_the_cosine_of_resemblyzers_embeddings(speaker, wav_16k):
    import resemblyzer

    half = wav_16k[: len(wav_16k) // 2]
    encoder = resemblyzer.VoiceEncoder("cpu", verbose=False)
    left, right = (encoder.embed_utterance(resemblyzer.preprocess_wav(wav_T.numpy())) for wav_T in (wav_16k, half))
    assert speaker(utterance(wav_16k), utterance(half))["speaker_similarity"] == pytest.approx(float(left @ right), abs=1e-5)


def test_a_whistle_has_no_speaker(speaker, wav_16k):
    whistle = 0.1 * torch.sin(torch.arange(32000) * 2 * torch.pi * 4000 / 16000)
    with pytest.raises(MetricFailure, match="of voice found"):
        speaker(utterance(wav_16k), utterance(whistle))


def test_dnsmos_is_that_of_the_package(dnsmos, wav_16k):
    from speechmos import dnsmos as package

    expected = package.run(wav_16k.numpy(), 16000)
    found = dnsmos(utterance(wav_16k), utterance(wav_16k))
    assert found == pytest.approx({f"dnsmos_{name}": expected[f"{name}_mos"] for name in ("ovrl", "sig", "bak", "p808")}, abs=1e-4)


def test_silence_and_nothing_have_neither_voice_nor_quality(speaker, dnsmos, wav_16k):
    for wav_T, reason in ((torch.zeros(32000), "silence"), (torch.zeros(0), "too short")):
        for metric in (speaker, dnsmos):
            with pytest.raises(MetricFailure, match=reason):
                metric(utterance(wav_16k), utterance(wav_T))
