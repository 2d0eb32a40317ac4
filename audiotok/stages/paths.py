"""Where each stage's output lies. Nothing else names a folder.

    exp/data/NAME-FP/                     manifests of a corpus                      shared by recipes
    exp/tokenizers/TOKENIZER-FP/          a fitted tokenizer
    exp/tokens/NAME-FP/TOKENIZER-FP/      a token store per split
    exp/transforms/TRANSFORM-FP/          a fitted transform
    exp/reduced/NAME-FP/TOKENIZER-FP/TRANSFORM-FP/   a token store per split, transformed
    exp/alignments/NAME-FP/FP/            phonemes and their durations
    exp/mixes/NAME-FP/                    speech in noise, the same for all
    exp/RECIPE/train/                     step_00001000/ ...
    exp/RECIPE/drafters/DRAFTER/          step_00001000/ ...
    exp/RECIPE/codec/                     a codec: config.json, model.safetensors and step_00001000/ ...
    exp/RECIPE/audio/SYSTEM/              wavs that a system made of the test set
    exp/RECIPE/evaluation/SYSTEM/         their scores
    exp/RECIPE/account/TOKENIZER/TRANSFORM/   what shorter codes cost and lose
    exp/RECIPE/account_report/            account.html
    exp/RECIPE/recognised/                what a model wrote down of the test set, and its error rates
    exp/RECIPE/bands/                     scores by signal-to-noise ratio
    exp/RECIPE/comparison/                what is claimed of the systems, and quality against bits
    exp/RECIPE/report/                    report.html

exp may lie in an object store (s3://bucket/exp): the folders are then those of its mirror (see `audiotok.storage`).
FP is the first eight digits of the fingerprint of the settings, so that two choices never share a folder.
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from audiotok import files, storage


def settings(cfg: DictConfig, *keys: str) -> dict:
    """The named sections of the config as plain values: what an output depends on."""
    return {key: OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node := cfg[key]) else node for key in keys}


def _short(value: object) -> str:
    return files.fingerprint(value)[:8]


def data_settings(cfg: DictConfig) -> dict:
    """What the manifests of a corpus depend on: not on the number of processes that made them."""
    chosen = settings(cfg, "data", "prepare")
    del chosen["prepare"]["workers"]
    return chosen


def data_key(cfg: DictConfig) -> str:
    return f"{cfg.data.name}-{_short(data_settings(cfg))}"


def manifests(cfg: DictConfig) -> Path:
    return storage.located(cfg.exp_root) / "data" / data_key(cfg)


def manifests_fingerprint(cfg: DictConfig) -> str:
    """Of the manifests' settings and of what stands in them: a corpus that has grown since is another one to the stages that follow."""
    made = files.fingerprint_of(manifests(cfg), made_by=f"prepare {cfg.recipe}")
    return files.fingerprint([made, {path.name: files.file_digest(path) for path in sorted(manifests(cfg).glob("cuts_*"))}])


def fit_settings(cfg: DictConfig) -> dict:
    """What a fitted tokenizer depends on: the corpus, how it is fitted, and every setting of its own but where it lies."""
    own = settings(cfg.tokenizer, *(key for key in cfg.tokenizer if key != "fitted"))
    return settings(cfg, "data", "prepare", "fit") | {"tokenizer": own}


def fitted(cfg: DictConfig) -> Path:
    return storage.located(cfg.exp_root) / "tokenizers" / f"{cfg.choices.tokenizer}-{_short(fit_settings(cfg))}"


# `fitted: ${fitted:}` in a tokenizer's YAML: whatever stage makes the tokenizer finds what `fit` left.
OmegaConf.register_new_resolver("fitted", lambda *, _root_: str(fitted(_root_)), replace=True)


def tokens(cfg: DictConfig, tokenizer_fingerprint: str) -> Path:
    return storage.located(cfg.exp_root) / "tokens" / data_key(cfg) / f"{cfg.choices.tokenizer}-{tokenizer_fingerprint[:8]}"


def transform_settings(cfg: DictConfig) -> dict:
    """What a fitted transform depends on: the tokens, and every setting of its own but where it lies."""
    return settings(cfg, "data", "prepare", "tokenizer") | {"transform": unfitted(cfg)}


