"""The stage compare on a made evaluation: claims and the figure over bits, drawn anew where scores have changed."""

import json
import subprocess

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lhotse import SupervisionSegment

from audiotok import cli, files
from audiotok.data.manifests import load_cuts
from audiotok.data.mixes import Mix, recording_of, write_mixes
from audiotok.evaluation import results
from audiotok.evaluation.metric import Column
from audiotok.stages import bands, compare, paths


class Quality:
    columns = (Column("pesq", "PESQ", "mean", "higher"), Column("speaker_similarity", "Speaker", "mean", "higher"))
    judge = "a hand"


@pytest.fixture
def scored(tmp_path):
    """Three recordings at two ratios, and three systems: one says codes at two rates, one as units."""
    cfg = cli.load("speech/enhance", [f"exp_root={tmp_path}", "data.root=nowhere", "evaluate.bootstrap=100"])
    about = SupervisionSegment("a", "a", 0, 1.0, text="one", speaker="x", language="en")
    wav_T = torch.zeros(160)
    mixes = [Mix(f"{id}_{snr:g}dB", wav_T, wav_T, snr, "babble", None, about) for id in "abc" for snr in (-5.0, 10.0)]
    files.build(paths.mixes(cfg), {}, lambda folder: write_mixes(folder, mixes, 16000))
    ids = [mix.id for mix in mixes]
    write(cfg, ids, {"transducer": (2.5, 0.8, 3000.0), "transducer-3": (2.5, 0.7, 1500.0), "units": (2.0, 0.4, None)})
    return cfg, ids


def write(cfg, ids, systems):
    summaries = {}
    for name, (pesq, similarity, bits) in systems.items():
        none = pa.array([None] * len(ids), pa.string())
        table = pa.table({"id": ids, "seconds": [1.0] * len(ids), "quality_failed": none, "quality_skipped": none})
        for key, base in (("pesq", pesq), ("speaker_similarity", similarity)):
            table = table.append_column(key, pa.array([base + 0.01 * place for place in range(len(ids))]))
        folder = paths.evaluation(cfg) / name
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / "utterances.parquet")
        summaries[name] = results.summarise(table, {"quality": Quality()}, resamplings=10, seed=0)
        about = {
            "name": "bits_per_second",
            "label": "Rate",
            "better": "neither",
            "metric": "costs",
            "unit": "bit/s",
            "scale": 1.0,
            "digits": 0,
        }
        summaries[name]["columns"].insert(0, about | {"value": bits, "low": None, "high": None, "n": 1, "failed": 0, "skipped": 0})
    files.write_json(paths.evaluation(cfg) / results.RESULTS, {"recipe": cfg.recipe, "systems": summaries})


def test_the_recipes_claims_are_told_of_what_is_scored_and_the_rest_is_said_to_be_missing(scored, capsys):
    cfg, ids = scored
    compare.run(cfg)
    folder = paths.bands(cfg).with_name("comparison")
    found = {claim["claim"]: claim for claim in files.read_json(folder / "claims.json")}
    (speaker,) = found["acoustic tokens keep the speaker better than semantic ones"]["columns"]
    assert speaker["all"]["value"] == pytest.approx(0.4) and speaker["all"]["verdict"] == "holds" and speaker["all"]["recordings"] == 3
    assert set(speaker["levels"]) == {"-5", "10"}
    pesq, _ = found["six codebooks are better than three"]["columns"]
    assert pesq["all"]["value"] == 0 and pesq["all"]["verdict"] == "not told apart"
    assert found["a mask is still better than codes"]["missing"] == ["mask"]
    assert "### a mask is still better than codes" in (folder / "claims.md").read_text()
    rates = json.loads((folder / "rates.json").read_text())["columns"][0]
    assert [point["bits_per_second"] for point in rates["families"]["transducer"]] == [1500.0, 3000.0] and list(rates["without"]) == [
        "units"
    ]
    assert (folder / "rates.svg").exists()
    compare.run(cfg)
    assert "there already" in capsys.readouterr().out
    write(cfg, ids, {"transducer": (2.5, 0.8, None), "units": (2.0, 0.9, None)})
    compare.run(cfg)
    (speaker,) = {claim["claim"]: claim for claim in files.read_json(folder / "claims.json")}[
        "acoustic tokens keep the speaker better than semantic ones"
    ]["columns"]
    assert speaker["all"]["verdict"] == "does not hold" and not (folder / "rates.svg").exists()


def test_what_has_not_been_scored_is_named(tmp_path):
    with pytest.raises(ValueError, match="run `audiotok evaluate`"):
        compare.run(cli.load("speech/enhance", [f"exp_root={tmp_path}", "data.root=nowhere"]))


