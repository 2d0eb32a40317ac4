"""Enhancers of a few thousand weights, over a small codec, and real speech in noise."""

import functools
from typing import Any

import torch
from small_codec import mel, network
from torch import Tensor

from audiotok.data.noisy import NoisyBatch
from audiotok.decoding.samplers import Sampler
from audiotok.models.enhancement.conformer import ConformerEnhancer
from audiotok.models.enhancement.decoder_only import DecoderOnly
from audiotok.models.enhancement.hearing import CausalEncoder, CodecEar, Spectra
from audiotok.models.enhancement.latents import LatentRegressor
from audiotok.models.enhancement.lattice_transducer import LatticeTransducer
from audiotok.models.enhancement.mask import ComplexMask
from audiotok.models.enhancement.separation import MaskSeparator, TokenSeparator
from audiotok.models.enhancement.transducer import Transducer
from audiotok.models.reconstruction import SpectralDistance
from audiotok.synthesis.enhancing import Enhancer, Speaking
from audiotok.tokenizers.codec import Codec

BLOCKS = {"width": 32, "layers": 2, "heads": 2, "feed_forward": 64, "dropout": 0.0}
GREEDY = Sampler(0, None, None, None, None, None, ">")
DRAWN = Sampler(0.8, 10, None, None, None, None, ">")
KINDS = ("transducer", "transducer_by_ear", "lattice", "decoder_only", "conformer", "latents", "mask")


def codec(wav_T: Tensor) -> Codec:
    return Codec(network(wav_T), num_codebooks=3)


def encoder(**changes: Any) -> Any:
    return functools.partial(CausalEncoder, **{"ear": Spectra(mel()), "look_ahead": 2, **BLOCKS} | changes)


def transducer(some: Codec, **changes: Any) -> Transducer:
    own = {
        "delay": 1,
        "from_vectors": True,
        "joint": 16,
        "replace_codes": 0.05,
        "own_history": 0.3,
        "free_running": 0.25,
        "regression": 0.5,
    }
    return Transducer(some, **{"encoder": encoder(), **BLOCKS, **own} | changes)


def lattice(some: Codec, **changes: Any) -> LatticeTransducer:
    own = {
        "stride": 2,
        "band": 3.0,
        "said_band": 3.0,
        "delay": 1,
        "from_vectors": True,
        "joint": 16,
        "replace_codes": 0.05,
        "own_history": 0.3,
        "free_running": 0.25,
        "regression": 0.5,
    }
    return LatticeTransducer(some, **{"encoder": encoder(look_ahead=1), **BLOCKS, **own} | changes)


def latents(some: Codec, *, sound: float = 0.2, **changes: Any) -> LatentRegressor:
    ears = encoder(**{"ear": CodecEar(some), "look_ahead": 0} | changes)
    return LatentRegressor(some, encoder=ears, sound=sound, distance=SpectralDistance(sample_rate=16000, mel_windows=[512], mel_bands=[40]))


def make(kind: str, some: Codec, *, seed: int = 0) -> Any:
    """A model with random weights; those of its heads are large, so that what is heard is told apart."""
    torch.manual_seed(seed)
    makers = {
        "transducer": lambda: transducer(some),
        "transducer_by_ear": lambda: transducer(some, encoder=encoder(ear=CodecEar(some), look_ahead=0)),
        "lattice": lambda: lattice(some),
        "decoder_only": lambda: DecoderOnly(
            some, delay=1, from_vectors=True, replace_codes=0.05, own_history=0.3, free_running=0.25, regression=0.5, **BLOCKS
        ),
        "conformer": lambda: ConformerEnhancer(some, ear=CodecEar(some), kernel=7, regression=0.5, chained=True, **BLOCKS),
        "latents": lambda: latents(some),
        "mask": lambda: ComplexMask(some, n_fft=512, hop=128, loudest=2.0, phase=0.3, **BLOCKS),
    }
    model = makers[kind]()
    with torch.no_grad():  # some layers begin at what changes nothing, and would hide all that lies before them
        for layer in (getattr(model, name, None) for name in ("leave", "tell")):
            if layer is not None:
                layer.weight.add_(torch.randn_like(layer.weight) * layer.in_features**-0.5)
    return model


def separator(kind: str, some: Codec, *, voices: int = 2) -> Any:
    """Of "tokens" or "mask"."""
    torch.manual_seed(0)
    if kind == "tokens":
        return TokenSeparator(
            some,
            enhancer=functools.partial(ConformerEnhancer, ear=Spectra(mel()), kernel=7, regression=0.0, chained=False, **BLOCKS),
            voices=voices,
        )
    return MaskSeparator(some, enhancer=functools.partial(ComplexMask, n_fft=512, hop=128, loudest=2.0, phase=0.3, **BLOCKS), voices=voices)


def enhancer(kind: str, some: Codec, *, sampler: Sampler = GREEDY, beams: int | None = None) -> Enhancer:
    model = make(kind, some).eval()
    return Speaking(model, sampler, beams, seed=3) if kind in ("transducer", "transducer_by_ear", "lattice", "decoder_only") else model


def noisy_batch(wav_T: Tensor, *lengths: int) -> NoisyBatch:
    """Pieces of speech in white noise at about 10 dB, one for each length."""
    torch.manual_seed(5)
    starts = torch.linspace(8000, len(wav_T) - max(lengths), len(lengths)).long().tolist()
    clean = [wav_T[start : start + length] for start, length in zip(starts, lengths)]
    clean_BT = torch.nn.utils.rnn.pad_sequence(clean, batch_first=True)
    noise_BT = torch.randn(clean_BT.shape) * clean_BT.std() * 0.3
    within_BT = torch.arange(clean_BT.shape[1]) < torch.tensor(lengths)[:, None]
    return NoisyBatch(clean_BT + noise_BT * within_BT, clean_BT, torch.tensor(lengths))
