"""What does not change while a model speaks is worked out once: the vectors of its codes, and its heads."""

import torch
from torch import Tensor, nn

from audiotok.nn.inference import for_inference, quickened
from audiotok.nn.ranked import RankedHead, head
from audiotok.nn.transformer import Transformer
from audiotok.nn.vocabulary import KnownVectors, Learned

WIDTH, SIZES = 32, (40, 24)


class Speaker(nn.Module):
    """As models are: a vocabulary, and a transformer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.codes = KnownVectors([torch.randn(size, 8) for size in SIZES], WIDTH, std=0.1)
        nn.init.normal_(self.codes.own)
        self.letters = Learned(5, WIDTH, std=0.1)
        self.transformer = Transformer(WIDTH, layers=1, heads=2, feed_forward=32, dropout=0.0)


def hidden() -> Tensor:
    return torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(1))


def test_vectors_are_worked_out_once_and_are_those_of_the_model() -> None:
    model = Speaker().eval()
    twin = quickened(model, "fp32")
    assert twin.codes() is twin.codes() and torch.equal(twin.codes(), model.codes())
    assert twin.letters is not None and torch.equal(twin.letters(), model.letters())
    assert isinstance(model.codes, KnownVectors) and model.codes().requires_grad  # the model itself learns on


def test_a_head_is_made_once_for_the_same_rows_of_the_same_weight() -> None:
    twin, kept_R = quickened(Speaker().eval(), "int8"), torch.tensor([3, 7, 50])
    transformer, weight_VD = twin.transformer, twin.codes()
    whole, ranked = head(transformer, weight_VD, kept_R=None), head(transformer, weight_VD, kept_R=kept_R)
    assert head(transformer, weight_VD, kept_R=None) is whole and head(transformer, weight_VD, kept_R=kept_R) is ranked
    assert isinstance(ranked, RankedHead) and torch.equal(ranked(hidden())[..., kept_R], whole(hidden())[..., kept_R])


def test_another_weight_or_other_rows_have_a_head_of_their_own() -> None:
    transformer = for_inference(Speaker().transformer.eval(), weights="fp32")
    weights = [torch.randn(9, WIDTH) for _ in range(12)]
    for _ in range(2):  # more than are kept
        for weight_VD in weights:
            torch.testing.assert_close(head(transformer, weight_VD, kept_R=None)(hidden()), hidden() @ weight_VD.T)
    first, second = (head(transformer, weights[0], kept_R=torch.tensor([row])) for row in (1, 2))
    assert not torch.equal(first(hidden()), second(hidden()))


def test_a_transformer_that_still_learns_keeps_none() -> None:
    model = Speaker()
    assert head(model.transformer, weight_VD := model.codes(), kept_R=None) is not head(model.transformer, weight_VD, kept_R=None)
