"""The aligned model: packing, history, and that stepping gives what training computes."""

from fractions import Fraction
from functools import partial

import pytest
import torch

from audiotok.data.aligned import AlignedUtterance, Line, boundaries, expand, laid_out
from audiotok.data.code_vectors import code_vectors
from audiotok.models.ar_tts import ArTts
from audiotok.models.text import Batch, withheld
from audiotok.transforms.patterns import CoarseFirst, Delay, Flatten, Parallel
from audiotok.transforms.stack import Stack
from audiotok.types import TokenSpec

SPEC = TokenSpec(16000, Fraction(50), (7, 7, 5), "test")
TRANSFORMS = [Parallel(), Delay(step=1), Flatten(), CoarseFirst()]
LAYOUTS = [*TRANSFORMS, Stack(frames=2)]


class Vectors:
    """A tokenizer's `embed`: code v of codebook k is [v, v^2] / 10^k."""

    spec = SPEC

    def embed(self, codes_BKN):
        scale_K11 = 10.0 ** -torch.arange(codes_BKN.shape[1])[:, None, None]
        return torch.stack([codes_BKN, codes_BKN**2], dim=-1) * scale_K11


def tiny(transform, **changes):
    torch.manual_seed(0)
    options = {"width": 32, "layers": 2, "heads": 2, "feed_forward": 48, "dropout": 0.0, "text_layers": 1}
    options |= {
        "replace_codes": 0.2,
        "blank_frames": 0.2,
        "own_history": 0.5,
        "anonymous": 0.1,
        "unconditional": 0.0,
        "duration_weight": 0.5,
    } | changes
    vectors = partial(code_vectors, Vectors(), transform)
    return ArTts(
        transform.out_spec(SPEC), num_phonemes=9, num_speakers=2, num_languages=2, **({"vectors": vectors, "from_vectors": False} | options)
    )


def utterance(seed, transform, *, phonemes, frames):
    generator = torch.Generator().manual_seed(seed)
    codes_KN = torch.stack([torch.randint(0, size, (frames,), generator=generator) for size in SPEC.codebook_sizes])
    durations = (torch.rand(phonemes, generator=generator) + 0.1).tolist()
    durations = [duration * frames / sum(durations) for duration in durations]
    line = Line(torch.randint(1, 9, (phonemes,), generator=generator).tolist(), [0] * phonemes, seed % 2, 0)
    holes_KN = ~transform.legal(frames, SPEC)
    path = laid_out(boundaries(durations, frames), transform, SPEC)
    return AlignedUtterance(str(seed), line, durations, path, transform.apply(codes_KN, SPEC).masked_fill(holes_KN, -1))


def test_expand_draws_what_its_docstring_draws():
    assert [part.tolist() for part in expand([2, 5])] == [[0, 0, 1, 1, 1], [0, 1, 0, 1, 2], [2, 1, 3, 2, 1]]


def test_boundaries_stay_within_half_a_frame_and_end_with_the_audio():
    durations = [0.4] * 50
    ends = boundaries(durations, 21)
    assert all(abs(end - 0.4 * (i + 1)) <= 0.5 for i, end in enumerate(ends[:-1]))
    assert ends[-1] == 21
    assert boundaries([3.0, 9.0], 5) == [3, 5]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: type(transform).__name__)
