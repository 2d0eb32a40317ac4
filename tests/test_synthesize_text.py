"""Speaking a text of one's own: through recordings, aloud, by a voice made to be shipped."""

import io
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from hydra.utils import instantiate
from safetensors.torch import load_file, save_file

from audiotok import audio, cli, files
from audiotok.data.aligned import FrontEnd
from audiotok.data.code_vectors import code_vectors
from audiotok.data.phonemes import PhonemeVocabulary, phonemize
from audiotok.stages import paths
from audiotok.tokenizers import weights

sys.path.insert(0, str(cli.ROOT / "tools"))
import ship_model

pytest.importorskip("gruut", reason="needs the tts extra")
SMALL = ["model.width=32", "model.layers=1", "model.heads=2", "model.feed_forward=48", "model.text_layers=1"]
TEXT = "Press one. Please enter your number."
SPEAKERS = ("", "allison", "june")


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that has learnt nothing, of the recipe prompts/tts."""
    folder = tmp_path_factory.mktemp("train") / "step_00000001"
    cfg = cli.load("prompts/tts", SMALL)
    words = [phoneme for language in ("en",) for word in phonemize(f"{TEXT} Goodbye.", language) for phoneme in word]
    front_end = FrontEnd(PhonemeVocabulary.of([words]), SPEAKERS, ("en", "it"))
    tokenizer, transform = instantiate(cfg.tokenizer), instantiate(cfg.transform)
    torch.manual_seed(0)
    model = instantiate(cfg.model, _partial_=True)(
        spec=transform.out_spec(tokenizer.spec),
        num_phonemes=len(front_end.vocabulary),
        num_speakers=3,
        num_languages=2,
        vectors=partial(code_vectors, tokenizer, transform),
    )
    torch.nn.init.constant_(model.duration[-1].bias, 1.2)  # some frames a phoneme
    files.write_json(folder / "front_end.json", front_end.to_dict())
    files.write_json(folder / "spec.json", json.loads(tokenizer.spec.to_json()))
    files.write_json(folder / "config.json", paths.settings(cfg, "transform", "model", "data"))
    save_file({name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}, folder / "ema.safetensors")
    return folder


def say(step: Path, out: Path | str, *more: str, text: str = TEXT) -> None:
    given = [f"synthesize.checkpoint={step}", f"synthesize.text={text}", f"synthesize.out={out}", "synthesize.language=en", "device=cpu"]
    cli.main(["synthesize", "prompts/tts", *SMALL, *given, *more])


def wav(path: Path) -> torch.Tensor:
    return audio.read(path)[0]


@pytest.fixture(scope="module")
def recording(step: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of what sounds like nothing, 22,050 samples a second, in two channels."""
    path = tmp_path_factory.mktemp("recording") / "prompt.wav"
    noise_T = np.random.default_rng(0).normal(size=(44100, 2)) * 0.1
    soundfile.write(path, noise_T, 22050)
    return path


def test_a_checkpoint_that_is_named_needs_no_training_of_the_recipe_and_nothing_is_overwritten(step: Path, tmp_path: Path):
    out = tmp_path / "said.wav"
    say(step, out, f"exp_root={tmp_path / 'none'}", "synthesize.speaker=allison")
    said = out.read_bytes()
    with pytest.raises(SystemExit, match=r"said\.wav exists; set synthesize\.out to another path"):
        say(step, out, "synthesize.speaker=allison", "seed=7")
    assert out.read_bytes() == said and not (tmp_path / "none").exists()
    say(step, out, "synthesize.speaker=allison", "seed=7", "overwrite=true")
    assert out.read_bytes() != said


def test_a_folder_that_holds_other_things_is_never_written_over(step: Path, tmp_path: Path):
    own = tmp_path / "music"
    own.mkdir()
    (own / "song.wav").write_bytes(b"mine")
    for more in ([], ["overwrite=true"]):
        with pytest.raises(SystemExit, match=r"music (exists; set|holds other things than `audiotok synthesize` wrote)"):
            say(step, own, "synthesize.speaker=june", *more)
    assert [path.name for path in own.iterdir()] == ["song.wav"]
    with pytest.raises(SystemExit, match=r"\.mp3 is not written; name it \.wav or \.flac"):
        say(step, own / "song.mp3", "synthesize.speaker=june")
    folder = tmp_path / "spoken"
    for more in ([], ["overwrite=true", "seed=7"]):
        say(step, folder, "synthesize.speaker=june", *more)
    assert sorted(path.name for path in folder.iterdir()) == ["00000.wav", "codes", "failed.jsonl", "utterances.jsonl"]


