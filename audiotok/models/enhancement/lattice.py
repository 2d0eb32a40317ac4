"""The loss of a transducer over all alignments (arXiv 1211.3711), or over those near a diagonal.

At node (n, u) frame n is heard and u labels are said; `emit` says label u, `blank` goes on to the next frame. Three frames, two labels:

    u = 2   .   .   o -> end          -> blank, N - 1 of them and the last one out
    u = 1   .   o > o
    u = 0   o > o   .                 up: emit

A label may be a frame of several codebooks: its log-probability is their sum, so only that of what is said enters, never a vocabulary.
"""

import torch
from torch import Tensor

IMPOSSIBLE = -1e30  # the logarithm of nothing, finite so that gradients are


def lattice_loss(blank_BNU: Tensor, emit_BNU: Tensor, lengths_B: Tensor, targets_B: Tensor, *, allowed_BNU: Tensor | None) -> Tensor:
    """nats_B: minus the log-probability of all paths, or of those through nodes that are `allowed_BNU`.

    `blank_BNU` [B, N, U + 1] and `emit_BNU` [B, N, U] are log-probabilities; row b has `lengths_B` frames and `targets_B` labels. O(N + U)
    steps, each over an antidiagonal. Raises ValueError where a row has no frame, or no path is allowed.
    """
    _check(blank_BNU, emit_BNU, lengths_B, targets_B)
    if allowed_BNU is not None:
        blank_BNU = blank_BNU.masked_fill(~allowed_BNU, IMPOSSIBLE)
        emit_BNU = emit_BNU.masked_fill(~(allowed_BNU[..., :-1] & allowed_BNU[..., 1:]), IMPOSSIBLE)
    rows_B = torch.arange(len(lengths_B), device=lengths_B.device)
    ends_B = blank_BNU[rows_B, lengths_B - 1, targets_B]
    log_B = _forward(blank_BNU, emit_BNU)[rows_B, lengths_B - 1 + targets_B, targets_B] + ends_B
    if (log_B <= IMPOSSIBLE / 2).any():
        raise ValueError("transducer: no path through the allowed nodes joins the first frame to the last label; widen the band")
    return -log_B


def best_path(blank_BNU: Tensor, emit_BNU: Tensor, lengths_B: Tensor, targets_B: Tensor) -> Tensor:
    """frames_BU: at which frame each label is said on the likeliest path; past a row's last label its last frame.

    Arguments as of `lattice_loss`, what is not allowed being `IMPOSSIBLE`.
    """
    _check(blank_BNU, emit_BNU, lengths_B, targets_B)
    batch, num_frames, nodes = blank_BNU.shape
    came_up_BDU = _backpointers(blank_BNU, emit_BNU)
    rows_B = torch.arange(batch, device=lengths_B.device)
    frame_B, label_B = lengths_B - 1, targets_B.clone()
    frames_BU = frame_B[:, None].repeat(1, nodes - 1)
    for _ in range(num_frames + nodes - 2):
        up_B = (label_B > 0) & (came_up_BDU[rows_B, frame_B + label_B, label_B] | (frame_B == 0))
        label_B = label_B - up_B.long()
        frames_BU[rows_B[up_B], label_B[up_B]] = frame_B[up_B]
        frame_B = frame_B - (~up_B & (frame_B > 0)).long()
    return frames_BU


def near_diagonal(lengths_B: Tensor, targets_B: Tensor, label_BU: Tensor, *, frames: int, band: float | None) -> Tensor:
    """bool [B, N, U]: of a row's nodes where some labels were said, those at most `band` labels from where they are said evenly; None: all.

    With as many labels as frames and a band of 0 one path is left, that of the diagonal: each frame says its label, then goes on.
    """
    rate_B11 = (targets_B / lengths_B)[:, None, None]
    frame_N1, label_B1U = torch.arange(frames, device=lengths_B.device)[:, None], label_BU[:, None]
    inside_BNU = (frame_N1 < lengths_B[:, None, None]) & (label_B1U <= targets_B[:, None, None])
    if band is None:
        return inside_BNU
    return inside_BNU & (label_B1U >= rate_B11 * frame_N1 - band) & (label_B1U <= rate_B11 * (frame_N1 + 1) + band)


