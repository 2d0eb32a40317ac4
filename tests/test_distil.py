"""The distil stage on a tiny corpus: every kind of drafter is made, resumed, spoken with, and refused where it does not belong."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_libritts

from audiotok import cli, files
from audiotok.stages import distil as stage
from audiotok.training import checkpoint, loop

pytest.importorskip("gruut", reason="needs the tts extra")

RECIPE = "libritts/tts"
SMALL = [
    "align.iterations=4", "align.gaussians=1", "model.width=32", "model.layers=2", "model.heads=2", "model.feed_forward=48",
    "train.steps=4", "train.save_every=2", "train.validate_every=2", "train.log_every=1", "train.batch_frames=4000", "train.warmup_steps=2",
    "synthesize.max_seconds=5", "distil.steps=4",
]  # fmt: skip
TINY = [f"model.{key}" for key in ("width=16", "layers=1", "heads=2", "feed_forward=24", "text_layers=1", "from_vectors=false")]
KINDS = {
    "small": [f"drafter.{word}" for word in TINY],
    "early_exit": ["drafter.layers=1"],
    "heads": ["drafter.hidden=16"],
}
SPEAKING = {"small": "small_model", "early_exit": "early_exit", "heads": "heads"}


@pytest.fixture(scope="module")
def trained(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """(EXP_DIR with a trained model, the settings that made it)."""
    folder = tmp_path_factory.mktemp("distil")
    root = tiny_libritts(folder / "LibriTTS", speech, utterances=3)
    settings = [f"data.root={root}", f"exp_root={folder}/exp", "prepare.workers=1", "tokenize.workers=1", *SMALL]
    for each in ("prepare", "tokenize", "align", "train"):
        cli.main([each, RECIPE, *settings])
    texts = [path.read_text() for path in root.glob("train-clean-100/**/*.normalized.txt")]
    (folder / "exp" / "lines.txt").write_text("\n".join(texts))
    return folder / "exp" / RECIPE, settings


def distil(settings: list[str], kind: str, *more: str) -> None:
    cli.main(["distil", RECIPE, *settings, f"drafter={kind}", *KINDS[kind], *more])


def speak(exp_dir: Path, settings: list[str], kind: str, *more: str) -> list[list[list[int]]]:
    """The rounds of each line that the model was trained on."""
    out, step = exp_dir / "spoken", exp_dir / "drafters" / kind / "step_00000004"
    who = files.read_json(step / "front_end.json")["speakers"][-1]
    own = [f"drafting.{word.replace('drafter.', '' if '.model.' in word else 'model.')}" for word in KINDS[kind]]
    words = [f"drafting={SPEAKING[kind]}", f"drafting.checkpoint={step}", *own, "overwrite=true"]
    words += [f"synthesize.text={exp_dir.parents[1] / 'lines.txt'}", f"synthesize.out={out}", f"synthesize.speaker='{who}'"]
    cli.main(["synthesize", RECIPE, *settings, *words, *more])
    rows = (out / "utterances.jsonl").read_text().splitlines()
    return [json.loads(row)["rounds"] for row in rows]


@pytest.mark.parametrize("kind", KINDS)
def test_a_drafter_is_distilled_from_a_trained_model_and_spoken_with(trained: tuple[Path, list[str]], kind: str, capsys: Any) -> None:
    exp_dir, settings = trained
    distil(settings, kind)
    step = checkpoint.latest(exp_dir / "drafters" / kind)
    assert step is not None and {"spec.json", "front_end.json", "config.json", "ranks.json", "ema.safetensors"} <= set(names(step))
    ranks, spec = files.read_json(step / "ranks.json"), files.read_json(step / "spec.json")
    assert [sorted(ids) for ids in ranks] == [list(range(size)) for size in spec["codebook_sizes"]]
    for more in ([], ["drafting.kept=4"]):
        rounds = speak(exp_dir, settings, kind, *more)
        assert rounds and all(drafted == 3 >= accepted for made in rounds for drafted, accepted in made)
    capsys.readouterr()
    distil(settings, kind)
    assert "is there already" in " ".join(capsys.readouterr().out.split())


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_run_that_was_cut_short_ends_with_the_weights_of_one_that_was_not(
    trained: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    exp_dir, settings = trained
    selective = [*settings, "distil.selected=0.5"]
    folders = [exp_dir / "drafters" / name for name in ("heads_reference", "heads")]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    distil(selective, "heads")
    wanted = [files.file_digest(folder / "step_00000004" / "ema.safetensors") for folder in folders]
    assert wanted[0] != wanted[1]
    for folder in folders:
        shutil.rmtree(folder)
    steps, whole_step = [0], loop.train_step

    def counted(*told: Any, **more: Any) -> Any:
        steps[0] += 1
        if steps[0] in (4, 9):
            raise KeyboardInterrupt
        return whole_step(*told, **more)

    monkeypatch.setattr(loop, "train_step", counted)
    for _ in range(2):  # within the reference's fourth step, and the drafter's
        with pytest.raises(SystemExit):
            distil(selective, "heads")
    distil(selective, "heads")
    assert steps[0] == 4 + 5 + 2  # one of each is done again
    assert [files.file_digest(folder / "step_00000004" / "ema.safetensors") for folder in folders] == wanted


def test_what_does_not_belong_together_is_refused(trained: tuple[Path, list[str]], tmp_path: Path) -> None:
    exp_dir, settings = trained
    with pytest.raises(ValueError, match=r"trained with other settings .*model\.heads: 2 there, 4 now"):
        _run([*settings, "model.heads=4", "drafter=early_exit"])
    step = checkpoint.latest(exp_dir / "train")
    assert step is not None
    other = shutil.copytree(step, tmp_path / step.name)
    about = files.read_json(other / "front_end.json")
    about["speakers"] = [*about["speakers"], "someone else"]
    files.write_json(other / "front_end.json", about)
    (other / "audiotok.sha256").unlink()  # changed on purpose
    with pytest.raises(ValueError, match="was trained with other texts or speakers"):
        _run([*settings, f"synthesize.checkpoint={other}", "drafter=early_exit", f"exp_dir={linked(exp_dir, tmp_path)}"])
    with pytest.raises(ValueError, match=r"no checkpoint in .*run `audiotok train"):
        _run([*settings, "drafter=early_exit", f"exp_dir={linked(exp_dir, tmp_path / 'empty', steps=False)}"])


def test_a_drafter_knows_the_weights_that_it_learnt_from_wherever_they_lay(trained: tuple[Path, list[str]], tmp_path: Path) -> None:
    exp_dir, settings = trained
    step = checkpoint.latest(exp_dir / "train")
    assert step is not None
    alone = shutil.copytree(step, tmp_path / "elsewhere")
    told = [*settings, "drafter=early_exit", *KINDS["early_exit"], f"exp_dir={tmp_path / 'nothing is trained here'}"]
    _run([*told, f"synthesize.checkpoint={alone}"])
    moved = shutil.move(alone, tmp_path / "moved")
    _run([*told, f"synthesize.checkpoint={moved}"])  # there already
    shutil.copy(moved / "model.safetensors", moved / "ema.safetensors")
    (moved / "audiotok.sha256").unlink()  # changed on purpose
    with pytest.raises(ValueError, match=r"was made with other settings \(.*weights: '[0-9a-f]{64}' there"):
        _run([*told, f"synthesize.checkpoint={moved}"])


def _run(settings: list[str]) -> None:
    stage.run(cli.load(RECIPE, settings))


def linked(exp_dir: Path, folder: Path, *, steps: bool = True) -> Path:
    """A copy of the trained model's folder for another run to look at."""
    ignore = None if steps else shutil.ignore_patterns("step_*")
    shutil.copytree(exp_dir / "train", folder / "exp" / "train", ignore=ignore)
    return folder / "exp"
