"""Two people at once from a corpus to scores: mix, train_enhancer, separate, evaluate and compare, with a judge that needs no weights."""

import csv

import pytest
from omegaconf import OmegaConf, open_dict
from small_codec import network
from small_enhancers import codec, make, separator
from tiny import tiny_speech_folder

from audiotok import audio, cli, files
from audiotok.stages import compare, enhance, evaluate, mix, paths, prepare, separate, train_enhancer
from audiotok.tokenizers.codec import save_network

SMALL = ["width=32", "layers=1", "heads=2", "feed_forward=32"]


@pytest.fixture(scope="module")
def told(tmp_path_factory, speech, wav_16k):
    """The settings of a small run whose mixtures are made: four people of the test split, two each of the others."""
    folder = tmp_path_factory.mktemp("separate")
    root = tiny_speech_folder(folder / "corpus", speech, utterances=8)
    with open(root / "manifest.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    for number, row in enumerate(rows):
        row |= {"speaker": f"person {number}", "split": ("test", "test", "train", "dev")[number % 4]}
    with open(root / "manifest.tsv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    save_network(network(wav_16k), folder / "codec")
    settings = [f"tokenizer.path={folder / 'codec'}", f"data.root={root}", f"exp_root={folder / 'exp'}", "prepare.workers=1"]
    settings += ["mix.seconds.shortest=0.5", "evaluate.workers=1", "evaluate.bootstrap=20", "crops.seconds=0.4", "crops.dev_batches=1"]
    settings += ["train.steps=1", "train.precision=fp32", "enhance.seconds=1.0", "enhance.overlap_seconds=0.2"]
    prepare.run(load(settings))
    mix.run(load(settings))
    return settings


def load(settings, *more):
    cfg = cli.load("speech/separate", [*settings, *more])
    judge = OmegaConf.to_container(cfg.metrics.si_sdr, resolve=True)
    with open_dict(cfg):
        cfg.metrics = OmegaConf.create({"si_sdr": judge})
    return cfg


def kind(name):
    return [f"enhancer={name}", *(f"enhancer.enhancer.{setting}" for setting in SMALL)]


def test_both_voices_of_each_mixture_are_scored_beside_the_mixture_itself(told):
    audios = paths.audio(load(told))
    for name in ("conformer_two", "mask_two"):
        own = [*told, *kind(name), f"exp_dir={audios.parent / name}"]
        train_enhancer.run(load(own))
        separate.run(load(own, f"enhance.out={audios / name}"))
    cfg = load(told)
    evaluate.run(cfg)
    compare.run(cfg)
    ids = [row["id"] for row in files.read_jsonl(audios / "mask_two" / "utterances.jsonl")]
    assert len(ids) == 4 and [id[-2:] for id in ids] == ["_1", "_2", "_1", "_2"]
    found = {claim["claim"]: claim for claim in files.read_json(audios.parent / "comparison" / "claims.json")}
    (gain,) = found["a mask tells two voices apart"]["columns"]
    assert gain["name"] == "si_sdr" and (gain["all"]["utterances"], gain["all"]["recordings"]) == (4, 2)
    systems = files.read_json(paths.evaluation(cfg) / "results.json")["systems"]
    means = {name: cell["value"] for name, summary in systems.items() for cell in summary["columns"] if cell["name"] == "si_sdr"}
    assert gain["all"]["value"] == pytest.approx(means["mask_two"] - means["unprocessed"])
    assert files.read_json(audios / "conformer_two" / "system.json")["bits_per_second"] == 1000
    assert not (audios / "mask_two" / "system.json").exists() and {"ceiling", "unprocessed"} <= systems.keys()


def test_recordings_of_ones_own_are_separated_under_their_names_and_kept(told, wav_16k, tmp_path):
    own = [*told, *kind("mask_two"), f"exp_dir={tmp_path / 'mask'}"]
    train_enhancer.run(load(own))
    audio.write(tmp_path / "in" / "a.wav", audio.resample(wav_16k, 16000, 8000), 8000)
    (tmp_path / "in" / "broken.wav").write_bytes(b"RIFF")
    cfg = load(own, f"enhance.input={tmp_path / 'in'}", f"enhance.out={tmp_path / 'out'}")
    with pytest.raises(ValueError, match=r"1 recordings were not separated: .*broken\.wav"):
        separate.run(cfg)
    (tmp_path / "in" / "broken.wav").unlink()
    written = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert set(written) == {"a_1.wav", "a_2.wav", "enhanced.json"}
    assert len(audio.read(tmp_path / "out" / "a_1.wav")[0]) == -(-len(wav_16k) // 2) and audio.read(tmp_path / "out" / "a_2.wav")[1] == 8000
    separate.run(cfg)
    assert written == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    with pytest.raises(ValueError, match=r"was made otherwise \(enhance\.overlap_seconds: .* there, 0\.01 now\)"):
        separate.run(load(own, f"enhance.input={tmp_path / 'in'}", f"enhance.out={tmp_path / 'out'}", "enhance.overlap_seconds=0.01"))
    with pytest.raises(ValueError, match="enhancer=mask_two tells voices apart; run `audiotok separate`"):
        enhance.run(load(own, f"enhance.input={tmp_path / 'in'}", f"enhance.out={tmp_path / 'other'}"))


def test_an_enhancer_of_one_voice_and_mixes_of_one_person_are_refused(told, wav_16k, tmp_path, monkeypatch):
    one = load(
        told, "enhancer=mask", *(f"enhancer.{setting}" for setting in SMALL), f"exp_dir={tmp_path}", f"enhance.out={tmp_path / 'out'}"
    )
    with pytest.raises(ValueError, match=r"enhancer=mask does not fit recipe speech/separate, .* choose conformer_two or mask_two"):
        train_enhancer.run(one)
    with pytest.raises(ValueError, match="train an enhancer"):
        separate.run(one)
    monkeypatch.setattr(enhance, "loaded", lambda cfg: make("mask", codec(wav_16k)))
    with pytest.raises(ValueError, match="enhancer=mask makes one voice; choose one that tells several apart"):
        separate.run(one)
    several = separator("mask", codec(wav_16k))
    monkeypatch.setattr(enhance, "loaded", lambda cfg: several)
    monkeypatch.setattr(enhance, "folders", lambda cfg: (tmp_path / "noisy", tmp_path / "out"))
    files.write_jsonl(tmp_path / "noisy" / "utterances.jsonl", [{"id": "a", "path": "a.flac"}])
    with pytest.raises(ValueError, match=r"a\.flac of mix is of one person; choose a recipe whose mixes are of several"):
        separate.run(one)
