"""--multirun: every combination of the settings' values by Hydra's launchers, each job in a folder of its own."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from audiotok import cli
from audiotok.stages import prepare, sweeps

ROOT = cli.ROOT


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list:
    """The configs that the stage is run with, in place of running it."""
    found: list = []
    monkeypatch.setattr(prepare, "run", found.append)
    return found


def test_every_combination_is_run_in_a_folder_that_tells_it(jobs: list, tmp_path: Path) -> None:
    swept = ["train.learning_rate=1e-4,3e-4", "transform=delay,parallel", "train.steps=7", f"exp_root={tmp_path}", "--multirun"]
    cli.main(["prepare", "prompts/tts", *swept])
    assert [(cfg.train.learning_rate, cfg.choices.transform, cfg.train.steps) for cfg in jobs] == [
        (1e-4, "delay", 7), (1e-4, "parallel", 7), (3e-4, "delay", 7), (3e-4, "parallel", 7),
    ]  # fmt: skip
    assert jobs[0].exp_dir == f"{tmp_path}/prompts/tts/train.learning_rate=0.0001,transform=delay"
    assert len({cfg.exp_dir for cfg in jobs}) == 4 and jobs[0].exp_root == str(tmp_path)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {"multirun.yaml"}


def test_a_job_that_fails_is_told_and_a_sweep_of_nothing_is_refused(jobs: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"--multirun wants a setting with several values, such as train\.learning_rate=1e-4,3e-4"):
        cli.main(["prepare", "prompts/tts", "--multirun"])

    def refused(cfg: object) -> None:
        raise ValueError("no such corpus")

    monkeypatch.setattr(prepare, "run", refused)
    with pytest.raises(SystemExit, match="no such corpus"):
        cli.main(["prepare", "prompts/tts", "seed=1,2", f"exp_root={tmp_path}", "--multirun"])


def test_a_sweep_is_recorded_on_this_machine(jobs: list, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"s3://bucket/exp/prompts/tts; set one on this machine"):
        cli.main(["train", "prompts/tts", "seed=1,2", "exp_root=s3://bucket/exp", "--multirun"])
    assert not jobs


@pytest.mark.parametrize("named", ["callbacks: {own: {_target_: os.getcwd}}", "launcher: {_target_: os.getcwd}"])
def test_a_recipe_cannot_name_code_for_hydra_to_import(jobs: list, tmp_path: Path, named: str) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"# @package _global_\ndefaults:\n  - override /data: prompts\nhydra:\n  {named}\n")
    with pytest.raises(SystemExit, match="configures Hydra's launcher, sweeper, callbacks or logs; give them as key=value"):
        cli.main(["prepare", str(recipe), "seed=1,2", f"exp_root={tmp_path}", "--multirun"])
    assert not jobs


def test_slurm_is_a_launcher_with_a_partition(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="Slurm is reached by pip install 'audiotok[slurm]'")
    told = ["recipe=prompts/tts", "hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=1"]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        launcher = compose("config", overrides=told, return_hydra_config=True).hydra.launcher
    assert launcher._target_.endswith("SlurmLauncher") and (launcher.partition, launcher.gpus_per_node) == ("gpu", 1)


def test_submitits_launcher_runs_the_jobs_in_processes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="Slurm is reached by pip install 'audiotok[slurm]'")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where they find the job
    sweeps.multirun(
        written,
        configs=ROOT / "configs",
        found_by=["recipe=tiny"],
        overrides=["seed=1,2", "hydra/launcher=submitit_local"],
        exp_dir=str(tmp_path),
    )
    assert sorted(path.name for path in tmp_path.glob("seed=*")) == ["seed=1", "seed=2"]


def written(overrides: list[str]) -> None:
    """A job that leaves its folder."""
    Path(overrides[-1].removeprefix("exp_dir=").strip("'")).mkdir()
