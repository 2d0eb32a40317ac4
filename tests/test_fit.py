from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from tiny import tiny_speech_folder

from audiotok import cli, files
from audiotok.stages import fit, paths, prepare


@pytest.fixture(scope="module")
def cfg(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> DictConfig:
    """A prepared tiny corpus and a small k-means."""
    root = tmp_path_factory.mktemp("fit")
    corpus = tiny_speech_folder(root / "corpus", speech, utterances=6)
    config = cli.load("prompts/tts", ["data=speech", "tokenizer=kmeans_mel", f"exp_root={root / 'exp'}", "prepare.workers=1"])
    config.data.root = str(corpus)
    config.tokenizer.update({"num_clusters": 20, "warmup_frames": 100, "batch_frames": 50})
    prepare.run(config)
    return config


def changed(cfg: DictConfig, **values: object) -> DictConfig:
    other = cfg.copy()
    for key, value in values.items():
        node, _, leaf = key.rpartition("__")
        (other[node] if node else other)[leaf] = value
    return other


def test_what_fit_leaves_is_found_by_whatever_makes_the_tokenizer(cfg: DictConfig, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="not fitted yet"):
        _ = instantiate(cfg.tokenizer).spec
    fit.run(cfg)
    tokenizer = instantiate(cfg.tokenizer)
    assert tokenizer.spec.codebook_sizes == (20,)
    codes_BKN, _ = tokenizer.encode(torch.zeros(1, 3200), torch.tensor([3200]))
    assert codes_BKN.shape == (1, 1, 10)

    state = paths.fitted(cfg) / "kmeans.safetensors"
    before = state.stat().st_mtime_ns
    capsys.readouterr()
    fit.run(cfg)
    assert "is there already" in capsys.readouterr().out
    assert state.stat().st_mtime_ns == before


def test_a_fit_repeats_to_the_bit(cfg: DictConfig) -> None:
    fit.run(cfg)
    digest = files.file_digest(paths.fitted(cfg) / "kmeans.safetensors")
    state = paths.fitted(cfg) / "kmeans.safetensors"
    state.write_bytes(b"damaged")
    again = changed(cfg, overwrite=True)
    (paths.fitted(cfg) / files.RECORD).unlink()
    fit.run(again)
    assert files.file_digest(state) == digest


def test_every_setting_that_matters_has_a_folder_of_its_own(cfg: DictConfig) -> None:
    others = [
        changed(cfg, tokenizer__num_clusters=21),
        changed(cfg, fit__hours=1),
        changed(cfg, seed=7),
        changed(cfg, data__root="elsewhere"),
    ]
    assert len({paths.fitted(config) for config in (cfg, *others)}) == 5
    assert paths.fitted(changed(cfg, device="cpu")) == paths.fitted(cfg)
    assert cfg.tokenizer.fitted == str(paths.fitted(cfg))


def test_a_tokenizer_without_anything_to_fit_says_so(cfg: DictConfig, capsys: pytest.CaptureFixture[str]) -> None:
    config = cli.load("prompts/tts", ["tokenizer=dmel", f"exp_root={cfg.exp_root}"])
    fit.run(config)
    assert "nothing to fit" in capsys.readouterr().out
    assert not paths.fitted(config).exists()


def test_without_manifests_the_stage_that_makes_them_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="audiotok prepare prompts/tts"):
        fit.run(cli.load("prompts/tts", ["tokenizer=kmeans_mel", f"exp_root={tmp_path}"]))


def test_cuts_are_chosen_at_random_up_to_the_hours(cfg: DictConfig) -> None:
    from audiotok.data.manifests import load_cuts

    cuts = list(load_cuts(paths.manifests(cfg), "train"))
    total = sum(cut.duration for cut in cuts)
    everything = fit.chosen(cuts, hours=1, seed=0)
    assert sorted(cut.id for cut in everything) == sorted(cut.id for cut in cuts)
    assert {tuple(cut.id for cut in fit.chosen(cuts, hours=1, seed=seed)) for seed in range(9)} > {tuple(cut.id for cut in everything)}
    some = fit.chosen(cuts, hours=0.7 * total / 3600, seed=0)
    assert 1 <= len(some) < len(cuts) and sum(cut.duration for cut in some) <= 0.7 * total
    assert len(fit.chosen(cuts, hours=0, seed=0)) == 1
