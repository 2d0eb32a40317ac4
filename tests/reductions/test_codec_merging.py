"""Codec-merging against a loop over codebooks and groups, its holes, and what it does to real codes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from reduction_cases import Codewords, random_codes
from test_requantise import Bands
from torch import Tensor

from audiotok.reductions.merging import CodecMerging
from audiotok.reductions.requantise import CodeVectors
from audiotok.tokenizers.codec import Codec
from audiotok.transforms.base import Layout
from audiotok.transforms.streaming import TransformStream

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "transform"
TOKENIZER = Codewords(12, 9, 7)
SPEC = TOKENIZER.spec
LENGTHS = (0, 1, 2, 3, 4, 7, 12)


def merging(frames: int, codebooks: int | None, tokenizer: Any = TOKENIZER, *, beam: int = 1) -> CodecMerging:
    return CodecMerging(tokenizer, frames=frames, codebooks=codebooks, beam=beam)


EVERY = [merging(2, 1), merging(3, 1), merging(2, 2), merging(4, 3), merging(2, None)]
every_merging = pytest.mark.parametrize("transform", EVERY, ids=repr)


def nearest(hidden_D: Tensor, vectors_VD: Tensor) -> int:
    return int((hidden_D - vectors_VD).square().sum(dim=1).argmin())


def slow_merged(codes_KN: Tensor, frames: int, codebooks: int) -> list[list[int]]:
    """Every codebook's code of every frame after merging."""
    tables = [vectors_VD.double() for vectors_VD in TOKENIZER.vectors]
    left = [sum(table[code] for table, code in zip(tables, codes)) for codes in codes_KN.T.tolist()]
    rows: list[list[int]] = []
    for codebook, table in enumerate(tables):
        width = frames if codebook < codebooks else 1
        rows.append([])
        for start in range(0, len(left), width):
            group = left[start : start + width]
            code = nearest(sum(group) / len(group), table)
            rows[-1] += [code] * len(group)
        left = [hidden_D - table[code] for hidden_D, code in zip(left, rows[-1])]
    return rows


@every_merging
def test_merged_codes_are_those_of_the_loop(transform: CodecMerging) -> None:
    for num_frames in (*LENGTHS[1:], 61):
        codes_KN = random_codes(SPEC, num_frames, seed=num_frames)
        expected = slow_merged(codes_KN, transform.frames, transform.codebooks or 3)
        assert transform.invert(transform.apply(codes_KN, SPEC), SPEC)[:, :num_frames].tolist() == expected


def test_the_picture_of_the_class_is_what_it_makes() -> None:
    codes_KN, transform = random_codes(SPEC, 3), merging(2, 1)
    merged, others = transform.merged(codes_KN)
    (a, b), ((c, d, e), (f, g, h)) = merged[0].tolist(), others.tolist()
    assert transform.apply(codes_KN, SPEC).tolist() == [[a, b], [c, e], [f, h], [d, 9], [g, 7]]
    assert transform.invert(transform.apply(codes_KN, SPEC), SPEC).tolist() == [[a, a, b], [c, d, e], [f, g, h]]
    assert transform.out_spec(SPEC).codebook_sizes == (12, 9, 7, 10, 8)
    assert transform.out_spec(SPEC).frame_rate == 25
    assert transform.sources(SPEC) == ((0,), (1,), (2,), (1,), (2,))


