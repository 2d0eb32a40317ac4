#!/usr/bin/env python3
"""What enhancers cost: time and memory on one core, and how late a stream is; one JSON object, or a table with --markdown.

    tools/bench_enhancers.py transducer mask --seconds 10 --folder exp/speech/enhance > costs.json

Each is measured in a process of its own, as recipe speech/enhance has it, with the newest weights in FOLDER/NAME/train (without such,
random ones). `offline` is the whole recording at once, `streamed` in pieces; both are seconds of processor over seconds of sound.
Memory is what the process holds at its peak, less what it held before the model was made.

Latency is what a sample waits for at the latest, in ms, part by part: its own frame, what the ear hears ahead (a spectrum's window, or the
blocks of a codec's encoder), the look-ahead, the delay of the codebooks, the decoder's blocks, which hear later codes, and its inverse
STFT, whose windows overlap. `causal_decoder` is what would be left if the decoder's blocks heard nothing later. Only the transducer has a
stream; for the others it is what one would have, and null where the whole recording is heard.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from time import process_time
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor

from audiotok import audio, cli
from audiotok.data.costs import machine
from audiotok.models.enhancement.latents import LatentRegressor
from audiotok.models.enhancement.lattice_transducer import LatticeTransducer
from audiotok.models.enhancement.mask import ComplexMask
from audiotok.models.enhancement.transducer import Transducer
from audiotok.synthesis.enhancement_stream import TransducerStream
from audiotok.synthesis.enhancing import Enhancer, Speaking
from audiotok.synthesis.streaming import decoder_reach
from audiotok.training import checkpoint

KINDS = ("transducer", "transducer_lattice", "decoder_only", "conformer", "latents", "mask")
COLUMNS = ("parameters_m", "trained", "offline", "streamed", "stream_is_offline", "latency_ms", "causal_decoder_ms", "memory_mb")


def latency(model: Any) -> dict[str, int] | None:
    """Samples that each part waits for; None where the whole recording is heard."""
    if isinstance(model, ComplexMask):
        return {"window": model.n_fft}
    if not isinstance(model, Transducer | LatticeTransducer | LatentRegressor) or (reach := decoder_reach(model.codec)) is None:
        return None
    encoder, hop = model.encoder, int(model.codec.spec.hop)
    told = model.codec.network.decoder.settings
    overlap = -(-(told["n_fft"] - told["hop"]) // (2 * told["hop"] * told["frames"]))
    delay: float = 0 if isinstance(model, LatentRegressor) else model.codes.lag
    if isinstance(model, LatticeTransducer):
        delay += model.said_band or 0
    return {
        "frame": encoder.frames.hop,
        "ear": encoder.frames.ear.reach.after or 0,
        "look_ahead": encoder.look_ahead * encoder.frames.hop,
        "delay": int(delay * hop),
        "decoder": (reach - overlap) * hop,
        "inverse_stft": overlap * hop,
    }


def loaded(name: str, folder: Path | None, overrides: list[str]) -> tuple[Any, Any, bool]:
    """(model, sampler, whether it is trained)."""
    cfg = cli.load("speech/enhance", [f"enhancer={name}", *overrides])
    torch.manual_seed(0)
    model = instantiate(cfg.enhancer, _partial_=True)(instantiate(cfg.tokenizer)).eval()
    step = checkpoint.latest(folder / name / "train") if folder else None
    if step is not None:
        checkpoint.load_weights(step / "ema.safetensors", model)
    return model, instantiate(cfg.sampling), step is not None


def measured(name: str, wav_T: Tensor, *, folder: Path | None, rounds: int, piece: float, overrides: list[str]) -> dict[str, Any]:
    torch.set_num_threads(1)
    before = peak()
    model, sampler, trained = loaded(name, folder, overrides)
    rate, seconds = model.codec.spec.sample_rate, len(wav_T) / model.codec.spec.sample_rate
    enhancer: Enhancer = model if isinstance(model, Enhancer) else Speaking(model, sampler, None, 0)
    spent = []
    for _ in range(rounds):
        start = process_time()
        made_T = enhancer.enhance(wav_T[None], torch.tensor([len(wav_T)]))[0]
        spent.append(process_time() - start)
    parts = latency(model)
    in_ms = {part: round(1000 * samples / rate, 1) for part, samples in (parts or {}).items()} or None
    row = {
        "parameters_m": round(sum(weight.numel() for weight in model.parameters() if weight.requires_grad) / 1e6, 2),
        "trained": trained,
        "offline": round(min(spent) / seconds, 3),
        "streamed": None,
        "stream_is_offline": None,
        "latency_ms": round(sum(in_ms.values()), 1) if in_ms else None,
        "causal_decoder_ms": round(sum(in_ms.values()) - in_ms.get("decoder", 0.0), 1) if in_ms else None,
        "latency_parts_ms": in_ms,
    }
    if isinstance(model, Transducer):
        row |= streamed(model, sampler, wav_T, made_T, piece=piece)
    return row | {"memory_mb": round(peak() - before)}


def streamed(model: Transducer, sampler: Any, wav_T: Tensor, whole_T: Tensor, *, piece: float) -> dict[str, Any]:
    """Time, latency and the largest difference to the whole recording, to a third of a step of 16 bits."""
    rate, start = model.codec.spec.sample_rate, process_time()
    stream = TransducerStream(model, sampler=sampler, seed=0, max_seconds=len(wav_T) / rate + 1)
    parts, heard, given, late = list[Tensor](), 0, 0, 0
    for pushed_T in wav_T.split(round(piece * rate)):
        parts.append(stream.push(pushed_T))
        heard, given = heard + len(pushed_T), given + len(parts[-1])
        late = max(late, heard - given)
    made_T = torch.cat([*parts, stream.close()])
    spent, seconds = process_time() - start, len(wav_T) / rate
    same = len(made_T) == len(whole_T) and bool((made_T - whole_T).abs().max() < 1e-5)
    return {
        "streamed": round(spent / seconds, 3),
        "stream_is_offline": same,
        "stated_ms": round(1000 * stream.latency_samples / rate, 1),
        "latest_ms": round(1000 * late / rate, 1),
    }


def peak() -> float:
    """MB this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def markdown(found: dict[str, Any]) -> str:
    def shown(value: Any) -> str:
        return "-" if value is None else {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)

    lines = ["| enhancer | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += ["| " + " | ".join([name, *(shown(row[column]) for column in COLUMNS)]) + " |" for name, row in found["enhancers"].items()]
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(KINDS), help=f"enhancers and key=value of the recipe; {', '.join(KINDS)}")
    parser.add_argument("--wav", type=Path, help="a recording, repeated as often as it takes; noise without one")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--piece", type=float, default=0.5, help="seconds that are pushed into a stream at a time")
    parser.add_argument("--folder", type=Path, help="EXP_DIR of trained enhancers, each in a folder of its name")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--alone", action="store_true", help="measure the one enhancer in this process")
    told = parser.parse_args(argv)
    names, overrides = ([word for word in told.names if ("=" in word) == given] for given in (False, True))
    if told.alone:
        print(json.dumps(measured(names[0], _sound(told), folder=told.folder, rounds=told.rounds, piece=told.piece, overrides=overrides)))
        return
    rest = [word for word in argv if word not in told.names and word != "--markdown"]
    found = {}
    for name in names or KINDS:
        command = [sys.executable, __file__, name, *overrides, *rest, "--alone"]
        found[name] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    about = {"machine": machine(torch.device("cpu")), "seconds": told.seconds, "enhancers": found}
    print(markdown(about) if told.markdown else json.dumps(about, indent=1))


def _sound(told: argparse.Namespace) -> Tensor:
    samples = round(told.seconds * 16000)
    if told.wav is None:
        return torch.randn(samples, generator=torch.Generator().manual_seed(0)) * 0.1
    wav_T, rate = audio.read(told.wav)
    wav_T = audio.resample(wav_T, rate, 16000)
    return wav_T.repeat(-(-samples // len(wav_T)))[:samples]


if __name__ == "__main__":
    main(sys.argv[1:])
