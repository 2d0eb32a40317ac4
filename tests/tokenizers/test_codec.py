"""The project's codec beyond the laws: its folder, its rates, its fingerprint, and what it refuses."""

import json
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import small_codec
import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from audiotok import cli, files
from audiotok.tokenizers import weights
from audiotok.tokenizers.base import Reach
from audiotok.tokenizers.codec import Codec, CodecNetwork, save_network
from audiotok.tokenizers.exact import RowsAlike
from audiotok.tokenizers.quantisers import FiniteScalar


@pytest.fixture
def network(wav_16k: Tensor) -> CodecNetwork:
    return small_codec.network(wav_16k)


@pytest.fixture
def folder(network: CodecNetwork, tmp_path: Path) -> Path:
    save_network(network, tmp_path / "codec")
    return tmp_path / "codec"


def encode(codec: Codec, wav_T: Tensor) -> Tensor:
    return codec.encode(wav_T[None], torch.tensor([len(wav_T)]))[0]


def decode(codec: Codec, codes_BKN: Tensor) -> Tensor:
    return codec.decode(codes_BKN, torch.tensor([codes_BKN.shape[2]]))[0][0]


# Its folder and its rates


@pytest.mark.parametrize("quantiser", ["residual", "scalar"])
def test_a_codec_from_its_folder_is_the_codec_that_was_saved(quantiser: str, wav_16k: Tensor, tmp_path: Path) -> None:
    network = small_codec.network(wav_16k, quantiser=quantiser)
    save_network(network, tmp_path)
    saved, loaded = Codec(network, num_codebooks=None), Codec.from_pretrained(tmp_path)
    assert loaded.spec == saved.spec and loaded.reach == saved.reach
    codes_BKN = encode(loaded, wav_16k)
    assert torch.equal(codes_BKN, encode(saved, wav_16k))
    assert torch.equal(decode(loaded, codes_BKN), decode(saved, codes_BKN))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_codec_from_rounded_weights_decodes_nearly_the_same_and_says_that_its_codes_are_others(
    network: CodecNetwork, wav_16k: Tensor, tmp_path: Path
) -> None:
    save_network(network, tmp_path, rounded=True)
    whole, rounded = Codec(network, num_codebooks=None), Codec.from_pretrained(tmp_path)
    codes_BKN = encode(whole, wav_16k)
    reference_T, estimate_T = decode(whole, codes_BKN), decode(rounded, codes_BKN)
    assert 0 < (reference_T - estimate_T).norm() / reference_T.norm() < 0.1
    assert whole.spec.fingerprint != rounded.spec.fingerprint


def test_fewer_codebooks_are_the_first_ones_at_their_rate(folder: Path, wav_16k: Tensor) -> None:
    whole = Codec.from_pretrained(folder)
    codes_BKN = encode(whole, wav_16k)
    for number in (1, 2, 3, 4):
        codec = Codec.from_pretrained(folder, num_codebooks=number)
        assert codec.spec.codebook_sizes == (32,) * number
        assert codec.spec.frame_rate == Fraction(50) and codec.spec.bits_per_second == 250 * number
        assert torch.equal(encode(codec, wav_16k), codes_BKN[:, :number])
        sound_T = decode(codec, codes_BKN[:, :number])
        assert torch.equal(sound_T, decode(whole, codes_BKN)) == (number == 4)
    for number in (0, 5, -1):
        with pytest.raises(ValueError, match=f"num_codebooks={number}; this codec has 4"):
            Codec.from_pretrained(folder, num_codebooks=number)


def test_a_codec_that_comes_with_the_package_is_found_by_its_name(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights.resources, "files", lambda package: tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"small is no folder, nor the name of weights that come with the package \(there are none\)"):
        Codec.from_pretrained("small")
    (tmp_path / "pretrained").mkdir()
    folder.rename(tmp_path / "pretrained" / "small")
    assert Codec.from_pretrained("small").spec.num_codebooks == 4
    with pytest.raises(ValueError, match=r"other is no folder, nor the name of weights that come with the package \(small\)"):
        Codec.from_pretrained("other")


# The fingerprint is of the codes


def changed(network: CodecNetwork, part: str) -> CodecNetwork:
    """The network after a little more training of one part."""
    with torch.no_grad():
        for tensor in network.get_submodule(part).state_dict().values():
            tensor += 1e-3
    return network


