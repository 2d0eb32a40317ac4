"""Groups of codes that sound alike, as sparse Markov kernels: w(g|t) is the share of code t that belongs to group g.

There is one group for each code, groups overlap, and the shares of a code sum to 1: a law p over V codes becomes the law W p over V groups.
A kernel is made once from vectors (the target model's embeddings, or the codec's own) and kept both by code, to draw a group, and by
group, to sum its mass; neither touches more than the codes and groups in question.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from audiotok.files import whole_file

BLOCK = 2**24  # similarities held in memory at a time while a kernel is made: 64 MB
SAVED = ("starts_V", "groups_E", "weights_E")  # from which the rest follows


class Kernel(Protocol):
    """What a rule of acceptance asks of the groups of one codebook."""

    def draw(self, codes_N: Tensor, uniforms_N: Tensor) -> Tensor:
        """A group [N] for each code, drawn from w(.|code)."""
        ...

    def mass(self, laws_RV: Tensor, row_N: Tensor, groups_N: Tensor) -> Tensor:
        """The masses [N] of groups, each under the law in a row of its own: sum over t of w(g|t) law(t)."""
        ...

    def to(self, device: torch.device | str) -> "Kernel": ...


@dataclass(frozen=True)
class Identity:
    """The kernel of exact acceptance: each code is a group of its own."""

    def draw(self, codes_N: Tensor, uniforms_N: Tensor) -> Tensor:
        return codes_N

    def mass(self, laws_RV: Tensor, row_N: Tensor, groups_N: Tensor) -> Tensor:
        return laws_RV[row_N, groups_N]

    def to(self, device: torch.device | str) -> "Identity":
        return self


@dataclass(frozen=True, eq=False)
class Groups:
    """A kernel of one codebook with an entry for each of the E pairs of a code and a group that holds it."""

    starts_V: Tensor  # by code: where its entries begin; one more, for the end
    groups_E: Tensor  # int32
    weights_E: Tensor  # float64, w(g|t)
    reached_E: Tensor  # code + the cumulative weight within it, so that one search over all entries draws any code's group
    group_starts_V: Tensor  # by group, likewise
    members_E: Tensor  # int32
    member_weights_E: Tensor

    @classmethod
    def of(cls, starts_V: Tensor, groups_E: Tensor, weights_E: Tensor) -> "Groups":
        """The kernel whose entries lie code by code; the weights of a code sum to 1."""
        size = len(starts_V) - 1
        codes_E = torch.repeat_interleave(torch.arange(size), starts_V.diff())
        before_E = weights_E.cumsum(0) - weights_E
        reached_E = codes_E + (before_E - before_E[starts_V[:-1]][codes_E] + weights_E)
        order_E = groups_E.argsort(stable=True)
        return cls(
            starts_V=starts_V,
            groups_E=groups_E.int(),
            weights_E=weights_E,
            reached_E=reached_E,
            group_starts_V=_starts(groups_E, size),
            members_E=codes_E[order_E].int(),
            member_weights_E=weights_E[order_E],
        )

    @classmethod
    def of_pairs(cls, codes_E: Tensor, groups_E: Tensor, affinities_E: Tensor, *, size: int) -> "Groups":
        """The kernel with w(g|t) in proportion to the affinity of each pair, the pairs in any order."""
        order_E = codes_E.argsort(stable=True)
        codes_E, affinities_E = codes_E[order_E], affinities_E[order_E].double()
        totals_V = torch.zeros(size, dtype=torch.float64).index_add_(0, codes_E, affinities_E)
        return cls.of(_starts(codes_E, size), groups_E[order_E], affinities_E / totals_V[codes_E])

    @property
    def size(self) -> int:
        return len(self.starts_V) - 1

    def draw(self, codes_N: Tensor, uniforms_N: Tensor) -> Tensor:
        entry_N = torch.searchsorted(self.reached_E, codes_N + uniforms_N.double(), right=True)
        # The sum of a large code and a number close to 1 may round up into the next code.
        entry_N = entry_N.clamp(self.starts_V[codes_N], self.starts_V[codes_N + 1] - 1)
        return self.groups_E[entry_N].long()

    def mass(self, laws_RV: Tensor, row_N: Tensor, groups_N: Tensor) -> Tensor:
        first_N = self.group_starts_V[groups_N]
        sizes_N = self.group_starts_V[groups_N + 1] - first_N
        place_N = sizes_N.cumsum(0) - sizes_N  # of a group's first member among those of all N
        which_M = torch.repeat_interleave(torch.arange(len(groups_N), device=groups_N.device), sizes_N)
        entry_M = torch.arange(len(which_M), device=groups_N.device) + (first_N - place_N)[which_M]
        masses_M = laws_RV[row_N[which_M], self.members_E[entry_M].long()] * self.member_weights_E[entry_M]
        # Not index_add, whose order of summation is left open on a GPU: a row's result would differ from one run to the next.
        return torch.segment_reduce(masses_M, "sum", lengths=sizes_N, unsafe=True)

    def to(self, device: torch.device | str) -> "Groups":
        return Groups(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def describe(self) -> dict[str, float]:
        """Mean and largest number of codes in a group, and the share of codes whose group holds more than one code."""
        sizes_V = self.group_starts_V.diff()
        return {
            "mean_size": sizes_V.double().mean().item(),
            "max_size": int(sizes_V.max()),
            "coverage": (sizes_V > 1).double().mean().item(),
        }


class Similarity(Protocol):
    """How groups are made from vectors: the part of a kernel that a YAML names."""

    def kernels(self, vectors: Sequence[Tensor]) -> tuple[Groups, ...]:
        """The kernel of each codebook, from its vectors [V_k, D]."""
        ...


@dataclass(frozen=True)
class Hard:
    """Groups of the codes whose vectors have a cosine above `threshold` with the group's own (arXiv 2511.13732).

    A code is shared equally by the groups that hold it, its own always among them. One threshold (or a list of one) serves all codebooks,
    or each has its own.
    """

    threshold: float | Sequence[float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "threshold", _plain(self.threshold))

    def kernels(self, vectors: Sequence[Tensor]) -> tuple[Groups, ...]:
        limits = _each(self.threshold, len(vectors), name="threshold")
        return tuple(_thresholded(vectors_VD, limit, torch.ones_like) for vectors_VD, limit in zip(vectors, limits))


@dataclass(frozen=True)
class Soft:
    """As `Hard`, but a code is shared in proportion to exp((cosine - 1) / temperature)."""

    threshold: float | Sequence[float]
    temperature: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "threshold", _plain(self.threshold))
        if self.temperature <= 0:
            raise ValueError(f"kernel.temperature is {self.temperature!r}, wanted above 0")

    def kernels(self, vectors: Sequence[Tensor]) -> tuple[Groups, ...]:
        limits = _each(self.threshold, len(vectors), name="threshold")
        return tuple(
            _thresholded(vectors_VD, limit, lambda cosines: ((cosines - 1) / self.temperature).exp())
            for vectors_VD, limit in zip(vectors, limits)
        )


@dataclass(frozen=True)
class Nearest:
    """Groups of a code and the codes nearest to it by cosine, `size` in all; a code is shared equally by the groups that hold it."""

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"kernel.size is {self.size!r}, wanted 1 or more")

    def kernels(self, vectors: Sequence[Tensor]) -> tuple[Groups, ...]:
        return tuple(_nearest(vectors_VD, self.size) for vectors_VD in vectors)


def save(path: Path, kernels: Sequence[Groups], *, made_by: Similarity) -> None:
    """Write the kernels of a model's codebooks to one safetensors file, with the settings that they were made with."""
    tensors = {f"{k}.{name}": getattr(kernel, name).cpu() for k, kernel in enumerate(kernels) for name in SAVED}
    settings = {"kind": type(made_by).__name__} | asdict(made_by)  # type: ignore[call-overload]
    with whole_file(path) as partial:
        save_file(tensors, partial, metadata={"settings": json.dumps(settings), "num_codebooks": str(len(kernels))})


