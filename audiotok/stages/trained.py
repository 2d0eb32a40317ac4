"""Weights that a stage reads: of a step_* folder, or of a model that was made of one to be shipped (tools/ship_model.py)."""

from pathlib import Path

from torch import nn

from audiotok import files
from audiotok.tokenizers import weights as shipped
from audiotok.training import checkpoint

AVERAGED, SHIPPED = "ema.safetensors", "model.safetensors"  # the latter without training.pt, which every step_* folder has


def weights_file(folder: Path) -> Path:
    """The averaged weights."""
    ours = (folder / AVERAGED).exists() or (folder / "training.pt").exists() or not (folder / SHIPPED).exists()
    return folder / (AVERAGED if ours else SHIPPED)


def digest(folder: Path) -> str:
    """SHA-256 of the averaged weights. Raises ValueError where they are absent."""
    if not (weights := weights_file(folder)).exists():
        raise ValueError(f"{weights} is not there; give a step_* folder of a training run")
    return files.file_digest(weights)


def load(folder: Path, model: nn.Module) -> None:
    """Fill a model with the averaged weights. Raises ValueError where they are absent, damaged or another model's."""
    weights = weights_file(folder)
    if weights.name == AVERAGED:
        checkpoint.load_weights(weights, model)
    else:
        shipped.load(model, weights)
