"""Sound as it is spoken: the pieces are the whole, and come before the end."""

import io
from functools import partial
from itertools import pairwise

import pytest
import soundfile
import torch
from test_openings import codes_of, opening
from test_synthesis import GREEDY, SAMPLER, Hold, requests, spoken, voice
from torch import Tensor
from torch.nn import functional as F

from audiotok import audio
from audiotok.decoding.acceptance import Exact
from audiotok.decoding.drafts import Fixed
from audiotok.synthesis import live
from audiotok.synthesis.carrying import carried
from audiotok.synthesis.drafting import Nobody, Repetition
from audiotok.synthesis.live import Piece, Pieces, overheard, stream
from audiotok.synthesis.openings import Lead
from audiotok.synthesis.scripts import Manner
from audiotok.synthesis.speech import PAUSE_SECONDS
from audiotok.synthesis.streaming import FrameStream, SoundStream, comes_in_order, decoder_reach, pcm16, wav_header
from audiotok.synthesis.voice import Failed, Request, Spoken
from audiotok.tokenizers.codec import Codec
from audiotok.transforms.patterns import CoarseFirst, Delay, Flatten, Parallel
from audiotok.transforms.stack import Stack

ORDERLY = [Parallel(), Delay(step=1), Delay(step=2), Flatten(), Stack(frames=2)]
WAYS = [(layout, kind) for kind in ("told", "plain", "pointer") for layout in ORDERLY[:2] + ORDERLY[3:4]] + [
    (Parallel(), "valle"),
    (CoarseFirst(), "told"),
]


