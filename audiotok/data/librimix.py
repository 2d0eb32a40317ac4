"""LibriMix (arXiv 2005.11262), through Lhotse: two or three LibriSpeech speakers at once, with or without WHAM! noise, 16 kHz, "max".

Nothing needs to be generated beforehand: the mixtures are rendered from LibriSpeech, WHAM! and LibriMix's metadata when they are checked.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lhotse import CutSet, SupervisionSegment
from lhotse.cut import MixedCut
from lhotse.recipes import prepare_librimix, prepare_librispeech, prepare_wham

from audiotok.data.lhotse_recipes import corpus_folder, prepared
from audiotok.data.manifests import Utterance
from audiotok.files import fingerprint

LIBRISPEECH = "https://www.openslr.org/12"
WHAM = "http://wham.whisper.ai (wham_noise.zip)"
METADATA = "https://github.com/JorisCos/LibriMix (its folder `metadata`)"


def librimix(
    *,
    librispeech: str | None,
    wham: str | None,
    metadata: str | None,
    cache: str,
    num_speakers: int,
    noisy: bool,
    splits: Mapping[str, Sequence[str]],
) -> dict[str, list[Utterance]]:
    """The mixtures of each split, with no text of their own; `custom["sources"]` says who says what and when.

    `librispeech` holds the parts that `splits` lists, `wham` the folders tr, cv and tt, `metadata` Libri2Mix/libri2mix_PART.csv and so on.
    Noise that had to be lengthened is kept in `cache`. Raises ValueError for what is missing, saying where to get it.
    """
    parts = [part for listed in splits.values() for part in listed]
    tables = [f"Libri{num_speakers}Mix/libri{num_speakers}mix_{part}.csv" for part in parts]
    speech = corpus_folder(librispeech, "data.librispeech", source=LIBRISPEECH, expects=parts)
    noise = corpus_folder(wham, "data.wham", source=WHAM, expects=["tr", "cv", "tt"])
    described = corpus_folder(metadata, "data.metadata", source=METADATA, expects=tables)
    choices = fingerprint([str(speech), str(noise), str(described), parts, num_speakers])
    work = Path(cache).expanduser().absolute() / choices[:8]
    _lay_out(work, speech, noise, described, parts, tables)
    found = prepared(
        prepare_librimix,
        librispeech_root_path=work / "librispeech",
        wham_recset_root_path=work / "wham",
        librimix_metadata_path=work / "metadata",
        workdir=work / "noise",
        n_src=num_speakers,
    )
    name = f"libri{num_speakers}mix_{{}}{'_noisy' if noisy else ''}"
    return {split: [_utterance(cut) for part in listed for cut in found[name.format(part)]["cutset"]] for split, listed in splits.items()}


def _lay_out(work: Path, speech: Path, noise: Path, described: Path, parts: Sequence[str], tables: Sequence[str]) -> None:
    """What Lhotse's recipe reads: manifests of both corpora, and the tables of the wanted parts only."""
    shutil.rmtree(work, ignore_errors=True)
    for part, manifests in prepared(prepare_librispeech, corpus_dir=speech, dataset_parts=parts).items():
        cuts = CutSet.from_manifests(**manifests)
        cuts.to_file(_within(work / "librispeech" / f"librispeech_cutset_{part}.jsonl.gz"))
    prepared(prepare_wham, corpus_dir=noise, output_dir=work / "wham")
    for table in tables:
        shutil.copy(described / table, _within(work / "metadata" / table))


def _within(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _utterance(cut: MixedCut) -> Utterance:
    sources = [_source(segment) for segment in sorted(cut.supervisions, key=lambda segment: segment.id)]
    return Utterance(id=cut.id, sound=cut, language="en", custom={"sources": sources})


def _source(segment: SupervisionSegment) -> dict[str, Any]:
    return {"id": segment.id, "speaker": segment.speaker, "text": segment.text, "start": segment.start, "duration": segment.duration}
