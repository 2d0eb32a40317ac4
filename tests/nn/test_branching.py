"""A tree heard at once against each way from its root heard alone, round after round."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from audiotok.nn.branching import Branches, branched
from audiotok.nn.inference import for_inference
from audiotok.nn.kv_cache import KVCache
from audiotok.nn.transformer import Transformer

WIDTH = 64
PARENTS = [[-1, -1, 0, 0, 2, 1, 4], [-1, 0, 1, 2, 3, -1, 5]]  # two rows, seven nodes


@pytest.fixture
def transformer() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(WIDTH, layers=3, heads=2, feed_forward=80, dropout=0.1).eval()
    for parameter in model.parameters():  # the initial weights are so small that attention hardly matters
        nn.init.normal_(parameter, std=0.15)
    return model


def hidden(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed))


def way(parents: Sequence[int], node: int) -> list[int]:
    """The inputs from the root (0) to a node's, the node's own the last."""
    path = [node]
    while path[0] != -1:
        path.insert(0, parents[path[0]])
    return [at + 1 for at in path]


def test_branches_say_how_deep_an_input_is_and_what_it_sees() -> None:
    branches = Branches.of(torch.tensor(PARENTS))
    assert branches.depths_BN.tolist() == [[0, 1, 1, 2, 2, 3, 2, 4], [0, 1, 2, 3, 4, 5, 1, 2]]
    for row, parents in enumerate(PARENTS):
        for node in range(7):
            assert branches.sees_BNM[row, node + 1].nonzero().flatten().tolist() == sorted(way(parents, node))
    assert branches.heard == 0 and branches.last(3).heard == 5
    with pytest.raises(ValueError, match="a node's parent is -1"):
        Branches.of(torch.tensor([[-1, 1]]))


@pytest.mark.parametrize("fast", [False, True])
@torch.no_grad()
def test_a_tree_heard_at_once_equals_each_way_heard_alone_round_after_round(transformer: Transformer, fast: bool) -> None:
    speaking = for_inference(transformer, weights="fp32") if fast else transformer
    cache, lengths_B = speaking.cache(2, positions=40), torch.tensor([5, 9])
    past = [hidden(int(length), seed=row) for row, length in enumerate(lengths_B)]
    speaking(nn.utils.rnn.pad_sequence(past, batch_first=True), cache=cache, lengths_B=lengths_B)
    for turn, kept in enumerate([([0, 1, 3], [0, 1, 2, 3]), ([0], [0, 6, 7]), ([0, 2, 6], [0])]):
        inputs_BND, first_B = hidden(2, 8, seed=10 + turn), cache.lengths_B.clone()
        heard_BND = branched(speaking, inputs_BND, cache=cache, branches=Branches.of(torch.tensor(PARENTS)))
        for row, parents in enumerate(PARENTS):
            for node in range(-1, 7):
                line_ND = torch.cat([past[row], inputs_BND[row, way(parents, node)]])
                torch.testing.assert_close(heard_BND[row, node + 1], transformer(line_ND[None])[0, -1], rtol=1e-3, atol=1e-3)
        path_BM = torch.tensor([[*path, *[0] * (4 - len(path))] for path in kept])
        cache.keep(first_B, path_BM)
        cache.rewind(first_B + torch.tensor([len(path) for path in kept]))
        past = [torch.cat([known, inputs_BND[row, kept[row]]]) for row, known in enumerate(past)]


@torch.no_grad()
def test_a_tree_heard_in_pieces_equals_the_tree_heard_at_once(transformer: Transformer) -> None:
    branches, inputs_BND = Branches.of(torch.tensor(PARENTS)), hidden(2, 8)
    whole: list[Tensor] = []
    pieces: list[Tensor] = []
    for counts, found in (([8], whole), ([1, 2, 5], pieces)):
        cache = transformer.cache(2, positions=20)
        transformer(hidden(2, 6, seed=3), cache=cache, lengths_B=torch.tensor([6, 2]))
        for end, part_BND in zip(torch.tensor(counts).cumsum(0).tolist(), inputs_BND.split(counts, 1)):
            so_far = Branches.of(torch.tensor(PARENTS)[:, : end - 1]).last(part_BND.shape[1])
            found.append(branched(transformer, part_BND, cache=cache, branches=so_far))
    assert branches.depths_BN.shape[1] == torch.cat(pieces, 1).shape[1]
    torch.testing.assert_close(torch.cat(pieces, 1), torch.cat(whole, 1), rtol=1e-4, atol=1e-4)


def test_a_cache_keeps_only_what_it_has() -> None:
    cache = KVCache.empty(2, layers=1, heads=1, positions=8, width=4, dtype=torch.float32, device="cpu")
    cache.lengths_B += torch.tensor([5, 6])
    cache.keys[:] = torch.arange(8.0)[:, None]
    cache.keep(torch.tensor([1, 2]), torch.tensor([[0, 3], [1, 3]]))
    assert cache.lengths_B.tolist() == [3, 4]
    assert cache.keys[0, 0, 0, :3, 0].tolist() == [0, 1, 4] and cache.keys[0, 1, 0, :4, 0].tolist() == [0, 1, 3, 5]
    for path in ([[0, 9], [0, 0]], [[0, 0], [-1, 0]]):
        with pytest.raises(ValueError, match="have none at"):
            cache.keep(torch.tensor([0, 0]), torch.tensor(path))
