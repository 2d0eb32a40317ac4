"""Does it sound like the same person."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from audiotok.evaluation.metric import JUDGE_RATE, Column, MetricFailure, Utterance, Value, identity, package, speech_of

MIN_SECONDS = 0.4  # of voice: a fifth of a window of the encoder; its own training never saw less than a whole one (1.6 s)


class SpeakerSimilarity:
    """Cosine of the GE2E embeddings (arXiv 1710.10467) of the recording and the estimate, by Resemblyzer: 1 is the same voice.

    Two utterances of one person score about 0.87, of two people 0.53 (measured on LibriSpeech test-other).
    """

    columns = (Column("speaker_similarity", "Speaker sim.", "mean", "higher", digits=3),)

    def __init__(self, *, device: str) -> None:
        with warnings.catch_warnings():  # its webrtcvad's, of how that finds its own version
            warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
            self.resemblyzer = package("resemblyzer")
        self.encoder = self.resemblyzer.VoiceEncoder(device, verbose=False)
        self.judge = f"{identity('resemblyzer')} GE2E, its own weights"

    def __call__(self, reference: Utterance, estimate: Utterance) -> dict[str, Value]:
        return {"speaker_similarity": float(self.embed(reference) @ self.embed(estimate))}

    def embed(self, utterance: Utterance) -> np.ndarray:
        """The unit-length embedding [256]. Raises MetricFailure where no voice is found."""
        wav_T = speech_of(utterance, min_seconds=MIN_SECONDS)
        voice_T = self.resemblyzer.preprocess_wav(wav_T)
        if len(voice_T) < MIN_SECONDS * JUDGE_RATE:
            raise MetricFailure(f"too short: {len(voice_T) / JUDGE_RATE:.2f} s of voice found, the judge needs {MIN_SECONDS:g} s")
        with _one_thread():
            return self.encoder.embed_utterance(voice_T)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The steps of an LSTM this small take less time than two threads take to meet: 4 times as fast alone, 10 times on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
