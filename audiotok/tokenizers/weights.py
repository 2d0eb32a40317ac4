"""Weights in safetensors files, and what was in them when they made codes."""

import hashlib
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from audiotok import files

ROUNDED, SCALE = ".int8", ".scale"


def located(path: str | Path) -> Path:
    """The folder of trained weights: `path`, or where that is none, the one of this name that comes with the package."""
    if Path(path).is_dir():
        return Path(path)
    shipped = Path(str(resources.files("audiotok") / "pretrained"))
    names = sorted(folder.name for folder in shipped.iterdir() if folder.is_dir()) if shipped.is_dir() else []
    if str(path) in names:
        return shipped / str(path)
    raise ValueError(f"{path} is no folder, nor the name of weights that come with the package ({', '.join(names) or 'there are none'})")


def digest(network: nn.Module, *, without: tuple[str, ...] = ()) -> str:
    """Hex SHA-256 of every parameter and buffer but those whose name ends in one of `without`; the same on every device."""
    total = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if name.endswith(without):
            continue
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return total.hexdigest()


def save(network: nn.Module, path: Path, *, rounded: bool = False) -> None:
    """Write a network's weights. With `rounded` matrices and codebooks are stored as int8 with a scale for each row: a quarter of the size.

    What was rounded once stays as it is: scales are bfloat16 numbers, so that a row's largest weight, 127 steps, gives its scale again.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        if rounded and tensor.ndim >= 2 and tensor.is_floating_point():
            scale = (tensor.float().abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / 127).bfloat16()
            state |= {name + ROUNDED: (tensor / scale.float()).round().clamp(-127, 127).to(torch.int8), name + SCALE: scale}
        else:
            state[name] = tensor.clone()
    with files.whole_file(path) as partial:
        save_file(state, partial)


def load(network: nn.Module, path: Path) -> None:
    """Fill a network with what `save` wrote, all of its weights and no others.

    Raises ValueError for a file that is absent, damaged or no safetensors, and naming what is missing, unexpected or of another shape.
    """
    state = _read(path)
    _refuse_other(network, state, path)
    network.load_state_dict(state)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state = load_file(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; the folder of a trained network holds one") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: damaged, or no safetensors file ({error}); pickles are never read; download it again") from error
    for name in [name for name in state if name.endswith(ROUNDED)]:
        plain, steps = name.removesuffix(ROUNDED), state.pop(name)
        scale = state.pop(plain + SCALE, None)
        if scale is None or steps.ndim < 2 or scale.shape != (*steps.shape[:-1], 1) or plain in state:
            raise ValueError(f"{path}: {name} needs a {plain + SCALE} with one number for each row, and no {plain} besides")
        state[plain] = steps.float() * scale.float()
    return state


def _refuse_other(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    wanted = network.state_dict()
    wrong = [f"{name} is missing" for name in wanted if name not in state]
    wrong += [f"{name} is unexpected" for name in state if name not in wanted]
    wrong += [
        f"{name} is {_kind(state[name])}, the network's is {_kind(wanted[name])}"
        for name in wanted
        if name in state and _kind(state[name]) != _kind(wanted[name])
    ]
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise ValueError(f"{path}: the weights of another network: {'; '.join(wrong[:8])}{more}")


def _kind(tensor: Tensor) -> str:
    """Of any floating-point type one is as good as another."""
    return f"{'' if tensor.is_floating_point() else f'{tensor.dtype} '}{list(tensor.shape)}"
