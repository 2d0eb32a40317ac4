#!/usr/bin/env python3
"""Put a trained codec, vocoder or k-means into the package: tools/ship_weights.py exp/codec/decoder/codec codec_50hz

Matrices and codebooks are rounded to int8 (`audiotok.tokenizers.weights.save`); k-means is copied as it is. Refuses what would make the
shipped weights larger than 16 MiB together.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from audiotok.tokenizers import kmeans
from audiotok.tokenizers.codec import WEIGHTS, load_network, read_settings, save_network
from audiotok.tokenizers.vocoder import load_vocoder, save_vocoder

SHIPPED = Path(__file__).resolve().parents[1] / "audiotok" / "pretrained"
LIMIT = 16 * 2**20  # bytes
MODELS = ("voice", "enhancer")  # which have a limit of their own (ship_model.py)


def main() -> None:
    source, name = Path(sys.argv[1]), sys.argv[2]
    with tempfile.TemporaryDirectory() as folder:
        write(source, Path(folder) / name)
        others = sum(path.stat().st_size for path in SHIPPED.rglob("*.safetensors") if path.parent.name not in (name, *MODELS))
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors"))
        if others + size > LIMIT:
            sys.exit(f"{name}: {size / 2**20:.2f} MiB, with the others {(others + size) / 2**20:.2f}; at most {LIMIT / 2**20:.0f}")
        shutil.copytree(Path(folder) / name, SHIPPED / name, dirs_exist_ok=True)
    print(f"{SHIPPED / name}: {size / 2**20:.2f} MiB; all together {(others + size) / 2**20:.2f} MiB")


def write(source: Path, target: Path) -> None:
    if (source / kmeans.RECORD).is_file():
        target.mkdir()
        for file in (kmeans.RECORD, kmeans.WEIGHTS):
            shutil.copyfile(source / file, target / file)
    elif "made_for" in (settings := read_settings(source)):
        save_vocoder(load_vocoder(source), target, made_for=settings["made_for"], rounded=True)
    else:
        assert (source / WEIGHTS).is_file()
        save_network(load_network(source), target, rounded=True)


if __name__ == "__main__":
    main()
