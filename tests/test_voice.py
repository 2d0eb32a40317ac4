"""The voice that comes with the package speaks without anything being trained or fetched."""

from pathlib import Path

import pytest
import torch

from audiotok import audio, cli
from audiotok.stages import synthesize

LINES = {
    "en": "Please hold on the line.",
    "es": "Por favor, espere en la línea.",
    "fr": "Veuillez patienter un instant.",
    "it": "Attendere in linea, per favore.",
    "ru": "Пожалуйста, оставайтесь на линии.",
}
PROMPTS = [
    "Please enter your password.",
    "You have no new messages.",
    "To listen to your message, press one.",
    "The number you have dialed is not in service.",
]


def say(text: str, out: Path, *settings: str) -> torch.Tensor:
    pytest.importorskip("gruut", reason="phonemes need gruut, of the extra tts")
    synthesize.run(cli.load("voice", [f"synthesize.text='{text}'", f"synthesize.out={out}", *settings]))
    wav_T, rate = audio.read(out)
    assert rate == 16000
    return wav_T


@pytest.mark.parametrize("language", LINES)
def test_each_language_is_spoken_by_its_own_speaker(language: str, tmp_path: Path) -> None:
    wav_T = say(LINES[language], tmp_path / "said.wav", f"synthesize.language={language}")
    assert 0.8 < len(wav_T) / 16000 < 5 and wav_T.abs().max() > 0.05


def test_a_recogniser_hears_most_of_what_it_was_told_to_say(tmp_path: Path) -> None:
    pytest.importorskip("faster_whisper", reason="the recogniser is of the extra eval")
    from audiotok.evaluation.text import Recogniser, normalise, word_errors

    recogniser = Recogniser("tiny.en", device="cpu", compute_type="float32", threads=1, tokens_per_second=10)
    (tmp_path / "lines.txt").write_text("\n".join(PROMPTS))
    synthesize.run(
        cli.load("voice", [f"synthesize.text={tmp_path / 'lines.txt'}", f"synthesize.out={tmp_path / 'said'}", "synthesize.language=en"])
    )
    heard = [recogniser.hear(audio.read(path)[0].numpy(), language="en") for path in sorted((tmp_path / "said").glob("*.wav"))]
    errors = [
        word_errors(normalise(text, language="en"), normalise(said, language="en")) for text, said in zip(PROMPTS, heard, strict=True)
    ]
    assert sum(each.numerator for each in errors) <= 0.4 * sum(each.denominator for each in errors), heard


def test_a_language_that_it_does_not_speak_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no language 'de' in this model; there are: en, es, fr, it, ru"):
        say("Guten Tag.", tmp_path / "said.wav", "synthesize.language=de")
