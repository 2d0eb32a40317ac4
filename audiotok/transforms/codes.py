"""What every transform asks of the codes it is given, and how it marks the codes it makes."""

import torch
from torch import Tensor

from audiotok import files


def shaped(codes_KN: Tensor, num_codebooks: int) -> Tensor:
    """The same codes. Raises ValueError unless they are int64 [num_codebooks, N]."""
    if codes_KN.dim() != 2 or codes_KN.shape[0] != num_codebooks or codes_KN.dtype != torch.int64:
        got = f"{codes_KN.dtype} {list(codes_KN.shape)}"
        raise ValueError(f"got codes of {got}, want torch.int64 [{num_codebooks}, frames]; pass the spec that the codes were made with")
    return codes_KN


def checked(codes_KN: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """The same codes. Raises ValueError unless they are int64 [K, N] with `0 <= codes[k] < sizes[k]`."""
    shaped(codes_KN, len(sizes))
    sizes_K1 = torch.tensor(sizes, device=codes_KN.device)[:, None]
    wrong_KN = (codes_KN < 0) | (codes_KN >= sizes_K1)
    if wrong_KN.any():
        codebook, frame = wrong_KN.nonzero()[0].tolist()
        raise ValueError(
            f"code {int(codes_KN[codebook, frame])} at position {frame} is outside codebook {codebook}, which holds {sizes[codebook]} "
            "codes; a generator must choose among the ids that are legal"
        )
    return codes_KN


def marked(fingerprint: str, transform: object) -> str:
    """The fingerprint of codes after a transform: of theirs and of the transform's settings."""
    return files.fingerprint([fingerprint, repr(transform)])


def column(values: tuple[int, ...], like: Tensor | None = None) -> Tensor:
    """int64 [K, 1], on the device of `like`."""
    return torch.tensor(values, device=None if like is None else like.device)[:, None]


def each_alone(num_codebooks: int) -> tuple[tuple[int, ...], ...]:
    """`Layout.sources` where every codebook holds one codebook's ids."""
    return tuple((codebook,) for codebook in range(num_codebooks))
