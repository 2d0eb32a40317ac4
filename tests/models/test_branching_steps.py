"""Steps that hear trees: each node's logits are those of its way heard in a line."""

from collections.abc import Callable

import pytest
import speaking
import test_ar_tts
import torch

from audiotok.decoding.branching import Branching
from audiotok.models.text import Batch
from audiotok.nn.branching import Branches
from audiotok.nn.inference import quickened
from audiotok.transforms.patterns import Delay

PARENTS = [[-1, -1, 0, 2, 1], [-1, 0, 1, -1, 3]]
WAYS = [[[], [0], [1], [0, 2], [0, 2, 3], [1, 4]], [[], [0], [0, 1], [0, 1, 2], [3], [3, 4]]]
DELAY = Delay(step=1)


def told(*, fast: bool) -> Callable[[], Branching]:
    model = test_ar_tts.tiny(DELAY).eval()
    batch = Batch.of([test_ar_tts.utterance(seed, DELAY, phonemes=seed, frames=20) for seed in (3, 5)])
    model = quickened(model, "fp32") if fast else model
    return lambda: model.begin(batch.text, batch.path, positions=40)


def plain(*, fast: bool) -> Callable[[], Branching]:
    model = speaking.tiny_decoder(DELAY).eval()
    text = speaking.batch(DELAY, (3, 9), (6, 12)).text
    model = quickened(model, "fp32") if fast else model
    return lambda: model.begin(text, positions=40, conditional=True)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("kind", [told, plain])
@torch.inference_mode()
def test_a_node_has_the_logits_of_its_way_heard_in_a_line(kind: Callable, fast: bool) -> None:
    begin = kind(fast=fast)
    step: Branching = begin()
    assert isinstance(step, Branching)
    generator = torch.Generator().manual_seed(0)
    lines = [torch.full((3, 1), -1), torch.full((3, 1), -1)]
    for turn, kept in enumerate(([[0, 1, 3], [0, 1, 2]], [[0, 2], [0, 4, 5]], [[0], [0]])):
        nodes_BKG = torch.randint(0, 5, (2, 3, 5), generator=generator)
        heard_BKN = torch.cat([torch.stack([line[:, -1:] for line in lines]), nodes_BKG], 2)
        logits = step.branch(heard_BKN, Branches.of(torch.tensor(PARENTS)))
        for row, ways in enumerate(WAYS):
            for at, way in enumerate(ways):
                line_KN = torch.cat([lines[row], nodes_BKG[row][:, way]], 1)
                alone = begin()(line_KN.expand(2, -1, -1))
                for said_BNV, wanted_BNV in zip(logits, alone):
                    torch.testing.assert_close(said_BNV[row, at], wanted_BNV[row, -1], rtol=1e-3, atol=1e-4)
        first_B = torch.tensor([line.shape[1] - 1 for line in lines])
        step.keep(first_B, torch.tensor([[*path, *[0] * (3 - len(path))] for path in kept]))
        step.rewind(first_B + torch.tensor([len(path) for path in kept]))
        for row, path in enumerate(kept):
            said_KN = nodes_BKG[row][:, [at - 1 for at in path[1:]]]
            lines[row] = torch.cat([lines[row], said_KN, torch.full((3, 1), turn)], 1)
