"""Speaking: the same whatever the batch, and one bad sentence does not stop the others."""

from dataclasses import replace
from fractions import Fraction
from functools import partial

import pytest
import torch
from torch import Tensor

from audiotok.data.aligned import FrontEnd
from audiotok.data.phonemes import PhonemeVocabulary, phonemize
from audiotok.decoding.acceptance import Exact
from audiotok.decoding.drafts import Fixed
from audiotok.decoding.samplers import Sampler
from audiotok.models.ar_tts import ArTts
from audiotok.models.code_decoder import CodeDecoder
from audiotok.models.valle import Valle
from audiotok.models.valle_r import ValleR
from audiotok.synthesis.drafting import Nobody, Repetition, SmallModel
from audiotok.synthesis.scripts import Manner
from audiotok.synthesis.speech import in_sentences, sentences, speak
from audiotok.synthesis.voice import Failed, Request, Spoken, Voice
from audiotok.transforms.patterns import Delay, Flatten, Parallel
from audiotok.types import TokenSpec

pytest.importorskip("gruut", reason="needs the tts extra")
TEXTS = ["Press one.", "Please enter your number.", "Goodbye, and thank you!"]
SAMPLER = Sampler(
    temperature=0.9, top_k=None, top_p=None, min_p=None, repetition_window=None, repetition_threshold=None, repetition_comparison=">"
)


GREEDY = replace(SAMPLER, temperature=0)


