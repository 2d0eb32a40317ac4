"""Rules of acceptance where the laws are a trained voice's: sharp, of a thousand codes, most of which are ruled out by the sampler."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from chances import dense, emit, index, joint, overlap, p_value, same_share
from torch import Tensor

from audiotok import cli
from audiotok.data.aligned import boundaries, laid_out
from audiotok.data.code_vectors import code_vectors
from audiotok.decoding import acceptance
from audiotok.decoding.acceptance import Coarse, Exact
from audiotok.decoding.kernels import Hard
from audiotok.decoding.samplers import Sampler
from audiotok.models.text import Path, Text
from audiotok.stages.voices import load_voice
from audiotok.synthesis.voice import Request

POSITIONS = 40  # that both have heard
SAMPLER = Sampler(1.0, 30, None, None, None, None, ">")
SIZE = 1024

Laws = tuple[list[Tensor], list[Tensor]]


@pytest.fixture(scope="module")
def voice() -> Any:
    pytest.importorskip("gruut", reason="phonemes need gruut, of the extra tts")
    return load_voice(cli.load("voice", []))


@pytest.fixture(scope="module")
def laws(voice: Any) -> Laws:
    """Of each codebook the voice's law behind the beginning of a sentence, and the draft's, which is the voice as another speaker."""
    request = [Request("x", "Please hold on the line.", speaker, "en") for speaker in ("prompts_Allison", "prompts_June")]
    text = Text.of([voice.line(each) for each in request])
    ends = boundaries(voice.model.predict_durations(text)[0].tolist(), POSITIONS + 10)
    path = Path.of([laid_out(ends, voice.transform, voice.tokenizer.spec)] * 2)
    step, heard_BKN = voice.model.begin(text, path, positions=POSITIONS + 20), torch.full((2, 6, 1), -1)
    for _ in range(POSITIONS):
        logits = [logits_BNV[:, -1] for logits_BNV in step(heard_BKN)]
        heard_BKN = torch.stack([logits_BV[0, :SIZE].argmax().expand(2) for logits_BV in logits], dim=1)[..., None]
    p_and_q = [SAMPLER.distribution(logits_BV[:, :SIZE], history_BW=torch.empty(2, 0, dtype=torch.int64)) for logits_BV in logits]
    return [law_2V[0] for law_2V in p_and_q], [law_2V[1] for law_2V in p_and_q]


@pytest.mark.parametrize("first", [0, 2, 4])
def test_the_exact_rule_emits_the_voice_s_law(laws: Laws, first: int) -> None:
    p, q = ([law_V.double() for law_V in each[first : first + 2]] for each in laws)
    codes_BK, stood_B = emit(Exact(), p, q)
    assert p_value(index(codes_BK, [SIZE, SIZE]), joint(p)) > 1e-3
    assert same_share(stood_B, overlap(joint(p), joint(q)))
    assert overlap(joint(p), joint(q)) < 0.9


@pytest.mark.parametrize(
    "wrong", [lambda right: -right, lambda right: 2 * right, lambda right: right + 0.2], ids=["inverted", "squared", "scaled"]
)
def test_a_wrong_ratio_is_noticed_in_the_voice_s_law(
    wrong: Callable[[Tensor], Tensor], laws: Laws, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = acceptance.log_ratio
    monkeypatch.setattr(acceptance, "log_ratio", lambda *arguments: wrong(right(*arguments)))
    p, q = ([0.99 * each[0].double() + 0.01 / SIZE] for each in laws)  # an inverted one emits what the sampler rules out
    codes_BK, _ = emit(Exact(), p, q)
    assert p_value(codes_BK[:, 0], p[0]) < 1e-6


@pytest.mark.parametrize("codebook", [1, 3, 5])
def test_the_coarse_rule_emits_the_law_of_the_codec_s_groups(voice: Any, laws: Laws, codebook: int) -> None:
    vectors = [code_vectors(voice.tokenizer, voice.transform)[codebook][:SIZE]]
    rule, (p_V, q_V) = Coarse(Hard(0.4)).bind(vectors), (each[codebook].double() for each in laws)
    assert rule.kernels is not None
    w_SS = dense(rule.kernels[0], SIZE)
    p_c, q_c = w_SS @ p_V, w_SS @ q_V
    safe_p, safe_q = p_c.clamp_min(1e-300), q_c.clamp_min(1e-300)
    law_V = q_V * (w_SS.T @ (torch.minimum(p_c, q_c) / safe_q)) + p_V * (w_SS.T @ ((p_c - q_c).clamp(min=0) / safe_p))
    codes_B1, stood_B = emit(rule, [p_V], [q_V])
    assert p_value(codes_B1[:, 0], law_V) > 1e-3
    assert same_share(stood_B, overlap(p_c, q_c))
    assert overlap(p_c, q_c) >= overlap(p_V, q_V) - 1e-9
