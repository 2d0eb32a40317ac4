"""Codes of a split back to sound: what a tokenizer alone does to speech."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from audiotok import audio, files
from audiotok.data.manifests import file_name
from audiotok.store import Utterance
from audiotok.tokenizers.base import Decoder

UTTERANCES = "utterances.jsonl"
ABOUT = ("text", "speaker", "language")


def resynthesise(
    utterances: Iterable[Utterance],
    decoder: Decoder,
    folder: Path,
    *,
    device: torch.device,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Fill `folder` with a FLAC of each utterance, as long as its recording to the sample, and utterances.jsonl.

    One utterance at a time: no padding, and memory does not grow. Those that are there already are kept.
    """
    rows = []
    for utterance in utterances:
        path = Path(f"{file_name(utterance.id)}.flac")
        if not (folder / path).exists():
            audio.write(folder / path, decode_utterance(utterance, decoder, device=device), decoder.spec.sample_rate)
        rows.append({"id": utterance.id, "path": str(path)} | {name: getattr(utterance, name) for name in ABOUT})
        progress(1)
    files.write_jsonl(folder / UTTERANCES, rows)


def decode_utterance(utterance: Utterance, decoder: Decoder, *, device: torch.device) -> torch.Tensor:
    """wav_T of the utterance, cut to `num_samples` of the frames' full length."""
    codes_1KN = utterance.codes_KN[None].to(device)
    with torch.inference_mode():
        wav_1T, _ = decoder.decode(codes_1KN, torch.tensor([utterance.num_frames], device=device))
    return wav_1T[0, : utterance.num_samples].cpu()
