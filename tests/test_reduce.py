"""Token store to shorter token store: the same utterances, other codes; what learns is learnt once; interruptions; what is refused."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from tiny import tiny_speech_folder

from audiotok import cli, files
from audiotok.data.reduction import reduce_split
from audiotok.stages import paths, prepare, reduce, tokenize
from audiotok.store import TokenStore
from audiotok.transforms.stack import Stack

ALL = ["data=speech", "tokenizer=dmel", "prepare.workers=1", "tokenize.workers=1", "tokenize.shard_utterances=4"]


@pytest.fixture(scope="module")
def told(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of a tokenised tiny corpus."""
    root = tmp_path_factory.mktemp("reduce")
    corpus = tiny_speech_folder(root / "corpus", speech, utterances=10)
    overrides = [*ALL, f"data.root={corpus}", f"exp_root={root / 'exp'}"]
    cfg = cli.load("prompts/tts", overrides)
    prepare.run(cfg)
    tokenize.run(cfg)
    return overrides


def load(told: list[str], *more: str) -> DictConfig:
    return cli.load("prompts/tts", [*told, *more])


def stores(cfg: DictConfig, split: str = "train") -> tuple[TokenStore, TokenStore]:
    tokens = paths.tokens(cfg, instantiate(cfg.tokenizer).spec.fingerprint)
    return TokenStore(tokens / split), TokenStore(paths.reduced(cfg, TokenStore(tokens / split).spec.fingerprint) / split)


def test_the_reduced_store_holds_the_same_utterances_with_transformed_codes(told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    cfg = load(told, "transform=stack2")
    reduce.run(cfg)
    before, after = stores(cfg)
    assert after.spec == Stack(2).out_spec(before.spec) and after.ids == before.ids and len(after) > 3
    for old, new in zip(before, after, strict=True):
        assert torch.equal(new.codes_KN, Stack(2).apply(old.codes_KN, before.spec))
        assert (new.num_samples, new.text, new.speaker) == (old.num_samples, old.text, old.speaker)
    said = capsys.readouterr().out
    assert "positions/s of 80 codes" in said and "of 160" in said
    reduce.run(cfg)
    assert "is there already" in capsys.readouterr().out


def test_a_chain_on_the_command_line_has_a_name_and_a_folder_of_its_own(told: list[str]) -> None:
    cfg = load(told, "transform=[stack2,flatten]")
    assert cfg.choices.transform == "stack2+flatten"
    reduce.run(cfg)
    before, after = stores(cfg)
    assert after.spec.num_codebooks == 1
    assert torch.equal(instantiate(cfg.transform).invert(after[before.ids[0]].codes_KN, before.spec), before[before.ids[0]].codes_KN)
    assert stores(cfg)[1].folder != stores(load(told, "transform=stack2"))[1].folder


def test_what_learns_is_learnt_once_from_the_train_split_and_found_again(told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    cfg = load(told, "transform=[coarse_first,bpe1024]", "transform.steps.step1.merges=20")
    with pytest.raises(ValueError, match="audiotok reduce"):
        instantiate(cfg.transform).out_spec(instantiate(cfg.tokenizer).spec)
    reduce.run(cfg)
    before, after = stores(cfg)
    assert after.spec.codebook_sizes == (sum(before.spec.codebook_sizes) + 20,)
    assert all(new.num_frames < 80 * old.num_frames for old, new in zip(before, after))
    capsys.readouterr()
    reduce.run(cfg)
    assert capsys.readouterr().out.count("is there already") == 2
    other = load(told, "transform=[coarse_first,bpe1024]", "transform.steps.step1.merges=21")
    assert paths.fitted_transform(other) != paths.fitted_transform(cfg)
    named = load(told, "transform=bpe1024", f"transform.fitted={paths.fitted_transform(cfg) / 'step1'}", "transform.merges=20")
    with pytest.raises(ValueError, match="codes"):  # learnt of the codes behind coarse_first, and not learnt anew
        reduce.run(named)
    assert not paths.fitted_transform(named).exists()


def test_an_interrupted_reduction_goes_on_behind_its_last_whole_shard(told: list[str], tmp_path: Path) -> None:
    before, _ = stores(load(told, "transform=stack2"))
    assert len(before.shards) > 1

    class Interrupted(Stack):
        """Ends in the second shard."""

        applied = 0

        def apply(self, codes_KN, spec):  # type: ignore[no-untyped-def]
            Interrupted.applied += 1
            if Interrupted.applied > before.shards[0].num_rows:
                raise KeyboardInterrupt
            return super().apply(codes_KN, spec)

        def __repr__(self) -> str:
            return repr(Stack(self.frames))

    with pytest.raises(KeyboardInterrupt):
        reduce_split(before, Interrupted(2), tmp_path / "train")
    first = sorted((tmp_path / "train").glob("*.parquet"))
    assert len(first) == 1
    stamp = first[0].stat().st_mtime_ns
    reduce_split(before, Stack(2), tmp_path / "train")
    assert first[0].stat().st_mtime_ns == stamp
    reduce_split(before, Stack(2), tmp_path / "whole")
    for one, other in zip(sorted((tmp_path / "train").glob("*.parquet")), sorted((tmp_path / "whole").glob("*.parquet")), strict=True):
        assert files.file_digest(one) == files.file_digest(other)


def test_what_is_missing_or_misspelt_is_named(told: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run `audiotok tokenize prompts/tts tokenizer=dmel`"):
        reduce.run(load(told, "prepare.max_seconds=59"))
    with pytest.raises(cli.UsageError, match=r"no transform 'stak2'; did you mean stack2"):
        load(told, "transform=[stak2,flatten]")
