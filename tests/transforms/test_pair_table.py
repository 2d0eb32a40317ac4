"""The table of pairs against a dict."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from audiotok.transforms.pair_table import FREE, apart, find, put, remove, room_for, table_of

PAIRS = st.tuples(st.sampled_from([0, 1, 2, 5, 70_000, 2**31 - 1]), st.integers(0, 9) | st.just(2**31 - 1))


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.lists(PAIRS, max_size=60))
def test_a_table_from_which_pairs_are_taken_out_again_finds_what_a_dict_finds(pairs: list[tuple[int, int]]) -> None:
    table, known = room_for(60), {}
    for number, pair in enumerate(pairs):
        if pair in known:
            remove(table, *pair)
            del known[pair]
        else:
            put(table, *pair, number)
            known[pair] = number
        for left, right in {*pairs}:
            assert find(table, left, right) == known.get((left, right), -1)
    assert (table.keys != FREE).sum() == len(known)


def test_a_table_of_pairs_numbers_them_by_their_first_place() -> None:
    table = table_of(np.array([[3, 4], [4, 3], [3, 4], [0, 0]]))
    assert [find(table, *pair) for pair in [(3, 4), (4, 3), (0, 0), (4, 4)]] == [0, 1, 3, -1]
    assert find(table_of(np.zeros((0, 2), dtype=np.int64)), 0, 0) == -1


def test_ids_are_apart_where_the_table_does_not_know_them_as_neighbours() -> None:
    table = table_of(np.array([[1, 2], [2, 2]]))
    assert apart(np.array([1, 2, 2, 1, 2]), table).tolist() == [False, False, False, True, False]
    assert apart(np.zeros(0, dtype=np.int64), table).tolist() == []
