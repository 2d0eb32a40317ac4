"""The tasks on real speech: what is known of a tokenizer comes out of them."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from audiotok import files
from audiotok.bench.compression import CodebookUse, Compression
from audiotok.bench.content import Phones, Speakers, Words
from audiotok.bench.cost import Cost
from audiotok.bench.invariance import Context, LanguagePremium, SameWords
from audiotok.bench.laws import Laws
from audiotok.bench.robustness import ReEncoding, Robustness
from audiotok.bench.subject import Recordings, Selection, Subject
from audiotok.data import speech as corpus
from audiotok.data.manifests import Utterance, write_manifests
from audiotok.data.perturbations import Gain, Noise
from audiotok.evaluation.metric import NotApplicable
from audiotok.tokenizers.codec import Codec
from audiotok.tokenizers.dmel import DMel
from audiotok.tokenizers.griffin_lim import GriffinLimVocoder
from audiotok.tokenizers.mel import LogMel


def mel() -> LogMel:
    return LogMel(sample_rate=16000, n_fft=1024, window=800, hop=400, num_mels=20, low_hz=80, high_hz=7600, floor=1e-10)


def dmel() -> DMel:
    return DMel(mel=mel(), low=-7.0, high=2.0, num_levels=16, vocoder=GriffinLimVocoder(iterations=4, momentum=0.99, upsample=4))


@pytest.fixture(scope="module")
def corpora(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A little of LibriSpeech, digits, EmoDB, noise and rooms; and two sentences in two languages."""
    listed = corpus.speech(root=str(speech), datasets=None, without=[], language=None, languages={}, fractions={"dev": 0.05, "test": 0.1})
    counts = {"librispeech": 6, "fsdd": 60, "emodb": 40, "noise": 2, "rir": 2}
    chosen = {split: [one for name, most in counts.items() for one in _of(rows, name, most)] for split, rows in listed.items()}
    folder = tmp_path_factory.mktemp("corpora")
    write_manifests(folder / "speech", chosen, max_rejected=0.0, max_seconds=60, workers=1)
    pair = [row for row in listed["test"] if row.custom["dataset"] == "librispeech"][:4]
    spoken = [
        Utterance(f"{language}{key}", one.sound, key, language, language, {"key": key})
        for one, (language, key) in zip(pair, (("en", "a"), ("en", "b"), ("es", "a"), ("es", "b")))
    ]
    write_manifests(folder / "languages", {"test": spoken}, max_rejected=0.0, max_seconds=60, workers=1)
    return {"speech": folder / "speech", "languages": folder / "languages"}


