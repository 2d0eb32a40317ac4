"""Recordings of any length: a stream in pieces is the file in pieces, and ten minutes take no more memory than one."""

import functools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from small_codec import DIM, decoder, network, residual
from small_codec import encoder as codec_encoder
from small_enhancers import DRAWN, GREEDY, codec, encoder, noisy_batch, transducer

from audiotok import audio
from audiotok.data.complexity import MEMORY_RESET, RESET_PEAK, _largest_resident
from audiotok.models.enhancement.mask import ComplexMask
from audiotok.synthesis.enhanced_files import enhance_file
from audiotok.synthesis.enhancing import Speaking, enhanced
from audiotok.synthesis.long_stream import long_stream
from audiotok.tokenizers.codec import Codec, CodecNetwork

RATE = 16000


@pytest.mark.parametrize("samples", [1, 8000, 8001, 15200, 15201, 21000])
@pytest.mark.parametrize(("overlap", "chunk"), [(800, 500), (800, 3001), (0, 1000), (4000, 40000)])
def test_a_stream_in_pieces_is_the_recording_in_pieces_within_its_latency(samples, overlap, chunk, wav_16k):
    torch.manual_seed(0)
    model = transducer(codec(wav_16k), encoder=encoder(look_ahead=1)).eval()
    wav_T = noisy_batch(wav_16k, 21000).noisy_BT[0, :samples]
    manner = {"seconds": 8000 / RATE, "overlap_seconds": overlap / RATE}
    whole_T = enhanced(Speaking(model, DRAWN, None, 3), wav_T, **manner)
    stream, made, given = long_stream(model, sampler=DRAWN, seed=3, **manner), [], 0
    for start in range(0, samples, chunk):
        made.append(stream.push(wav_T[start : start + chunk]))
        given += len(made[-1])
        assert start + chunk - given <= stream.latency_samples + chunk
    torch.testing.assert_close(torch.cat([*made, stream.close()]), whole_T, rtol=0, atol=1e-5)


def test_a_long_stream_of_nothing_is_nothing_and_pieces_that_overlap_too_much_are_refused(wav_16k):
    model = transducer(codec(wav_16k)).eval()
    stream = long_stream(model, sampler=GREEDY, seed=0, seconds=1.0, overlap_seconds=0.1)
    assert not len(stream.push(wav_16k[:0])) and not len(stream.close())
    with pytest.raises(ValueError, match="at most half a piece"):
        long_stream(model, sampler=GREEDY, seed=0, seconds=1.0, overlap_seconds=0.6)
    with pytest.raises(ValueError, match="NaN or infinity"):
        long_stream(model, sampler=GREEDY, seed=0, seconds=1.0, overlap_seconds=0.1).push(torch.full((10,), torch.nan))


def slow_codec(wav_T):
    """Five frames a second, so that a tiny model says ten minutes in seconds."""
    made = {"encoder": codec_encoder(stride=20), "decoder": decoder(frames=20)}
    torch.manual_seed(0)
    with torch.no_grad():
        quantiser = residual(network(wav_T).encoder(wav_T[None])[0], num_codebooks=2)
    assert quantiser.codebooks_KVD.shape[2] == DIM
    return Codec(CodecNetwork(quantiser=quantiser, **made), num_codebooks=2)


def streamed(wav_T, minutes):
    """(samples given out, whether all were finite) of real speech over and over, pushed two seconds at a time."""
    torch.manual_seed(0)
    tiny = {"width": 16, "layers": 1, "heads": 2, "feed_forward": 16, "dropout": 0.0}
    model = transducer(slow_codec(wav_T), encoder=encoder(look_ahead=1, **tiny), **tiny).eval()
    stream, given, finite = long_stream(model, sampler=GREEDY, seed=0, seconds=4.0, overlap_seconds=0.5), 0, True
    for second in range(0, 60 * minutes, 2):
        made_T = stream.push(wav_T.roll(-second * RATE)[: 2 * RATE])
        given, finite = given + len(made_T), finite and bool(made_T.isfinite().all())
    return given + len(stream.close()), finite


def made_of_a_file(folder, wav_T, minutes):
    """As `streamed`, of a file, by a mask."""
    model = ComplexMask(
        slow_codec(wav_T), n_fft=512, hop=256, loudest=2.0, phase=0.3, width=16, layers=1, heads=2, feed_forward=16, dropout=0.0
    ).eval()
    source, target = (Path(folder) / f"{name}{minutes}.wav" for name in ("in", "out"))
    audio.write(source, wav_T.repeat(-(-60 * minutes * RATE // len(wav_T)))[: 60 * minutes * RATE], RATE)
    enhance_file(model, source, target, seconds=4.0, overlap_seconds=0.5, left_in=0.0, device=torch.device("cpu"))
    made_T, _ = audio.read(target)
    return len(made_T), bool(made_T.isfinite().all())


def peaks(work, wav_N):
    """Of one minute, which also loads what there is to load, and of ten: (what was made, the largest resident set in MB)."""
    torch.set_num_threads(1)
    wav_T, found = torch.from_numpy(wav_N), []
    for minutes in (1, 10):
        MEMORY_RESET.write_text(RESET_PEAK)
        found.append((*work(wav_T, minutes), _largest_resident() / 2**20))
    return found


@pytest.fixture(scope="module")
def apart(wav_16k):
    """`peaks` of a kind of work in a process of its own, whose memory nobody else has grown."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda work: pool.submit(peaks, work, wav_16k.numpy()).result()


needs_linux = pytest.mark.skipif(not MEMORY_RESET.exists(), reason="only Linux tells the peak of a process's memory")


@needs_linux
def test_ten_minutes_streamed_take_no_more_memory_than_one(apart):
    (short, fine, before), (long, fine_too, after) = apart(streamed)
    assert (short, long) == (60 * RATE, 600 * RATE) and fine and fine_too
    assert after - before < 12  # MB; the nine minutes more would be 33 as float32


@needs_linux
def test_ten_minutes_of_a_file_take_the_memory_of_their_samples_alone(apart, tmp_path):
    (short, fine, before), (long, fine_too, after) = apart(functools.partial(made_of_a_file, tmp_path))
    assert (short, long) == (60 * RATE, 600 * RATE) and fine and fine_too
    samples_mb = 9 * 60 * RATE * 4 / 2**20
    assert after - before < 12 * samples_mb  # nine times, most of it what writing a file takes; sixteen where the whole is enhanced at once
