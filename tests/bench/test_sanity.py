"""Each rule fires on the mistake it was made for, and is silent without it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from audiotok.bench import comparison, sanity
from audiotok.bench.comparison import Measured
from audiotok.bench.entries import Entry, Suite
from audiotok.bench.rows import Row
from audiotok.bench.task import Score
from audiotok.evaluation.metric import Column

COMPARE = partial(comparison.difference, resamplings=1000, seed=0)
SPREAD = np.linspace(-0.1, 0.1, 20)
COLUMNS = {
    "pesq": Column("pesq", "PESQ", "mean", "higher"),
    "stoi": Column("stoi", "STOI", "mean", "higher"),
    "wer": Column("wer", "WER", "ratio", "lower", unit="%", scale=100),
    "accuracy": Column("accuracy", "Accuracy", "mean", "higher"),
    "coded": Column("coded", "Coded", "mean", "lower", unit="bit/s"),
    "blocks": Column("blocks", "Blocks", "mean", "lower"),
    **{name: Column(name, name, "mean", "higher", unit="dB") for name in ("si_sdr_raw", "si_sdr_aligned", "sdr_raw", "sdr", "si_sdr")},
}


def score(name: str, values: Sequence[float] | float, **told: Any) -> Score:
    """Of items, whose mean is the value; of a number, without items."""
    if isinstance(values, float | int):
        return Score(COLUMNS[name], float(values), **told)
    items = {str(index): float(value) for index, value in enumerate(values)}
    return Score(COLUMNS[name], float(np.mean(values)), items, **told)


def row(tokenizer: str, *scores: Score, task: str = "speech", axis: str = "reconstruction", seed: int = 0, **told: Any) -> Row:
    told = {"verdict": "ok", "reason": None, "provenance": {}} | told
    return Row("suite", tokenizer, task, axis, seed, started="", seconds=1.0, scores=scores, **told)


def entry(name: str, *rows: Row, **told: Any) -> Entry:
    return Entry(name, name, rows, **told)


def measured(*rows: Row) -> list[Measured]:
    return comparison.measured(rows)


def rates(**bits: tuple[str, float]) -> list[Entry]:
    return [entry(name, family=family, bits_per_second=rate) for name, (family, rate) in bits.items()]


def test_a_codec_that_gets_worse_with_more_bits_is_found() -> None:
    """Codec-SUPERB's sqcodec: 12 kbit/s below its own 0.75."""
    scores = measured(row("low", score("pesq", SPREAD + 2.5, primary=True)), row("high", score("pesq", SPREAD + 1.18, primary=True)))
    (found,) = sanity.bitrate_monotone(rates(low=("sq", 750), high=("sq", 12_000)), scores, COMPARE)
    assert (found.tokenizers, found.severity) == (("low", "high"), "error")
    assert found.what == "speech, pesq: worse at 12000 bit/s than at 750 (1.18, 2.50)"


def test_falling_errors_other_families_and_differences_within_the_interval_are_no_fall_of_quality() -> None:
    falling = measured(row("low", score("wer", SPREAD + 0.5, primary=True)), row("high", score("wer", SPREAD + 0.2, primary=True)))
    assert sanity.bitrate_monotone(rates(low=("sq", 750), high=("sq", 12_000)), falling, COMPARE) == []
    worse = measured(row("low", score("pesq", SPREAD + 2.5, primary=True)), row("high", score("pesq", SPREAD + 1.2, primary=True)))
    assert sanity.bitrate_monotone(rates(low=("one", 750), high=("other", 12_000)), worse, COMPARE) == []
    close = measured(row("low", score("pesq", SPREAD + 2.5, primary=True)), row("high", score("pesq", SPREAD[::-1] + 2.49, primary=True)))
    assert sanity.bitrate_monotone(rates(low=("sq", 750), high=("sq", 12_000)), close, COMPARE) == []


def copied(values: Mapping[str, Sequence[float]], axis: str = "downstream") -> list[Measured]:
    places = [(name, index, value) for name, own in values.items() for index, value in enumerate(own)]
    return measured(*(row(name, score("accuracy", float(value)), task=f"task {index}", axis=axis) for name, index, value in places))


