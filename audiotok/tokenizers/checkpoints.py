"""Checkpoints of published codecs: where they lie, and how they are read.

No pickled code is ever run: a .safetensors file is preferred, and any other is read as tensors and plain values or not at all. Where a
SHA-256 was published (in the name of the file, or as the name under which the hub's cache keeps it), the file must have it.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from audiotok import files

UNREADABLE = (
    SafetensorError,
    UnpicklingError,
    BadZipFile,
    OSError,
    EOFError,
    RuntimeError,
    TypeError,
    AttributeError,
    ValueError,
    LookupError,
)


def located(name: str | Path, *filenames: str, revision: str) -> Path:
    """The first of these files that is in a folder or in a model on the hub: "owner/model", or "owner/model/folder" of it.

    `revision`: of the hub, a branch, a tag or a commit. Raises ValueError where there is none.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        found = next((path / filename for filename in filenames if (path / filename).is_file()), None)
        if found is None:
            raise ValueError(f"{path}: holds no {' or '.join(filenames)}; download the whole checkpoint into it")
        return found
    if path.exists() or path.is_absolute() or len(Path(name).parts) < 2:
        raise ValueError(f"{name}: neither a folder nor a model on the hub; name the folder of {filenames[-1]}, or owner/model")
    return _fetched(str(name), filenames, revision)


def weights_file(name: str | Path, *filenames: str, revision: str) -> Path:
    """`name` itself where it is a file, else the first of these files in the folder or the model on the hub."""
    path = Path(name).expanduser()
    return path if path.is_file() else located(name, *filenames, revision=revision)


def read_json(path: Path) -> dict[str, Any]:
    """The settings beside a checkpoint. Raises ValueError for what is no JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); download it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: holds a {type(found).__name__}, the settings of a network are wanted; download it again")
    return found


def read(path: Path) -> dict[str, Any]:
    """What a checkpoint holds: tensors by name, nested where the file is. Raises ValueError for what is damaged or no plain tensors."""
    _check_digest(path)
    try:
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ValueError(f"{path}: cannot be read as plain tensors ({_reason(error)}); download it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: holds a {type(found).__name__}, tensors by name are wanted; download it again")
    return found


def load(network: nn.Module, tensors: Any, *, source: Path) -> None:
    """Give a network its weights: every one of them, and none left over. Raises ValueError otherwise, naming what differs."""
    if not isinstance(tensors, Mapping):
        raise ValueError(f"{source}: holds a {type(tensors).__name__} where tensors by name are wanted; download it again")
    try:
        network.load_state_dict(tensors)
    except UNREADABLE as error:
        raise ValueError(
            f"{source}: not the weights of this network ({_reason(error)}); use the checkpoint it was published with"
        ) from error


def _fetched(name: str, filenames: tuple[str, ...], revision: str) -> Path:
    """The first of these files in a model on the hub, or in the hub's cache on this machine."""
    try:
        from huggingface_hub import hf_hub_download  # noqa: PLC0415
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError  # noqa: PLC0415
    except ImportError as error:
        raise ValueError(f"{name}: no such folder, and the hub needs another package; pip install huggingface_hub") from error
    owner, model, *folder = name.split("/")
    unreachable, reason = False, ""
    for filename in filenames:
        wanted = "/".join([*folder, filename])
        try:
            return Path(hf_hub_download(f"{owner}/{model}", wanted, revision=revision, local_files_only=unreachable))
        except EntryNotFoundError as error:
            unreachable, reason = isinstance(error, LocalEntryNotFoundError), reason or _reason(error)  # asking again costs half a minute
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{name}: no such folder, and the hub gives nothing ({_reason(error)}); download it and name its folder"
            ) from error
    raise ValueError(f"{name}: no such folder, and the hub has no {' or '.join(filenames)} ({reason}); download it and name its folder")


def _check_digest(path: Path) -> None:
    wanted = re.search(r"-([0-9a-f]{8,64})$", path.stem) or re.fullmatch(r"([0-9a-f]{64})", path.resolve().name)
    if wanted and not files.file_digest(path).startswith(wanted[1]):
        raise ValueError(f"{path}: damaged, its SHA-256 does not begin with {wanted[1]}; download it again")


def _reason(error: Exception) -> str:
    """What an error says, on one line and short: a wrong network is told by hundreds of keys."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]} ..."
