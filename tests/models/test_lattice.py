"""The transducer's loss: against every path written out, against torchaudio's, and on the diagonal against cross-entropy."""

from itertools import combinations

import pytest
import torch
import torchaudio

from audiotok.models.enhancement.lattice import lattice_loss, near_diagonal


def lattice(batch, frames, labels, *, seed=0):
    scores = torch.randn(batch, frames, labels + 1, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).log_softmax(-1)
    return scores[..., 0], scores[:, :, :-1, 1]


def all_paths(blank_NU, emit_NU, frames, labels):
    """The log-probability of every order of `labels` emissions and `frames` - 1 blanks, and a last blank."""
    totals = []
    for emissions in combinations(range(frames + labels - 1), labels):
        n = u = 0
        total = blank_NU.new_zeros(())
        for move in range(frames + labels - 1):
            if move in emissions:
                total, u = total + emit_NU[n, u], u + 1
            else:
                total, n = total + blank_NU[n, u], n + 1
        totals.append(total + blank_NU[frames - 1, labels])
    return torch.stack(totals).logsumexp(0)


def test_the_loss_is_that_of_every_path_written_out():
    blank, emit = lattice(3, 5, 4)
    lengths, targets = torch.tensor([5, 3, 1]), torch.tensor([2, 4, 0])
    slow = [-all_paths(blank[b], emit[b], n, u) for b, (n, u) in enumerate(zip(lengths.tolist(), targets.tolist()))]
    torch.testing.assert_close(lattice_loss(blank, emit, lengths, targets, allowed_BNU=None), torch.stack(slow), rtol=1e-12, atol=1e-12)


def test_the_loss_and_its_gradient_are_torchaudios():
    torch.manual_seed(1)
    logits = torch.randn(2, 7, 4, 6, requires_grad=True)
    targets, lengths, counts = torch.tensor([[1, 5, 2], [3, 3, 0]]), torch.tensor([7, 5]), torch.tensor([3, 2])
    theirs = torchaudio.functional.rnnt_loss(logits, targets.int(), lengths.int(), counts.int(), blank=0, reduction="sum")
    (wanted,) = torch.autograd.grad(theirs, logits)
    laws = logits.log_softmax(-1)
    emit = laws[:, :, :-1].gather(3, targets[:, None, :, None].expand(-1, 7, -1, 1))[..., 0]
    ours = lattice_loss(laws[..., 0], emit, lengths, counts, allowed_BNU=None).sum()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(ours, logits)[0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("band", [None, 0.0, 1.0])
def test_the_gradient_is_that_of_finite_differences(band):
    blank, emit = (part.detach().requires_grad_() for part in lattice(2, 4, 4, seed=2))
    lengths, targets = torch.tensor([4, 3]), torch.tensor([4, 3])
    allowed = None if band is None else near_diagonal(lengths, targets, torch.arange(5)[None], frames=4, band=band)
    assert torch.autograd.gradcheck(lambda *parts: lattice_loss(*parts, lengths, targets, allowed_BNU=allowed), (blank, emit))


def test_on_the_diagonal_the_loss_is_the_cross_entropy_of_its_path():
    blank, emit = lattice(2, 6, 6, seed=3)
    lengths = torch.tensor([6, 4])
    allowed = near_diagonal(lengths, lengths, torch.arange(7)[None], frames=6, band=0.0)
    path = [-sum(emit[b, n, n] + blank[b, n, n + 1] for n in range(length)) for b, length in enumerate(lengths.tolist())]
    torch.testing.assert_close(lattice_loss(blank, emit, lengths, lengths, allowed_BNU=allowed), torch.stack(path), rtol=1e-12, atol=1e-12)


def test_a_wider_band_lets_more_paths_through_until_all_are():
    blank, emit = lattice(1, 6, 3, seed=4)
    lengths, targets = torch.tensor([6]), torch.tensor([3])
    bands = [near_diagonal(lengths, targets, torch.arange(4)[None], frames=6, band=band) for band in (0.5, 1.0, 9.0)]
    losses = [float(lattice_loss(blank, emit, lengths, targets, allowed_BNU=band)) for band in bands]
    assert losses[0] > losses[1] > losses[2] == float(lattice_loss(blank, emit, lengths, targets, allowed_BNU=None))


def test_a_lattice_without_a_path_or_of_other_sizes_is_refused():
    blank, emit = lattice(1, 3, 3)
    full = torch.tensor([3])
    with pytest.raises(ValueError, match="widen the band"):
        lattice_loss(blank, emit, full, full, allowed_BNU=torch.zeros(1, 3, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="are wanted"):
        lattice_loss(blank, blank, full, full, allowed_BNU=None)
    with pytest.raises(ValueError, match="where the lattice has 3 and 3"):
        lattice_loss(blank, emit, torch.tensor([4]), full, allowed_BNU=None)
