"""Spoken digits for the probe tests."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from probe_examples import RATE, Digits, mel_input

from audiotok.evaluation.probes.inputs import Labelled, ProbeInput


@pytest.fixture(scope="session")
def digits(speech: Path) -> Digits:
    with open(speech / "manifest.tsv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["dataset"] == "fsdd"]
    examples = {row["path"]: Labelled(row["path"], mel_input(speech / row["path"]), row["label"], row["speaker"]) for row in rows}
    return Digits(*([examples[row["path"]] for row in rows if row["split"] == split] for split in ("train", "test")))


@pytest.fixture(scope="session")
def clustered(digits: Digits) -> Digits:
    """The digits as codes of one codebook: the nearest of 64 means of frames."""
    from sklearn.cluster import KMeans

    frames = torch.cat([each.input.frames for each in digits.train]).numpy()
    model = KMeans(64, n_init=1, max_iter=20, random_state=0).fit(frames)

    def coded(each: Labelled) -> Labelled:
        return replace(each, input=ProbeInput(torch.from_numpy(model.predict(each.input.frames.numpy()))[None].long(), RATE, (64,)))

    return Digits([coded(each) for each in digits.train], [coded(each) for each in digits.test])
