"""Predicted opinions by a judge whose weights the user brings: they come with no package, and nothing is fetched here."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from audiotok.evaluation.metric import JUDGE_RATE, Column, NotApplicable, Utterance, Value, package, speech_of
from audiotok.files import file_digest

MIN_SECONDS = 0.5  # of wav2vec 2.0's frames under UTMOS, 25
SCALE = (1.0, 5.0)  # of mean opinion scores
TOLERANCE = 1.0  # a regression leaves the scale by a little
HOW_TO = (
    "UTMOS: no weights were given; trace `torch.hub.load('tarepan/SpeechMOS', 'utmos22_strong')` at 16 kHz with torch.jit.trace to a "
    "TorchScript file of wav [1, T] alone, or export it to ONNX, and set weights=FILE"
)

Predictor = Callable[[np.ndarray], float]


class Utmos:
    """UTMOS (arXiv 2204.02152): the naturalness that listeners would give, predicted, 1 to 5. No reference is heard.

    `weights` is a TorchScript file (.pt, .pth, .ts) of wav [1, T] at 16 kHz to one score, or an ONNX file (.onnx) with one input and one
    output of the same; its SHA-256 is part of the judge, as scores of two exports are not to be compared unseen. None: every utterance is
    "not applicable", with how to get the weights as the reason.
    """

    columns = (Column("utmos", "UTMOS", "mean", "higher"),)

    def __init__(self, *, weights: str | None, threads: int) -> None:
        """Raises ValueError for a file that is absent, of another kind or damaged."""
        self.predict = None if weights is None else load(Path(weights), threads=threads)
        self.judge = "UTMOS, no weights" if weights is None else f"UTMOS {Path(weights).name} sha256:{file_digest(Path(weights))[:12]}"

    def __call__(self, reference: Utterance, estimate: Utterance) -> dict[str, Value]:
        if self.predict is None:
            raise NotApplicable(HOW_TO)
        score = self.predict(speech_of(estimate, min_seconds=MIN_SECONDS))
        if not SCALE[0] - TOLERANCE <= score <= SCALE[1] + TOLERANCE:
            raise ValueError(f"UTMOS: the weights gave {score:g}, an opinion is between 1 and 5; {self.judge} is no UTMOS at 16 kHz")
        return {"utmos": score}


def load(path: Path, *, threads: int) -> Predictor:
    """The predictor of one utterance wav_T. Raises ValueError as `Utmos` does."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; {HOW_TO}")
    loaders = {".onnx": _onnx, ".pt": _torchscript, ".pth": _torchscript, ".ts": _torchscript}
    if path.suffix.lower() not in loaders:
        raise ValueError(f"{path}: weights of UTMOS are a TorchScript file ({', '.join(list(loaders)[1:])}) or an ONNX file (.onnx)")
    return loaders[path.suffix.lower()](path, threads)


def _torchscript(path: Path, threads: int) -> Predictor:
    """On torch's own threads: `threads` is for ONNX."""
    try:
        module = torch.jit.load(str(path), map_location="cpu").eval()
    except RuntimeError as error:
        raise ValueError(f"{path}: no TorchScript file ({str(error).splitlines()[0]}); {HOW_TO}") from error

    @torch.inference_mode()
    def predict(wav_T: np.ndarray) -> float:
        return _one(path, module(torch.from_numpy(wav_T)[None]).numpy())

    return predict


def _onnx(path: Path, threads: int) -> Predictor:
    onnx = package("onnxruntime")
    errors = package("onnxruntime", module="onnxruntime.capi.onnxruntime_pybind11_state")
    options = onnx.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        session = onnx.InferenceSession(str(path), options)
    except (errors.Fail, errors.InvalidGraph, errors.InvalidProtobuf, errors.NotImplemented) as error:
        raise ValueError(f"{path}: no ONNX file that can be run ({str(error).splitlines()[0]}); {HOW_TO}") from error
    if len(entries := session.get_inputs()) != 1:
        raise ValueError(f"{path}: has {len(entries)} inputs, one is wanted: wav [1, T] at {JUDGE_RATE} Hz")
    return lambda wav_T: _one(path, session.run(None, {entries[0].name: wav_T[None]})[0])


def _one(path: Path, scores: np.ndarray) -> float:
    if scores.size != 1:
        raise ValueError(f"{path}: gave {scores.size} values of shape {scores.shape} for one utterance, wanted one score")
    return float(scores.reshape(()))
