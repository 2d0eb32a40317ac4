"""The attention over codebooks, against its definition."""

from fractions import Fraction

import pytest
import torch
from probe_examples import MEL
from torch import Tensor
from torch.nn import functional as F

from audiotok.evaluation.probes.embedding import CodeEmbedding, EmbeddingSettings, FeatureEmbedding, codec_vectors, embedding
from audiotok.evaluation.probes.inputs import InputKind, Inputs, averaged
from audiotok.tokenizers.dmel import DMel

SIZES = (16, 9, 16, 4)


def batch(sizes=SIZES, lengths=(12, 5, 1), *, seed=0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    codes = [torch.randint(size, (len(lengths), max(lengths)), generator=generator) for size in sizes]
    codes_BKN = torch.stack(codes, dim=1)
    lengths_B = torch.tensor(lengths)
    return Inputs(codes_BKN * (torch.arange(max(lengths)) < lengths_B[:, None])[:, None], lengths_B)


def code_embedding(sizes=SIZES, *, mixing="attention", codebooks=None, factor=1, vectors=None, width=32) -> CodeEmbedding:
    torch.manual_seed(0)
    return CodeEmbedding(sizes, width=width, mixing=mixing, codebooks=codebooks, factor=factor, vectors=vectors)


def dasb(module: CodeEmbedding, codes_BKN: Tensor, sizes) -> Tensor:
    """Code by code, as evaluation papers write it."""
    first, _, second = module.worth
    rows = []
    for codes_KN in codes_BKN:
        frames = []
        for codes_K in codes_KN.T:
            vectors, offset = [], 0
            for code, size in zip(codes_K.tolist(), sizes):
                vectors.append(module.table.weight[code + offset])
                offset += size
            scores = torch.stack([second.weight @ torch.relu(first.weight @ vector + first.bias) for vector in vectors])
            frames.append(sum(share * vector for share, vector in zip(scores.softmax(dim=0), vectors)))
        rows.append(torch.stack(frames))
    return torch.stack(rows)


@pytest.mark.parametrize("factor", [1, 3])
def test_it_is_the_attention_of_the_definition(factor):
    module, inputs = code_embedding(factor=factor), batch()
    hidden_BND, lengths_B = module(inputs)
    slow_BND, slow_lengths_B = averaged(dasb(module, inputs.frames, SIZES), inputs.lengths_B, factor=factor)
    assert torch.equal(lengths_B, slow_lengths_B)
    torch.testing.assert_close(hidden_BND, slow_BND)


@pytest.mark.parametrize("factor", [1, 3])
def test_its_gradients_are_those_of_the_definition(factor):
    module, inputs = code_embedding(factor=factor), batch()
    found = torch.autograd.grad(module(inputs)[0].square().sum(), list(module.parameters()))
    slow_BND, _ = averaged(dasb(module, inputs.frames, SIZES), inputs.lengths_B, factor=factor)
    for fast, slow in zip(found, torch.autograd.grad(slow_BND.square().sum(), list(module.parameters()))):
        torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-4)


def test_a_second_forward_gives_the_same_and_the_codes_are_as_they_were():
    module, inputs = code_embedding(), batch()
    before = inputs.frames.clone()
    first, second = module(inputs)[0], module(inputs)[0]
    assert torch.equal(first, second)
    assert torch.equal(inputs.frames, before)


def test_its_parameters_are_those_of_dasb():
    module = code_embedding((1024,) * 8, width=1024)
    assert sum(each.numel() for each in module.parameters()) == 8 * 1024 * 1024 + (1024 * 1024 + 1024) + 1024


def test_the_mean_weighs_codebooks_alike_and_one_codebook_is_a_look_up():
    inputs = batch(lengths=(7, 7))
    mean = code_embedding(mixing="mean")
    rows = [mean.table.weight[inputs.frames[:, k] + sum(SIZES[:k])] for k in range(len(SIZES))]
    torch.testing.assert_close(mean(inputs)[0], torch.stack(rows).mean(dim=0))
    alone = code_embedding(codebooks=(2,))
    torch.testing.assert_close(alone(inputs)[0], alone.table.weight[inputs.frames[:, 2]])


