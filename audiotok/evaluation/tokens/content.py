"""What codes tell about phones or speakers, without training: mutual information and purity of frame labels and codes.

Information counted from frames comes out too high: labels and codes that have nothing to do with each other show about (P - 1)(V - 1) /
(2 n ln 2) bits. Miller and Madow's correction takes that off, but holds only where every cell is well filled, and 40 phones by 1,024
codes have tens of thousands of cells, most of them empty. So the bias is measured instead, as the mean information about shuffled labels.
Frames of one segment share their label and much of their code, so a segment is shuffled as a whole.
"""

from dataclasses import dataclass

import numpy as np

from audiotok.evaluation.metric import NotApplicable
from audiotok.evaluation.tokens.entropy import entropy
from audiotok.evaluation.tokens.units import codebooks, stream


@dataclass(frozen=True)
class Information:
    """I(label; code) in bits, `floor` of it by chance, of the `entropy` of the labels."""

    bits: float
    floor: float
    entropy: float

    @property
    def normalised(self) -> float:
        """Share of the labels' entropy that the codes tell: PNMI where the labels are phones (HuBERT, arXiv 2106.07447)."""
        return self.bits / self.entropy

    @property
    def corrected(self) -> float:
        """The same above the floor: 0 by chance, 1 where the codes tell all. Raises NotApplicable where chance already does."""
        if self.floor >= self.entropy * (1 - 1e-12):
            raise NotApplicable("shuffled labels are told as well as true ones: there are too few segments for this codebook")
        return (self.bits - self.floor) / (self.entropy - self.floor)


def joint_counts(labels_N: np.ndarray, codes_N: np.ndarray) -> np.ndarray:
    """Frames by label and code, counts_PV; only labels and codes that occur, each in sorted order. Labels may be strings."""
    return _table(*_numbered(labels_N, codes_N))


def _numbered(labels_N: np.ndarray, codes_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Labels and codes as numbers from 0, and how many there are of each."""
    labels_N, codes_N = np.asarray(labels_N), stream(codes_N)
    if labels_N.shape != codes_N.shape:
        raise ValueError(f"got labels of shape {list(labels_N.shape)} and {len(codes_N)} codes, want one label for each frame")
    if not len(codes_N):
        raise NotApplicable("no frames: there is nothing to count")
    names, labels_N = np.unique(labels_N, return_inverse=True)
    kinds, codes_N = np.unique(codes_N, return_inverse=True)
    return labels_N, codes_N, (len(names), len(kinds))


def _table(labels_N: np.ndarray, codes_N: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.bincount(labels_N * shape[1] + codes_N, minlength=shape[0] * shape[1]).reshape(shape)


def mutual_information(counts_PV: np.ndarray) -> float:
    """Plug-in I(label; code) in bits."""
    return max(entropy(counts_PV.sum(axis=1)) + entropy(counts_PV.sum(axis=0)) - entropy(counts_PV), 0.0)


def phone_purity(counts_PV: np.ndarray) -> float:
    """Accuracy of naming each code's most frequent label: frames of that label over all frames."""
    return float(counts_PV.max(axis=0).sum() / counts_PV.sum())


def cluster_purity(counts_PV: np.ndarray) -> float:
    """Share of frames whose code is their label's most frequent: falls as codebooks grow, where phone purity rises."""
    return float(counts_PV.max(axis=1).sum() / counts_PV.sum())


def information(labels_N: np.ndarray, codes_N: np.ndarray, *, groups_N: np.ndarray, shuffles: int, seed: int) -> Information:
    """What the codes tell about the labels, and how much of that by chance.

    `groups_N` numbers what bears a label as a whole: each frame's segment for phones, its utterance for speakers. Labels are shuffled among
    groups, `shuffles` times. Raises ValueError for a group with two labels, and NotApplicable where all labels are the same.
    """
    if shuffles < 1:
        raise ValueError(f"got {shuffles} shuffles, want one at least to measure what chance tells")
    labels_N, codes_N, shape = _numbered(labels_N, codes_N)
    if shape[0] < 2:
        raise NotApplicable(f"{shape[0]} labels: there is nothing to tell apart")
    labels_G, groups_N = _group_labels(labels_N, groups_N)
    generator = np.random.default_rng(seed)
    floors = [mutual_information(_table(generator.permutation(labels_G)[groups_N], codes_N, shape)) for _ in range(shuffles)]
    counts_PV = _table(labels_N, codes_N, shape)
    return Information(mutual_information(counts_PV), float(np.mean(floors)), entropy(counts_PV.sum(axis=1)))


def codebook_information(
    labels_N: np.ndarray, codes_KN: np.ndarray, *, groups_N: np.ndarray, shuffles: int, seed: int
) -> list[Information]:
    """`information` of each codebook by itself, all against the same shuffles."""
    rows = codebooks(codes_KN)
    return [information(labels_N, codes_N, groups_N=groups_N, shuffles=shuffles, seed=seed) for codes_N in rows]


def _group_labels(labels_N: np.ndarray, groups_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(label of each group, group of each frame from 0)."""
    if np.shape(groups_N) != labels_N.shape:
        raise ValueError(f"got groups of shape {list(np.shape(groups_N))} for {len(labels_N)} labels, want one group for each frame")
    _, first, groups_N = np.unique(groups_N, return_index=True, return_inverse=True)
    mixed = np.flatnonzero(labels_N[first][groups_N] != labels_N)
    if len(mixed):
        raise ValueError(f"frame {mixed[0]} has another label than the first of its group; a group is a segment or utterance of one label")
    return labels_N[first], groups_N
