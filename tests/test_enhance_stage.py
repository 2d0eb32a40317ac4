"""The stage enhance: folders of recordings in, the same names out, from a checkpoint as training leaves it."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from small_codec import network
from small_enhancers import noisy_batch
from tiny import tiny_speech_folder

from audiotok import audio, cli, files
from audiotok.stages import enhance, paths, prepare, train_enhancer
from audiotok.synthesis.enhanced_files import plan
from audiotok.synthesis.pipes import wav_pieces
from audiotok.synthesis.streaming import wav_header
from audiotok.tokenizers import weights
from audiotok.tokenizers.codec import Codec, save_network
from audiotok.training import checkpoint
from audiotok.training.loop import TrainSettings, start, train_step

sys.path.insert(0, str(cli.ROOT / "tools"))
import ship_model

CHOPPED = ["enhance.seconds=0.3", "enhance.overlap_seconds=0.05"]
SMALL = ["width=32", "layers=1", "heads=2", "feed_forward=32"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, wav_16k):
    """The overrides of an enhancer of each kind that took one step."""
    folder = tmp_path_factory.mktemp("trained")
    save_network(network(wav_16k), folder / "codec")

    def overrides(kind):
        small = [f"enhancer.{setting}" for setting in SMALL] if kind != "latents" else []
        if kind in ("transducer", "transducer_lattice", "latents"):
            small += [f"enhancer.encoder.{setting}" for setting in SMALL]
        given = [f"enhancer={kind}", "tokenizer=codec", f"tokenizer.path={folder / 'codec'}", "sampling=greedy", f"exp_dir={folder / kind}"]
        cfg = cli.load("prompts/tts", [*given, *small])
        if not (folder / kind).exists():
            one_step(cfg, folder / kind / "train", noisy_batch(wav_16k, 6400, 5000))
        return [*given, *small]

    return overrides


def one_step(cfg, folder, batch):
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    codec: Codec = instantiate(cfg.tokenizer)
    settings = TrainSettings(1, 1e-3, 1, 0.01, 1.0, 0.9, "fp32", 1, 1, 1, 1)
    torch.manual_seed(0)
    state = start(instantiate(cfg.enhancer, _partial_=True)(codec), settings=settings, device=torch.device("cpu"))
    train_step(state, batch, settings=settings, seed=0, last=None)
    records = {"spec": json.loads(codec.spec.to_json()), "config": OmegaConf.to_container(cfg, resolve=True)}
    folder.mkdir(parents=True)
    checkpoint.save(folder, state, records=records, keep=1)


@pytest.fixture
def recordings(tmp_path, wav_16k):
    """A folder of recordings: 16 kHz, 8 kHz in a folder of its own, stereo, one sample."""
    folder = tmp_path / "in"
    audio.write(folder / "a.wav", wav_16k[8000:14500], 16000)
    audio.write(folder / "deeper" / "b.flac", audio.resample(wav_16k[8000:13001], 16000, 8000), 8000)
    soundfile.write(folder / "c.ogg", torch.stack([wav_16k[8000:12000]] * 2, dim=1).numpy(), 44100)
    audio.write(folder / "d.wav", wav_16k[8000:8001], 16000)
    return folder


def run(overrides, *more):
    cli.main(["enhance", "prompts/tts", *overrides, "device=cpu", *CHOPPED, *more])


@pytest.mark.parametrize("kind", ["transducer", "transducer_lattice", "conformer", "decoder_only", "latents", "mask"])
def test_every_enhancer_keeps_names_rates_and_lengths(kind, trained, recordings, tmp_path):
    run(trained(kind), f"enhance.input={recordings}", f"enhance.out={tmp_path / 'out'}")
    for was, became in {"a.wav": "a.wav", "deeper/b.flac": "deeper/b.flac", "c.ogg": "c.flac", "d.wav": "d.wav"}.items():
        before, after = soundfile.info(recordings / was), soundfile.info(tmp_path / "out" / became)
        assert (after.samplerate, after.frames, after.channels) == (before.samplerate, before.frames, 1)


def test_what_is_there_is_kept_unless_it_is_to_be_made_anew(trained, recordings, tmp_path, capsys):
    out, told = tmp_path / "out", [f"enhance.input={recordings}", f"enhance.out={tmp_path / 'out'}"]
    run(trained("mask"), *told)
    audio.write(out / "a.wav", torch.zeros(5), 16000)
    (out / "d.wav").unlink()  # as a run leaves it that was stopped
    run(trained("mask"), *told)
    assert len(audio.read(out / "a.wav")[0]) == 5 and "3 of 4 recordings are there already" in capsys.readouterr().out
    assert (out / "d.wav").exists()
    run(trained("mask"), *told, "overwrite=true")
    assert len(audio.read(out / "a.wav")[0]) == 6500


def test_what_other_weights_or_settings_made_is_not_gone_on_with(trained, recordings, tmp_path):
    out, told = tmp_path / "out", [f"enhance.input={recordings}", f"enhance.out={tmp_path / 'out'}"]
    audio.write(out / "a.wav", torch.zeros(5), 16000)
    with pytest.raises(SystemExit, match=r"a\.wav is there, and no enhanced\.json says how it was made; move it away"):
        run(trained("mask"), *told)
    (out / "a.wav").unlink()
    run(trained("mask"), *told)
    made = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with pytest.raises(SystemExit, match=r"was made otherwise \(enhance\.left_in: 0\.0 there, 0\.25 now\); set another enhance\.out"):
        run(trained("mask"), *told, "enhance.left_in=0.25")
    with pytest.raises(SystemExit, match=r"was made otherwise \(.*weights: '[0-9a-f]{64}' there, '[0-9a-f]{64}' now"):
        run(trained("latents"), *told)
    assert made == {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    files.write_json(out / "enhanced.json", files.read_json(out / "enhanced.json") | {"mixes": "of another seed"})
    with pytest.raises(SystemExit, match=r"was made otherwise \(mixes: 'of another seed' there, None now\)"):
        run(trained("mask"), *told)
    run(trained("mask"), *told, "enhance.left_in=0.25", "overwrite=true")
    assert files.read_json(out / "enhanced.json")["enhance"]["left_in"] == 0.25
    assert made["a.wav"] != (out / "a.wav").read_bytes()


def piped(overrides, sound, *more):
    """(what came out of standard output, of standard error): a process of its own between real pipes."""
    command = [sys.executable, "-m", "audiotok.cli", "enhance", "prompts/tts", *overrides, "device=cpu", "enhance.input=-", "enhance.out=-"]
    done = subprocess.run([*command, *CHOPPED, *more], input=sound, capture_output=True, cwd=cli.ROOT)
    return done.stdout, done.stderr.decode()


def test_a_pipe_gives_what_the_file_becomes(trained, recordings, tmp_path):
    run(trained("transducer"), f"enhance.input={recordings}", f"enhance.out={tmp_path / 'out'}")
    made, said = piped(trained("transducer"), (recordings / "a.wav").read_bytes())
    wanted = soundfile.read(tmp_path / "out" / "a.wav", dtype="int16")[0]
    piped_T = np.frombuffer(made[44:], "<i2")
    assert len(piped_T) == len(wanted) == 6500 and np.abs(piped_T.astype(int) - wanted).max() <= 1
    assert "what comes in goes out " in said and " s later at most" in said and "0.4 s made clean in" in said
    unknown = wav_header(16000) + (recordings / "a.wav").read_bytes()[44:]  # a recorder does not know yet how long it will be
    assert piped(trained("transducer"), unknown)[0] == made


def test_what_cannot_go_through_a_pipe_is_refused_and_nothing_comes_out(trained, recordings):
    sound = (recordings / "a.wav").read_bytes()
    made, said = piped(trained("mask"), sound)
    assert not made and "enhancer=mask enhances whole files like this; take transducer" in said
    made, said = piped(trained("transducer"), sound[:20])
    assert not made and "got no whole header of a WAV, wanted mono 16-bit WAV at 16000 Hz (sox IN" in said
    with pytest.raises(SystemExit, match=r"go together; got enhance\.input=- enhance\.out=elsewhere"):
        run(trained("transducer"), "enhance.input=-", "enhance.out=elsewhere")


def test_a_pipe_is_not_resampled():
    with pytest.raises(ValueError, match="got 1 channels of 16 bits at 8000 Hz, wanted mono 16-bit WAV at 16000 Hz"):
        next(wav_pieces(io.BytesIO(wav_header(8000)), sample_rate=16000, seconds=0.5))
    with pytest.raises(ValueError, match=r"got no whole header of a WAV .*file does not start with RIFF id"):
        next(wav_pieces(io.BytesIO(b"fLaC" * 20), sample_rate=16000, seconds=0.5))


def test_the_voice_of_units_is_one_of_two_and_of_nothing_else(trained, recordings, tmp_path):
    told = [f"enhance.input={recordings}", f"enhance.out={tmp_path / 'out'}"]
    with pytest.raises(SystemExit, match=r"enhance\.voice is one of given, heard; got herd"):
        run(trained("mask"), *told, "enhance.voice=herd")
    with pytest.raises(SystemExit, match=r"enhancer=mask speaks no units one after another; leave enhance\.voice as it is, given"):
        run(trained("mask"), *told, "enhance.voice=heard")
    assert not list((tmp_path / "out").glob("*.wav"))


def test_a_share_of_the_noisy_recording_is_left_in(trained, recordings, tmp_path):
    for share in (0.0, 0.25):
        run(
            trained("mask"),
            f"enhance.input={recordings}",
            f"enhance.out={tmp_path / str(share)}",
            f"enhance.left_in={share}",
            "enhance.seconds=1",
        )
    made_T, mixed_T = (audio.read(tmp_path / share / "a.wav")[0] for share in ("0.0", "0.25"))
    noisy_T = audio.read(recordings / "a.wav")[0]
    torch.testing.assert_close(mixed_T, 0.75 * made_T + 0.25 * noisy_T, rtol=0, atol=1e-4)
    with pytest.raises(SystemExit, match=r"enhance\.left_in is a share of the noisy recording, from 0 to below 1; got 1"):
        run(trained("mask"), f"enhance.input={recordings}", f"enhance.out={tmp_path / 'all'}", "enhance.left_in=1")


def test_an_enhancer_that_is_shipped_works_by_its_name_as_the_checkpoint_does(trained, recordings, tmp_path, monkeypatch):
    (step,) = Path(trained("mask")[4].partition("=")[2]).glob("train/step_*")
    root = tmp_path / "package" / "pretrained"
    ship_model.main([str(step), "tiny"], root=root)
    stored, learnt = load_file(root / "tiny" / "model.safetensors"), load_file(step / "ema.safetensors")
    assert stored.keys() == learnt.keys() and all(torch.equal(stored[name], learnt[name].bfloat16()) for name in learnt)
    assert files.read_json(root / "tiny" / "config.json").keys() == {"enhancer"}
    monkeypatch.setattr(weights, "resources", SimpleNamespace(files=lambda name: root.parent))
    for out, checkpoint_of in (("named", "tiny"), ("step", step)):
        told = [f"enhance.input={recordings}", f"enhance.out={tmp_path / out}", f"enhance.checkpoint={checkpoint_of}"]
        run(trained("mask"), *told, "exp_dir=nowhere")
    named_T, step_T = (audio.read(tmp_path / out / "a.wav")[0] for out in ("named", "step"))
    assert named_T.any() and float((named_T - step_T).norm() / step_T.norm()) < 0.02  # what bf16 rounds
    with pytest.raises(SystemExit, match=r"enhancer\.loudest: 2\.0 there, 3\.0 now"):
        run(trained("mask"), *told[:1], f"enhance.out={tmp_path / 'other'}", "enhance.checkpoint=tiny", "enhancer.loudest=3.0")
    with pytest.raises(ValueError, match="en=june goes with a voice"):
        ship_model.main([str(step), "other", "en=june"], root=root)
    with pytest.raises(ValueError, match="is no voice and no enhancer"):
        ship_model.main([str(weights.located("tiny").parent), "other"], root=root)


def test_a_checkpoint_that_lost_its_averaged_weights_is_not_taken_for_a_shipped_model(trained, recordings, tmp_path):
    (step,) = Path(trained("mask")[4].partition("=")[2]).glob("train/step_*")
    shutil.copytree(step, tmp_path / "step")
    for name in ("ema.safetensors", files.SUMS):
        (tmp_path / "step" / name).unlink()
    with pytest.raises(SystemExit, match=r"ema\.safetensors is not there"):
        run(trained("mask"), f"enhance.input={recordings}", f"enhance.out={tmp_path / 'out'}", f"enhance.checkpoint={tmp_path / 'step'}")


def test_a_recording_that_cannot_be_read_stops_no_other(trained, recordings, tmp_path):
    (recordings / "broken.wav").write_bytes(b"RIFF")
    with pytest.raises(SystemExit, match=r"1 of 5 recordings were not enhanced: .*broken.wav"):
        run(trained("mask"), f"enhance.input={recordings}", f"enhance.out={tmp_path / 'out'}")
    assert {path.name for path in (tmp_path / "out").rglob("*.*")} == {"a.wav", "b.flac", "c.flac", "d.wav", "enhanced.json"}


def test_what_cannot_be_done_is_refused_with_what_to_do(trained, recordings, tmp_path):
    out = f"enhance.out={tmp_path / 'out'}"
    with pytest.raises(SystemExit, match=r"set enhance\.input=FOLDER enhance\.out=FOLDER"):
        run(trained("mask"), f"enhance.input={recordings}")
    with pytest.raises(SystemExit, match="run `audiotok mix prompts/tts`"):
        run(trained("mask"), out, f"exp_root={tmp_path}")
    with pytest.raises(SystemExit, match="choose a folder outside it"):
        run(trained("mask"), f"enhance.input={recordings}", f"enhance.out={recordings / 'out'}")
    with pytest.raises(SystemExit, match="holds no recording"):
        run(trained("mask"), f"enhance.input={tmp_path / 'none'}", out)
    with pytest.raises(SystemExit, match="train an enhancer"):
        run(trained("mask"), f"enhance.input={recordings}", out, f"exp_dir={tmp_path / 'untrained'}")
    with pytest.raises(SystemExit, match=r"enhancer\.loudest: 2\.0 there, 3\.0 now"):
        run(trained("mask"), f"enhance.input={recordings}", out, "enhancer.loudest=3.0")
    with pytest.raises(SystemExit, match=r"pretrained/voice holds no enhancer"):
        run(trained("mask"), f"enhance.input={recordings}", out, "enhance.checkpoint=voice")
    with pytest.raises(SystemExit, match=r"pretrained/codec_50hz holds no enhancer"):
        run(trained("mask"), f"enhance.input={recordings}", out, "enhance.checkpoint=codec_50hz")
    learnt_otherwise = ["enhancer.phase=0.5", "enhancer.dropout=0.7"]  # which changes nothing now
    run(trained("mask"), f"enhance.input={recordings}", out, *learnt_otherwise)
    audio.write(recordings / "c.flac", torch.zeros(5), 16000)
    with pytest.raises(ValueError, match="would both be written to"):
        plan(recordings, tmp_path / "out")


@pytest.fixture
def tiny(speech, wav_16k, tmp_path):
    """The overrides of a kind of enhancer that is trained for four steps on six utterances, which are prepared."""
    save_network(network(wav_16k), tmp_path / "codec")
    root = tiny_speech_folder(tmp_path / "corpus", speech, utterances=6)
    small = [
        f"tokenizer.path={tmp_path / 'codec'}",
        f"data.root={root}",
        f"exp_root={tmp_path / 'exp'}",
        "prepare.workers=1",
        "noise.kinds.recorded=0",
        "noise.rooms.recorded=0",
        "crops.seconds=0.3",
        "crops.dev_batches=1",
    ]
    small += ["train.steps=4", "train.save_every=2", "train.validate_every=2", "train.precision=fp32"]
    small += [f"enhancer.{setting}" for setting in SMALL]
    prepare.run(cli.load("speech/enhance", [*small, f"exp_dir={tmp_path}"]))
    causal = [f"enhancer.encoder.{setting}" for setting in SMALL]
    return {"mask": [*small, "enhancer=mask"], "transducer": [*small, *causal, "enhancer=transducer"]}


@pytest.mark.parametrize("kind", ["mask", "transducer"])
def test_an_enhancer_trained_by_its_stage_enhances_and_a_run_cut_short_ends_with_the_same_weights(kind, tiny, wav_16k, tmp_path):
    tiny = tiny[kind] + (["enhancer.free_running=0.75"] if kind == "transducer" else [])
    whole, cut = (cli.load("speech/enhance", [*tiny, f"exp_dir={tmp_path / name}"]) for name in ("whole", "cut"))
    train_enhancer.run(whole)
    partial = tmp_path / "cut" / "train.partial"  # as a run leaves it that was killed behind its second step
    shutil.copytree(tmp_path / "whole" / "train", partial)
    shutil.rmtree(partial / "step_00000004")
    train_enhancer.run(cut)
    ends = [load_file(tmp_path / name / "train" / "step_00000004" / "ema.safetensors") for name in ("whole", "cut")]
    assert all(torch.equal(tensor, ends[1][key]) for key, tensor in ends[0].items())
    audio.write(tmp_path / "in" / "a.wav", wav_16k[8000:14500], 16000)
    enhance.run(
        cli.load(
            "speech/enhance",
            [*tiny, f"exp_dir={tmp_path / 'whole'}", f"enhance.input={tmp_path / 'in'}", f"enhance.out={tmp_path / 'out'}"]
            + (["enhancer.free_running=0"] if kind == "transducer" else []),  # how it was taught is nothing to what it says
        )
    )
    assert len(audio.read(tmp_path / "out" / "a.wav")[0]) == 6500


def test_training_starts_from_weights_that_are_given_and_knows_them_by_what_they_are(tiny, tmp_path, capsys):
    def train(name, *more):
        train_enhancer.run(cli.load("speech/enhance", [*tiny["mask"], f"exp_dir={tmp_path / name}", *more]))
        return load_file(tmp_path / name / "train" / checkpoint.latest(tmp_path / name / "train").name / "ema.safetensors")

    little = ["train.steps=1", "train.learning_rate=1e-9", "train.weight_decay=0"]
    first, nothing = train("first"), train("nothing", *little)
    further = train("further", *little, f"train.start_from={tmp_path / 'first' / 'train'}")
    assert all(torch.allclose(tensor, first[key], atol=1e-6) for key, tensor in further.items())
    assert not all(torch.allclose(tensor, first[key], atol=1e-6) for key, tensor in nothing.items())
    shutil.copytree(tmp_path / "first" / "train" / "step_00000004", tmp_path / "elsewhere")
    train("further", *little, f"train.start_from={tmp_path / 'elsewhere'}")
    assert "is there already" in capsys.readouterr().out.replace("\n", " ")
    with pytest.raises(ValueError, match=r"train\.start_from"):
        train("further", *little, f"train.start_from={tmp_path / 'nothing' / 'train'}")
    with pytest.raises(ValueError, match=r"start_from: .* holds no weights; give a train folder"):
        train("more", *little, f"train.start_from={tmp_path}")
    with pytest.raises(ValueError, match=r"was trained on other tokens than these; give the same, tokenizer included"):
        train("voice", *little, "train.start_from=voice")
    with pytest.raises(ValueError, match=r"none is no folder, nor the name .*; what it is to start from is trained first"):
        train("none", *little, f"train.start_from={tmp_path / 'none'}")


def test_parts_of_weights_say_nothing_freely(tiny, tmp_path):
    cfg = cli.load("speech/enhance", [*tiny["transducer"], f"exp_dir={tmp_path / 'a'}", "enhancer.free_running=0.5", "train.sharding=fsdp"])
    with pytest.raises(ValueError, match=r"free_running=0\.5 wants all weights in each process: set train\.sharding=none"):
        train_enhancer.run(cfg)


def test_people_who_are_kept_for_the_dev_split_are_not_learnt_from(monkeypatch):
    def cut(name, speaker, dataset="speech"):
        return SimpleNamespace(id=name, custom={"dataset": dataset}, supervisions=[SimpleNamespace(speaker=speaker)])

    people = [f"p{number}" for number in range(200)]
    splits = {
        "train": [cut(f"{name}-{turn}", name) for name in people for turn in (0, 1)] + [cut("n", "", "noise")],
        "dev": [cut("d", "p3")],
    }
    monkeypatch.setattr(train_enhancer, "load_cuts", lambda folder, split: splits[split])
    cfg = cli.load("speech/enhance", ["data.root=nowhere"])
    monkeypatch.setattr(paths, "manifests", lambda cfg: None)
    train, dev = (train_enhancer._speech(cfg, split, left_out=["noise"], dev_speakers=0.1) for split in ("train", "dev"))
    speakers = [{one.supervisions[0].speaker for one in cuts} for cuts in (train, dev[1:])]
    assert dev[0].id == "d" and not speakers[0] & speakers[1] and speakers[0] | speakers[1] == set(people) and 5 < len(speakers[1]) < 40
    assert len(train) + len(dev) == 401
    assert [one.id for one in train_enhancer._speech(cfg, "dev", left_out=["noise"], dev_speakers=0.0)] == ["d"]