def test_a_decoder_trained_further_keeps_the_fingerprint_and_another_encoder_or_codebook_changes_it(wav_16k: Tensor) -> None:
    def spec(network: CodecNetwork, number: int | None = None) -> str:
        return Codec(network, num_codebooks=number).spec.fingerprint

    def made() -> CodecNetwork:
        return small_codec.network(wav_16k)

    wanted = spec(made())
    assert spec(changed(made(), "decoder")) == wanted
    deeper = made()
    deeper.decoder = small_codec.decoder(layers=3)
    assert spec(deeper) == wanted
    other_sizes = made()
    other_sizes.encoder.settings = other_sizes.encoder.settings | {"kernel": 5}
    others = [spec(changed(made(), "encoder")), spec(changed(made(), "quantiser")), spec(made(), 3), spec(other_sizes)]
    assert len({wanted, *others}) == 5


# What a latent hears, and that it is the same in any company


def test_the_reach_is_that_of_the_spectra_and_half_a_kernel_in_each_block(wav_16k: Tensor) -> None:
    around = 2 * (3 // 2) * 320
    assert Codec(small_codec.network(wav_16k), num_codebooks=None).reach == Reach(160 + around, 160 + around, period=320)


def test_rows_are_to_the_bit_what_they_are_in_any_company() -> None:
    torch.manual_seed(0)
    rows_ND = torch.randn(300, 64)
    networks = [nn.Linear(64, size, bias=bias).requires_grad_(False) for size, bias in ((768, True), (5, True), (48, False))]
    networks += [nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.LayerNorm(96), nn.Linear(96, 16)).requires_grad_(False)]
    codebook_VD = torch.randn(200, 64)
    ways: list[Callable[[Tensor], Tensor]] = [
        *networks,
        lambda rows_ND: rows_ND @ codebook_VD.T,
        lambda rows_ND: torch.matmul(rows_ND, codebook_VD.T),
        lambda rows_ND: rows_ND.matmul(codebook_VD.T),
    ]
    for way in ways:
        plain_ND = way(rows_ND)
        with RowsAlike():
            whole_ND = way(rows_ND)
            for number in (1, 2, 3, 5, 17, 63, 64, 65, 131):
                assert torch.equal(way(rows_ND[100 : 100 + number]), whole_ND[100 : 100 + number])
            assert torch.equal(way(rows_ND.view(3, 100, 64)), whole_ND.view(3, 100, -1))
        torch.testing.assert_close(whole_ND, plain_ND, rtol=1e-5, atol=1e-5)
    with RowsAlike():
        assert torch.equal(
            rows_ND.view(3, 100, 64) @ rows_ND.view(3, 64, 100), torch.bmm(rows_ND.view(3, 100, 64), rows_ND.view(3, 64, 100))
        )


def test_a_code_stands_for_the_same_vector_to_the_bit_whatever_is_asked_with_it() -> None:
    torch.manual_seed(0)
    network = CodecNetwork(
        encoder=small_codec.encoder(dim=64),
        quantiser=FiniteScalar(levels=[8, 8, 8, 8, 8], dim=64),
        decoder=small_codec.decoder(dim=64),
    )
    codec, codes_11N = Codec(network, num_codebooks=None), torch.randint(32768, (1, 1, 200))
    hidden_11ND = codec.embed(codes_11N)
    for number in (1, 2, 3, 64, 100):
        assert torch.equal(codec.embed(codes_11N[..., 50 : 50 + number]), hidden_11ND[:, :, 50 : 50 + number])


# What is no codec


