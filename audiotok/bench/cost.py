"""Axis 5: what a tokenizer takes."""

from collections.abc import Callable
from typing import Any

import torch

from audiotok.bench.scores import score
from audiotok.bench.subject import Selection, Subject
from audiotok.bench.task import Axis, Outcome, Score
from audiotok.data import complexity, costs
from audiotok.data.tokenization import read_cut
from audiotok.evaluation.metric import NotApplicable
from audiotok.tokenizers.base import Streaming, WaveformCodec


class Cost:
    """Rate, parameters, multiply-adds, real-time factors, latency and memory, of an utterance at a time on `threads` threads.

    Real-time factors are of the machine that the provenance names, with whatever else ran on it: compare within one run. Multiply-adds
    are those that PyTorch computes (`audiotok.data.complexity`).
    """

    axis: Axis = "cost"
    seeded = False

    def __init__(self, *, selection: Selection, threads: int, counted_seconds: float, chunk_seconds: float) -> None:
        self.selections: tuple[Selection, ...] = ()
        self.timed = selection
        self.threads = threads
        self.counted_seconds = counted_seconds
        self.chunk_seconds = chunk_seconds

    def run(self, subject: Subject, *, seed: int) -> Outcome:
        system = getattr(subject.system, "wrapped", subject.system)
        if not (hasattr(system, "encode") or isinstance(system, WaveformCodec)):
            raise NotApplicable("it is no tokenizer")
        rate = system.sample_rate if isinstance(system, WaveformCodec) else system.spec.sample_rate
        wavs = [read_cut(cut, rate) for cut in subject.cuts(self.timed)]
        found = costs.measure(system, wavs, sample_rate=rate, device=subject.device, threads=self.threads)
        factors = found["real_time_factor"]
        rated = system if isinstance(system, WaveformCodec) else system.spec
        scores = [
            score("bits_per_second", "Rate", rated.bits_per_second, "neither", unit="bit/s", digits=0),
            score("parameters", "Parameters", found["parameters"], "neither", unit="M", scale=1e-6),
            score("rtf_encode", "RTF encode", factors.get("encode"), "lower", digits=4, primary=True),
            score("rtf_decode", "RTF decode", factors.get("decode"), "lower", digits=4),
            score("rtf", "RTF", factors.get("both"), "lower", digits=4),
        ]
        if isinstance(system, WaveformCodec):
            return Outcome(tuple(scores), {"conditions": found["conditions"]})
        scores += _tokens(system.spec)
        adds = complexity.multiply_adds(system, seconds=self.counted_seconds)
        scores += [
            score("macs_encode", "Multiply-adds, encode", adds.encode, "lower", unit="M/s", scale=1e-6, digits=1),
            score("macs_decode", "Multiply-adds, decode", adds.decode, "lower", unit="M/s", scale=1e-6, digits=1),
            score("latency", "Algorithmic latency", _or_none(lambda: complexity.latency(system)), "lower", unit="ms", digits=1),
            score("first_code", "First code of a stream", self._first(system, wavs[0]), "lower", unit="ms", scale=1000, digits=0),
        ]
        told = {"not_counted": adds.not_counted, "uncounted_because": adds.reason, "conditions": found["conditions"]}
        return Outcome(tuple(scores), told)

    def _first(self, system: Any, wav_T: torch.Tensor) -> float | None:
        if not isinstance(system, Streaming):
            return None
        with torch.inference_mode():
            complexity.time_to_first_code(system, wav_T, chunk=self.chunk_seconds)
            return complexity.time_to_first_code(system, wav_T, chunk=self.chunk_seconds).seconds


def _tokens(spec: Any) -> list[Score]:
    rate = float(spec.frame_rate)
    return [
        score("frame_rate", "Frames", rate, "neither", unit="1/s", digits=1),
        score("token_rate", "Tokens", rate * spec.num_codebooks, "neither", unit="1/s", digits=1),
    ]


def _or_none(work: Callable[[], float | None]) -> float | None:
    """None for a tokenizer that does not tell its reach."""
    try:
        return work()
    except AttributeError:
        return None
