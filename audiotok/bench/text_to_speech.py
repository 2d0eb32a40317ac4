"""Axis 3: text to speech on the codes, by the aligned autoregressive model of the recipes, the same budget for every tokenizer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from audiotok import files
from audiotok.bench.reconstruction import scored
from audiotok.bench.subject import Selection, Subject, recording
from audiotok.bench.task import Axis, Outcome
from audiotok.data.aligned import ANYONE, AlignedCorpus, FrontEnd
from audiotok.data.batching import BucketedBatches
from audiotok.data.code_vectors import code_vectors
from audiotok.decoding.acceptance import Exact
from audiotok.decoding.samplers import Sampler
from audiotok.evaluation import scoring, sources
from audiotok.evaluation.metric import Metric, NotApplicable, Utterance
from audiotok.models.ar_tts import ArTts
from audiotok.models.text import Batch
from audiotok.nn.inference import quickened
from audiotok.synthesis.drafting import Nobody
from audiotok.synthesis.scripts import Manner
from audiotok.synthesis.speech import speak
from audiotok.synthesis.voice import Failed, Request, Voice
from audiotok.training.loop import TrainSettings, start, train_step
from audiotok.transforms.base import Layout


class TextToSpeech:
    """Words, voice and quality of test sentences spoken by a model that was trained on the codes for a fixed number of steps."""

    axis: Axis = "downstream"
    seeded = True

    def __init__(
        self, *, train: Selection, test: Selection, transform: Layout, model: Callable[..., ArTts],
        settings: TrainSettings, batch_frames: int, sampler: Sampler, batch_size: int, max_seconds: float, metrics: Mapping[str, Metric],
        primary: Sequence[str],
    ) -> None:  # fmt: skip
        self.selections = (train, test)
        self.transform = transform
        self.model = model
        self.settings = settings
        self.batch_frames = batch_frames
        self.sampler = sampler
        self.manner = partial(Manner, max_seconds, sampler.temperature, None, batch_size)
        self.metrics = metrics
        self.primary = primary

    def run(self, subject: Subject, *, seed: int) -> Outcome:
        decoder = subject.decoder
        voice, steps = self._learnt(subject, seed), self.settings.steps
        cuts = {cut.id: cut for cut in subject.cuts(self.selections[1])}
        requests = [self._request(recording(cut), voice) for cut in cuts.values()]
        rows, failed = [], []
        manner = self.manner(subject.device)
        for result in speak(requests, voice, sampler=self.sampler, seed=seed, manner=manner, drafting=Nobody(), rule=Exact()):
            if isinstance(result, Failed):
                failed.append(result.reason)
                continue
            reference = recording(cuts[result.request.id])
            said = Utterance(reference.id, result.wav_T, decoder.spec.sample_rate, reference.text, reference.language, reference.speaker)
            rows.append(scoring.score(self.metrics, *sources.pair(reference, said)))
        scores = scored(self.metrics, rows, primary=self.primary)
        detail = {"steps": steps, "spoken": len(rows), "failed": failed[:20]}
        return Outcome(tuple(scores), detail, judges={name: metric.judge for name, metric in self.metrics.items()})

    def _request(self, reference: Utterance, voice: Voice) -> Request:
        speaker = voice.front_end.known_speaker(reference.speaker)
        return Request(reference.id, reference.text or "", speaker, reference.language or ANYONE)

    def _learnt(self, subject: Subject, seed: int) -> Voice:
        """The voice after its budget."""
        wanted = {cut.id for cut in subject.cuts(self.selections[0])}
        aligned = {row["id"]: row for row in files.read_jsonl(subject.alignment(self.selections[0].corpus)) if row["id"] in wanted}
        store = next((store for store in subject.stores if any(id in store for id in aligned)), None)
        if store is None:
            raise NotApplicable("no utterance of the selection is both aligned and encoded")
        about = [row for row in store.about().to_pylist() if row["id"] in aligned]
        front_end = FrontEnd.of((aligned[row["id"]] for row in about), about)
        corpus = AlignedCorpus(store, aligned, transform=self.transform, front_end=front_end)
        torch.manual_seed(seed)
        model = self.model(
            spec=self.transform.out_spec(store.spec),
            num_phonemes=len(front_end.vocabulary),
            num_speakers=len(front_end.speakers),
            num_languages=len(front_end.languages),
            vectors=partial(code_vectors, subject.tokenizer.wrapped, self.transform),
        )
        state = start(model, settings=self.settings, device=subject.device)
        batches = self._batches(corpus, seed)
        for _ in range(self.settings.steps):
            train_step(state, next(batches).to(subject.device), settings=self.settings, seed=seed, last=None)
        learnt: Any = state.ema.model
        return Voice(quickened(learnt.eval(), "fp32"), front_end, self.transform, subject.tokenizer)  # type: ignore[arg-type]

    def _batches(self, corpus: AlignedCorpus, seed: int) -> Iterator[Batch]:
        for items in BucketedBatches(corpus.lengths, self.batch_frames, seed).from_step(0):
            yield Batch.of([corpus[item] for item in items])
