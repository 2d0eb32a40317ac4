"""Streams, counts and contexts."""

from pathlib import Path

import numpy as np
import pytest
from real_codes import codec, corpus

from audiotok.evaluation.tokens import units

STREAMS = [np.array([5, 6, 7]), np.array([8, 9])]


def test_contexts_hold_the_units_before_nearest_first_and_never_reach_into_another_utterance():
    assert units.past(STREAMS, order=2).T.tolist() == [[-1, 5, 6, -1, 8], [-1, -1, 5, -1, -1]]
    assert units.past(STREAMS, order=0).shape == (5, 0) and units.past([], order=2).shape == (0, 2)
    assert units.past([np.array([3])], order=3).tolist() == [[-1, -1, -1]]


def test_nested_ids_are_equal_where_as_many_columns_are():
    columns = np.random.default_rng(0).integers(-1, 3, size=(200, 3))
    for order, ids in enumerate(units.nested_ids(columns)):
        equal = (columns[:, None, :order] == columns[None, :, :order]).all(axis=-1)
        assert ((ids[:, None] == ids[None]) == equal).all()
        assert set(ids) == set(range(ids.max() + 1))


def test_counts_are_of_the_whole_codebook():
    assert units.counted([np.array([1, 1]), np.array([3])], size=5).tolist() == [0, 2, 0, 1, 0]
    assert units.counted([], size=2).tolist() == [0, 0]


def test_real_codes_are_all_counted(speech: Path):
    streams = corpus(speech, codec()).streams(0)
    assert units.counted(streams, size=1024).sum() == sum(map(len, streams)) == units.past(streams, order=1).shape[0]


def test_what_is_no_stream_of_its_codebook_is_refused():
    with pytest.raises(ValueError, match=r"want integers \[N\]"):
        units.stream(np.zeros((2, 3), dtype=int))
    with pytest.raises(ValueError, match="float64"):
        units.stream(np.zeros(3))
    with pytest.raises(ValueError, match=r"want integers \[K, N\]"):
        units.codebooks(np.zeros(3, dtype=int))
    with pytest.raises(ValueError, match="got units from 0 to 4, want 0 to 3"):
        units.joined([np.array([0, 4])], size=4)
    with pytest.raises(ValueError, match="from -1"):
        units.counted([np.array([-1])], size=4)
    with pytest.raises(ValueError, match="order -1"):
        units.past(STREAMS, order=-1)
