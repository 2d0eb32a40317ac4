"""Enhancement of speech as it comes: the same as of the whole recording, some frames later.

A frame is given out when everything that it hears is there. Behind the end of a frame that is, in this order: the look-ahead of the
encoder, a frame for each codebook that is delayed, and what the codec's decoder hears of later codes.
"""

import torch
from torch import Tensor

from audiotok.decoding.samplers import Sampler, Uniforms, within
from audiotok.decoding.step import NONE
from audiotok.models.enhancement.transducer import Transducer, TransducerStep
from audiotok.synthesis.streaming import decoder_reach
from audiotok.tokenizers.batches import check_audio


class TransducerStream:
    """One recording, pushed in pieces of any length. Its state has room for `max_seconds`; what is drawn is as of `Speaking`."""

    def __init__(self, model: Transducer, *, sampler: Sampler, seed: int, max_seconds: float) -> None:
        """Raises ValueError for repetition-aware sampling, which looks back at more than the model does, and an unknown decoder."""
        if sampler.repetition_window is not None:
            raise ValueError("streaming: repetition-aware sampling is not streamed; set sampling.repetition_window=null")
        self.model, self.spec, self.sampler = model, model.codec.spec, sampler
        reach = decoder_reach(model.codec)
        if reach is None:
            raise ValueError("streaming: the codec does not tell how far its decoder hears; enhance whole files")
        self.hop, self.reach = int(self.spec.hop), reach
        self.max_frames = self.spec.num_frames(round(max_seconds * self.spec.sample_rate))
        positions, device = self.max_frames + model.codes.lag, model.codes.start.device
        self.legal = self._legal(self.max_frames)
        self._uniforms = Uniforms([seed])
        self._wav_T = torch.zeros(0, device=device)
        self._heard, self._given = 0, 0  # frames
        self._codes_KP = torch.zeros(len(model.codes.codebook_sizes), 0, dtype=torch.int64, device=device)
        self._encoder = model.encoder.transformer.cache(1, positions=positions + model.encoder.look_ahead)
        self._step = TransducerStep(model, torch.zeros(1, positions, model.encoder.width, device=device), positions=positions)

    @property
    def latency_samples(self) -> int:
        """How long after a sample has come it is given out, at the latest, whatever the pieces."""
        return (1 + self.reach) * self.hop + self.model.look_ahead_samples

    def push(self, wav_T: Tensor) -> Tensor:
        """The enhanced samples that these ones settle. Raises ValueError for what is no finite audio, or more than there is room for."""
        if len(wav_T):
            check_audio(wav_T[None], torch.tensor([len(wav_T)]))
        if len(self._wav_T) + len(wav_T) > self.max_frames * self.hop:
            raise ValueError(f"streaming: more than {self.max_frames * self.hop} samples came; open the stream with a higher max_seconds")
        self._wav_T = torch.cat([self._wav_T, wav_T.to(self._wav_T)])
        self._hear((len(self._wav_T) - (self.model.encoder.frames.ear.reach.after or 0)) // self.hop)
        self._say(self._heard - self.model.encoder.look_ahead)
        return self._sound(self._codes_KP.shape[1] - self.model.codes.lag - self.reach)

    def close(self) -> Tensor:
        """The enhanced samples that only the end settles."""
        num_frames = self.spec.num_frames(len(self._wav_T))
        if not num_frames:
            return self._wav_T
        self.legal, positions = self._legal(num_frames), num_frames + self.model.codes.lag
        self._hear(positions + self.model.encoder.look_ahead, last=True)
        self._say(positions)
        given = self._given * self.hop
        return self._sound(num_frames)[: len(self._wav_T) - given]

    def _legal(self, num_frames: int) -> tuple[Tensor, Tensor]:
        first_KP, end_KP = self.model.codes.layout.legal_ids(num_frames, self.spec)
        return first_KP.to(self.model.codes.start.device), end_KP.to(self.model.codes.start.device)

    @torch.inference_mode()
    def _hear(self, frames: int, *, last: bool = False) -> None:
        """Let the encoder hear so many frames; behind the `last` ones there is nothing, not even silence."""
        if frames <= self._heard:
            return
        reach = self.model.encoder.frames.ear.reach
        before, after = (-(-(around or 0) // self.hop) for around in (reach.before, reach.after))
        first = max(self._heard - before, 0)
        end = self.spec.num_frames(len(self._wav_T)) if last else frames + after
        wav_1T, ends_1 = self._wav_T[None, first * self.hop :], torch.tensor([(end - first) * self.hop])
        heard_BNS = self.model.encoder.frames(wav_1T, ends_1, max(frames, end) - first)[:, self._heard - first : frames - first]
        hidden_BND = self.model.encoder.hear(heard_BNS, cache=self._encoder)
        place = self._heard - self.model.encoder.look_ahead
        self._step.hear(hidden_BND[:, max(-place, 0) :], first=max(place, 0))
        self._heard = frames

    @torch.inference_mode()
    def _say(self, positions: int) -> None:
        """Choose the codes of the positions up to so many."""
        for position in range(self._codes_KP.shape[1], positions):
            last_KN = self._codes_KP[:, -1:] if position else self._codes_KP.new_full((len(self._codes_KP), 1), NONE)
            numbers_2BK = self._uniforms.draw(len(self._codes_KP)).to(last_KN.device)
            chosen = []
            for k, logits_BNV in enumerate(self._step(last_KN[None])):
                kept_BV = within(logits_BNV[:, 0], self.legal[0][k, position : position + 1], self.legal[1][k, position : position + 1])
                chosen.append(self.sampler.draw(kept_BV, numbers_2BK[..., k], history_BW=None))
            self._codes_KP = torch.cat([self._codes_KP, torch.stack(chosen)], dim=1)

    @torch.inference_mode()
    def _sound(self, frames: int) -> Tensor:
        """The samples up to so many frames that were not given out."""
        if frames <= self._given:
            return self._wav_T[:0]
        codes_KN = self.model.codes.layout.invert(self._codes_KP, self.spec)
        first, last = max(self._given - self.reach, 0), min(frames + self.reach, codes_KN.shape[1])
        heard_1KN = codes_KN[None, :, first:last]
        wav_T = self.model.codec.decode(heard_1KN, torch.tensor([last - first], device=codes_KN.device))[0][0]
        sound_T = wav_T[(self._given - first) * self.hop : (frames - first) * self.hop]
        self._given = frames
        return sound_T
