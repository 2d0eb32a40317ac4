"""What every tokenizer does to a batch: check what came in, work row by row, zero what lies past each length.

Row by row is the price of the first law: a batched matrix product rounds by its shape, and one flipped rounding is another code.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from audiotok.types import TokenSpec


def check_audio(wav_BT: Tensor, lengths_B: Tensor, *, shortest: int = 1) -> None:
    """Raise ValueError unless this is a batch of finite float32 audio whose rows have at least `shortest` samples."""
    if wav_BT.ndim != 2 or wav_BT.dtype != torch.float32:
        got = f"{wav_BT.dtype} of shape {tuple(wav_BT.shape)}"
        raise ValueError(
            f"audio: got {got}; a batch is float32 [batch, samples] in [-1, 1]; add an axis with wav[None], convert with .float()"
        )
    _check_lengths(lengths_B, wav_BT.shape[0], wav_BT.shape[1], noun="samples")
    if (short := int(lengths_B.min())) < shortest:
        raise ValueError(f"audio: a row has {short} samples, this tokenizer needs at least {shortest}; drop utterances that short")
    for row, (wav_T, length) in enumerate(zip(wav_BT, lengths_B.tolist())):
        if not torch.isfinite(wav_T[:length]).all():
            raise ValueError(f"audio: row {row} holds NaN or infinity; repair or drop that recording")


def check_codes(codes_BKN: Tensor, lengths_B: Tensor, spec: TokenSpec) -> None:
    """Raise ValueError unless these are int64 codes of `spec` with valid lengths; what lies past a row's length is not looked at."""
    if codes_BKN.ndim != 3 or codes_BKN.shape[1] != spec.num_codebooks or codes_BKN.dtype != torch.int64:
        got = f"{codes_BKN.dtype} of shape {tuple(codes_BKN.shape)}"
        raise ValueError(f"codes: got {got}; this tokenizer decodes int64 [batch, {spec.num_codebooks}, frames]")
    _check_lengths(lengths_B, codes_BKN.shape[0], codes_BKN.shape[2], noun="frames")
    sizes_K1 = torch.tensor(spec.codebook_sizes, device=codes_BKN.device)[:, None]
    for row, (codes_KN, length) in enumerate(zip(codes_BKN, lengths_B.tolist())):
        if ((codes_KN[:, :length] < 0) | (codes_KN[:, :length] >= sizes_K1)).any():
            raise ValueError(f"codes: row {row} holds ids outside 0..size-1; invert the transform, and drop special ids, before decoding")


def encode_rows(encode: Callable[[Tensor], Tensor], wav_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """(codes_BKN, lengths_B) of `encode(wav_T) -> codes_KN` over the rows, zero past each length."""
    rows = [encode(wav_T[:length]).T for wav_T, length in zip(wav_BT, lengths_B.tolist())]
    frames_B = torch.tensor([len(codes_NK) for codes_NK in rows], device=lengths_B.device)
    return pad_sequence(rows, batch_first=True).transpose(1, 2).contiguous(), frames_B


def decode_rows(decode: Callable[[Tensor], Tensor], codes_BKN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """(wav_BT, lengths_B) of `decode(codes_KN) -> wav_T` over the rows, zero past each length."""
    rows = [decode(codes_KN[:, :length]) for codes_KN, length in zip(codes_BKN, lengths_B.tolist())]
    samples_B = torch.tensor([len(wav_T) for wav_T in rows], device=lengths_B.device)
    return pad_sequence(rows, batch_first=True), samples_B


def _check_lengths(lengths_B: Tensor, rows: int, longest: int, *, noun: str) -> None:
    if lengths_B.shape != (rows,) or lengths_B.dtype != torch.int64:
        raise ValueError(
            f"lengths: got {lengths_B.dtype} of shape {tuple(lengths_B.shape)} for {rows} rows; one int64 count of {noun} a row is wanted"
        )
    if rows == 0 or int(lengths_B.min()) < 1 or int(lengths_B.max()) > longest:
        raise ValueError(
            f"lengths: got {lengths_B.tolist()} {noun} where the batch holds {longest}; each row needs between 1 and {longest}"
        )
