"""A trained way back to sound for tokenizers that have none, or a poor one: dMel's levels, semantic units.

The decoder is the codec's (`WaveDecoder`); what it hears is what the tokenizer's `embed` says of the codes. Units hold little of the voice:
there the decoder is told it, as a vector that a small encoder makes of any recording. `audiotok.models.vocoder` trains both.
A trained vocoder is a folder: config.json and model.safetensors.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audiotok import audio, files
from audiotok.tokenizers import weights
from audiotok.tokenizers.base import Embedder, Reach, Tokenizer
from audiotok.tokenizers.batches import check_codes, decode_rows
from audiotok.tokenizers.codec import CONFIG, WEIGHTS, MelEncoder, WaveDecoder, read_settings
from audiotok.types import TokenSpec


class VoiceEncoder(nn.Module):
    """A voice in one vector: latents of a recording, averaged over time."""

    def __init__(self, encoder: MelEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    @property
    def settings(self) -> dict[str, Any]:
        return {key: value for key, value in self.encoder.settings.items() if key != "kind"}

    @property
    def dim(self) -> int:
        """Numbers in the vector."""
        return self.encoder.settings["dim"]

    def forward(self, wav_BT: Tensor) -> Tensor:
        """speaker_BD."""
        return self.encoder(wav_BT).mean(dim=1)


class VocoderNetwork(nn.Module):
    """A decoder of embedded codes and, where it has to be told the voice, an encoder of that."""

    def __init__(self, *, decoder: WaveDecoder, voice: VoiceEncoder | None) -> None:
        super().__init__()
        if (voice is None) != (decoder.speaker is None):
            raise ValueError("vocoder: a decoder with speaker_dim > 0 needs a voice encoder, one with speaker_dim = 0 none")
        if voice is not None and voice.dim != decoder.settings["speaker_dim"]:
            raise ValueError(f"vocoder: a voice of {voice.dim} numbers, the decoder takes speaker_dim={decoder.settings['speaker_dim']}")
        self.decoder = decoder
        self.voice = voice

    @property
    def settings(self) -> dict[str, Any]:
        return {"decoder": self.decoder.settings, "voice": None if self.voice is None else self.voice.settings}

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "VocoderNetwork":
        """The network that `settings` describe, weights still to be filled. Raises ValueError for unknown settings."""
        try:
            voice = None if settings["voice"] is None else VoiceEncoder(MelEncoder(**settings["voice"]))
            return cls(decoder=WaveDecoder(**settings["decoder"]), voice=voice)
        except (KeyError, TypeError, AttributeError, RuntimeError, ArithmeticError) as error:
            raise ValueError(f"vocoder: its {CONFIG} describes none of this version ({type(error).__name__}: {error})") from error


class Vocoded:
    """A tokenizer whose codes a trained vocoder decodes; in all else the tokenizer itself, fingerprint included."""

    def __init__(self, tokenizer: Tokenizer, network: VocoderNetwork, *, made_for: str | None, voice: str | Path | None) -> None:
        """`made_for` is the fingerprint of the codes the network was trained on (None: not known), `voice` a recording to sound like.

        Raises ValueError where the network was trained on other codes, hears other vectors, needs a voice or takes none.
        """
        if not isinstance(tokenizer, Embedder):
            raise ValueError(f"vocoder: {type(tokenizer).__name__} cannot embed its codes, which is what a vocoder hears")
        self.tokenizer: Any = tokenizer
        self.network = network.eval().requires_grad_(False)
        if made_for is not None and made_for != self.spec.fingerprint:
            raise ValueError(
                f"vocoder: trained on codes {made_for[:8]}, this tokenizer makes {self.spec.fingerprint[:8]}; "
                "choose the tokenizer's settings it was trained with, or train one with `audiotok train_codec vocoder/...`"
            )
        refuse_other_codes(tokenizer, network.decoder)
        if voice is None and network.voice is not None:
            raise ValueError("vocoder: these codes do not tell the voice; set tokenizer.voice to a recording of the one to speak with")
        if voice is not None and network.voice is None:
            raise ValueError("vocoder: these codes tell the voice, no other can be chosen; set tokenizer.voice=null")
        self.speaker_1D = None if voice is None else self._heard(Path(voice))

    @classmethod
    def from_pretrained(cls, path: str | Path, *, tokenizer: Tokenizer, voice: str | Path | None) -> "Vocoded":
        """From a folder with config.json and model.safetensors, or by the name of a vocoder that comes with the package.

        Raises ValueError naming what is wrong with either file, and as the constructor does.
        """
        folder = weights.located(path)
        return cls(tokenizer, load_vocoder(folder), made_for=read_settings(folder).get("made_for"), voice=voice)

    @property
    def spec(self) -> TokenSpec:
        return self.tokenizer.spec

    @property
    def reach(self) -> Reach:
        return self.tokenizer.reach

    def encode(self, wav_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(codes_BKN, lengths_B in frames), the tokenizer's."""
        return self.tokenizer.encode(wav_BT, lengths_B)

    def embed(self, codes_BKN: Tensor) -> Tensor:
        """hidden_BKND, the tokenizer's."""
        return self.tokenizer.embed(codes_BKN)

    def decode(self, codes_BKN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(wav_BT, lengths_B in samples)."""
        check_codes(codes_BKN, lengths_B, self.spec)
        return decode_rows(self._decode, codes_BKN, lengths_B)

    @torch.no_grad()
    def _decode(self, codes_KN: Tensor) -> Tensor:
        network = self.network.to(codes_KN.device)
        speaker_1D = None if self.speaker_1D is None else self.speaker_1D.to(codes_KN.device)
        return network.decoder(side_by_side(self.embed(codes_KN[None])), speaker_BD=speaker_1D)[0].clamp(-1, 1)

    @torch.no_grad()
    def _heard(self, voice: Path) -> Tensor:
        wav_T, rate = audio.read(voice)
        assert self.network.voice is not None
        return self.network.voice(audio.resample(wav_T, rate, self.network.voice.encoder.sample_rate)[None])


def refuse_other_codes(tokenizer: Any, decoder: WaveDecoder) -> None:
    """Raise ValueError unless the decoder makes sound of this tokenizer's embedded codes: as many samples, from vectors as wide."""
    if tokenizer.spec.hop != decoder.hop:
        raise ValueError(f"vocoder: a code stands for {tokenizer.spec.hop} samples, the decoder makes {decoder.hop} of it; they must agree")
    width = side_by_side(tokenizer.embed(torch.zeros(1, tokenizer.spec.num_codebooks, 1, dtype=torch.int64))).shape[-1]
    if width != decoder.settings["dim"]:
        raise ValueError(f"vocoder: a code is embedded as {width} numbers, the decoder hears {decoder.settings['dim']}; they must agree")


def side_by_side(hidden_BKND: Tensor) -> Tensor:
    """latent [B, N, K x D]: what the decoder hears of embedded codes."""
    return hidden_BKND.transpose(1, 2).flatten(2)


def load_vocoder(folder: Path) -> VocoderNetwork:
    """The network that `save_vocoder` wrote. Raises ValueError naming what is wrong with either file."""
    network = VocoderNetwork.of(read_settings(folder))
    weights.load(network, folder / WEIGHTS)
    return network


def save_vocoder(network: VocoderNetwork, folder: Path, *, made_for: str, rounded: bool) -> None:
    """Write config.json and model.safetensors; `made_for` as for `Vocoded`, `rounded` as for `weights.save`."""
    folder.mkdir(parents=True, exist_ok=True)
    weights.save(network, folder / WEIGHTS, rounded=rounded)
    files.write_json(folder / CONFIG, network.settings | {"made_for": made_for})