def test_a_recording_at_any_rate_is_gone_on_from_and_who_speaks_need_not_be_said(step: Path, recording: Path, tmp_path: Path):
    said = {"synthesize.prompt_text": "Goodbye.", "synthesize.prompt": str(recording)}
    options = [f"{key}={value}" for key, value in said.items()]
    say(step, tmp_path / "alone.wav", "synthesize.speaker=''")
    for name, more in (("after", []), ("again", []), ("carried", ["synthesize.carry=true"])):
        say(step, tmp_path / f"{name}.wav", *options, *more)
    after, again, carried, alone = (wav(tmp_path / f"{name}.wav") for name in ("after", "again", "carried", "alone"))
    assert torch.equal(after, again)
    assert len({tuple(one[:16000].tolist()) for one in (after, alone)}) == 2
    assert not torch.equal(after[: len(carried)], carried[: len(after)])


@pytest.mark.parametrize(
    ("samples", "level", "more", "named"),
    [
        (32000, 0.0, [], "silent, its loudest 50 ms are below -50 dB"),
        (32000, 1e-4, [], "silent"),
        (8000, 0.1, [], r"0\.5 s, a prompt lasts 1 to 12 s"),
        (16000 * 13, 0.1, [], r"13\.0 s, a prompt lasts 1 to 12 s; cut it"),
        (32000, 0.1, ["synthesize.prompt_text=Judge the vision."], "read as 'Judge the vision.': .*never seen in training"),
        (17000, 0.1, [f"synthesize.prompt_text={'Press one. ' * 30}"], "the text does not belong to the audio"),
    ],
)
def test_a_recording_that_cannot_be_gone_on_from_is_refused_with_its_reason(step, tmp_path, samples, level, more, named):
    path = tmp_path / "prompt.wav"
    audio.write(path, level * torch.randn(samples, generator=torch.Generator().manual_seed(0)), 16000)
    with pytest.raises(SystemExit, match=f"prompt.wav.*{named}"):
        say(step, tmp_path / "said.wav", f"synthesize.prompt={path}", "synthesize.prompt_text=Goodbye.", *more)
    assert not (tmp_path / "said.wav").exists()


def test_a_recording_that_nobody_can_hear_needs_its_text(step: Path, recording: Path, tmp_path: Path):
    for more in ("metrics.words=null", "synthesize.language=it"):  # no recogniser, and one that knows English alone
        with pytest.raises(SystemExit, match=r"nobody hears what .*prompt\.wav says .*; set synthesize\.prompt_text to it"):
            say(step, tmp_path / "said.wav", f"synthesize.prompt={recording}", more)
    with pytest.raises(SystemExit, match=r"set synthesize\.prompt to it"):
        say(step, tmp_path / "said.wav", "synthesize.prompt_text=Goodbye.", "synthesize.speaker=june")


def test_the_sounds_of_a_text_last_as_long_as_in_another_recording_of_it(step: Path, recording: Path, tmp_path: Path):
    say(step, tmp_path / "said.wav", f"synthesize.prosody={recording}", "synthesize.speaker=june")
    assert len(wav(tmp_path / "said.wav")) == 32000
    (tmp_path / "two.txt").write_text("Press one.\nGoodbye.\n")
    with pytest.raises(SystemExit, match=r"has 2 lines; synthesize\.prosody is the recording of one"):
        say(step, tmp_path / "out", f"synthesize.prosody={recording}", "synthesize.speaker=june", text=str(tmp_path / "two.txt"))


def aloud(step: Path, capfdbinary, *more: str, text: str = TEXT) -> tuple[bytes, str]:
    say(step, "-", "synthesize.speaker=june", *more, text=text)
    out, err = capfdbinary.readouterr()
    return out, " ".join(err.decode().split())


@pytest.mark.parametrize("more", [[], ["synthesize.carry=true"], ["synthesize.prompt", "synthesize.carry=true"], ["synthesize.prosody"]])
def test_what_goes_to_standard_output_is_the_wav_of_a_file_and_nothing_else(step, recording, tmp_path, capfdbinary, more):
    more = [f"{one}={recording}" if "=" not in one else one for one in more]
    more += ["synthesize.prompt_text=Goodbye."] if any(one.startswith("synthesize.prompt") for one in more) else []
    data, told = aloud(step, capfdbinary, *more)
    heard_T, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    say(step, tmp_path / "said.wav", "synthesize.speaker=june", *more)
    written_T = wav(tmp_path / "said.wav")
    assert rate == 16000 and len(heard_T) == len(written_T)
    assert float((torch.from_numpy(heard_T) - written_T).abs().max()) <= 1 / 32768
    assert "first sound after" in told and "spoken in" in told