def _of(listed: Sequence[Utterance], dataset: str, most: int) -> list[Utterance]:
    rows = [one for one in listed if one.custom.get("dataset") == dataset]
    return rows[:: max(1, len(rows) // most)][:most]


def subject(system: object, corpora: dict[str, Path], folder: Path, tasks: Sequence[object] = (), **more) -> Subject:
    one = Subject(system, label="it", corpora=corpora, alignments={}, folder=folder, device=torch.device("cpu"), **more)
    if tasks:
        selections = [selection for task in tasks for selection in task.selections]
        assert not one.store(selections, batch_seconds=20, workers=None, progress=lambda more: None)
    return one


def values(outcome) -> dict[str, float | None]:
    return {score.column.name: score.value for score in outcome.scores}


LIBRI = Selection("speech", ["test"], {"dataset": ["librispeech"]})
DIGITS = Selection("speech", ["test", "train"], {"dataset": ["fsdd"]})
EMODB = Selection("speech", ["train", "test"], {"dataset": ["emodb"]})


def test_a_selection_is_the_same_whatever_comes_before_it(corpora: dict[str, Path], tmp_path: Path) -> None:
    one = subject(dmel(), corpora, tmp_path)
    few = Selection("speech", ["test", "train"], {"dataset": ["fsdd"]}, has=["label"], max_utterances=7)
    chosen = [cut.id for cut in one.cuts(few)]
    assert len(chosen) == 7 and chosen == sorted(chosen) == [cut.id for cut in one.cuts(few)]
    assert {cut.id for cut in one.cuts(few)} <= {cut.id for cut in one.cuts(DIGITS)}
    assert all(cut.custom["dataset"] == "fsdd" for cut in one.cuts(few))
    with pytest.raises(NotApplicable, match="no such utterances"):
        one.cuts(Selection("speech", ["test"], {"dataset": ["nothing"]}))
    with pytest.raises(NotApplicable, match="the corpus elsewhere is not at hand"):
        one.cuts(Selection("elsewhere", ["test"]))


def test_our_tokenizers_hold_every_law(corpora: dict[str, Path], tmp_path: Path) -> None:
    task = Laws(
        selection=Selection("speech", ["test"], {"dataset": ["librispeech"]}, max_utterances=3), padding_seconds=1, chunk_seconds=0.4
    )
    outcome = task.run(subject(Codec.from_pretrained("codec_50hz"), corpora, tmp_path), seed=0)
    assert set(values(outcome).values()) == {1.0} and outcome.verdict == "ok"
    chunked = task.run(subject(dmel(), corpora, tmp_path), seed=0)
    assert chunked.verdict == "ok" and values(chunked)["law_batch"] == 1.0


def test_louder_noise_costs_more_codes_and_gain_none_of_a_mean_free_code(corpora: dict[str, Path], tmp_path: Path) -> None:
    quiet, loud, gain = Noise("white", 30.0), Noise("white", 0.0), Gain(6.0)
    task = Robustness(selection=LIBRI, perturbations=[quiet, loud, gain], noise=None, snrs=[], rooms=None, shifts=[0.5])
    one = subject(dmel(), corpora, tmp_path, [task])
    outcome = task.run(one, seed=0)
    curve = next(curve for curve in outcome.detail["curves"] if curve["kind"] == "noise_white_UED")
    (loud_level, loud_edits), (quiet_level, quiet_edits) = curve["points"]
    assert (loud_level, quiet_level) == (0.0, 30.0) and loud_edits > quiet_edits > 0
    found = values(outcome)
    assert 0 < found["agreement_frame_shift"] < 1 and found["agreement_gain"] < 1
    assert found["ued"] == pytest.approx((found["ued_noise_white"] + found["ued_gain"] + found["ued_frame_shift"]) / 3)
    assert values(task.run(one, seed=0)) == found
    assert set(outcome.scores[0].items) == {cut.id for cut in one.cuts(LIBRI)}


def test_re_encoding_loses_codes_and_a_copy_of_the_sound_loses_none(corpora: dict[str, Path], tmp_path: Path) -> None:
    few = Selection("speech", ["test"], {"dataset": ["librispeech"]}, max_utterances=2, max_seconds=8)
    task = ReEncoding(selection=few, cycles=2)
    found = values(task.run(subject(Codec.from_pretrained("codec_50hz"), corpora, tmp_path, [task]), seed=0))
    assert 0.1 < found["idempotence"] < 1 and 0 < found["drift"] < 1
    with pytest.raises(NotApplicable, match="it has no codes"):
        task.run(subject(Recordings(), corpora, tmp_path / "recordings"), seed=0)


def test_the_same_words_are_nearer_than_other_words(corpora: dict[str, Path], tmp_path: Path) -> None:
    task = SameWords(selection=EMODB, text="text", across="speaker", max_pairs=60)
    outcome = task.run(subject(dmel(), corpora, tmp_path, [task]), seed=0)
    told = outcome.detail["similarities"]["edit"]
    assert 0 < told["floor"] < told["same"] < 1
    assert 0 < values(outcome)["invariance_speaker_edit"] < 1


def test_a_code_of_short_reach_does_not_know_its_context(corpora: dict[str, Path], tmp_path: Path) -> None:
    task = Context(selection=LIBRI, seconds=1.0, guard_seconds=0.1)
    one = subject(dmel(), corpora, tmp_path, [task])
    assert values(task.run(one, seed=0))["context_invariance"] == 1.0
    with pytest.raises(NotApplicable, match="as long as 100"):
        Context(selection=LIBRI, seconds=100, guard_seconds=0.1).run(one, seed=0)


def test_bits_that_are_saved_are_saved_and_plug_in_entropies_are_ordered(corpora: dict[str, Path], tmp_path: Path) -> None:
    task = Compression(train=DIGITS, test=LIBRI, order=2, merges=50)
    found = values(task.run(subject(dmel(), corpora, tmp_path, [task]), seed=0))
    assert found["bits_fixed"] == pytest.approx(40 * 20 * 4)
    assert found["bits_entropy_2"] <= found["bits_entropy_1"] <= found["bits_entropy_0"] <= found["bits_huffman"] <= found["bits_fixed"]
    assert 0 < found["bits_learnt"] < found["bits_fixed"] and 0 < found["bpe_length"] < 1


def test_a_codebook_of_a_thousand_codes_is_hardly_used_by_seconds_of_speech(corpora: dict[str, Path], tmp_path: Path) -> None:
    task = CodebookUse(selection=LIBRI)
    found = values(task.run(subject(Codec.from_pretrained("codec_50hz"), corpora, tmp_path, [task]), seed=0))
    assert 0 < found["active_share"] < found["existing_share"] <= 1 and 0 < found["entropy_share"] < 1
    assert found["dead_codes"] == pytest.approx((1 - found["active_share"]) * 6 * 1024)


def test_digits_and_speakers_are_told_by_the_codes_better_than_by_chance(corpora: dict[str, Path], tmp_path: Path) -> None:
    words = Words(selection=DIGITS, category="label", mode="across", max_cells=60, max_triples=4)
    speakers = Speakers(selection=DIGITS, shuffles=2)
    one = subject(dmel(), corpora, tmp_path, [words, speakers])
    assert values(words.run(one, seed=0))["abx_words_across"] < 0.48
    assert values(speakers.run(one, seed=0))["speaker_most"] > 0


def test_phones_are_told_by_the_codes(corpora: dict[str, Path], tmp_path: Path) -> None:
    task = Phones(selection=LIBRI, shuffles=2, max_frames=5000, max_cells=10, max_triples=4)
    one = subject(dmel(), corpora, tmp_path / "tokens", [task])
    with pytest.raises(NotApplicable, match="not aligned"):
        task.run(one, seed=0)
    rows = []
    for heard in one.heard(LIBRI):  # a "phone" is a stretch of frames whose first band is loud or not: all in the codes
        bands = (heard.codes_KN[3] > 5).tolist()
        runs = [[bands[0], 1]]
        for band in bands[1:]:
            runs[-1][1] += 1 if band == runs[-1][0] else 0
            if band != runs[-1][0]:
                runs.append([band, 1])
        rows.append({"id": heard.id, "phonemes": [str(band) for band, _ in runs], "durations": [count / 40 for _, count in runs]})
    files.write_jsonl(tmp_path / "aligned" / "alignments.jsonl", rows)
    one.alignments["speech"] = tmp_path / "aligned"
    outcome = task.run(one, seed=0)
    assert outcome.detail["best"] == 3 and values(outcome)["pnmi"] > 0.9 and values(outcome)["phone_purity"] > 0.98


def test_a_sentence_as_long_in_both_languages_has_no_premium(corpora: dict[str, Path], tmp_path: Path) -> None:
    everything = Selection("languages", ["test"], has=["key"])
    task = LanguagePremium(selection=everything, text="key", languages=["en", "es"], order=1)
    one = subject(dmel(), corpora, tmp_path, [task])
    outcome = task.run(one, seed=0)
    frames = {heard.id: heard.codes_KN.shape[1] for heard in one.heard(everything)}
    ratio = (frames["esa"] + frames["esb"]) / (frames["ena"] + frames["enb"])
    assert values(outcome)["premium_es_frames"] == pytest.approx(ratio) and outcome.detail["sentences"] == 2


def test_costs_are_told_with_their_conditions(corpora: dict[str, Path], tmp_path: Path) -> None:
    few = Selection("speech", ["test"], {"dataset": ["librispeech"]}, max_utterances=1)
    task = Cost(selection=few, threads=1, counted_seconds=1.0, chunk_seconds=0.02)
    outcome = task.run(subject(dmel(), corpora, tmp_path), seed=0)
    found = values(outcome)
    assert found["bits_per_second"] == 3200 and found["token_rate"] == 800 and found["rtf_encode"] > 0 and found["latency"] > 25
    assert json.dumps(outcome.detail["conditions"])
    with pytest.raises(NotApplicable, match="no tokenizer"):
        task.run(subject(mel(), corpora, tmp_path / "mel"), seed=0)
