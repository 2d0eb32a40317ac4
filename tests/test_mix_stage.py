"""From a corpus to tables by signal-to-noise ratio: mix, enhance, evaluate and bands, with a judge that needs no weights."""

import shutil

import pytest
import torch
from omegaconf import OmegaConf, open_dict
from small_codec import network
from tiny import tiny_speech_folder

from audiotok import audio, cli, files
from audiotok.data.manifests import load_cuts
from audiotok.data.tokenization import read_cut
from audiotok.stages import bands, compare, enhance, evaluate, mix, paths, prepare, train_enhancer
from audiotok.tokenizers.codec import Codec, save_network

SMALL = ["enhancer=mask", *(f"enhancer.{setting}" for setting in ("width=32", "layers=1", "heads=2", "feed_forward=32"))]
SMALL += ["crops.seconds=0.3", "crops.dev_batches=1", "train.steps=1", "train.precision=fp32"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, speech, wav_16k):
    """Six utterances, two noises, one of them kept from training, the response of a room, and a pair."""
    folder = tiny_speech_folder(tmp_path_factory.mktemp("corpus"), speech, utterances=6)
    columns, *rows = (line.split("\t") for line in (folder / "manifest.tsv").read_text(encoding="utf-8").splitlines())
    for row in rows:  # of the test split, and of it alone
        if row[columns.index("split")] == "test":
            row[columns.index("speaker")] = f"unheard {row[columns.index('path')]}"
    kept = [("noise/noise1", "train"), ("noise/noise3", "dev"), ("rir/rir4", "train")]
    for path, split in (*kept, ("voicebank/noisy/p287_001", "test"), ("voicebank/clean/p287_001", "test")):
        dataset, *_, name = path.split("/")
        target = folder / f"{path}.flac" if dataset == "voicebank" else folder / f"{name}.flac"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(speech / f"{path}.flac", target)
        told = {
            "dataset": dataset,
            "path": str(target.relative_to(folder)),
            "speaker": "p287" if dataset == "voicebank" else "",
            "split": split,
        }
        rows.append([told.get(column, "") for column in columns])
    (folder / "manifest.tsv").write_text("\n".join("\t".join(row) for row in (columns, *rows)) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def told(tmp_path_factory, corpus, wav_16k):
    """The settings of a small run whose mixes are made."""
    folder = tmp_path_factory.mktemp("exp")
    save_network(network(wav_16k), folder / "codec")
    settings = [f"tokenizer.path={folder / 'codec'}", f"data.root={corpus}", f"exp_root={folder}", "prepare.workers=1", "mix.snrs=[-5,20]"]
    settings += ["mix.seconds.shortest=0.5", "mix.num_voices=1", "evaluate.workers=1", "evaluate.bootstrap=20", *SMALL]
    prepare.run(load(settings))
    mix.run(load(settings))
    return settings


def load(settings, *more):
    cfg = cli.load("speech/enhance", [*settings, *more])
    judge = OmegaConf.to_container(cfg.metrics.si_sdr, resolve=True)
    with open_dict(cfg):
        cfg.metrics = OmegaConf.create({"si_sdr": judge})
    return cfg


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_mixes_are_of_unheard_speakers_and_noises_at_every_ratio(told):
    cfg = load(told)
    cuts, rows = load_cuts(paths.mixes(cfg), "test"), list(files.read_jsonl(paths.mixes(cfg) / "noisy" / "utterances.jsonl"))
    heard = {cut.supervisions[0].speaker for cut in load_cuts(paths.manifests(cfg), "train")}
    assert len(rows) == 2 * 2 and {row["snr"] for row in rows} == {-5, 20}
    assert not heard & {cut.supervisions[0].speaker for cut in cuts}
    assert all(row["noise"].startswith("babble: ") or row["noise"] == "recorded: noise3" for row in rows)


def test_mixes_made_again_are_the_same_bytes_and_are_not_made_again_unasked(told, capsys):
    folder = paths.mixes(load(told))
    before = contents(folder)
    mix.run(load(told))
    assert capsys.readouterr().out.count("there already") == 4
    mix.run(load(told, "overwrite=true"))
    assert contents(folder) == before


def test_the_ceiling_is_what_the_codec_makes_of_clean_speech_and_the_floor_what_it_makes_of_noisy_speech(told):
    cfg = load(told)
    codec, noisy = Codec.from_pretrained(cfg.tokenizer.path, num_codebooks=None), paths.mixes(cfg) / "noisy"
    clean = {cut.id: read_cut(cut, 16000) for cut in load_cuts(paths.mixes(cfg), "test")}
    for row in files.read_jsonl(noisy / "utterances.jsonl"):
        for name, wav_T in (("ceiling", clean[row["id"]]), ("floor", audio.read(noisy / row["path"])[0])):
            with torch.inference_mode():
                wanted_1T, _ = codec.decode(*codec.encode(wav_T[None], torch.tensor([len(wav_T)])))
            found_T, _ = audio.read(paths.audio(cfg) / name / row["path"])
            torch.testing.assert_close(found_T, wanted_1T[0, : len(wav_T)].clamp(-1, 1), rtol=0, atol=2**-15)


def test_what_does_nothing_what_nothing_is_done_to_and_a_stranger_are_scored_by_band(told):
    cfg = load(told)
    audios, noisy = paths.audio(cfg), paths.mixes(cfg) / "noisy"
    for path in noisy.glob("*.flac"):  # a peer that makes no difference but in level
        wav_T, rate = audio.read(path)
        audio.write(audios / "peer" / path.name, 0.5 * wav_T, rate)
    shutil.copy(noisy / "utterances.jsonl", audios / "peer")
    train_enhancer.run(cfg)
    enhance.run(load(told, f"enhance.out={audios / 'mask'}"))
    evaluate.run(cfg)
    bands.run(cfg)
    found = files.read_json(paths.bands(cfg) / "bands.json")
    assert list(found) == ["-5", "20"] and set(found["-5"]) == {"unprocessed", "ceiling", "floor", "peer", "mask"}
    value = {(snr, name): summary["columns"][0]["value"] for snr, band in found.items() for name, summary in band.items()}
    for snr in ("-5", "20"):
        # the ratio of `mix` counts where there is speech, SI-SDR everywhere: pauses cost some dB
        assert -6 < value[snr, "unprocessed"] - float(snr) < 0.1
        assert value[snr, "peer"] == pytest.approx(value[snr, "unprocessed"], abs=0.05)
    assert value["-5", "ceiling"] == pytest.approx(value["20", "ceiling"], abs=1)  # nothing of it is noise
    assert (paths.bands(cfg) / "bands.svg").exists() and "### 20 dB" in (paths.bands(cfg) / "bands.md").read_text()


@pytest.mark.parametrize("kind", ["transducer", "conformer"])
def test_systems_of_fewer_codebooks_are_scored_beside_their_ceilings_and_tell_their_rate(kind, told, tmp_path):
    small = [setting.replace("enhancer=mask", f"enhancer={kind}") for setting in told] + [f"exp_dir={tmp_path}"]
    small += [f"enhancer.encoder.{setting}" for setting in ("width=32", "layers=1", "heads=2", "feed_forward=32") if kind == "transducer"]
    for k in (1, 2):
        few = load(small, f"tokenizer.num_codebooks={k}", f"enhance.ceiling=ceiling-{k}", f"enhance.floor=floor-{k}")
        mix.run(few)
    few = load(small, "tokenizer.num_codebooks=1", f"enhance.out={tmp_path / 'audio' / kind}-1", f"exp_dir={tmp_path / 'own'}")
    train_enhancer.run(few)
    enhance.run(few)
    cfg = load(small)
    evaluate.run(cfg)
    bands.run(cfg)
    compare.run(cfg)
    rates = files.read_json(tmp_path / "comparison" / "rates.json")["columns"][0]
    bits = {name: [point["bits_per_second"] for point in points] for name, points in rates["families"].items()}
    assert bits == {"ceiling": [250.0, 500.0], "floor": [250.0, 500.0], kind: [250.0]} and list(rates["without"]) == [
        "recordings",
        "unprocessed",
    ]
    assert set(files.read_json(tmp_path / "bands" / "bands.json")["-5"]) == {
        "ceiling-1",
        "ceiling-2",
        "floor-1",
        "floor-2",
        f"{kind}-1",
        "unprocessed",
    }


def test_what_has_not_been_made_is_named(told, tmp_path):
    with pytest.raises(ValueError, match="run `audiotok mix speech/enhance`"):
        evaluate.run(load(told, "mix.snrs=[5]", f"exp_dir={paths.audio(load(told)).parent}"))
    with pytest.raises(ValueError, match="run `audiotok evaluate`"):
        bands.run(load(told, f"exp_dir={tmp_path}"))
    mute = load(told, f"exp_dir={tmp_path}")
    mute.tokenizer = {"_target_": "builtins.object"}
    with pytest.raises(ValueError, match="tokenizer=codec has no way back to sound; choose one that has"):
        mix.run(mute)


def test_pairs_of_the_corpus_are_a_test_set_as_they_are(told, corpus):
    cfg = cli.load("speech/enhance_voicebank", told)
    mix.run(cfg)
    folder = paths.mixes(cfg)
    (row,) = files.read_jsonl(folder / "noisy" / "utterances.jsonl")
    assert (row["speaker"], row["snr"], row["room"]) == ("p287", None, None)
    for kind in ("noisy", "clean"):
        before, after = (audio.read(path)[0] for path in (corpus / "voicebank" / kind / "p287_001.flac", folder / kind / row["path"]))
        assert len(before) == len(after) and float((before - after).abs().max()) <= 2**-15
    assert {path.name for path in paths.audio(cfg).iterdir() if path.is_dir()} == {"unprocessed", "ceiling", "floor"}


def test_mixes_in_rooms_are_told_apart_by_them(told, tmp_path):
    cfg = load(told, "mix.rooms={none: 0, recorded: 0, simulated: 1}", f"exp_dir={tmp_path}")
    mix.run(cfg)
    rows = list(files.read_jsonl(paths.mixes(cfg) / "noisy" / "utterances.jsonl"))
    assert len(rows) == 4 and len({row["room"] for row in rows}) == 2 and all(row["room"].startswith("simulated: ") for row in rows)
    with pytest.raises(ValueError, match=r"mix\.rooms wants recorded responses, and there is none in this split"):
        mix.run(load(told, "mix.rooms.recorded=1"))