def test_a_sentence_that_cannot_be_said_aloud_is_told_of_on_the_other_channel(step, capfdbinary):
    data, told = aloud(step, capfdbinary, text="Press one. Judge the vision. Goodbye.")
    assert len(data) > 8000 and "could not be spoken" in told and "never seen in training" in told
    with pytest.raises(SystemExit, match="nothing could be spoken"):
        say(step, "-", "synthesize.speaker=june", text="Judge the vision.")


def test_a_wav_is_read_from_a_pipe(step: Path, tmp_path: Path):
    given = [f"synthesize.checkpoint={step}", "synthesize.text=Press one.", "synthesize.out=-", "synthesize.language=en"]
    words = [sys.executable, "-m", "audiotok.cli", "synthesize", "prompts/tts", *SMALL, *given, "synthesize.speaker=june", "device=cpu"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=cli.ROOT) as speaking:
        assert speaking.stdout is not None
        data = speaking.stdout.read()
    heard_T, rate = soundfile.read(io.BytesIO(data))
    assert speaking.returncode == 0 and rate == 16000 and len(heard_T) == (len(data) - 44) // 2 > 1600


@pytest.mark.parametrize("key", ["prompt=a.wav", "prosody=a.wav", "carry=true", "language=en", "out=a.wav"])
def test_what_belongs_to_a_text_is_refused_with_test_sentences(key):
    with pytest.raises(SystemExit, match=rf"synthesize\.{key.partition('=')[0]} goes with synthesize\.text"):
        cli.main(["synthesize", "prompts/tts", f"synthesize.{key}"])


@pytest.fixture
def package(step: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose only weights are a voice, made of the checkpoint."""
    root = tmp_path / "package" / "pretrained"
    root.mkdir(parents=True)
    (root / "codec_50hz").symlink_to(cli.ROOT / "audiotok" / "pretrained" / "codec_50hz")
    ship_model.main([str(step), "tiny", "en=june"], root=root)
    monkeypatch.setattr(weights, "resources", SimpleNamespace(files=lambda name: root.parent))
    return root / "tiny"


def test_a_shipped_voice_speaks_by_its_name_as_the_checkpoint_does_and_knows_who_speaks_a_language(step, package, tmp_path):
    stored = load_file(package / "model.safetensors")
    learnt = load_file(step / "ema.safetensors")
    assert stored.keys() == learnt.keys()
    assert all(torch.equal(stored[name], learnt[name].bfloat16()) for name in learnt if learnt[name].is_floating_point())
    assert files.read_json(package / "config.json").keys() == {"transform", "model"}
    for folder, more in (("tiny", []), (str(package), ["synthesize.speaker=june"])):
        say(folder, tmp_path / f"{len(more)}.wav", *more)  # type: ignore[arg-type]
    say(package, tmp_path / "other.wav", "synthesize.speaker=allison")
    assert (tmp_path / "0.wav").read_bytes() == (tmp_path / "1.wav").read_bytes() != (tmp_path / "other.wav").read_bytes()


def test_a_voice_without_a_speaker_of_the_language_asks_for_one_and_one_that_is_not_there_is_named(step, package, tmp_path):
    (package / "speakers.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"has 2 speakers; set synthesize\.speaker"):
        say("tiny", tmp_path / "said.wav")  # type: ignore[arg-type]
    with pytest.raises(SystemExit, match=r"nobody is no folder, nor the name of weights that come with the package \(codec_50hz, tiny\)"):
        say("nobody", tmp_path / "said.wav")  # type: ignore[arg-type]


def test_what_cannot_be_shipped_is_refused(step, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="fr=june: the model speaks en, it as , allison, june"):
        ship_model.main([str(step), "tiny", "fr=june"], root=tmp_path)
    config = files.read_json(step / "config.json")
    copied = tmp_path / "step"
    copied.mkdir()
    (copied / "front_end.json").write_text((step / "front_end.json").read_text())
    files.write_json(copied / "config.json", config | {"transform": {"fitted": "/home/me/exp"}})
    with pytest.raises(ValueError, match="its settings name a file, /home/me/exp"):
        ship_model.main([str(copied), "tiny"], root=tmp_path)
    monkeypatch.setattr(ship_model, "LIMIT", 1000)
    with pytest.raises(SystemExit, match="MiB of weights; at most 0"):
        ship_model.main([str(step), "tiny"], root=tmp_path)
    assert not (tmp_path / "tiny").exists()
