"""The project's own codec: log-mel spectra or samples in, ConvNeXt and windowed attention, codes, an inverse STFT out.

After WavTokenizer (arXiv 2408.16532) and Vocos (arXiv 2306.00814), at any sample rate and frame rate. `audiotok.models.codec` trains it.
A trained codec is a folder: config.json (sizes only, no code is named in it) and model.safetensors.
"""

from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiotok import files
from audiotok.nn.convnext import ConvNeXt, WindowedAttention
from audiotok.nn.istft import InverseSTFT
from audiotok.tokenizers import quantisers, weights
from audiotok.tokenizers.base import Reach
from audiotok.tokenizers.batches import check_audio, check_codes, decode_rows, encode_rows
from audiotok.tokenizers.encoders import LEVEL, PooledMelEncoder, WaveEncoder
from audiotok.tokenizers.exact import RowsAlike
from audiotok.tokenizers.mel import LogMel
from audiotok.types import TokenSpec

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class MelEncoder(nn.Module):
    """Log-mel spectra to latents: `stride` spectra a frame side by side, then ConvNeXt blocks."""

    def __init__(
        self, *, mel: LogMel | dict[str, Any], stride: int, width: int, layers: int, kernel: int, expansion: int, dim: int
    ) -> None:
        super().__init__()
        if stride < 1:
            raise ValueError(f"mel encoder: a frame is made of at least one spectrum; got stride={stride}")
        self.mel = mel if isinstance(mel, LogMel) else LogMel(**mel)
        self.stride = stride
        self.sample_rate = self.mel.sample_rate
        self.hop = self.mel.hop * stride
        self.settings: dict[str, Any] = {
            "kind": "mel", "mel": self.mel.settings, "stride": stride, "width": width, "layers": layers, "kernel": kernel,
            "expansion": expansion, "dim": dim,
        }  # fmt: skip
        self.enter = nn.Linear(stride * self.mel.num_mels, width)
        self.blocks = nn.Sequential(*(ConvNeXt(width, kernel=kernel, expansion=expansion) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, dim)

    @property
    def reach(self) -> Reach:
        """Of a latent: what its spectra hear, and half a kernel of latents in each block."""
        around = len(self.blocks) * (self.settings["kernel"] // 2) * self.hop
        return Reach((self.mel.reach.before or 0) + around, (self.mel.reach.after or 0) + around, period=self.hop)

    def forward(self, wav_BT: Tensor) -> Tensor:
        """latent_BND, ceil(T / hop) frames."""
        with torch.autocast(wav_BT.device.type, enabled=False):
            log_mel_BNM = self.mel(F.pad(wav_BT.float(), (0, -wav_BT.shape[1] % self.hop)))
        batch, num_spectra, num_mels = log_mel_BNM.shape
        stacked = (log_mel_BNM + LEVEL).reshape(batch, num_spectra // self.stride, self.stride * num_mels)
        return self.leave(self.norm(self.blocks(self.enter(stacked))))


class WaveDecoder(nn.Module):
    """Latents to samples: ConvNeXt blocks, windowed attention after every `attention_every`-th of them, an inverse STFT."""

    def __init__(
        self,
        *,
        dim: int,
        width: int,
        layers: int,
        kernel: int,
        expansion: int,
        attention_every: int,
        heads: int,
        window: int,
        n_fft: int,
        hop: int,
        frames: int,
        speaker_dim: int,
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "dim": dim, "width": width, "layers": layers, "kernel": kernel, "expansion": expansion, "attention_every": attention_every,
            "heads": heads, "window": window, "n_fft": n_fft, "hop": hop, "frames": frames, "speaker_dim": speaker_dim,
        }  # fmt: skip
        self.hop = hop * frames
        self.enter = nn.Linear(dim, width)
        self.speaker = nn.Linear(speaker_dim, width) if speaker_dim else None
        blocks: list[nn.Module] = []
        for layer in range(1, layers + 1):
            blocks.append(ConvNeXt(width, kernel=kernel, expansion=expansion))
            if attention_every and layer % attention_every == 0:
                blocks.append(WindowedAttention(width, heads=heads, window=window))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.head = InverseSTFT(width, n_fft=n_fft, hop=hop, frames=frames)

    def forward(self, latent_BND: Tensor, *, speaker_BD: Tensor | None = None) -> Tensor:
        """wav_BT of N x hop samples. `speaker_BD` tells the voice where the latents do not."""
        hidden_BND = self.enter(latent_BND)
        if self.speaker is not None:
            hidden_BND = hidden_BND + self.speaker(speaker_BD)[:, None]
        return self.head(self.norm(self.blocks(hidden_BND)))


ENCODERS = {"mel": MelEncoder, "pooled_mel": PooledMelEncoder, "wave": WaveEncoder}


class CodecNetwork(nn.Module):
    """Encoder, quantiser and decoder of a trained codec."""

    def __init__(self, *, encoder: Any, quantiser: Any, decoder: WaveDecoder) -> None:
        super().__init__()
        if encoder.hop != decoder.hop:
            raise ValueError(
                f"codec: the encoder makes a frame of {encoder.hop} samples, the decoder one of {decoder.hop}; they must agree"
            )
        self.encoder: Any = encoder
        self.quantiser: Any = quantiser
        self.decoder = decoder

    @property
    def settings(self) -> dict[str, Any]:
        return {name: getattr(self, name).settings for name in ("encoder", "quantiser", "decoder")}

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "CodecNetwork":
        """The network that `settings` describe, weights still to be filled. Raises ValueError for an unknown kind or setting."""
        try:
            encoder = dict(settings["encoder"])
            return cls(
                encoder=ENCODERS[encoder.pop("kind")](**encoder),
                quantiser=quantisers.load(settings["quantiser"]),
                decoder=WaveDecoder(**settings["decoder"]),
            )
        except (KeyError, TypeError, AttributeError, RuntimeError, ArithmeticError) as error:
            raise ValueError(f"codec: its {CONFIG} describes no codec of this version ({type(error).__name__}: {error})") from error


class Codec:
    """The codes of a trained codec, at the rate of its first `num_codebooks` codebooks."""

    def __init__(self, network: CodecNetwork, *, num_codebooks: int | None) -> None:
        """None for all codebooks. Raises ValueError where the network has fewer."""
        self.network = network.eval().requires_grad_(False)
        sizes = network.quantiser.codebook_sizes
        self.num_codebooks = len(sizes) if num_codebooks is None else num_codebooks
        if not 1 <= self.num_codebooks <= len(sizes):
            raise ValueError(f"codec: got num_codebooks={num_codebooks}; this codec has {len(sizes)}")
        # Of what makes the codes: a decoder that was trained further reads the same ones.
        made_by = {
            name: [part.settings, weights.digest(part)] for name, part in (("encoder", network.encoder), ("quantiser", network.quantiser))
        }
        sample_rate, heard = network.encoder.sample_rate, network.encoder.reach
        self.reach = Reach(heard.before, heard.after, period=heard.period * network.quantiser.stride)
        self.spec = TokenSpec(
            sample_rate,
            Fraction(sample_rate, network.encoder.hop * network.quantiser.stride),
            sizes[: self.num_codebooks],
            files.fingerprint({"kind": "codec", "num_codebooks": self.num_codebooks, **made_by}),
        )

    @classmethod
    def from_pretrained(cls, path: str | Path, *, num_codebooks: int | None = None) -> "Codec":
        """From a folder with config.json and model.safetensors, or by the name of a codec that comes with the package.

        Raises ValueError naming what is wrong with either file.
        """
        return cls(load_network(weights.located(path)), num_codebooks=num_codebooks)

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
        with torch.no_grad(), RowsAlike():
            return self.network.quantiser.to(codes_BKN.device).embed(codes_BKN)

    def _encode(self, wav_T: Tensor) -> Tensor:
        network = self.network.to(wav_T.device)
        with torch.no_grad(), RowsAlike():
            return network.quantiser.encode(network.encoder(wav_T[None])[0])[: self.num_codebooks]

    @torch.no_grad()
    def _decode(self, codes_KN: Tensor) -> Tensor:
        network = self.network.to(codes_KN.device)
        latent_BND = self.embed(codes_KN[None]).sum(dim=1).unflatten(-1, (network.quantiser.stride, -1)).flatten(1, 2)
        return network.decoder(latent_BND)[0].clamp(-1, 1)


def load_network(folder: Path) -> CodecNetwork:
    """The network that `save_network` wrote."""
    network = CodecNetwork.of(read_settings(folder))
    weights.load(network, folder / WEIGHTS)
    return network


def read_settings(folder: Path) -> dict[str, Any]:
    """What config.json says. Raises ValueError where it is absent or damaged."""
    try:
        settings = files.read_json(folder / CONFIG)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{folder / CONFIG}: cannot be read ({error}); a codec is a folder with {CONFIG} and {WEIGHTS}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{folder / CONFIG}: holds a {type(settings).__name__}, not the settings of a network; download it again")
    return settings


def save_network(network: CodecNetwork, folder: Path, *, rounded: bool = False) -> None:
    """Write config.json and model.safetensors; `rounded` as for `weights.save`."""
    folder.mkdir(parents=True, exist_ok=True)
    weights.save(network, folder / WEIGHTS, rounded=rounded)
    files.write_json(folder / CONFIG, network.settings)
