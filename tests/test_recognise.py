"""The recognise stage: what it writes, with its rates, and what it refuses."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from safetensors.torch import save_file
from tiny import tiny_speech_folder

from audiotok import cli, files
from audiotok.data.aligned import AlignedCorpus, FrontEnd
from audiotok.data.code_vectors import code_vectors
from audiotok.data.phonemes import PhonemeVocabulary
from audiotok.evaluation.recognition import error_rates
from audiotok.models.text import Batch
from audiotok.stages import paths, prepare, recognise, tokenize
from audiotok.store.reader import TokenStore

SMALL = [f"model.decoder.{key}" for key in ("width=32", "layers=1", "heads=2", "feed_forward=48", "text_layers=1")]


def checkpoint(folder: Path, cfg) -> Path:
    """One that has learnt nothing."""
    front_end = FrontEnd(PhonemeVocabulary.of([["a"]]), ("",), ("en",))
    tokenizer, transform = instantiate(cfg.tokenizer), instantiate(cfg.transform)
    torch.manual_seed(0)
    model = instantiate(cfg.model, _partial_=True)(
        spec=transform.out_spec(tokenizer.spec),
        num_phonemes=len(front_end.vocabulary),
        num_speakers=1,
        num_languages=1,
        vectors=partial(code_vectors, tokenizer, transform),
    )
    files.write_json(folder / "front_end.json", front_end.to_dict())
    files.write_json(folder / "spec.json", json.loads(tokenizer.spec.to_json()))
    files.write_json(folder / "config.json", paths.settings(cfg, "transform", "model"))
    save_file({name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}, folder / "ema.safetensors")
    return folder


@pytest.fixture(scope="module")
def told(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings of a corpus with two test utterances, tokenised, and of a checkpoint."""
    folder = tmp_path_factory.mktemp("recognise")
    corpus = tiny_speech_folder(folder / "corpus", speech, utterances=6)
    told = ["data=speech", f"data.root={corpus}", f"exp_root={folder}/exp", "tokenizer=dmel", "device=cpu", "select.min_words=1"]
    told += ["prepare.workers=1", "tokenize.workers=1", *SMALL]
    cfg = cli.load("prompts/speech_text", told)
    for stage in (prepare, tokenize):
        stage.run(cfg)
    return [*told, f"synthesize.checkpoint={checkpoint(folder / 'step_00000001', cfg)}"]


def test_every_test_utterance_is_written_down_and_scored_against_its_text(told, capsys):
    cfg = cli.load("prompts/speech_text", told)
    recognise.run(cfg)
    folder = Path(cfg.exp_dir) / "recognised"
    rows, rates = list(files.read_jsonl(folder / "recognised.jsonl")), files.read_json(folder / "rates.json")
    store = TokenStore(paths.tokens(cfg, instantiate(cfg.tokenizer).spec.fingerprint) / "test")
    assert {row["id"]: row["reference"] for row in rows} == {row.id: row.text for row in store.descriptions()} and len(rows) == 2
    assert all(set(row) == {"id", "text", "reference", "language", "ended"} for row in rows)
    assert rates == json.loads(json.dumps(error_rates(rows, resamplings=cfg.evaluate.bootstrap, seed=cfg.seed)))
    printed = " ".join(capsys.readouterr().out.split())
    assert f"WER {100 * rates['wer']['value']:.1f} %" in printed and f"{rates['unended']} not ended" in printed
    before = (folder / "rates.json").stat().st_mtime_ns
    recognise.run(cfg)
    assert "is there already" in " ".join(capsys.readouterr().out.split()) and (folder / "rates.json").stat().st_mtime_ns == before


def test_what_was_said_comes_to_the_model_with_its_codes(told):
    cfg = cli.load("prompts/speech_text", told)
    store = TokenStore(paths.tokens(cfg, instantiate(cfg.tokenizer).spec.fingerprint) / "train")
    alignments = {id: {"id": id, "phonemes": ["a"], "durations": [0.5]} for id in store.ids}
    front_end = FrontEnd(PhonemeVocabulary.of([["a"]]), ("",), ("en",))
    corpus = AlignedCorpus(store, alignments, transform=instantiate(cfg.transform), front_end=front_end)
    assert Batch.of(list(corpus)).texts == tuple(row.text for row in store.descriptions()) and len(corpus) == 3


def test_letters_can_be_drawn_and_more_rows_write_the_same(told):
    written = []
    for rows in (1, 2):
        cfg = cli.load("prompts/speech_text", [*told, "recognise.sampling.temperature=1", f"recognise.batch_size={rows}", "overwrite=true"])
        recognise.run(cfg)
        written.append(list(files.read_jsonl(Path(cfg.exp_dir) / "recognised" / "recognised.jsonl")))
    assert written[0] == written[1] and len({row["text"] for row in written[0]}) == 2


def test_a_recipe_or_a_model_that_recognises_nothing_is_refused_in_one_line(told, tmp_path):
    with pytest.raises(SystemExit, match="the recipe prompts/tts says nothing of `recognise`; take prompts/speech_text"):
        cli.main(["recognise", "prompts/tts"])
    plain = ["model=code_decoder", *(setting.replace("model.decoder.", "model.") for setting in SMALL)]
    others = [setting for setting in told if not setting.startswith(("model.", "synthesize.checkpoint"))] + plain
    folder = checkpoint(tmp_path / "step_00000001", cli.load("prompts/speech_text", others))
    with pytest.raises(SystemExit, match="CodeDecoder speaks, but writes nothing down"):
        cli.main(["recognise", "prompts/speech_text", *others, f"synthesize.checkpoint={folder}", f"exp_dir={tmp_path}/exp"])


def test_rates_are_sums_of_errors_over_sums_of_words_with_intervals():
    rows = [
        {"id": id, "text": text, "reference": reference, "language": "en", "ended": ended}
        for id, text, reference, ended in [
            ("a", "press 1", "Press one.", True),
            ("b", "press the pound", "Press the pound key!", True),
            ("c", "", "Goodbye", False),
            ("d", "noise", "...", True),
        ]
    ]
    rates = error_rates(rows, resamplings=200, seed=0)
    assert (rates["utterances"], rates["wordless"], rates["unended"]) == (4, 1, 1)
    assert rates["wer"]["value"] == (0 + 1 + 1) / (2 + 4 + 1) and rates["cer"]["value"] == (0 + 4 + 7) / (7 + 19 + 7)
    assert rates["wer"]["low"] <= rates["wer"]["value"] <= rates["wer"]["high"]
    assert error_rates(rows[:1], resamplings=200, seed=0)["wer"] == {"value": 0.0, "low": None, "high": None}
    with pytest.raises(ValueError, match=r"none of 1 utterances has words to be recognised; choose others by select\.min_words"):
        error_rates(rows[3:], resamplings=200, seed=0)
