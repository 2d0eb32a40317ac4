"""Which phoneme is spoken when: a hidden Markov model trained on the corpus itself, for any language, in a minute.

Each phoneme is a left-to-right chain of states with a mixture of diagonal Gaussians each; all silences share one state. A pause may stand
at every break, between any two words and at both ends. Training is Viterbi re-estimation from a flat start (Rabiner 1989, section VI);
the number of Gaussians is doubled on the way. On 202 of the English prompts, word boundaries differ from PocketSphinx's forced alignment
by 20 ms at the median, 26 ms on average.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torchaudio
from torch import Tensor

from audiotok.data.phonemes import SILENCE, is_break, split_stress

HOP_SECONDS = 0.01
MFCC = 13
VARIANCE_FLOOR = 0.01  # of unit-variance features
BLOCK = 50_000  # frames re-estimated at a time
MIN_PAUSE_FRAMES = 3  # a shorter pause between words is given to its neighbours


@dataclass(frozen=True)
class Segment:
    """A phoneme, or a place where a pause may stand."""

    phoneme: str
    optional: bool  # a pause that may take no time at all


def segments(words: Sequence[Sequence[str]]) -> list[Segment]:
    """The phonemes of `words` with an optional pause at both ends, at breaks and between words."""
    chain = [Segment(SILENCE, True)]
    for word in words:
        if is_break(word):
            chain[-1:] = [Segment(word[0], True)]
        else:
            chain += [Segment(phoneme, False) for phoneme in word] + [Segment(SILENCE, True)]
    return chain


class Features:
    """Cepstra with their differences, normalised over the utterance: [N, 39] at 100 frames/s. Raises ValueError for a stump of audio."""

    def __init__(self, sample_rate: int) -> None:
        mel = {
            "n_fft": 512,
            "win_length": round(0.025 * sample_rate),
            "hop_length": round(HOP_SECONDS * sample_rate),
            "n_mels": 40,
            "f_min": 60.0,
        }
        self.mfcc = torchaudio.transforms.MFCC(sample_rate, MFCC, log_mels=True, melkwargs=mel)
        self.delta = torchaudio.transforms.ComputeDeltas(5)

    def __call__(self, wav_T: Tensor) -> Tensor:
        if len(wav_T) <= self.mfcc.MelSpectrogram.n_fft:
            raise ValueError(f"{len(wav_T)} samples of audio are shorter than the aligner's window")
        cepstra = self.mfcc(wav_T + 1e-4 * torch.randn(wav_T.shape, generator=torch.Generator().manual_seed(0)))
        first = self.delta(cepstra)
        frames = torch.cat([cepstra, first, self.delta(first)]).T
        return (frames - frames.mean(0)) / frames.std(0).clamp_min(1e-3)


@dataclass
class Aligner:
    """Gaussian mixtures per state: means [S, G, D], variances [S, G, D], log weights [S, G]."""

    state_of: dict[tuple[str, int], int]  # (bare phoneme, part) -> state
    parts: int  # states per phoneme
    means: Tensor
    variances: Tensor
    log_weights: Tensor

    def chain(self, segments: Sequence[Segment]) -> tuple[Tensor, Tensor, Tensor]:
        """(state ids, segment index, whether it may be skipped) along the utterance. Raises ValueError for a phoneme never trained on."""
        unknown = {name for name, _ in (_name_and_parts(segment, self.parts) for segment in segments) if (name, 0) not in self.state_of}
        if unknown:
            raise ValueError(f"phonemes that the training split does not have: {' '.join(sorted(unknown))}")
        rows = [
            (self.state_of[name, part], i, segment.optional)
            for i, segment in enumerate(segments)
            for name, parts in [_name_and_parts(segment, self.parts)]
            for part in range(parts)
        ]
        states, index, optional = zip(*rows)
        return torch.tensor(states), torch.tensor(index), torch.tensor(optional)

    def log_likelihood(self, frames_ND: Tensor) -> Tensor:
        """[N, S]."""
        precision = 1 / self.variances.flatten(0, 1)
        means = self.means.flatten(0, 1)
        constant = (means.square() * precision - precision.log()).sum(1)
        mahalanobis = frames_ND.square() @ precision.T - 2 * frames_ND @ (means * precision).T + constant
        return (self.log_weights.flatten() - 0.5 * mahalanobis).unflatten(1, self.log_weights.shape).logsumexp(2)

    def align(self, frames_ND: Tensor, segments: Sequence[Segment]) -> Tensor:
        """Frames of each segment, summing to N. Raises ValueError where the audio is too short for its text."""
        states, index, optional = self.chain(segments)
        path = viterbi(self.log_likelihood(frames_ND)[:, states], optional)
        return torch.bincount(index[path], minlength=len(segments))


def train(
    features: Sequence[Tensor],
    transcripts: Sequence[Sequence[Segment]],
    *,
    states: int,
    iterations: int,
    gaussians: int,
    progress: Callable[[int], None] = lambda iteration: None,
) -> Aligner:
    """An aligner fitted to the utterances; the ones too short for their text are left out of the fit."""
    aligner = _flat_start(features, transcripts, states)
    split_at = {iterations // 3 + i * max(1, iterations // 6) for i in range(gaussians.bit_length() - 1)}
    for iteration in range(iterations):
        if iteration in split_at:
            aligner = _split(aligner)
        paths = [_path(aligner, frames, segments) for frames, segments in zip(features, transcripts)]
        aligner = _estimate(aligner, *_gather(features, paths))
        progress(iteration + 1)
    return aligner


def viterbi(score_NS: Tensor, optional_S: Tensor) -> Tensor:
    """The best state at each frame of a left-to-right chain whose optional states may be skipped, [N].

    Moves: stay, to the next state, or over one optional state. The first and the last state are reached, or skipped where optional.
    Raises ValueError where there are fewer frames than states that must be passed.
    """
    num_frames, num_states = score_NS.shape
    needed = int((~optional_S).sum())
    if num_frames < needed:
        raise ValueError(
            f"{num_frames} frames of audio cannot hold {needed} states: the text does not belong to the audio, or it is cut short"
        )
    scores, optional = score_NS.numpy(), optional_S.numpy()
    over = np.zeros(num_states, dtype=bool)  # may be entered from two states before
    over[2:] = optional[1:-1]
    penalty = np.where(over, 0, -np.inf).astype(np.float32)
    best = np.full(num_states + 2, -np.inf, dtype=np.float32)
    best[2] = scores[0, 0]
    if optional[0] and num_states > 1:
        best[3] = scores[0, 1]
    moves = np.empty((num_frames, num_states), dtype=np.int8)
    for n in range(1, num_frames):
        one = best[1:-1] > best[2:]
        value = np.where(one, best[1:-1], best[2:])
        jump = best[:-2] + penalty
        two = jump > value
        moves[n] = np.where(two, 2, one)
        best[2:] = np.where(two, jump, value) + scores[n]
    state = num_states - 1
    if optional[-1] and num_states > 1 and best[-2] > best[-1]:
        state -= 1
    path = [state]
    for row in moves[:0:-1]:
        path.append(path[-1] - int(row[path[-1]]))
    return torch.tensor(path[::-1])


def close_short_pauses(segments: Sequence[Segment], frames: Sequence[int]) -> Iterator[tuple[str, int]]:
    """(phoneme, frames) without the pauses between words that are too short to be one; their frames go to the phoneme before."""
    kept: list[list] = []
    for segment, count in zip(segments, frames):
        pause = segment.phoneme == SILENCE and kept and count < MIN_PAUSE_FRAMES
        if pause:
            kept[-1][1] += count
        elif count or segment.phoneme != SILENCE:
            kept.append([segment.phoneme, count])
    yield from ((phoneme, count) for phoneme, count in kept)


def _name_and_parts(segment: Segment, parts: int) -> tuple[str, int]:
    return (SILENCE, 1) if segment.optional else (split_stress(segment.phoneme)[0], parts)


def _flat_start(features: Sequence[Tensor], transcripts: Sequence[Sequence[Segment]], parts: int) -> Aligner:
    names = sorted({_name_and_parts(segment, parts) for segments in transcripts for segment in segments})
    state_of = {(name, part): 0 for name, count in names for part in range(count)}
    state_of = {key: i for i, key in enumerate(state_of)}
    width = features[0].shape[1]
    aligner = Aligner(
        state_of, parts, torch.zeros(len(state_of), 1, width), torch.ones(len(state_of), 1, width), torch.zeros(len(state_of), 1)
    )
    paths = [_uniform(aligner, frames, segments) for frames, segments in zip(features, transcripts)]
    return _estimate(aligner, *_gather(features, paths))


def _uniform(aligner: Aligner, frames: Tensor, segments: Sequence[Segment]) -> Tensor:
    """States spread evenly over the frames that are not silent; the quietest fifth at the ends is silence."""
    states, _, optional = aligner.chain(segments)
    energy = frames[:, 0]
    loud = (energy > energy.quantile(0.2)).nonzero().flatten()
    first, last = int(loud[0]), int(loud[-1]) + 1
    spoken = states[~optional]
    inner = spoken[torch.linspace(0, len(spoken) - 1e-3, last - first).long()]
    silence = aligner.state_of[SILENCE, 0]
    return torch.cat([torch.full((first,), silence), inner, torch.full((len(frames) - last,), silence)])


def _path(aligner: Aligner, frames: Tensor, segments: Sequence[Segment]) -> Tensor | None:
    states, _, optional = aligner.chain(segments)
    if len(frames) < int((~optional).sum()):
        return None
    return states[viterbi(aligner.log_likelihood(frames)[:, states], optional)]


def _gather(features: Sequence[Tensor], paths: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    pairs = [(frames, path) for frames, path in zip(features, paths) if path is not None]
    if not pairs:
        raise ValueError("no utterance is long enough for its text; are texts and audio of the same corpus?")
    return torch.cat([frames for frames, _ in pairs]), torch.cat([path for _, path in pairs])


def _estimate(aligner: Aligner, frames_ND: Tensor, states_N: Tensor) -> Aligner:
    """One re-estimation of all Gaussians from frames and their states; a Gaussian with hardly any frame keeps its place."""
    count = torch.zeros(aligner.means.shape[:2])
    first, second = torch.zeros_like(aligner.means), torch.zeros_like(aligner.means)
    for some_ND, states in zip(frames_ND.split(BLOCK), states_N.split(BLOCK)):
        precision, means = 1 / aligner.variances[states], aligner.means[states]
        log_probability = aligner.log_weights[states] - 0.5 * ((some_ND[:, None] - means).square() * precision - precision.log()).sum(2)
        share = log_probability.softmax(1)
        count.index_add_(0, states, share)
        first.index_add_(0, states, share[..., None] * some_ND[:, None])
        second.index_add_(0, states, share[..., None] * some_ND.square()[:, None])
    enough = (count > 5)[..., None]
    mean = first / count.clamp_min(1)[..., None]
    variance = (second / count.clamp_min(1)[..., None] - mean.square()).clamp_min(VARIANCE_FLOOR)
    weights = ((count + 1) / (count + 1).sum(1, keepdim=True)).log()
    return Aligner(
        aligner.state_of, aligner.parts, torch.where(enough, mean, aligner.means), torch.where(enough, variance, aligner.variances), weights
    )


def _split(aligner: Aligner) -> Aligner:
    offset = 0.2 * aligner.variances.sqrt()
    return Aligner(
        aligner.state_of,
        aligner.parts,
        torch.cat([aligner.means - offset, aligner.means + offset], 1),
        aligner.variances.repeat(1, 2, 1),
        (aligner.log_weights - torch.tensor(2.0).log()).repeat(1, 2),
    )
