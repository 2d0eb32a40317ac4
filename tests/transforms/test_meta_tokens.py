"""Meta-tokens against a search that looks at every sequence anew and a reader that goes id by id, and the laws of transforms/base.py."""

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from audiotok.tokenizers.codec import Codec
from audiotok.tokenizers.dmel import DMel
from audiotok.tokenizers.griffin_lim import GriffinLimVocoder
from audiotok.tokenizers.mel import LogMel
from audiotok.transforms.meta_tokens import MetaTokens
from audiotok.transforms.patterns import Flatten
from audiotok.types import TokenSpec

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "transform"

often = settings(deadline=None, max_examples=80, derandomize=True)


def spec_of(*sizes: int) -> TokenSpec:
    return TokenSpec(sample_rate=16_000, frame_rate=Fraction(50), codebook_sizes=sizes, fingerprint="abc")


@st.composite
def utterances(draw: st.DrawFn, most_codes: int) -> tuple[TokenSpec, Tensor]:
    """Few different stretches of frames, again and again, among frames of chance."""
    num_codebooks = draw(st.sampled_from([1, 2, 3, 8, 80]))
    size = draw(st.sampled_from([1, 2, 3, 16, 1024, 65_536]))
    num_frames = draw(st.sampled_from([0, 1, 2, 20, 100, 1000, 10_000])) % (most_codes // num_codebooks + 1)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    codes_KN = torch.randint(size, (num_codebooks, num_frames), generator=generator)
    period = draw(st.integers(1, 9))
    again_N = torch.rand(num_frames, generator=generator) < draw(st.sampled_from([0.0, 0.5, 0.9, 1.0]))
    stretch_KN = codes_KN[:, torch.arange(num_frames) % period]
    return spec_of(*[size] * num_codebooks), torch.where(again_N, stretch_KN, codes_KN)


def slow_places(codes: list[int], sequence: list[int], covered: list[bool]) -> list[int]:
    """Where a sequence stands uncovered, none overlapping another, from left to right."""
    places, free, length = [], 0, len(sequence)
    for at in range(len(codes) - length + 1):
        if at >= free and codes[at : at + length] == sequence and not any(covered[at : at + length]):
            places.append(at)
            free = at + length
    return places


def slow_best(codes: list[int], covered: list[bool], transform: MetaTokens) -> tuple[list[int], list[int]] | None:
    best, most_saved = None, 0
    for length in range(transform.shortest, transform.longest + 1):
        for first in range(len(codes) - length + 1):
            sequence = codes[first : first + length]
            places = slow_places(codes, sequence, covered)
            saved = len(places) * length - (1 + length + len(places))
            if saved > most_saved:
                best, most_saved = (sequence, places), saved
    return best


def slow_encode(codes: list[int], num_base: int, transform: MetaTokens) -> list[int]:
    covered, sequence_at = [False] * len(codes), {}
    for _ in range(transform.meta_tokens):
        best = slow_best(codes, covered, transform)
        if best is None:
            break
        sequence, places = best
        for place in places:
            sequence_at[place] = sequence
            covered[place : place + len(sequence)] = [True] * len(sequence)
    head, body, numbers, at = [], [], {}, 0
    while at < len(codes):
        sequence = sequence_at.get(at)
        if sequence is None:
            body.append(codes[at])
        elif tuple(sequence) not in numbers:
            numbers[tuple(sequence)] = num_base + len(numbers)
            head += [numbers[tuple(sequence)], *sequence]
        if sequence is not None:
            body.append(numbers[tuple(sequence)])
        at += len(sequence or [0])
    whole = [*head, num_base + transform.meta_tokens, *body]
    return whole if len(whole) < len(codes) else codes


class SlowReader:
    """Reads a stream id by id; `wrong` is the position of the first that cannot stand there."""

    def __init__(self, ids: list[int], spec: TokenSpec, transform: MetaTokens) -> None:
        self.ids, self.spec, self.transform = ids, spec, transform
        self.codebook_of = [codebook for codebook, size in enumerate(spec.codebook_sizes) for _ in range(size)]
        self.definitions: list[list[int]] = []
        self.codes: list[int] = []
        self.wrong: int | None = None
        in_dictionary = ids[:1] == [len(self.codebook_of)]
        for position, number in enumerate(ids):
            if in_dictionary:
                in_dictionary = number != len(self.codebook_of) + transform.meta_tokens
                fits = self.dictionary(number)
            else:
                fits = self.body(number)
            if not fits:
                self.wrong = position
                return
        if in_dictionary or len(self.codes) % spec.num_codebooks:
            self.wrong = len(ids)

    def dictionary(self, number: int) -> bool:
        if 0 <= number < len(self.codebook_of):
            written = self.definitions[-1]
            in_turn = not written or self.codebook_of[number] == (self.codebook_of[written[-1]] + 1) % self.spec.num_codebooks
            written.append(number)
            return in_turn and len(written) <= self.transform.longest
        long_enough = not self.definitions or len(self.definitions[-1]) >= self.transform.shortest
        if number == len(self.codebook_of) + self.transform.meta_tokens:
            return bool(self.definitions) and long_enough
        self.definitions.append([])
        return long_enough and number == len(self.codebook_of) + len(self.definitions) - 1

    def body(self, number: int) -> bool:
        if 0 <= number < len(self.codebook_of):
            phrase = [number]
        elif 0 <= number - len(self.codebook_of) < len(self.definitions):
            phrase = self.definitions[number - len(self.codebook_of)]
        else:
            return False
        in_turn = self.codebook_of[phrase[0]] == len(self.codes) % self.spec.num_codebooks
        self.codes += phrase
        return in_turn


@st.composite
def transforms(draw: st.DrawFn) -> MetaTokens:
    shortest = draw(st.sampled_from([2, 3, 5]))
    return MetaTokens(draw(st.sampled_from([1, 2, 8, 300])), shortest=shortest, longest=shortest + draw(st.sampled_from([0, 1, 6, 60])))


def test_the_picture_shows_what_is_done() -> None:
    codes_1N, spec, transform = (
        torch.tensor([[1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 7, 1, 2, 3, 4]]),
        spec_of(10),
        MetaTokens(2, shortest=2, longest=8),
    )
    ids_1M = transform.apply(codes_1N, spec)
    assert ids_1M.tolist() == [[10, 1, 2, 3, 4, 12, 10, 5, 6, 10, 7, 10]]
    assert torch.equal(transform.invert(ids_1M, spec), codes_1N)


@often
@given(utterances(most_codes=60), transforms())
def test_what_is_defined_is_what_saves_most_when_every_sequence_is_looked_at_anew(
    case: tuple[TokenSpec, Tensor], transform: MetaTokens
) -> None:
    spec, codes_KN = case
    flat = Flatten().apply(codes_KN, spec)[0].tolist()
    assert transform.apply(codes_KN, spec)[0].tolist() == slow_encode(flat, sum(spec.codebook_sizes), transform)


@pytest.mark.parametrize("transform", [MetaTokens(30, shortest=2, longest=12), MetaTokens(3, shortest=3, longest=4)], ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_sequences_that_overlap_and_contain_each_other_are_chosen_as_the_slow_search_does(seed: int, transform: MetaTokens) -> None:
    spec, codes_1N = spec_of(2), torch.randint(2, (1, 110), generator=torch.Generator().manual_seed(seed))
    assert transform.apply(codes_1N, spec)[0].tolist() == slow_encode(codes_1N[0].tolist(), 2, transform)


@often
@given(utterances(most_codes=100_000), transforms())
def test_invert_undoes_apply_within_the_out_spec_and_leaves_its_input_alone(case: tuple[TokenSpec, Tensor], transform: MetaTokens) -> None:
    spec, codes_KN = case
    before_KN = codes_KN.clone()
    ids_1M = transform.apply(codes_KN, spec)
    (size,) = transform.out_spec(spec).codebook_sizes
    assert len(ids_1M) == 1 and ids_1M.dtype == torch.int64 and ((ids_1M >= 0) & (ids_1M < size)).all()
    assert ids_1M.shape[1] <= codes_KN.numel()
    again_1M = ids_1M.clone()
    assert torch.equal(transform.invert(ids_1M, spec), codes_KN)
    assert torch.equal(codes_KN, before_KN) and torch.equal(ids_1M, again_1M)


def test_80_codebooks_of_10000_frames_of_silence_shrink_as_far_as_the_longest_definition_lets_them() -> None:
    spec, codes_KN, transform = spec_of(*[65_536] * 80), torch.zeros(80, 10_000, dtype=torch.int64), MetaTokens(300, shortest=2, longest=16)
    ids_1M = transform.apply(codes_KN, spec)
    assert ids_1M.shape[1] == 5 * (1 + 16) + 1 + 50_000  # a frame of 80 is five sequences of 16
    assert torch.equal(transform.invert(ids_1M, spec), codes_KN)


@often
@given(st.integers(0, 2**32), st.sampled_from([(2,), (3, 2), (1, 1, 2)]), st.sampled_from([1, 2, 8]), st.sampled_from([3, 6]))
def test_a_fuzzed_stream_gives_what_the_slow_reader_reads_or_is_refused_where_it_stumbles(
    seed: int, sizes: tuple[int, ...], meta_tokens: int, longest: int
) -> None:
    generator, spec, transform = torch.Generator().manual_seed(seed), spec_of(*sizes), MetaTokens(meta_tokens, shortest=2, longest=longest)
    codes_KN = (torch.rand(len(sizes), 30, generator=generator) ** 3 * torch.tensor(sizes)[:, None]).long()
    ids_1M = transform.apply(codes_KN, spec)
    for position in torch.randint(ids_1M.shape[1], (2,), generator=generator).tolist():
        ids_1M[0, position] = torch.randint(-1, sum(sizes) + meta_tokens + 2, (), generator=generator)
    cut = int(torch.randint(2 * ids_1M.shape[1], (), generator=generator))
    reader = SlowReader(ids_1M[0, :cut].tolist(), spec, transform)
    if reader.wrong is None:
        assert Flatten().apply(transform.invert(ids_1M[:, :cut], spec), spec)[0].tolist() == reader.codes
    else:
        with pytest.raises(ValueError, match=rf"at position {reader.wrong}[, ]"):
            transform.invert(ids_1M[:, :cut], spec)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([5], "id 5 at position 0 cannot stand there, with 0 meta-tokens defined"),  # the second meta-token, none being defined
        ([6], "id 6 at position 0 cannot stand there"),  # the end of no dictionary
        ([0, 4], "id 4 at position 1 cannot stand there"),  # a dictionary behind a code
        ([4, 0, 6], "id 6 at position 2 cannot stand there, in the dictionary behind 1 definitions of 2 to 3"),  # too short
        ([4, 0, 1, 2, 3], "id 3 at position 4 cannot stand there, in the dictionary"),  # too long
        ([4, 0, 1, 4], "id 4 at position 3 cannot stand there, in the dictionary"),  # the same meta-token twice
        ([4, 0, 1], "the stream ends at position 3, within its dictionary"),
        ([4], "the stream ends at position 1, within its dictionary"),
        ([4, 0, 1, 6, 5], "id 5 at position 4 cannot stand there, with 1 meta-tokens defined"),
        ([4, 0, 1, 6, 6], "id 6 at position 4 cannot stand there"),
        ([0, -1], "id -1 at position 1 cannot stand there"),
        ([0, 2**62], "at position 1 cannot stand there"),
    ],
)
def test_each_way_in_which_a_stream_can_be_wrong_is_told_apart(ids: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MetaTokens(2, shortest=2, longest=3).invert(torch.tensor([ids]), spec_of(4))


def test_codebooks_must_take_turns_in_definitions_and_in_the_body() -> None:
    spec, transform = spec_of(4, 9), MetaTokens(2, shortest=2, longest=3)
    assert transform.invert(torch.tensor([[13, 5, 1, 15, 2, 13, 7]]), spec).tolist() == [[2, 1], [1, 3]]
    for ids, position in (([13, 5, 5], 2), ([13, 5, 1, 15, 13], 4), ([0, 0], 1)):
        with pytest.raises(ValueError, match=f"at position {position} cannot stand there"):
            transform.invert(torch.tensor([ids]), spec)
    with pytest.raises(ValueError, match="the stream ends at position 3, within a frame: 3 codes of 2 codebooks"):
        transform.invert(torch.tensor([[0, 5, 1]]), spec)


def test_nothing_is_defined_where_it_would_not_shorten_the_stream() -> None:
    spec, transform = spec_of(30), MetaTokens(5, shortest=2, longest=8)
    for codes in ([1, 2, 1, 2, 1, 2], [1, 2, 3, 9, 1, 2, 3], [1, 2, 3, 4, 1, 2, 3, 4]):  # the last saves one id, which the end takes
        assert transform.apply(torch.tensor([codes]), spec).tolist() == [codes]
    assert transform.apply(torch.tensor([[1, 2, 3, 4, 5, 1, 2, 3, 4, 5]]), spec).tolist() == [[30, 1, 2, 3, 4, 5, 35, 30, 30]]


def test_real_codes_come_back_and_are_written_as_the_slow_search_writes_them(wav_16k: Tensor) -> None:
    transform = MetaTokens(256, shortest=2, longest=8)
    for num_codebooks in (1, 6):
        codec = Codec.from_pretrained("codec_50hz", num_codebooks=num_codebooks)
        codes_KN, spec = codec.encode(wav_16k[None], torch.tensor([len(wav_16k)]))[0][0], codec.spec
        ids_1M = transform.apply(codes_KN, spec)
        assert torch.equal(transform.invert(ids_1M, spec), codes_KN)
        if num_codebooks == 1:
            assert ids_1M[0].tolist() == slow_encode(codes_KN[0].tolist(), spec.codebook_sizes[0], transform)


def test_levels_of_a_real_mel_band_shrink(wav_16k: Tensor) -> None:
    mel = LogMel(sample_rate=16000, n_fft=1024, window=800, hop=400, num_mels=80, low_hz=80, high_hz=7600, floor=1e-10)
    dmel = DMel(mel=mel, low=-7.0, high=2.0, num_levels=16, vocoder=GriffinLimVocoder(iterations=1, momentum=0.99, upsample=4))
    codes_1N, spec = dmel.encode(wav_16k[None], torch.tensor([len(wav_16k)]))[0][0][10:11], spec_of(16)
    ids_1M = MetaTokens(256, shortest=2, longest=8).apply(codes_1N, spec)
    assert ids_1M.shape[1] < 0.9 * codes_1N.shape[1]
    assert torch.equal(MetaTokens(256, shortest=2, longest=8).invert(ids_1M, spec), codes_1N)


def test_codes_that_do_not_fit_the_spec_are_refused() -> None:
    spec, transform = spec_of(4, 9), MetaTokens(2, shortest=2, longest=3)
    for codes_KN in (torch.tensor([[0], [9]]), torch.tensor([[-1], [0]])):
        with pytest.raises(ValueError, match="at position 0 is outside codebook"):
            transform.apply(codes_KN, spec)
    with pytest.raises(ValueError, match=r"want torch\.int64 \[2, frames\]"):
        transform.apply(torch.zeros(3, 2).long(), spec)
    with pytest.raises(ValueError, match=r"want torch\.int64 \[1, frames\]"):
        transform.invert(torch.zeros(2, 8).long(), spec)


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="got 0 meta-tokens, want 1 or more"):
        MetaTokens(0, shortest=2, longest=3)
    for shortest, longest in ((1, 3), (4, 3)):
        with pytest.raises(ValueError, match=f"got definitions of {shortest} to {longest} codes"):
            MetaTokens(2, shortest=shortest, longest=longest)


def test_the_out_spec_says_the_ids_and_the_most_positions_and_marks_each_setting() -> None:
    spec, settings_ = spec_of(10, 20), ((2, 2, 3), (3, 2, 3), (2, 3, 3), (2, 2, 4))
    out = MetaTokens(2, shortest=2, longest=3).out_spec(spec)
    assert out.codebook_sizes == (33,) and out.frame_rate == 100
    assert len({MetaTokens(m, shortest=s, longest=n).out_spec(spec).fingerprint for m, s, n in settings_} | {spec.fingerprint}) == 5


def test_the_config_builds_its_transform() -> None:
    assert instantiate(OmegaConf.load(CONFIGS / "meta_tokens.yaml")) == MetaTokens(256, shortest=2, longest=8)
