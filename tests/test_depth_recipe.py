"""The recipe of the depth decoder from the shell, on a tiny corpus of real speech: it learns, and speaks with a drafter and without."""

import math
from pathlib import Path

import numpy as np
import pytest
from tiny import shortest_transcribed, tiny_libritts

from audiotok import cli, files

SMALL = [
    "align.iterations=2",
    "align.gaussians=1",
    "train.steps=2",
    "train.save_every=2",
    "train.validate_every=2",
    "train.log_every=1",
    "train.warmup_steps=1",
    "select.min_words=1",
    "synthesize.max_seconds=20",
    *("model.told.width=32", "model.told.layers=1", "model.told.heads=2", "model.told.feed_forward=48"),
    *("model.layers=1", "model.heads=2", "model.feed_forward=48"),
]


def test_the_recipe_learns_and_speaks_all_codebooks_of_each_frame(speech: Path, tmp_path: Path):
    pytest.importorskip("gruut", reason="needs the tts extra")
    root = tiny_libritts(tmp_path / "LibriTTS", speech, utterances=3)
    settings = ["data=libritts", f"data.root={root}", f"exp_root={tmp_path}/exp", *SMALL]
    for stage in ("prepare", "tokenize", "align", "train"):
        cli.main([stage, "prompts/tts_depth", *settings])
    folder = tmp_path / "exp/prompts/tts_depth"
    losses = [row["codes"] for row in files.read_jsonl(folder / "train/log.jsonl") if "codes" in row]
    assert len(losses) > 0 and all(abs(loss - math.log(1025)) < 1 for loss in losses)  # a law that knows nothing
    known, *_ = shortest_transcribed(speech, 9)  # of the train split
    asked = [f"synthesize.text='{known['text'].capitalize()}'", f"synthesize.speaker='{Path(known['path']).stem.split('-')[0]}'"]
    said = []
    for name, drafting in (("plain", "none"), ("ahead", "repetition")):
        out = tmp_path / name
        cli.main(["synthesize", "prompts/tts_depth", f"drafting={drafting}", "sampling=greedy", *asked, f"synthesize.out={out}", *settings])
        said += [np.load(path) for path in sorted((out / "codes").glob("*.npy"))]
    plain, ahead = said
    assert plain.shape[0] == 6 and plain.shape[1] > 0 and plain.max() < 1024
    assert np.array_equal(plain, ahead)