class Blurred(Hold):
    """A frame's sound hears the two frames to each side."""

    decode_reach = 2

    def decode(self, codes_BKN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        level_B1N = F.pad(codes_BKN.sum(1, keepdim=True).float(), (2, 2)) / 64
        return sum(level_B1N[:, 0, n : n + codes_BKN.shape[2]] for n in range(5)).repeat_interleave(8, dim=1), lengths_B * 8


def name(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def speaking(transform, kind):
    speaker = voice(transform, kind)
    if kind == "told":
        torch.nn.init.constant_(speaker.model.duration[-1].bias, 1.5)  # some frames a phoneme
    object.__setattr__(speaker, "tokenizer", Blurred())
    return speaker


def streamed(asked, speaker, *, first=None, carry=None, drafting=None, sampler=SAMPLER, max_seconds=2.0, pieces=None):
    return stream(
        asked,
        speaker,
        sampler=sampler,
        seed=0,
        manner=Manner(max_seconds, sampler.temperature, None, 1, torch.device("cpu")),
        drafting=drafting or Nobody(),
        rule=Exact(),
        pieces=pieces or Pieces(4, None),
        first=first or Lead(),
        carry_seconds=carry,
    )


@pytest.mark.parametrize("layout", ORDERLY, ids=name)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_frames_come_as_they_are_settled_and_are_those_of_the_whole(layout, size):
    codes_KN, spec = codes_of(12), Hold.spec
    frames, given = FrameStream(layout, spec, skipped=3), []
    for laid_KN in layout.apply(codes_KN, spec).split(size, dim=1):
        given.append(frames.push(laid_KN))
    found_KN = torch.cat(given, 1)
    assert torch.equal(found_KN, codes_KN[:, 3 : 3 + found_KN.shape[1]])
    assert frames.given == 3 + found_KN.shape[1] and 10 <= frames.given <= 12


@pytest.mark.parametrize("block", [1, 3, 50])
@pytest.mark.parametrize("size", [1, 4, 30])
def test_sound_in_pieces_is_the_sound_of_the_whole_bit_for_bit(block, size):
    codes_KN = codes_of(30)
    sound = SoundStream(Blurred(), reach=2, ahead=None, block=block)
    pieces = [sound.push(some_KN) for some_KN in codes_KN.split(size, dim=1)]
    whole_BT, _ = Blurred().decode(codes_KN[None], torch.tensor([30]))
    assert torch.equal(torch.cat([*pieces, sound.close()]), whole_BT[0])
    assert len(torch.cat(pieces)) == 8 * (28 // block * block)


def test_a_decoder_that_may_not_look_ahead_says_sooner_and_otherwise():
    codes_KN = codes_of(30)
    soon, exact = (SoundStream(Blurred(), reach=2, ahead=ahead, block=1) for ahead in (0, 5))
    assert len(soon.push(codes_KN[:, :10])) == 80 and len(exact.push(codes_KN[:, :10])) == 64
    whole_BT, _ = Blurred().decode(codes_KN[None], torch.tensor([30]))
    rest = SoundStream(Blurred(), reach=2, ahead=0, block=1)
    assert not torch.equal(torch.cat([rest.push(codes_KN), rest.close()]), whole_BT[0])
    with pytest.raises(ValueError, match="blocks of 0 frames"):
        SoundStream(Blurred(), reach=2, ahead=None, block=0)


def test_a_decoder_of_unknown_reach_says_all_at_the_end():
    sound = SoundStream(Hold(), reach=None, ahead=3, block=1)
    assert decoder_reach(Hold()) is None and not len(sound.push(codes_of(30)))
    assert len(sound.close()) == 240


def test_the_codec_hears_as_far_as_is_said_and_in_pieces_sounds_the_same():
    codec = Codec.from_pretrained("codec_50hz")
    reach = decoder_reach(codec)
    codes_1KN = torch.randint(0, 1024, (1, 6, 2 * reach + 41), generator=torch.Generator().manual_seed(0))
    other_1KN, middle = codes_1KN.clone(), reach + 20
    other_1KN[..., middle] = (other_1KN[..., middle] + 1) % 1024
    lengths = torch.tensor([codes_1KN.shape[2]])
    (one_1T, _), (two_1T, _) = codec.decode(codes_1KN, lengths), codec.decode(other_1KN, lengths)
    changed = (one_1T != two_1T)[0].nonzero().flatten() // 320
    assert middle - reach <= int(changed.min()) and int(changed.max()) <= middle + reach
    sound = SoundStream(codec, reach=reach, ahead=None, block=10)
    pieces = [sound.push(codes_1KN[0]), sound.close()]
    assert len(pieces[0]) == 320 * ((codes_1KN.shape[2] - reach) // 10 * 10)
    torch.testing.assert_close(torch.cat(pieces), one_1T[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize(("transform", "kind"), WAYS, ids=name)
@pytest.mark.parametrize("opened", [False, True])
def test_what_is_streamed_is_what_is_spoken_bit_for_bit(transform, kind, opened):
    speaker = speaking(transform, kind)
    first = Lead(opening(speaker)) if opened else Lead()
    for request in requests():
        (whole,) = spoken([request], speaker, max_seconds=2.0, leads={request.id: first})
        pieces = list(streamed([request], speaker, first=first))
        if isinstance(whole, Failed):
            assert pieces[-1] == whole
            continue
        assert all(isinstance(piece, Piece) for piece in pieces)
        assert torch.equal(torch.cat([piece.wav_T for piece in pieces]), whole.wav_T)
        orderly = comes_in_order(transform, Hold.spec) and kind != "valle"
        assert len(pieces) == 1 or orderly


def test_sound_comes_before_the_sentence_is_over():
    speaker = speaking(Delay(step=1), "told")
    pieces = list(streamed(requests()[1:2], speaker))
    assert len(pieces) > 3 and all(len(piece.wav_T) == 32 for piece in pieces[:-1])


def test_who_speaks_ahead_changes_nothing_of_what_is_certain_in_a_stream():
    speaker = speaking(Delay(step=1), "told")
    one, two = (
        torch.cat([piece.wav_T for piece in streamed(requests(), speaker, sampler=GREEDY, drafting=drafting)])
        for drafting in (Nobody(), Repetition(order=1, lengths=Fixed(3)))
    )
    assert torch.equal(one, two)


def test_a_sentence_that_fails_gives_its_reason_in_its_turn_and_the_others_are_heard():
    speaker = speaking(Parallel(), "told")
    asked = [requests()[0], Request("bad", "...", "allison", "en"), requests()[2]]
    pieces = list(streamed(asked, speaker))
    (place,) = [i for i, piece in enumerate(pieces) if isinstance(piece, Failed)]
    assert "nothing to pronounce" in pieces[place].reason
    assert {piece.request.id for piece in pieces[:place]} == {"line0"} and {piece.request.id for piece in pieces[place + 1 :]} == {"line2"}
    (silence,) = [one.wav_T for before, one in pairwise(pieces) if isinstance(before, Failed)]
    assert torch.equal(silence, torch.zeros(round(PAUSE_SECONDS * 400)))


def test_a_sentence_that_does_not_end_is_heard_and_then_reported():
    speaker = speaking(Parallel(), "plain")
    with torch.no_grad():
        speaker.model.bias[speaker.model.end] = -100.0
    *pieces, last = streamed(requests()[:1], speaker, max_seconds=1.0)
    assert isinstance(last, Failed) and "did not end within 1 s" in last.reason and len(pieces) > 1


@pytest.mark.parametrize("kind", ["told", "pointer"])
def test_a_stream_carries_a_sentence_on_as_a_file_does(kind):
    speaker = speaking(Delay(step=1), kind)
    say = partial(spoken, speaker=speaker, max_seconds=2.0)
    text = Request("a", "Press one. Please enter your number. Goodbye.", "allison", "en")
    (whole,) = carried([text], lambda asked, leads: say(asked, leads=leads), voice=speaker, first=Lead(), max_seconds=1.0)
    sentences = [Request(f"a/{n}", part, "allison", "en") for n, part in enumerate(["Press one.", "Please enter your number.", "Goodbye."])]
    pieces = list(streamed(sentences, speaker, carry=1.0))
    assert isinstance(whole, Spoken) and torch.equal(torch.cat([piece.wav_T for piece in pieces]), whole.wav_T)


def test_what_the_engine_raises_is_raised_and_an_engine_that_nobody_hears_stops():
    speaker = speaking(Parallel(), "told")
    plan = live._plan(requests()[1], speaker, Lead(), seed=0, manner=Manner(2.0, 0.9, None, 1, torch.device("cpu")))
    with pytest.raises(FloatingPointError, match="damaged"):
        list(overheard(plan, _broken))
    heard = []

    def endless(plan):
        while True:
            heard.append(1)
            plan.listen(0, torch.zeros(3, 1))
            yield from ()

    listening = overheard(plan, endless)
    next(listening)
    listening.close()  # returns, as the thread ends
    assert heard


def _broken(plan):
    raise FloatingPointError("the weights are damaged")
    yield


def test_a_wav_of_unknown_length_is_read_to_its_end(tmp_path):
    wav_T = torch.linspace(-1.2, 1.2, 1001)
    data = wav_header(16000) + b"".join(pcm16(some_T) for some_T in wav_T.split(100))
    read_T, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    assert rate == 16000 and len(read_T) == 1001
    audio.write(tmp_path / "whole.wav", wav_T.clamp(-1, 1), 16000)
    assert torch.equal(torch.from_numpy(read_T), audio.read(tmp_path / "whole.wav")[0])
    (tmp_path / "piped.wav").write_bytes(data)
    assert torch.equal(audio.read(tmp_path / "piped.wav")[0], torch.from_numpy(read_T))
