"""What holds for every honest tokenizer, asked of this one: its codes depend on nothing but the sound.

The most repeated complaint about tokenizers is that codes change with the batch; no other benchmark asks.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from audiotok import audio
from audiotok.bench.checks import Checked
from audiotok.bench.subject import Selection, Subject
from audiotok.bench.task import Axis, Outcome, Score
from audiotok.data.tokenization import read_cut
from audiotok.evaluation.metric import Column
from audiotok.tokenizers.base import Streaming

LABELS = {
    "again": "Same on a second run",
    "batch": "Same in a batch",
    "padding": "Same with padding",
    "chunks": "Same in chunks",
}
VERDICT = {"again": "not_deterministic", "batch": "batch_dependent", "padding": "batch_dependent", "chunks": "chunk_dependent"}


class Laws:
    """The share of codes that stay what they are on a second run, in a batch with others, with zeros behind, and in chunks.

    Below 1, the verdict says so, and the codes of all other tasks are made one utterance at a time anyway. A tokenizer that hears the whole
    utterance, or that has no streaming interface, is not asked about chunks. Decoding is asked for finite samples of the right number.
    """

    axis: Axis = "tokens"
    seeded = False

    def __init__(self, *, selection: Selection, padding_seconds: float, chunk_seconds: float) -> None:
        self.selections = (selection,)
        self.padding_seconds = padding_seconds
        self.chunk_seconds = chunk_seconds

    def run(self, subject: Subject, *, seed: int) -> Outcome:
        tokenizer = subject.tokenizer
        waves = {cut.id: read_cut(cut, tokenizer.spec.sample_rate) for cut in subject.cuts(self.selections[0])}
        alone = {id: subject.encode(wav_T) for id, wav_T in waves.items()}
        asked: dict[str, Callable[[], dict[str, Tensor]]] = {
            "again": lambda: {id: subject.encode(wav_T) for id, wav_T in waves.items()},
            "batch": lambda: _batch(subject, waves, spare=0),
            "padding": lambda: {
                id: codes
                for id, wav_T in waves.items()
                for codes in _batch(subject, {id: wav_T}, spare=round(self.padding_seconds * tokenizer.spec.sample_rate)).values()
            },
        }
        if isinstance(tokenizer.wrapped, Streaming):
            asked["chunks"] = lambda: {id: self._in_chunks(tokenizer, wav_T) for id, wav_T in waves.items()}
        scores, broken = [], []
        for name, encode in asked.items():
            items = {id: agreement(alone[id], codes_KN) for id, codes_KN in encode().items()}
            value = sum(items.values()) / len(items)
            scores.append(Score(Column(f"law_{name}", LABELS[name], "mean", "higher", unit="%", scale=100, digits=2), value, items))
            if value < 1:
                broken.append((VERDICT[name], f"{LABELS[name].lower()}: {100 * value:.2f} % of the codes"))
        if tokenizer.decodes:
            for id, codes_KN in alone.items():
                subject.decode(codes_KN, len(waves[id]))  # raises where samples are not finite or another number than told
        verdict = broken[0][0] if broken else "ok"
        return Outcome(tuple(scores), verdict=verdict, reason="; ".join(text for _, text in broken) or None)

    def _in_chunks(self, tokenizer: Checked, wav_T: Tensor) -> Tensor:
        state, size = tokenizer.open(), round(self.chunk_seconds * tokenizer.spec.sample_rate)
        codes = []
        with torch.inference_mode():
            for chunk_T in wav_T.split(size):
                codes_KN, state = tokenizer.push(state, chunk_T)
                codes.append(codes_KN)
            return torch.cat([*codes, tokenizer.close(state)], dim=1)


def _batch(subject: Subject, waves: dict[str, Tensor], *, spare: int) -> dict[str, Tensor]:
    """All in one batch, with `spare` zeros more than the longest needs."""
    wav_BT, lengths_B = audio.pad([*waves.values()])
    wav_BT = torch.nn.functional.pad(wav_BT, (0, spare)).to(subject.device)
    with torch.inference_mode():
        codes_BKN, frames_B = subject.tokenizer.encode(wav_BT, lengths_B.to(subject.device))
    return {id: codes_KN[:, :frames].cpu() for id, codes_KN, frames in zip(waves, codes_BKN, frames_B.tolist())}


def agreement(reference_KN: Tensor, estimate_KN: Tensor) -> float:
    """The share of codes that are the same; frames that only one of them has are not."""
    common = min(reference_KN.shape[1], estimate_KN.shape[1])
    same = (reference_KN[:, :common] == estimate_KN[:, :common]).sum().item()
    return same / max(1, reference_KN.shape[0] * max(reference_KN.shape[1], estimate_KN.shape[1]))
