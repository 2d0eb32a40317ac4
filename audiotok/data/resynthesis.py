"""Codes of a split back to sound, or its recordings through a codec that has no codes: what a tokenizer or codec alone does to speech.

Beside the sound stands what it cost: system.json with `bits_per_second` (nominal) and, where a codec has no codes, the rates that were
measured, `payload_bits_per_second` and `file_bits_per_second`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from lhotse import MonoCut

from audiotok import audio, files
from audiotok.data.manifests import file_name
from audiotok.data.tokenization import read_cut
from audiotok.store import Utterance
from audiotok.tokenizers.base import Decoder, WaveformCodec

UTTERANCES = "utterances.jsonl"
SYSTEM = "system.json"
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
    files.write_json(folder / SYSTEM, {"sample_rate": decoder.spec.sample_rate, "bits_per_second": decoder.spec.bits_per_second})


@dataclass(frozen=True)
class Recording:
    """A cut, with what is said of a stored utterance."""

    cut: MonoCut
    id: str
    text: str | None
    speaker: str | None
    language: str | None

    @classmethod
    def of(cls, cut: MonoCut) -> "Recording":
        segment = cut.supervisions[0]
        return cls(cut, cut.id, segment.text, segment.speaker, segment.language)


def transmit(
    recordings: Iterable[Recording],
    codec: WaveformCodec,
    folder: Path,
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Fill `folder` like `resynthesise`, with each recording after a codec that has no codes, at the codec's sample rate."""
    rows, seconds, payload_bits, file_bits = [], 0.0, 0, 0
    for recording in recordings:
        path = Path(f"{file_name(recording.id)}.flac")
        sent = codec.transmit(read_cut(recording.cut, codec.sample_rate))
        audio.write(folder / path, sent.wav_T, codec.sample_rate)
        seconds += len(sent.wav_T) / codec.sample_rate
        payload_bits, file_bits = payload_bits + sent.payload_bits, file_bits + sent.file_bits
        rows.append({"id": recording.id, "path": str(path)} | {name: getattr(recording, name) for name in ABOUT})
        progress(1)
    files.write_jsonl(folder / UTTERANCES, rows)
    measured = {"payload_bits_per_second": payload_bits / seconds, "file_bits_per_second": file_bits / seconds}
    files.write_json(folder / SYSTEM, {"sample_rate": codec.sample_rate, "bits_per_second": codec.bits_per_second} | measured)


def decode_utterance(utterance: Utterance, decoder: Decoder, *, device: torch.device) -> torch.Tensor:
    """wav_T of the utterance, cut to `num_samples` of the frames' full length."""
    codes_1KN = utterance.codes_KN[None].to(device)
    with torch.inference_mode():
        wav_1T, _ = decoder.decode(codes_1KN, torch.tensor([utterance.num_frames], device=device))
    return wav_1T[0, : utterance.num_samples].cpu()
