"""The transducer over all alignments: its lattice against torchaudio's loss and the paths written out, its step against its lattice."""

from itertools import combinations

import pytest
import torch
import torchaudio
from small_enhancers import GREEDY, codec, lattice, noisy_batch

from audiotok.models.enhancement.clean_codes import cross_entropy, encoded
from audiotok.models.enhancement.lattice import IMPOSSIBLE, best_path, lattice_loss
from audiotok.synthesis.enhancing import Speaking

inputs = pytest.mark.parametrize(("stride", "band"), [(2, None), (2, 3.0), (1, 2.0), (3, 4.0)])


def made(wav_16k, *lengths, **changes):
    """(model, batch, codes in their layout, positions of each row)."""
    torch.manual_seed(0)
    model, batch = lattice(codec(wav_16k), **changes).eval(), noisy_batch(wav_16k, *lengths)
    codes_BKN, frames_B = encoded(model.codec, batch.clean_BT, batch.lengths_B)
    return model, batch, model.codes.placed(codes_BKN, frames_B), frames_B + model.codes.lag


def lattice_of(model, batch, placed, targets):
    heard = model.hear(batch.noisy_BT, batch.lengths_B, int(targets.max()))
    return heard, model.lattice(heard, model.predict(placed.codes_BKP), placed, targets)


