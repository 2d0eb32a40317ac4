import learning
import pytest
import small_codec
import torch
from torch import Tensor

from audiotok.models.codec import Crops
from audiotok.models.perturbation import NearNeighbours, Perturbed, codewords
from audiotok.models.posttraining import FrozenQuantiser
from audiotok.tokenizers.quantisers import MultiScaleCodebooks, ProductCodebooks, ResidualCodebooks


def residual() -> ResidualCodebooks:
    torch.manual_seed(0)
    plain = ResidualCodebooks(num_codebooks=2, codebook_size=16, dim=4)
    plain.codebooks_KVD.normal_()
    return plain


def codes(batch: int = 200) -> Tensor:
    return torch.randint(16, (batch, 2, 50), generator=torch.Generator().manual_seed(1))


def test_a_replaced_code_is_one_of_the_nearest_others_of_its_codebook() -> None:
    plain, codes_BKN = residual(), codes(4)
    torch.manual_seed(0)
    wrong_BKN = NearNeighbours(utterances=1.0, codes=1.0, neighbours=3)(codes_BKN, plain)
    for column in range(2):
        distance_VV = torch.cdist(plain.codebooks_KVD[column], plain.codebooks_KVD[column])
        nearest = [set(row.argsort()[1:4].tolist()) for row in distance_VV]  # the first is the code itself
        pairs = set(zip(codes_BKN[:, column].flatten().tolist(), wrong_BKN[:, column].flatten().tolist()))
        assert {(code, other) for code, others in enumerate(nearest) for other in others} >= pairs
        assert len(pairs) > 40  # of 48: every one of them is drawn


def test_utterances_and_codes_are_drawn_by_their_shares() -> None:
    codes_BKN = codes()
    torch.manual_seed(0)
    changed_BKN = NearNeighbours(utterances=0.3, codes=0.2, neighbours=5)(codes_BKN, residual()) != codes_BKN
    touched_B = changed_BKN.any(dim=(1, 2))
    assert touched_B.float().mean().item() == pytest.approx(0.3, abs=0.1)
    assert changed_BKN[touched_B].float().mean().item() == pytest.approx(0.2, abs=0.02)


def test_codes_that_were_left_out_stay_left_out() -> None:
    codes_BKN = codes(2)
    codes_BKN[:, 1] = -1
    assert (NearNeighbours(utterances=1.0, codes=1.0, neighbours=3)(codes_BKN, residual())[:, 1] == -1).all()


def test_codewords_are_what_a_column_adds_in_any_quantiser() -> None:
    product = ProductCodebooks(parts=[residual(), residual()], dims=[4, 4])
    torch.testing.assert_close(codewords(product, 3)[:, 4:], residual().codebooks_KVD[1])
    assert (codewords(product, 3)[:, :4] == 0).all()
    scales = MultiScaleCodebooks(factors=[2, 1], codebook_size=8, dim=3)
    scales.codebooks_SVD.normal_()
    torch.testing.assert_close(codewords(scales, 2).unflatten(1, (2, 3))[:, 1], scales.codebooks_SVD[1])


def latents() -> Tensor:
    return torch.randn(8, 40, small_codec.DIM, generator=torch.Generator().manual_seed(3))


def test_a_perturbed_quantiser_hears_the_wrong_codewords_and_passes_the_same_gradient() -> None:
    torch.manual_seed(0)
    inner = small_codec.trainable_residual(decay=1.0, num_codebooks=1)  # codebooks stand still: a decay of 1 learns nothing
    inner.train()(latents())
    quantiser = Perturbed(inner, NearNeighbours(utterances=1.0, codes=1.0, neighbours=1), dim=small_codec.DIM).train()
    ours, theirs = latents().requires_grad_(), latents().requires_grad_()
    wrong_BND, right_BND = quantiser(ours)[0], inner(theirs)[0]
    plain = inner.plain()
    table_VD = plain.codebooks_KVD[0]
    expected = torch.cdist(table_VD, table_VD).fill_diagonal_(torch.inf).argmin(dim=1)
    codes_N = plain.encode(latents().flatten(0, 1))[0]
    torch.testing.assert_close(wrong_BND.flatten(0, 1), table_VD[expected[codes_N]], rtol=1e-3, atol=1e-4)
    wrong_BND.sum().backward()
    right_BND.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(quantiser.eval()(latents())[0], inner.eval()(latents())[0])


def test_left_out_codebooks_are_not_heard_wrong() -> None:
    torch.manual_seed(0)
    inner = small_codec.trainable_residual(dropout=1.0)
    inner.train()(latents())
    quantiser = Perturbed(inner, NearNeighbours(utterances=1.0, codes=0.0, neighbours=1), dim=small_codec.DIM).train()
    torch.manual_seed(5)
    ours = quantiser(latents())[0]
    again = small_codec.trainable_residual(dropout=1.0)
    again.load_state_dict(inner.state_dict())
    torch.manual_seed(5)
    torch.testing.assert_close(ours, again.train()(latents())[0], rtol=1e-1, atol=1e-1)


def test_a_frozen_quantiser_lets_a_decoder_learn_from_wrong_codes_and_validates_on_right_ones() -> None:
    plain = residual()
    latent_BND = torch.randn(3, 10, 4, generator=torch.Generator().manual_seed(3))
    quantiser = FrozenQuantiser(plain, dropout=0.0, corrupt=lambda codes_BKN, _: (codes_BKN + 1) % 16)
    codes_BKN = torch.stack([plain.encode(latent_ND) for latent_ND in latent_BND])
    torch.testing.assert_close(quantiser.train()(latent_BND)[0], plain.embed((codes_BKN + 1) % 16).sum(dim=1))
    torch.testing.assert_close(quantiser.eval()(latent_BND)[0], plain.embed(codes_BKN).sum(dim=1))


def test_a_decoder_that_heard_wrong_codes_in_training_forgives_them_better(wav_16k: Tensor) -> None:
    batch = Crops(small_codec.crops(wav_16k, number=6, samples=6400))
    wrong = NearNeighbours(utterances=1.0, codes=0.6, neighbours=8)
    start = small_codec.model()
    learning.descend(start, batch, steps=25, rate=5e-3)
    plain, scores = start.quantiser.plain(), []
    for corrupt in (None, wrong):
        codec = small_codec.model(encoder=start.encoder, quantiser=FrozenQuantiser(plain, dropout=0.0, corrupt=corrupt))
        codec.encoder.requires_grad_(False)
        codec.decoder.load_state_dict(start.decoder.state_dict())
        learning.descend(codec, batch, steps=30, rate=3e-3)
        codec.quantiser = FrozenQuantiser(plain, dropout=0.0, corrupt=wrong).train()
        torch.manual_seed(1000)
        with torch.no_grad():
            scores.append(codec.distance(codec(batch.wav_BT).wav_BT, batch.wav_BT)["mel"].item())
    assert scores[1] < 0.97 * scores[0]


def test_a_width_that_is_not_the_quantisers_is_refused() -> None:
    with pytest.raises(ValueError, match="a latent of 8 dimensions, the quantiser takes 16"):
        Perturbed(small_codec.trainable_residual(), NearNeighbours(utterances=1.0, codes=1.0, neighbours=1), dim=8)
