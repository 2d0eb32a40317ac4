import pytest
import torch

from audiotok.models.balancer import Balancer, WeightedSum

X = torch.tensor([[3.0, 4.0], [0.0, 1.0]])


def losses(scale: float):
    """Two losses whose gradients at the output are known: 2 x (times scale) and the constant `scale`-free direction (1, 0)."""
    return lambda output: {"square": scale * output.square().sum(), "linear": output[:, 0].sum()}


def gradient(balance, scale: float = 1.0) -> torch.Tensor:
    output = X.clone().requires_grad_()
    balance(output, losses(scale))[0].backward()
    return output.grad


def test_the_gradient_is_each_losss_own_at_its_share_of_the_norm() -> None:
    # |2x| is 10 and 2: their median is 6. |(1, 0)| is 1. Shares 3 and 1 of a total of 0.8.
    expected = 0.8 * 3 / 4 * 2 * X / 6 + 0.8 * 1 / 4 * torch.tensor([[1.0, 0.0], [1.0, 0.0]]) / 1
    found = gradient(Balancer({"square": 3, "linear": 1}, total_norm=0.8, decay=0.9))
    torch.testing.assert_close(found, expected)


def test_the_scale_of_a_loss_does_not_matter() -> None:
    one, other = (gradient(Balancer({"square": 1, "linear": 1}, total_norm=1.0, decay=0.5), scale) for scale in (1.0, 1000.0))
    torch.testing.assert_close(one, other)


def test_the_norm_is_a_moving_average_that_is_right_from_the_first_step() -> None:
    balance = Balancer({"square": 1, "linear": 1}, total_norm=1.0, decay=0.75)
    gradient(balance, 1.0)
    found = gradient(balance, 5.0)  # norms of `square` so far: 6, then 30
    average = (0.75 * 6 + 30) / (0.75 + 1)
    torch.testing.assert_close(found, 0.5 * 10 * X / average + 0.5 * torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    torch.testing.assert_close(balance.norms / balance.counts, torch.tensor([average, 1.0]))


def test_a_loss_that_is_not_there_leaves_the_whole_norm_to_the_others() -> None:
    balance = Balancer({"square": 1, "linear": 1}, total_norm=1.0, decay=0.75)
    output = X.clone().requires_grad_()
    balance(output, lambda x: {"linear": x[:, 0].sum()})[0].backward()
    torch.testing.assert_close(output.grad, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert balance.counts.tolist() == [0, 1]


def test_the_network_behind_the_output_gets_the_balanced_gradient_once() -> None:
    torch.manual_seed(0)
    network, x = torch.nn.Linear(2, 2), torch.randn(5, 2)
    balance = Balancer({"square": 2, "linear": 1}, total_norm=1.0, decay=0.9)
    balance(network(x), losses(1.0))[0].backward()
    at_output = network(x).detach().requires_grad_()
    Balancer({"square": 2, "linear": 1}, total_norm=1.0, decay=0.9)(at_output, losses(1.0))[0].backward()
    torch.testing.assert_close(network.weight.grad, at_output.grad.T @ x)


@pytest.mark.parametrize(
    "balance", [WeightedSum({"square": 0.5, "linear": 2}), Balancer({"square": 0.5, "linear": 2}, total_norm=1, decay=0.9)]
)
def test_the_value_is_the_weighted_sum_also_where_no_gradient_is_wanted(balance) -> None:
    expected = 0.5 * 26 + 2 * 3
    assert balance(X.clone().requires_grad_(), losses(1.0))[0].item() == pytest.approx(expected)
    with torch.no_grad():
        assert balance(X, losses(1.0))[0].item() == pytest.approx(expected)


def test_validation_leaves_the_averages_alone() -> None:
    balance = Balancer({"square": 1, "linear": 1}, total_norm=1.0, decay=0.75).eval()
    gradient(balance)
    assert balance.counts.tolist() == [0, 0]


@pytest.mark.parametrize("balance", [WeightedSum({"square": 1}), Balancer({"square": 1}, total_norm=1, decay=0.9)])
def test_a_loss_without_a_weight_is_refused_by_name(balance) -> None:
    with pytest.raises(ValueError, match=r"linear.*given for square"):
        balance(X.clone().requires_grad_(), losses(1.0))


def test_one_item_with_a_wild_gradient_does_not_rule_the_others() -> None:
    output = torch.tensor([[1.0], [1.0], [1.0], [1000.0]]).requires_grad_()
    Balancer({"square": 1}, total_norm=1.0, decay=0.9)(output, lambda x: {"square": x.square().sum()})[0].backward()
    torch.testing.assert_close(output.grad[:3], torch.ones(3, 1))
