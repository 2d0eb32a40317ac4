"""Noisy recordings made clean: in batches, in pieces and as a stream, whatever the recording."""

import pytest
import torch
from small_codec import mel
from small_enhancers import DRAWN, GREEDY, KINDS, codec, encoder, enhancer, make, noisy_batch, transducer

from audiotok.audio import resample
from audiotok.decoding.beam import search
from audiotok.decoding.samplers import Sampler
from audiotok.models.enhancement.hearing import CodecEar, Spectra
from audiotok.synthesis.enhancement_stream import TransducerStream
from audiotok.synthesis.enhancing import Speaking, enhanced, in_pieces
from audiotok.synthesis.streaming import decoder_reach

every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_a_row_is_as_long_as_it_was_and_does_not_depend_on_the_others(kind, wav_16k):
    one, batch = enhancer(kind, codec(wav_16k)), noisy_batch(wav_16k, 6400, 5001, 320)
    together = one.enhance(batch.noisy_BT, batch.lengths_B)
    assert together.shape == batch.noisy_BT.shape and not together[1, 5001:].any()
    for row, length in enumerate(batch.lengths_B.tolist()):
        alone = one.enhance(batch.noisy_BT[row : row + 1, :length], torch.tensor([length]))
        torch.testing.assert_close(together[row, :length], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["transducer", "decoder_only"])
def test_what_is_drawn_depends_on_the_seed_alone(kind, wav_16k):
    some, batch = codec(wav_16k), noisy_batch(wav_16k, 6400, 3200)
    model = make(kind, some).eval()
    first, again, other = (Speaking(model, DRAWN, None, seed).codes(batch.noisy_BT, batch.lengths_B) for seed in (1, 1, 2))
    assert all(torch.equal(*pair) for pair in zip(first, again))
    assert not all(torch.equal(*pair) for pair in zip(first, other))
    assert [codes_KN.shape for codes_KN in first] == [(3, 20), (3, 10)]


@pytest.mark.parametrize("kind", ["transducer", "decoder_only"])
def test_one_beam_says_what_greedy_decoding_does(kind, wav_16k):
    model, batch = make(kind, codec(wav_16k)).eval(), noisy_batch(wav_16k, 3200, 2000)
    pairs = zip(*(Speaking(model, GREEDY, beams, 0).codes(batch.noisy_BT, batch.lengths_B) for beams in (None, 1)))
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("kind", ["transducer", "decoder_only"])
def test_a_beam_has_the_score_that_its_codes_have_when_they_are_told(kind, wav_16k):
    model, batch = make(kind, codec(wav_16k)).eval(), noisy_batch(wav_16k, 3200)
    for beam in beams_of(model, batch, 6):
        codes_KN = model.codes.layout.invert(beam.codes_KN, model.codes.spec)
        assert beam.score == pytest.approx(likelihood(model, batch, codes_KN), abs=1e-3)


def test_with_a_beam_for_every_prefix_of_a_frame_nothing_is_likelier_than_what_is_found(wav_16k):
    model, batch = make("transducer", codec(wav_16k)).eval(), noisy_batch(wav_16k, 320)
    best = beams_of(model, batch, 32 * 32)[0].score
    some = torch.randint(32, (200, 3, 1), generator=torch.Generator().manual_seed(0))
    greedy = Speaking(model, GREEDY, None, 0).codes(batch.noisy_BT, batch.lengths_B)[0]
    assert best >= max(likelihood(model, batch, codes_KN) for codes_KN in [greedy, *some]) - 1e-4


def beams_of(model, batch, beams):
    limits = model.codes.layout.legal_ids(model.codes.spec.num_frames(int(batch.lengths_B[0])), model.codes.spec)
    step = model.begin(batch.noisy_BT, batch.lengths_B, positions=limits[0].shape[1])
    step.reorder(torch.zeros(beams, dtype=torch.int64))
    return search(step, beams=beams, legal=limits)


def likelihood(model, batch, codes_KN):
    placed = model.codes.placed(codes_KN[None], torch.tensor([codes_KN.shape[1]]))
    step = model.begin(batch.noisy_BT, batch.lengths_B, positions=placed.codes_BKP.shape[2])
    logits = step(torch.nn.functional.pad(placed.codes_BKP[..., :-1], (1, 0), value=-1))
    kept = [each[0, :, :32].log_softmax(-1) for each in logits]  # no pad id where a code stands
    return sum(float(kept[k][n, placed.codes_BKP[0, k, n]]) for _, k, n in placed.real_BKP.nonzero().tolist())


@every_kind
@pytest.mark.parametrize("sound", ["silence", "clipped", "noise", "narrow", "one_sample"])
def test_whatever_the_recording_what_comes_out_is_finite_and_as_long(kind, sound, wav_16k):
    speech_T = wav_16k[8000:14400]
    wav_T = {
        "silence": torch.zeros(6400),
        "clipped": (speech_T * 100).clamp(-1, 1),
        "noise": torch.rand(6400, generator=torch.Generator().manual_seed(1)) * 2 - 1,
        "narrow": resample(resample(speech_T, 16000, 8000), 8000, 16000),
        "one_sample": speech_T[:1],
    }[sound]
    made_T = enhanced(enhancer(kind, codec(wav_16k)), wav_T, seconds=0.3, overlap_seconds=0.05)
    assert made_T.shape == wav_T.shape and bool(torch.isfinite(made_T).all()) and float(made_T.abs().max()) <= 1


