"""What stands before an utterance, and durations that it follows."""

from functools import partial

import pytest
import torch
from test_synthesis import GREEDY, Hold, requests, spoken, voice

from audiotok.data.aligned import Line, boundaries
from audiotok.decoding.drafts import Fixed
from audiotok.decoding.step import NONE
from audiotok.synthesis.carrying import carried
from audiotok.synthesis.drafting import Repetition
from audiotok.synthesis.following import followed
from audiotok.synthesis.openings import Lead, Opening, durations_along, forced_beginning, forced_codes
from audiotok.synthesis.voice import Failed, Request, Spoken
from audiotok.transforms.patterns import CoarseFirst, Delay, Flatten, Parallel
from audiotok.transforms.stack import Stack

LAYOUTS = [Parallel(), Delay(step=1), Delay(step=2), Flatten(), Stack(frames=2)]
WAYS = [(layout, kind) for kind in ("told", "plain", "pointer") for layout in (Parallel(), Delay(step=1), Flatten())] + [
    (Parallel(), "valle")
]


def name(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def codes_of(frames: int, *, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(0, size, (frames,), generator=generator) for size in Hold.spec.codebook_sizes])


def opening(speaker, *, frames: int = 20, durations: bool = True) -> Opening:
    line = speaker.line(requests()[0])
    each = [frames / len(line.phonemes)] * len(line.phonemes)
    return Opening(line, codes_of(frames), each if durations else None)


@pytest.mark.parametrize("layout", [*LAYOUTS, CoarseFirst()], ids=name)
def test_what_is_forced_is_what_stands_whatever_follows(layout):
    beginning_KN = codes_of(6)
    forced_KN = forced_codes(beginning_KN, layout, Hold.spec, num_frames=10)
    for seed in range(5):
        laid_KN = layout.apply(torch.cat([beginning_KN, codes_of(4, seed=seed)], 1), Hold.spec)
        assert torch.equal(forced_KN.where(forced_KN != NONE, laid_KN), laid_KN)
    legal_KN = layout.legal(10, Hold.spec)
    assert int(((forced_KN != NONE) & legal_KN).sum()) == beginning_KN.numel()


@pytest.mark.parametrize("layout", LAYOUTS, ids=name)
def test_a_beginning_is_cut_where_nothing_is_forced_any_more(layout):
    short_KN, long_KN = forced_beginning(codes_of(6), layout, Hold.spec), forced_codes(codes_of(6), layout, Hold.spec, num_frames=40)
    length = short_KN.shape[1]
    assert torch.equal(short_KN, long_KN[:, :length]) and (long_KN[:, length] == NONE).all() and (short_KN[:, -1] != NONE).any()


@pytest.mark.parametrize(("transform", "kind"), WAYS, ids=name)
def test_an_opening_is_heard_and_cut_off_to_the_frame(transform, kind, monkeypatch):
    speaker = voice(transform, kind)
    lead, heard = Lead(opening(speaker)), []
    decode = Hold.decode
    monkeypatch.setattr(Hold, "decode", lambda self, codes, lengths: (heard.append(codes[0]), decode(self, codes, lengths))[1])
    asked = requests()[1]
    (alone,) = spoken([asked], speaker, max_seconds=2.0)
    (after,) = spoken([asked], speaker, max_seconds=2.0, leads={asked.id: lead})
    if isinstance(after, Failed):
        assert kind in ("plain", "valle") and "did not end" in after.reason  # untrained, it says no end
        return
    assert torch.equal(heard[-1], after.codes_KN) and len(after.wav_T) == 8 * after.codes_KN.shape[1]
    if isinstance(alone, Spoken):
        assert after.codes_KN.shape != alone.codes_KN.shape or not torch.equal(after.codes_KN, alone.codes_KN)
    if kind != "plain" and after.durations_P is not None:
        assert len(after.durations_P) == len(speaker.line(asked).phonemes)
        assert sum(after.durations_P) == after.codes_KN.shape[1]


