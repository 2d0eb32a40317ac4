"""Tail drop: of each utterance as many of the first codebooks as a target of quality asks for, and no more.

Any first part of a codec's codebooks decodes where the codec has learnt so (nested dropout: One-D-Piece, arXiv 2501.10064; FlexTok, arXiv
2502.13967; the codebook dropout of residual quantisers). How many are needed differs from utterance to utterance.
"""

from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from audiotok.reductions.requantise import CodeVectors
from audiotok.tokenizers.mel import LogMel
from audiotok.transforms.codes import checked, column, marked, shaped
from audiotok.types import TokenSpec

Metric = Literal["latent_snr", "mel_distance"]
BEAM = 64  # of the search for codes that say nothing: wider ones find none nearer to zero


@dataclass(frozen=True, repr=False)
class TailDrop:
    """The fewest first codebooks that are good enough; the others hold the pad id, which is their size before the transform.

    Two of three codebooks are, in every frame of the utterance or, with `frames`, of so many frames at a time:

        1 2 3 4        1 2 3 4            1 2 3 4
        5 6 7 8   ->   5 6 7 8     or     5 6 7 8
        9 0 1 2        _ _ _ _            9 0 _ _

    Good enough is, by `metric`,

    - "latent_snr": latents (the codes' vectors summed) whose error is at least `quality` dB below them, both over the frames in question;
      latents are taken from `CodeVectors.centre_D`, as what all frames share says nothing. Cheap: a sum.
    - "mel_distance": decoded audio whose log-mel spectra differ from those of all codebooks' by at most `quality` dB in the mean. Decodes
      the utterance once for each codebook, and hears the decoder, of which the fingerprint of codes knows nothing.

    What decodes these codes needs all codebooks: `invert` puts those codes in the place of dropped ones whose vectors sum nearest to zero,
    which is what a codec that was told fewer codebooks adds. A position that keeps fewer codebooks than the next says so by its pad ids
    alone; nominal rates count them as any code (`kept` tells the codes that are left).
    """

    tokenizer: Any  # with `embed`; for "mel_distance" with `decode`
    quality: float  # dB
    _: KW_ONLY
    metric: Metric
    frames: int | None  # that are decided on together; None for the whole utterance

    lossless = False

    def __post_init__(self) -> None:
        if self.metric not in ("latent_snr", "mel_distance"):
            raise ValueError(f"got metric={self.metric}, want latent_snr or mel_distance")
        if self.metric == "mel_distance" and not callable(getattr(self.tokenizer, "decode", None)):
            raise ValueError(f"{type(self.tokenizer).__name__} has no `decode`, which mel_distance needs; set metric=latent_snr")
        if self.frames is not None and self.frames < 1:
            raise ValueError(f"got frames={self.frames}, want 1 or more, or null for the whole utterance")
        if not self.vectors.summed:
            raise ValueError(f"{type(self.tokenizer).__name__}: its codebooks do not refine one another, so no first part stands for all")

    @cached_property
    def vectors(self) -> CodeVectors:
        return CodeVectors.of(self.tokenizer)

    @cached_property
    def fillers(self) -> Tensor:
        """int64 [K + 1, K]: of a frame that keeps k codebooks, the codes that stand for the others."""
        rows = torch.zeros(len(self.vectors.vectors) + 1, len(self.vectors.vectors), dtype=torch.int64)
        for kept in range(1, len(self.vectors.vectors)):
            rows[kept, kept:] = filler(self.vectors, kept)
        return rows

    def out_spec(self, spec: TokenSpec) -> TokenSpec:
        first, *others = self._sizes(spec)
        return replace(spec, codebook_sizes=(first, *(size + 1 for size in others)), fingerprint=marked(spec.fingerprint, self))

    def kept(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        """kept_N: how many codebooks each frame keeps, 1 at least."""
        checked(codes_KN, self._sizes(spec))
        chunk_N = torch.arange(codes_KN.shape[1], device=codes_KN.device) // (self.frames or max(codes_KN.shape[1], 1))
        enough = self._latents_enough if self.metric == "latent_snr" else self._spectra_enough
        enough_KC = enough(codes_KN, chunk_N)
        enough_KC[-1] = True
        return (enough_KC.int().argmax(dim=0) + 1)[chunk_N]

    def apply(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        kept_N = self.kept(codes_KN, spec)
        return torch.where(_rank(codes_KN) < kept_N, codes_KN, column(spec.codebook_sizes, like=codes_KN))

    def invert(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        """Codes that decode as the kept ones do. Raises ValueError where a code stands behind a dropped codebook of its frame."""
        first, *others = self._sizes(spec)
        checked(shaped(codes_KN, len(others) + 1), (first, *(size + 1 for size in others)))
        dropped_KN = codes_KN == column((-1, *others), like=codes_KN)
        kept_N = (~dropped_KN).sum(dim=0)
        if (wrong_KN := dropped_KN != (_rank(codes_KN) >= kept_N)).any():
            position = int(wrong_KN.any(dim=0).nonzero()[0])
            raise ValueError(
                f"position {position} keeps a codebook behind one that is dropped: {codes_KN[:, position].tolist()}; drop it too"
            )
        return torch.where(dropped_KN, self.fillers.to(codes_KN.device)[kept_N].T, codes_KN)

    def stands(self, codes_KN: Tensor, spec: TokenSpec) -> Tensor:
        _, *others = self._sizes(spec)
        return codes_KN != column((-1, *others), like=codes_KN)

    def grammar(self, spec: TokenSpec) -> "FirstCodebooks":
        return FirstCodebooks(self._sizes(spec))

    def __repr__(self) -> str:
        settings = f"quality={self.quality!r}, metric={self.metric!r}, frames={self.frames!r}"
        return f"TailDrop({self.tokenizer.spec.fingerprint[:12]}, {settings})"

    def _sizes(self, spec: TokenSpec) -> tuple[int, ...]:
        if spec.codebook_sizes != (wanted := self.tokenizer.spec.codebook_sizes):
            raise ValueError(
                f"got codes of codebooks {spec.codebook_sizes}, want the tokenizer's {wanted}; put tail drop before other transforms"
            )
        return spec.codebook_sizes

    def _latents_enough(self, codes_KN: Tensor, chunk_N: Tensor) -> Tensor:
        """Bool [K, C]: whether the first k + 1 codebooks are good enough in each chunk."""
        vectors = [vectors_VD.to(codes_KN.device)[codes_N] for vectors_VD, codes_N in zip(self.vectors.vectors, codes_KN, strict=True)]
        latent_KND = torch.stack(vectors).cumsum(dim=0)
        centred_ND = latent_KND[-1] - self.vectors.centre_D.to(codes_KN.device)
        signal_C = _sums(centred_ND.square().sum(dim=-1)[None], chunk_N)
        noise_KC = _sums((latent_KND[-1] - latent_KND).square().sum(dim=-1), chunk_N)
        return signal_C >= noise_KC * 10 ** (self.quality / 10)

    def _spectra_enough(self, codes_KN: Tensor, chunk_N: Tensor) -> Tensor:
        """Bool [K, C], as `_latents_enough`."""
        num_codebooks, num_frames = codes_KN.shape
        filled = [
            torch.where(_rank(codes_KN) < kept, codes_KN, self.fillers[kept].to(codes_KN.device)[:, None])
            for kept in range(1, num_codebooks)
        ]
        codes_BKN = torch.stack([*filled, codes_KN])
        if not num_frames:
            return torch.ones(num_codebooks, 0, dtype=torch.bool)
        wav_BT, _ = self.tokenizer.decode(codes_BKN, torch.full((num_codebooks,), num_frames, device=codes_KN.device))
        mel = frame_mel(self.tokenizer.spec)
        log_mel_BNM = torch.stack([mel(wav_T) for wav_T in wav_BT])
        distance_BN = 20 * (log_mel_BNM - log_mel_BNM[-1]).abs().mean(dim=-1).double()
        middle_N = (torch.arange(distance_BN.shape[1], device=chunk_N.device) + 0.5) * mel.hop / float(self.tokenizer.spec.hop)
        chunk_of_spectrum_N = chunk_N[middle_N.long().clamp(max=num_frames - 1)]
        return _sums(distance_BN, chunk_of_spectrum_N) <= self.quality * torch.bincount(chunk_of_spectrum_N)


@dataclass(frozen=True)
class FirstCodebooks:
    """The grammar of `TailDrop`: behind a pad id only pad ids. A state is the codebook in turn, and whether one was dropped before it."""

    sizes: tuple[int, ...]

    def start(self) -> tuple[int, bool]:
        return 0, False

    def legal(self, state: tuple[int, bool]) -> Tensor:
        codebook, dropped = state
        size = self.sizes[codebook]
        if codebook == 0:
            return torch.ones(size, dtype=torch.bool)
        return torch.arange(size + 1) >= (size if dropped else 0)

    def advance(self, state: tuple[int, bool], code: int) -> tuple[int, bool]:
        legal_V = self.legal(state)
        if not (0 <= code < len(legal_V) and legal_V[code]):
            behind = ", behind a dropped one" if state[1] else ""
            raise ValueError(f"code {code} cannot stand in codebook {state[0]} of {len(legal_V)} ids{behind}; choose among `legal`")
        codebook, dropped = (state[0] + 1) % len(self.sizes), code == self.sizes[state[0]]
        return codebook, dropped and codebook > 0

    def complete(self, state: tuple[int, bool]) -> bool:
        return state[0] == 0


def filler(vectors: CodeVectors, kept: int) -> Tensor:
    """int64 [K - kept]: codes of the codebooks behind the first `kept` whose vectors sum nearest to zero."""
    dropped = CodeVectors(vectors.vectors[kept:], summed=True, beam=BEAM)
    return dropped.nearest(torch.zeros(1, dropped.vectors[0].shape[1]))[:, 0]


def frame_mel(spec: TokenSpec) -> LogMel:
    """A spectrum a frame, of 50 ms; the mel bands are those of the project's mel distance at 16 kHz, and as dense at other rates."""
    hop = max(1, round(spec.hop))
    window = max(hop, spec.sample_rate // 20)
    n_fft = 1 << (window - 1).bit_length()
    return LogMel(
        sample_rate=spec.sample_rate, n_fft=n_fft, window=window, hop=hop, num_mels=80, low_hz=0, high_hz=spec.sample_rate / 2, floor=1e-4
    )


def _rank(codes_KN: Tensor) -> Tensor:
    """int64 [K, 1]: the number of each codebook."""
    return torch.arange(codes_KN.shape[0], device=codes_KN.device)[:, None]


def _sums(values_KN: Tensor, chunk_N: Tensor) -> Tensor:
    """[K, C]: over the frames of each chunk."""
    number = int(chunk_N[-1]) + 1 if len(chunk_N) else 0
    return values_KN.new_zeros(values_KN.shape[0], number).index_add(1, chunk_N, values_KN)
