"""The suites compose, and every task of theirs is made of what it says."""

import pytest
from hydra.utils import instantiate

from audiotok import cli
from audiotok.bench.task import AXES

SUITES = sorted(name for name in cli.recipe_names() if name.startswith("suites/"))


@pytest.mark.parametrize("suite", SUITES)
def test_every_task_of_a_suite_is_one(suite: str) -> None:
    for package in ("speechbrain", "faster_whisper", "resemblyzer", "speechmos", "pesq"):
        pytest.importorskip(package, reason="pip install 'audiotok[eval,probes]'")
    cfg = cli.load(suite, [])
    assert {"speech"} <= set(cfg.corpora) or suite == "suites/dasb"
    for name in cfg.tasks:
        task = instantiate(cfg.tasks[name], _convert_="all")
        assert task.axis in AXES and isinstance(task.seeded, bool), name
        assert all(selection.corpus in cfg.corpora for selection in getattr(task, "selections", ())), name


def test_the_suites_of_the_project_are_there() -> None:
    assert {"suites/mini", "suites/stab", "suites/dasb"} <= set(SUITES)


def test_stab_is_the_part_of_mini_that_trains_nothing() -> None:
    mini, stab = (cli.load(f"suites/{name}", []) for name in ("mini", "stab"))
    assert set(stab.tasks) < set(mini.tasks)
    assert all(stab.tasks[name] == mini.tasks[name] for name in stab.tasks)


def test_every_tokenizer_that_has_codes_is_in_the_taxonomy() -> None:
    known = set(cli.load("suites/mini", []).taxonomy)
    choices = {name for name in cli.group_options("tokenizer") if not name.startswith(("opus", "codec2"))}
    assert known == choices
