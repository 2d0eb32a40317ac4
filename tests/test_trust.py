"""A recipe from elsewhere runs audiotok's own components and what the user trusts by name; nothing else of it is imported, read or run."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from audiotok import cli, files, trust

TRAP = """
import pathlib
pathlib.Path(__file__).with_name("sprung").touch()

class Tokenizer:
    def __init__(self, **told):
        raise ValueError("it was made")
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module that leaves a trace when it is imported."""
    (tmp_path / "trap.py").write_text(TRAP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def recipe(place: Path, text: str) -> str:
    (place / "theirs.yaml").write_text(f"# @package _global_\n{text}")
    return str(place / "theirs.yaml")


def refused(path: str, *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["tokenize", path, *words])
    return str(stopped.value)


def shell(place: Path, *words: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(cli.ROOT)}
    return subprocess.run([sys.executable, "-P", "-m", "audiotok.cli", *words], cwd=place, env=environment, capture_output=True, text=True)


def test_a_recipe_that_names_foreign_code_is_refused_before_that_is_imported_and_runs_once_it_is_trusted(place: Path) -> None:
    path = recipe(place, "tokenizer: {_target_: trap.Tokenizer}\n")
    told = ["tokenize", path, f"exp_root={place / 'exp'}"]
    ended = shell(place, *told)
    assert ended.returncode == 1 and "names trap.Tokenizer" in ended.stderr and "--trust trap" in ended.stderr
    assert not (place / "sprung").exists() and not (place / "exp").exists()
    (place / "exp" / "data").mkdir(parents=True)
    cfg = cli.load(path, [f"exp_root={place / 'exp'}"], trust=["trap"])
    files.build(cli.paths.manifests(cfg), cli.paths.data_settings(cfg), lambda partial: None)
    ended = shell(place, *told, "--trust", "trap")
    assert ended.returncode == 1 and "it was made" in ended.stderr
    assert (place / "sprung").exists()


@pytest.mark.parametrize(
    "text",
    [
        "metrics: {words: {_target_: trap.Tokenizer}}",
        "bench: {listen: {_target_: trap.Tokenizer}}",
        "corpora: {mine: {name: mine, corpus: {_target_: trap.Tokenizer, _partial_: true}}}",
        "tasks: [{_target_: trap.Tokenizer}]",
        "tokenizer: {nested: [{deeper: {_target_: trap.Tokenizer}}]}",
        "tokenizer: {_target_: os.system, command: touch sprung}",
        "tokenizer: {_target_: audiotok.files.os.system, command: touch sprung}",
        "tokenizer: {_target_: audiotok.tokenizers.codec.torch.load, f: a.pt, weights_only: false}",
        "tokenizer: {_target_: audiotok.tokenizers.codec.Codec.__init__.__globals__}",
        "tokenizer: {_target_: audiotok.tokenizers.codec}",
        "tokenizer: {_target_: audiotok_evil.Tokenizer}",
        "tokenizer: {_target_: torch.nn.functional.torch.hub.load, repo_or_dir: evil/evil}",
        "tokenizer: {_target_: torch.nn.Module.register_module}",
        "tokenizer: {_target_: lhotse.recipes.os.system}",
        "tokenizer: {_target_: hydra.utils.get_method, path: os.system}",
        "tokenizer: {_target_: '${data.name}'}",
        "tokenizer: {_target_: ['trap.Tokenizer']}",
        "tokenizer: '${oc.create:\"{_target_: trap.Tokenizer}\"}'",
        "tokenizer: '${oc.decode:\"{_target_: trap.Tokenizer}\"}'",
        "tokenizer: '${oc.select:nothing,{_target_: trap.Tokenizer}}'",
        "tokenizer: '${${data.name}:x}'",
    ],
)
def test_no_way_of_naming_code_is_overlooked(place: Path, text: str) -> None:
    message = refused(recipe(place, text + "\n"))
    assert "_target_" in message or "names of code" in message
    assert not (place / "sprung").exists() and "trap" not in sys.modules


def test_configs_where_one_is_are_from_elsewhere_too_until_they_are_trusted(place: Path) -> None:
    (place / "configs" / "tokenizer").mkdir(parents=True)
    (place / "configs" / "tokenizer" / "mine.yaml").write_text("_target_: trap.Tokenizer\n")
    (place / "single.yaml").write_text("_target_: trap.Tokenizer\n")
    for choice in ("mine", "single.yaml"):
        assert "--trust trap" in refused("prompts/tts", f"tokenizer={choice}")
        assert cli.load("prompts/tts", [f"tokenizer={choice}"], trust=["trap.Tokenizer"]).tokenizer._target_ == "trap.Tokenizer"
    assert not (place / "sprung").exists()


def test_a_class_that_is_typed_is_trusted_and_no_other(place: Path) -> None:
    assert cli.load("prompts/tts", ["tokenizer=trap.Tokenizer"]).tokenizer._target_ == "trap.Tokenizer"
    path = recipe(place, "metrics: {words: {_target_: trap.Other}}\n")
    assert "names trap.Other" in refused(path, "tokenizer=trap.Tokenizer")
    with pytest.raises(ValueError, match="names trapdoor"):
        cli.load(recipe(place, "model: {_target_: trapdoor.Model}\n"), [], trust=["trap"])


def test_modules_where_one_is_are_found_only_by_those_who_trust_some(place: Path) -> None:
    cli.load("prompts/tts", [])
    assert str(place) not in sys.path
    cli.load("prompts/tts", [], trust=["trap"])
    assert sys.path[-1] == str(place)


@pytest.mark.parametrize("words", [["--trust"], ["--trust", "a b"], ["--trust", "x=1"]])
def test_trust_wants_a_name(words: list[str]) -> None:
    assert "--trust wants the name" in refused("prompts/tts", *words)


def test_trust_is_read_wherever_it_stands() -> None:
    assert cli.trusted(["train", "--trust", "a", "r", "k=v", "--trust", "b.C"]) == (["train", "r", "k=v"], ["a", "b.C"])


def test_every_component_of_audiotok_is_its_own() -> None:
    assert trust.is_own("audiotok.tokenizers.codec.Codec.from_pretrained") and trust.is_own("audiotok.data.speech.speech")
    assert not trust.is_own("audiotok") and not trust.is_own("audiotok.files") and not trust.is_own("elsewhere.Codec")


def test_a_secret_of_the_environment_is_not_saved_under_another_name(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_private")
    message = refused(recipe(place, "data: {name: '${oc.env:HF_TOKEN}'}\n"))
    assert "data.name is ${oc.env:HF_TOKEN}" in message and "hf_private" not in message
    cfg = cli.load(recipe(place, "data: {hub_token: '${oc.env:HF_TOKEN}'}\n"), [])
    assert cfg.data.hub_token == "hf_private"


def test_what_is_secret_by_its_name_is_in_no_saved_setting(tmp_path: Path) -> None:
    settings = {
        "data": {"hub_token": "hf_private", "tokens": "kept", "root": "s3://me:hush@host/corpus"},
        "list": [{"API_KEY": "hf_private"}],
    }
    files.build(tmp_path / "out", settings, lambda partial: None)
    saved = (tmp_path / "out" / "stage.json").read_text()
    assert "hf_private" not in saved and "hush" not in saved and "kept" in saved and "s3://***@host/corpus" in saved
    settings["data"]["hub_token"] = "hf_newer"  # nothing that was made depends on it
    assert files.build(tmp_path / "out", settings, lambda partial: None) == "present"
    settings["data"]["tokens"] = "changed"
    with pytest.raises(ValueError, match=r"data\.tokens") as refusal:
        files.build(tmp_path / "out", settings, lambda partial: None)
    assert "hf_newer" not in str(refusal.value)


READERS = {
    "pickle.load",
    "pickle.loads",
    "joblib.load",
    "torch.load",
    "np.load",
    "numpy.load",
    "dill.load",
    "yaml.load",
    "yaml.unsafe_load",
}
OWN_PROCESS = {"data/workers.py", "data/attempts.py", "tools/bench_rows.py"}  # what this process sent to another one of its own


def calls(source: str) -> list[tuple[str, dict[str, object]]]:
    """Every call that may unpickle, with its literal keyword arguments."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    told = [
        (ast.unparse(node.func), {word.arg: getattr(word.value, "value", None) for word in node.keywords if word.arg}) for node in nodes
    ]
    return [(name, words) for name, words in told if name in READERS]


def test_no_code_of_ours_unpickles_a_file() -> None:
    found = {path: calls(path.read_text(encoding="utf-8")) for root in ("audiotok", "tools") for path in (cli.ROOT / root).rglob("*.py")}
    unsafe = {
        str(path): name
        for path, told in found.items()
        for name, words in told
        if not (words.get("weights_only") is True or words.get("allow_pickle") is False or str(path).endswith(tuple(OWN_PROCESS)))
    }
    assert unsafe == {}
    assert sum(map(len, found.values())) > 5


def test_this_check_sees_what_it_should() -> None:
    assert calls("torch.load(path, weights_only=True)\nnp.load(path)\njson.load(file)") == [
        ("torch.load", {"weights_only": True}),
        ("np.load", {}),
    ]
