"""Fixed mixes: the ratio that was asked for, a function of the utterance alone, nobody and nothing that training hears."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import MonoCut, Recording, SupervisionSegment
from torch import Tensor

from audiotok import audio, files
from audiotok.data.acoustics import active_power
from audiotok.data.crops import RandomCrops
from audiotok.data.manifests import load_cuts
from audiotok.data.mixes import Mix, Mixer, mix_of, spread, unheard, write_mixes
from audiotok.data.pairs import PairCrops, paired
from audiotok.data.rooms import Rooms, Shoeboxes
from audiotok.data.tokenization import read_cut

RATE = 16000
SHOEBOXES = Shoeboxes(number=5, size=[(3, 5), (3, 5), (2.4, 3)], seconds=(0.1, 0.2), distance=(0.5, 2))
OPTIONS = {"sample_rate": RATE, "kinds": {"recorded": 1.0, "babble": 1.0}, "num_voices": 2, "seed": 5}


@pytest.fixture(scope="module")
def cuts(wav_16k: Tensor, tmp_path_factory: pytest.TempPathFactory) -> list[MonoCut]:
    """Four people say half a second each, one of them twice; the last is noise."""
    folder = tmp_path_factory.mktemp("mixes")
    return [recorded(folder, f"{who}-{number}", piece_T) for number, (who, piece_T) in enumerate(zip("aabcdn", wav_16k.split(8000)))]


def recorded(folder: Path, name: str, wav_T: Tensor) -> MonoCut:
    audio.write(folder / f"{name}.flac", wav_T, RATE)
    cut = Recording.from_file(folder / f"{name}.flac").to_cut()
    cut.id = name
    cut.supervisions = [SupervisionSegment(name, name, 0, cut.duration, speaker=name[0], text="HELLO", language="en")]
    return cut


def mixer(cuts: list[MonoCut], **changes) -> Mixer:
    return Mixer(cuts[5:], cuts[:5], **OPTIONS | {"rooms": rooms(none=1)} | changes)


def rooms(**shares: float) -> Rooms:
    return Rooms(shares, [], SHOEBOXES, sample_rate=RATE, seed=9, setting="mix.rooms")


def ratio(noisy_T: Tensor, clean_T: Tensor) -> float:
    noise = float((noisy_T - clean_T).double().square().mean())
    return 10 * np.log10(active_power(clean_T, RATE) / noise)


@pytest.mark.parametrize("kind", ["recorded", "babble", "white", "pink", "brown"])
@pytest.mark.parametrize("snr", [-5.0, 15.0])
def test_a_mix_stands_at_the_ratio_that_was_asked_for(cuts: list[MonoCut], kind: str, snr: float) -> None:
    made = mixer(cuts, kinds={kind: 1.0}).mix(cuts[0], snr)
    assert ratio(made.noisy_T, made.clean_T) == pytest.approx(snr, abs=0.05)
    assert made.noise.startswith(kind) and made.snr == snr and made.id == f"a-0_{snr:g}dB"


def test_a_mix_is_the_same_in_any_order_and_another_for_another_seed_utterance_or_ratio(cuts: list[MonoCut]) -> None:
    forward, backward = mixer(cuts), mixer(cuts)
    first = [forward.mix(cut, 0.0) for cut in cuts[:5]]
    again = [backward.mix(cut, 0.0) for cut in reversed(cuts[:5])][::-1]
    assert all(torch.equal(one.noisy_T, other.noisy_T) and one.noise == other.noise for one, other in zip(first, again))
    noise_T = first[0].noisy_T - first[0].clean_T
    for other in (mixer(cuts, seed=6).mix(cuts[0], 0.0), forward.mix(cuts[0], 0.5), first[1]):
        other_T = (other.noisy_T - other.clean_T)[: len(noise_T)]
        assert abs(float(torch.corrcoef(torch.stack([other_T, noise_T[: len(other_T)]]))[0, 1])) < 0.9


def test_an_utterance_is_in_one_room_at_all_ratios_and_what_is_wanted_is_dry(cuts: list[MonoCut]) -> None:
    some = mixer(cuts, rooms=rooms(none=1, simulated=1))
    mixes = {cut.id: [some.mix(cut, snr) for snr in (0.0, 40.0)] for cut in cuts[:5]}
    assert all(quiet.room == loud.room for quiet, loud in mixes.values())
    assert {one.room is None for one, _ in mixes.values()} == {True, False}
    for cut in cuts[:5]:
        _, quiet = mixes[cut.id]
        clean_T = read_cut(cut, RATE)
        torch.testing.assert_close(quiet.clean_T, clean_T * (quiet.clean_T.abs().max() / clean_T.abs().max()))
        if quiet.room is not None:
            assert quiet.room.startswith("simulated: ") and ratio(quiet.noisy_T, quiet.clean_T) < 25  # what is left is the room's


def test_a_pair_is_a_mix_of_which_nothing_is_known_and_is_cut_alike(cuts: list[MonoCut], tmp_path: Path) -> None:
    clean_T = read_cut(cuts[0], RATE)
    both = [recorded(tmp_path, f"{kind}_a", wav_T) for kind, wav_T in (("noisy", 0.9 * clean_T + 0.01), ("clean", clean_T))]
    (pair,) = paired(both, noisy="noisy_", clean="clean_")
    made = mix_of(pair, RATE)
    assert (made.id, made.snr, made.noise, made.room) == ("clean_a", None, None, None)
    torch.testing.assert_close(made.clean_T, clean_T, rtol=0, atol=2**-15)
    torch.testing.assert_close(made.noisy_T, 0.9 * clean_T + 0.01, rtol=0, atol=2**-15)
    write_mixes(tmp_path / "out", [made], RATE)
    assert next(files.read_jsonl(tmp_path / "out" / "noisy" / "utterances.jsonl"))["snr"] is None
    speech = RandomCrops(
        [pair.clean], RATE, seconds=0.1, batch_size=4, balance=1.0, speeds=[0.9, 1.1], gain_db=(-9, -3), cache_hours=1, seed=2
    )
    crops = PairCrops(speech, [pair])
    batch = crops.batch(1)
    for noisy_T, clean_T in zip(batch.noisy_BT, batch.clean_BT):
        left_T = noisy_T - 0.9 * clean_T  # a constant, resampled
        assert float(left_T[100:-100].std()) < 0.02 * float(clean_T.std()) and 10 ** (-9 / 20) < float(noisy_T.abs().max()) < 10 ** (
            -3 / 20
        )
    assert torch.equal(next(crops.from_step(1)).noisy_BT, batch.noisy_BT) and batch.lengths_B.tolist() == [1600] * 4


def test_what_is_no_pair_is_refused(cuts: list[MonoCut], tmp_path: Path) -> None:
    noisy, clean = (recorded(tmp_path, f"{kind}_a", torch.rand(samples)) for kind, samples in (("noisy", 800), ("clean", 801)))
    for some, reason in (
        ([clean], "has 'noisy_' in its id"),
        ([noisy], "is there without clean_a"),
        ([noisy, clean], "800 samples at 16000"),
    ):
        with pytest.raises(ValueError, match=reason):
            paired(some, noisy="noisy_", clean="clean_")


def test_nobody_babbles_over_himself(cuts: list[MonoCut]) -> None:
    made = mixer(cuts, kinds={"babble": 1.0}, num_voices=9).mix(cuts[0], 0.0)
    assert made.noise == "babble: b-2, c-3, d-4"


def test_the_clean_recording_is_kept_and_both_are_turned_down_where_the_sum_would_be_clipped(cuts: list[MonoCut]) -> None:
    plain_T = read_cut(cuts[0], RATE)
    assert torch.equal(mixer(cuts, kinds={"white": 1.0}).mix(cuts[0], 40.0).clean_T, plain_T)
    loud = mixer(cuts, kinds={"white": 1.0}).mix(cuts[0], -30.0)
    assert float(loud.noisy_T.abs().max()) == pytest.approx(1.0)
    gain = float(loud.clean_T @ plain_T / (plain_T @ plain_T))
    assert gain < 0.5 and torch.allclose(loud.clean_T, gain * plain_T, atol=1e-6)


def test_who_speaks_in_training_is_not_tested_on(cuts: list[MonoCut]) -> None:
    assert [cut.id for cut in unheard(cuts[:5], [cuts[1], cuts[3]])] == ["b-2", "d-4"]
    with pytest.raises(ValueError, match=r"speaks in the training split too.*mix\.datasets"):
        unheard(cuts[:2], cuts)


def test_speakers_take_turns(cuts: list[MonoCut]) -> None:
    assert [cut.id for cut in spread(reversed(cuts), 5, shortest=0.1, longest=1)] == ["a-0", "b-2", "c-3", "d-4", "n-5"]
    assert [cut.id for cut in spread(cuts, 9, shortest=0.1, longest=1)][-1] == "a-1"
    with pytest.raises(ValueError, match=r"between 2 and 3 s; set mix\.seconds"):
        spread(cuts, 5, shortest=2, longest=3)


def test_what_is_written_is_a_test_set_and_a_system_and_the_same_bytes_again(cuts: list[MonoCut], tmp_path: Path) -> None:
    mixes = [mixer(cuts).mix(cut, snr) for cut in cuts[:2] for snr in (0.0, 10.0)]
    for name in ("one", "two"):
        write_mixes(tmp_path / name, mixes, RATE)
    (tmp_path / "one").rename(tmp_path / "moved")  # as a stage renames what is whole
    contents = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")} for folder in (tmp_path / "moved", tmp_path / "two")
    ]
    assert contents[0] == contents[1] and len(contents[0]) == 2 * 4 + 2
    found = load_cuts(tmp_path / "moved", "test")
    rows = list(files.read_jsonl(tmp_path / "moved" / "noisy" / "utterances.jsonl"))
    assert [row["id"] for row in rows] == [cut.id for cut in found] == [mix.id for mix in mixes]
    for row, cut, mix in zip(rows, found, mixes):
        noisy_T, clean_T = audio.read(tmp_path / "moved" / "noisy" / row["path"])[0], read_cut(cut, RATE)
        assert torch.allclose(clean_T, mix.clean_T, atol=2**-15) and ratio(noisy_T, clean_T) == pytest.approx(mix.snr, abs=0.05)
        assert (row["snr"], row["noise"]) == (cut.custom["snr"], cut.custom["noise"]) == (mix.snr, mix.noise)
        assert (row["text"], row["speaker"], row["language"]) == ("HELLO", "a", "en")


def test_what_there_is_no_sound_for_is_refused(cuts: list[MonoCut], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"thunder is unknown; known are recorded, babble, white"):
        mixer(cuts, kinds={"thunder": 1.0})
    with pytest.raises(ValueError, match=r"set mix\.kinds\.recorded=0"):
        Mixer([], cuts[:5], **OPTIONS, rooms=rooms(none=1))
    with pytest.raises(ValueError, match=r"set mix\.kinds\.babble=0"):
        Mixer(cuts[5:], cuts[:2], **OPTIONS, rooms=rooms(none=1))
    with pytest.raises(ValueError, match="s: a ratio to silence is not defined"):
        mixer(cuts).mix(recorded(tmp_path, "s", torch.zeros(8000)), 0.0)


def test_a_mix_says_what_it_is_of(cuts: list[MonoCut]) -> None:
    made: Mix = mixer(cuts, kinds={"recorded": 1.0}).mix(cuts[2], 2.5)
    assert (made.id, made.noise, made.about.speaker) == ("b-2_2.5dB", "recorded: n-5", "b")
