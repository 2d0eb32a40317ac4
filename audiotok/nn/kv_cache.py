"""Keys and values of the positions a decoder has seen, in memory of a fixed shape.

Each row has its own length, so that prompts of different lengths share a batch, padded on the right. What stands past a row's length is
never read: a query at position n sees positions 0 to n only, and position n is written before it is read. Lengths are on the device, where
a step counts them; a bound of them is here, so that a step need not wait to know how far it must read.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class KVCache:
    """Keys and values [layers, B, H, S, D] and the positions filled, per row. No shape changes from one step to the next.

    No row holds more than `longest` positions. It is exact behind `rewind` and `replace`, and behind `grow` without lengths.
    """

    keys: Tensor
    values: Tensor
    lengths_B: Tensor
    longest: int = 0

    @classmethod
    def empty(
        cls, rows: int, *, layers: int, heads: int, positions: int, width: int, dtype: torch.dtype, device: torch.device | str
    ) -> "KVCache":
        """A cache of `positions` positions per row; `width` is that of one head."""
        shape = (layers, rows, heads, positions, width)
        return cls(
            torch.zeros(shape, dtype=dtype, device=device),
            torch.zeros(shape, dtype=dtype, device=device),
            torch.zeros(rows, dtype=torch.int64, device=device),
        )

    @property
    def capacity(self) -> int:
        """Positions per row."""
        return self.keys.shape[3]

    def within(self, positions: int) -> "KVCache":
        """The first positions of each row, in the same memory: a step that reads no further. It counts in the same `lengths_B`."""
        return KVCache(self.keys[..., :positions, :], self.values[..., :positions, :], self.lengths_B, self.longest)

    def reorder(self, rows_B: Tensor) -> None:
        """Give row b what row `rows_B[b]` holds, in memory of its own: a step that was recorded does not see it."""
        self.keys, self.values, self.lengths_B = self.keys[:, rows_B], self.values[:, rows_B], self.lengths_B[rows_B]

    def room_for(self, num: int) -> int:
        """How many positions the longest row holds after `num` more. Raises ValueError where they do not fit.

        It asks the device only where the bound says that they do not.
        """
        if self.longest + num > self.capacity:
            self.longest = int(self.lengths_B.max())
        if self.longest + num > self.capacity:
            raise ValueError(f"{num} positions do not fit in a cache of {self.capacity} whose rows hold up to {self.longest}")
        return self.longest + num

    def grow(self, num: int, *, lengths_B: Tensor | None = None) -> None:
        """Count `num` more positions of each row, or of each its own number, `num` at most."""
        self.lengths_B += num if lengths_B is None else lengths_B
        self.longest += num

    def write(self, layer: int, keys_BHND: Tensor, values_BHND: Tensor, *, positions_BN: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of the layer, [B, H, S, D], after the new ones are put at each row's own positions."""
        rows_B1 = torch.arange(keys_BHND.shape[0], device=keys_BHND.device)[:, None]
        self.keys[layer][rows_B1, :, positions_BN] = keys_BHND.transpose(1, 2).to(self.keys.dtype)
        self.values[layer][rows_B1, :, positions_BN] = values_BHND.transpose(1, 2).to(self.values.dtype)
        return self.keys[layer], self.values[layer]

    def mask(self, positions_BN: Tensor) -> Tensor:
        """What a query at each position sees, [B, 1, N, S]: itself and all before it."""
        return (torch.arange(self.capacity, device=positions_BN.device) <= positions_BN[..., None])[:, None]

    def branching_mask(self, sees_BNM: Tensor) -> Tensor:
        """The same of N queries that branch, about to be written: the past, without its last M - N positions, and what each sees of M."""
        (_, num, inputs), capacity = sees_BNM.shape, self.capacity
        column_BS = torch.arange(capacity, device=sees_BNM.device) - (self.lengths_B - (inputs - num))[:, None]
        index_BNS = column_BS.clamp(0, inputs - 1)[:, None].expand(-1, num, -1)
        within_B1S = (column_BS < inputs)[:, None]
        return ((column_BS < 0)[:, None] | (sees_BNM.gather(2, index_BNS) & within_B1S))[:, None]

    def keep(self, first_B: Tensor, path_BM: Tensor) -> None:
        """Let what stands `path_BM` positions behind each row's first `first_B` follow them at once, and forget all else behind them."""
        num = path_BM.shape[1]
        if ((path_BM < 0) | (first_B[:, None] + path_BM >= self.lengths_B[:, None])).any():
            raise ValueError(
                f"rows of {self.lengths_B.tolist()} positions have none at {path_BM.tolist()} behind their first {first_B.tolist()}"
            )
        rows_B1 = torch.arange(len(first_B), device=first_B.device)[:, None]
        from_BM, to_BM = first_B[:, None] + path_BM, first_B[:, None] + torch.arange(num, device=first_B.device)
        for kept in (self.keys, self.values):
            kept[:, rows_B1, :, to_BM] = kept[:, rows_B1, :, from_BM]
        self.lengths_B.copy_(first_B + num)

    def rewind(self, lengths_B: Tensor) -> None:
        """Forget all but each row's first positions; what stood behind them is overwritten by what comes next."""
        edges = lengths_B.amin(), lengths_B.amax(), (lengths_B - self.lengths_B).amax()
        shortest, longest, beyond = torch.stack(edges).tolist()  # one wait for the device
        if shortest < 0 or beyond > 0:
            raise ValueError(f"rows of {self.lengths_B.tolist()} positions cannot be rewound to {lengths_B.tolist()}")
        self.lengths_B.copy_(lengths_B)
        self.longest = longest

    def replace(self, row: int, other: "KVCache") -> None:
        """Give a row the content of the only row of `other`, which may have fewer positions: a new utterance in a finished one's place."""
        if other.lengths_B.shape[0] != 1 or other.capacity > self.capacity:
            raise ValueError(f"one row of at most {self.capacity} positions can take a row's place; got {tuple(other.keys.shape)}")
        self.keys[:, row, :, : other.capacity] = other.keys[:, 0]
        self.values[:, row, :, : other.capacity] = other.values[:, 0]
        self.lengths_B[row] = other.lengths_B[0]
        self.longest = int(self.lengths_B.max())
