"""A corpus that brings its own pairs, from its folder to an enhancer that was trained and is scored on them."""

import pytest
from omegaconf import OmegaConf, open_dict
from small_codec import network
from tiny_dasb import tiny_voicebank

from audiotok import cli, files
from audiotok.data.pairs import PairCrops
from audiotok.stages import enhance, evaluate, mix, paths, prepare, train_enhancer
from audiotok.tokenizers.codec import save_network

SMALL = ["enhancer=mask", *(f"enhancer.{setting}" for setting in ("width=32", "layers=1", "heads=2", "feed_forward=32"))]
SMALL += ["crops.seconds=0.3", "crops.batch_size=3", "crops.dev_batches=1", "train.steps=1", "train.precision=fp32"]
SMALL += ["data.corpus.dev_speakers=[p226]", "prepare.workers=1", "evaluate.workers=1", "evaluate.bootstrap=20"]


@pytest.fixture(scope="module")
def told(tmp_path_factory, speech, wav_16k):
    folder = tmp_path_factory.mktemp("pairs")
    save_network(network(wav_16k), folder / "codec")
    root = tiny_voicebank(folder / "voicebank", speech)
    return [f"data.root={root}", f"tokenizer.path={folder / 'codec'}", f"exp_root={folder / 'exp'}", *SMALL]


def load(settings, *more):
    cfg = cli.load("voicebank/enhance", [*settings, *more])
    judge = OmegaConf.to_container(cfg.metrics.si_sdr, resolve=True)
    with open_dict(cfg):
        cfg.metrics = OmegaConf.create({"si_sdr": judge})
    return cfg


def test_voicebanks_own_pairs_are_trained_on_and_its_test_pairs_scored(told, monkeypatch):
    cfg, heard = load(told), []
    prepare.run(cfg)
    mix.run(cfg)
    batch = PairCrops.batch
    monkeypatch.setattr(PairCrops, "batch", lambda self, *place, **rank: heard.append(self) or batch(self, *place, **rank))
    train_enhancer.run(cfg)
    spoken = {cut.supervisions[0].speaker for crops in heard for cut in crops.speech.cuts}
    assert spoken == {"p226", "p227", "p228"} and all(cut.id.startswith("clean/") for crops in heard for cut in crops.speech.cuts)
    enhance.run(load(told, f"enhance.out={paths.audio(cfg) / 'mask'}"))
    evaluate.run(cfg)
    rows = list(files.read_jsonl(paths.audio(cfg) / "mask" / "utterances.jsonl"))
    assert [row["id"] for row in rows] == ["clean/p232_001", "clean/p232_002"] and {row["speaker"] for row in rows} == {"p232"}
    systems = files.read_json(paths.evaluation(cfg) / "results.json")["systems"]
    columns = {name: {column["name"]: column["value"] for column in system["columns"]} for name, system in systems.items()}
    value = {name: of["si_sdr"] for name, of in columns.items()}
    assert set(value) == {"recordings", "unprocessed", "ceiling", "floor", "mask"} and value["unprocessed"] > value["ceiling"]
