"""Several corpora as one: no two utterances or speakers are taken for the same."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import open_dict
from tiny import tiny_speech_folder

from audiotok import cli
from audiotok.data.manifests import Utterance
from audiotok.data.mixture import mixture

FIRST = {
    "train": [Utterance("1", Path("a.wav"), text="one", speaker="anna", language="de", custom={"label": 3}), Utterance("2", Path("b.wav"))],
    "test": [Utterance("3", Path("c.wav"), speaker="anna")],
}
SECOND = {"train": [Utterance("1", Path("d.wav"), speaker="anna")], "dev": [Utterance("2", Path("e.wav"), speaker="bert")]}


def mixed(*splits: str, **others: list[str]) -> Mapping[str, list[Utterance]]:
    wanted = {"x": splits, "y": splits} | others
    return {split: list(part) for split, part in mixture(corpora={"x": lambda: FIRST, "y": lambda: SECOND}, splits=wanted).items()}


def test_ids_and_speakers_carry_the_name_of_their_corpus_and_all_else_stays() -> None:
    found = mixed("train", "dev", "test")
    assert [(row.id, row.speaker) for row in found["train"]] == [("x_1", "x_anna"), ("x_2", None), ("y_1", "y_anna")]
    assert [(row.id, row.speaker) for row in found["dev"]] == [("y_2", "y_bert")]
    assert [(row.id, row.speaker) for row in found["test"]] == [("x_3", "x_anna")]
    first = found["train"][0]
    assert (first.sound, first.text, first.language, first.custom) == (Path("a.wav"), "one", "de", {"label": 3})
    assert FIRST["train"][0].id == "1", "the corpus itself is not changed"


def test_only_the_splits_that_are_wanted_are_there_in_their_usual_order() -> None:
    assert list(mixed("dev", "train")) == ["train", "dev"]
    assert list(mixed("test")) == ["test"]


def test_each_corpus_gives_the_splits_that_are_wanted_of_it() -> None:
    found = mixed("train", "test", y=["dev"])
    assert {split: [row.id for row in part] for split, part in found.items()} == {"train": ["x_1", "x_2"], "dev": ["y_2"], "test": ["x_3"]}
    with pytest.raises(ValueError, match="splits are wanted of each of x, y; got them of x, y, z"):
        mixed("train", z=["train"])


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown splits \['valid'\]; known are train, dev, test"):
        mixed("train", y=["valid"])


def test_what_the_codec_learns_from_is_both_its_corpora_without_their_tests(speech: Path, tmp_path: Path) -> None:
    cfg = cli.load("codec/default", [f"data.speech.root={tiny_speech_folder(tmp_path, speech, utterances=6)}"])
    assert set(cfg.data.corpus.corpora) == {"prompts", "speech"} and set(map(tuple, cfg.data.corpus.splits.values())) == {("train", "dev")}
    with open_dict(cfg):
        del cfg.data.corpus.corpora["prompts"], cfg.data.corpus.splits["prompts"]  # on the network
    found = {split: list(part) for split, part in instantiate(cfg.data.corpus)().items()}
    assert {split: len(part) for split, part in found.items()} == {"train": 3, "dev": 1}
    assert all(row.id.startswith("speech_") and row.speaker.startswith("speech_") for part in found.values() for row in part)
