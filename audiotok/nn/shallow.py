"""The first layers of a transformer as one of their own: the same weights, another norm at the end."""

import copy
from typing import TypeVar

from torch import nn

from audiotok.nn.inference import FastTransformer
from audiotok.nn.transformer import Transformer

T = TypeVar("T", Transformer, FastTransformer)


def shallow(transformer: T, *, layers: int, norm: nn.Module) -> T:
    """Its first `layers` blocks and then `norm`; all is shared, nothing copied. Raises ValueError where there is nothing to leave out."""
    if isinstance(transformer, FastTransformer):
        fast = copy.copy(transformer)
        fast.module = _first(transformer.module, layers=layers, norm=norm)
        fast._model = fast._native_model()
        return fast
    return _first(transformer, layers=layers, norm=norm)


def _first(transformer: Transformer, *, layers: int, norm: nn.Module) -> Transformer:
    if not 0 < layers < len(transformer.blocks):
        raise ValueError(f"an exit after {layers} of {len(transformer.blocks)} layers; choose one of 1 to {len(transformer.blocks) - 1}")
    twin = copy.copy(transformer)
    twin._modules = {"blocks": nn.ModuleList(list(transformer.blocks)[:layers]), "norm": norm}
    return twin
