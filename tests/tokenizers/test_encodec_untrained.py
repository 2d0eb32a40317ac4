"""EnCodec with random weights, the benchmark's negative control."""

import pytest
import torch

pytest.importorskip("encodec", reason="pip install 'audiotok[encodec]'")

from audiotok.tokenizers.encodec import Encodec


def test_a_seed_is_a_tokenizer_and_its_codes_are_not_all_one() -> None:
    told = {"sample_rate": 24000, "bandwidth": 1.5, "level": None}
    one, again, other = (Encodec.untrained(**told, seed=seed) for seed in (0, 0, 1))
    assert one.spec == again.spec != other.spec
    before = torch.random.get_rng_state()
    Encodec.untrained(**told, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    wav_BT = torch.randn(1, 24000, generator=torch.Generator().manual_seed(0)) * 0.1
    codes_BKN, _ = one.encode(wav_BT, torch.tensor([24000]))
    assert len(codes_BKN.unique()) > 10
