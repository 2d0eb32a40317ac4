"""Transforms in a row: what the parts promise, the whole keeps; what learns, learns from what comes before it."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor

from audiotok.reductions.merging import CodecMerging
from audiotok.transforms.base import Fittable, Layout, Transform, as_layout
from audiotok.transforms.chain import Chain, LayoutChain, chain
from audiotok.transforms.patterns import CoarseFirst, Delay, Flatten
from audiotok.transforms.stack import Stack
from audiotok.types import TokenSpec

SPEC = TokenSpec(sample_rate=16_000, frame_rate=Fraction(50), codebook_sizes=(5, 7), fingerprint="abc")
CODES_KN = torch.stack([torch.arange(9) % 5, torch.arange(9) % 7])


class Vectors:
    """A code stands for its id, the second codebook's for tenths."""

    spec = SPEC

    def embed(self, codes_BKN: Tensor) -> Tensor:
        scaled_BKN = codes_BKN * torch.tensor([1.0, 0.1])[:, None]
        return torch.stack([scaled_BKN, -scaled_BKN], dim=-1)


@dataclass
class Renamed:
    """Codes renamed by how often they come, the commonest first: it has to learn, and has one codebook."""

    fitted: Path | None = None
    heard: list[list[int]] = field(default_factory=list)
    ranks: Tensor | None = None
    lossless = True

    def out_spec(self, spec: TokenSpec) -> TokenSpec:
        return replace(spec, fingerprint=spec.fingerprint + "r")

    def apply(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        assert self.ranks is not None
        return self.ranks[codes_KN]

    def invert(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        assert self.ranks is not None
        return self.ranks.argsort()[codes_KN]

    def fit(self, corpus: Iterable[Tensor], spec: TokenSpec) -> None:
        counts = torch.zeros(spec.codebook_sizes[0])
        for codes_KN in corpus:
            self.heard.append(codes_KN[0].tolist())
            counts += torch.bincount(codes_KN[0], minlength=len(counts))
        self.ranks = counts.argsort(descending=True, stable=True).argsort()

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "ranks").write_text(str(self.ranks))


def test_a_chain_applies_its_steps_in_order_and_undoes_them_from_the_last() -> None:
    chain = Chain({"a": Stack(2), "b": Flatten()})
    by_hand = Flatten().apply(Stack(2).apply(CODES_KN, SPEC), Stack(2).out_spec(SPEC))
    assert torch.equal(chain.apply(CODES_KN, SPEC), by_hand)
    assert torch.equal(chain.invert(by_hand, SPEC), CODES_KN)
    assert chain.out_spec(SPEC) == Flatten().out_spec(Stack(2).out_spec(SPEC))
    assert chain.lossless


def test_a_chain_is_lossless_only_where_all_of_it_is() -> None:
    class Lossy(Flatten):
        lossless = False

    assert not Chain({"a": Stack(2), "b": Lossy()}).lossless


def test_a_step_that_learns_hears_what_the_steps_before_it_make(tmp_path: Path) -> None:
    learner = Renamed()
    chain: Transform = Chain({"first": Flatten(), "second": learner})
    assert isinstance(chain, Fittable)
    chain.fit([CODES_KN, CODES_KN[:, :3]], SPEC)
    assert learner.heard == [Flatten().apply(codes, SPEC)[0].tolist() for codes in (CODES_KN, CODES_KN[:, :3])]
    assert torch.equal(chain.invert(chain.apply(CODES_KN, SPEC), SPEC), CODES_KN)
    chain.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["second"]


PAIRS = [(Stack(2), Delay(1)), (Delay(2), Stack(3)), (Stack(2), Flatten()), (Delay(1), CoarseFirst()), (Stack(2), Stack(2))]


@pytest.mark.parametrize("pair", PAIRS, ids=repr)
@pytest.mark.parametrize("frames", [0, 1, 4, 7])
def test_a_chain_of_layouts_is_one_whose_legal_ids_are_what_it_makes(pair: tuple[Layout, Layout], frames: int) -> None:
    steps = chain(dict(zip("ab", pair)))
    assert isinstance(steps, LayoutChain) and as_layout(steps) is steps
    legal_KN, (first_KN, end_KN) = steps.legal(frames, SPEC), steps.legal_ids(frames, SPEC)
    seen: list[set[int]] = []
    for seed in range(40):
        codes_KN = (torch.rand(2, frames, generator=torch.Generator().manual_seed(seed)) * torch.tensor([[5], [7]])).long()
        made_KN = steps.apply(codes_KN, SPEC)
        assert made_KN.shape == legal_KN.shape
        assert ((made_KN >= first_KN) & (made_KN < end_KN)).all()
        seen = [one | {new} for one, new in zip(seen or [set()] * made_KN.numel(), made_KN.flatten().tolist())]
    ranges = [(first, end, stands) for first, end, stands in zip(first_KN.flatten(), end_KN.flatten(), legal_KN.flatten())]
    for values, (first, end, stands) in zip(seen, ranges):
        assert (len(values) > 1) == bool(stands)
        assert int(end - first) in ((5, 7) if stands else (1,))


def test_a_lossy_layout_may_come_first(tmp_path: Path) -> None:
    merged = CodecMerging(Vectors(), frames=2, codebooks=1, beam=1)
    steps = chain({"a": merged, "b": Delay(1)})
    assert isinstance(steps, LayoutChain) and not steps.lossless
    made_KN, (first_KN, end_KN) = steps.apply(CODES_KN, SPEC), steps.legal_ids(9, SPEC)
    assert made_KN.shape == (3, 5 + 2) and ((made_KN >= first_KN) & (made_KN < end_KN)).all()
    assert torch.equal(steps.invert(made_KN, SPEC), merged.invert(merged.apply(CODES_KN, SPEC), SPEC))


def test_a_chain_of_layouts_knows_its_frames_and_whose_ids_it_holds() -> None:
    steps = chain({"a": Stack(2), "b": Delay(1)})
    assert isinstance(steps, LayoutChain)
    assert steps.frame_index(5, SPEC).tolist() == [0, 2, 4, 4, 4, 4]
    assert steps.sources(SPEC) == ((0,), (1,), (0,), (1,))
    assert chain({"a": Stack(2), "b": Flatten()}).sources(SPEC) == ((0, 1, 0, 1),)  # type: ignore[attr-defined]


def test_a_chain_of_nothing_and_a_layout_that_is_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got none; transform=\[merge2,bpe1024\]"):
        Chain({})
    with pytest.raises(ValueError, match=r"Chain\(Flatten\(\)\): its positions depend on the codes.*transform=parallel"):
        as_layout(Chain({"a": Flatten()}))
    assert as_layout(Delay(1)) == Delay(1)
