"""A tokenizer under test, with the corpora as it hears them: what every task is told."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from lhotse import MonoCut
from torch import Tensor

from audiotok.bench.checks import Checked
from audiotok.data.manifests import load_cuts
from audiotok.data.tokenization import read_cut, tokenize_cuts
from audiotok.data.workers import Pool
from audiotok.evaluation.metric import NotApplicable, Utterance
from audiotok.files import fingerprint
from audiotok.store import TokenStore
from audiotok.tokenizers.base import Encoder, WaveformCodec
from audiotok.types import TokenSpec

Split = Literal["train", "dev", "test"]
SHARD = 64  # utterances: what a kill can lose


@dataclass(frozen=True)
class Selection:
    """Utterances of one corpus of the suite, the same for every tokenizer.

    `where` keeps those whose field is one of the values: id, text, speaker, language, or what a corpus says of its own (dataset, label).
    `has` are fields that must be there. Of more than `max_utterances` (None: all), those whose ids have the smallest SHA-256.
    """

    corpus: str
    splits: Sequence[Split]
    where: Mapping[str, Sequence[str]] = field(default_factory=dict)
    has: Sequence[str] = ()
    max_utterances: int | None = None
    min_seconds: float = 0.0
    max_seconds: float = 60.0

    def __call__(self, cuts: Iterable[MonoCut]) -> list[MonoCut]:
        """The chosen ones, by id."""
        chosen = [cut for cut in cuts if self._wanted(cut)]
        if self.max_utterances is not None and len(chosen) > self.max_utterances:
            chosen = sorted(chosen, key=lambda cut: sha256(cut.id.encode()).hexdigest())[: self.max_utterances]
        return sorted(chosen, key=lambda cut: cut.id)

    def _wanted(self, cut: MonoCut) -> bool:
        fits = all(value_of(cut, name) in {str(value) for value in values} for name, values in self.where.items())
        return fits and self.min_seconds <= cut.duration <= self.max_seconds and all(value_of(cut, name) for name in self.has)


def value_of(cut: MonoCut, name: str) -> str | None:
    """A field of an utterance, as text; None where it has none."""
    segment = cut.supervisions[0]
    value = getattr(segment, name) if name in ("id", "text", "speaker", "language") else (cut.custom or {}).get(name)
    return None if value is None else str(value)


@dataclass(frozen=True, eq=False)
class Heard:
    """An utterance, and what the subject makes of it: codes_KN of a tokenizer, or features_ND of a continuous reference."""

    cut: MonoCut
    codes_KN: Tensor | None = None
    features_ND: Tensor | None = None

    @property
    def id(self) -> str:
        return self.cut.id

    @property
    def seconds(self) -> float:
        return self.cut.duration

    def value(self, name: str) -> str:
        """A field that a selection made sure of."""
        found = value_of(self.cut, name)
        assert found is not None, (self.id, name)
        return found


class Recordings:
    """The recordings themselves, as a subject: what no codec is better than."""


class Subject:
    """A tokenizer, a codec without codes, or a continuous reference (`Features`), and the suite's corpora.

    Codes are made once, into token stores in `folder`, and read by every task. A tokenizer is watched (`Checked`) whoever asks it.
    """

    def __init__(
        self, system: Any, *, label: str, corpora: Mapping[str, Path], alignments: Mapping[str, Path], folder: Path, device: torch.device
    ) -> None:
        """`corpora` and `alignments`: folders that `audiotok prepare` and `audiotok align` made, by the suite's name of a corpus."""
        self.system: Any = system if isinstance(system, WaveformCodec) or not isinstance(system, Encoder) else Checked(system)
        self.label = label
        self.corpora = dict(corpora)
        self.alignments = dict(alignments)
        self.folder = folder
        self.device = device
        self._cuts: dict[tuple[str, str], list[MonoCut]] = {}

    @property
    def tokenizer(self) -> Checked:
        """Raises NotApplicable for what has no codes."""
        if not isinstance(self.system, Checked):
            raise NotApplicable("it has no codes")
        return self.system

    @property
    def decoder(self) -> Checked:
        """Raises NotApplicable where there is no way back to sound."""
        if not self.tokenizer.decodes:
            raise NotApplicable("it has no way back to sound")
        return self.tokenizer

    @property
    def spec(self) -> TokenSpec:
        return self.tokenizer.spec

    def cuts(self, selection: Selection) -> list[MonoCut]:
        """Of all its splits, by id. Raises NotApplicable where the corpus has none of them."""
        if selection.corpus not in self.corpora:
            raise NotApplicable(f"the corpus {selection.corpus} is not at hand")
        chosen = selection([cut for split in selection.splits for cut in self._split(selection.corpus, split)])
        if not chosen:
            raise NotApplicable(f"the corpus {selection.corpus} has no such utterances: {selection}")
        return chosen

    def heard(self, selection: Selection) -> list[Heard]:
        """The utterances that could be encoded, with codes or features, by id."""
        cuts = self.cuts(selection)
        if isinstance(self.system, Checked):
            stores = self.stores
            coded = {cut.id: store[cut.id] for cut in cuts for store in stores if cut.id in store}
            return [Heard(cut, codes_KN=coded[cut.id].codes_KN) for cut in cuts if cut.id in coded]
        if isinstance(self.system, Recordings | WaveformCodec):
            raise NotApplicable("it has no codes")
        return [Heard(cut, features_ND=self.features(cut)) for cut in cuts]

    def alignment(self, corpus: str) -> Path:
        """The phones of a corpus. Raises NotApplicable where the suite has not aligned it."""
        if corpus not in self.alignments:
            raise NotApplicable(f"the corpus {corpus} is not aligned; name it in bench.aligned")
        return self.alignments[corpus] / "alignments.jsonl"

    def features(self, cut: MonoCut) -> Tensor:
        """features_ND of a continuous reference."""
        with torch.inference_mode():
            return self.system(read_cut(cut, self.system.sample_rate).to(self.device)).cpu()

    def encode(self, wav_T: Tensor) -> Tensor:
        """codes_KN of one utterance at the tokenizer's rate."""
        with torch.inference_mode():
            codes_1KN, frames_1 = self.tokenizer.encode(wav_T[None].to(self.device), torch.tensor([len(wav_T)], device=self.device))
        return codes_1KN[0, :, : int(frames_1)].cpu()

    def decode(self, codes_KN: Tensor, num_samples: int | None = None) -> Tensor:
        """wav_T of the codes, cut to `num_samples`."""
        lengths_1 = torch.tensor([codes_KN.shape[1]], device=self.device)
        with torch.inference_mode():
            wav_1T, samples_1 = self.decoder.decode(codes_KN[None].to(self.device), lengths_1)
        return wav_1T[0, : int(samples_1)][:num_samples].cpu()

    def resynthesis(self, heard: Heard) -> Utterance:
        """The utterance after the codec, and as long as it was."""
        assert heard.codes_KN is not None
        wav_T = self.decode(heard.codes_KN, round(heard.seconds * self.spec.sample_rate))
        return described(heard.cut, wav_T, self.spec.sample_rate)

    def transmitted(self, cut: MonoCut) -> Utterance:
        """The utterance as this subject gives it back: through the codec, or, of the recordings, as it is."""
        if isinstance(self.system, Recordings):
            return recording(cut)
        if isinstance(self.system, WaveformCodec):
            sent = self.system.transmit(read_cut(cut, self.system.sample_rate))
            return described(cut, sent.wav_T, self.system.sample_rate)
        return self.resynthesis(Heard(cut, codes_KN=self.encode(read_cut(cut, self.decoder.spec.sample_rate))))

    def store(
        self, selections: Iterable[Selection], *, batch_seconds: float, workers: Pool | None, progress: Callable[[int], None]
    ) -> dict[str, str]:
        """Encode what the selections choose, once; the utterances that could not be, with reasons. A killed run goes on where it was."""
        tokenizer: Any = self.tokenizer
        chosen: dict[str, dict[str, MonoCut]] = {}
        for selection in selections:
            if selection.corpus in self.corpora:
                found = selection([cut for split in selection.splits for cut in self._split(selection.corpus, split)])
                chosen.setdefault(selection.corpus, {}).update({cut.id: cut for cut in found})
        failed: dict[str, str] = {}
        for corpus, cuts in sorted(chosen.items()):
            ordered = [cuts[id] for id in sorted(cuts)]
            folder = self.folder / f"{corpus}-{fingerprint([self.spec.fingerprint, sorted(cuts)])[:8]}"
            failed |= tokenize_cuts(
                ordered,
                tokenizer,
                folder,
                batch_seconds=batch_seconds,
                shard_utterances=SHARD,
                device=self.device,
                workers=workers,
                progress=progress,
            )
        self.__dict__.pop("stores", None)
        return failed

    @cached_property
    def stores(self) -> list[TokenStore]:
        """Of this tokenizer's codes, one for each corpus."""
        found = [TokenStore(folder) for folder in sorted(self.folder.glob("*")) if any(folder.glob("shard-*.parquet"))]
        return [store for store in found if store.spec.fingerprint == self.spec.fingerprint]

    def _split(self, corpus: str, split: str) -> list[MonoCut]:
        if (corpus, split) not in self._cuts:
            present = (self.corpora[corpus] / f"cuts_{split}.jsonl.gz").exists()
            self._cuts[corpus, split] = list(load_cuts(self.corpora[corpus], split)) if present else []
        return self._cuts[corpus, split]


def recording(cut: MonoCut) -> Utterance:
    """The utterance as it was recorded."""
    return described(cut, read_cut(cut, cut.sampling_rate), cut.sampling_rate)


def described(cut: MonoCut, wav_T: Tensor, sample_rate: int) -> Utterance:
    segment = cut.supervisions[0]
    return Utterance(cut.id, wav_T, sample_rate, segment.text, segment.language, segment.speaker)
