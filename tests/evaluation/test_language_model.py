"""Bits per second of a small language model of codes, against slow sums, against sources whose entropy is known, and on real speech."""

from dataclasses import replace
from fractions import Fraction
from math import log2

import numpy as np
import pytest
import torch
from torch import Tensor

from audiotok import audio
from audiotok.data.preferences import Contrast, Recording, voice_pairs
from audiotok.evaluation.language_model import (
    IGNORED,
    Budget,
    LanguageModel,
    Size,
    Uniform,
    Unigram,
    bits_per_second,
    crops,
    fit,
    prefers,
    windows,
)
from audiotok.models.code_lm import CodeNetwork
from audiotok.tokenizers.codec import Codec
from audiotok.types import TokenSpec

CPU = torch.device("cpu")
SIZE = Size(width=32, layers=1, heads=2)
BUDGET = Budget(steps=60, codes=1024, probabilities=10**7, frames=32, learning_rate=5e-3, warmup_steps=5, weight_decay=0.01)


def spec(*sizes: int, frame_rate: int = 50) -> TokenSpec:
    return TokenSpec(16000, Fraction(frame_rate), sizes, "test")


def untrained(*sizes: int, context: int) -> LanguageModel:
    torch.manual_seed(0)
    network = CodeNetwork(codebook_sizes=sizes, width=16, layers=1, heads=2)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return LanguageModel(network.eval(), context, {})


def random_codes(*sizes: int, frames: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(size, (frames,), generator=generator) for size in sizes])


def alternating(*, frames: int, seed: int) -> Tensor:
    """A fair coin in the first codebook; in the second, what it showed a frame ago: one bit a frame, and no more."""
    coin_N = random_codes(2, frames=frames + 1, seed=seed)[0]
    return torch.stack([coin_N[1:], coin_N[:-1]])


def total(items: dict) -> float:
    return sum(item.numerator for item in items.values()) / sum(item.denominator for item in items.values())


