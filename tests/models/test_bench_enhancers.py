"""The benchmark of enhancers: a latency is the sum of its parts and what the stream states; figures in one object and one table."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from small_codec import network
from small_enhancers import GREEDY, codec, lattice, make, transducer

from audiotok.synthesis.enhancement_stream import TransducerStream
from audiotok.tokenizers.codec import save_network

TOOL = Path(__file__).parents[2] / "tools" / "bench_enhancers.py"
SMALL = ["width=32", "layers=1", "heads=2", "feed_forward=32"]


def test_a_latency_is_the_sum_of_its_parts_and_that_of_the_stream(wav_16k):
    latency, some = runpy.run_path(str(TOOL))["latency"], codec(wav_16k)
    stream = TransducerStream(transducer(some).eval(), sampler=GREEDY, seed=0, max_seconds=1.0)
    assert sum(latency(stream.model).values()) == stream.latency_samples
    assert latency(lattice(some))["delay"] == (2 + 3) * 320 and latency(lattice(some))["frame"] == 640
    assert latency(make("mask", some)) == {"window": 512} and latency(make("conformer", some)) is None


@pytest.fixture(scope="module")
def told(wav_16k, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench_enhancers")
    save_network(network(wav_16k), folder / "codec")
    small = [f"enhancer.{part}{size}" for part in ("", "encoder.") for size in SMALL]
    return [f"tokenizer.path={folder / 'codec'}", *small, "--seconds", "0.5", "--rounds", "1", "--piece", "0.1"]


def test_costs_are_told_in_one_object_and_in_a_table(told):
    shown = subprocess.run([sys.executable, str(TOOL), "transducer", *told], check=True, capture_output=True, text=True).stdout
    (row,) = json.loads(shown)["enhancers"].values()
    assert row["stream_is_offline"] is True and row["trained"] is False and row["offline"] > 0 < row["streamed"]
    assert row["latest_ms"] <= row["stated_ms"] + 100 and row["stated_ms"] == row["latency_ms"] > row["causal_decoder_ms"]
    table = runpy.run_path(str(TOOL))["markdown"](json.loads(shown)).splitlines()
    assert len(table) == 3 and table[2].startswith(f"| transducer | {row['parameters_m']} | no | ")
