"""Kernels against slow references over all pairs, draws and masses against the dense matrix, what is loaded against what was saved."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from scipy.stats import chisquare
from torch import Tensor

from audiotok.decoding import kernels
from audiotok.decoding.kernels import Groups, Hard, Identity, Nearest, Similarity, Soft, load, save

SIMILARITIES = [Hard(0.4), Soft(0.1, 0.3), Nearest(4)]


def vectors(size: int = 40, width: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(size, width, generator=torch.Generator().manual_seed(seed))


def dense(kernel: Groups | Identity, size: int) -> Tensor:
    """W [groups, codes], a mass at a time."""
    every = torch.arange(size)
    columns = [kernel.mass(torch.eye(size, dtype=torch.float64), every.new_full((size,), code), every) for code in range(size)]
    return torch.stack(columns, dim=1)


def slow(similarity: Similarity, vectors_VD: Tensor) -> Tensor:
    """W [groups, codes], pair by pair."""
    size = len(vectors_VD)
    cosine = [[torch.cosine_similarity(a, b, dim=0).item() for b in vectors_VD] for a in vectors_VD]
    w = torch.zeros(size, size, dtype=torch.float64)
    for group in range(size):
        for code in range(size):
            if isinstance(similarity, Nearest):
                nearer = sum(other > cosine[group][code] for other in cosine[group])
                w[group, code] = float(nearer < similarity.size)
            elif code == group or cosine[group][code] > similarity.threshold:
                w[group, code] = (
                    1.0 if isinstance(similarity, Hard) else torch.tensor((cosine[group][code] - 1) / similarity.temperature).exp()
                )
    return w / w.sum(0)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_a_kernel_holds_what_its_slow_reference_holds(similarity: Similarity) -> None:
    [kernel] = similarity.kernels([vectors()])
    found = dense(kernel, 40)
    assert torch.equal(found > 0, slow(similarity, vectors()) > 0)
    assert torch.allclose(found, slow(similarity, vectors()), atol=1e-5)
    assert torch.allclose(found.sum(0), torch.ones(40, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_a_kernel_made_in_blocks_is_the_one_made_at_once(similarity: Similarity, monkeypatch: pytest.MonkeyPatch) -> None:
    [whole] = similarity.kernels([vectors()])
    monkeypatch.setattr(kernels, "BLOCK", 7 * 40)  # 40 rows are not a multiple of 7
    [parts] = similarity.kernels([vectors()])
    assert torch.equal(parts.groups_E, whole.groups_E) and torch.equal(parts.members_E, whole.members_E)
    assert torch.allclose(parts.weights_E, whole.weights_E)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_groups_are_drawn_by_the_shares_of_a_code_in_them(similarity: Similarity) -> None:
    [kernel] = similarity.kernels([vectors()])
    num, w = 20_000, dense(kernel, 40)
    numbers = torch.rand(num, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for code in (0, 17, 39):
        counts = kernel.draw(torch.full((num,), code), numbers).bincount(minlength=40).double()
        held = w[:, code] > 0
        assert counts[~held].sum() == 0
        assert held.sum() > 1 and chisquare(counts[held].numpy(), (num * w[held, code]).numpy()).pvalue > 1e-3


def test_the_first_and_the_last_number_draw_a_group_of_the_code_s_own_even_in_a_large_codebook() -> None:
    size = 65_536
    pairs = torch.arange(size), torch.arange(size)
    kernel = Groups.of_pairs(*pairs, torch.ones(size), size=size)
    for number in (0.0, 1 - 2**-53):
        assert torch.equal(kernel.draw(pairs[0], torch.full((size,), number, dtype=torch.float64)), pairs[0])


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_masses_are_those_of_the_dense_matrix_whatever_rows_are_asked(similarity: Similarity) -> None:
    [kernel] = similarity.kernels([vectors()])
    laws_RV = torch.rand(3, 40, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    rows, groups = torch.tensor([2, 0, 0, 1, 2]), torch.tensor([5, 39, 5, 0, 21])
    assert torch.allclose(kernel.mass(laws_RV, rows, groups), (laws_RV @ slow(similarity, vectors()).T)[rows, groups], atol=1e-5)
    assert kernel.mass(laws_RV, rows[:0], groups[:0]).shape == (0,)


def test_a_group_without_near_codes_is_its_own_code_and_the_description_says_how_many_are() -> None:
    apart = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, -1.0], [0.0, 0.0]])  # the last has no direction at all
    [kernel] = Hard(0.9).kernels([apart])
    assert kernel.describe() == {"mean_size": 1.5, "max_size": 2, "coverage": 0.5}
    assert dense(kernel, 4)[2:, 2:].tolist() == [[1, 0], [0, 1]]


def test_codes_at_one_place_share_a_nearest_group_only_beyond_themselves() -> None:
    [kernel] = Nearest(1).kernels([torch.ones(4, 2)])
    assert torch.equal(dense(kernel, 4), torch.eye(4, dtype=torch.float64))
    assert Nearest(9).kernels([torch.ones(4, 2)])[0].describe()["mean_size"] == 4


def test_a_soft_kernel_leans_to_the_nearer_group_and_a_hard_one_does_not() -> None:
    near = torch.tensor([[1.0, 0.0], [1.0, 0.2], [1.0, 0.9]])
    [hard], [soft] = Hard(0.5).kernels([near]), Soft(0.5, 0.1).kernels([near])
    assert dense(hard, 3)[:, 0].tolist() == pytest.approx([1 / 3] * 3)
    shares = dense(soft, 3)[:, 0].tolist()
    assert shares[0] > shares[1] > shares[2] > 0


def test_each_codebook_may_have_a_threshold_of_its_own_as_a_yaml_writes_it() -> None:
    thresholds = OmegaConf.create({"threshold": [0.2, 0.9]}).threshold
    wide, narrow = Hard(thresholds).kernels([vectors(), vectors()])
    assert torch.equal(wide.groups_E, Hard(0.2).kernels([vectors()])[0].groups_E)
    assert torch.equal(narrow.groups_E, Hard(0.9).kernels([vectors()])[0].groups_E)
    assert len(wide.groups_E) > len(narrow.groups_E)


@pytest.mark.parametrize("similarity", [Hard((0.2, 0.6)), Soft(0.1, 0.3), Nearest(4)])
def test_saved_kernels_are_loaded_to_the_bit_with_their_settings(similarity: Similarity, tmp_path: Path) -> None:
    made = similarity.kernels([vectors(), vectors(size=9, seed=1)])
    save(tmp_path / "kernels.safetensors", made, made_by=similarity)
    loaded, settings = load(tmp_path / "kernels.safetensors")
    assert len(loaded) == 2
    for before, after in zip(made, loaded):
        assert all(torch.equal(value, getattr(after, name)) for name, value in vars(before).items())
    assert settings["kind"] == type(similarity).__name__
    assert settings.get("threshold") in (None, 0.1, [0.2, 0.6]) and settings.get("size") in (None, 4)


def test_a_file_without_kernels_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors holds no kernels"):
        load(tmp_path / "model.safetensors")


def test_settings_without_meaning_are_refused() -> None:
    with pytest.raises(ValueError, match=r"kernel\.threshold has 2 values for 1 codebooks"):
        Hard([0.1, 0.2]).kernels([vectors()])
    with pytest.raises(ValueError, match=r"kernel\.temperature is 0, wanted above 0"):
        Soft(0.5, 0)
    with pytest.raises(ValueError, match=r"kernel\.size is 0, wanted 1 or more"):
        Nearest(0)


def test_the_identity_is_the_kernel_of_codes_on_their_own() -> None:
    assert torch.equal(dense(Identity(), 5), torch.eye(5, dtype=torch.float64))
    assert Identity().draw(torch.tensor([3, 1]), torch.rand(2)).tolist() == [3, 1]
