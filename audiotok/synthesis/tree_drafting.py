"""Several candidates for each position: the choices `drafting=candidates` and `drafting=tree` on the command line."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from audiotok.decoding.acceptance import Coarse, Exact, Rule
from audiotok.decoding.autoregressive import Generated
from audiotok.decoding.samplers import Sampler
from audiotok.decoding.speculative_tree import speculate_tree
from audiotok.decoding.tree_verification import CoarseRecursive, Verifier
from audiotok.decoding.trees import ByTree, Shape
from audiotok.synthesis.scripts import Script, Speaking


class Several:
    """A model of the same codes and texts grows a tree of `shape` ahead, of which `verifier` lets one path stand.

    `model` makes it; `checkpoint` is a step_* folder of its training. Under acceptance=exact the verifier decides; under
    acceptance=coarse, for independent candidates, the recursive rule over groups. Both models' steps have to branch (`Branching`).
    """

    def __init__(self, *, model: Callable[..., Any], checkpoint: str, shape: Shape, verifier: Verifier) -> None:
        self.model, self.checkpoint, self.shape, self.verifier = model, Path(checkpoint), shape, verifier
        self._drafter: Speaking | None = None

    def prepare(self, make: Callable[[Callable[..., Any], Path], Speaking]) -> "Several":
        self._drafter = make(self.model, self.checkpoint)
        return self

    def speak(
        self, script: Script, model: Speaking, *, rule: Rule, rows: int, sampler: Sampler, device: torch.device
    ) -> Iterator[Generated]:
        assert self._drafter is not None, "prepare comes first"
        ahead = self.shape.nodes + self.shape.deepest + 1  # what came to stand since the last tree, then the tree
        yield from speculate_tree(
            script.begin(model, self.shape.nodes + 1),
            script.jobs,
            partial(ByTree, begin=script.begin(self._drafter, ahead), shape=self.shape),
            verifier_of(rule, self.verifier),
            rows=rows,
            codebook_sizes=script.codebook_sizes,
            sampler=sampler,
            device=device,
            end=script.end,
            listen=script.listen,
        )


def verifier_of(rule: Rule, exact: Verifier) -> Verifier:
    """What verifies several candidates under a rule for one. Raises ValueError where the rule has no such form."""
    if isinstance(rule, Exact):
        return exact
    if isinstance(rule, Coarse):
        return CoarseRecursive(rule.kernels or ())
    raise ValueError(f"{type(rule).__name__} is a rule for a single draft; with several candidates choose acceptance=exact or coarse")
