"""A corpus at another rate than the tokenizer's is resampled or refused, as told."""

from pathlib import Path

import pytest
import soundfile
from tiny import tiny_speech_folder

from audiotok import cli
from audiotok.data.manifests import load_cuts
from audiotok.data.rates import refuse_other_rates
from audiotok.stages import paths, prepare, tokenize
from audiotok.store import TokenStore


def test_recordings_at_another_rate_are_resampled_or_refused_as_told(speech: Path, tmp_path: Path) -> None:
    corpus = tiny_speech_folder(tmp_path / "corpus", speech, utterances=4)
    odd = sorted(corpus.glob("*.flac"))[0]
    wav_T, rate = soundfile.read(odd)
    soundfile.write(odd, wav_T[::2], rate // 2)
    told = ["data=speech", "tokenizer=dmel", f"data.root={corpus}", f"exp_root={tmp_path}", "prepare.workers=1"]
    prepare.run(cfg := cli.load("prompts/resynthesis", told))
    with pytest.raises(ValueError, match=r"recordings: 1 at 8000 Hz; the tokenizer needs 16000 Hz; set tokenize.resample=true"):
        tokenize.run(cli.load("prompts/resynthesis", [*told, "tokenize.resample=false"]))
    tokenize.run(cli.load("prompts/resynthesis", told))
    [folder] = (tmp_path / "tokens").glob("*/dmel-*")
    [stored] = (store[odd.stem] for split in ("train", "dev", "test") if odd.stem in (store := TokenStore(folder / split)))
    assert stored.num_samples == 2 * len(wav_T[::2])
    same = [cut for cut in load_cuts(paths.manifests(cfg), "train") if cut.sampling_rate == 16000]
    assert same and refuse_other_rates(same, 16000) is None
