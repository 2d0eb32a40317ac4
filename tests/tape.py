"""A CUDA graph's stand-in on any device: the operations of a step, recorded with the tensors that they read and write, and run again.

As a graph does, it knows addresses and nothing of Python: a number that was read from a tensor while it recorded stays what it was. What
would make a graph's recording fail, asking the device for a value or a shape that depends on one, fails here too.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

ASKS = {
    "_local_scalar_dense",
    "is_nonzero",
    "equal",
    "nonzero",
    "masked_select",
    "unique_dim",
    "_unique2",
    "unique_consecutive",
    "allclose",
}
LEAVES = {"tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__"}


class Asked(RuntimeError):
    """A value was asked for."""


class Asking(TorchFunctionMode):
    """Notes each method of a tensor by which Python asks for its values."""

    def __init__(self, *, refuse: bool) -> None:
        self.refuse = refuse
        self.asked: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in LEAVES or (name in {"__getitem__", "__setitem__"} and _is_boolean(args[1])):
            self.asked.append(name)
            if self.refuse:
                raise Asked(f"a recorded step asks for values by {name}")
        return func(*args, **(kwargs or {}))


def _is_boolean(index: Any) -> bool:
    return any(isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8) for part in tree_leaves(index))


class Tape(TorchDispatchMode):
    """Every operation within, in order; those whose shape or result Python would have to know are refused."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple, dict, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ASKS or (name.startswith("index") and any(_is_boolean(part) for part in args[1:2])):
            raise Asked(f"a recorded step asks for values by {name}")
        out = func(*args, **(kwargs or {}))
        if not _is_view(func, args, out):
            self.operations.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        for func, args, kwargs, out in self.operations:
            again = func(*args, **kwargs)
            for held, new in zip(tree_leaves(out), tree_leaves(again)):
                if isinstance(held, Tensor) and held is not new and held.numel():
                    held.copy_(new)


def _is_view(func: Any, args: tuple, out: Any) -> bool:
    """Whether the operation only looks at memory that is there already, and so need not be done again."""
    if func._schema.is_mutable or not isinstance(out, Tensor):
        return False
    given = {part.untyped_storage().data_ptr() for part in tree_leaves(args) if isinstance(part, Tensor) and part.numel()}
    return out.numel() > 0 and out.untyped_storage().data_ptr() in given


def capture(step: Callable[[], Tensor], *, undo: Callable[[], None]) -> tuple[Callable[[], None], Tensor]:
    """`audiotok.nn.graphs.Capture`. What is made while it records is spoiled then, so that only a replay can make it right."""
    step()
    undo()
    tape = Tape()
    with Asking(refuse=True), tape:
        out = step()
    undo()
    tree_map_only(Tensor, lambda made: _spoil(made, tape), out)
    return tape.replay, out


def _spoil(out: Tensor, tape: Tape) -> None:
    out.fill_(float("nan"))
    assert tape.operations
