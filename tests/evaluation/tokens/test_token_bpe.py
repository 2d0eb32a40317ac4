"""How much shorter merges make streams that they were not learnt from."""

from math import log2
from pathlib import Path

import numpy as np
import pytest
from real_codes import codec, corpus

from audiotok.evaluation.metric import NotApplicable
from audiotok.evaluation.tokens.bpe import efficiency
from audiotok.evaluation.tokens.distance import deduplicated
from audiotok.transforms.bpe import hugging_face


@pytest.fixture(autouse=True)
def tokenizers() -> None:
    pytest.importorskip("tokenizers", reason="tokenizers is not installed; pip install tokenizers")


def test_efficiency_is_of_held_out_streams_in_tokens_and_bits_a_second() -> None:
    merges = hugging_face([np.tile([0, 1], 20)], num_base=2, most=1)
    found = efficiency(merges, [np.array([0, 1, 0, 1]), np.array([1, 1])], seconds=2)
    assert (found.units, found.tokens, found.vocabulary) == (6, 4, 3)
    assert (found.length_ratio, found.tokens_per_second, found.bits_per_second) == (4 / 6, 2, 2 * log2(3))
    assert efficiency(hugging_face([np.arange(5)], num_base=5, most=0), [np.arange(5)], seconds=2).length_ratio == 1
    with pytest.raises(NotApplicable, match="0 units"):
        efficiency(merges, [], seconds=1)


def test_real_codes_are_shortened_more_by_more_merges(speech: Path) -> None:
    said = corpus(speech, codec())
    *train, held_out = (deduplicated(codes_N) for codes_N in reversed(said.streams(0)))
    ratios = [efficiency(hugging_face(train, num_base=1024, most=most), [held_out], seconds=15).length_ratio for most in (0, 50, 200)]
    assert ratios[0] == 1 and ratios == sorted(ratios, reverse=True) and 0.5 < ratios[2] < 1