def test_a_block_copied_from_one_tokenizer_to_another_is_found_though_other_scores_differ() -> None:
    """Table 15 of the survey: PESQ, UTMOS, P835, WER and SIM of SVQ-3 and FSQ-3 alike, SDR and SI-SNR not."""
    (found,) = sanity.copied_tokenizers(copied({"svq": [1.79, 2.57, 3.01, 6.71, 0.49, -3.09], "fsq": [1.79, 2.57, 3.01, 6.71, 0.49, 1.29]}))
    assert found.tokenizers == ("svq", "fsq")
    assert "at 5 scores: task 0 accuracy, task 1 accuracy" in found.what


def test_three_equal_values_whole_numbers_and_costs_are_no_copy() -> None:
    assert sanity.copied_tokenizers(copied({"a": [1.79, 2.57, 3.01, 6.7], "b": [1.79, 2.57, 3.01, 6.8]})) == []
    assert sanity.copied_tokenizers(copied({"a": [1, 2, 3, 4, 0.5], "b": [1, 2, 3, 4, 0.5]})) == []
    assert sanity.copied_tokenizers(copied({"a": [1.5, 2.5, 3.5, 4.5], "b": [1.5, 2.5, 3.5, 4.5]}, axis="cost")) == []


def two_columns(second: Sequence[float]) -> list[Measured]:
    return measured(
        *(row(str(i), score("pesq", one), score("stoi", other)) for i, (one, other) in enumerate(zip([1.1, 2.2, 3.3, 4.4], second)))
    )


def test_a_score_computed_twice_under_two_names_is_found() -> None:
    (found,) = sanity.copied_scores(two_columns([1.1, 2.2, 3.3, 4.4]))
    assert found.what == "speech pesq and speech stoi are the same for all tokenizers"


def test_scores_that_differ_for_one_tokenizer_or_are_one_constant_are_no_copy() -> None:
    assert sanity.copied_scores(two_columns([1.1, 2.2, 3.3, 4.5])) == []
    constant = measured(*(row(str(i), score("pesq", 1.5), score("stoi", 1.5)) for i in range(4)))
    assert sanity.copied_scores(constant) == []


def test_a_resynthesis_better_than_the_recording_is_found() -> None:
    """The survey's RVQ-S: a WER of 2.04 where the recordings have 2.83."""
    scores = measured(row("rvq", score("wer", 0.01 * SPREAD + 0.0204)), row("recordings", score("wer", 0.01 * SPREAD + 0.0283)))
    (found,) = sanity.better_than_recordings(scores, COMPARE)
    assert (found.tokenizers, found.what) == (("rvq",), "speech, wer: 2.04 %, better than the recordings (2.83 %)")


def test_a_resynthesis_worse_than_or_as_good_as_the_recording_is_plausible() -> None:
    worse = measured(row("rvq", score("wer", 0.01 * SPREAD + 0.03)), row("recordings", score("wer", 0.01 * SPREAD + 0.028)))
    close = measured(row("rvq", score("wer", SPREAD + 0.2)), row("recordings", score("wer", SPREAD[::-1] + 0.201)))
    own = {"a": score("accuracy", SPREAD + 0.9), "recordings": score("accuracy", SPREAD + 0.1)}
    learned = measured(*(row(name, one, axis="downstream") for name, one in own.items()))
    for scores in (worse, close, learned):
        assert sanity.better_than_recordings(scores, COMPARE) == []


def test_a_sign_that_only_alignment_turns_tells_of_a_delay() -> None:
    """The survey's DAC: -9 dB of SI-SNR beside a PESQ of 4.45."""
    (found,) = sanity.signs_disagree(measured(row("dac", score("si_sdr_raw", -9.0), score("si_sdr_aligned", 14.0))))
    assert found.what.startswith("speech: si_sdr_raw -9.00 dB, si_sdr_aligned 14.00 dB: a delay")


def test_a_sign_that_only_scale_invariance_turns_tells_of_a_level() -> None:
    """The survey's WavTokenizer on AudioSet: SI-SNR +9.78, SDR -4.55."""
    (found,) = sanity.signs_disagree(measured(row("wt", score("si_sdr", 9.78), score("sdr", -4.55))))
    assert "level or polarity" in found.what


def test_signs_that_agree_or_belong_to_two_tasks_are_fine() -> None:
    assert sanity.signs_disagree(measured(row("a", score("si_sdr_raw", -9.0), score("si_sdr_aligned", -1.0), score("sdr", -2.0)))) == []
    assert sanity.signs_disagree(measured(row("a", score("sdr_raw", -9.0)), row("a", score("sdr", 1.0), task="music"))) == []


