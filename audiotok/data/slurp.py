"""SLURP (arXiv 2011.13205): requests to a home assistant, each with its scenario (18 of them) and action."""

from collections.abc import Iterator
from pathlib import Path

from audiotok.data.lhotse_recipes import corpus_folder
from audiotok.data.manifests import Utterance
from audiotok.files import read_jsonl

SOURCE = "https://github.com/pswietojanski/slurp (its folder `dataset`) and https://zenodo.org/record/4274930 (slurp_real.tar.gz)"
TABLES = {"train": "dataset/slurp/train.jsonl", "dev": "dataset/slurp/devel.jsonl", "test": "dataset/slurp/test.jsonl"}
AUDIO = "slurp_real"


def slurp(*, root: str | None) -> dict[str, list[Utterance]]:
    """The real recordings, one utterance for each; the synthetic ones are left out, as DASB leaves them out.

    `custom` holds `label` (the scenario), `action` and `intent` (both, as SLURP's own evaluation counts them: calendar_set). `root` holds
    dataset/slurp/{train,devel,test}.jsonl and slurp_real/*.flac. Raises ValueError for what is missing.
    """
    folder = corpus_folder(root, "data.root", source=SOURCE, expects=[*TABLES.values(), AUDIO])
    return {split: list(_utterances(folder, table)) for split, table in TABLES.items()}


def _utterances(folder: Path, table: str) -> Iterator[Utterance]:
    for request in read_jsonl(folder / table):
        if missing := {"slurp_id", "sentence", "scenario", "action", "recordings"} - set(request):
            raise ValueError(f"{folder / table}: a request without {', '.join(sorted(missing))}; get it from {SOURCE}")
        custom = {
            "label": request["scenario"],
            "action": request["action"],
            "intent": f"{request['scenario']}_{request['action']}",
        }
        for recording in request["recordings"]:
            name = Path(recording["file"])
            yield Utterance(
                id=f"{request['slurp_id']}-{name.stem}",
                sound=folder / AUDIO / name,
                text=request["sentence"],
                language="en",
                custom=custom,
            )
