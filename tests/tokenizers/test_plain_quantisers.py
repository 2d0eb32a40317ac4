"""Plain quantisers against vector-quantize-pytorch's, code for code, on latents of real speech."""

import pytest
import small_codec
import torch
from scipy.stats import chisquare
from torch import Tensor

from audiotok.models.quantisers import TrainableResidual, TrainableScalar
from audiotok.tokenizers import quantisers
from audiotok.tokenizers.quantisers import FiniteScalar, ResidualCodebooks

LEVELS = [[8, 5, 5], [8, 8, 8, 8, 8], [3, 4], [7, 5, 5, 5, 5]]


@pytest.fixture(scope="module")
def latent_BND(wav_16k: Tensor) -> Tensor:
    """Of an encoder that has learnt nothing, three seconds in all."""
    torch.manual_seed(0)
    encoder = small_codec.encoder().requires_grad_(False)
    return encoder(small_codec.crops(wav_16k, number=6, samples=8000))


def trained(quantiser: TrainableResidual, latent_BND: Tensor, *, steps: int = 6) -> TrainableResidual:
    """After some steps of k-means and moving averages."""
    for step in range(steps):
        torch.manual_seed(step)
        quantiser.train()(latent_BND + 0.02 * torch.randn(latent_BND.shape))
    return quantiser.eval()


def codes_of(plain: quantisers.Quantiser, latent_BND: Tensor) -> Tensor:
    return torch.stack([plain.encode(latent_ND) for latent_ND in latent_BND])


