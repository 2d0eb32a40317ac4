"""Fewer codebooks: the codes that stay are the codec's own, and what fills the others says as little as it can."""

import pytest
import torch

from audiotok.reductions.first_codebooks import Codebooks
from audiotok.reductions.requantise import CodeVectors
from audiotok.tokenizers.codec import Codec
from audiotok.transforms.base import as_layout


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.from_pretrained("codec_50hz", num_codebooks=None)


def test_the_first_codebooks_stay_and_come_back_with_fillers(codec: Codec, wav_16k: torch.Tensor) -> None:
    codes_KN = codec.encode(wav_16k[None], torch.tensor([len(wav_16k)]))[0][0]
    transform = Codebooks(codec, 3)
    made_KN = transform.apply(codes_KN, codec.spec)
    assert torch.equal(made_KN, codes_KN[:3])
    assert transform.out_spec(codec.spec).codebook_sizes == codec.spec.codebook_sizes[:3]
    back_KN = transform.invert(made_KN, codec.spec)
    assert torch.equal(back_KN[:3], made_KN) and back_KN.shape == codes_KN.shape
    assert as_layout(transform).legal_ids(codes_KN.shape[1], codec.spec)[1][:, 0].tolist() == list(codec.spec.codebook_sizes[:3])


def test_the_fillers_say_a_twentieth_of_what_a_code_of_the_first_codebook_left_out_says(codec: Codec) -> None:
    vectors = CodeVectors.of(codec).vectors
    filled_D = sum(vectors_VD[code] for vectors_VD, code in zip(vectors[3:], Codebooks(codec, 3).fillers))
    assert filled_D.square().sum() < 0.05 * vectors[3].square().sum(dim=1).mean()


def test_a_codec_that_is_told_fewer_codebooks_sounds_nearly_the_same(codec: Codec, wav_16k: torch.Tensor) -> None:
    fewer = Codec.from_pretrained("codec_50hz", num_codebooks=3)
    length_B = torch.tensor([len(wav_16k)])
    codes_BKN, frames_B = codec.encode(wav_16k[None], length_B)
    transform = Codebooks(codec, 3)
    filled_KN = transform.invert(transform.apply(codes_BKN[0], codec.spec), codec.spec)
    ours = codec.decode(filled_KN[None], frames_B)[0][0]
    theirs = fewer.decode(codes_BKN[:, :3], frames_B)[0][0]
    all_of_them = codec.decode(codes_BKN, frames_B)[0][0]
    assert (ours - theirs).square().mean() < 0.25 * (all_of_them - theirs).square().mean()


def test_codebooks_that_are_not_there_are_refused(codec: Codec) -> None:
    with pytest.raises(ValueError, match="got kept=7 codebooks, want 1 to 6"):
        Codebooks(codec, 7)
    with pytest.raises(ValueError, match="code 1024 at position 0 is outside codebook 1"):
        Codebooks(codec, 2).invert(torch.tensor([[0], [1024]]), codec.spec)