@pytest.mark.parametrize(("transform", "kind"), WAYS, ids=name)
def test_what_follows_an_opening_does_not_depend_on_the_batch(transform, kind):
    speaker = voice(transform, kind)
    leads = {"line0": Lead(opening(speaker)), "line2": Lead(opening(speaker, frames=27))}
    speak_so = partial(spoken, speaker=speaker, max_seconds=1.0, leads=leads)
    alone = [speak_so([request])[0] for request in requests()]
    for one, other in zip(alone, speak_so(requests(), batch_size=2), strict=True):
        assert type(one) is type(other)
        if isinstance(one, Spoken):
            assert torch.equal(one.codes_KN, other.codes_KN) and one.durations_P == other.durations_P
        else:
            assert one == other


@pytest.mark.parametrize("kind", ["told", "pointer"])
def test_what_is_certain_follows_an_opening_whoever_speaks_ahead(kind):
    speaker = voice(Delay(step=1), kind)
    greedy = partial(spoken, requests(), speaker, sampler=GREEDY, leads={"line1": Lead(opening(speaker))})
    for one, two in zip(greedy(), greedy(drafting=Repetition(order=1, lengths=Fixed(3))), strict=True):
        assert torch.equal(one.codes_KN, two.codes_KN)


@pytest.mark.parametrize("kind", ["told", "pointer"])
@pytest.mark.parametrize("transform", [Parallel(), Delay(step=1), Flatten()], ids=name)
@pytest.mark.parametrize("opened", [False, True])
def test_given_durations_are_followed_frame_by_frame(kind, transform, opened):
    speaker = voice(transform, kind)
    asked = requests()[1]
    phonemes = len(speaker.line(asked).phonemes)
    durations = [float(1 + (3 * p) % 5) for p in range(phonemes)]
    lead = Lead(opening(speaker, frames=25) if opened else None, durations)
    (result,) = spoken([asked], speaker, leads={asked.id: lead})
    assert isinstance(result, Spoken)
    assert list(result.durations_P) == durations and result.codes_KN.shape[1] == sum(durations)


def test_a_model_that_is_not_told_phonemes_refuses_durations_line_by_line():
    speaker = voice(Parallel(), "plain")
    results = spoken(requests(), speaker, max_seconds=0.3, leads={"line1": Lead(durations_P=[1.0])})
    assert isinstance(results[1], Failed) and "is not told how long sounds are" in results[1].reason
    assert all("is not told" not in getattr(result, "reason", "") for result in (results[0], results[2]))


@pytest.mark.parametrize("kind", ["told", "pointer"])
def test_an_opening_without_durations_is_refused_by_a_model_that_is_told_them(kind):
    speaker = voice(Parallel(), kind)
    results = []
    try:
        results = spoken(requests()[:1], speaker, leads={"line0": Lead(opening(speaker, durations=False))})
    except ValueError as error:
        assert kind == "told" and "needs durations" in str(error)
    assert kind == "told" or "needs durations" in results[0].reason


@pytest.mark.parametrize("layout", LAYOUTS, ids=name)
def test_durations_along_a_path_are_those_that_it_was_laid_out_from(layout):
    ends = boundaries([2.0, 4.0, 2.0, 6.0], 14)
    frame_N = layout.frame_index(14, Hold.spec)[: int(layout.legal(14, Hold.spec)[0].sum())]
    phoneme_N = torch.searchsorted(torch.tensor(ends), frame_N, right=True)
    assert durations_along(phoneme_N, 4, layout, Hold.spec, num_frames=14) == [2.0, 4.0, 2.0, 6.0]


def ask(id: str, text: str) -> Request:
    return Request(id, text, "allison", "en")


