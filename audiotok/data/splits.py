"""Which split an utterance falls into when its corpus does not say: by hash, so that neither order nor company matters."""

from collections.abc import Mapping

from audiotok.files import fingerprint

SPLITS = ("train", "dev", "test")


def hashed_split(key: str, fractions: Mapping[str, float]) -> str:
    """`test`, `dev` or `train` for a key, always the same; `fractions` are the shares of `test` and `dev`, the rest is `train`.

    Growing the share of one split moves no key between the other two but into it, as long as `test` is not changed.
    """
    unknown = set(fractions) - {"dev", "test"}
    if unknown or min(fractions.values(), default=0) < 0 or sum(fractions.values()) >= 1:
        raise ValueError(f"fractions give the shares of dev and test, each from 0 and together below 1; got {dict(fractions)}")
    place = int(fingerprint(key)[:8], 16) / 16**8
    test = fractions.get("test", 0.0)
    if place < test:
        return "test"
    return "dev" if place < test + fractions.get("dev", 0.0) else "train"
