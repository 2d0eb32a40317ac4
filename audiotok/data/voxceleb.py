"""VoxCeleb 1 and 2 (arXiv 1706.08612, 1806.05622), through Lhotse: speakers, no transcripts."""

from collections.abc import Mapping
from contextlib import chdir
from tempfile import TemporaryDirectory

from lhotse.recipes import prepare_voxceleb

from audiotok.data.lhotse_recipes import corpus_folder, prepared, spread, utterances
from audiotok.data.manifests import Utterance

SOURCE = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb"


def voxceleb(*, root: str | None, root2: str | None, fractions: Mapping[str, float]) -> dict[str, list[Utterance]]:
    """Train (VoxCeleb 1 dev, and VoxCeleb 2 where `root2` is given) and test (VoxCeleb 1 test); `fractions` moves speakers of train.

    `root` holds vox1_meta.csv and wav/SPEAKER/VIDEO/*.wav, `root2` vox2_meta.csv and *.m4a, which are decoded once. Lhotse fetches
    VoxCeleb 1's list of trials on the way, so the machine must reach openslr.org. Raises ValueError where it does not, and for folders
    that are missing.
    """
    first = corpus_folder(root, "data.root", source=SOURCE, expects=["vox1_meta.csv", "wav"])
    second = None if root2 is None else corpus_folder(root2, "data.root2", source=SOURCE, expects=["vox2_meta.csv"])
    with TemporaryDirectory() as scratch, chdir(scratch):  # the list of trials lands in the working directory
        found = prepared(prepare_voxceleb, voxceleb1_root=first, voxceleb2_root=second)
    listed = {split: utterances(found[split], language=None, speaker=None, text_field=None) for split in ("train", "test")}
    return spread(listed, fractions, by="speaker")