def load(path: Path) -> tuple[tuple[Groups, ...], dict]:
    """The kernels that `save` wrote, equal to the bit, and the settings that they were made with."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if "num_codebooks" not in metadata:
            raise ValueError(f"{path} holds no kernels; audiotok.decoding.kernels.save writes a file that does")
        kernels = [Groups.of(*(file.get_tensor(f"{k}.{name}") for name in SAVED)) for k in range(int(metadata["num_codebooks"]))]
        return tuple(kernels), json.loads(metadata["settings"])


def _thresholded(vectors_VD: Tensor, threshold: float, affinity: Callable[[Tensor], Tensor]) -> Groups:
    found = []
    for first, cosines_SV in _cosines(vectors_VD):
        own_S = torch.arange(len(cosines_SV))
        held_SV = cosines_SV > threshold
        held_SV[own_S, first + own_S] = True
        cosines_SV[own_S, first + own_S] = 1
        codes_E, groups_E = held_SV.nonzero(as_tuple=True)
        found.append((first + codes_E, groups_E, affinity(cosines_SV[codes_E, groups_E].double())))
    return Groups.of_pairs(*(torch.cat(parts) for parts in zip(*found)), size=len(vectors_VD))


def _nearest(vectors_VD: Tensor, size: int) -> Groups:
    members = []
    for first, cosines_SV in _cosines(vectors_VD):
        own_S = torch.arange(len(cosines_SV))
        cosines_SV[own_S, first + own_S] = 2  # before any other, one at the same place included
        members.append(cosines_SV.topk(min(size, len(vectors_VD))).indices)
    members_VS = torch.cat(members)
    groups_E = torch.repeat_interleave(torch.arange(len(vectors_VD)), members_VS.shape[1])
    return Groups.of_pairs(members_VS.flatten(), groups_E, torch.ones(members_VS.numel()), size=len(vectors_VD))


def _cosines(vectors_VD: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(first code, the cosines [S, V] of S codes with all codes), a block of rows at a time."""
    unit_VD = F.normalize(vectors_VD.detach().float().cpu(), dim=-1)
    bounds = [*range(0, len(unit_VD), max(1, BLOCK // len(unit_VD))), len(unit_VD)]
    for first, end in pairwise(bounds):
        yield first, (unit_VD[first:end] @ unit_VD.T).clamp(max=1)


def _starts(ids_E: Tensor, size: int) -> Tensor:
    """Where the entries of each id begin once they are sorted, and where the last ends."""
    return F.pad(ids_E.bincount(minlength=size).cumsum(0), (1, 0))


def _plain(threshold: float | Sequence[float]) -> float | tuple[float, ...]:
    return tuple(float(one) for one in threshold) if isinstance(threshold, Sequence) else float(threshold)


def _each(value: float | Sequence[float], num: int, *, name: str) -> Sequence[float]:
    """One value per codebook."""
    values = [value] * num if not isinstance(value, Sequence) else list(value) * num if len(value) == 1 else value
    if len(values) != num:
        raise ValueError(f"kernel.{name} has {len(values)} values for {num} codebooks; give one for all, or one for each")
    return values
