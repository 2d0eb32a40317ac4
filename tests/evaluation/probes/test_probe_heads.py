"""Every head: shapes, gradients, padding, and speechbrain's modules with DASB's settings."""

import inspect
from functools import partial

import pytest
import torch
from probe_examples import RATE
from torch import nn
from torch.nn import functional as F

from audiotok.evaluation.probes import speechbrain_heads
from audiotok.evaluation.probes.classification import Classifier
from audiotok.evaluation.probes.embedding import CodeEmbedding
from audiotok.evaluation.probes.fitting import predictions
from audiotok.evaluation.probes.heads import BiLstm, Convolutions, Dense, Frames, Pooled
from audiotok.evaluation.probes.inputs import Labelled, ProbeInput, valid
from audiotok.evaluation.probes.speechbrain_heads import (
    Conformer,
    ContextNet,
    CosineOutput,
    Crdnn,
    Ecapa,
    Statistics,
    Xvector,
    XvectorOutput,
    relative,
)
from audiotok.evaluation.probes.token_prediction import Predictor
from audiotok.evaluation.probes.transcription import Transcriber

WIDTH = 24
KERNELS = {"kernels": (5, 3, 3, 3, 1), "dilations": (1, 2, 3, 4, 1)}
OWN = {
    "frames": Frames,
    "dense": partial(Dense, hidden=20, activation=nn.Sigmoid),
    "bilstm": partial(BiLstm, hidden=16, layers=2, dropout=0.2),
    "convolutions": partial(Convolutions, channels=16, kernel=5, layers=2, dropout=0.1),
}
FRAME_HEADS = OWN | {
    "contextnet": partial(ContextNet, channels=(16, 16), out_channels=24, layers=2, kernel=3, squeezed=4, dropout=0.1),
    "conformer": partial(
        Conformer, hidden=16, heads=2, layers=2, feed_forward=32, kernel=31, dropout=0.1, activation=nn.GELU, max_frames=200
    ),
    "crdnn": partial(Crdnn, channels=(4, 4), kernel=3, lstm_layers=2, lstm_hidden=8, dense_blocks=1, dense=16, dropout=0.1),
}
POOLED_HEADS = {name: partial(Pooled, frames=head) for name, head in OWN.items()} | {
    "ecapa": partial(Ecapa, channels=(16, 16, 16, 16, 48), attention=8, embedding=12, **KERNELS),
    "xvector": partial(Xvector, channels=(16, 16, 16, 16, 24), kernels=(5, 3, 3, 1, 1), dilations=(1, 2, 3, 1, 1), embedding=12),
}
BRAIN = {"contextnet", "conformer", "crdnn", "ecapa", "xvector"}


def make(heads, name):
    if name in BRAIN:
        pytest.importorskip("speechbrain", reason="pip install 'audiotok[probes]'")
    torch.manual_seed(0)
    return heads[name]


def examples(codebooks: int, lengths=(30, 9, 2, 9, 1), target="a") -> list[Labelled]:
    generator = torch.Generator().manual_seed(0)
    codes = [torch.randint(16, (codebooks, length), generator=generator) for length in lengths]
    return [Labelled(str(n), ProbeInput(each, RATE, (16,) * codebooks), target) for n, each in enumerate(codes)]


def way_in(codebooks: int) -> CodeEmbedding:
    return CodeEmbedding((16,) * codebooks, width=WIDTH, mixing="attention", codebooks=None, factor=1, vectors=None)


def probes(kind, head, codebooks: int):
    """A probe of this kind with its examples."""
    if kind == "classifier":
        return Classifier(way_in(codebooks), head, nn.Linear, classes=[("a", "b", "c")]), examples(codebooks)
    if kind == "transcriber":
        return Transcriber(way_in(codebooks), head, characters=["a", "b"], outputs=2), examples(codebooks)
    speakers = 2 if kind == "separator" else 1
    predictor = Predictor(way_in(codebooks), head, codebook_sizes=(16,) * codebooks, speakers=speakers)
    chosen = examples(codebooks)
    wanted = [each.input.frames.expand(speakers, -1, -1) for each in chosen]
    return predictor, [Labelled(each.id, each.input, target) for each, target in zip(chosen, wanted)]


CASES = [("classifier", name) for name in POOLED_HEADS] + [
    (kind, name) for kind in ("transcriber", "predictor", "separator") for name in FRAME_HEADS
]


@pytest.mark.parametrize("codebooks", [1, 8])
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_every_head_learns_from_codes_of_one_and_eight_codebooks(kind, name, codebooks):
    probe, chosen = probes(kind, make(POOLED_HEADS if kind == "classifier" else FRAME_HEADS, name), codebooks)
    batch = probe.collate(chosen)
    loss = probe.loss(probe(batch.inputs), batch)
    loss.backward()
    assert torch.isfinite(loss)
    gradients = {name: each.grad for name, each in probe.named_parameters() if each.requires_grad}
    assert all(grad is not None and torch.isfinite(grad).all() for grad in gradients.values())
    assert gradients["embedding.table.weight"].any()