@pytest.mark.parametrize(("frames", "context"), [(1, 4), (4, 4), (5, 4), (23, 4), (23, 7), (100, 32)])
def test_windows_score_each_frame_once_with_half_a_context_before_it(frames, context):
    scored = []
    for start, first, end in windows(frames, context=context):
        assert 0 <= start <= first < end <= frames and end - start <= context
        scored.extend((frame, frame - start) for frame in range(first, end))
    assert [frame for frame, _ in scored] == list(range(frames))
    assert all(heard >= min(frame, context // 2) for frame, heard in scored)


def test_the_bits_are_minus_log2_p_of_each_code_given_those_that_its_window_holds():
    model, codes_KN = untrained(5, 3, context=8), random_codes(5, 3, frames=29)
    slow_KN = torch.empty(2, 29, dtype=torch.float64)
    for start, first, end in windows(29, context=8):
        for frame in range(first, end):
            logits = model.network(codes_KN[None, :, start : frame + 1])
            for k, logits_BNV in enumerate(logits):
                slow_KN[k, frame] = -logits_BNV[0, -1].log_softmax(-1)[codes_KN[k, frame]] / np.log(2)
    torch.testing.assert_close(model.bits(codes_KN), slow_KN, rtol=0, atol=1e-5)


def test_the_probabilities_of_all_codes_add_up_to_one():
    model, codes_KN = untrained(5, 3, context=8), random_codes(5, 3, frames=13)
    for codebook, size in enumerate((5, 3)):
        probabilities = []
        for code in range(size):
            changed_KN = codes_KN.clone()
            changed_KN[codebook, 12] = code
            probabilities.append(2 ** -float(model.bits(changed_KN)[codebook, 12]))
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)


def test_uniform_is_the_rate_of_a_fixed_length_code():
    held_out = {"a": random_codes(1024, 16, frames=70), "b": random_codes(1024, 16, frames=30, seed=1)}
    items = bits_per_second(Uniform((1024, 16)), held_out, spec(1024, 16))
    assert total(items) == pytest.approx(spec(1024, 16).bits_per_second) == 700
    assert items["a"].denominator == 70 / 50


def test_a_unigram_takes_the_entropy_of_its_source_and_forgives_a_code_that_it_never_saw():
    generator = torch.Generator().manual_seed(0)
    shares = torch.tensor([0.5, 0.25, 0.125, 0.125])
    train, held_out = (torch.multinomial(shares, 20000, replacement=True, generator=generator)[None] for _ in range(2))
    unigram = Unigram([train[:, :9000], train[:, 9000:]], (5,))
    assert float(unigram.bits(held_out).mean()) == pytest.approx(1.75, abs=0.02)
    counts = np.bincount(train[0], minlength=5)
    assert float(unigram.bits(torch.tensor([[4]]))) == pytest.approx(-log2(0.5 / (counts.sum() + 2.5)))


def test_it_learns_what_can_be_foretold_and_no_more():
    train = [alternating(frames=100, seed=seed) for seed in range(40)]
    held_out = {str(seed): alternating(frames=100, seed=1000 + seed) for seed in range(10)}
    model = fit(train, spec(2, 2), size=SIZE, budget=BUDGET, seed=0, device=CPU)
    items = bits_per_second(model, held_out, spec(2, 2))
    assert 0.97 * 50 < total(items) < 1.06 * 50  # one bit a frame
    assert total(bits_per_second(Unigram(train, (2, 2)), held_out, spec(2, 2))) == pytest.approx(100, rel=0.02)
    bits_KN = model.bits(held_out["0"])
    assert bits_KN[0].mean() > 0.95 and bits_KN[1, 1:].mean() < 0.05


def test_before_it_learns_it_foretells_the_share_of_each_code():
    train, held_out = [random_codes(7, 3, frames=50, seed=seed) for seed in range(3)], random_codes(7, 3, frames=40, seed=9)
    model = fit(train, spec(7, 3), size=SIZE, budget=replace(BUDGET, steps=1, learning_rate=0.0), seed=0, device=CPU)
    torch.testing.assert_close(model.bits(held_out), Unigram(train, (7, 3)).bits(held_out), rtol=0, atol=1e-5)


def test_what_it_heard_is_counted():
    train = [random_codes(4, 4, frames=frames, seed=frames) for frames in (20, 80)]
    heard = fit(train, spec(4, 4), size=SIZE, budget=replace(BUDGET, steps=3), seed=0, device=CPU).heard
    frames = sum(int((codes_BKN[:, 0] != IGNORED).sum()) for codes_BKN in crops(train, replace(BUDGET, steps=3), (4, 4), seed=0))
    assert BUDGET.rows((8, 8)) == 16
    assert replace(BUDGET, probabilities=32 * 1000 * 3).rows((1000,)) == 3, "large codebooks see fewer crops"
    assert heard["codes"] == 2 * frames and heard["seconds"] == frames / 50 and heard["epochs"] == frames / 100
    assert heard["first_loss"] == pytest.approx(np.log(4), abs=0.6)


def test_crops_are_pieces_of_the_utterances_drawn_by_their_length():
    train = [torch.arange(8)[None], 100 + torch.arange(72)[None]]
    budget = replace(BUDGET, codes=16 * 50, frames=16, steps=40)
    rows = torch.cat(list(crops(train, budget, (200,), seed=0)))[:, 0]
    short_N = rows[:, 0] < 100
    assert float(short_N.float().mean()) == pytest.approx(0.1, abs=0.02)
    assert (rows[short_N][:, 8:] == IGNORED).all() and torch.equal(rows[short_N][0, :8], torch.arange(8))
    assert (rows[~short_N].diff(dim=1) == 1).all()
    assert set(rows[~short_N][:, 0].tolist()) == set(range(100, 100 + 72 - 16 + 1))


def test_the_same_seed_gives_the_same_model_to_the_bit_another_another_and_neither_touches_the_global_generator():
    train, held_out = [random_codes(8, 8, frames=60, seed=seed) for seed in range(4)], random_codes(8, 8, frames=50, seed=9)
    state = torch.get_rng_state()
    first, again, other = (
        fit(train, spec(8, 8), size=SIZE, budget=replace(BUDGET, steps=5), seed=seed, device=CPU).bits(held_out) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_likelier_utterance_is_preferred_by_its_bits_a_second_and_a_tie_is_a_half():
    unigram = Unigram([torch.tensor([[0] * 90 + [1] * 10])], (2,))
    likely, unlikely, long_likely = torch.zeros(1, 10, dtype=torch.long), torch.ones(1, 10, dtype=torch.long), torch.zeros(1, 90).long()
    assert prefers(unigram, likely, unlikely) == 1
    assert prefers(unigram, unlikely, likely) == 0
    assert prefers(unigram, likely, likely.clone()) == 0.5
    assert prefers(unigram, long_likely, unlikely[:, :5]) == 1  # though it takes more bits in all
    assert float(unigram.bits(long_likely).sum()) > float(unigram.bits(unlikely[:, :4]).sum())


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([], "no utterances"),
        ([torch.zeros(1, 5, dtype=torch.long)], r"shape \(1, 5\), wanted \[2, frames\]"),
        ([torch.zeros(2, 0, dtype=torch.long)], r"shape \(2, 0\)"),
        ([torch.tensor([[0, 1, 2], [0, 4, 0]])], "codebook 1 holds the code 4 at frame 1; it has 4"),
        ([torch.tensor([[0, -1], [0, 0]])], "codebook 0 holds the code -1 at frame 1"),
    ],
)
def test_codes_that_are_none_are_refused_with_what_they_are(train, message):
    with pytest.raises(ValueError, match=message):
        fit(train, spec(4, 4), size=SIZE, budget=BUDGET, seed=0, device=CPU)
    with pytest.raises(ValueError, match=message):
        Unigram(train, (4, 4))


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match="a context of 2 frames or more"):
        replace(BUDGET, frames=1)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.from_pretrained("codec_50hz", num_codebooks=1)


