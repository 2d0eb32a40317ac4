"""The enhancers: what they hear, that they learn, and that the engine's step says what training computes."""

import functools

import pytest
import torch
from learning import descend
from small_codec import mel, network
from small_enhancers import BLOCKS, GREEDY, KINDS, codec, encoder, latents, lattice, make, noisy_batch, transducer

from audiotok.data.code_vectors import code_vectors
from audiotok.data.noisy import NoisyBatch
from audiotok.models.enhancement.clean_codes import cross_entropy, encoded, said_freely
from audiotok.models.enhancement.conformer import ConformerEnhancer
from audiotok.models.enhancement.hearing import CodecEar, Frames, Spectra, begin_from_latents, silenced
from audiotok.models.enhancement.latents import LatentRegressor
from audiotok.models.enhancement.mask import ComplexMask, compressed
from audiotok.models.enhancement.separation import TokenSeparator
from audiotok.models.reconstruction import SpectralDistance
from audiotok.nn.ragged import follow
from audiotok.synthesis.enhancing import Speaking
from audiotok.tokenizers.codec import Codec
from audiotok.training.ema import EMA
from audiotok.transforms.patterns import Parallel

every_kind = pytest.mark.parametrize("kind", KINDS)
every_speaker = pytest.mark.parametrize("kind", ["transducer", "transducer_by_ear", "decoder_only"])
every_speaker_and_lattice = pytest.mark.parametrize("kind", ["transducer", "transducer_by_ear", "decoder_only", "lattice"])


def inputs(codes_BKP):
    """What a step hears so that it foretells these positions."""
    return torch.nn.functional.pad(codes_BKP[..., :-1], (1, 0), value=-1)


def logits_of_whole(model, batch, codes_BKP, num_frames):
    """Of every position, from one pass over the whole recording."""
    if hasattr(model, "joiner"):
        heard = model.hear(batch.noisy_BT, batch.lengths_B, num_frames)
        return model.joiner(heard, model.prediction(model.codes.history(codes_BKP)), codes_BKP)
    hidden_BPD = follow(model.transformer, *model.prompt(batch.noisy_BT, batch.lengths_B), model.codes.history(codes_BKP))
    return model.logits(hidden_BPD, codes_BKP)


@every_kind
def test_the_loss_falls(kind, wav_16k):
    seen = descend(make(kind, codec(wav_16k)), noisy_batch(wav_16k, 6400, 5000), steps=40, rate=3e-3)
    assert sum(each["loss"] for each in seen[-5:]) < 0.9 * sum(each["loss"] for each in seen[:5])


@every_kind
def test_what_stands_past_a_rows_end_changes_no_loss(kind, wav_16k):
    model, batch = make(kind, codec(wav_16k)).eval(), noisy_batch(wav_16k, 6400, 5000)
    spoiled = noisy_batch(wav_16k, 6400, 5000)
    spoiled.noisy_BT[1, 5000:] = 0.5
    spoiled.clean_BT[1, 5000:] = -0.5
    assert torch.equal(model.loss(batch)[0], model.loss(spoiled)[0])


@every_kind
def test_weights_of_the_codec_are_no_weights_of_the_enhancer(kind, wav_16k):
    some = codec(wav_16k)
    model, before = make(kind, some), [weight.clone() for weight in some.network.state_dict().values()]
    descend(model, noisy_batch(wav_16k, 3200), steps=2, rate=1e-2)
    assert all(torch.equal(old, new) for old, new in zip(before, some.network.state_dict().values()))
    assert not {id(weight) for weight in some.network.parameters()} & {id(weight) for weight in model.parameters()}


class Opaque(Codec):
    """As a tokenizer of another program's, which cannot be copied."""

    def __deepcopy__(self, memo):
        raise TypeError("cannot be copied")


@every_kind
def test_the_average_of_the_weights_shares_the_tokenizer_and_no_weight_that_learns(kind, wav_16k):
    some = Opaque(network(wav_16k), num_codebooks=3)
    model = make(kind, some)
    average = EMA(model, decay=0.9).model
    assert average.codec is some
    assert not {id(weight) for weight in average.parameters()} & {id(weight) for weight in model.parameters()}