CONFIGS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another kind of encoder": (lambda config: config["encoder"].update(kind="wav2vec"), "KeyError: 'wav2vec'"),
    "another kind of quantiser": (
        lambda config: config["quantiser"].update(kind="lattice"),
        "quantiser kind 'lattice'; known are residual",
    ),
    "no encoder": (lambda config: config.pop("encoder"), "describes no codec of this version"),
    "an encoder that is a list": (lambda config: config.update(encoder=[1, 2]), "describes no codec of this version"),
    "a quantiser that is a text": (lambda config: config.update(quantiser="residual"), "describes no codec of this version"),
    "a setting too many": (lambda config: config["decoder"].update(depth=3), "depth"),
    "a setting too few": (lambda config: config["decoder"].pop("width"), "width"),
    "a size that is a text": (lambda config: config["decoder"].update(width="32"), "describes no codec of this version"),
    "a negative size": (lambda config: config["encoder"].update(width=-32), "describes no codec of this version"),
    "no spectra": (lambda config: config["encoder"].update(stride=0), "stride=0"),
    "no heads": (lambda config: config["decoder"].update(heads=0), "by 0 heads"),
    "other hops": (lambda config: config["decoder"].update(hop=80), "a frame of 320 samples, the decoder one of 160"),
    "another width": (
        lambda config: config["encoder"].update(width=48),
        r"encoder\.enter\.weight is \[32, 80\], the network's is \[48, 80\]",
    ),
    "a deeper decoder": (lambda config: config["decoder"].update(layers=4), r"decoder\.blocks\.\d\.\S+ is missing"),
    "fewer codebooks": (lambda config: config["quantiser"].update(num_codebooks=2), r"quantiser\.codebooks_KVD is \[4, 32, 16\]"),
    "a size beyond all memory": (lambda config: config["decoder"].update(width=2**50), "describes no codec of this version"),
    "a size beyond all numbers": (lambda config: config["decoder"].update(width=2**80), "describes no codec of this version"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_of_another_architecture_is_refused(name: str, folder: Path) -> None:
    change, told = CONFIGS[name]
    config = files.read_json(folder / "config.json")
    change(config)
    files.write_json(folder / "config.json", config)
    with pytest.raises(ValueError, match=told):
        Codec.from_pretrained(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"null", b'"residual"', b"\xff\xfe", b"[" * 100_000])
def test_a_config_that_is_damaged_is_refused(content: bytes, folder: Path) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json: (cannot be read|holds a)"):
        Codec.from_pretrained(folder)


def test_a_folder_that_lacks_a_file_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors: no such file"):
        Codec.from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json: cannot be read"):
        Codec.from_pretrained(folder)


def test_code_named_in_a_config_is_not_run(folder: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    trap = {"_target_": "os.mkdir", "path": str(sprung), "_args_": [str(sprung)]}
    whole = files.read_json(folder / "config.json")
    for place in ("encoder", "quantiser", "decoder"):
        files.write_json(folder / "config.json", whole | {place: trap})
        with pytest.raises(ValueError, match=r"describes no codec of this version|quantiser kind None"):
            Codec.from_pretrained(folder)
        files.write_json(folder / "config.json", whole | {place: whole[place] | trap})
        with pytest.raises(ValueError, match="describes no codec of this version"):
            Codec.from_pretrained(folder)
    files.write_json(folder / "config.json", whole | {"mel": trap, **trap})
    assert Codec.from_pretrained(folder).spec.num_codebooks == 4
    assert not sprung.exists()
    instantiate(trap | {"_args_": []})
    assert sprung.exists(), "the trap itself works"


# How soon it is there


FRESH = """
import json, sys, time
import torch
from audiotok.tokenizers.codec import Codec
torch.set_num_threads(1)
start = time.process_time()
codec = Codec.from_pretrained(sys.argv[1])
loaded = time.process_time() - start
codes_BKN, frames_B = codec.encode(torch.rand(1, 8000) - 0.5, torch.tensor([8000]))
codec.decode(codes_BKN, frames_B)
print(json.dumps({"seconds": loaded, "modules": sorted(sys.modules), "codebooks": codes_BKN.shape[1]}))
"""


@pytest.mark.parametrize(("recipe", "codebooks"), [("codec/default", 6), ("codec/single", 1)])
def test_a_whole_codec_loads_in_under_a_second_and_works_without_what_trained_it(recipe: str, codebooks: int, tmp_path: Path) -> None:
    instantiate(cli.load(recipe, []).model).export(tmp_path)
    ran = subprocess.run([sys.executable, "-c", FRESH, str(tmp_path)], capture_output=True, text=True, check=True, cwd=cli.ROOT)
    told = json.loads(ran.stdout)
    assert told["codebooks"] == codebooks and told["seconds"] < 1
    packages = {name.split(".")[0] for name in told["modules"]}
    assert "torch" in packages and not packages & {"vector_quantize_pytorch", "hydra", "omegaconf", "lhotse", "transformers"}
