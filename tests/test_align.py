"""The align stage hears what has no text."""

from pathlib import Path

import numpy as np
import pytest
from lhotse import MonoCut
from tiny import tiny_speech_folder

from audiotok import cli, files
from audiotok.data.manifests import load_cuts
from audiotok.evaluation.metric import JUDGE_RATE, NotApplicable
from audiotok.stages import align, paths, prepare


class Deaf:
    """Hears the same in everything English, and nothing where it is short."""

    def __init__(self) -> None:
        self.heard: list[int] = []

    def check(self, language: str | None) -> str:
        if language != "en":
            raise NotApplicable("English only")
        return language

    def hear(self, wav_T: np.ndarray, *, language: str) -> str:
        self.heard.append(len(wav_T))
        return " such iron " if len(wav_T) > JUDGE_RATE else ""


@pytest.fixture
def cuts(speech: Path, tmp_path: Path) -> list[MonoCut]:
    root = tiny_speech_folder(tmp_path / "corpus", speech, utterances=6)
    cfg = cli.load("prompts/tts", ["data=speech", f"data.root={root}", f"exp_root={tmp_path}/exp", "prepare.workers=1"])
    prepare.run(cfg)
    return list(load_cuts(paths.manifests(cfg), "train"))


def test_only_what_has_no_text_is_heard_and_only_in_a_language_that_the_transcriber_knows(cuts: list[MonoCut]) -> None:
    told, untold, foreign = cuts[:3]
    told.supervisions[0].text = "Told."
    untold.supervisions[0].text, untold.supervisions[0].language = None, "en"
    foreign.supervisions[0].text, foreign.supervisions[0].language = None, "ru"
    transcriber = Deaf()
    align.fill_in([told, untold, foreign], transcriber)
    assert [cut.supervisions[0].text for cut in (told, untold, foreign)] == ["Told.", "such iron", None]
    assert transcriber.heard == [round(untold.duration * JUDGE_RATE)]


def test_what_is_heard_as_nothing_stays_without_a_text(cuts: list[MonoCut]) -> None:
    short = cuts[0].truncate(duration=0.5)
    short.supervisions[0].text, short.supervisions[0].language = None, "en"
    align.fill_in([short], Deaf())
    assert short.supervisions[0].text is None


def test_a_corpus_without_texts_is_aligned_by_what_the_recogniser_hears(speech: Path, tmp_path: Path) -> None:
    pytest.importorskip("faster_whisper")
    root = tiny_speech_folder(tmp_path / "corpus", speech, utterances=6)
    table = (root / "manifest.tsv").read_text(encoding="utf-8").splitlines()
    place = table[0].split("\t").index("text")
    rows = ["\t".join("" if n == place else field for n, field in enumerate(line.split("\t"))) for line in table[1:]]
    (root / "manifest.tsv").write_text("\n".join([table[0], *rows]) + "\n", encoding="utf-8")
    settings = ["data=speech", f"data.root={root}", f"exp_root={tmp_path}/exp", "prepare.workers=1", "align.iterations=2"]
    prepare.run(cli.load("prompts/tts", settings))
    with pytest.raises(ValueError, match="no utterance of the training split can be aligned"):
        align.run(cli.load("prompts/tts", settings))
    hearing = cli.load("prompts/tts", [*settings, "+transcriber@align.transcriber=whisper"])
    align.run(hearing)
    aligned = list(files.read_jsonl(paths.alignments(hearing) / "alignments.jsonl"))
    assert aligned and all(len(row["phonemes"]) == len(row["durations"]) > 3 for row in aligned)