@every_speaker
@pytest.mark.parametrize("at_once", [1, 3])
def test_stepping_gives_the_logits_of_the_whole_recording(kind, at_once, wav_16k):
    model, batch = make(kind, codec(wav_16k)).eval(), noisy_batch(wav_16k, 6400, 6400)
    codes_BKN, frames_B = encoded(model.codec, batch.clean_BT, batch.lengths_B)
    codes_BKP = model.codes.placed(codes_BKN, frames_B).codes_BKP
    expected = logits_of_whole(model, batch, codes_BKP, codes_BKN.shape[2])
    step = model.begin(batch.noisy_BT, batch.lengths_B, positions=codes_BKP.shape[2])
    for heard_BKN, *places in zip(inputs(codes_BKP).split(at_once, dim=2), *(each.split(at_once, dim=1) for each in expected)):
        for stepped, wanted in zip(step(heard_BKN), places, strict=True):
            torch.testing.assert_close(stepped, wanted, rtol=1e-4, atol=1e-4)


@every_speaker
def test_a_step_that_was_rewound_or_put_or_reordered_goes_on_as_if_it_had_never_been_elsewhere(kind, wav_16k):
    model, batch = make(kind, codec(wav_16k)).eval(), noisy_batch(wav_16k, 6400, 6400)
    heard_BKN = inputs(torch.randint(32, (2, 3, 12)))
    plain, moved = (model.begin(batch.noisy_BT, batch.lengths_B, positions=22) for _ in range(2))
    wanted = [plain(heard_BKN[..., n : n + 1]) for n in range(12)][-1]
    alone = model.begin(batch.noisy_BT[1:], batch.lengths_B[1:], positions=22)
    alone(heard_BKN[1:, :, :11])
    moved(heard_BKN[..., :11].flip(0))
    moved.rewind(torch.tensor([0, 0]))
    moved(heard_BKN[..., :11])
    moved.put(1, alone)
    moved.reorder(torch.tensor([1, 0]))
    for stepped, expected in zip(moved(heard_BKN[..., 11:].flip(0)), wanted, strict=True):
        torch.testing.assert_close(stepped, expected.flip(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("look_ahead", [0, 2])
def test_a_frame_hears_its_look_ahead_and_nothing_later(look_ahead, wav_16k):
    ears = encoder(look_ahead=look_ahead)(hop=320, sample_rate=16000).eval()
    wav_1T, frame = wav_16k[None, 8000 : 8000 + 6400].clone(), 7
    ends = (frame + 1) * 320 + ears.look_ahead_samples
    before = ears(wav_1T, torch.tensor([6400]), 20)
    wav_1T[0, ends:] = 0
    assert torch.equal(ears(wav_1T, torch.tensor([6400]), 20)[:, : frame + 1], before[:, : frame + 1])
    wav_1T[0, ends - 60 :] = 0  # a window is low at its very end
    assert not torch.equal(ears(wav_1T, torch.tensor([6400]), 20)[:, frame], before[:, frame])


def test_codes_are_placed_in_a_delay_row_by_row(wav_16k):
    codes = transducer(codec(wav_16k)).codes
    placed = codes.placed(torch.arange(12).view(1, 3, 4).repeat(2, 1, 1), torch.tensor([4, 2]))
    assert placed.codes_BKP[0].tolist() == [[0, 1, 2, 3, 32, 32], [32, 4, 5, 6, 7, 32], [32, 32, 8, 9, 10, 11]]
    assert placed.codes_BKP[1].tolist() == [[0, 1, 32, 32, -1, -1], [32, 4, 5, 32, -1, -1], [32, 32, 8, 9, -1, -1]]
    assert placed.real_BKP.sum(dim=(1, 2)).tolist() == [12, 6]


def test_in_training_alone_some_of_the_history_is_random_and_some_the_models_own(wav_16k):
    torch.manual_seed(0)
    model = transducer(codec(wav_16k), replace_codes=0.0, own_history=0.5, free_running=0.0)
    codes, batch = model.codes, noisy_batch(wav_16k, 3200)
    placed = codes.placed(torch.zeros(64, 3, 50, dtype=torch.int64), torch.full((64,), 50))
    own = [torch.full((64, 52, 33), -50.0).index_fill_(2, torch.tensor([7]), 50.0)] * 3
    heard = codes.heard(placed, lambda codes_BKP: own, model, batch)
    changed = heard != placed.codes_BKP
    assert 0.4 < float(changed[placed.real_BKP].float().mean()) < 0.6
    assert not changed[~placed.real_BKP].any() and bool((heard[changed] == 7).all())
    codes.replace_codes, codes.own_history = 0.2, 0.0
    spoiled = codes.heard(placed, lambda codes_BKP: own, model, batch)
    assert 0.12 < float((spoiled != placed.codes_BKP)[placed.real_BKP].float().mean()) < 0.28
    assert int(spoiled[placed.real_BKP].max()) == 31 and torch.equal(
        codes.eval().heard(placed, lambda codes_BKP: own, model, batch), placed.codes_BKP
    )


@every_speaker_and_lattice
def test_a_recording_that_is_said_freely_is_what_the_model_says_of_it(kind, wav_16k):
    model, batch = make(kind, codec(wav_16k)).train(), noisy_batch(wav_16k, 6400, 5000)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout):  # of which there is none while it speaks
            layer.p = 0.5
    with torch.no_grad():  # so sure that what is drawn is the likeliest
        (model.joiner.leave_KE if hasattr(model, "joiner") else model.tell.bias.view(3, -1))[:, -1] += 12
    placed = model.codes.placed(*encoded(model.codec, batch.clean_BT, batch.lengths_B))
    said = said_freely(model, batch, placed, rows_B=torch.tensor([False, True]))
    assert model.training and torch.equal(said[:, ~placed.real_BKP[1]], placed.codes_BKP[1:, ~placed.real_BKP[1]])
    wanted = Speaking(model.eval(), GREEDY, None, seed=0).codes(batch.noisy_BT[1:, :5000], batch.lengths_B[1:])[0]
    frames = wanted.shape[1]
    assert torch.equal(model.codes.layout.invert(said[0, :, : frames + model.codes.lag], model.codec.spec), wanted)
    assert not said_freely(model, batch, placed, rows_B=torch.tensor([False, False])).numel()


def test_so_many_recordings_are_said_freely_and_learnt_from(wav_16k):
    model, batch = transducer(codec(wav_16k), replace_codes=0.0, own_history=0.0, free_running=0.75), noisy_batch(wav_16k, *[1600] * 64)
    placed = model.codes.placed(*encoded(model.codec, batch.clean_BT, batch.lengths_B))
    heard = model.codes.heard(placed, lambda codes_BKP: pytest.fail("nothing is foretold after true codes"), model, batch)
    changed_B = (heard != placed.codes_BKP).any(dim=(1, 2))
    assert 0.6 < float(changed_B.float().mean()) < 0.9
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = model.loss(batch)
    loss.backward()
    assert model.training and all(weight.grad is not None for weight in model.prediction.parameters())
    assert torch.equal(model.eval().codes.heard(placed, lambda codes_BKP: [], model, batch), placed.codes_BKP)


def test_cross_entropy_is_the_mean_over_what_stands():
    logits = [torch.randn(2, 3, 5), torch.randn(2, 3, 4)]
    codes = torch.randint(4, (2, 2, 3))
    real = torch.tensor([[[1, 1, 0], [0, 1, 1]], [[1, 0, 0], [0, 1, 0]]], dtype=torch.bool)
    slow = [-logits[k][b, n].log_softmax(-1)[codes[b, k, n]] for b, k, n in real.nonzero().tolist()]
    loss, values = cross_entropy(logits, codes, real)
    torch.testing.assert_close(loss, torch.stack(slow).mean())
    assert 0 <= float(values["right"]) <= 1


def test_a_row_that_says_nothing_of_the_sound_is_as_good_as_nothing_in_the_regression(wav_16k):
    model = latents(codec(wav_16k), sound=0.0, ear=Spectra(mel()), look_ahead=2)
    torch.nn.init.zeros_(model.leave.weight)
    torch.nn.init.zeros_(model.leave.bias)
    assert model.loss(noisy_batch(wav_16k, 6400))[0].item() == pytest.approx(1.0)


def test_a_mask_begins_by_giving_the_recording_back(wav_16k):
    model = ComplexMask(
        codec(wav_16k), n_fft=512, hop=128, loudest=2.0, phase=0.3, width=32, layers=1, heads=2, feed_forward=64, dropout=0.0
    )
    for length in (1, 100, 128, 5001):
        wav_1T = wav_16k[None, 8000 : 8000 + length]
        torch.testing.assert_close(model.enhance(wav_1T, torch.tensor([length])), wav_1T, rtol=1e-4, atol=1e-5)


def test_the_loss_of_a_mask_hears_phases_by_its_share(wav_16k):
    model, batch = make("mask", codec(wav_16k)).eval(), noisy_batch(wav_16k, 6400)
    found, wanted = compressed(model(batch.noisy_BT)), compressed(model.spectrum(batch.clean_BT))
    power = wanted.abs().square().mean()
    phase, magnitude = (found - wanted).abs().square().mean() / power, (found.abs() - wanted.abs()).square().mean() / power
    assert phase.item() > 1.1 * magnitude.item()
    torch.testing.assert_close(model.loss(batch)[0], 2 * (0.3 * phase + 0.7 * magnitude))


@pytest.mark.parametrize("stride", [1, 2])
def test_what_learns_from_a_codecs_ear_begins_with_what_the_codec_hears(stride, wav_16k):
    some = codec(wav_16k)
    wav_1T, frames = wav_16k[None, 8000 : 8000 + 6400], torch.tensor([20])
    heard_BND = some.network.encoder(wav_1T)
    torch.testing.assert_close(latents(some).eval()(wav_1T, frames), heard_BND, rtol=1e-4, atol=1e-4)
    model = lattice(some, stride=stride, encoder=encoder(ear=CodecEar(some), look_ahead=0)).eval()
    told_BNE = model.joiner.guess(model.hear(wav_1T, torch.tensor([6400]), 20))
    mean_BND = heard_BND.unflatten(1, (-1, stride)).mean(dim=2) / model.encoder.frames.ear.unit
    torch.testing.assert_close(told_BNE, torch.nn.functional.pad(mean_BND, (0, 1)), rtol=1e-4, atol=1e-4)
    other = torch.nn.Linear(model.encoder.width, 3)  # of latents of another width
    before = other.weight.clone()
    begin_from_latents(other, model.encoder.frames, dim=3)
    assert torch.equal(other.weight, before)


def test_a_transducer_says_the_codes_of_clean_speech_before_it_has_learnt_anything(wav_16k):
    """In each row of a batch to its very end, though the ear hears further than the codebooks are delayed; in bf16 as well."""
    some = codec(wav_16k)
    model, batch = transducer(some, encoder=encoder(ear=CodecEar(some), look_ahead=0)).eval(), noisy_batch(wav_16k, 6400, 5000)
    clean = NoisyBatch(batch.clean_BT, batch.clean_BT, batch.lengths_B)
    torch.nn.init.constant_(model.joiner.leave_KE[:, -1], 8.0)  # quite sure of it
    for dtype in (torch.float32, torch.bfloat16):
        with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16):
            assert float(model.loss(clean)[1]["right"]) > (0.999 if dtype is torch.float32 else 0.85)


