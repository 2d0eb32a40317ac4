"""Corpora that Lhotse prepares, each laid out in miniature as its publisher packs it, and any folder of speech."""

import inspect
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import lhotse.recipes.voxceleb
import numpy as np
import pytest
import soundfile
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from tiny import shortest_transcribed, tiny_libritts, tiny_speech_folder
from zoo import RATE, through_pyav

from audiotok.data.lhotse_recipes import corpus_folder
from audiotok.data.manifests import Utterance, load_cuts, write_manifests

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CORPORA = sorted(path.stem for path in (CONFIGS / "data").glob("*.yaml"))
PREPARED_BY_LHOTSE = ["librimix", "librispeech", "libritts", "ljspeech", "speech_commands", "vctk", "voxceleb"]
LIMITS: dict[str, Any] = {"max_rejected": 0.5, "max_seconds": 60, "workers": 1}


def config(corpus: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(f"data/{corpus}", overrides=list(overrides)).data


def listed(corpus: str, *overrides: str) -> dict[str, list[Utterance]]:
    return instantiate(config(corpus, *overrides).corpus, _convert_="all")()


def reals(speech: Path, count: int) -> list[tuple[np.ndarray, str]]:
    """Real utterances with what is said in them."""
    return [(soundfile.read(speech / row["path"], dtype="float32")[0], row["text"]) for row in shortest_transcribed(speech, count)]


def put(path: Path, wav_T: np.ndarray, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wav_T, rate)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_every_corpus_binds_to_its_function_and_has_a_name() -> None:
    assert set(CORPORA) >= {"prompts", "prompts_all", "speech", *PREPARED_BY_LHOTSE}
    for corpus in CORPORA:
        cfg = config(corpus)
        made = instantiate(cfg.corpus, _convert_="all")
        assert isinstance(made, partial), corpus
        inspect.signature(made.func).bind(*made.args, **made.keywords)
        if "recipe" in made.keywords:
            recipe = made.keywords["recipe"]
            parts = made.keywords["parts_as"]
            inspect.signature(recipe).bind(corpus_dir="x", **({parts: []} if parts else {}))
        assert cfg.name.isidentifier(), corpus


@pytest.mark.parametrize("corpus", PREPARED_BY_LHOTSE)
def test_a_corpus_that_is_not_there_says_where_to_get_it_and_how_to_point_to_it(corpus: str) -> None:
    with pytest.raises(ValueError, match=r"data\.\w+ is not set; get the corpus from https://.*set data\.\w+=FOLDER"):
        listed(corpus)
    key = "librispeech" if corpus == "librimix" else "root"
    with pytest.raises(ValueError, match=rf"data\.{key}=/no/such: no such folder; get the corpus from https"):
        listed(corpus, f"data.{key}=/no/such")


@pytest.mark.parametrize("corpus", PREPARED_BY_LHOTSE)
def test_a_folder_that_is_not_the_corpus_is_named_with_what_it_lacks(corpus: str, tmp_path: Path) -> None:
    key = "librispeech" if corpus == "librimix" else "root"
    with pytest.raises(ValueError, match=r"does not hold .*; get the corpus from https"):
        listed(corpus, f"data.{key}={tmp_path}")


def test_libritts_in_miniature_becomes_manifests(speech: Path, tmp_path: Path) -> None:
    root = tiny_libritts(tmp_path / "LibriTTS", speech, utterances=3)
    first = sorted((root / "train-clean-100").rglob("*.wav"))[0]
    first.write_bytes(b"")
    write_manifests(tmp_path / "out", listed("libritts", f"data.root={root}"), **LIMITS)
    cuts = {split: load_cuts(tmp_path / "out", split) for split in ("train", "dev", "test")}
    assert {split: len(found) for split, found in cuts.items()} == {"train": 2, "dev": 3, "test": 3}
    (rejected,) = map(json.loads, (tmp_path / "out" / "rejected.jsonl").read_text().splitlines())
    assert (rejected["id"], rejected["reason"]) == (first.stem, "the file is empty (0 bytes)")
    for cut in cuts["test"]:
        said = Path(cut.recording.sources[0].source).with_suffix(".normalized.txt").read_text()
        (segment,) = cut.supervisions
        assert (segment.text, segment.language, segment.speaker) == (said, "en", cut.id.split("_")[0])
        assert (cut.custom["gender"], cut.custom["snr"]) == ("F", 20.5)
        assert cut.load_audio().shape[1] == cut.recording.num_samples


def test_a_missing_part_is_named_and_other_parts_can_be_chosen(speech: Path, tmp_path: Path) -> None:
    root = tiny_libritts(tmp_path / "LibriTTS", speech, utterances=1)
    shutil.rmtree(root / "train-clean-100")
    with pytest.raises(ValueError, match=r"does not hold train-clean-100; .*choose other parts with data\.splits"):
        listed("libritts", f"data.root={root}")
    chosen = listed("libritts", f"data.root={root}", "data.splits.train=[dev-clean]", "data.splits.dev=[]")
    assert {split: len(found) for split, found in chosen.items()} == {"train": 1, "dev": 0, "test": 1}


def test_a_layout_that_lhotse_does_not_know_is_an_error_that_names_recipe_and_folder(speech: Path, tmp_path: Path) -> None:
    root = tiny_libritts(tmp_path / "LibriTTS", speech, utterances=1)
    next((root / "dev-clean").rglob("*.book.tsv")).unlink()
    with pytest.raises(ValueError, match=rf"Lhotse's prepare_libritts cannot read {root}.*book\.tsv"):
        listed("libritts", f"data.root={root}")


def test_librispeech_in_miniature_passes_a_truncated_recording_on_to_quarantine(speech: Path, tmp_path: Path) -> None:
    (wav_T, text), _, _ = reals(speech, 3)
    put(tmp_path / "test-clean" / "1" / "2" / "1-2-0000.flac", wav_T)
    write(tmp_path / "test-clean" / "1" / "2" / "1-2.trans.txt", f"1-2-0000 {text}\n")
    chosen = [f"data.root={tmp_path}", "data.splits.dev=[]", "data.splits.train=[]"]
    (only,) = listed("librispeech", *chosen)["test"]
    assert (only.id, only.speaker, only.text) == ("1-2-0000", "1", text)
    sound = Path(str(only.sound))
    sound.write_bytes(sound.read_bytes()[:10000])
    with pytest.raises(ValueError, match="truncated"):
        write_manifests(tmp_path / "out", listed("librispeech", *chosen), **LIMITS)


def test_ljspeech_in_miniature_has_one_voice_normalised_text_and_a_hashed_split(speech: Path, tmp_path: Path) -> None:
    real = reals(speech, 12)
    for index, (wav_T, _) in enumerate(real):
        put(tmp_path / "wavs" / f"LJ001-{index:04d}.wav", wav_T)
    write(tmp_path / "metadata.csv", "".join(f"LJ001-{index:04d}|In 1455 {text}|IN MANY {text}\n" for index, (_, text) in enumerate(real)))
    found = listed("ljspeech", f"data.root={tmp_path}", "data.corpus.fractions={dev: 0.3, test: 0.3}")
    rows = [row for chosen in found.values() for row in chosen]
    assert len(rows) == 12 and all(found.values())
    assert {(row.speaker, row.language) for row in rows} == {("LJ", "en")}
    assert {row.id: row.text for row in rows} == {f"LJ001-{index:04d}": f"IN MANY {text}" for index, (_, text) in enumerate(real)}
    assert not any("normalized_text" in row.custom for row in rows)


def test_vctk_in_miniature_keeps_every_speaker_in_one_split(speech: Path, tmp_path: Path) -> None:
    wav_T, text = reals(speech, 3)[0]
    speakers = [f"p{number}" for number in range(225, 237)]
    lines = ["ID  AGE  GENDER  ACCENTS  REGION COMMENTS", *(f"{name}  23  F  English  Surrey" for name in speakers)]
    write(tmp_path / "speaker-info.txt", "\n".join(lines))
    for name in speakers:
        for number in (1, 2):
            write(tmp_path / "txt" / name / f"{name}_{number:03d}.txt", text)
            put(tmp_path / "wav48_silence_trimmed" / name / f"{name}_{number:03d}_mic2.flac", wav_T, 48000)
    found = listed("vctk", f"data.root={tmp_path}", "data.corpus.fractions={dev: 0.25, test: 0.25}")
    speakers_of = {split: {row.speaker for row in chosen} for split, chosen in found.items()}
    assert sum(map(len, found.values())) == 24
    assert sum(map(len, speakers_of.values())) == 12 and all(speakers_of.values())
    assert found["train"][0].custom["accent"] == "English"


def test_speech_commands_in_miniature_uses_its_own_lists(speech: Path, tmp_path: Path) -> None:
    clips = iter(sorted((speech / "fsdd").rglob("*.flac")))
    train, test = tmp_path / "speech_commands_v0.02", tmp_path / "speech_commands_test_set_v0.02"
    for path in ("yes/a_nohash_0", "yes/b_nohash_0", "no/c_nohash_0", "_background_noise_/running_tap"):
        put(train / f"{path}.wav", soundfile.read(next(clips))[0])
    write(train / "validation_list.txt", "yes/b_nohash_0.wav\n")
    write(train / "testing_list.txt", "no/c_nohash_0.wav\n")
    put(test / "no" / "c_nohash_0.wav", soundfile.read(next(clips))[0])
    put(test / "_silence_" / "0.wav", soundfile.read(next(clips))[0])
    found = listed("speech_commands", f"data.root={tmp_path}")
    assert {split: sorted((row.text, row.speaker) for row in chosen if row.text) for split, chosen in found.items()} == {
        "train": [("yes", "a")],
        "dev": [("yes", "b")],
        "test": [("no", "c")],
    }


def test_voxceleb_in_miniature_gives_speakers_and_decodes_aac(speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (first, _), (second, _), (third, _) = reals(speech, 3)
    put(tmp_path / "v1" / "wav" / "id10001" / "video" / "00001.wav", first)
    put(tmp_path / "v1" / "wav" / "id10270" / "video" / "00001.wav", second)
    header = "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"
    write(tmp_path / "v1" / "vox1_meta.csv", header + "id10001\tA\tm\tIreland\tdev\nid10270\tB\tf\tUSA\ttest\n")
    through_pyav(tmp_path / "v2" / "dev" / "aac" / "id00012" / "video" / "00001.m4a", third, codec="aac", container="mp4")
    write(tmp_path / "v2" / "vox2_meta.csv", "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set\nid00012 ,n1 ,m ,dev\n")
    monkeypatch.setattr(lhotse.recipes.voxceleb, "resumable_download", lambda url, filename: Path(filename).touch())
    before = sorted(Path.cwd().iterdir())
    found = listed("voxceleb", f"data.root={tmp_path / 'v1'}", f"data.root2={tmp_path / 'v2'}")
    assert sorted(Path.cwd().iterdir()) == before
    assert {split: sorted(row.speaker or "" for row in chosen) for split, chosen in found.items()} == {
        "train": ["id00012", "id10001"],
        "dev": [],
        "test": ["id10270"],
    }
    write_manifests(tmp_path / "out", found, **LIMITS)
    aac = load_cuts(tmp_path / "out", "train")["id00012-video-00001"]
    assert aac.recording.sources[0].source.endswith(".flac")
    assert abs(aac.duration - len(third) / RATE) < 0.15
    assert aac.supervisions[0].text is None


def test_voxceleb_without_a_network_says_so(speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "wav" / "id10270" / "video" / "00001.wav", reals(speech, 3)[0][0])
    write(tmp_path / "vox1_meta.csv", "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\nid10270\tB\tf\tUSA\ttest\n")

    def offline(url: str, filename: str) -> None:
        raise URLError("no route to openslr.org")

    monkeypatch.setattr(lhotse.recipes.voxceleb, "resumable_download", offline)
    with pytest.raises(ValueError, match=r"prepare_voxceleb cannot read .*no route to openslr\.org"):
        listed("voxceleb", f"data.root={tmp_path}")


@pytest.fixture
def mixable(speech: Path, tmp_path: Path) -> list[str]:
    """LibriSpeech, WHAM! and LibriMix's metadata in miniature, and the overrides that point to them."""
    (first, one), (second, two), _ = reals(speech, 3)
    put(tmp_path / "ls" / "test-clean" / "1" / "2" / "1-2-0000.flac", first)
    put(tmp_path / "ls" / "test-clean" / "3" / "4" / "3-4-0000.flac", second)
    write(tmp_path / "ls" / "test-clean" / "1" / "2" / "1-2.trans.txt", f"1-2-0000 {one}\n")
    write(tmp_path / "ls" / "test-clean" / "3" / "4" / "3-4.trans.txt", f"3-4-0000 {two}\n")
    noise = soundfile.read(sorted((speech / "noise").glob("*.flac"))[0], dtype="float32")[0][:RATE]
    for part in ("tr", "cv", "tt"):
        put(tmp_path / "wham" / part / f"{part}_noise.wav", np.stack([noise, noise], axis=1))
    columns = "mixture_ID,source_1_path,source_1_gain,source_2_path,source_2_gain,noise_path,noise_gain\n"
    row = "1-2-0000_3-4-0000,test-clean/1/2/1-2-0000.flac,0.5,test-clean/3/4/3-4-0000.flac,0.25,test/tt_noise.wav,0.1\n"
    write(tmp_path / "meta" / "Libri2Mix" / "libri2mix_test-clean.csv", columns + row)
    write(tmp_path / "meta" / "Libri2Mix" / "libri2mix_test-clean_info.csv", "not,read\n")
    folders = {"librispeech": "ls", "wham": "wham", "metadata": "meta"}
    return [f"data.{key}={tmp_path / name}" for key, name in folders.items()] + [
        "data.splits.train=[]",
        "data.splits.dev=[]",
        f"data.corpus.cache={tmp_path / 'cache'}",
    ]


@pytest.mark.parametrize("noisy", [False, True])
def test_librimix_in_miniature_renders_the_mixture_and_remembers_its_sources(
    noisy: bool, mixable: list[str], speech: Path, tmp_path: Path
) -> None:
    write_manifests(tmp_path / "out", listed("librimix", *mixable, f"data.corpus.noisy={noisy}"), **LIMITS)
    (cut,) = load_cuts(tmp_path / "out", "test")
    (first, one), (second, two), _ = reals(speech, 3)
    expected = np.zeros(max(len(first), len(second)), dtype=np.float32)
    expected[: len(first)] += 0.5 * first
    expected[: len(second)] += 0.25 * second
    difference = np.abs(cut.load_audio()[0] - expected)
    assert (difference.max() > 1e-3) if noisy else (difference.max() < 1e-3)
    assert difference.max() < 0.2
    assert [(source["speaker"], source["text"]) for source in cut.custom["sources"]] == [("1", one), ("3", two)]
    assert cut.supervisions[0].text is None


def test_a_folder_of_speech_becomes_splits_by_its_column_and_by_hash(speech: Path, tmp_path: Path) -> None:
    root = tiny_speech_folder(tmp_path / "tiny", speech, utterances=6)
    found = listed("speech", f"data.root={root}")
    assert {split: len(chosen) for split, chosen in found.items()} == {"train": 3, "dev": 1, "test": 2}
    first = found["test"][0]
    assert (first.language, first.speaker, first.custom["dataset"]) == ("en", "3005", "librispeech")
    assert first.text == "YOU DIDN'T WANT TO COME"
    write(root / "manifest.tsv", "path\n" + "".join(f"folder/{index}.wav\n" for index in range(300)))
    hashed = listed("speech", f"data.root={root}")
    assert {split: len(chosen) > 5 for split, chosen in hashed.items()} == {"train": True, "dev": True, "test": True}
    assert sum(map(len, hashed.values())) == 300
    assert (hashed["dev"][0].text, hashed["dev"][0].language) == (None, None)


def test_the_language_of_a_row_is_its_own_else_that_of_its_dataset_else_that_of_the_folder(tmp_path: Path) -> None:
    rows = ["a.wav\temodb\tit", "b.wav\temodb\t", "c.wav\town\t", "d.wav\t\tfr"]
    write(tmp_path / "manifest.tsv", "\n".join(["path\tdataset\tlanguage", *rows]))
    for told, default in (([], None), (["data.language=ru"], "ru")):
        found = [row for chosen in listed("speech", f"data.root={tmp_path}", *told).values() for row in chosen]
        assert {row.id: row.language for row in found} == {"a": "it", "b": "de", "c": default, "d": "fr"}
        assert all("language" not in row.custom for row in found)


def test_a_corpus_in_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "mine" / "manifest.tsv", "path\na.wav\n")
    (utterance,) = [row for chosen in listed("speech", "data.root='~/mine'").values() for row in chosen]
    assert utterance.sound == tmp_path / "mine" / "a.wav"
    assert corpus_folder("~/mine", "data.root", source="nowhere", expects=["manifest.tsv"]) == tmp_path / "mine"


def test_datasets_are_left_out_where_they_are_there(speech: Path) -> None:
    whole, less = (listed("speech", f"data.root={speech}", f"data.without=[{names}]") for names in ("", "noise,rir,absent"))
    of_all, of_less = ({utterance.custom["dataset"] for split in found.values() for utterance in split} for found in (whole, less))
    assert of_all - of_less == {"noise", "rir"}


def test_the_shared_speech_loads_with_quoted_labels_and_chosen_datasets(speech: Path) -> None:
    found = listed("speech", f"data.root={speech}", "data.datasets=[barista,emodb]")
    rows = [row for chosen in found.values() for row in chosen]
    assert {row.custom["dataset"] for row in rows} == {"barista", "emodb"}
    assert all("coffeeDrink" in json.loads(row.custom["label"]) for row in rows if row.custom["dataset"] == "barista")
    assert {row.language for row in rows if row.custom["dataset"] == "emodb"} == {"de"}
    assert len({row.id for row in rows}) == len(rows)


def test_a_folder_of_speech_in_the_environment_is_the_default(speech: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIOTOK_SPEECH", str(speech))
    assert OmegaConf.select(config("speech"), "root") == str(speech)
    monkeypatch.delenv("AUDIOTOK_SPEECH")
    with pytest.raises(ValueError, match=r"data\.root is not set: a folder with a manifest\.tsv.*AUDIOTOK_SPEECH"):
        listed("speech")


@pytest.mark.parametrize(
    ("manifest", "overrides", "reason"),
    [
        (None, [], r"has no manifest\.tsv; set data\.root=FOLDER"),
        ("file\na.wav\n", [], "no column `path`"),
        ("path\tsplit\na.wav\tvalid\n", [], "line 2: the split is 'valid', wanted train, dev, test or nothing"),
        ("path\ttext\n\thello\n", [], "line 2: no path"),
        ("path\na.wav\tmore\n", [], "line 2: more fields"),
        ('path\n"' + "x" * 200_000 + '"\n', [], r"manifest\.tsv, line \d: field larger than"),
        ("path\tdataset\na.wav\tone\n", ["data.datasets=[two]"], r"no dataset two; it has one; set data\.datasets"),
    ],
)
def test_a_wrong_manifest_is_an_error_that_says_what_is_wrong(
    manifest: str | None, overrides: list[str], reason: str, tmp_path: Path
) -> None:
    if manifest is not None:
        write(tmp_path / "manifest.tsv", manifest)
    with pytest.raises(ValueError, match=reason):
        listed("speech", f"data.root={tmp_path}", *overrides)


def test_the_tiny_corpora_are_real_speech(speech: Path, tmp_path: Path) -> None:
    root = tiny_speech_folder(tmp_path / "tiny", speech, utterances=3)
    for path in root.glob("*.flac"):
        wav_T, rate = soundfile.read(path, dtype="float32")
        assert rate == RATE and torch.from_numpy(wav_T).std() > 0.005
    with pytest.raises(ValueError, match="at least 3"):
        tiny_speech_folder(tmp_path / "few", speech, utterances=2)