@every_kind
def test_what_is_no_finite_audio_is_refused(kind, wav_16k):
    one, spoiled = enhancer(kind, codec(wav_16k)), wav_16k[:640].clone()
    spoiled[3] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        one.enhance(spoiled[None], torch.tensor([640]))
    with pytest.raises(ValueError, match="between 1 and"):
        one.enhance(torch.zeros(1, 0), torch.tensor([0]))


@pytest.mark.parametrize("samples", [1, 39, 40, 100, 101, 161, 1000])
@pytest.mark.parametrize("overlap", [0, 40, 50])
def test_pieces_that_are_left_as_they_are_join_to_the_recording(samples, overlap):
    wav_T, lengths = torch.randn(samples), []
    made_T = in_pieces(lambda piece_T: lengths.append(len(piece_T)) or piece_T, wav_T, piece=100, overlap=overlap)
    torch.testing.assert_close(made_T, wav_T, rtol=1e-5, atol=1e-6)
    assert max(lengths) <= 100 and sum(lengths) == samples + overlap * (len(lengths) - 1)


def test_pieces_that_overlap_too_much_are_refused():
    with pytest.raises(ValueError, match="at most half a piece"):
        in_pieces(torch.clone, torch.zeros(10), piece=10, overlap=6)


def streamed(stream, wav_T, chunk):
    """What is pushed out chunk by chunk, and how far it lags behind at worst."""
    made, given, lag = [], 0, 0
    for start in range(0, len(wav_T), chunk):
        made.append(stream.push(wav_T[start : start + chunk]))
        given += len(made[-1])
        lag = max(lag, min(start + chunk, len(wav_T)) - given)
    return torch.cat([*made, stream.close()]), lag


@pytest.mark.parametrize("sampler", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize(
    ("heard_by", "look_ahead", "chunk"),
    [("mel", 0, 160), ("mel", 2, 1000), ("mel", 2, 40000), ("codec", 0, 160), ("codec", 0, 1000), ("codec", 0, 40000)],
)
def test_a_stream_says_what_the_whole_recording_does_within_its_latency(sampler, heard_by, look_ahead, chunk, wav_16k):
    torch.manual_seed(0)
    some = codec(wav_16k)
    model = transducer(some, encoder=encoder(ear=CodecEar(some) if heard_by == "codec" else Spectra(mel()), look_ahead=look_ahead)).eval()
    wav_T = noisy_batch(wav_16k, 16001).noisy_BT[0]
    whole_T = Speaking(model, sampler, None, 3).enhance(wav_T[None], torch.tensor([len(wav_T)]))[0]
    stream = TransducerStream(model, sampler=sampler, seed=3, max_seconds=2.0)
    made_T, lag = streamed(stream, wav_T, chunk)
    torch.testing.assert_close(made_T, whole_T, rtol=0, atol=1e-5)  # a third of a step of 16 bits
    assert lag <= stream.latency_samples + chunk
    assert chunk > 1000 or stream.latency_samples - 2 * model.encoder.frames.hop <= lag


def test_a_decoder_hears_as_far_as_is_stated(wav_16k):
    some = codec(wav_16k)
    reach, codes = decoder_reach(some), torch.randint(32, (1, 3, 60), generator=torch.Generator().manual_seed(0))
    before = some.decode(codes, torch.tensor([60]))[0][0]
    codes[..., 40:] = (codes[..., 40:] + 1) % 32
    changed = (some.decode(codes, torch.tensor([60]))[0][0] != before).nonzero().min() // 320
    assert 40 - reach <= int(changed) < 40


def test_a_stream_of_nothing_is_nothing_and_one_of_a_sample_a_sample(wav_16k):
    model = transducer(codec(wav_16k)).eval()
    for samples in (0, 1):
        stream = TransducerStream(model, sampler=GREEDY, seed=0, max_seconds=1.0)
        assert not len(stream.push(wav_16k[:samples])) and len(stream.close()) == samples


def test_a_stream_refuses_what_it_has_no_room_for_and_what_it_cannot_do(wav_16k):
    model = transducer(codec(wav_16k)).eval()
    stream = TransducerStream(model, sampler=GREEDY, seed=0, max_seconds=0.1)
    with pytest.raises(ValueError, match="higher max_seconds"):
        stream.push(wav_16k[:3200])
    with pytest.raises(ValueError, match="NaN or infinity"):
        stream.push(torch.full((10,), torch.nan))
    with pytest.raises(ValueError, match="repetition_window=null"):
        TransducerStream(model, sampler=Sampler(1.0, None, None, None, 10, 0.1, ">"), seed=0, max_seconds=1.0)