@pytest.mark.parametrize(("name", "worst"), [("pesq", 1.0), ("stoi", 0.0)])
def test_worst_scores_that_stand_for_failures_are_found(name: str, worst: float) -> None:
    """Codec-SUPERB's scores where a judge raised an exception."""
    (every,) = sanity.disguised_failures(measured(row("a", score(name, [worst] * 5))))
    assert (every.severity, f"exactly {worst:g} for 5 of 5 items" in every.what) == ("error", True)
    (one,) = sanity.disguised_failures(measured(row("a", score(name, [worst, 1.2, 1.3]))))
    assert (one.severity, "1 of 3 items" in one.what) == ("warning", True)


def test_one_value_for_every_item_is_found() -> None:
    (found,) = sanity.disguised_failures(measured(row("a", score("accuracy", [1.0] * 6), axis="downstream")))
    assert found.what == "speech, accuracy: 1.00 for every one of 6 items"


def test_low_scores_that_were_measured_are_no_failures_and_recordings_may_be_alike() -> None:
    assert sanity.disguised_failures(measured(row("a", score("pesq", [1.02, 1.03, 1.04, 1.05]), score("accuracy", [0, 1, 1, 0])))) == []
    assert sanity.disguised_failures(measured(row("recordings", score("pesq", [4.64] * 6)))) == []


def test_a_value_that_its_items_do_not_give_is_found() -> None:
    items = {"a": 1.0, "b": 2.0}
    (found,) = sanity.values_without_items(measured(row("a", Score(COLUMNS["pesq"], 1.7, items))))
    assert found.what == "speech, pesq, seed 0: 1.70, but its items give 1.50"
    assert sanity.values_without_items(measured(row("a", Score(COLUMNS["pesq"], 1.5, items), score("stoi", 0.9)))) == []


def fixed(rate: float) -> Entry:
    return entry("a", bits_per_second=rate, spec={"frame_rate": "25/2", "codebook_sizes": [1024, 2048]})


def test_more_bits_than_fixed_length_codes_need_are_found() -> None:
    scores = measured(row("a", score("coded", 270.0), axis="tokens"))
    (found,) = sanity.more_than_fixed_length([fixed(262.5)], scores)
    assert found.what == "speech coded: 270.0 bit/s, fixed-length codes need 262.5"
    (found,) = sanity.more_than_fixed_length([fixed(300)], [])
    assert found.what.startswith("bits_per_second of tokenizer.json: 300.0 bit/s")


def test_fewer_bits_and_other_units_are_fine() -> None:
    scores = measured(row("a", score("coded", 262.5), axis="tokens"), row("a", score("blocks", 999.0), axis="tokens", task="more"))
    assert sanity.more_than_fixed_length([fixed(262.5)], scores) == []


def test_a_cell_that_others_have_is_missed() -> None:
    whole, half = entry("a", row("a"), row("a", seed=1)), entry("b", row("b"))
    (found,) = sanity.missing_cells([whole, half])
    assert (found.tokenizers, found.what) == (("b",), "not measured: speech (seed 1)")


def test_what_does_not_apply_and_what_references_alone_have_is_not_missed() -> None:
    whole, excused = entry("a", row("a"), row("a", seed=1)), entry("b", row("b", verdict="not_applicable"))
    assert sanity.missing_cells([whole, excused]) == []
    assert sanity.missing_cells([entry("a", row("a")), entry("top", row("top"), row("top", task="more"), reference=True)]) == []


def test_verdicts_unmeasured_values_and_failures_are_told_with_their_reasons() -> None:
    crashed = row("a", verdict="crashed", reason="IndexError: 7")
    unmeasured = row("b", Score(COLUMNS["pesq"], None), Score(COLUMNS["stoi"], float("nan")))
    partly = row("c", score("pesq", 2.0, failures={"silence": 3, "none": 0}), seed=2)
    found = sanity.failed_cells([crashed, unmeasured, partly])
    assert [(one.tokenizers[0], one.severity, one.what) for one in found] == [
        ("a", "error", "speech, seed 0: crashed: IndexError: 7"),
        ("b", "error", "speech, seed 0: no number for stoi"),
        ("c", "warning", "speech, pesq: 3 items: silence"),
    ]
    again = replace(partly, tokenizer="d", seed=0)
    (one,) = sanity.failed_cells([partly, again])
    assert one.tokenizers == ("c", "d")


