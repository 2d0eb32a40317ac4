"""The shapes in which trees grow, and what a drafter draws into them."""

from collections import Counter
from collections.abc import Callable

import pytest
from test_speculative_tree import GREEDY, SAMPLERS, bush

from audiotok.decoding.rows import Job, Rows
from audiotok.decoding.samplers import Sampler
from audiotok.decoding.trees import Best, ByTree, Chains, Levels, Shape, Tree
from audiotok.nn.branching import Branches


def drafted(shape: Shape, *, rows: int = 3, sizes=(4, 4), sampler: Sampler = SAMPLERS["plain"]) -> Tree:
    state = Rows([Job(seed, 20) for seed in range(rows)], rows=rows, codebook_sizes=sizes, sampler=sampler, end=None, device="cpu")
    drafting = ByTree(state, begin=bush(1, sizes), shape=shape)
    drafting.admit(state.admit())
    return drafting.propose()


def test_chains_and_levels_have_the_parents_that_their_docstrings_say() -> None:
    assert drafted(Chains(3, 2)).parents_BG[0].tolist() == [-1, -1, -1, 0, 1, 2]
    assert drafted(Levels([3, 2, 1])).parents_BG[0].tolist() == [-1] * 3 + [0, 0, 1, 1, 2, 2] + [3, 4, 5, 6, 7, 8]
    for shape in (Chains(3, 2), Levels([3, 2, 1]), Best(nodes=7, deepest=3, exponent=0.5)):
        tree = drafted(shape)
        assert tree.parents_BG.shape[1] == shape.nodes and int(Branches.of(tree.parents_BG).depths_BN.max()) <= shape.deepest


@pytest.mark.parametrize("shape", [Levels([4, 2]), Best(nodes=9, deepest=3, exponent=1.0)], ids=str)
def test_siblings_differ(shape: Shape) -> None:
    tree = drafted(shape, sizes=(3, 2), rows=30)
    for parents, codes, present in zip(tree.parents_BG.tolist(), tree.codes_BKG.permute(0, 2, 1).tolist(), tree.present_BG.tolist()):
        drawn = Counter((parent, tuple(code)) for parent, code, there in zip(parents, codes, present) if there)
        assert max(drawn.values()) == 1


def test_what_no_code_is_left_for_is_not_there_nor_what_stands_behind_it() -> None:
    tree = drafted(Levels([2, 2]), sampler=GREEDY)
    assert tree.present_BG.tolist() == [[True, False, True, False, False, False]] * 3
    assert drafted(Best(nodes=4, deepest=4, exponent=1.0), sampler=GREEDY).parents_BG.tolist() == [[-1, 0, 1, 2]] * 3


def test_the_best_tree_grows_where_its_value_is_largest() -> None:
    """Against DySpec's heap, written down: of all places left, the one worth most is taken, node by node."""
    shape = Best(nodes=12, deepest=5, exponent=1.0)
    tree = drafted(shape, rows=8, sizes=(5,))
    for row in range(8):
        worth, depth, left = {-1: 1.0}, {-1: 0}, {-1: tree.laws[0][row, 0].clone()}
        for node, (parent, code) in enumerate(zip(tree.parents_BG[row].tolist(), tree.codes_BKG[row, 0].tolist())):
            assert parent == max((at for at in worth if depth[at] < shape.deepest), key=lambda at: worth[at])
            share = float(left[parent][code] / left[parent].sum())
            worth[node], worth[parent] = worth[parent] * share, worth[parent] * (1 - share)
            left[parent][code], depth[node] = 0, depth[parent] + 1
            if node + 1 < tree.laws[0].shape[1]:
                left[node] = tree.laws[0][row, node + 1].clone()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Chains(0, 2), "chains are 1 or more"),
        (lambda: Chains(2, 0), "chains are 1 or more"),
        (lambda: Levels([]), "every level has at least one child"),
        (lambda: Levels([2, 0]), "every level has at least one child"),
        (lambda: Best(nodes=0, deepest=1, exponent=1.0), "at least one node and level"),
        (lambda: Best(nodes=1, deepest=1, exponent=0.0), "exponent is 0.0, wanted above 0"),
    ],
)
def test_shapes_that_cannot_be_are_refused(make: Callable[[], Shape], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