@pytest.mark.parametrize("kind", ["told", "pointer"])
def test_a_carried_sentence_is_what_the_one_before_it_leads_to_and_texts_do_not_meet(kind):
    speaker = voice(Delay(step=1), kind)

    def say(asked, leads):
        return spoken(asked, speaker, leads=leads)

    carry = partial(carried, say=say, voice=speaker, first=Lead(), max_seconds=30.0)
    texts = [ask("long", "Press one. Please enter your number. Goodbye."), ask("short", "Thank you.")]
    long, short = carry(texts)
    first, plain = (spoken([ask(f"long/{n}", text)], speaker)[0] for n, text in enumerate(["Press one.", "Please enter your number."]))
    before = Opening(speaker.line(first.request), first.codes_KN, first.durations_P)
    (second,) = spoken([ask("long/1", "Please enter your number.")], speaker, leads={"long/1": Lead(before)})
    frames = first.codes_KN.shape[1]
    assert torch.equal(long.codes_KN[:, :frames], first.codes_KN)
    assert torch.equal(long.codes_KN[:, frames : frames + second.codes_KN.shape[1]], second.codes_KN)
    assert second.codes_KN.shape != plain.codes_KN.shape or not torch.equal(second.codes_KN, plain.codes_KN)
    assert torch.equal(next(carry(texts[:1])).codes_KN, long.codes_KN)
    assert torch.equal(short.codes_KN, spoken([ask("short/0", "Thank you.")], speaker)[0].codes_KN)


def test_a_sentence_too_long_to_carry_or_that_failed_leaves_what_was_carried_before():
    speaker = voice(Parallel(), "told")
    seen = []

    def say(asked, leads):
        seen.append(leads[asked[0].id].opening)
        return spoken(asked, speaker, leads=leads)

    text = [ask("a", "Press one. Judge it. Goodbye.")]
    (result,) = carried(text, say, voice=speaker, first=Lead(), max_seconds=30.0)
    assert isinstance(result, Failed) and "never seen" in result.reason
    assert seen[0] is None and seen[1] is seen[2] is not None
    seen.clear()
    list(carried([ask("a", "Press one. Goodbye.")], say, voice=speaker, first=Lead(), max_seconds=0.0))
    assert seen == [None, None]


class Telling:
    """A model told phonemes whose codes are certain: code p mod 7 where it is told phoneme p."""

    unconditional = 0.0

    def __init__(self, real):
        self.spec, self.real = real.spec, real

    def predict_durations(self, text):
        return self.real.predict_durations(text)

    def begin(self, text, path, *, positions):
        return lambda heard_BKN: [torch.nn.functional.one_hot(path.phoneme_BN % size, size) * 9.0 for size in self.spec.codebook_sizes]


def test_the_path_that_makes_codes_most_probable_is_found():
    durations = [3, 1, 4, 2, 5]
    codes_KN = (
        torch.repeat_interleave(torch.arange(5), torch.tensor(durations)).repeat(3, 1) % torch.tensor(Hold.spec.codebook_sizes)[:, None]
    )
    model, line = Telling(voice(Parallel()).model), Line([1] * 5, [0] * 5, 0, 0)
    told = partial(followed, model, line, layout=Parallel(), spec=Hold.spec, device=torch.device("cpu"))
    assert told(codes_KN) == durations
    with pytest.raises(ValueError, match="cannot hold 5 states"):
        told(codes_KN[:, :4])


@pytest.mark.parametrize("kind", ["told", "pointer"])
@pytest.mark.parametrize("transform", [Parallel(), Delay(step=1), Flatten(), Stack(frames=2)], ids=name)
def test_every_model_that_is_told_phonemes_aligns_codes_in_any_layout(kind, transform):
    speaker = voice(transform, kind)
    line = speaker.line(requests()[0])
    durations = followed(speaker.model, line, codes_of(40), layout=transform, spec=Hold.spec, device=torch.device("cpu"))
    assert len(durations) == len(line.phonemes) and sum(durations) == 40 and min(durations) >= 0
