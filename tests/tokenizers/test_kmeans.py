import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from audiotok.tokenizers.features import Features
from audiotok.tokenizers.kmeans import RECORD, WEIGHTS, KMeans
from audiotok.tokenizers.mel import LogMel

MEL = LogMel(sample_rate=16000, n_fft=512, window=400, hop=320, num_mels=20, low_hz=0, high_hz=8000, floor=1e-5)


def kmeans(features: Features = MEL, *, num_clusters: int = 12, warmup_frames: int = 80, fitted: Path | None = None) -> KMeans:
    return KMeans(features, num_clusters=num_clusters, warmup_frames=warmup_frames, batch_frames=50, seed=0, fitted=fitted)


@pytest.fixture(scope="module")
def trained(wav_16k: Tensor) -> KMeans:
    tokenizer = kmeans()
    tokenizer.fit(wav_16k.split(10007))
    return tokenizer


@pytest.fixture
def folder(trained: KMeans, tmp_path: Path) -> Path:
    trained.save(tmp_path / "fitted")
    return tmp_path / "fitted"


def codes_of(tokenizer: KMeans, wav_T: Tensor) -> Tensor:
    return tokenizer.encode(wav_T[None], torch.tensor([len(wav_T)]))[0][0, 0]


def test_codes_are_the_nearest_centroids_of_z_scored_frames(trained: KMeans, wav_16k: Tensor) -> None:
    state = trained.state
    scaled_ND = (MEL(wav_16k) - state["mean"]) / state["std"]
    assert torch.equal(codes_of(trained, wav_16k), torch.cdist(scaled_ND.double(), state["centroids"].double()).argmin(dim=1))
    assert torch.equal(trained.embed(codes_of(trained, wav_16k)[None, None])[0, 0], state["centroids"][codes_of(trained, wav_16k)])


def test_fitting_a_stream_is_scikit_learns_fit_then_partial_fit(trained: KMeans, wav_16k: Tensor) -> None:
    frames_ND = torch.cat([MEL(wav_T) for wav_T in wav_16k.split(10007)])
    sizes = [len(MEL(wav_T)) for wav_T in wav_16k.split(10007)]
    assert sizes[0] == 32
    warmup_ND = frames_ND[: 32 * 3]  # the first whole utterances that make 80 frames
    mean_D, std_D = warmup_ND.mean(dim=0), warmup_ND.std(dim=0)
    wanted = MiniBatchKMeans(12, batch_size=50, random_state=0, n_init=3, compute_labels=False).fit(((warmup_ND - mean_D) / std_D).numpy())
    for chunk_ND in frames_ND[32 * 3 :].split(32 * 2):
        wanted.partial_fit(((chunk_ND - mean_D) / std_D).numpy())
    np.testing.assert_allclose(trained.state["centroids"].numpy(), wanted.cluster_centers_, atol=1e-5)


def test_units_are_closer_to_their_centroids_than_to_any_one_mean(trained: KMeans, wav_16k: Tensor) -> None:
    scaled_ND = (MEL(wav_16k) - trained.state["mean"]) / trained.state["std"]
    left_over = (scaled_ND - trained.state["centroids"][codes_of(trained, wav_16k)]).square().sum()
    assert left_over < 0.6 * (scaled_ND - scaled_ND.mean(dim=0)).square().sum()


def test_fitting_holds_no_more_frames_than_it_was_allowed(wav_16k: Tensor) -> None:
    sizes: list[int] = []

    class Counting(MiniBatchKMeans):
        def partial_fit(self, frames: np.ndarray) -> MiniBatchKMeans:  # type: ignore[override]
            sizes.append(len(frames))
            return super().partial_fit(frames)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("audiotok.tokenizers.kmeans.MiniBatchKMeans", Counting)
        kmeans().fit(wav_16k.split(6400))
    assert len(sizes) >= 2 and max(sizes) < 50 + 20  # a batch and at most one utterance more


def test_the_scale_of_a_feature_does_not_matter(trained: KMeans, wav_16k: Tensor) -> None:
    class Scaled:
        sample_rate, hop, settings = MEL.sample_rate, MEL.hop, {"scaled": True}

        def __call__(self, wav_T: Tensor) -> Tensor:
            return MEL(wav_T) * torch.logspace(-2, 2, 20) + 5

    tokenizer = kmeans(Scaled())
    tokenizer.fit(wav_16k.split(10007))
    agreement = (codes_of(tokenizer, wav_16k) == codes_of(trained, wav_16k)).float().mean()
    assert agreement > 0.99


def test_a_saved_tokenizer_gives_the_same_codes_and_fingerprint(trained: KMeans, folder: Path, wav_16k: Tensor) -> None:
    loaded = kmeans(fitted=folder)
    assert loaded.spec == trained.spec
    assert torch.equal(codes_of(loaded, wav_16k), codes_of(trained, wav_16k))


def test_the_fingerprint_follows_centroids_and_features(trained: KMeans, wav_16k: Tensor) -> None:
    other = kmeans()
    other.fit(wav_16k[: len(wav_16k) // 2].split(10007))
    louder = kmeans(replace(MEL, floor=1e-4))
    louder.fit(wav_16k.split(10007))
    assert len({tokenizer.spec.fingerprint for tokenizer in (trained, other, louder)}) == 3


def test_a_second_fit_with_the_same_audio_is_the_same_and_replaces_the_first(trained: KMeans, wav_16k: Tensor) -> None:
    tokenizer = kmeans()
    tokenizer.fit(wav_16k[:40000].split(10007))
    first = tokenizer.spec
    tokenizer.fit(wav_16k.split(10007))
    assert tokenizer.spec == trained.spec != first


def test_an_unfitted_tokenizer_says_how_to_fit_it(tmp_path: Path, wav_16k: Tensor) -> None:
    for tokenizer in (kmeans(), kmeans(fitted=tmp_path / "not-yet")):
        for use in (lambda t: t.spec, lambda t: codes_of(t, wav_16k), lambda t: t.save(tmp_path / "other")):
            with pytest.raises(ValueError, match=r"not fitted yet.*audiotok fit RECIPE tokenizer=NAME"):
                use(tokenizer)


def test_too_little_audio_is_refused_with_the_numbers(wav_16k: Tensor) -> None:
    with pytest.raises(ValueError, match="got 10 frames for 12 clusters"):
        kmeans().fit([wav_16k[:3200]])
    with pytest.raises(ValueError, match="got 0 frames"):
        kmeans().fit([])


def test_a_folder_that_is_not_whole_is_refused(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    for broken in (whole[:-10], pickle.dumps({"centroids": [1.0]}), b"", whole[:-4] + b"\0\0\0\1"):
        (folder / WEIGHTS).write_bytes(broken)
        with pytest.raises(ValueError, match="fit again with `audiotok fit"):
            kmeans(fitted=folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=r"kmeans\.safetensors: no such file"):
        kmeans(fitted=folder)


def test_a_record_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / RECORD).write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        kmeans(fitted=folder)


def test_a_state_fitted_to_other_settings_is_refused_and_the_difference_named(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"features\.floor: 1e-05 there, 0\.0001 now"):
        kmeans(replace(MEL, floor=1e-4), fitted=folder)
    with pytest.raises(ValueError, match="num_clusters: 12 there, 13 now"):
        kmeans(num_clusters=13, fitted=folder)