def test_a_codebook_probe_sees_that_codebook_only():
    inputs, alone = batch(), code_embedding(codebooks=(2,))
    other = Inputs(inputs.frames.clone(), inputs.lengths_B)
    other.frames[:, [0, 1, 3]] = 0
    assert torch.equal(alone(inputs)[0], alone(other)[0])
    with pytest.raises(ValueError, match=r"wanted some of 0 \.\.\. 3"):
        code_embedding(codebooks=(4,))


def test_a_frame_for_every_sample_is_averaged_without_a_vector_for_each():
    module, inputs = code_embedding((256,), factor=160, width=16), batch((256,), (16000, 8000))
    hidden_BND, lengths_B = module(inputs)
    assert hidden_BND.shape == (2, 100, 16) and lengths_B.tolist() == [100, 50]
    torch.testing.assert_close(hidden_BND[1, 7], module.table.weight[inputs.frames[1, 0, 7 * 160 : 8 * 160]].mean(dim=0))


@pytest.mark.parametrize("width", [1, 8])
def test_the_table_can_start_from_the_codecs_own_vectors(width):
    vectors = codec_vectors(DMel(mel=MEL, low=-4.0, high=1.0, num_levels=16, vocoder=None))
    assert [tuple(each.shape) for each in vectors] == [(16, 1)] * 40
    module = code_embedding((16,) * 40, vectors=vectors, width=width, mixing="mean")
    inputs = batch((16,) * 40)
    expected = torch.stack([vectors[k][inputs.frames[:, k], 0] for k in range(40)]).mean(dim=0)
    hidden_BND, _ = module(inputs)
    torch.testing.assert_close(hidden_BND[0, :, 0], expected[0])
    assert not hidden_BND[..., 1:].any()
    assert module.table.weight.requires_grad


def test_vectors_that_are_too_wide_are_projected():
    vectors = [torch.randn(size, 48) for size in SIZES]
    module, inputs = code_embedding(vectors=vectors, codebooks=(1,)), batch()
    hidden_BND, _ = module(inputs)
    torch.testing.assert_close(hidden_BND[0], F.linear(vectors[1][inputs.frames[0, 1]], module.project.weight))
    with pytest.raises(ValueError, match="vectors of"):
        code_embedding(vectors=vectors[::-1])


def test_features_are_normalised_mapped_and_averaged():
    torch.manual_seed(0)
    module = FeatureEmbedding(5, width=32, factor=2)
    features_BND, lengths_B = torch.randn(2, 6, 5), torch.tensor([6, 3])
    hidden_BMD, lengths = module(Inputs(features_BND, lengths_B))
    frames = module.linear(F.layer_norm(features_BND, (5,)))
    torch.testing.assert_close(hidden_BMD[0, 1], frames[0, 2:4].mean(dim=0))
    torch.testing.assert_close(hidden_BMD[1, 1], frames[1, 2])
    assert lengths.tolist() == [3, 2] and not hidden_BMD[1, 2:].any()


def test_the_kind_of_input_decides_the_embedding():
    settings = EmbeddingSettings(width=8, mixing="attention", codebooks=None, max_frame_rate=100)
    assert isinstance(embedding(InputKind((4, 4), 2, Fraction(50)), settings, vectors=None), CodeEmbedding)
    features = embedding(InputKind(None, 80, Fraction(200)), settings, vectors=None)
    assert isinstance(features, FeatureEmbedding) and features.factor == 2
    with pytest.raises(ValueError, match="attention or mean"):
        EmbeddingSettings(width=8, mixing="sum", codebooks=None, max_frame_rate=100)