def test_a_mix_is_of_the_recording_whose_ratio_it_names(scored):
    cfg, _ = scored
    cuts = list(load_cuts(paths.mixes(cfg), "test"))
    assert [recording_of(cut) for cut in cuts] == list("aabbcc")
    cuts[0].custom = None
    assert recording_of(cuts[0]) == cuts[0].id


def test_the_bitrate_study_trains_and_enhances_each_system_at_each_number_of_codebooks():
    script = cli.ROOT / "egs/speech/enhance/bitrate.sh"
    told = {"PATH": "/usr/bin:/bin", "enhancers": "transducer conformer", "codebooks": "1 3"}
    shown = subprocess.run([str(script), "--dry-run"], capture_output=True, text=True, check=True, env=told).stdout.splitlines()
    assert [line.split()[1] for line in shown] == [
        "prepare",
        "mix",
        "mix",
        "mix",
        *["train_enhancer"] * 4,
        *["enhance"] * 4,
        "evaluate",
        "compare",
    ]
    assert sum("tokenizer.num_codebooks=3" in line and "audio/transducer-3" in line for line in shown) == 1


def test_trainings_are_of_other_seeds_and_start_from_their_own():
    script = cli.ROOT / "egs/speech/enhance/trainings.sh"
    told = {"PATH": "/usr/bin:/bin", "enhancers": "transducer conformer", "seeds": "1 2"}
    shown = subprocess.run([str(script), "--dry-run"], capture_output=True, text=True, check=True, env=told).stdout.splitlines()
    made = [cli.load(line.split()[2], [*line.split()[3:], "data.root=nowhere"]) for line in shown if "train_enhancer" in line]
    names = ["transducer", "conformer"] * 2 + ["transducer_free"] * 2
    assert [(cfg.exp_dir.rpartition("/")[2], cfg.seed) for cfg in made] == [
        (f"{name}@{seed}", seed) for name, seed in zip(names, [1, 1, 2, 2, 1, 2])
    ]
    assert [cfg.train.start_from for cfg in made[-2:]] == [f"exp/speech/enhance/transducer@{seed}/train" for seed in (1, 2)]


def test_a_training_with_the_same_seed_is_no_second_one(scored):
    cfg, ids = scored
    write(cfg, ids, {"transducer": (2.5, 0.8, 3000.0), "transducer@1": (2.7, 0.8, 3000.0), "units": (2.0, 0.4, None)})
    compare.run(cfg)
    text = (paths.bands(cfg).with_name("comparison") / "claims.md").read_text()
    assert "over recordings and trainings, 2 of `transducer` and 1 of `units` (what" in text
    write(cfg, ids, {"transducer": (2.5, 0.8, 3000.0), "transducer@1": (2.5, 0.8, 3000.0), "units": (2.0, 0.4, None)})
    with pytest.raises(ValueError, match="another seed="):
        compare.run(cfg)
    assert (paths.bands(cfg).with_name("comparison") / "claims.md").read_text() == text


def test_trainings_that_differ_in_more_than_chance_are_no_trainings_of_one_system(scored):
    cfg, ids = scored
    systems = {"transducer": (2.5, 0.8, 3000.0), "transducer@1": (2.7, 0.8, 3000.0), "units": (2.0, 0.4, None)}
    write(cfg, ids, systems)
    for name, steps, seed in (("transducer", 3000, 0), ("transducer@1", 3000, 1)):
        training = {"manifests": "a", "seed": seed, "train": {"steps": steps, "start_from": name, "keep": seed}}
        files.write_json(paths.audio(cfg) / name / "enhanced.json", {"weights": name, "training": training})
    compare.run(cfg)
    files.write_json(paths.audio(cfg) / "transducer@1" / "enhanced.json", {"training": training | {"manifests": "b"}})
    write(cfg, ids, systems | {"units": (2.1, 0.4, None)})
    with pytest.raises(ValueError, match=r"transducer and transducer@1 were not trained alike \(manifests: 'a' and 'b'\)"):
        compare.run(cfg)


def test_mixes_of_no_known_ratio_have_no_bands(tmp_path):
    cfg = cli.load("speech/enhance", [f"exp_root={tmp_path}", "data.root=nowhere"])
    about = SupervisionSegment("a", "a", 0, 1.0, text="one", speaker="x", language="en")
    mixes = [Mix("a", torch.zeros(160), torch.zeros(160), None, None, None, about)]
    files.build(paths.mixes(cfg), {}, lambda folder: write_mixes(folder, mixes, 16000))
    write(cfg, ["a"], {"transducer": (2.5, 0.8, 3000.0)})
    with pytest.raises(ValueError, match=r"of 1 mixes no ratio of speech to noise is known, the first is 'a'; .*audiotok compare"):
        bands.run(cfg)