class Hold:
    """A decoder for tests: each code is held for a frame, so that audio shows codes."""

    spec = TokenSpec(400, Fraction(50), (7, 7, 5), "hold")

    def decode(self, codes_BKN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        return (codes_BKN.sum(1) / 16).repeat_interleave(8, dim=1), lengths_B * 8


SIZES = {"width": 32, "layers": 2, "heads": 2, "feed_forward": 48, "dropout": 0.0, "text_layers": 1}
EXACT_HISTORY = {"replace_codes": 0.0, "blank_frames": 0.0, "own_history": 0.0, "anonymous": 0.0, "unconditional": 0.0}
DECODER = partial(CodeDecoder, from_vectors=False, **SIZES, **EXACT_HISTORY)
MODELS = {
    "told": partial(ArTts, from_vectors=False, duration_weight=1.0, **SIZES, **EXACT_HISTORY),
    "plain": DECODER,
    "pointer": partial(ValleR, decoder=DECODER, phoneme_weight=1.0, move_weight=1.0),
    "valle": partial(Valle, first=DECODER, from_vectors=False, layers=1, heads=2, feed_forward=48, dropout=0.0, prompt=0.3),
}


def voice(transform, kind: str = "told", *, seed: int = 0) -> Voice:
    words = [phoneme for text in TEXTS for word in phonemize(text, "en") for phoneme in word]
    front_end = FrontEnd(PhonemeVocabulary.of([words]), ("allison",), ("en",))
    torch.manual_seed(seed)
    spec = transform.out_spec(Hold.spec)
    model = MODELS[kind](spec, num_phonemes=len(front_end.vocabulary), num_speakers=1, num_languages=1, vectors=list)
    if kind == "pointer":
        model.longest_V.fill_(3)
    return Voice(model.eval(), front_end, transform, Hold())


def spoken(
    requests, speaker, *, batch_size=8, seed=0, max_seconds=30.0, guidance=None, drafting=None, rule=None, sampler=SAMPLER, leads=None
):
    return list(
        speak(
            requests,
            speaker,
            sampler=sampler,
            seed=seed,
            manner=Manner(max_seconds, sampler.temperature, guidance, batch_size, torch.device("cpu")),
            drafting=drafting or Nobody(),
            rule=rule or Exact(),
            leads=leads,
        )
    )


WAYS = [(layout, kind) for kind in ("told", "plain", "pointer") for layout in (Parallel(), Delay(step=1), Flatten())] + [
    (Parallel(), "valle")
]


def requests():
    return [Request(f"line{i}", text, "allison", "en") for i, text in enumerate(TEXTS)]


@pytest.mark.parametrize(("transform", "kind"), WAYS, ids=lambda way: way if isinstance(way, str) else type(way).__name__)
def test_a_sentence_is_spoken_the_same_in_any_batch(transform, kind):
    speak_so = partial(spoken, speaker=voice(transform, kind), max_seconds=2.0)
    alone = [speak_so([request])[0] for request in requests()]
    assert any(isinstance(one, Spoken) for one in alone)
    for batch_size in (2, 3):
        for one, other in zip(alone, speak_so(requests(), batch_size=batch_size)):
            if isinstance(one, Failed):
                assert one == other
                continue
            assert torch.equal(one.codes_KN, other.codes_KN)
            assert torch.equal(one.wav_T, other.wav_T)


def test_a_long_text_is_spoken_sentence_by_sentence_and_joined_with_pauses():
    def ask(id: str, text: str) -> Request:
        return Request(id, text, "allison", "en")

    speak_so = partial(spoken, speaker=voice(Parallel()))
    asked = [ask("long", "Press one. Please enter your number."), ask("short", "Press one."), ask("bad", "Press one. ...")]
    long, short, bad = in_sentences(asked, speak_so)
    first, second = speak_so([ask("long/0", "Press one."), ask("long/1", "Please enter your number.")])
    assert torch.equal(long.codes_KN, torch.cat([first.codes_KN, second.codes_KN], 1)) and long.request == asked[0]
    assert torch.equal(long.wav_T, torch.cat([first.wav_T, torch.zeros(100), second.wav_T]))  # a quarter of a second of 400 Hz
    assert short.request.id == "short" and isinstance(bad, Failed) and "nothing to pronounce" in bad.reason and "'...'" in bad.reason
    told = sentences("Dr. Li met Mrs. Day at 5 p.m. in St. Ives! Why? So.")
    assert told == ["Dr. Li met Mrs. Day at 5 p.m. in St. Ives!", "Why?", "So."]


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


@pytest.mark.parametrize(("transform", "kind"), WAYS, ids=lambda way: way if isinstance(way, str) else type(way).__name__)
def test_who_speaks_ahead_changes_nothing_of_what_is_certain(transform, kind):
    speaker, other = voice(transform, kind), voice(transform, kind, seed=1)
    greedy = partial(spoken, requests(), speaker, batch_size=2, max_seconds=0.3, sampler=GREEDY)
    small = SmallModel(model=ArTts, checkpoint="", lengths=Fixed(2)).prepare(lambda make, folder: other.model)
    for drafting in (Repetition(order=1, lengths=Fixed(3)), small):
        for one, two in zip(greedy(), greedy(drafting=drafting), strict=True):
            assert type(one) is type(two)
            if isinstance(one, Spoken):
                assert torch.equal(one.codes_KN, two.codes_KN) and two.rounds and not one.rounds


def test_the_pointer_says_every_phoneme_and_stops_and_a_plain_model_that_does_not_is_reported():
    for result in spoken(requests(), voice(Parallel(), "pointer")):
        phonemes = len(voice(Parallel()).line(result.request).phonemes)
        assert isinstance(result, Spoken) and phonemes <= result.codes_KN.shape[1] <= 3 * phonemes
    endless = voice(Parallel(), "plain")
    torch.nn.init.constant_(endless.model.bias, 0.0)
    with torch.no_grad():
        endless.model.bias[endless.model.end] = -100.0
    (result,) = spoken(requests()[:1], endless, max_seconds=1.0)
    assert isinstance(result, Failed) and result.reason.startswith("did not end within 1 s")


@pytest.mark.parametrize("kind", ["told", "plain"])
def test_guidance_changes_what_a_model_says_that_can_do_without_its_text_and_is_refused_by_one_that_cannot(kind):
    speaker = voice(Parallel(), kind)
    with pytest.raises(ValueError, match="was never trained without its text"):
        spoken(requests(), speaker, max_seconds=1.0, guidance=3.0)
    speaker.model.unconditional = 0.1
    plain, one, three = (spoken(requests(), speaker, max_seconds=1.0, guidance=scale, sampler=GREEDY) for scale in (None, 1.0, 3.0))
    said = [[result.codes_KN.tolist() if isinstance(result, Spoken) else None for result in each] for each in (plain, one, three)]
    assert said[0] == said[1] != said[2]
