import os
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from audiotok import audio, files
from audiotok.tokenizers.encodec import Encodec, load_weights, run_through

encodec = pytest.importorskip("encodec")


def narrow(sample_rate: int) -> Any:
    """A random network of the published structure with few channels."""
    from encodec import modules, quantization

    torch.manual_seed(0)
    stereo = sample_rate == 48000
    norm = {"norm": "time_group_norm" if stereo else "weight_norm", "causal": not stereo}
    coder = modules.SEANetEncoder(channels=1 + stereo, dimension=16, n_filters=4, **norm)
    decoder = modules.SEANetDecoder(channels=1 + stereo, dimension=16, n_filters=4, **norm)
    quantizer = quantization.ResidualVectorQuantizer(dimension=16, n_q=32 if not stereo else 16, bins=1024)
    for layer in quantizer.vq.layers:
        layer._codebook.embed.normal_(std=0.1)
    bandwidths = [3.0, 6.0, 12.0, 24.0] if stereo else [1.5, 3.0, 6.0, 12.0, 24.0]
    segments = {"normalize": stereo, "segment": 1.0 if stereo else None, "overlap": 0.0}
    return encodec.EncodecModel(coder, decoder, quantizer, bandwidths, sample_rate, 1 + stereo, **segments).eval()


@pytest.mark.parametrize("sample_rate", [24000, 48000])
def test_codes_and_sound_are_those_of_the_package(sample_rate: int, wav_16k: Tensor) -> None:
    network = narrow(sample_rate)
    wav_T = audio.resample(wav_16k[8000:24801], 16000, sample_rate)
    tokenizer = Encodec(network, bandwidth=6.0, level=0.1 if sample_rate == 48000 else None)
    codes_BKN, frames_B = tokenizer.encode(wav_T[None], torch.tensor([len(wav_T)]))
    with torch.no_grad():
        network.set_target_bandwidth(6.0)
        segments = network.encode(wav_T.expand(1, network.channels, -1))
        assert len(segments) == (2 if sample_rate == 48000 else 1)
        assert torch.equal(codes_BKN, torch.cat([codes for codes, _ in segments], dim=-1))
        scaled = [(codes, None if scale is None else torch.full_like(scale, 0.1)) for codes, scale in segments]
        wanted_T = network.decode(scaled)[0].mean(dim=0).clamp(-1, 1)
    back_BT, lengths_B = tokenizer.decode(codes_BKN, frames_B)
    torch.testing.assert_close(back_BT[0, : len(wanted_T)], wanted_T[: back_BT.shape[1]])
    assert 0 <= int(lengths_B) - len(wav_T) < 320


@pytest.mark.parametrize("sample_rate", [24000, 48000])
@pytest.mark.parametrize("num_samples", [1, 6, 320, 321, 7777])
def test_latents_are_those_of_the_package_bit_for_bit_at_every_length(sample_rate: int, num_samples: int) -> None:
    network = narrow(sample_rate).requires_grad_(False)
    wav_1CT = torch.randn(1, network.channels, num_samples, generator=torch.Generator().manual_seed(num_samples)) * 0.1
    before = wav_1CT.clone()
    latent_1DN = run_through(network.encoder.model, wav_1CT)
    assert torch.equal(latent_1DN, network.encoder(wav_1CT)) and torch.equal(wav_1CT, before)


@pytest.mark.parametrize(("pad_mode", "true_skip"), [("constant", False), ("reflect", True)])
def test_other_paddings_and_shortcuts_of_the_package_give_its_bits_too(pad_mode: str, true_skip: bool, wav_16k: Tensor) -> None:
    from encodec import modules

    torch.manual_seed(0)
    coder = modules.SEANetEncoder(dimension=16, n_filters=4, pad_mode=pad_mode, true_skip=true_skip).eval().requires_grad_(False)
    wav_11T = wav_16k[None, None, 8000:11001]
    assert torch.equal(run_through(coder.model, wav_11T), coder(wav_11T))


@pytest.mark.parametrize(("sample_rate", "bandwidths"), [(24000, [1.5, 3.0, 6.0, 12.0, 24.0]), (48000, [3.0, 6.0, 12.0, 24.0])])
def test_every_bandwidth_has_its_rate_and_the_first_codebooks_of_the_next(
    sample_rate: int, bandwidths: list[float], wav_16k: Tensor
) -> None:
    network, level = narrow(sample_rate), 0.1 if sample_rate == 48000 else None
    batch = wav_16k[None, 8000:9000], torch.tensor([1000])
    tokenizers = [Encodec(network, bandwidth=bandwidth, level=level) for bandwidth in bandwidths]
    codes = [tokenizer.encode(*batch)[0] for tokenizer in tokenizers]
    assert [tokenizer.spec.bits_per_second / 1000 for tokenizer in tokenizers] == bandwidths
    assert len({tokenizer.spec.fingerprint for tokenizer in tokenizers}) == len(bandwidths)
    assert all(torch.equal(few, more[:, : few.shape[1]]) for few, more in pairwise(codes))


