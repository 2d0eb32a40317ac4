"""Networks of transformers, whole or refused: safetensors only, every weight in its place.

By itself transformers draws a missing weight at random and only warns, builds another architecture's network from what it finds, and
reads pickles where there is no safetensors file. Here each of these is a ValueError, and no pickle is opened.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from audiotok.tokenizers.features import UNUSED_WEIGHTS


def load(architecture: str, name: str | Path, *, revision: str) -> Any:
    """The network of a folder in transformers' format, or of a hub name at a revision (a branch, a tag or a commit), in float32.

    `architecture` is the class in transformers, such as "DacModel". Raises ValueError where transformers or the class is absent, and for
    a checkpoint that cannot be read, is of another architecture, lacks a weight or has one of another shape.
    """
    kind = _named(architecture)
    with _refusing(architecture, name):
        found, _ = kind.config_class.get_config_dict(name, revision=revision)
        if found.get("model_type") != kind.config_class.model_type:
            got = found.get("model_type", "no known architecture")
            raise ValueError(f"it is a checkpoint of {got}, {kind.config_class.model_type} is wanted")
        options = {"use_safetensors": True, "trust_remote_code": False, "dtype": torch.float32}
        network, loaded = kind.from_pretrained(name, revision=revision, output_loading_info=True, **options)
    if missing := sorted(key for key in loaded["missing_keys"] if not key.endswith(UNUSED_WEIGHTS)):
        raise ValueError(f"{name}: {len(missing)} weights of {architecture} are not in it ({missing[0]}, ...); fetch the whole checkpoint")
    return network


def load_extractor(architecture: str, name: str | Path, *, revision: str) -> Any:
    """The feature extractor, such as "Xcodec2FeatureExtractor", beside a network. Raises ValueError where it is not there."""
    kind = _named(architecture)
    with _refusing(architecture, name):
        return kind.from_pretrained(name, revision=revision)


def check_num_codebooks(kind: str, num_codebooks: int, *, least: int, most: int) -> None:
    """Raise ValueError unless a residual quantiser can be cut to so many codebooks."""
    if not least <= num_codebooks <= most:
        raise ValueError(f"{kind}: got num_codebooks={num_codebooks}; this network has {least} to {most}")


def _named(architecture: str) -> Any:
    try:
        import transformers  # noqa: PLC0415
    except ImportError as error:
        raise ValueError(f"{architecture}: transformers is not installed; pip install 'audiotok[transformers]'") from error
    if not hasattr(transformers, architecture):
        raise ValueError(
            f"{architecture} is not in transformers {transformers.__version__}; pip install --upgrade 'audiotok[transformers]'"
        )
    return getattr(transformers, architecture)


@contextmanager
def _refusing(architecture: str, name: str | Path) -> Iterator[None]:
    """Whatever reading a checkpoint raises, as a ValueError that says what to do."""
    from huggingface_hub.errors import StrictDataclassError  # noqa: PLC0415

    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:300]
        wanted = "a folder in transformers' format with its weights as safetensors, or such a model on the hub"
        raise ValueError(f"{name}: cannot be loaded as {architecture} ({reason}); name {wanted}") from error
