"""Where each stage's output lies. Nothing else names a folder.

    exp/data/NAME-FP/                     manifests of a corpus                      shared by recipes
    exp/tokenizers/TOKENIZER-FP/          a fitted tokenizer
    exp/tokens/NAME-FP/TOKENIZER-FP/      a token store per split
    exp/alignments/NAME-FP/FP/            phonemes and their durations
    exp/RECIPE/train/                     step_00001000/ ...
    exp/RECIPE/codec/                     a codec: config.json, model.safetensors and step_00001000/ ...
    exp/RECIPE/audio/SYSTEM/              wavs that a system made of the test set
    exp/RECIPE/evaluation/SYSTEM/         their scores
    exp/RECIPE/report/                    report.html

FP is the first eight digits of the fingerprint of the settings, so that two choices never share a folder.
"""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from audiotok import files


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
    return Path(cfg.exp_root) / "data" / data_key(cfg)


def manifests_fingerprint(cfg: DictConfig) -> str:
    """Of the manifests' settings and of what stands in them: a corpus that has grown since is another one to the stages that follow."""
    made = files.fingerprint_of(manifests(cfg), made_by=f"prepare {cfg.recipe}")
    return files.fingerprint([made, {path.name: files.file_digest(path) for path in sorted(manifests(cfg).glob("cuts_*"))}])


def fit_settings(cfg: DictConfig) -> dict:
    """What a fitted tokenizer depends on: the corpus, how it is fitted, and every setting of its own but where it lies."""
    own = settings(cfg.tokenizer, *(key for key in cfg.tokenizer if key != "fitted"))
    return settings(cfg, "data", "prepare", "fit") | {"tokenizer": own}


def fitted(cfg: DictConfig) -> Path:
    return Path(cfg.exp_root) / "tokenizers" / f"{cfg.choices.tokenizer}-{_short(fit_settings(cfg))}"


# `fitted: ${fitted:}` in a tokenizer's YAML: whatever stage makes the tokenizer finds what `fit` left.
OmegaConf.register_new_resolver("fitted", lambda *, _root_: str(fitted(_root_)), replace=True)


def tokens(cfg: DictConfig, tokenizer_fingerprint: str) -> Path:
    return Path(cfg.exp_root) / "tokens" / data_key(cfg) / f"{cfg.choices.tokenizer}-{tokenizer_fingerprint[:8]}"


def alignments(cfg: DictConfig) -> Path:
    return Path(cfg.exp_root) / "alignments" / data_key(cfg) / _short(settings(cfg, "align"))


def train(cfg: DictConfig) -> Path:
    return Path(cfg.exp_dir) / "train"


def codec(cfg: DictConfig) -> Path:
    return Path(cfg.exp_dir) / "codec"


def audio(cfg: DictConfig) -> Path:
    return Path(cfg.exp_dir) / "audio"


def evaluation(cfg: DictConfig) -> Path:
    return Path(cfg.exp_dir) / "evaluation"


def report(cfg: DictConfig) -> Path:
    return Path(cfg.exp_dir) / "report"
