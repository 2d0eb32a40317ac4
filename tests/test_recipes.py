"""Every recipe composes, everything it names exists and takes what it is given, and every run.sh names real stages of a real recipe."""

import inspect
import os
import shutil
import subprocess

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from audiotok import cli

SCRIPTS = sorted((cli.ROOT / "egs").rglob("run.sh"))
SOMEWHERE = {"task", "probe", "fitting", "reference", "taxonomy", "transcriber"}  # of no place of its own: recipes say where
CHOICES = [(path.parent.name, path.stem) for path in sorted((cli.ROOT / "configs").glob("*/*.yaml"))]


def targets(node):
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from targets(value)


def bind(cfg):
    found = list(targets(OmegaConf.to_container(cfg, resolve=True)))
    assert found
    for node in found:
        arguments = {key: value for key, value in node.items() if not (key.startswith("_") and key.endswith("_"))}
        inspect.signature(get_object(node["_target_"])).bind_partial(**arguments)


@pytest.mark.parametrize("recipe", cli.recipe_names())
def test_a_recipe_names_only_what_exists(recipe):
    bind(cli.load(recipe, []))


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_of_a_component_exists(group, choice):
    if group in SOMEWHERE:
        cfg = cli.load("prompts/tts", [f"+{group}={choice}"])
    else:
        cfg = cli.load("prompts/tts", [f"{group}={choice}"])
        assert cfg.choices[group] == choice
    bind(cfg)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.parent.relative_to(cli.ROOT)))
def test_a_run_script_numbers_known_stages_of_a_known_recipe(script):
    text = script.read_text()
    words = [line[line.index("stage ") :].split() for line in text.splitlines() if "stage " in line and not line.startswith("#")]
    assert sorted({int(word[1]) for word in words}) == list(range(int(words[-1][1]) + 1))
    assert {word[2] for word in words} <= set(cli.stage_names())
    assert any(f"recipe={recipe}" in text.splitlines() for recipe in cli.recipe_names())
    assert len(text.splitlines()) <= 25


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.parent.relative_to(cli.ROOT)))
def test_a_dry_run_prints_the_commands_from_stage_to_stop_stage(script):
    shown = subprocess.run(
        [str(script), "--stage", "1", "--stop-stage", "2", "--dry-run", "seed=3"], capture_output=True, text=True, check=True
    )
    commands = [line.split() for line in shown.stdout.splitlines()]
    assert commands and all(words[0] == "audiotok" and words[-1] == "seed=3" for words in commands)
    assert "prepare" not in shown.stdout


@pytest.mark.parametrize(
    ("script", "few", "count"),
    [
        ("speech/enhance/run.sh", {"enhancers": "mask transducer"}, 3),
        ("speech/enhance/run.sh", {"enhancers": "mask"}, 1),
        ("speech/enhance/bitrate.sh", {"enhancers": "conformer", "codebooks": "2"}, 1),
        ("speech/enhance/trainings.sh", {"enhancers": "mask transducer", "seeds": "1 2"}, 6),
        ("speech/separate/run.sh", {"separators": "conformer_two"}, 1),
    ],
)
def test_what_enhances_in_a_script_was_trained_in_it_and_starts_from_what_was(script, few, count):
    few = {"PATH": os.environ["PATH"]} | few
    shown = subprocess.run([str(cli.ROOT / "egs" / script), "--dry-run"], env=few, capture_output=True, text=True, check=True).stdout
    trained = dict[str, str]()
    for _, stage, recipe, *overrides in map(str.split, shown.splitlines()):
        if stage not in ("train_enhancer", "enhance", "separate"):
            continue
        cfg = cli.load(recipe, overrides)
        if stage == "train_enhancer":
            assert cfg.exp_dir not in trained and (cfg.train.start_from or "/train").removesuffix("/train") in {"", *trained}
            trained[cfg.exp_dir] = cfg.choices.enhancer
        else:
            assert trained[cfg.exp_dir] == cfg.choices.enhancer and cfg.enhance.out.endswith(cfg.exp_dir.split("/")[-1])
    assert len(trained) == count


def test_the_shell_scripts_are_shellcheck_clean():
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    scripts = [*SCRIPTS, cli.ROOT / ".ci" / "run", *(cli.ROOT / "tools").glob("*.sh")]
    subprocess.run(["shellcheck", "-x", *map(str, scripts)], check=True, cwd=cli.ROOT)