@pytest.mark.parametrize("chained", [True, False])
def test_chained_codebooks_of_a_conformer_make_good_for_the_ones_before_them(chained, wav_16k):
    """Sure of the latents as the codec hears them, untrained: the codec's own codes; each by itself, the first ones alone."""
    some = codec(wav_16k)
    wav_1T, frames = wav_16k[None, 8000 : 8000 + 6400], torch.tensor([20])
    model = ConformerEnhancer(some, ear=CodecEar(some), kernel=7, regression=0.5, chained=chained, **BLOCKS).eval()
    torch.nn.init.constant_(model.tell.bias.view(3, -1)[:, -1], 8.0)
    right_K = (model.codes(wav_1T, frames) == some.encode(wav_1T, torch.tensor([6400]))[0]).float().mean(dim=(0, 2))
    assert right_K[0] == 1
    assert right_K.min() == 1 if chained else right_K[1:].max() < 0.9


def test_the_loss_of_chained_codebooks_is_that_of_each_after_the_true_ones_before_it(wav_16k):
    some, batch = codec(wav_16k), noisy_batch(wav_16k, 6400)
    model = make("conformer", some).eval()
    codes_BKN, frames = some.encode(batch.clean_BT, batch.lengths_B)
    told_NKE = model.told(model.hear(batch.noisy_BT, frames), model.tell)[0]
    vectors = code_vectors(some, Parallel(), alike=False)
    nats, missed = [], []
    for n in range(codes_BKN.shape[2]):
        added = [vectors[k][codes_BKN[0, k, n]] for k in range(3)]
        for k in range(3):
            left_E = torch.cat([told_NKE[n, k, :-1] - sum(added[:k]), told_NKE[n, k, -1:]])
            nats.append(-model.heads.of(k, left_E).log_softmax(-1)[codes_BKN[0, k, n]])
            missed.append((told_NKE[n, k, :-1] - sum(added)).square().sum() / 2)
    torch.testing.assert_close(model.loss(batch)[0], torch.stack(nats).mean() + 0.5 * torch.stack(missed).mean())


