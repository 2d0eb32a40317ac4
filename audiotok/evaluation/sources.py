"""Where utterances come from: the folders of audio that systems made, and the recordings of the same sentences."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse import CutSet, MonoCut

from audiotok import audio, files
from audiotok.data.costs import COSTS
from audiotok.data.integrity import read_array
from audiotok.data.resynthesis import SYSTEM, UTTERANCES
from audiotok.evaluation.metric import JUDGE_RATE, Utterance

FAILED = "failed.jsonl"
RECORDINGS = "recordings"  # the name under which the recordings are a system among systems


@dataclass(frozen=True)
class AudioFolder:
    """What a system made of the test set: utterances.jsonl with rows {"id", "path", "text", "speaker", "language"} beside the audio.

    A row may also have "codes", the path of a .npy file with codes [K, N], and "rounds", [drafted, accepted] of each round of speculative
    decoding.
    """

    path: Path

    @cached_property
    def rows(self) -> dict[str, dict]:
        """By id, in the order of the file. Raises ValueError where ids repeat."""
        rows = list(files.read_jsonl(self.path / UTTERANCES))
        by_id = {row["id"]: row for row in rows}
        if len(by_id) < len(rows):
            raise ValueError(
                f"{self.path / UTTERANCES}: {len(rows)} rows, but {len(by_id)} different ids; each utterance may be there once"
            )
        return by_id

    @cached_property
    def unspoken(self) -> dict[str, str]:
        """The reason by id for what the system was asked for and could not speak: failed.jsonl, where there is one."""
        path = self.path / FAILED
        return {row["id"]: row["reason"] for row in files.read_jsonl(path)} if path.exists() else {}

    def fingerprint(self) -> str:
        """Of the settings the folder was made with and its list; of every file where no stage of audiotok made it."""
        contents = {UTTERANCES: files.file_digest(self.path / UTTERANCES)}
        if files.settings_of(self.path) is None:
            contents |= {row["path"]: files.file_digest(self.path / row["path"]) for row in self.rows.values()}
        else:
            contents[files.RECORD] = files.file_digest(self.path / files.RECORD)
        return files.fingerprint(contents)

    @property
    def costs(self) -> dict[str, Any]:
        """What system.json and costs.json say; empty where there is neither. Not part of the fingerprint: they are not heard."""
        found = [self.path / name for name in (SYSTEM, COSTS) if (self.path / name).exists()]
        return {key: value for path in found for key, value in files.read_json(path).items()}

    def load(self, id: str) -> Utterance:
        """The utterance at the sample rate it was written with."""
        row = self.rows[id]
        wav_T, sample_rate = audio.read(self.path / row["path"])
        return Utterance(id, wav_T, sample_rate, row.get("text"), row.get("language"), row.get("speaker"))

    def codes(self, id: str) -> np.ndarray | None:
        """The codes [K, N] that the audio was made from; None where the folder does not hold them."""
        path = self.rows[id].get("codes")
        return None if path is None else read_array(self.path / path)

    def rounds(self, id: str) -> list[list[int]]:
        """[drafted, accepted] positions of each round; none where it was not spoken by speculative decoding."""
        found: list[list[int]] = self.rows[id].get("rounds", [])
        return found


class Recordings:
    """The recordings of a test set, by the id of the cut."""

    def __init__(self, cuts: CutSet) -> None:
        self.cuts: dict[str, MonoCut] = {cut.id: cut for cut in cuts}

    def load(self, id: str) -> Utterance:
        cut = self.cuts[id]
        supervision = cut.supervisions[0]
        for source in cut.recording.sources:
            files.here(Path(source.source))
        wav_T = torch.from_numpy(cut.load_audio()[0]).float()
        return Utterance(id, wav_T, cut.sampling_rate, supervision.text, supervision.language, supervision.speaker)

    def check(self, ids: Iterable[str], *, system: str) -> None:
        """Raises ValueError where a system speaks utterances that were not recorded."""
        if missing := [id for id in ids if id not in self.cuts]:
            raise ValueError(
                f"{system}: {len(missing)} of its utterances are not in the test split, the first is {missing[0]!r}; "
                f"the ids in {UTTERANCES} are those of the test split's cuts"
            )


def systems(folder: Path) -> dict[str, AudioFolder]:
    """Every folder of audio in `folder`, by name. Raises ValueError where there is none, or one is called as the recordings are."""
    files.bring_below(folder)
    found = {path.parent.name: AudioFolder(path.parent) for path in sorted(folder.glob(f"*/{UTTERANCES}"))}
    found = {name: audio_folder for name, audio_folder in found.items() if not name.endswith(".partial")}
    if not found:
        raise ValueError(f"{folder} holds no audio to score; run `audiotok synthesize` or `audiotok decode` with the same recipe first")
    if RECORDINGS in found:
        raise ValueError(f"{folder / RECORDINGS}: this name stands for the recordings themselves; rename the folder")
    return found


def pair(reference: Utterance, estimate: Utterance) -> tuple[Utterance, Utterance]:
    """Both at the rate of the judges, so that each is resampled once."""
    return reference.at(JUDGE_RATE), estimate.at(JUDGE_RATE)