def test_embed_sums_to_the_latent_that_the_package_decodes(wav_16k: Tensor) -> None:
    network = narrow(24000)
    tokenizer = Encodec(network, bandwidth=6.0, level=None)
    codes_BKN, _ = tokenizer.encode(wav_16k[None, :4000], torch.tensor([4000]))
    latent_BDN = network.quantizer.decode(codes_BKN.transpose(0, 1))
    torch.testing.assert_close(tokenizer.embed(codes_BKN).sum(dim=1).transpose(1, 2), latent_BDN)


def test_the_published_network_loads_from_a_file_in_its_own_format(tmp_path: Path, wav_16k: Tensor) -> None:
    torch.manual_seed(1)
    network = encodec.EncodecModel.encodec_model_24khz(pretrained=False)
    torch.save(network.state_dict(), tmp_path / "own.th")
    path = tmp_path / f"own-{files.file_digest(tmp_path / 'own.th')[:8]}.th"
    (tmp_path / "own.th").rename(path)
    tokenizer = Encodec.from_pretrained(path, sample_rate=24000, bandwidth=3.0, level=None)
    batch = wav_16k[None, :2000], torch.tensor([2000])
    assert torch.equal(tokenizer.encode(*batch)[0], Encodec(network, bandwidth=3.0, level=None).encode(*batch)[0])
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match="damaged, its SHA-256"):
        Encodec.from_pretrained(path, sample_rate=24000, bandwidth=3.0, level=None)


def test_the_48_khz_network_is_made_with_segments_that_do_not_overlap(tmp_path: Path) -> None:
    network = encodec.EncodecModel.encodec_model_48khz(pretrained=False)
    torch.save(network.state_dict(), tmp_path / "own.th")
    spec = Encodec.from_pretrained(tmp_path / "own.th", sample_rate=48000, bandwidth=24.0, level=0.1).spec
    assert (spec.sample_rate, spec.frame_rate, spec.codebook_sizes) == (48000, 150, (1024,) * 16)
    with pytest.raises(ValueError, match=r"overlap by 0\.01"):
        Encodec(network, bandwidth=24.0, level=0.1)


def test_a_checkpoint_that_is_absent_broken_or_of_another_network_is_refused(tmp_path: Path) -> None:
    network, path = narrow(24000), tmp_path / "weights.th"
    with pytest.raises(ValueError, match="no such file"):
        load_weights(network, path)
    with pytest.raises(ValueError, match=r"encodec_24khz-d7cc33bc\.th: no such file"):
        Encodec.from_pretrained(tmp_path, sample_rate=24000, bandwidth=6.0, level=None)
    torch.save(network.state_dict(), path)
    whole = path.read_bytes()
    for broken in (b"", b"not weights", whole[: len(whole) // 2]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"weights\.th: not the weights"):
            load_weights(network, path)
    torch.save(narrow(48000).state_dict(), path)
    with pytest.raises(ValueError, match="not the weights of this network"):
        load_weights(network, path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="not the weights of this network"):
        load_weights(network, path)


def test_only_a_hash_at_the_end_of_the_name_is_held_against_the_file(tmp_path: Path) -> None:
    network, path = narrow(24000), tmp_path / "my-own-fine-tuned.th"
    torch.save(network.state_dict(), path)
    load_weights(network, path)
    load_weights(network, path.rename(tmp_path / f"own-{files.file_digest(path)[:8]}.th"))
    with pytest.raises(ValueError, match="damaged, its SHA-256 does not begin with 0123abcd"):
        load_weights(network, next(tmp_path.iterdir()).rename(tmp_path / "own-0123abcd.th"))


class Trap:
    """Unpickled by a careless reader, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_code_pickled_into_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    path, sprung = tmp_path / "weights.th", tmp_path / "sprung"
    for save in (lambda: torch.save({"trap": Trap(sprung)}, path), lambda: path.write_bytes(pickle.dumps(Trap(sprung)))):
        save()
        with pytest.raises(ValueError, match="not the weights of this network"):
            load_weights(narrow(24000), path)
        assert not sprung.exists()


def test_settings_that_the_network_cannot_follow_are_refused() -> None:
    with pytest.raises(ValueError, match=r"bandwidth=5 kbit/s; this network has \[1\.5"):
        Encodec(narrow(24000), bandwidth=5, level=None)
    with pytest.raises(ValueError, match="level=None"):
        Encodec(narrow(48000), bandwidth=6.0, level=None)
    with pytest.raises(ValueError, match=r"level=0\.1"):
        Encodec(narrow(24000), bandwidth=6.0, level=0.1)
    with pytest.raises(ValueError, match="sample_rate=16000"):
        Encodec.from_pretrained(None, sample_rate=16000, bandwidth=6.0, level=None)  # type: ignore[arg-type]
