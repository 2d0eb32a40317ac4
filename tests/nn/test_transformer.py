"""The backbone: causal, the same with a cache as without, and no row hears of another."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok.nn.kv_cache import KVCache
from audiotok.nn.transformer import Transformer, rotary, rotate

WIDTH = 32


@pytest.fixture
def transformer() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(WIDTH, layers=3, heads=4, feed_forward=48, dropout=0.1).eval()
    for parameter in model.parameters():  # the initial weights are so small that attention hardly matters
        nn.init.normal_(parameter, std=0.3)
    return model


def hidden(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed))


def slow_attention(model: nn.Module, hidden_ND: Tensor) -> Tensor:
    """Attention of one row, one query at a time, turned as complex numbers."""
    num, heads = hidden_ND.shape[0], model.heads
    queries, keys, values = model.input(hidden_ND).view(num, 3, heads, -1).unbind(1)
    half = queries.shape[-1] // 2
    turn = torch.outer(torch.arange(num).double(), 10000.0 ** (-torch.arange(half).double() / half))
    turn = torch.polar(torch.ones_like(turn), turn)

    def turned(vectors: Tensor) -> Tensor:
        return torch.view_as_real(torch.complex(*vectors.double().chunk(2, -1)) * turn[:, None]).transpose(-1, -2).flatten(-2)

    queries, keys = turned(queries), turned(keys)
    out = []
    for n in range(num):
        scores = (keys[: n + 1] * queries[n]).sum(-1) / (2 * half) ** 0.5
        out.append((scores.softmax(0)[..., None] * values[: n + 1].double()).sum(0).flatten())
    return model.output(torch.stack(out).float())


@torch.no_grad()
def test_the_backbone_computes_what_its_definition_says(transformer: Transformer) -> None:
    def norm(weight: Tensor, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt() * weight

    expected = row = hidden(7)
    for block in transformer.blocks:
        expected = expected + slow_attention(block.attention, norm(block.attention_norm.weight, expected))
        gate, up = block.feed_forward.input(norm(block.feed_forward_norm.weight, expected)).chunk(2, -1)
        expected = expected + block.feed_forward.down(gate * torch.sigmoid(gate) * up)
    torch.testing.assert_close(transformer(row[None])[0], norm(transformer.norm.weight, expected), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_no_position_hears_of_a_later_one_and_all_hear_of_earlier_ones(transformer: Transformer) -> None:
    before = hidden(1, 9)
    after = before.clone()
    after[:, 5] += 1
    changed = (transformer(before) != transformer(after)).any(-1)[0]
    assert changed.tolist() == [False] * 5 + [True] * 4


def test_attention_depends_on_distance_alone() -> None:
    query, key = hidden(1, 1, 1), hidden(1, 1, 1, seed=2)

    def score(query_at: int, key_at: int) -> Tensor:
        turned = [rotate(v, rotary(torch.tensor([[at]]), width=WIDTH)) for v, at in ((query, query_at), (key, key_at))]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(score(9, 4), score(105, 100), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(score(9, 4), score(9, 3))


@torch.no_grad()
def test_prompts_of_different_lengths_then_steps_equal_the_whole_sequence(transformer: Transformer) -> None:
    prompts, steps = [2, 5, 1], 6
    rows = [hidden(length + steps, seed=length) for length in prompts]
    cache = transformer.cache(3, positions=16)
    padded = nn.utils.rnn.pad_sequence([row[:length] for row, length in zip(rows, prompts)], batch_first=True, padding_value=3.0)
    outputs = [[out[:length]] for out, length in zip(transformer(padded, cache=cache, lengths_B=torch.tensor(prompts)), prompts)]
    for step in range(steps):
        inputs = torch.stack([row[length + step] for row, length in zip(rows, prompts)])[:, None]
        for kept, out in zip(outputs, transformer(inputs, cache=cache)):
            kept.append(out)
    for row, kept in zip(rows, outputs):
        torch.testing.assert_close(torch.cat(kept), transformer(row[None])[0], atol=1e-5, rtol=1e-5)
    assert cache.lengths_B.tolist() == [8, 11, 7]


@torch.no_grad()
def test_a_row_is_bitwise_the_same_whatever_the_other_rows_hold(transformer: Transformer) -> None:
    def run(others_seed: int) -> Tensor:
        cache = transformer.cache(4, positions=12)
        outs = []
        for step, num in enumerate((3, 1, 1, 1)):
            batch = hidden(4, num, seed=others_seed + step)
            batch[2] = hidden(num, seed=step)
            lengths = torch.tensor([1, 2, 3, 1] if step == 0 and others_seed == 50 else [num] * 4)
            outs.append(transformer(batch, cache=cache, lengths_B=lengths)[2])
        return torch.cat(outs)

    assert torch.equal(run(50), run(900))


@torch.no_grad()
def test_a_replaced_row_goes_on_as_the_new_utterance_and_its_neighbours_as_before(transformer: Transformer) -> None:
    cache, alone = transformer.cache(2, positions=10), transformer.cache(1, positions=4)
    transformer(hidden(2, 8), cache=cache)
    transformer(hidden(1, 3, seed=7), cache=alone)
    cache.replace(0, alone)
    out = transformer(hidden(2, 1, seed=9), cache=cache)
    for row, past in enumerate((hidden(1, 3, seed=7)[0], hidden(2, 8)[1])):
        whole = torch.cat([past, hidden(2, 1, seed=9)[row]])
        torch.testing.assert_close(out[row, -1], transformer(whole[None])[0, -1], atol=1e-5, rtol=1e-5)


def test_a_cache_refuses_what_does_not_fit(transformer: Transformer) -> None:
    cache = transformer.cache(1, positions=4)
    with pytest.raises(ValueError, match="5 positions do not fit in a cache of 4"):
        transformer(hidden(1, 5), cache=cache)
    with pytest.raises(ValueError, match="at most 4 positions"):
        cache.replace(0, transformer.cache(1, positions=5))
    with pytest.raises(ValueError, match="even width per head"):
        Transformer(36, layers=1, heads=4, feed_forward=8, dropout=0.0)


def test_every_weight_is_trained_and_dropout_acts_in_training_only(transformer: Transformer) -> None:
    transformer.train()
    assert not torch.equal(transformer(hidden(1, 4)), transformer(hidden(1, 4)))
    transformer(hidden(2, 4)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in transformer.parameters())
    transformer.eval()
    assert torch.equal(transformer(hidden(1, 4)), transformer(hidden(1, 4)))


def test_under_bf16_autocast_the_result_stays_near(transformer: Transformer) -> None:
    batch = hidden(2, 6)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = transformer(batch)
    assert F.cosine_similarity(low.float(), transformer(batch), dim=-1).min() > 0.99


def test_the_cache_is_in_the_type_of_the_weights(transformer: Transformer) -> None:
    cache: KVCache = transformer.bfloat16().cache(2, positions=3)
    assert cache.keys.dtype is torch.bfloat16 and cache.keys.shape == (3, 2, 4, 3, 8) and cache.capacity == 3
