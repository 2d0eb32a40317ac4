"""A classical codec goes through the stages beside the tokenizers: nothing to tokenize, then decoded from the recordings."""

import shutil
from pathlib import Path

import pytest
from tiny import tiny_speech_folder

from audiotok import audio, cli, files
from audiotok.data.manifests import load_cuts
from audiotok.data.tokenization import read_cut
from audiotok.evaluation import sources
from audiotok.stages import decode, paths, prepare, tokenize


def test_a_classical_codec_is_decoded_from_the_recordings(speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    if shutil.which("c2enc") is None:
        pytest.skip("c2enc is not installed (apt-get install codec2)")
    corpus = tiny_speech_folder(tmp_path / "corpus", speech, utterances=6)
    told = [f"data.root={corpus}", f"exp_root={tmp_path}", "prepare.workers=1", "select.min_words=1"]
    cfg = cli.load("prompts/resynthesis", ["data=speech", "tokenizer=codec2_3200", *told])
    prepare.run(cfg)
    tokenize.run(cfg)
    assert "tokenizer=codec2_3200 has no codes to store; go on with `audiotok decode prompts/resynthesis`" in capsys.readouterr().out
    decode.run(cfg)
    folder = paths.audio(cfg) / "codec2_3200"
    rows, cuts = list(files.read_jsonl(folder / "utterances.jsonl")), load_cuts(paths.manifests(cfg), "test")
    assert sorted(row["id"] for row in rows) == sorted(cuts.ids)
    for row in rows:
        wav_T, rate = audio.read(folder / row["path"])
        assert rate == 8000 and len(wav_T) == len(read_cut(cuts[row["id"]], 8000)) and wav_T.std() > 0.01
        assert (row["text"], row["language"]) == (cuts[row["id"]].supervisions[0].text, "en")
    cost = files.read_json(folder / "system.json")
    assert cost["bits_per_second"] == 3200 and 3200 <= cost["payload_bits_per_second"] == cost["file_bits_per_second"] < 3400
    assert list(sources.systems(paths.audio(cfg))) == ["codec2_3200"]
    decode.run(cfg)
    assert "is there already" in capsys.readouterr().out