def unfitted(cfg: DictConfig) -> Any:
    """The settings of the transform as of one that has learnt nothing yet."""

    def without(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: None if key == "fitted" else without(value) for key, value in node.items()}
        return [without(value) for value in node] if isinstance(node, list) else node

    return _resolved(cfg, without(OmegaConf.to_container(cfg.transform, resolve=False)))


def _resolved(cfg: DictConfig, transform: Any) -> Any:
    """With its interpolations, such as ${tokenizer}, filled in from the config."""
    whole = OmegaConf.create({key: value for key, value in cfg.items_ex(resolve=False) if key != "transform"})
    whole.transform = transform
    return OmegaConf.to_container(whole.transform, resolve=True)


def fitted_transform(cfg: DictConfig) -> Path:
    return storage.located(cfg.exp_root) / "transforms" / f"{cfg.choices.transform}-{_short(transform_settings(cfg))}"


def _fitted_transform(*, _root_: DictConfig, _parent_: DictConfig) -> str:
    *_, name = (_parent_._get_full_key(None) or "").split(".")
    folder = fitted_transform(_root_)
    return str(folder if name == "transform" else folder / name)


# `fitted: ${fitted_transform:}` in a transform's YAML: the folder that `reduce` leaves, of a chain the step's own.
OmegaConf.register_new_resolver("fitted_transform", _fitted_transform, replace=True)


def reduced(cfg: DictConfig, tokenizer_fingerprint: str) -> Path:
    key = _short({"transform": unfitted(cfg)})
    tokenizer = f"{cfg.choices.tokenizer}-{tokenizer_fingerprint[:8]}"
    return storage.located(cfg.exp_root) / "reduced" / data_key(cfg) / tokenizer / f"{cfg.choices.transform}-{key}"


def alignments(cfg: DictConfig) -> Path:
    return storage.located(cfg.exp_root) / "alignments" / data_key(cfg) / _short(settings(cfg, "align"))


def mix_settings(cfg: DictConfig) -> dict:
    """What fixed mixes depend on, besides the corpus."""
    noise = settings(cfg, "noise")["noise"]
    return settings(cfg, "mix", "seed") | {"noise": {key: noise[key] for key in ("datasets", "left_out")}}


def mixes(cfg: DictConfig) -> Path:
    return storage.located(cfg.exp_root) / "mixes" / f"{cfg.data.name}-{_short(data_settings(cfg) | mix_settings(cfg))}"


def mixes_fingerprint(cfg: DictConfig) -> str:
    return files.fingerprint_of(mixes(cfg), made_by=f"mix {cfg.recipe}")


def test_set(cfg: DictConfig) -> Path:
    """The folder whose test split's cuts are the recordings that systems are held against."""
    return mixes(cfg) if cfg.evaluate.mixes else manifests(cfg)


def test_set_fingerprint(cfg: DictConfig) -> str:
    return mixes_fingerprint(cfg) if cfg.evaluate.mixes else manifests_fingerprint(cfg)


def train(cfg: DictConfig) -> Path:
    return storage.located(cfg.exp_dir) / "train"


def drafter(cfg: DictConfig) -> Path:
    return storage.located(cfg.exp_dir) / "drafters" / cfg.choices.drafter


def codec(cfg: DictConfig) -> Path:
    return storage.located(cfg.exp_dir) / "codec"


def audio(cfg: DictConfig) -> Path:
    return storage.located(cfg.exp_dir) / "audio"


def evaluation(cfg: DictConfig) -> Path:
    return storage.located(cfg.exp_dir) / "evaluation"


def account(cfg: DictConfig) -> Path:
    return storage.located(cfg.exp_dir) / "account"


def bands(cfg: DictConfig) -> Path:
    return storage.located(cfg.exp_dir) / "bands"


def comparison(cfg: DictConfig) -> Path:
    return storage.located(cfg.exp_dir) / "comparison"


def recognised(cfg: DictConfig) -> Path:
    return storage.located(cfg.exp_dir) / "recognised"


def groups(cfg: DictConfig) -> Path:
    return storage.located(cfg.exp_dir) / "groups"


def report(cfg: DictConfig) -> Path:
    return storage.located(cfg.exp_dir) / "report"
