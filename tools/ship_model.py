#!/usr/bin/env python3
"""Put a trained voice or enhancer into the package:

    tools/ship_model.py exp/voice/train/step_00002200 voice en=Allison fr=June ...
    tools/ship_model.py exp/speech/enhance/mask/train/step_00004000 enhancer

    model.safetensors    the averaged weights, as bfloat16
    spec.json            of the tokens that it was trained on
    config.json          transform and model, or enhancer: what is checked before it is used
    front_end.json       phonemes, speakers, languages of a voice
    speakers.json        who speaks a language where nobody is named: the pairs above

Refuses weights of more than 30 MiB, settings that name a file, and speakers or languages that the model does not know.
"""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from audiotok import files
from audiotok.data.aligned import FrontEnd

SHIPPED = Path(__file__).resolve().parents[1] / "audiotok" / "pretrained"
LIMIT = 30 * 2**20  # bytes
VOICE, ENHANCER = ("transform", "model"), ("enhancer",)  # of config.json


def main(arguments: Sequence[str], *, root: Path = SHIPPED) -> None:
    source, name, *pairs = arguments
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / name
        write(Path(source), made, speakers=dict(pair.split("=", 1) for pair in pairs))
        size = (made / "model.safetensors").stat().st_size
        if size > LIMIT:
            sys.exit(f"{name}: {size / 2**20:.2f} MiB of weights; at most {LIMIT / 2**20:.0f}")
        shutil.rmtree(root / name, ignore_errors=True)
        shutil.copytree(made, root / name)
    print(f"{root / name}: {size / 2**20:.2f} MiB")


def write(source: Path, target: Path, *, speakers: dict[str, str]) -> None:
    """A step_* folder as a voice, or an enhancer. Raises ValueError naming what cannot be shipped."""
    target.mkdir(parents=True)
    speaks = (source / "front_end.json").exists()
    settings, wanted = files.read_json(source / "config.json") if (source / "config.json").exists() else {}, VOICE if speaks else ENHANCER
    if missing := [key for key in wanted if key not in settings]:
        raise ValueError(f"{source} is no voice and no enhancer: its config.json has no {', '.join(missing)}")
    if speakers and not speaks:
        raise ValueError(f"{' '.join(map('='.join, speakers.items()))} goes with a voice, and {source} is an enhancer")
    config = {key: settings[key] for key in wanted}
    if found := [text for text in _texts(config) if "/" in text]:
        raise ValueError(f"{source}: its settings name a file, {found[0]}, which is not there where the package is installed")
    if speaks:
        _write_speakers(source, target, speakers)
    weights = load_file(source / "ema.safetensors")
    save_file({name: _rounded(tensor) for name, tensor in weights.items()}, target / "model.safetensors")
    files.open_to_readers(target / "model.safetensors")
    files.write_json(target / "config.json", config)
    files.write_json(target / "spec.json", files.read_json(source / "spec.json"))


def _write_speakers(source: Path, target: Path, speakers: dict[str, str]) -> None:
    front_end = FrontEnd.from_dict(files.read_json(source / "front_end.json"))
    for language, speaker in speakers.items():
        if language not in front_end.languages or speaker not in front_end.speakers:
            raise ValueError(f"{language}={speaker}: the model speaks {', '.join(front_end.languages)} as {', '.join(front_end.speakers)}")
    files.write_json(target / "front_end.json", front_end.to_dict())
    files.write_json(target / "speakers.json", speakers)


def _rounded(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.bfloat16() if tensor.is_floating_point() else tensor


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)
    elif isinstance(value, str):
        yield value


if __name__ == "__main__":
    main(sys.argv[1:])
