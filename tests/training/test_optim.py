"""The learning rate, the decay, the average of weights, the log and the arithmetic."""

import copy
import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from audiotok.training import logging, precision
from audiotok.training.ema import EMA
from audiotok.training.logging import Log
from audiotok.training.optim import adamw, clip_gradients, learning_rate, set_learning_rate


def test_the_rate_rises_in_a_line_and_falls_by_a_cosine_to_a_hundredth() -> None:
    rates = [learning_rate(step, peak=2.0, warmup_steps=10, steps=110) for step in range(1, 111)]
    assert rates[:10] == pytest.approx([0.2 * n for n in range(1, 11)])
    assert rates[59] == pytest.approx(2.0 * 0.505) and rates[-1] == pytest.approx(0.02)
    assert all(later < earlier for earlier, later in pairwise(rates[9:]))


def test_no_warm_up_starts_at_the_peak_and_a_warm_up_longer_than_the_run_never_passes_it() -> None:
    assert learning_rate(1, peak=1.0, warmup_steps=0, steps=10**6) == pytest.approx(1.0)
    assert learning_rate(5, peak=1.0, warmup_steps=10, steps=5) == 0.5


def test_matrices_decay_and_vectors_do_not() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.RMSNorm(2), nn.Embedding(2, 2))
    model[2].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = adamw(model, learning_rate=9.0, weight_decay=0.5)
    set_learning_rate(optimizer, 0.1)
    optimizer.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name] * (0.95 if name == "0.weight" else 1.0))


class TwoSides(nn.Module):
    """A model with two learners, the second at ten times the rate."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(2, 2), nn.Linear(2, 2)

    def learners(self):
        return [(self.one, 1.0), (self.other, 10.0)]


def test_each_learner_has_its_factor_of_the_rate_and_its_own_norm() -> None:
    model = TwoSides()
    optimizer = adamw(model, learning_rate=9.0, weight_decay=0.5)
    set_learning_rate(optimizer, 0.1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1, 1.0, 1.0]
    for part, size in ((model.one, 0.1), (model.other, 100.0)):
        for parameter in part.parameters():
            parameter.grad = torch.full_like(parameter, size)
    norm = clip_gradients(model, 1.0)
    assert norm.item() == pytest.approx((6 * 0.1**2 + 6 * 100.0**2) ** 0.5)
    assert model.one.weight.grad.unique().tolist() == [pytest.approx(0.1)], "not cut for the other's"
    assert sum(parameter.grad.square().sum() for parameter in model.other.parameters()).item() == pytest.approx(1.0, rel=1e-4)


def test_the_average_follows_the_weights_and_copies_buffers() -> None:
    model = nn.BatchNorm1d(2)
    ema = EMA(model, decay=0.5)
    expected, decays = torch.ones(2), [2 / 11, 3 / 12, 0.5]  # the last is capped
    for step, decay in zip((1, 2, 50), decays):
        model.weight.data += step
        model.running_mean += 1
        ema.update(model, step=step)
        expected = decay * expected + (1 - decay) * model.weight.data
    torch.testing.assert_close(ema.model.weight.data, expected)
    assert ema.model.running_mean.tolist() == [3.0, 3.0] and not ema.model.training and not ema.model.weight.requires_grad


def test_a_continued_log_drops_what_lies_past_the_step_and_half_a_line(tmp_path: Path) -> None:
    with Log(tmp_path, step=0) as log:
        for step in (1, 2, 3):
            log.write(step, "train", values={"loss": step / 2})
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 1, "spl')
    with Log(tmp_path, step=2) as log:
        log.write(3, "dev", values={"loss": 9.0})
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["split"], line["loss"]) for line in lines] == [(1, "train", 0.5), (2, "train", 1.0), (3, "dev", 9.0)]
    assert logging.read(tmp_path) == lines and logging.read(tmp_path / "absent") == []


def test_auto_takes_bf16_where_the_processor_has_it_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for has in (True, False):
        monkeypatch.setattr(precision, "has_bf16", lambda device, has=has: has)
        assert precision.resolve("auto", device=cpu) == ("bf16" if has else "fp32")
        assert precision.resolve("bf16", device=cpu) == "bf16" and precision.resolve("fp32", device=cpu) == "fp32"
    with pytest.raises(ValueError, match="auto, bf16 or fp32; got 'fp16'"):
        precision.resolve("fp16", device=cpu)  # type: ignore[arg-type]


def test_the_processor_is_asked_and_another_kind_of_device_has_no_bf16() -> None:
    assert precision.has_bf16(torch.device("cpu")) in (True, False)
    assert precision.has_bf16(torch.device("meta")) is False


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_products_run_in_the_chosen_arithmetic(name: precision.Precision, dtype: torch.dtype) -> None:
    with precision.autocast(name, device=torch.device("cpu")):
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype is dtype
