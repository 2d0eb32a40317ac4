"""Axis 2: whether the same words give the same tokens, whoever says them, in whatever context, in whatever language.

After STAB (arXiv 2409.02384), which publishes no formulas; these are stated here and in `audiotok.evaluation.tokens.invariance`.
"""

from collections.abc import Sequence
from math import ceil, lcm

import numpy as np
from torch import Tensor

from audiotok.bench.laws import agreement
from audiotok.bench.scores import average, percent, score
from audiotok.bench.subject import Heard, Selection, Subject, value_of
from audiotok.bench.task import Axis, Outcome
from audiotok.data.tokenization import read_cut
from audiotok.evaluation.metric import NotApplicable
from audiotok.evaluation.tokens.adaptive import adaptive_bits
from audiotok.evaluation.tokens.distance import bag_f, codebook_edit_distances, deduplicated, ngram_f
from audiotok.evaluation.tokens.invariance import Across, Spoken, invariance


def edit_similarity(left_KN: np.ndarray, right_KN: np.ndarray) -> float:
    """1 - unit edit distance over the longer of the two, repeats taken out, a mean over codebooks."""
    return 1 - float(codebook_edit_distances(left_KN, right_KN, deduplicate=True, normalise="longest").mean())


def ngram_similarity(left_KN: np.ndarray, right_KN: np.ndarray) -> float:
    """chrF over units, repeats taken out, a mean over codebooks."""
    return float(np.mean([ngram_f(deduplicated(left_N), deduplicated(right_N)) for left_N, right_N in zip(left_KN, right_KN)]))


def bag_similarity(left_KN: np.ndarray, right_KN: np.ndarray) -> float:
    """F of bags of units, whatever their order, a mean over codebooks."""
    return float(np.mean([bag_f(left_N, right_N) for left_N, right_N in zip(left_KN, right_KN)]))


class SameWords:
    """Similarity of utterances of the same text over the floor of other texts: (same - floor) / (1 - floor).

    `across` speakers: the same sentence by another speaker of the language. `across` languages: its translation, where the bag of units
    stands beside the edit distance, since the order of words differs. `text` is the field that says which utterances say the same.
    """

    axis: Axis = "tokens"
    seeded = True

    def __init__(self, *, selection: Selection, text: str, across: Across, max_pairs: int) -> None:
        self.selections = (selection,)
        self.text = text
        self.across: Across = across
        self.max_pairs = max_pairs

    def run(self, subject: Subject, *, seed: int) -> Outcome:
        subject.tokenizer  # noqa: B018, raises for what has no codes
        spoken = [self._spoken(heard) for heard in subject.heard(self.selections[0])]
        kinds = {"edit": edit_similarity, "ngram": ngram_similarity, "bag": bag_similarity}
        scores, detail = [], {}
        for kind, similarity in kinds.items():
            try:
                found = invariance(spoken, similarity, across=self.across, max_pairs=self.max_pairs, seed=seed)
                value, failures = found.normalised, {}
                detail[kind] = {"same": found.same, "floor": found.floor, "pairs": len(found.same_pairs)}
            except NotApplicable as reason:
                value, failures = None, {str(reason): 1}
            primary = kind == ("bag" if self.across == "language" else "edit")
            label = f"{self.across.capitalize()} invariance ({kind})"
            scores.append(
                percent(f"invariance_{self.across}_{kind}", label, value, "higher", primary=primary, failures=failures, chance=0.0)
            )
        return Outcome(tuple(scores), {"similarities": detail})

    def _spoken(self, heard: Heard) -> Spoken:
        assert heard.codes_KN is not None
        speaker = value_of(heard.cut, "speaker") or ""
        return Spoken(heard.id, heard.value(self.text), speaker, value_of(heard.cut, "language") or "", heard.codes_KN.numpy())


