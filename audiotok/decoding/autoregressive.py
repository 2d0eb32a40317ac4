"""The engine that generates codes position by position. It knows nothing of models: it calls `step` and draws.

    step(previous_BK, position) -> K logits [B, V_k]

gets the codes of the position before (-1 throughout at position 0, and in rows that have finished) and keeps whatever cache it needs.
Shapes do not change from one step to the next, and each row draws with its own random numbers: what is generated for an utterance does
not depend on the batch that it is in.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from audiotok.decoding.samplers import Sampler, Uniforms, within

NONE = -1  # no code: past a row's end, before its start, or free to be chosen

Step = Callable[[Tensor, int], Sequence[Tensor]]


@torch.inference_mode()
def generate(
    step: Step,
    *,
    num_rows: int,
    codebook_sizes: Sequence[int],
    max_positions_B: Tensor,
    sampler: Sampler,
    seeds: Sequence[int],
    device: torch.device | str,
    end: int | None = None,
    forced_BKN: Tensor | None = None,
    legal: tuple[Tensor, Tensor] | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """(codes_BKN, lengths_B) on `device`, -1 past a row's length; `seeds` are the rows' own.

    A row ends before the position at which codebook 0 is `end`, and after `max_positions_B` positions at the latest; the batch ends with
    its last row. `forced_BKN` holds the codes that must stand (prompts), -1 where the engine chooses. `legal` is (first_BKN, end_BKN): at
    each place only codes first <= code < end are chosen (a transform's `legal_ids`), or `end`, and all codes where end <= first. All of
    these may be shorter than the longest row. `progress(position)` hears of every position. Raises ValueError where sizes disagree,
    FloatingPointError where logits are not finite.
    """
    _check_places(forced_BKN, legal, rows=num_rows, codebook_sizes=codebook_sizes)
    max_positions_B, positions = _limits_of_rows(max_positions_B, seeds, rows=num_rows, device=device)
    codebooks, window = len(codebook_sizes), sampler.repetition_window or 0
    groups = _groups(codebook_sizes, device=device)
    # The window before position 0 is part of the memory, so that the history has one shape from the first step on.
    codes_BKM = torch.full((num_rows, codebooks, window + positions), NONE, device=device)
    lengths_B, active_B = torch.zeros_like(max_positions_B), max_positions_B > 0
    uniforms, previous_BK = Uniforms(seeds), torch.full((num_rows, codebooks), NONE, device=device)
    for position in range(positions):
        if not active_B.any():
            break
        logits = step(previous_BK, position)
        _check_logits(logits, codebook_sizes=codebook_sizes, position=position)
        chosen_BK = _choose(
            logits,
            groups=groups,
            sampler=sampler,
            uniforms_2BK=uniforms.draw(codebooks).to(device),
            history_BKW=codes_BKM[..., position : position + window],
            limits=_limits(legal, position=position),
            end=end,
        )
        chosen_BK = _forced(chosen_BK, forced_BKN, position=position)
        if end is not None:
            active_B = active_B & (chosen_BK[:, 0] != end)
        previous_BK = chosen_BK.masked_fill(~active_B[:, None], NONE)
        codes_BKM[..., window + position] = previous_BK
        lengths_B = lengths_B + active_B
        active_B = active_B & (lengths_B < max_positions_B)
        if progress is not None:
            progress(position)
    longest = int(lengths_B.max()) if num_rows else 0
    return codes_BKM[..., window : window + longest].clone(), lengths_B


def _choose(
    logits: Sequence[Tensor],
    *,
    groups: Sequence[Tensor],
    sampler: Sampler,
    uniforms_2BK: Tensor,
    history_BKW: Tensor,
    limits: tuple[Tensor, Tensor] | None,
    end: int | None,
) -> Tensor:
    """Codes [B, K]; codebooks of one size are drawn at once."""
    chosen_BK = torch.empty(uniforms_2BK.shape[1:], dtype=torch.int64, device=uniforms_2BK.device)
    for group in groups:
        members = group.tolist()
        logits_BGV = torch.stack([logits[k] for k in members], dim=1)
        if limits is not None:
            kept_BGV = within(logits_BGV, limits[0][:, group], limits[1][:, group])
            if end is not None and members[0] == 0:
                kept_BGV[:, 0, end] = logits_BGV[:, 0, end]
            logits_BGV = kept_BGV
        chosen_BK[:, group] = sampler.draw(logits_BGV, uniforms_2BK[..., group], history_BW=history_BKW[:, group])
    return chosen_BK


def _groups(codebook_sizes: Sequence[int], *, device: torch.device | str) -> list[Tensor]:
    """The indices of the codebooks of each size."""
    return [
        torch.tensor([k for k, other in enumerate(codebook_sizes) if other == size], device=device)
        for size in dict.fromkeys(codebook_sizes)
    ]


def _limits(legal: tuple[Tensor, Tensor] | None, *, position: int) -> tuple[Tensor, Tensor] | None:
    if legal is None or position >= legal[0].shape[2]:
        return None
    return legal[0][..., position], legal[1][..., position]


def _forced(chosen_BK: Tensor, forced_BKN: Tensor | None, *, position: int) -> Tensor:
    if forced_BKN is None or position >= forced_BKN.shape[2]:
        return chosen_BK
    wanted_BK = forced_BKN[..., position]
    return torch.where(wanted_BK == NONE, chosen_BK, wanted_BK)


def _limits_of_rows(max_positions_B: Tensor, seeds: Sequence[int], *, rows: int, device: torch.device | str) -> tuple[Tensor, int]:
    """The maximal lengths on the device, and the longest of them."""
    if tuple(max_positions_B.shape) != (rows,) or len(seeds) != rows:
        raise ValueError(f"{rows} rows need as many maximal lengths and seeds; got {list(max_positions_B.shape)} and {len(seeds)}")
    return max_positions_B.to(device), int(max_positions_B.max()) if rows else 0


def _check_places(forced_BKN: Tensor | None, legal: tuple[Tensor, Tensor] | None, *, rows: int, codebook_sizes: Sequence[int]) -> None:
    for name, places_BKN in (("forced", forced_BKN), *zip(("legal first", "legal end"), legal or ())):
        if places_BKN is not None and tuple(places_BKN.shape[:2]) != (rows, len(codebook_sizes)):
            raise ValueError(f"{name} codes are [{rows}, {len(codebook_sizes)}, N]; got {list(places_BKN.shape)}")
    if forced_BKN is not None:
        sizes_K1 = torch.tensor(list(codebook_sizes), device=forced_BKN.device)[:, None]
        if ((forced_BKN < NONE) | (forced_BKN >= sizes_K1)).any():
            raise ValueError(f"a forced code lies outside its codebook; the codebooks' sizes are {list(codebook_sizes)}")


def _check_logits(logits: Sequence[Tensor], *, codebook_sizes: Sequence[int], position: int) -> None:
    sizes = [logits_BV.shape[-1] for logits_BV in logits]
    if sizes != list(codebook_sizes):
        raise ValueError(f"the step gave logits for codebooks of {sizes}, the codebooks' sizes are {list(codebook_sizes)}")
    # A maximum is NaN where any of its terms is.
    if not torch.stack([logits_BV.amax(-1) for logits_BV in logits]).isfinite().all():
        raise FloatingPointError(f"the logits of position {position} are not finite; the weights are damaged or the training diverged")
