"""The command line: what it lists, and the one line with which it refuses."""

import os
import subprocess
import sys

import pytest

from audiotok import cli


def refusal(*argv: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main(argv)
    return str(stopped.value)


def test_a_path_that_is_made_of_the_config_can_be_given_instead():
    assert cli.load("vocoder/units", ["tokenizer.fitted=some folder/units"]).tokenizer.fitted == "some folder/units"


def test_help_lists_every_stage_and_recipe(capsys):
    cli.main(["--help"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in cli.stage_names() + cli.recipe_names())


@pytest.mark.parametrize("stage", cli.stage_names())
def test_stage_help_says_what_it_reads_writes_and_can_be_told(stage, capsys):
    cli.main([stage, "--help"])
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("->", "Reads:", "Writes:", "settings and their defaults", "exp_dir"))


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        (["tokenise", "prompts/tts"], "no stage 'tokenise'; did you mean tokenize?"),
        (["tokenize", "prompt/tts"], "no recipe 'prompt/tts'; did you mean prompts/tts?"),
        (["train", "prompts/tts", "train.step=3"], "no setting 'train.step'; did you mean train.steps?"),
        (["train", "prompts/tts", "tokenizer=dmell"], "no tokenizer 'dmell'; did you mean dmel?"),
        (["train", "prompts/tts", "train.steps=many"], "train.steps=many: wants int"),
        (["train", "prompts/tts", "train.steps=0.5"], "train.steps=0.5: wants int"),
        (["train", "prompts/tts", "overwrite=3"], "overwrite=3: wants bool"),
        (["train", "prompts/tts", "--steps", "3"], "settings are given as key=value"),
        (["train", "missing.yaml"], "no recipe file missing.yaml"),
        (["train"], "audiotok train wants a recipe"),
    ],
)
def test_what_does_not_exist_is_refused_in_one_line_with_the_nearest_that_does(argv, wanted):
    message = refusal(*argv)
    assert wanted in message
    assert "\n" not in message and "Traceback" not in message


def test_debug_shows_the_traceback():
    with pytest.raises(cli.UsageError):
        cli.main(["tokenise", "prompts/tts", "--debug"])


def test_a_stage_without_its_input_names_the_stage_that_makes_it(tmp_path):
    assert "run `audiotok prepare prompts/tts`" in refusal("tokenize", "prompts/tts", f"exp_root={tmp_path}")


def test_a_recipe_file_of_ones_own_is_found(tmp_path):
    (tmp_path / "mine.yaml").write_text("# @package _global_\nseed: 7\n")
    cfg = cli.load(str(tmp_path / "mine.yaml"), ["train.steps=3"])
    assert (cfg.seed, cfg.train.steps, cfg.recipe, cfg.choices.tokenizer) == (7, 3, "mine", "dmel")


def test_the_keys_of_a_chosen_component_can_be_set_with_it():
    cfg = cli.load("prompts/tts", ["tokenizer=kmeans_mel", "tokenizer.num_clusters=20"])
    assert cfg.tokenizer.num_clusters == 20


@pytest.mark.parametrize("text", ["Please hold, on.", "It's me.", "What (now)?", 'Say "yes": [1, 2] = {3}!', "C:\\\\x, y", "plain"])
def test_a_sentence_needs_no_quotes_but_the_shells(text):
    assert cli.load("prompts/tts", [f"synthesize.text={text}"]).synthesize.text == text
    assert cli.load("prompts/tts", [f"data.root=/data/{text}"]).data.root == f"/data/{text}"


def test_a_chosen_component_is_not_overruled_by_the_recipe():
    assert cli.load("prompts/tts", ["sampling=greedy"]).sampling.temperature == 0
    assert cli.load("libritts/tts", ["model=ar_tts"]).model.width == 256


def test_a_folder_without_configs_or_with_a_comma_in_its_name_prints_no_complaint(tmp_path, monkeypatch, capfd):
    for name in ("plain", "a, b"):
        folder = tmp_path / name
        (folder / "configs" / "tokenizer").mkdir(parents=True)
        (folder / "configs" / "tokenizer" / "mine.yaml").write_text("_target_: mine.Mine\n")
        monkeypatch.chdir(folder)
        assert cli.load("prompts/tts", ["tokenizer=mine"], trust=["mine"]).tokenizer._target_ == "mine.Mine"
    monkeypatch.chdir(tmp_path)
    cli.load("prompts/tts", [])
    assert capfd.readouterr().err == ""


def test_help_after_the_recipe_is_the_stages_help(capsys):
    cli.main(["train", "prompts/tts", "--help"])
    assert "Reads:" in capsys.readouterr().out


def test_the_command_works_outside_the_repository(tmp_path):
    shown = subprocess.run(
        [sys.executable, "-m", "audiotok.cli", "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(cli.ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "prompts/tts" in shown.stdout