def test_what_the_latents_sound_like_is_part_of_their_loss(wav_16k):
    some, batch = codec(wav_16k), noisy_batch(wav_16k, 6400, 5000)
    deaf, hearing = (latents(some, sound=sound).eval() for sound in (0.0, 0.2))
    hearing.load_state_dict(deaf.state_dict())
    (plain, _), (loss, values) = deaf.loss(batch), hearing.loss(batch)
    wav_BT = hearing.enhance(batch.noisy_BT, batch.lengths_B)
    distance = hearing.distance(wav_BT, silenced(batch.clean_BT, batch.lengths_B))["mel"]
    torch.testing.assert_close(values["mel"], distance, rtol=0.02, atol=0.0)  # of a batch, whose shorter row is decoded to its end
    torch.testing.assert_close(loss, plain + 0.2 * values["mel"])


def test_what_a_codecs_ear_hears_of_a_row_does_not_depend_on_its_company(wav_16k):
    ears = encoder(ear=CodecEar(codec(wav_16k)), look_ahead=0)(hop=320, sample_rate=16000).eval()
    wav_BT, ends = wav_16k[8000 : 8000 + 12800].view(2, 6400), torch.tensor([6400, 3200])
    together_BND = ears(wav_BT, ends, 22)
    for row, end in enumerate(ends.tolist()):
        alone_BND = ears(wav_BT[row : row + 1, :end], ends[row : row + 1], 22)
        torch.testing.assert_close(together_BND[row : row + 1], alone_BND, rtol=1e-4, atol=1e-5)