@pytest.mark.parametrize("num_codebooks", [1, 4])
def test_residual_codes_are_those_of_vector_quantize_pytorch(num_codebooks: int, latent_BND: Tensor) -> None:
    quantiser = trained(small_codec.trainable_residual(num_codebooks=num_codebooks), latent_BND)
    quantised_BND, codes_BNK, _ = quantiser.vq(latent_BND)
    plain = quantiser.plain()
    codes_BKN = codes_of(plain, latent_BND)
    assert torch.equal(codes_BKN.transpose(1, 2), codes_BNK) and len(codes_BKN[:, 0].unique()) > 16
    torch.testing.assert_close(plain.embed(codes_BKN).sum(dim=1), quantised_BND, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip((quantised_BND, codes_BNK.transpose(1, 2)), quantiser.quantise(latent_BND)):
        torch.testing.assert_close(ours, theirs)


def test_every_stage_takes_the_nearest_codeword_to_what_is_left_over(latent_BND: Tensor) -> None:
    plain = trained(small_codec.trainable_residual(), latent_BND).plain()
    for latent_D, codes_K in zip(latent_BND[0].double(), plain.encode(latent_BND[0]).T):
        for codebook_VD, code in zip(plain.codebooks_KVD.double(), codes_K):
            distances_V = (codebook_VD - latent_D).square().sum(dim=1)
            assert distances_V[code] <= distances_V.min() * (1 + 1e-5)
            latent_D = latent_D - codebook_VD[code]


def test_any_number_of_first_codebooks_decodes_and_each_brings_the_latents_nearer(latent_BND: Tensor) -> None:
    quantiser = trained(small_codec.trainable_residual(), latent_BND)
    plain = quantiser.plain()
    codes_BKN, distances = codes_of(plain, latent_BND), []
    quantiser.vq.quantize_dropout = True  # without it vector-quantize-pytorch takes all codebooks or none
    for number in (1, 2, 3, 4):
        decoded_BND = plain.embed(codes_BKN[:, :number]).sum(dim=1)
        torch.testing.assert_close(decoded_BND, quantiser.vq.get_output_from_indices(codes_BKN[:, :number].transpose(1, 2)))
        distances.append(float((decoded_BND - latent_BND).square().mean()))
    assert distances == sorted(distances, reverse=True) and distances[3] < 0.7 * distances[0]


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_scalar_codes_are_those_of_vector_quantize_pytorch(levels: list[int], latent_BND: Tensor) -> None:
    torch.manual_seed(0)
    quantiser = TrainableScalar(dim=small_codec.DIM, levels=levels)
    torch.nn.init.normal_(quantiser.fsq.project_in.weight)
    with torch.no_grad():
        quantised_BND, theirs_BN = quantiser.fsq(latent_BND)
        plain = quantiser.plain()
        codes_BKN = codes_of(plain, latent_BND)
        assert torch.equal(codes_BKN[:, 0], theirs_BN.long()) and len(codes_BKN.unique()) >= 5
        torch.testing.assert_close(plain.embed(codes_BKN).sum(dim=1), quantised_BND)
        torch.testing.assert_close(quantiser(latent_BND)[0], quantised_BND)
        every_1KN = torch.arange(plain.codebook_sizes[0])[None, None]
        torch.testing.assert_close(plain.embed(every_1KN)[0, 0], quantiser.fsq.indices_to_codes(every_1KN[0, 0]))


def test_a_latent_with_one_number_for_each_level_needs_no_projection() -> None:
    quantiser = TrainableScalar(dim=3, levels=[8, 5, 5])
    latent_BND = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
    quantised_BND, theirs_BN = quantiser.fsq(latent_BND)
    plain = quantiser.plain().requires_grad_(False)
    codes_BKN = codes_of(plain, latent_BND)
    assert torch.equal(codes_BKN[:, 0], theirs_BN.long())
    torch.testing.assert_close(plain.embed(codes_BKN)[:, 0], quantised_BND)


@pytest.mark.parametrize("levels", [[8, 2], [1], []])
def test_levels_that_quantise_nothing_are_refused(levels: list[int]) -> None:
    with pytest.raises(ValueError, match="at least 3 levels"):
        TrainableScalar(dim=8, levels=levels)


@pytest.mark.parametrize("make", [lambda: ResidualCodebooks(num_codebooks=2, codebook_size=8, dim=4), lambda: small_codec.scalar()])
def test_a_quantiser_is_made_again_from_its_settings(make) -> None:
    quantiser = make()
    again = quantisers.load(quantiser.settings)
    again.load_state_dict(quantiser.state_dict())
    assert again.settings == quantiser.settings and again.codebook_sizes == quantiser.codebook_sizes
    latent_ND = torch.randn(20, quantiser.settings["dim"])
    assert torch.equal(again.encode(latent_ND), quantiser.encode(latent_ND))


def test_the_codebook_of_finite_scalars_is_the_product_of_their_levels() -> None:
    plain = FiniteScalar(levels=[8, 8, 8, 8, 8], dim=64)
    assert plain.codebook_sizes == (32768,) and plain.encode(torch.randn(9, 64)).shape == (1, 9)


# While it learns


def numbers_heard(quantiser: TrainableResidual, latent_BND: Tensor, *, batches: int) -> Tensor:
    """The number of codebooks that each batch is quantised by."""
    numbers = []
    for step in range(batches):
        torch.manual_seed(step)
        codes_BKN = quantiser.quantise(latent_BND)[1]
        heard_BKN = codes_BKN >= 0
        assert torch.equal(heard_BKN, heard_BKN[:1, :, :1].expand_as(heard_BKN)), "one number for a batch"
        number = int(heard_BKN[0, :, 0].sum())
        assert heard_BKN[0, :number, 0].all(), "the first ones"
        numbers.append(number)
    return torch.tensor(numbers)


def test_a_share_of_the_batches_is_quantised_by_any_number_of_first_codebooks(latent_BND: Tensor) -> None:
    quantiser, few_BND = trained(small_codec.trainable_residual(dropout=0.6), latent_BND).train(), latent_BND[:1, :2]
    counts = torch.bincount(numbers_heard(quantiser, few_BND, batches=400), minlength=5)[1:]
    assert chisquare(counts.numpy(), [60, 60, 60, 220]).pvalue > 1e-4
    assert set(numbers_heard(quantiser.eval(), few_BND, batches=20).tolist()) == {4}
    quantiser.dropout = 0.0
    assert set(numbers_heard(quantiser.train(), few_BND, batches=20).tolist()) == {4}
    single = trained(small_codec.trainable_residual(num_codebooks=1, dropout=0.6), latent_BND).train()
    assert set(numbers_heard(single, few_BND, batches=20).tolist()) == {1}


def test_what_a_dropped_codebook_would_say_is_not_heard(latent_BND: Tensor) -> None:
    quantiser = trained(small_codec.trainable_residual(), latent_BND).train()
    quantiser.dropout = 1.0
    codebooks_KVD = quantiser.vq.codebooks.clone()
    for step in range(8):
        torch.manual_seed(step)
        quantised_BND, codes_BKN, _ = quantiser.quantise(latent_BND)
        number = int((codes_BKN[0, :, 0] >= 0).sum())
        plain = ResidualCodebooks(num_codebooks=4, codebook_size=32, dim=small_codec.DIM)
        plain.codebooks_KVD.copy_(codebooks_KVD)
        torch.testing.assert_close(quantised_BND, plain.embed(codes_BKN[:, :number]).sum(dim=1), rtol=1e-4, atol=1e-5)
        codebooks_KVD = quantiser.vq.codebooks.clone()


def test_a_codeword_that_nobody_chooses_is_restarted_among_the_latents(latent_BND: Tensor) -> None:
    for dead_below, restarted in ((0.5, True), (0.0, False)):
        quantiser = trained(small_codec.trainable_residual(num_codebooks=1, decay=0.5, dead_below=dead_below), latent_BND)
        book = quantiser.vq.layers[0]._codebook
        book.embed[0, 7], book.embed_avg[0, 7] = 1e3, 1e3
        codeword_D = trained(quantiser, latent_BND, steps=8).plain().codebooks_KVD[0, 7]
        assert bool(codeword_D.abs().max() < 10) == restarted


def test_gradients_pass_a_quantiser_and_commitment_draws_latents_to_their_codewords(latent_BND: Tensor) -> None:
    quantiser = trained(small_codec.trainable_residual(), latent_BND).train()
    latent_BND = latent_BND.clone().requires_grad_()
    quantised_BND, commitment = quantiser(latent_BND)
    sound, drawn = (torch.autograd.grad(loss, latent_BND, retain_graph=True)[0] for loss in (quantised_BND.square().sum(), commitment))
    assert sound.abs().sum() > 0 and commitment > 0
    assert (drawn * (latent_BND - quantised_BND.detach())).sum() > 0
    quantised_BND, nothing = small_codec.trainable_scalar()(latent_BND)
    assert nothing == 0 and torch.autograd.grad(quantised_BND.square().sum(), latent_BND)[0].abs().sum() > 0
