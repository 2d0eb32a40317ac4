"""Lyra V2 (SoundStream, arXiv 2107.03312, as released by google/lyra 1.3.2) through LiteRT: 16 kHz, 50 frames a second.

Both networks keep state inside their interpreter, and no call clears it (LiteRT 2.3.0), so each utterance gets new ones. The residual
quantiser is a plain sum of codewords: they are read out of its decoder once, and quantising is then plain arithmetic.
"""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from audiotok import files
from audiotok.tokenizers.base import Reach
from audiotok.tokenizers.batches import check_audio, check_codes, decode_rows, encode_rows
from audiotok.tokenizers.residual import nearest_codes, sum_of_codewords
from audiotok.types import TokenSpec

HOP = 320  # samples
# Samples that the encoder hears before a frame: the buffers of its convolutions, each times its stride.
MEMORY = 48 + 16 * (2 + 6 + 18 + 5) + 80 * (2 + 6 + 18 + 2) + 160 * (2 + 6 + 18 + 2) + 320 * 2
NUM_STAGES = 46
STAGE_SIZE = 16
NUM_PARAMETERS = 670_640 + 46 * 16 * 64 + 671_601  # constants of the encoder, codebooks, constants of the decoder
DIGESTS = {  # SHA-256 of lyra/model_coeffs in google/lyra 1.3.2
    "soundstream_encoder.tflite": "237da0b16226fb0a68d49551c81bebf614e42142af72764448359f68581e88f1",
    "quantizer.tflite": "841ee05989687d32d1f616a8ad1419fc7eda37599d3c05c7cf5a0d60ccf8ac5c",
    "lyragan.tflite": "50e7839cda4f30599a3a34cfaddcd9c98449b049eee884e1a74295780448ad06",
}


class Lyra:
    """Lyra V2 with the first `num_stages` of its 46 stages of 16 codes: 16, 30, 46 are its 3.2, 6.0 and 9.2 kbit/s.

    The codes of the first n stages do not depend on `num_stages`. Audio past the last whole frame is completed with zeros.
    """

    num_parameters = NUM_PARAMETERS

    def __init__(self, folder: str | Path | None, *, num_stages: int) -> None:
        """Raises ValueError where the weights are absent or not those of google/lyra 1.3.2."""
        if not 1 <= num_stages <= NUM_STAGES:
            raise ValueError(f"lyra: got num_stages={num_stages}; it has 1 to {NUM_STAGES} (16, 30 and 46 are its official rates)")
        encoder, quantizer, decoder = (_read(folder, name) for name in DIGESTS)
        self._encoder = encoder
        self._decoder = decoder
        self.codebooks_KVD = _codebooks(quantizer)[:num_stages]
        settings = {"kind": "lyra", "weights": DIGESTS, "num_stages": num_stages}
        self.reach = Reach(MEMORY, 0, period=HOP)
        self.spec = TokenSpec(16000, Fraction(50), (STAGE_SIZE,) * num_stages, files.fingerprint(settings))

    def encode(self, wav_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(codes_BKN, lengths_B in frames), coarsest stage first."""
        check_audio(wav_BT, lengths_B)
        return encode_rows(self._encode, wav_BT, lengths_B)

    def decode(self, codes_BKN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(wav_BT, lengths_B in samples), aligned with the input to the sample."""
        check_codes(codes_BKN, lengths_B, self.spec)
        return decode_rows(self._decode, codes_BKN, lengths_B)

    def embed(self, codes_BKN: Tensor) -> Tensor:
        """hidden_BKND, D = 64: each stage's codeword; their sum over K is the latent that is decoded."""
        stages_K1 = torch.arange(self.spec.num_codebooks, device=codes_BKN.device)[:, None]
        return self.codebooks_KVD.to(codes_BKN.device)[stages_K1, codes_BKN]

    def _encode(self, wav_T: Tensor) -> Tensor:
        frames = F.pad(wav_T, (0, -len(wav_T) % HOP)).view(-1, HOP)
        latent_ND = _run(self._encoder, frames.cpu().numpy()[:, None]).to(wav_T.device)
        return nearest_codes(latent_ND, self.codebooks_KVD.to(wav_T.device))

    def _decode(self, codes_KN: Tensor) -> Tensor:
        return self._synthesise(sum_of_codewords(codes_KN, self.codebooks_KVD.to(codes_KN.device)))

    def _synthesise(self, latent_ND: Tensor) -> Tensor:
        return _run(self._decoder, latent_ND.cpu().numpy()[:, None, None]).flatten().clamp(-1, 1).to(latent_ND.device)


def _read(folder: str | Path | None, name: str) -> bytes:
    if folder is None:
        raise ValueError(
            f"lyra: no weights named; set AUDIOTOK_LYRA or tokenizer.folder to a folder with google/lyra's {', '.join(DIGESTS)}"
        )
    path = Path(folder) / name
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; copy lyra/model_coeffs/{name} of google/lyra 1.3.2 there, or name another tokenizer.folder"
        )
    if (found := files.file_digest(path)) != DIGESTS[name]:
        raise ValueError(
            f"{path}: damaged, or not of google/lyra 1.3.2: SHA-256 {found[:12]}..., wanted {DIGESTS[name][:12]}...; copy it again"
        )
    return path.read_bytes()


def _interpreter(weights: bytes) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415
    except ImportError as error:
        raise ValueError("lyra: LiteRT is not installed; pip install 'audiotok[lyra]'") from error
    return Interpreter(model_content=weights, num_threads=1)


def _run(weights: bytes, inputs: np.ndarray) -> Tensor:
    """The outputs of a fresh streaming network over one utterance, [N, D]."""
    interpreter = _interpreter(weights)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]
    outputs = []
    for frame in inputs:
        interpreter.set_tensor(source, frame)
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(target).reshape(-1))
    return torch.from_numpy(np.stack(outputs))


def _codebooks(quantizer: bytes) -> Tensor:
    """Every codeword, [stages, codes, width]: what the quantiser decodes when all other stages are unused (-1)."""
    interpreter = _interpreter(quantizer)
    decode = interpreter.get_signature_runner("decode")
    indices = np.full((NUM_STAGES, 1, 1), -1, dtype=np.int32)
    codewords = []
    for stage in range(NUM_STAGES):
        for code in range(STAGE_SIZE):
            indices[stage] = code
            codewords.append(decode(encoding_indices=indices)["output_0"].reshape(-1).copy())
        indices[stage] = -1
    return torch.from_numpy(np.stack(codewords)).view(NUM_STAGES, STAGE_SIZE, -1)