def encoded(codec: Codec, wav_T: Tensor) -> Tensor:
    return codec.encode(wav_T[None], torch.tensor([len(wav_T)]))[0][0]


@pytest.fixture(scope="module")
def spoken(speech, codec) -> dict[str, Tensor]:
    """Codes of five minutes of read speech by as many speakers."""
    paths = sorted((speech / "librispeech" / "train-clean-100").glob("*.flac"))[:50]
    return {path.stem: encoded(codec, audio.read(path)[0][: 6 * 16000]) for path in paths}


def test_on_speech_context_saves_bits_over_shares_and_shares_over_a_fixed_length(spoken, codec):
    ids = sorted(spoken)
    train, held_out = [spoken[id] for id in ids[10:]], {id: spoken[id] for id in ids[:10]}
    budget = Budget(steps=40, codes=1200, probabilities=10**7, frames=100, learning_rate=3e-3, warmup_steps=5, weight_decay=0.1)
    model = fit(train, codec.spec, size=Size(width=64, layers=1, heads=2), budget=budget, seed=0, device=CPU)
    sizes = codec.spec.codebook_sizes
    uniform, unigram, learnt = (
        total(bits_per_second(predictor, held_out, codec.spec)) for predictor in (Uniform(sizes), Unigram(train, sizes), model)
    )
    assert uniform == pytest.approx(codec.spec.bits_per_second)
    assert learnt < unigram < uniform
    assert model.heard["last_loss"] < 0.95 * model.heard["first_loss"]
    shuffled = {id: codes_KN[:, torch.randperm(codes_KN.shape[1])] for id, codes_KN in held_out.items()}
    assert total(bits_per_second(model, shuffled, codec.spec)) > learnt + 5


def test_of_preference_pairs_of_speech_one_of_each_is_preferred(speech, codec, spoken):
    paths = sorted((speech / "librispeech" / "train-clean-100").glob("*.flac"))[:6]
    recordings = [Recording(path.stem, audio.read(path)[0][: 4 * 16000], {"speaker": path.stem.split("-")[0]}) for path in paths]
    pairs = voice_pairs(recordings, Contrast("speaker", "speaker", (), "real"), sample_rate=16000, crossfade=0.01, seed=0)
    unigram = Unigram(list(spoken.values()), codec.spec.codebook_sizes)
    codes = [(encoded(codec, pair.positive_T), encoded(codec, pair.negative_T)) for pair in pairs]
    forwards = [prefers(unigram, positive, negative) for positive, negative in codes]
    backwards = [prefers(unigram, negative, positive) for positive, negative in codes]
    assert len(codes) >= 4 and [forth + back for forth, back in zip(forwards, backwards)] == [1.0] * len(codes)
