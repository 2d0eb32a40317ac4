"""The loop: the same for the same seed, and as it was told to."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from probe_examples import CPU, EMBEDDING, FIT, banded
from torch import nn

from audiotok.evaluation.probes import fitting
from audiotok.evaluation.probes.classification import Classifier
from audiotok.evaluation.probes.embedding import embedding
from audiotok.evaluation.probes.fitting import NewBob, evaluate, fit
from audiotok.evaluation.probes.heads import Convolutions, Frames, Pooled
from audiotok.evaluation.probes.inputs import common_kind


@pytest.fixture(scope="module")
def coded(digits):
    return banded(digits.train[::10], bands=8, levels=16)


def build(examples, *, dropout=0.1):
    head = partial(Pooled, frames=partial(Convolutions, channels=16, kernel=3, layers=1, dropout=dropout))
    kind = common_kind([each.input for each in examples])
    return lambda: Classifier(
        embedding(kind, EMBEDDING, vectors=None), head, nn.Linear, classes=[tuple(sorted({each.target for each in examples}))]
    )


def fitted(examples, *, seed=0, dev=(), builder=None, **settings):
    chosen = replace(FIT, **({"epochs": 2, "batch_size": 8} | settings))
    return fit(builder or build(examples), examples, dev=dev, settings=chosen, seed=seed, device=CPU)


def weights(probe):
    return torch.cat([each.flatten() for each in probe.state_dict().values()])


def test_the_same_seed_gives_the_same_probe_and_another_gives_another(coded):
    torch.manual_seed(123)
    (one, history), other = fitted(coded), fitted(coded, seed=1)[0]
    torch.manual_seed(456)
    again, repeated = fitted(coded)
    assert torch.equal(weights(one), weights(again))
    assert [epoch.train_loss for epoch in history.epochs] == [epoch.train_loss for epoch in repeated.epochs]
    assert not torch.equal(weights(one), weights(other))


def test_fitting_leaves_the_random_numbers_of_its_caller_alone(coded):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    fitted(coded)
    assert torch.equal(torch.rand(3), expected)


def test_every_example_is_seen_once_in_an_epoch_in_batches_of_about_one_size(coded):
    settings = replace(FIT, batch_size=13)
    fit_ = fitting._Fit(build(coded)(), coded, dev=(), settings=settings, seed=0)
    one, other = fit_.batches(), fit_.batches()
    assert [len(batch) for batch in one] == [10, 10, 10, 10]
    assert sorted(each.id for batch in one for each in batch) == sorted(each.id for each in coded)
    assert [each.id for batch in one for each in batch] != [each.id for batch in other for each in batch]


def test_batches_that_are_accumulated_make_the_update_of_one_large_batch(coded):
    def after(batch_size, accumulate):
        settings = {"batch_size": batch_size, "accumulate": accumulate, "epochs": 1, "learning_rate": 1e-3}
        return fitted(coded, builder=build(coded, dropout=0.0), **settings)[0]

    torch.testing.assert_close(weights(after(40, 1)), weights(after(10, 4)), atol=3e-5, rtol=0)
    assert (weights(after(40, 1)) - weights(after(10, 1))).abs().max() > 1e-3


def test_the_weights_of_the_best_epoch_on_the_dev_part_are_kept(coded, monkeypatch):
    devs = [(0.5, 1.0), (0.3, 2.0), (0.3, 1.5), (0.4, 1.0), (0.3, 1.5)]
    told = iter(devs)
    monkeypatch.setattr(fitting, "evaluate", lambda *_, **__: next(told))
    probe, history = fitted(coded, dev=coded, epochs=5)
    assert history.kept == 3 and [epoch.dev for epoch in history.epochs] == devs
    assert history.train_loss == history.epochs[2].train_loss
    assert torch.equal(weights(probe), weights(fitted(coded, epochs=3)[0]))


def test_the_dev_part_is_scored_as_a_test_part_is(coded):
    train, dev = coded[::2], coded[1::2]
    probe, history = fitted(train, dev=dev, builder=build(coded))
    wrong, loss = evaluate(probe, dev, batch_size=3)
    assert (wrong, loss) == pytest.approx(history.epochs[history.kept - 1].dev)
    alone = [evaluate(probe, [each], batch_size=1) for each in dev]
    assert (wrong, loss) == pytest.approx(tuple(sum(column) / len(dev) for column in zip(*alone)))


def test_it_stops_when_told(coded):
    assert fitted(coded, epochs=3)[1].stopped == "epochs"
    history = fitted(coded[::2], dev=coded[1::2], epochs=50, learning_rate=0.0, patience=2, builder=build(coded))[1]
    assert (history.stopped, len(history.epochs), history.kept) == ("patience", 3, 1)
    for epochs in (1, 50):
        history = fitted(coded, epochs=epochs, max_seconds=0.0)[1]
        assert (history.stopped, len(history.epochs), history.updates) == ("seconds", 1, 1)


def test_the_cosine_falls_to_a_hundredth_of_its_peak(coded):
    history = fitted(coded, epochs=4, schedule="cosine", learning_rate=1e-3)[1]
    assert history.updates == 4 * 5
    rates = [epoch.learning_rate for epoch in history.epochs]
    assert rates == sorted(rates, reverse=True) and rates[-1] == pytest.approx(1e-5)


@pytest.mark.parametrize("patience", [0, 1])
def test_newbob_is_speechbrains(patience):
    schedulers = pytest.importorskip("speechbrain.nnet.schedulers", reason="pip install 'audiotok[probes]'")
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        ours, theirs, rate = NewBob(0.0025, 0.8, patience), schedulers.NewBobScheduler(1.0, 0.8, 0.0025, patience), 1.0
        for loss in (2 + torch.randn(12, generator=generator).cumsum(0) * 0.01).tolist():
            rate = ours(rate, loss)
            assert rate == theirs(loss)[1]


def test_newbob_cuts_the_rate_where_the_dev_part_gets_worse(coded):
    history = fitted(coded[::2], dev=coded[1::2], epochs=3, schedule="newbob", learning_rate=1e-7, builder=build(coded))[1]
    assert [epoch.learning_rate for epoch in history.epochs] == pytest.approx([1e-7, 1e-7, 0.8e-7])


def test_a_loss_that_is_not_finite_ends_the_fit(coded):
    with pytest.raises(FloatingPointError, match=r"at update \d+; lower fit.learning_rate"):
        fitted(coded, learning_rate=1e30, epochs=5)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"schedule": "newbob"}, "go by a dev part"),
        ({"patience": 3}, "go by a dev part"),
        ({"schedule": "step"}, "constant, cosine, newbob"),
        ({"batch_size": 0}, "batch_size is at least 1"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(coded, settings, reason):
    with pytest.raises(ValueError, match=reason):
        fitted(coded, **settings)
    with pytest.raises(ValueError, match="train part is empty"):
        fit(build(coded), [], dev=[], settings=FIT, seed=0, device=CPU)


def test_batches_for_scoring_are_of_one_length_unless_padding_is_masked(coded):
    for mixed in (True, False):
        batches = list(fitting.scoring_batches(coded, batch_size=4, mixed=mixed))
        assert sorted(each.id for batch in batches for each in batch) == sorted(each.id for each in coded)
        assert max(map(len, batches)) <= 4
        assert all(len({each.input.num_frames for each in batch}) == 1 for batch in batches) != mixed


def test_a_probe_in_bf16_learns_as_well(coded):
    builder = build(coded, dropout=0.0)
    full, half = (fitted(coded, builder=builder, epochs=6, precision=precision)[1].train_loss for precision in ("fp32", "bf16"))
    assert half == pytest.approx(full, rel=0.05)
    assert full < fitted(coded, builder=builder, epochs=1)[1].train_loss


def test_the_linear_probe_has_no_hidden_layer(coded):
    kind = common_kind([each.input for each in coded])
    probe = Classifier(embedding(kind, EMBEDDING, vectors=None), partial(Pooled, frames=Frames), nn.Linear, classes=[("a", "b")])
    assert not list(probe.head.parameters())
