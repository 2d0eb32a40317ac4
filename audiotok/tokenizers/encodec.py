"""EnCodec (arXiv 2210.13438) through its own package: 24 kHz at 1.5 to 24 kbit/s, 48 kHz at 3 to 24 kbit/s."""

import re
import warnings
from fractions import Fraction
from functools import cached_property
from math import prod
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal
from zipfile import BadZipFile

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok import files
from audiotok.tokenizers import weights
from audiotok.tokenizers.base import Reach, Streaming, StreamState
from audiotok.tokenizers.batches import check_audio, check_codes, decode_rows, encode_rows
from audiotok.tokenizers.encodec_streaming import CausalStream
from audiotok.tokenizers.streaming import Windowed
from audiotok.types import TokenSpec

FILLING = 14.0  # seconds of noise: more frames at 75 a second than a codebook's 1,024 entries
CHECKPOINTS = {24000: "encodec_24khz-d7cc33bc.th", 48000: "encodec_48khz-7e698e3e.th"}  # the suffix begins the file's SHA-256


class Encodec:
    """The residual codes of an EnCodec network at one of its bandwidths, as the package itself encodes one utterance.

    The 48 kHz network is stereo and works on segments of 1 s, each scaled to an RMS of 1. Mono goes in on both channels and comes out as
    their mean. Two things are lost there: the scales are no part of the codes, so every second is decoded to an RMS of `level`; and
    segments do not overlap (the package's default is 1 %), because only so are there exactly 150 frames a second.
    """

    def __init__(self, network: Any, *, bandwidth: float, level: float | None) -> None:
        """`bandwidth` in kbit/s; `level` is the RMS of decoded audio where the network normalises, None where it does not.

        Raises ValueError for a bandwidth that the network does not have, and for a network whose segments overlap.
        """
        self.network = network.eval().requires_grad_(False)
        if bandwidth not in self.network.target_bandwidths:
            raise ValueError(f"encodec: got bandwidth={bandwidth} kbit/s; this network has {self.network.target_bandwidths}")
        if self.network.segment is not None and self.network.overlap:
            raise ValueError(
                f"encodec: segments overlap by {self.network.overlap}, a whole number of frames a second needs network.overlap = 0"
            )
        if self.network.normalize != (level is not None):
            raise ValueError(f"encodec: got level={level}; a network that normalises (48 kHz) needs one such as 0.1, others take null")
        _map_constants_of_elu()
        self.bandwidth = bandwidth
        self.level = level
        quantizer, frame_rate = self.network.quantizer, Fraction(self.network.sample_rate, prod(map(int, self.network.encoder.ratios)))
        num_codebooks = quantizer.get_num_quantizers_for_bandwidth(self.network.frame_rate, bandwidth)
        settings = {"kind": "encodec", "weights": weights.digest(network), "bandwidth": bandwidth, "segment": self.network.segment}
        self.reach = _reach(self.network)
        self.spec = TokenSpec(self.network.sample_rate, frame_rate, (quantizer.bins,) * num_codebooks, files.fingerprint(settings))

    @classmethod
    def from_pretrained(
        cls, path: str | Path | None, *, sample_rate: Literal[24000, 48000], bandwidth: float, level: float | None
    ) -> "Encodec":
        """The published network: from a checkpoint file, a folder that holds it under its published name, or (None) its own site."""
        network = _network(sample_rate)
        return cls(load_weights(network, _located(path, CHECKPOINTS[sample_rate])), bandwidth=bandwidth, level=level)

    @classmethod
    def untrained(cls, *, sample_rate: Literal[24000, 48000], bandwidth: float, level: float | None, seed: int) -> "Encodec":
        """The same network with weights drawn at random: a negative control of the benchmark.

        The codebooks, which the package leaves at zero for k-means to fill, are residuals of the random encoder on noise.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = _network(sample_rate)
            _fill_codebooks(network, seconds=FILLING)
        return cls(network, bandwidth=bandwidth, level=level)

    def encode(self, wav_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(codes_BKN, lengths_B in frames), coarsest codebook first."""
        check_audio(wav_BT, lengths_B)
        return encode_rows(self._encode, wav_BT, lengths_B)

    def decode(self, codes_BKN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(wav_BT, lengths_B in samples)."""
        check_codes(codes_BKN, lengths_B, self.spec)
        return decode_rows(self._decode, codes_BKN, lengths_B)

    def embed(self, codes_BKN: Tensor) -> Tensor:
        """hidden_BKND: each codebook's vector; their sum over K is the latent that is decoded."""
        layers = self.network.quantizer.vq.layers[: self.spec.num_codebooks]
        codebooks_KVD = torch.stack([layer.codebook for layer in layers]).to(codes_BKN.device)
        return codebooks_KVD[torch.arange(self.spec.num_codebooks, device=codes_BKN.device)[:, None], codes_BKN]

    def open(self) -> StreamState:
        """Of a stream that has heard nothing."""
        return self._stream.open()

    def push(self, state: StreamState, wav_T: Tensor) -> tuple[Tensor, StreamState]:
        """(codes_KN of the blocks that these samples complete, the state after them)."""
        return self._stream.push(state, wav_T)

    def close(self, state: StreamState) -> Tensor:
        """codes_KN of the frames that no block was completed for."""
        return self._stream.close(state)

    @cached_property
    def _stream(self) -> Streaming:
        if self.network.segment is None:
            return CausalStream(self.network, spec=self.spec, bandwidth=self.bandwidth)
        return Windowed(self, block=int(self.network.segment_length / self.spec.hop))

    def _on(self, device: torch.device) -> Any:
        if next(self.network.parameters()).device != device:  # asking all 300 modules takes as long as 0.2 s of speech
            self.network.to(device)
        return self.network

    @torch.no_grad()
    def _encode(self, wav_T: Tensor) -> Tensor:
        network = self._on(wav_T.device)
        segments = wav_T.expand(1, network.channels, -1).split(network.segment_length or len(wav_T), dim=2)
        return torch.cat([self._segment_codes(segment_1CT) for segment_1CT in segments], dim=1)

    def _segment_codes(self, wav_1CT: Tensor) -> Tensor:
        if self.network.normalize:
            wav_1CT = wav_1CT / (1e-8 + wav_1CT.mean(dim=1, keepdim=True).pow(2).mean(dim=2, keepdim=True).sqrt())
        latent_1DN = run_through(self.network.encoder.model, wav_1CT)
        return self.network.quantizer.encode(latent_1DN, self.network.frame_rate, self.bandwidth)[:, 0]

    @torch.no_grad()
    def _decode(self, codes_KN: Tensor) -> Tensor:
        network = self._on(codes_KN.device)
        num_frames = codes_KN.shape[1] if network.segment is None else int(network.segment_length / self.spec.hop)
        scale = None if self.level is None else torch.full((1, 1), self.level, device=codes_KN.device)
        wav_1CT = network.decode([(segment_KN[None], scale) for segment_KN in codes_KN.split(num_frames, dim=1)])
        return wav_1CT[0].mean(dim=0).clamp(-1, 1)


def _reach(network: Any) -> Reach:
    """Segments stand alone. Without them an LSTM hears all of the past, and padding by reflection lets frame 0 hear the next ones."""
    hop = prod(map(int, network.encoder.ratios))
    if network.segment is not None:
        rest = network.segment_length - hop
        return Reach(rest, rest, period=network.segment_length)
    return Reach(None, (network.encoder.model[-1].conv.conv.kernel_size[0] - 1) * hop, period=hop)


def run_through(layer: nn.Module, x_BDT: Tensor) -> Tensor:
    """`layer(x_BDT)` of the package, bit for bit, with a quarter less time: it may overwrite `x_BDT` and copies less.

    Activations work in place, and convolutions are padded by joining instead of by `F.pad`, or not at all where there is nothing to pad.
    """
    from encodec.modules.seanet import SConv1d, SEANetResnetBlock  # noqa: PLC0415

    match layer:
        case nn.Sequential():
            for inner in layer:
                x_BDT = run_through(inner, x_BDT)
            return x_BDT
        case nn.ELU():
            return F.elu_(x_BDT, layer.alpha)
        case nn.Identity():
            return x_BDT.clone()
        case SEANetResnetBlock():
            shortcut_BDT = run_through(layer.shortcut, x_BDT)  # before the block overwrites its input
            return shortcut_BDT.add_(run_through(layer.block, x_BDT))
        case SConv1d():
            return layer.conv(_padded(layer, x_BDT))
    return layer(x_BDT)


def _padded(layer: Any, x_BDT: Tensor) -> Tensor:
    """As SConv1d pads: what makes the frames whole goes to the right, the rest to the left or, where it is not causal, to both sides."""
    from encodec.modules.conv import pad1d  # noqa: PLC0415

    conv, num_samples = layer.conv.conv, x_BDT.shape[-1]
    total = (conv.kernel_size[0] - 1) * conv.dilation[0] - (conv.stride[0] - 1)
    right = 0 if layer.causal else total // 2
    left, right = total - right, right + (conv.kernel_size[0] - total - num_samples) % conv.stride[0]
    if left == right == 0:
        return x_BDT
    if layer.pad_mode != "reflect" or num_samples <= max(left, right):
        return pad1d(x_BDT, (left, right), mode=layer.pad_mode)
    return torch.cat([x_BDT[..., 1 : left + 1].flip(-1), x_BDT, x_BDT[..., -right - 1 : -1].flip(-1)], dim=-1)


def _map_constants_of_elu() -> None:
    """Make ELU on a CPU with AVX-512 ten times faster in this process, with the same bits.

    SLEEF's expm1 ends in a masked load of the constant for an argument of -0, which never comes. As long as the page that the constant
    lies on is not mapped, the processor answers each of these loads, though its mask is empty, with a microcode assist: 10 ns an element
    instead of 0.75 (torch 2.14.1 on an AMD EPYC of family 26). One argument of -0 maps the page.
    """
    torch.expm1(torch.full((64,), -0.0))


def load_weights(network: nn.Module, path: Path) -> nn.Module:
    """The network with a checkpoint's weights, every one of them. No pickled code is run: what is no plain tensors raises ValueError.

    Where the file's name ends in -HASH (eight hexadecimal digits or more), as the published ones do, its SHA-256 must begin so.
    """
    wanted = re.search(r"-([0-9a-f]{8,})$", path.stem)
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; download {' or '.join(CHECKPOINTS.values())}, or set tokenizer.path=null to let it be fetched"
        )
    if wanted and not files.file_digest(path).startswith(wanted[1]):
        raise ValueError(f"{path}: damaged, its SHA-256 does not begin with {wanted[1]}; download it again")
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (UnpicklingError, RuntimeError, EOFError, BadZipFile, TypeError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{path}: not the weights of this network ({reason}); download it again") from error
    return network


@torch.no_grad()
def _fill_codebooks(network: Any, *, seconds: float) -> None:
    wav_BCT = torch.randn(1, network.channels, round(seconds * network.sample_rate)) * 0.1
    residual_ND = network.eval().encoder(wav_BCT)[0].T
    for layer in network.quantizer.vq.layers:
        codebook_VD = residual_ND[torch.randperm(len(residual_ND))[: layer.codebook.shape[0]]]
        layer._codebook.embed.copy_(codebook_VD)
        residual_ND = residual_ND - codebook_VD[torch.cdist(residual_ND, codebook_VD).argmin(dim=1)]


def _network(sample_rate: int) -> Any:
    """The package's network of that rate, with the weights it draws."""
    try:
        from encodec import EncodecModel  # noqa: PLC0415
    except ImportError as error:
        raise ValueError("encodec: the package is not installed; pip install 'audiotok[encodec]'") from error
    makers = {24000: EncodecModel.encodec_model_24khz, 48000: EncodecModel.encodec_model_48khz}
    if sample_rate not in makers:
        raise ValueError(f"encodec: got sample_rate={sample_rate}; there are networks for {', '.join(map(str, makers))} Hz")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*weight_norm. is deprecated")
        network = makers[sample_rate](pretrained=False)
    network.overlap = 0.0
    return network


def _located(path: str | Path | None, name: str) -> Path:
    if path is not None:
        return Path(path) / name if Path(path).is_dir() else Path(path)
    target = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(f"https://dl.fbaipublicfiles.com/encodec/v0/{name}", str(target), progress=False)
        except OSError as error:
            raise ValueError(f"{name}: cannot be fetched ({error}); download it elsewhere and name it as tokenizer.path") from error
    return target