@every_merging
def test_the_number_of_frames_comes_back_where_some_codebooks_are_not_merged(transform: CodecMerging) -> None:
    for num_frames in LENGTHS:
        back_KN = transform.invert(transform.apply(random_codes(SPEC, num_frames), SPEC), SPEC)
        whole = -(-num_frames // transform.frames) * transform.frames
        assert back_KN.shape == (3, num_frames if (transform.codebooks or 3) < 3 else whole)


@every_merging
def test_every_code_is_a_legal_id_and_what_is_drawn_among_them_inverts(transform: CodecMerging) -> None:
    generator = torch.Generator().manual_seed(5)
    assert isinstance(transform, Layout)
    for num_frames in LENGTHS:
        made_KP = transform.apply(random_codes(SPEC, num_frames), SPEC)
        first_KP, end_KP = transform.legal_ids(num_frames, SPEC)
        assert ((first_KP <= made_KP) & (made_KP < end_KP)).all()
        holes_KP = ~transform.legal(num_frames, SPEC)
        assert torch.equal(holes_KP, (end_KP - first_KP) == 1)
        assert (made_KP < torch.tensor(transform.out_spec(SPEC).codebook_sizes)[:, None]).all()
        drawn_KP = first_KP + (torch.rand(first_KP.shape, generator=generator) * (end_KP - first_KP)).long()
        assert transform.invert(drawn_KP, SPEC).shape == transform.invert(made_KP, SPEC).shape
        assert transform.frame_index(num_frames, SPEC).tolist() == list(range(0, num_frames, transform.frames))


@every_merging
def test_merging_streams(transform: CodecMerging) -> None:
    stream, codes_KN = TransformStream(transform, SPEC), random_codes(SPEC, 23)
    state, parts = stream.open(), []
    for piece_KN in codes_KN.split(5, dim=1):
        made_KP, state = stream.push(state, piece_KN)
        parts.append(made_KP)
    assert torch.equal(torch.cat([*parts, stream.close(state)], dim=1), transform.apply(codes_KN, SPEC))


def test_the_paper_s_search_is_greedy_and_a_beam_is_nearer() -> None:
    codes_KN = random_codes(SPEC, 60)
    vectors = CodeVectors.of(TOKENIZER)

    def lost(beam: int) -> float:
        transform = merging(2, 1, beam=beam)
        back_KN = transform.invert(transform.apply(codes_KN, SPEC), SPEC)
        return float((vectors.latent(back_KN) - vectors.latent(codes_KN)).square().mean())

    assert lost(63) < lost(1)  # all pairs of the two other codebooks


def test_fuzzed_streams_invert_or_are_refused_by_position() -> None:
    generator, refused = torch.Generator().manual_seed(3), 0
    for transform in EVERY:
        rows = transform.out_spec(SPEC).num_codebooks
        for _ in range(60):
            fuzzed_KP = torch.randint(-1, 12, (rows, 6), generator=generator).clamp(max=6)
            if torch.rand((), generator=generator) < 0.5:
                fuzzed_KP = fuzzed_KP.clamp(min=0)
            if (fuzzed_KP >= 0).all():
                assert transform.invert(fuzzed_KP, SPEC).shape[0] == 3
                continue
            with pytest.raises(ValueError, match=r"at position \d+ is outside codebook"):
                transform.invert(fuzzed_KP, SPEC)
            refused += 1
    assert 60 < refused < 300


def test_a_stream_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"want torch\.int64 \[5, frames\]"):
        merging(2, 1).invert(torch.zeros(3, 4).long(), SPEC)


def test_what_cannot_be_merged_is_refused() -> None:
    with pytest.raises(ValueError, match="got 1 frames to merge, want 2 or more"):
        merging(1, 1)
    for codebooks in (0, 4):
        with pytest.raises(ValueError, match=f"got {codebooks} codebooks to merge, want 1 to the tokenizer's 3"):
            merging(2, codebooks)
    with pytest.raises(ValueError, match=r"Bands: merging needs residual codebooks.*average2"):
        merging(2, 1, Bands()).apply(torch.zeros(3, 4).long(), Bands.spec)
    with pytest.raises(ValueError, match=r"want the tokenizer's.*put it before"):
        merging(2, 1).out_spec(replace(SPEC, codebook_sizes=(12, 9)))


def test_every_setting_changes_the_fingerprint() -> None:
    made = [merging(2, 1), merging(3, 1), merging(2, 2), merging(2, 1, beam=2), merging(2, 1, Codewords(12, 9, 7, seed=1))]
    assert len({transform.out_spec(SPEC).fingerprint for transform in made}) == len(made)
    assert merging(2, None).out_spec(SPEC) == merging(2, 3).out_spec(SPEC)


@pytest.mark.parametrize(("name", "rows"), [("merge2", 1 + 5 * 2), ("merge2_all", 6)])
def test_merging_speech_loses_less_the_fewer_codebooks_are_merged(name: str, rows: int, wav_16k: Tensor) -> None:
    codec = Codec.from_pretrained("codec_50hz")
    codes_KN = codec.encode(wav_16k[None], torch.tensor([len(wav_16k)]))[0][0]
    config = OmegaConf.load(CONFIGS / f"{name}.yaml")
    del config["tokenizer"]
    transform = instantiate(config, tokenizer=codec)
    made_KP = transform.apply(codes_KN, codec.spec)
    assert made_KP.shape == (rows, -(-codes_KN.shape[1] // 2))
    hidden_ND = transform.vectors.latent(codes_KN)
    back_ND = transform.vectors.latent(transform.invert(made_KP, codec.spec)[:, : codes_KN.shape[1]])
    decibels = 10 * torch.log10((hidden_ND - transform.vectors.centre_D).square().sum() / (back_ND - hidden_ND).square().sum())
    assert (17 if name == "merge2" else 9) < decibels < (21 if name == "merge2" else 13)
