"""k-means over frames of features: the semantic units of HuBERT and its kin (arXiv 2106.07447), one codebook, no way back to sound.

Features are z-scored per dimension first, with statistics that are part of the fitted state: with Whisper's encoder, phone NMI rises
from 0.37 to 0.42 and speaker NMI falls from 0.20 to 0.15.
"""

import hashlib
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from audiotok import files
from audiotok.tokenizers import weights
from audiotok.tokenizers.base import Reach
from audiotok.tokenizers.batches import check_audio, encode_rows
from audiotok.tokenizers.exact import product
from audiotok.tokenizers.features import Features
from audiotok.types import TokenSpec

WEIGHTS = "kmeans.safetensors"
RECORD = "kmeans.json"


class KMeans:
    """The nearest of `num_clusters` centroids for each frame, fitted once on a stream and kept in the folder `fitted`, or in the one of
    that name that comes with the package.

    Where that is not there yet (or None), `fit` comes first: until then encoding raises ValueError.
    """

    def __init__(
        self,
        features: Features,
        *,
        num_clusters: int,
        warmup_frames: int,
        batch_frames: int,
        seed: int,
        fitted: str | Path | None,
    ) -> None:
        """`warmup_frames`: what fitting holds in memory for its statistics and first centroids; then `batch_frames` at a time."""
        self.features = features
        self.num_clusters = num_clusters
        self.warmup_frames = warmup_frames
        self.batch_frames = batch_frames
        self.seed = seed
        self.fitted = None if fitted is None else _folder(fitted)
        self._state: dict[str, Tensor] | None = None
        if self.fitted is not None and self.fitted.exists():
            self._state = _load(self.fitted, features, num_clusters)

    @property
    def sample_rate(self) -> int:
        """Hz of the audio it is fitted to and encodes."""
        return self.features.sample_rate

    @property
    def reach(self) -> Reach:
        return self.features.reach

    @cached_property
    def spec(self) -> TokenSpec:
        centroids = hashlib.sha256(b"".join(tensor.numpy().tobytes() for _, tensor in sorted(self.state.items()))).hexdigest()
        fingerprint = files.fingerprint({"kind": "kmeans", "features": self.features.settings, "state": centroids})
        return TokenSpec(
            self.features.sample_rate, Fraction(self.features.sample_rate, self.features.hop), (self.num_clusters,), fingerprint
        )

    @property
    def state(self) -> dict[str, Tensor]:
        """`centroids` [V, D] in z-scored space, `mean` and `std` [D] of the features."""
        if self._state is None:
            where = self.fitted or "no folder named"
            raise ValueError(f"k-means is not fitted yet ({where}); run `audiotok fit RECIPE tokenizer=NAME` with the same settings first")
        return self._state

    def fit(self, waves: Iterable[Tensor]) -> None:
        """Fit to utterances wav_T at `sample_rate`, in one pass and bounded memory.

        Statistics, k-means++ and the first epochs come from the first `warmup_frames` frames, so the utterances should come shuffled; the
        rest goes by once. Raises ValueError where there are fewer frames than clusters.
        """
        clusters = MiniBatchKMeans(self.num_clusters, batch_size=self.batch_frames, random_state=self.seed, n_init=3, compute_labels=False)
        chunks = _regroup((self.features(wav_T).cpu() for wav_T in waves), self.warmup_frames, self.batch_frames)
        warmup_ND = next(chunks, torch.zeros(0, 0))
        if len(warmup_ND) < self.num_clusters:
            got = f"{len(warmup_ND)} frames for {self.num_clusters} clusters"
            raise ValueError(f"k-means: got {got}; give more audio (fit.hours), or lower tokenizer.num_clusters")
        mean_D, std_D = warmup_ND.mean(dim=0), warmup_ND.std(dim=0).clamp(min=1e-5)
        clusters.fit(((warmup_ND - mean_D) / std_D).numpy())
        for chunk_ND in chunks:
            clusters.partial_fit(((chunk_ND - mean_D) / std_D).numpy())
        self._state = {"centroids": torch.from_numpy(clusters.cluster_centers_).float(), "mean": mean_D, "std": std_D}
        self.__dict__.pop("spec", None)

    def save(self, folder: Path) -> None:
        """Write the fitted state into a folder; the constructor's `fitted` reads it."""
        folder.mkdir(parents=True, exist_ok=True)
        with files.whole_file(folder / WEIGHTS) as partial:
            save_file(self.state, partial)
        record = {"features": self.features.settings, "num_clusters": self.num_clusters, "sha256": files.file_digest(folder / WEIGHTS)}
        files.write_json(folder / RECORD, record)

    def encode(self, wav_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(codes_BKN, lengths_B in frames), K = 1."""
        check_audio(wav_BT, lengths_B)
        return encode_rows(lambda wav_T: self._nearest(self.features(wav_T))[None], wav_BT, lengths_B)

    def embed(self, codes_BKN: Tensor) -> Tensor:
        """hidden_BKND: the centroids, in z-scored space."""
        return self.state["centroids"].to(codes_BKN.device)[codes_BKN]

    def _nearest(self, features_ND: Tensor) -> Tensor:
        state = {name: tensor.to(features_ND.device) for name, tensor in self.state.items()}
        scaled_ND = (features_ND - state["mean"]) / state["std"]
        return (state["centroids"].square().sum(dim=1) - 2 * product(scaled_ND, state["centroids"].T)).argmin(dim=1)


def _folder(fitted: str | Path) -> Path:
    """A name alone is that of weights that come with the package; a path may be one that is still to be made."""
    return Path(fitted) if len(Path(fitted).parts) > 1 else weights.located(fitted)


def _regroup(rows: Iterable[Tensor], first: int, then: int) -> Iterator[Tensor]:
    """[N, D] pieces joined and cut into one of at least `first` rows, then ones of at least `then`, then what is left."""
    held: list[Tensor] = []
    wanted = first
    for rows_ND in rows:
        held.append(rows_ND)
        if sum(map(len, held)) >= wanted:
            yield torch.cat(held)
            held, wanted = [], then
    if held:
        yield torch.cat(held)


def _load(folder: Path, features: Features, num_clusters: int) -> dict[str, Tensor]:
    """The state that `save` wrote. Raises ValueError where it is not whole, or was fitted to other features."""
    again = "fit again with `audiotok fit RECIPE tokenizer=NAME overwrite=true`"
    for name in (RECORD, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name}: no such file, though the folder is there; {again}")
    try:
        record = files.read_json(folder / RECORD)
        state = load_file(folder / WEIGHTS)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{folder}: damaged ({error}); {again}") from error
    if record.get("sha256") != files.file_digest(folder / WEIGHTS):
        raise ValueError(f"{folder / WEIGHTS}: not what {RECORD} describes; {again}")
    wanted = {"features": features.settings, "num_clusters": num_clusters}
    found = {key: record.get(key) for key in wanted}
    if found != wanted:
        differing = "; ".join(f"{key}: {old!r} there, {new!r} now" for key, old, new in files.differences(found, wanted))
        raise ValueError(f"{folder} was fitted with other settings ({differing}); {again}")
    return state
