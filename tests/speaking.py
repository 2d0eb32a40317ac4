"""Toy utterances in any layout, tiny models, and the slowest engine: a position at a time, nothing kept but what was said."""

from collections.abc import Sequence
from fractions import Fraction
from functools import partial

import torch
from torch import Tensor

from audiotok.data.aligned import AlignedUtterance, Line, boundaries, laid_out
from audiotok.data.code_vectors import code_vectors
from audiotok.decoding.samplers import Sampler, Uniforms
from audiotok.decoding.step import NONE, Step
from audiotok.models.code_decoder import CodeDecoder
from audiotok.models.text import Batch
from audiotok.transforms.base import Layout
from audiotok.transforms.patterns import Delay, Flatten, Parallel
from audiotok.transforms.stack import Stack
from audiotok.types import TokenSpec

SPEC = TokenSpec(16000, Fraction(50), (7, 7, 5), "test")
LAYOUTS = [Parallel(), Delay(step=1), Delay(step=2), Flatten(), Stack(frames=2), Stack(frames=4)]
GREEDY = Sampler(0, None, None, None, None, None, ">")
RANDOM = Sampler(1.0, None, None, None, None, None, ">")
SIZES = {"width": 32, "layers": 2, "heads": 2, "feed_forward": 48, "dropout": 0.0, "text_layers": 1}
SPOILING = {"replace_codes": 0.2, "blank_frames": 0.2, "own_history": 0.5, "anonymous": 0.1, "unconditional": 0.2}
PLAIN = dict.fromkeys(SPOILING, 0.0)


class Vectors:
    """A tokenizer's `embed`: code v of codebook k is [v, v^2] / 10^k."""

    spec = SPEC

    def embed(self, codes_BKN):
        scale_K11 = 10.0 ** -torch.arange(codes_BKN.shape[1])[:, None, None]
        return torch.stack([codes_BKN, codes_BKN**2], dim=-1) * scale_K11


def tiny_decoder(transform, *, spec=SPEC, seed=0, from_vectors=False, **changes):
    torch.manual_seed(seed)
    vectors = partial(code_vectors, Vectors(), transform)
    options = SIZES | SPOILING | {"vectors": vectors, "from_vectors": from_vectors} | changes
    return CodeDecoder(transform.out_spec(spec), num_phonemes=9, num_speakers=2, num_languages=2, **options)


def name(transform: Layout) -> str:
    return repr(transform)


def utterance(seed: int, transform: Layout, *, phonemes: int, frames: int, spec: TokenSpec = SPEC) -> AlignedUtterance:
    generator = torch.Generator().manual_seed(seed)
    codes_KN = torch.stack([torch.randint(0, size, (frames,), generator=generator) for size in spec.codebook_sizes])
    durations = (torch.rand(phonemes, generator=generator) + 0.3).tolist()
    durations = [duration * frames / sum(durations) for duration in durations]
    line = Line(torch.randint(1, 9, (phonemes,), generator=generator).tolist(), [0] * phonemes, seed % 2, 0)
    path = laid_out(boundaries(durations, frames), transform, spec)
    holes_KN = ~transform.legal(frames, spec)
    return AlignedUtterance(str(seed), line, durations, path, transform.apply(codes_KN, spec).masked_fill(holes_KN, -1))


def batch(transform: Layout, *shapes: tuple[int, int], spec: TokenSpec = SPEC) -> Batch:
    """Of (phonemes, frames)."""
    return Batch.of([utterance(i + 1, transform, phonemes=p, frames=n, spec=spec) for i, (p, n) in enumerate(shapes)])


def original(codes_KN: Tensor, transform: Layout, spec: TokenSpec = SPEC) -> Tensor:
    """The tokenizer's codes of a row of a batch: holes are given their pad ids, and what is past the end is cut."""
    length = int(((codes_KN >= 0).any(0) * torch.arange(1, codes_KN.shape[1] + 1)).max())
    pads_K1 = torch.tensor(transform.out_spec(spec).codebook_sizes)[:, None] - 1
    return transform.invert(torch.where(codes_KN < 0, pads_K1, codes_KN)[:, :length], spec)


def heard(codes_BKN: Tensor) -> Tensor:
    """Inputs: nothing, then the codes but the last."""
    return torch.cat([torch.full_like(codes_BKN[..., :1], NONE), codes_BKN[..., :-1]], 2)


def say(
    step: Step,
    *,
    sizes: Sequence[int],
    end: int,
    positions: int,
    sampler: Sampler = GREEDY,
    seeds: Sequence[int] = (0,),
    forced_BKN: Tensor | None = None,
) -> list[Tensor]:
    """codes_KN of each row, up to the position at which codebook 0 says the end."""
    uniforms, said = Uniforms(list(seeds)), [torch.full((len(seeds), len(sizes)), NONE)]
    for n in range(positions):
        logits = step(said[-1][..., None])
        drawn_2BK = uniforms.draw(len(sizes))
        codes_BK = torch.stack([sampler.draw(each[:, 0], drawn_2BK[..., k], history_BW=None) for k, each in enumerate(logits)], 1)
        if forced_BKN is not None and n < forced_BKN.shape[2]:
            codes_BK = torch.where(forced_BKN[..., n] == NONE, codes_BK, forced_BKN[..., n])
        said.append(codes_BK)
    codes_BKN = torch.stack(said[1:], 2)
    ends = [(row[0] == end).nonzero() for row in codes_BKN]
    return [row[:, : int(found[0]) if len(found) else positions] for row, found in zip(codes_BKN, ends)]
