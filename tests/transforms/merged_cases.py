"""Codes for the tests of merged vocabularies, and what merging is, told slowly."""

from collections import Counter
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile
import torch
from hypothesis import strategies as st
from torch import Tensor

from audiotok.tokenizers.codec import Codec
from audiotok.transforms.merges import Merges
from audiotok.types import TokenSpec

Rule = tuple[int, int, int]  # left, right, the token of both


def spec_of(*sizes: int) -> TokenSpec:
    return TokenSpec(sample_rate=16_000, frame_rate=Fraction(50), codebook_sizes=sizes, fingerprint="abc")


def codes_with_repeats(sizes: tuple[int, ...], frames: int, *, seed: int, kinds: int = 3) -> Tensor:
    """codes_KN out of few frames, each held for a while."""
    generator = torch.Generator().manual_seed(seed)
    sizes_K1 = torch.tensor(sizes)[:, None]
    kinds_KM = (torch.rand(len(sizes), kinds, generator=generator) * sizes_K1).long()
    spans = torch.randint(1, 4, (frames + 1,), generator=generator)
    chosen = torch.randint(kinds, (frames + 1,), generator=generator).repeat_interleave(spans)[:frames]
    noise_KN = (torch.rand(len(sizes), frames, generator=generator) * sizes_K1).long()
    return torch.where(torch.rand(len(sizes), frames, generator=generator) < 0.15, noise_KN, kinds_KM[:, chosen])


@st.composite
def corpora(draw: st.DrawFn) -> tuple[TokenSpec, list[Tensor], Tensor]:
    """(spec, utterances to learn from, one that was not heard): 1 to 80 codebooks of 2 to 65,536, at most 10,000 codes each."""
    num_codebooks = draw(st.sampled_from([1, 2, 3, 8, 80]))
    sizes = tuple(draw(st.sampled_from([2, 3, 5, 1024, 65_536])) for _ in range(num_codebooks))
    longest = draw(st.sampled_from([0, 1, 7, 60, 10_000 // num_codebooks]))
    lengths = [draw(st.integers(0, longest)) for _ in range(3)]
    *heard, other = (
        codes_with_repeats(sizes, frames, seed=draw(st.integers(0, 99)), kinds=1 + seed) for seed, frames in enumerate(lengths)
    )
    return spec_of(*sizes), heard, other


@lru_cache
def spoken(speech: Path) -> tuple[TokenSpec, list[Tensor]]:
    """Four codebooks of the shipped codec for half a minute of real speech."""
    codec = Codec.from_pretrained("codec_50hz", num_codebooks=4)
    codes = []
    for name in ("1688-142285-0000", "1688-142285-0001", "1688-142285-0002"):
        samples, _ = soundfile.read(speech / "librispeech" / "test-other" / f"{name}.flac", dtype="float32")
        codes.append(codec.encode(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))[0][0])
    return codec.spec, codes


def slow_flat(codes_KN: Tensor, spec: TokenSpec) -> list[int]:
    offsets = [sum(spec.codebook_sizes[:k]) for k in range(spec.num_codebooks)]
    return [int(codes_KN[k, n]) + offsets[k] for n in range(codes_KN.shape[1]) for k in range(spec.num_codebooks)]


def slow_encode(tokens: list[int], rules: list[Rule]) -> list[int]:
    """The earliest rule that applies, where it applies first, again and again."""
    while True:
        found = [(number, place) for place, pair in enumerate(pairwise(tokens)) for number, rule in enumerate(rules) if pair == rule[:2]]
        if not found:
            return tokens
        number, place = min(found)
        tokens = [*tokens[:place], rules[number][2], *tokens[place + 2 :]]


def slow_replace(tokens: list[int], rule: Rule) -> list[int]:
    out: list[int] = []
    for token in tokens:
        if out and out[-1] is not None and (out[-1], token) == rule[:2]:
            out[-1] = rule[2]
        else:
            out.append(token)
    return out


def slow_apart(tokens: list[int]) -> list[tuple[int, int]]:
    """The pairs of neighbours, of overlapping equal ones the first, the third ..."""
    pairs: list[tuple[int, int]] = []
    taken = False
    for place, pair in enumerate(pairwise(tokens)):
        taken = not (taken and place and (tokens[place - 1], tokens[place]) == pair)
        if taken:
            pairs.append(pair)
    return pairs


def slow_learn(
    streams: list[list[int]], spec: TokenSpec, *, most: int, least: int = 2, overlapping: bool = True, frame_aligned: bool = False
) -> list[Rule]:
    """The most frequent pair that may be merged, of equally frequent ones that of the lowest ids, all counted anew after each merge."""
    rules, expand = list[Rule](), {code: (code,) for code in range(sum(spec.codebook_sizes))}
    while len(rules) < most:
        counts = Counter(pair for tokens in streams for pair in (pairwise(tokens) if overlapping else slow_apart(tokens)))
        allowed = [pair for pair in counts if not frame_aligned or slow_aligned(expand[pair[0]] + expand[pair[1]], pair, expand, spec)]
        best = min(allowed, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < least:
            break
        rules.append((*best, len(expand)))
        expand[len(expand)] = expand[best[0]] + expand[best[1]]
        streams = [slow_replace(tokens, rules[-1]) for tokens in streams]
    return rules


def slow_aligned(codes: tuple[int, ...], pair: tuple[int, int], expand: dict[int, tuple[int, ...]], spec: TokenSpec) -> bool:
    """Whether the codes are part of one frame, or the two halves whole frames."""
    codebooks = [int(np.searchsorted(spec.vocabulary_offsets, code, side="right")) - 1 for code in codes]
    whole = codebooks[0] == 0 and all(len(expand[half]) % spec.num_codebooks == 0 for half in pair)
    return whole or codebooks == sorted(set(codebooks))


def rules_of(merges: Merges) -> list[Rule]:
    return [(left, right, merges.num_base + rule) for rule, (left, right) in enumerate(merges.pairs_M2.tolist())]