class LanguagePremium:
    """What the same sentence costs in another language than in the first: frames, units without repeats, and bits.

    Bits are those of an arithmetic coder that has learnt from as much of the same language (`audiotok.evaluation.tokens.adaptive`).
    """

    axis: Axis = "tokens"
    seeded = False

    def __init__(self, *, selection: Selection, text: str, languages: Sequence[str], order: int) -> None:
        """`languages`: the first is what the others are measured by."""
        self.selections = (selection,)
        self.text = text
        self.languages = list(languages)
        self.order = order

    def run(self, subject: Subject, *, seed: int) -> Outcome:
        sizes = subject.spec.codebook_sizes
        by_language: dict[str, dict[str, np.ndarray]] = {language: {} for language in self.languages}
        for heard in subject.heard(self.selections[0]):
            language = value_of(heard.cut, "language") or ""
            if language in by_language and heard.codes_KN is not None:
                by_language[language][heard.value(self.text)] = heard.codes_KN.numpy()
        shared = sorted(set.intersection(*(set(texts) for texts in by_language.values())))
        if not shared:
            raise NotApplicable("no sentence is there in all of the languages")
        sums = {
            language: {
                "frames": sum(texts[key].shape[1] for key in shared),
                "units": sum(len(deduplicated(codes_N)) for key in shared for codes_N in texts[key]),
                "bits": float(adaptive_bits([texts[key] for key in shared], sizes=sizes, order=self.order, given_below=True).sum()),
            }
            for language, texts in by_language.items()
        }
        first, scores = sums[self.languages[0]], []
        for language in self.languages[1:]:
            for name in ("frames", "units", "bits"):
                label = f"{language} premium ({name})"
                scores.append(score(f"premium_{language}_{name}", label, sums[language][name] / first[name], "neither", digits=3))
        return Outcome(tuple(scores), {"sentences": len(shared), "sums": sums})


class Context:
    """Whether a stretch of speech has the same codes by itself as within its utterance.

    From the middle of each utterance `seconds` are encoded alone, and once more with silence in place of all around; `guard_seconds` at
    either end are not compared. A tokenizer of bounded reach is independent of what lies beyond it; one that hears everything may not be.
    """

    axis: Axis = "tokens"
    seeded = False

    def __init__(self, *, selection: Selection, seconds: float, guard_seconds: float) -> None:
        self.selections = (selection,)
        self.seconds = seconds
        self.guard_seconds = guard_seconds

    def run(self, subject: Subject, *, seed: int) -> Outcome:
        spec = subject.spec
        step = _whole_frames(subject)  # frames from one place where encoding may start to the next
        length, guard = (ceil(float(spec.frame_rate) * seconds) for seconds in (self.seconds, self.guard_seconds))
        alone, masked = {}, {}
        for heard in subject.heard(self.selections[0]):
            wav_T, codes_KN = read_cut(heard.cut, spec.sample_rate), heard.codes_KN
            assert codes_KN is not None
            first = (codes_KN.shape[1] - length) // 2 // step * step
            if first < 0 or first + length > codes_KN.shape[1]:
                continue
            start, stop = round(first * spec.hop), round((first + length) * spec.hop)
            within_KN = codes_KN[:, first + guard : first + length - guard]
            alone[heard.id] = agreement(within_KN, subject.encode(wav_T[start:stop])[:, guard : length - guard])
            silent_T = wav_T.clone()
            silent_T[:start], silent_T[stop:] = 0, 0
            masked[heard.id] = agreement(within_KN, _part(subject.encode(silent_T), first + guard, first + length - guard))
        if not alone:
            raise NotApplicable(f"no utterance of the selection is as long as {self.seconds} s")
        both = average({"alone": alone, "masked": masked})
        return Outcome(
            (
                percent("context_invariance", "Context invariance", both, "higher", primary=True),
                percent("context_alone", "of a stretch alone", alone, "higher"),
                percent("context_masked", "with silence around it", masked, "higher"),
            )
        )


def _part(codes_KN: Tensor, first: int, last: int) -> Tensor:
    return codes_KN[:, first:last]


def _whole_frames(subject: Subject) -> int:
    """Frames after which both a whole number of samples and a period of the tokenizer's have gone by."""
    hop = subject.spec.hop
    reach = getattr(subject.tokenizer.wrapped, "reach", None)
    period = reach.period if reach is not None else 1
    samples = lcm(hop.numerator, period)  # a multiple of the period that is a whole number of hops
    return round(samples / hop)
