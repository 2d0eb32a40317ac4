"""Transforms and language models of codes know nothing of speech: MidiTok's tokens of tunes that are written here, as one codebook."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from audiotok.evaluation.language_model import Budget, Predictor, Size, Uniform, Unigram, fit
from audiotok.transforms.base import Transform
from audiotok.transforms.bpe import Bpe
from audiotok.transforms.pathpiece import PathPiece
from audiotok.transforms.repair import RePair
from audiotok.types import TokenSpec

miditok = pytest.importorskip("miditok", reason="miditok is not installed; pip install miditok==3.1.0")
symusic = pytest.importorskip("symusic", reason="symusic is not installed; pip install miditok==3.1.0")
pytest.importorskip("tokenizers", reason="tokenizers is not installed; pip install tokenizers")

TICKS, BEATS_PER_MINUTE = 480, 120  # of a quarter note
BARS, TUNES, HELD_OUT = 16, 20, 4
PROGRESSIONS = ((0, 5, 7, 0), (0, 9, 5, 7), (9, 5, 0, 7), (0, 7, 9, 5))  # roots of four bars, in semitones over the key
TRIADS = {0: (0, 4, 7), 5: (0, 4, 7), 7: (0, 4, 7), 9: (0, 3, 7)}
SCALE = (0, 2, 4, 5, 7, 9, 11)

Music = tuple[Any, TokenSpec, list[Tensor]]


def tune(path: Path, *, seed: int) -> None:
    """A MIDI file of 16 bars: a chord on every half note, and over it a melody that wanders along the scale in eighths and quarters."""
    generator = np.random.default_rng(seed)
    key, progression, degree = 48 + int(generator.integers(0, 5)), PROGRESSIONS[seed % len(PROGRESSIONS)], 7
    score, track = symusic.Score(TICKS), symusic.Track(program=0, name="piano")
    score.tempos.append(symusic.Tempo(0, BEATS_PER_MINUTE))
    for bar in range(BARS):
        root = progression[bar % len(progression)]
        for half in range(2):
            notes = [symusic.Note((4 * bar + 2 * half) * TICKS, 2 * TICKS, key + root % 12 + step, 64) for step in TRIADS[root]]
            track.notes.extend(notes)
        for beat in range(4):
            eighths = int(generator.integers(1, 3))
            for part in range(eighths):
                degree = int(np.clip(degree + generator.integers(-2, 3), 0, 13))
                start, length = int((4 * bar + beat + part / eighths) * TICKS), TICKS // eighths
                track.notes.append(symusic.Note(start, length, key + 24 + 12 * (degree // 7) + SCALE[degree % 7], 96))
    score.tracks.append(track)
    score.dump_midi(str(path))


def seconds() -> float:
    """Of a tune."""
    return BARS * 4 * 60 / BEATS_PER_MINUTE


@pytest.fixture(scope="module", params=["REMI", "MIDILike"])
def music(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Music:
    """(MidiTok's tokenizer, the spec of its tokens, the tokens of each tune as codes of one codebook)."""
    tokenizer = getattr(miditok, request.param)(miditok.TokenizerConfig(use_programs=False))
    folder, codes = tmp_path_factory.mktemp(request.param), []
    for seed in range(TUNES):
        tune(folder / f"{seed}.mid", seed=seed)
        codes.append(torch.tensor([tokenizer(folder / f"{seed}.mid")[0].ids]))
    rate = Fraction(sum(codes_KN.shape[1] for codes_KN in codes), round(TUNES * seconds()))  # on average: a tune has no frames
    return tokenizer, TokenSpec(44_100, rate, (len(tokenizer),), request.param), codes


TRANSFORMS: dict[str, Callable[[], Bpe | RePair | PathPiece]] = {
    "bpe": lambda: Bpe(200, False, fitted=None),
    "repair": lambda: RePair(200, 10, fitted=None),
    "pathpiece": lambda: PathPiece(Bpe(200, False, fitted=None), 32, fitted=None),
}


def learnt(name: str, music: Music) -> Transform:
    _, spec, codes = music
    transform = TRANSFORMS[name]()
    transform.fit(codes[HELD_OUT:], spec)
    return transform


def notes(tokenizer: Any, codes_KN: Tensor) -> list[tuple[int, int, int, int]]:
    score = tokenizer.decode([codes_KN[0].tolist()])
    return [(note.start, note.duration, note.pitch, note.velocity) for note in score.tracks[0].notes]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_tunes_that_were_not_heard_become_much_shorter_and_are_played_as_before(name: str, music: Music) -> None:
    tokenizer, spec, codes = music
    transform = learnt(name, music)
    for codes_KN in codes[:HELD_OUT]:
        merged_1N = transform.apply(codes_KN, spec)
        again_KN = transform.invert(merged_1N, spec)
        assert torch.equal(again_KN, codes_KN)
        assert merged_1N.shape[1] < 0.6 * codes_KN.shape[1]
        assert len(notes(tokenizer, codes_KN)) > BARS * 8
        assert notes(tokenizer, again_KN) == notes(tokenizer, codes_KN)


def bits_per_second(predictor: Predictor, tunes: list[Tensor]) -> float:
    return sum(float(predictor.bits(tokens_KN).sum()) for tokens_KN in tunes) / (len(tunes) * seconds())


def test_the_language_model_of_codes_foretells_merged_tokens_of_music(music: Music) -> None:
    _, spec, codes = music
    bpe = learnt("bpe", music)
    out, merged = bpe.out_spec(spec), [bpe.apply(codes_KN, spec) for codes_KN in codes]
    held_out, heard = merged[:HELD_OUT], merged[HELD_OUT:]
    budget = Budget(steps=60, codes=1000, probabilities=10**7, frames=100, learning_rate=3e-3, warmup_steps=5, weight_decay=0.1)
    model = fit(heard, out, size=Size(width=64, layers=1, heads=2), budget=budget, seed=0, device=torch.device("cpu"))
    learnt_bits, shares, uniform = (
        bits_per_second(predictor, held_out) for predictor in (model, Unigram(heard, out.codebook_sizes), Uniform(out.codebook_sizes))
    )
    assert 0 < learnt_bits < 0.9 * shares < shares < uniform
    assert uniform < bits_per_second(Uniform(spec.codebook_sizes), codes[:HELD_OUT])  # longer ids, but fewer of them