def _forward(blank_BNU: Tensor, emit_BNU: Tensor) -> Tensor:
    """log-probabilities [B, N + U, U + 1] of reaching node (d - u, u), antidiagonal d by antidiagonal."""
    batch, num_frames, labels = blank_BNU.shape
    label_U = torch.arange(labels, device=blank_BNU.device)
    nothing_B1 = blank_BNU.new_full((batch, 1), IMPOSSIBLE)
    alpha_BU = torch.cat([torch.zeros_like(nothing_B1), nothing_B1.expand(-1, labels - 1)], dim=1)
    diagonals = [alpha_BU]
    for step in range(1, num_frames + labels - 1):
        frame_U = step - label_U
        from_frame_BU = alpha_BU + _at(blank_BNU, frame_U - 1, label_U)
        from_label_BU = alpha_BU[:, :-1] + _at(emit_BNU, frame_U[1:], label_U[:-1])
        alpha_BU = torch.logaddexp(from_frame_BU, torch.cat([nothing_B1, from_label_BU], dim=1)).clamp_min(2 * IMPOSSIBLE)
        diagonals.append(alpha_BU)
    return torch.stack(diagonals, dim=1)


def _backpointers(blank_BNU: Tensor, emit_BNU: Tensor) -> Tensor:
    """bool [B, N + U, U + 1]: whether the likeliest way to node (d - u, u) says label u - 1 last."""
    batch, num_frames, nodes = blank_BNU.shape
    label_U = torch.arange(nodes, device=blank_BNU.device)
    nothing_B1 = blank_BNU.new_full((batch, 1), IMPOSSIBLE)
    best_BU = torch.cat([torch.zeros_like(nothing_B1), nothing_B1.expand(-1, nodes - 1)], dim=1)
    came_up = [torch.zeros_like(best_BU, dtype=torch.bool)]
    for step in range(1, num_frames + nodes - 1):
        frame_U = step - label_U
        on_BU = best_BU + _at(blank_BNU, frame_U - 1, label_U)
        up_BU = torch.cat([nothing_B1, best_BU[:, :-1] + _at(emit_BNU, frame_U[1:], label_U[:-1])], dim=1)
        came_up.append(up_BU > on_BU)
        best_BU = torch.maximum(on_BU, up_BU).clamp_min(2 * IMPOSSIBLE)
    return torch.stack(came_up, dim=1)


def _at(log_BNU: Tensor, frame_U: Tensor, label_U: Tensor) -> Tensor:
    """The values at (frame, label), impossible outside the frames."""
    inside_U = (frame_U >= 0) & (frame_U < log_BNU.shape[1])
    return log_BNU[:, frame_U.clamp(0, log_BNU.shape[1] - 1), label_U].where(inside_U, IMPOSSIBLE)


def _check(blank_BNU: Tensor, emit_BNU: Tensor, lengths_B: Tensor, targets_B: Tensor) -> None:
    batch, frames, nodes = blank_BNU.shape
    if emit_BNU.shape != (batch, frames, nodes - 1):
        raise ValueError(
            f"transducer: got blank of {tuple(blank_BNU.shape)} and emit of {tuple(emit_BNU.shape)}; [B, N, U + 1] and [B, N, U] are wanted"
        )
    if not (1 <= int(lengths_B.min()) <= int(lengths_B.max()) <= frames and 0 <= int(targets_B.min()) <= int(targets_B.max()) < nodes):
        raise ValueError(
            f"transducer: got {lengths_B.tolist()} frames and {targets_B.tolist()} labels where the lattice has {frames} and {nodes - 1}"
        )