def test_the_lattice_holds_what_the_joiner_says_node_by_node_and_its_loss_is_torchaudios(wav_16k):
    model, batch, placed, targets = made(wav_16k, 2560, 1600, band=None)
    heard, found = lattice_of(model, batch, placed, targets)
    predicted, (rows, labels) = model.predict(placed.codes_BKP), (2, placed.codes_BKP.shape[2])
    logits = torch.empty(rows, heard.shape[1], labels + 1, 34)  # a blank, 32 codes and their pad
    for b in range(rows):
        for n in range(heard.shape[1]):
            for u in range(labels + 1):
                coin = model.going_on(heard[b : b + 1, n : n + 1], predicted[b : b + 1, u : u + 1], (torch.zeros(1, dtype=torch.long),) * 3)
                first = model.joiner(heard[b : b + 1, n : n + 1], predicted[b : b + 1, u : u + 1], placed.codes_BKP[:1, :, :1])[0][0, 0]
                laws = torch.nn.functional.logsigmoid(-coin) + first.log_softmax(-1)
                logits[b, n, u] = torch.cat([torch.nn.functional.logsigmoid(coin), laws])
                if n < found.lengths_B[b] and u < targets[b] and placed.real_BKP[b, 0, u]:
                    assert found.emit_BNU[b, n, u].item() == pytest.approx(laws[placed.codes_BKP[b, 0, u]].item(), abs=1e-4)
    frames = targets - model.codes.lag  # labels of the first codebook alone: torchaudio knows no label without a code
    cut = [found.blank_BNU[..., : frames.max() + 1], found.emit_BNU[..., : frames.max()]]
    ours = lattice_loss(*cut, found.lengths_B, frames, allowed_BNU=None)
    said = (placed.codes_BKP[:, 0, : frames.max()] + 1).clamp_min(0).int()
    theirs = torchaudio.functional.rnnt_loss(
        logits[:, :, : frames.max() + 1].contiguous(), said, found.lengths_B.int(), frames.int(), blank=0, reduction="none"
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_the_best_path_is_the_likeliest_of_all_written_out(seed):
    scores = torch.randn(3, 4, 4, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    blank, emit = scores[..., 0], scores[:, :, :-1, 1]
    lengths, targets = torch.tensor([4, 2, 1]), torch.tensor([3, 3, 2])
    found = best_path(blank, emit, lengths, targets)
    for b, (frames, labels) in enumerate(zip(lengths.tolist(), targets.tolist())):
        best = max(
            combinations(range(frames + labels - 1), labels), key=lambda said: written_out(blank[b], emit[b], said, frames, labels)[0]
        )
        assert found[b, :labels].tolist() == written_out(blank[b], emit[b], best, frames, labels)[1]


def written_out(blank, emit, said, frames, labels):
    """(log-probability, frame of each label) of a path that says a label at these moves."""
    n, total, at = 0, 0.0, []
    for move in range(frames + labels - 1):
        total += float(emit[n, len(at)] if move in said else blank[n, len(at)])
        if move in said:
            at.append(n)
        else:
            n += 1
    return total, at


def test_at_equal_rates_and_without_a_band_one_path_is_left_and_its_codes_cost_what_they_do_in_cross_entropy(wav_16k):
    model, batch, placed, targets = made(wav_16k, 3200, 2000, stride=1, band=0.0)
    heard, found = lattice_of(model, batch, placed, targets)
    path = model._path(found)
    assert all(path[b, :count].tolist() == list(range(count)) for b, count in enumerate(targets.tolist()))
    coins = sum((found.emit_BNU[b, n, n] + found.blank_BNU[b, n, n + 1]) for b, count in enumerate(targets.tolist()) for n in range(count))
    logits = model.joiner(heard, model.predict(placed.codes_BKP)[:, :-1], placed.codes_BKP)
    _, values = cross_entropy(logits, placed.codes_BKP, placed.real_BKP)
    total = -lattice_loss(found.blank_BNU, found.emit_BNU, found.lengths_B, targets, allowed_BNU=None).sum()
    torch.testing.assert_close(total, coins)
    codes_alone = sum(
        logits[0][b, n].log_softmax(-1)[placed.codes_BKP[b, 0, n]] for b, k, n in placed.real_BKP.nonzero().tolist() if k == 0
    )
    torch.testing.assert_close(values["first"] * placed.real_BKP[:, 0].sum(), -codes_alone)
    assert float(total.detach()) < float(codes_alone.detach())  # coins are paid for besides
    others = sum(logits[k][b, n].log_softmax(-1)[placed.codes_BKP[b, k, n]] for b, k, n in placed.real_BKP.nonzero().tolist() if k > 0)
    torch.testing.assert_close(model.loss(batch)[1]["nats"], -(total + others) / placed.real_BKP.sum())


@torch.no_grad()
def slowly(model, heard_1ND, codes_KP, targets):
    """(law of the first codebook at each position, likeliest frame of each but the last once its code is known), node by node."""
    frames, rate = -(-targets // model.stride), targets / -(-targets // model.stride)
    predicted, zero = model.predict(codes_KP[None]), torch.zeros(1, dtype=torch.long)

    def allowed(n, u):
        return (
            0 <= n < frames
            and u <= targets
            and (model.said_band is None or rate * n - model.said_band <= u <= rate * (n + 1) + model.said_band)
        )

    arrived, laws, likeliest = {0: 1.0}, [], []
    for u in range(targets):
        reached, leaving, before = 0.0, {}, 0.0
        for n in range(frames):
            if not allowed(n, u):
                reached, before = 0.0, 0.0
                continue
            coin = model.going_on(heard_1ND[:, n : n + 1], predicted[:, u : u + 1], (zero, zero, zero)).sigmoid().item()
            coin = 1.0 if not allowed(n, u + 1) else coin if allowed(n + 1, u) else 0.0
            reached, before = arrived.get(n, 0.0) + before * reached, coin
            leaving[n] = reached * (1 - coin)
        said = {n: model.joiner.first(heard_1ND[:, n : n + 1], predicted[:, u : u + 1], (zero, zero, zero)).softmax(-1)[0] for n in leaving}
        laws.append(sum(leaving[n] * said[n] for n in leaving) / sum(leaving.values()))
        code = int(codes_KP[0, u])
        arrived = {n: weight * (float(said[n][code]) if 0 <= code < 32 else 1.0) for n, weight in leaving.items()}
        likeliest.append(max(arrived, key=arrived.get))
        arrived = {n: weight / sum(arrived.values()) for n, weight in arrived.items()}
    return torch.stack(laws), likeliest


@inputs
def test_stepping_says_the_mean_of_the_nodes_where_the_codes_so_far_may_have_come_to(stride, band, wav_16k):
    model, batch, placed, targets = made(wav_16k, 4000, 6400, stride=stride, band=None, said_band=band)
    heard, found = lattice_of(model, batch, placed, targets)
    step = model.begin(batch.noisy_BT, batch.lengths_B, positions=placed.codes_BKP.shape[2])
    told = torch.nn.functional.pad(placed.codes_BKP[..., :-1], (1, 0), value=-1)
    logits = [torch.cat(each, dim=1) for each in zip(*(step(part) for part in told.split([1, 2, told.shape[2] - 3], dim=2)))]
    at, predicted = step.frames_BP[:, 1:], model.predict(placed.codes_BKP)
    for b, count in enumerate(targets.tolist()):
        frames = at[b, :count].tolist()
        assert frames == sorted(frames) and frames[-1] < found.lengths_B[b]
        laws, likeliest = slowly(model, heard[b : b + 1], placed.codes_BKP[b], count)
        torch.testing.assert_close(logits[0][b, :count].softmax(-1), laws, rtol=1e-3, atol=1e-5)
        assert frames[: count - 1] == [max(likeliest[: u + 1]) for u in range(count - 1)]
        wanted = model.joiner(heard[b : b + 1, frames], predicted[b : b + 1, :count], placed.codes_BKP[b : b + 1, :, :count])
        for stepped, expected in zip(logits[1:], wanted[1:]):
            torch.testing.assert_close(stepped[b, :count], expected[0], rtol=1e-4, atol=1e-4)


def test_a_coin_that_always_falls_one_way_says_all_at_once_or_at_the_end(wav_16k):
    for bias, places in ((-50.0, "first"), (50.0, "last")):
        model, batch, placed, targets = made(wav_16k, 3200, said_band=None)
        torch.nn.init.zeros_(model.going_on.leave.weight)
        torch.nn.init.constant_(model.going_on.leave.bias, bias)
        step = model.begin(batch.noisy_BT, batch.lengths_B, positions=int(targets))
        step(torch.nn.functional.pad(placed.codes_BKP[..., :-1], (1, 0), value=-1))
        wanted = 0 if places == "first" else model.frames_of(int(targets)) - 1
        assert set(step.frames_BP[0, 1:].tolist()) == {wanted}


def test_a_step_that_was_rewound_or_put_or_reordered_goes_on_as_if_it_had_never_been_elsewhere(wav_16k):
    model, batch, placed, _ = made(wav_16k, 6400, 6400)
    told = torch.nn.functional.pad(placed.codes_BKP[..., :11], (1, 0), value=-1)
    plain, moved = (model.begin(batch.noisy_BT, batch.lengths_B, positions=22) for _ in range(2))
    wanted = [plain(told[..., n : n + 1]) for n in range(12)][-1]
    alone = model.begin(batch.noisy_BT[1:], batch.lengths_B[1:], positions=22)
    alone(told[1:, :, :11])
    moved(told[..., :11].flip(0))
    moved.rewind(torch.tensor([0, 0]))
    moved(told[..., :11])
    moved.put(1, alone)
    moved.reorder(torch.tensor([1, 0]))
    for stepped, expected in zip(moved(told[..., 11:].flip(0)), wanted, strict=True):
        torch.testing.assert_close(stepped, expected.flip(0), rtol=1e-4, atol=1e-4)


def test_a_band_leaves_fewer_nodes_and_costs_what_the_paths_outside_it_were_worth(wav_16k):
    model, batch, placed, targets = made(wav_16k, 6400, band=None)
    losses, nodes = [], []
    for band in (2.0, 5.0, None):
        model.band = band
        _, found = lattice_of(model, batch, placed, targets)
        nodes.append(int((found.blank_BNU > IMPOSSIBLE / 2).sum()))
        losses.append(float(lattice_loss(found.blank_BNU, found.emit_BNU, found.lengths_B, targets, allowed_BNU=None).detach()))
    assert losses[0] > losses[1] > losses[2] and nodes[0] < nodes[1] < nodes[2]


def test_it_speaks_as_many_frames_as_there_are_and_from_one_codebook_too(wav_16k):
    some = codec(wav_16k)
    one = type(some)(some.network, num_codebooks=1)
    model, batch = lattice(one).eval(), noisy_batch(wav_16k, 3200, 1000)
    assert torch.isfinite(model.loss(batch)[0])
    assert [codes.shape for codes in Speaking(model, GREEDY, None, 0).codes(batch.noisy_BT, batch.lengths_B)] == [(1, 10), (1, 4)]


def test_settings_that_do_not_fit_are_refused(wav_16k):
    for wrong in ({"stride": 0}, {"band": -1.0}, {"said_band": -1.0}):
        with pytest.raises(ValueError, match=r"enhancer\.stride is 1 frame or more"):
            lattice(codec(wav_16k), **wrong)