def test_an_ear_that_hears_ahead_is_given_no_more_of_it(wav_16k):
    with pytest.raises(ValueError, match="0 with a codec's ear"):
        encoder(ear=CodecEar(codec(wav_16k)), look_ahead=1)(hop=320, sample_rate=16000)


def test_settings_that_do_not_fit_are_refused(wav_16k):
    some = codec(wav_16k)
    with pytest.raises(ValueError, match="choose a divisor"):
        Frames(Spectra(mel()), 240, sample_rate=16000)
    with pytest.raises(ValueError, match="an ear of that rate"):
        Frames(Spectra(mel()), 480, sample_rate=24000)
    with pytest.raises(ValueError, match="look_ahead"):
        encoder(look_ahead=-1)(hop=320, sample_rate=16000)
    with pytest.raises(ValueError, match="hop at most half"):
        ComplexMask(some, n_fft=512, hop=300, loudest=2.0, phase=0.3, width=32, layers=1, heads=2, feed_forward=64, dropout=0.0)
    with pytest.raises(ValueError, match="residual codebooks"):
        latents(Codec(network(wav_16k, quantiser="scalar"), num_codebooks=None))
    with pytest.raises(ValueError, match=r"enhancer\.distance is of 8000 Hz, and the codec speaks at 16000 Hz"):
        LatentRegressor(some, encoder=encoder(), sound=0.1, distance=SpectralDistance(sample_rate=8000, mel_windows=[512], mel_bands=[40]))
    with pytest.raises(ValueError, match=r"chained=true is of one voice"):
        chained = functools.partial(ConformerEnhancer, ear=Spectra(mel()), kernel=7, regression=0.0, chained=True, **BLOCKS)
        TokenSeparator(some, enhancer=chained, voices=2)
    with pytest.raises(ValueError, match="choose a divisor"):
        ConformerEnhancer(
            some,
            ear=Spectra(mel().__class__(**mel().settings | {"hop": 150})),
            kernel=7,
            width=32,
            layers=1,
            heads=2,
            feed_forward=8,
            dropout=0.0,
            regression=0.0,
            chained=True,
        )
