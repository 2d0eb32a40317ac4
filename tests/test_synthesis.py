"""Speaking: the same whatever the batch, and one bad sentence does not stop the others."""

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from audiotok.data.aligned import FrontEnd
from audiotok.data.phonemes import PhonemeVocabulary, phonemize
from audiotok.decoding.samplers import Sampler
from audiotok.models.ar_tts import ArTts
from audiotok.synthesis import Failed, Request, Spoken, Voice, speak
from audiotok.transforms.patterns import Delay, Flatten, Parallel
from audiotok.types import TokenSpec

pytest.importorskip("gruut", reason="needs the tts extra")
TEXTS = ["Press one.", "Please enter your number.", "Goodbye, and thank you!"]
SAMPLER = Sampler(
    temperature=0.9, top_k=None, top_p=None, min_p=None, repetition_window=None, repetition_threshold=None, repetition_comparison=">"
)


class Hold:
    """A decoder for tests: each code is held for a frame, so that audio shows codes."""

    spec = TokenSpec(400, Fraction(50), (7, 7, 5), "hold")

    def decode(self, codes_BKN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        return (codes_BKN.sum(1) / 16).repeat_interleave(8, dim=1), lengths_B * 8


def voice(transform) -> Voice:
    words = [phoneme for text in TEXTS for word in phonemize(text, "en") for phoneme in word]
    front_end = FrontEnd(PhonemeVocabulary.of([words]), ("allison",), ("en",))
    torch.manual_seed(0)
    model = ArTts(
        transform.out_spec(Hold.spec),
        num_phonemes=len(front_end.vocabulary),
        num_speakers=1,
        num_languages=1,
        vectors=list,
        from_vectors=False,
        width=32,
        layers=2,
        heads=2,
        feed_forward=48,
        dropout=0.0,
        text_layers=1,
        replace_codes=0.0,
        blank_frames=0.0,
        own_history=0.0,
        anonymous=0.0,
        duration_weight=1.0,
    )
    return Voice(model.eval(), front_end, transform, Hold())


def spoken(requests, speaker, *, batch_size=8, seed=0, max_seconds=30.0):
    return list(
        speak(
            requests,
            speaker,
            sampler=SAMPLER,
            seed=seed,
            batch_size=batch_size,
            max_seconds=max_seconds,
            device=torch.device("cpu"),
        )
    )


def requests():
    return [Request(f"line{i}", text, "allison", "en") for i, text in enumerate(TEXTS)]


@pytest.mark.parametrize("transform", [Parallel(), Delay(step=1), Flatten()], ids=lambda transform: type(transform).__name__)
def test_a_sentence_is_spoken_the_same_in_any_batch(transform):
    speaker = voice(transform)
    alone = [spoken([request], speaker)[0] for request in requests()]
    for batch_size in (2, 3):
        for one, other in zip(alone, spoken(requests(), speaker, batch_size=batch_size)):
            assert isinstance(one, Spoken) and isinstance(other, Spoken)
            assert torch.equal(one.codes_KN, other.codes_KN)
            assert torch.equal(one.wav_T, other.wav_T)


def test_the_seed_decides():
    speaker = voice(Parallel())
    first, again, other = (spoken(requests()[:1], speaker, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first.codes_KN, again.codes_KN)
    assert not torch.equal(first.codes_KN, other.codes_KN)


def test_sentences_that_cannot_be_spoken_are_reported_and_the_others_spoken():
    bad = [
        Request("empty", "...", "allison", "en"),
        Request("unseen", "Judge the vision.", "allison", "en"),
        Request("stranger", "Press one.", "bob", "en"),
    ]
    results = spoken([*bad, *requests()], voice(Parallel()))
    assert [type(result) for result in results] == [Failed] * 3 + [Spoken] * 3
    assert "nothing to pronounce" in results[0].reason
    assert "never seen in training" in results[1].reason
    assert "no speaker 'bob' in this model; there are: allison" in results[2].reason


def test_a_sentence_that_would_last_too_long_fails_and_says_how_long():
    speaker = voice(Parallel())
    torch.nn.init.constant_(speaker.model.duration[-1].bias, 3.0)  # about twenty frames a phoneme
    (result,) = spoken(requests()[:1], speaker, max_seconds=1.0)
    assert isinstance(result, Failed) and "split the text" in result.reason