def test_a_row_of_a_batch_has_the_loss_it_has_alone(transform):
    model = tiny(transform).eval()
    utterances = [utterance(1, transform, phonemes=3, frames=9), utterance(2, transform, phonemes=6, frames=14)]
    alone = [model.loss(Batch.of([one]))[1] for one in utterances]
    together = model.loss(Batch.of(utterances))[1]
    counts = torch.tensor([float((one.codes_KN >= 0).sum()) for one in utterances])
    expected = (torch.stack([one["codes"] for one in alone]) * counts).sum() / counts.sum()
    torch.testing.assert_close(together["codes"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("from_vectors", [False, True])
@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: type(transform).__name__)
def test_stepping_gives_the_logits_of_the_whole_sequence(transform, from_vectors):
    model = tiny(transform, from_vectors=from_vectors).eval()
    batch = Batch.of([utterance(3, transform, phonemes=4, frames=8), utterance(4, transform, phonemes=7, frames=11)])
    text_BPD = model.encode_text(batch.text)
    frames_BND = model.embed_path(text_BPD, batch.path) + model.embed_history(batch.codes_BKN)
    whole = model.logits(model.decode(text_BPD, batch.text.lengths_B, frames_BND))
    heard_BKN = torch.cat([torch.full((2, model.spec.num_codebooks, 1), -1), batch.codes_BKN[..., :-1]], dim=2)
    for pieces in ([1] * heard_BKN.shape[2], [3, 1, heard_BKN.shape[2] - 4]):
        step = model.begin(batch.text, batch.path, positions=heard_BKN.shape[2])
        for piece_BKN, *wanted in zip(heard_BKN.split(pieces, dim=2), *(each.split(pieces, dim=1) for each in whole)):
            for stepped_BNV, whole_BNV in zip(step(piece_BKN), wanted):
                torch.testing.assert_close(stepped_BNV, whole_BNV, rtol=1e-4, atol=1e-4)


def test_no_position_sees_its_own_code_or_a_later_one():
    model = tiny(Parallel()).eval()
    one = utterance(5, Parallel(), phonemes=4, frames=10)
    changed = AlignedUtterance(one.id, one.line, one.durations_P, one.path, one.codes_KN.clone())
    changed.codes_KN[:, 6] = (changed.codes_KN[:, 6] + 1) % 5
    hidden = []
    for item in (one, changed):
        batch = Batch.of([item])
        text_BPD = model.encode_text(batch.text)
        frames_BND = model.embed_path(text_BPD, batch.path) + model.embed_history(batch.codes_BKN)
        hidden.append(model.decode(text_BPD, batch.text.lengths_B, frames_BND))
    assert torch.equal(hidden[0][:, :7], hidden[1][:, :7])
    assert not torch.allclose(hidden[0][:, 7:], hidden[1][:, 7:])


def test_history_is_spoiled_in_training_only():
    model, codes_BKN = tiny(Parallel()), torch.ones(4, 3, 200, dtype=torch.int64)
    spoiled_BKN = model.train().spoil(codes_BKN)
    blank = (spoiled_BKN == -1).all(1).float().mean()
    assert 0.1 < blank < 0.3
    assert 0.02 < (spoiled_BKN != 1).float().mean() - blank < 0.4
    assert spoiled_BKN.max() < 7
    assert torch.equal(model.eval().spoil(codes_BKN), codes_BKN)


def heard(model, text, path, codes_BKN):
    text_BPD = model.encode_text(text)
    return model.hidden(text_BPD, text.lengths_B, model.embed_path(text_BPD, path), codes_BKN)


def test_a_row_whose_text_is_withheld_is_told_the_same_whatever_its_text():
    model = tiny(Parallel(), unconditional=0.5).eval()
    batches = [
        Batch.of([utterance(seed, Parallel(), phonemes=5, frames=9), utterance(7, Parallel(), phonemes=3, frames=8)]) for seed in (1, 2)
    ]
    told = [withheld(batch.text, batch.path, torch.tensor([True, False])) for batch in batches]
    for ours, theirs in zip((vars(part) for part in told[0]), (vars(part) for part in told[1])):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert model.withhold(batches[0]) is batches[0]  # outside training
    untold, all_told = (heard(model, *pair, batches[0].codes_BKN) for pair in (told[0], (batches[0].text, batches[0].path)))
    assert not torch.allclose(untold[0], all_told[0])
    torch.testing.assert_close(untold[1, :8], all_told[1, :8])


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_text_of_a_share_of_the_utterances_is_withheld_in_training(share):
    torch.manual_seed(0)
    model = tiny(Parallel(), unconditional=share).train()
    batch = Batch.of([utterance(seed, Parallel(), phonemes=4, frames=6) for seed in range(200)])
    untold_B = model.withhold(batch).text.phonemes_BP[:, 0] == 0
    assert abs(untold_B.float().mean() - share) < 0.1
    assert model.loss(batch)[0].isfinite()


@pytest.mark.parametrize("transform", LAYOUTS, ids=lambda transform: type(transform).__name__)
def test_the_vectors_of_codes_are_those_of_the_tokenizer_standardised_and_none_of_a_pad(transform):
    vectors = torch.cat(code_vectors(Vectors(), transform))
    assert len(vectors) == sum(transform.out_spec(SPEC).codebook_sizes)
    hidden_VKD = Vectors().embed(torch.arange(7)[:, None, None].expand(-1, 3, -1))[:, :, 0]
    per_codebook = [hidden_VKD[:size, k] for k, size in enumerate(SPEC.codebook_sizes)]
    standard = [(each - each.mean(0)) / (each - each.mean(0)).square().mean().sqrt() for each in per_codebook]
    if isinstance(transform, (Delay, Stack)):
        again = standard if isinstance(transform, Stack) else []
        padded = [torch.cat([each, torch.zeros(1, 2)]) for each in standard]
        standard = [*again, *padded] if again else padded
    torch.testing.assert_close(vectors, torch.cat(standard))


def test_a_code_never_learnt_goes_in_and_comes_out_as_its_vector_says():
    model = tiny(Parallel(), from_vectors=True)
    with torch.no_grad():
        model.codes.own[3] = model.heads.own[3] = 5.0
    for table in (model.codes, model.heads):
        (first_VD, projection) = (table.vectors_0, table.projections[0])
        torch.testing.assert_close(table()[:3], first_VD[:3] @ projection)
        torch.testing.assert_close(table()[3], first_VD[3] @ projection + 5)


@pytest.mark.parametrize("from_vectors", [False, True])
def test_the_model_learns_one_utterance_by_heart(from_vectors):
    model = tiny(Parallel(), replace_codes=0.0, blank_frames=0.0, own_history=0.0, from_vectors=from_vectors).train()
    batch = Batch.of([utterance(6, Parallel(), phonemes=5, frames=20)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss, _ = model.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    _, values = model.eval().loss(batch)
    assert values["codes"] < 0.1
    (durations,) = model.predict_durations(batch.text)
    torch.testing.assert_close(durations, batch.durations_BP[0], rtol=0.3, atol=0.5)