def test_whole_cells_and_what_does_not_apply_have_not_failed() -> None:
    rows = [row("a", score("pesq", 2.0)), row("b", verdict="not_applicable", reason="no way back to sound")]
    assert sanity.failed_cells(rows) == []


def test_a_probe_at_chance_is_told_and_one_above_is_not() -> None:
    """DASB's speaker identification of 0.4 to 0.9 %."""
    at_chance = measured(row("a", replace(score("accuracy", [0, 1] * 20, chance=0.5), primary=True), axis="downstream"))
    (found,) = sanity.not_converged_rows(at_chance)
    assert found.rule == "not_converged" and "not better than chance" in found.what
    explaining = measured(row("a", replace(score("accuracy", [0, 1] * 20, chance=0.5), primary=False), axis="downstream"))
    assert sanity.not_converged_rows(explaining) == []
    assert sanity.not_converged_rows(measured(row("a", score("accuracy", [1] * 40, chance=0.5), axis="downstream"))) == []


def test_tokenizers_measured_with_other_seeds_are_found() -> None:
    one, other = score("pesq", 1.5), score("pesq", 2.5)
    (found,) = sanity.mixed_seeds([row("a", one), row("a", one, seed=1), row("b", other)])
    assert found.what == "speech: [0, 1] for a; [0] for b"
    assert sanity.mixed_seeds([row("a", one), row("b", other), row("c", verdict="died", seed=4)]) == []


def told(tokenizer: str, axis: str = "reconstruction", **provenance: Any) -> Row:
    shared = {"commit": "abc", "machine": {"cpu": "x"}, "cell": f"of {tokenizer}", "tokenizer": tokenizer, "task": {"size": 1}}
    return row(tokenizer, score("pesq", 1.5), axis=axis, provenance=shared | provenance)


@pytest.mark.parametrize(
    ("key", "value", "axis", "severity", "what"),
    [
        ("commit", "def", "tokens", "warning", "speech, commit: abc for a; def for b"),
        ("machine", {"cpu": "y"}, "tokens", "note", "speech, machine.cpu: x for a; y for b"),
        ("machine", {"cpu": "y"}, "cost", "error", "speech, machine.cpu: x for a; y for b"),
        ("task", {"size": 2}, "tokens", "error", "speech, task.size: 1 for a; 2 for b"),
    ],
)
def test_rows_of_one_table_that_come_from_different_places_are_found(key: str, value: Any, axis: str, severity: str, what: str) -> None:
    (found,) = sanity.mixed_provenance([told("a", axis), told("b", axis, **{key: value})])
    assert (found.severity, found.what) == (severity, what)


def test_another_judge_is_found_and_one_that_was_not_needed_is_not_missed() -> None:
    one, other = told("a", judges={"pesq": "0.0.3"}), told("b", judges={"pesq": "0.0.4"})
    (found,) = sanity.mixed_provenance([one, other])
    assert (found.severity, found.what) == ("error", "speech, judges.pesq: 0.0.3 for a; 0.0.4 for b")
    assert sanity.mixed_provenance([one, told("b")]) == []


def test_seeds_of_one_tokenizer_that_come_from_two_commits_are_named_and_tasks_mixed_alike_are_one_finding() -> None:
    rows = [told("a"), replace(told("a", commit="def"), seed=1, provenance={**told("a", commit="def").provenance, "seed": 1}), told("b")]
    (found,) = sanity.mixed_provenance([*rows, *(replace(one, task="music") for one in rows)])
    assert found.what == "speech, music, commit: abc for a (seed 0), b; def for a (seed 1)"
    assert found.tokenizers == ("a", "b")


def test_rows_differ_by_their_tokenizer_by_right() -> None:
    assert sanity.mixed_provenance([told("a"), told("b"), row("c", verdict="died", provenance={"commit": "def"})]) == []


def test_all_rules_are_asked_and_the_gravest_comes_first() -> None:
    rows = [
        row("a", score("pesq", [1.0] * 4, primary=True), provenance={"machine": "x"}),
        row("b", score("pesq", [2.0, 2.1, 2.2, 2.3], failures={"silence": 1}), provenance={"machine": "y"}),
    ]
    suite = Suite("suite", ("speech",), tuple(entry(one.tokenizer, one) for one in rows))
    found = sanity.findings(suite, measured(*rows), COMPARE)
    assert [(one.severity, one.rule) for one in found] == [
        ("error", "disguised_failures"),
        ("warning", "failed_cells"),
        ("note", "mixed_provenance"),
    ]