@pytest.mark.parametrize(("kind", "name"), [case for case in CASES if case[0] != "predictor"])
def test_what_is_said_of_an_utterance_does_not_depend_on_the_others(kind, name):
    probe, chosen = probes(kind, make(POOLED_HEADS if kind == "classifier" else FRAME_HEADS, name), 2)
    together = {each.id: row for part, _, rows in predictions(probe, chosen, batch_size=3) for each, row in zip(part, rows)}
    for each in chosen:
        [(_, _, alone)] = predictions(probe, [each], batch_size=1)
        row = together[each.id]
        row = row if kind == "classifier" else row.narrow(-2, 0, alone.shape[-2])
        torch.testing.assert_close(row, alone[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("pooled", [True, False])
def test_a_head_that_masks_padding_gives_the_same_whatever_stands_in_it(name, pooled):
    torch.manual_seed(0)
    head = (POOLED_HEADS if pooled else FRAME_HEADS)[name](WIDTH).eval()
    assert head.masks_padding
    hidden_BND, lengths_B = torch.randn(3, 20, WIDTH), torch.tensor([20, 7, 1])
    noise_BND = torch.where(valid(lengths_B, 20)[..., None], hidden_BND, 100.0)
    one, other = head(hidden_BND, lengths_B), head(noise_BND, lengths_B)
    for row, length in enumerate(lengths_B.tolist()):
        alone = head(hidden_BND[row : row + 1, :length], lengths_B[row : row + 1])[0]
        for found in (one[row], other[row]):
            torch.testing.assert_close(found if pooled else found[:length], alone)


def test_speechbrain_is_told_lengths_that_it_turns_back_into_the_same():
    dataio = pytest.importorskip("speechbrain.dataio.dataio", reason="pip install 'audiotok[probes]'")
    wrong = 0
    for frames in range(1, 300):
        lengths_B = torch.arange(1, frames + 1)
        mask = dataio.length_to_mask(relative(lengths_B, frames) * frames, max_len=frames)
        assert torch.equal(mask.sum(dim=1).long(), lengths_B)
        assert torch.equal(torch.round(relative(lengths_B, frames) * frames).long(), lengths_B)
        wrong += int((dataio.length_to_mask(lengths_B / frames * frames, max_len=frames).sum(dim=1) != lengths_B).sum())
    assert wrong  # what the quarter of a frame is for


def count(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def brain(module: str):
    pytest.importorskip("speechbrain", reason="pip install 'audiotok[probes]'")
    return speechbrain_heads.speechbrain(module)


def same(head: nn.Module, theirs: nn.Module, call, frames: int = 60) -> None:
    """Our head with their weights says what theirs does of rows without padding."""
    theirs.load_state_dict(head.net.state_dict())
    head.eval(), theirs.eval()
    hidden_BND = torch.randn(2, frames, 1024)
    with torch.no_grad():
        torch.testing.assert_close(head(hidden_BND, torch.tensor([frames, frames])), call(hidden_BND), atol=1e-5, rtol=1e-5)


def test_ecapa_is_dasbs_for_emotions():
    theirs = brain("lobes.models.ECAPA_TDNN").ECAPA_TDNN(
        input_size=1024,
        channels=[1024, 1024, 1024, 1024, 3072],
        kernel_sizes=[5, 3, 3, 3, 1],
        dilations=[1, 2, 3, 4, 1],
        attention_channels=64,
        lin_neurons=192,
    )
    head = Ecapa(1024, channels=(1024, 1024, 1024, 1024, 3072), attention=64, embedding=192, **KERNELS)
    assert count(head) == count(theirs) and head.width == 192
    same(head, theirs, lambda hidden_BND: theirs(hidden_BND)[:, 0])


def test_the_xvector_is_dasbs_for_keywords_but_for_the_noise():
    theirs = brain("lobes.models.Xvector").Xvector(
        in_channels=1024,
        tdnn_blocks=5,
        tdnn_channels=[1024, 1024, 1024, 1024, 3072],
        tdnn_kernel_sizes=[5, 3, 3, 1, 1],
        tdnn_dilations=[1, 2, 3, 1, 1],
        lin_neurons=512,
    )
    head = Xvector(1024, channels=(1024,) * 4 + (3072,), kernels=(5, 3, 3, 1, 1), dilations=(1, 2, 3, 1, 1), embedding=512)
    assert count(head) == count(theirs) and head.width == 512
    theirs.load_state_dict(dict(zip(theirs.state_dict(), [*head.frames.state_dict().values(), *head.last.state_dict().values()])))
    head.eval(), theirs.eval()
    hidden_BND, lengths_B = torch.randn(2, 60, 1024), torch.tensor([60, 45])
    with torch.no_grad():
        found, expected = head(hidden_BND, lengths_B), theirs(hidden_BND, lengths_B / 60)[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(Statistics()(hidden_BND[:, :1], torch.tensor([1, 1]))[:, 1024:], torch.full((2, 1024), 1.1e-5))


def test_the_conformer_is_dasbs_for_enhancement():
    theirs = brain("lobes.models.transformer.TransformerASR").TransformerASR(
        input_size=1024,
        tgt_vocab=-1,
        d_model=256,
        nhead=4,
        num_encoder_layers=6,
        num_decoder_layers=0,
        d_ffn=2048,
        dropout=0.1,
        activation=nn.GELU,
        max_length=2000,
        encoder_module="conformer",
        normalize_before=True,
        causal=False,
    )
    sizes = {"hidden": 256, "heads": 4, "layers": 6, "feed_forward": 2048, "kernel": 31, "dropout": 0.1, "max_frames": 2000}
    head = Conformer(1024, activation=nn.GELU, **sizes)
    assert count(head) == count(theirs) and head.width == 256
    same(head, theirs, lambda hidden_BND: theirs.encode(hidden_BND, torch.ones(2)))
    with pytest.raises(ValueError, match="2001 frames"):
        head(torch.zeros(1, 2001, 1024), torch.tensor([2001]))


def test_the_crdnn_is_dasbs_for_enhancement():
    theirs = brain("lobes.models.CRDNN").CRDNN(
        input_shape=[None, None, 1024],
        activation=nn.LeakyReLU,
        dropout=0.1,
        cnn_blocks=2,
        cnn_channels=(16, 16),
        cnn_kernelsize=(3, 3),
        inter_layer_pooling_size=(2, 2),
        time_pooling=True,
        using_2d_pooling=False,
        time_pooling_size=1,
        rnn_class=brain("nnet.RNN").LSTM,
        rnn_layers=4,
        rnn_neurons=256,
        rnn_bidirectional=True,
        dnn_blocks=2,
        dnn_neurons=256,
        rnn_re_init=True,
        use_rnnp=False,
    )
    head = Crdnn(1024, channels=(16, 16), kernel=3, lstm_layers=4, lstm_hidden=256, dense_blocks=2, dense=256, dropout=0.1)
    assert count(head) == count(theirs) and head.width == 256
    same(head, theirs, theirs)


def test_the_contextnet_is_dasbs_for_transcripts(monkeypatch):
    """By its arguments: its 21 blocks take long to build."""
    module, asked = brain("lobes.models.ContextNet"), {}
    dasb = inspect.signature(module.ContextNet).bind([None, None, 1024], strides=[1] * 21)
    dasb.apply_defaults()
    with monkeypatch.context() as patched:
        patched.setattr(module, "ContextNet", lambda **told: asked.update(told) or nn.Identity())
        ContextNet(1024, channels=(256,) * 10 + (512,) * 11, out_channels=640, layers=5, kernel=3, squeezed=12, dropout=0.15)
    assert asked == {name: dasb.arguments[name] for name in asked} | {"conv_channels": [*[256] * 10, *[512] * 11]}
    sizes = {"conv_channels": [8, 12], "strides": [1, 1], "num_blocks": 2, "num_layers": 2, "out_channels": 8}
    theirs = module.ContextNet([None, None, 1024], **sizes)
    head = ContextNet(1024, channels=(8, 12), out_channels=8, layers=2, kernel=3, squeezed=12, dropout=0.15)
    assert count(head) == count(theirs)
    same(head, theirs, theirs)


def test_the_lstm_is_dasbs_for_transcripts():
    theirs = brain("nnet.RNN").LSTM(input_shape=[None, None, 1024], num_layers=2, bidirectional=True, dropout=0.2, hidden_size=1024)
    head = BiLstm(1024, hidden=1024, layers=2, dropout=0.2)
    assert count(head) == count(theirs) and head.width == 2048


def test_the_margin_is_speechbrains_aam_softmax():
    losses = brain("nnet.losses")
    torch.manual_seed(0)
    output, hidden_BD, classes_B = CosineOutput(12, 7, margin=0.2, scale=30.0), torch.randn(5, 12), torch.tensor([0, 3, 6, 6, 1])
    theirs = losses.LogSoftmaxWrapper(losses.AdditiveAngularMargin(margin=0.2, scale=30))
    expected = theirs(output.net(hidden_BD[:, None]), classes_B[:, None])
    found = F.cross_entropy(output.with_margin(output(hidden_BD), classes_B), classes_B)
    torch.testing.assert_close(found, expected)
    assert found > F.cross_entropy(output(hidden_BD), classes_B)


def test_the_xvector_classifier_gives_log_probabilities():
    brain("lobes.models.Xvector")
    log_probs_BV = XvectorOutput(12, 7, hidden=16)(torch.randn(5, 12))
    torch.testing.assert_close(log_probs_BV.exp().sum(dim=1), torch.ones(5))


def test_without_speechbrain_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "speechbrain.lobes.models.Xvector", None)
    with pytest.raises(ValueError, match=r"pip install 'audiotok\[probes\]'"):
        make({"dense": POOLED_HEADS["xvector"]}, "dense")(WIDTH)


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match="odd; got 4"):
        Convolutions(WIDTH, channels=8, kernel=4, layers=1, dropout=0.0)
