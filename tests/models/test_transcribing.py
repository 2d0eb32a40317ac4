"""Writing down what codes say by the engine: real utterances to the letter, a batch as each alone, and what is refused."""

from functools import partial
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from learning import descend
from speaking import GREEDY, RANDOM, SPEC, tiny_decoder
from test_speech_text import tiny
from tiny import shortest_transcribed

from audiotok import audio, cli
from audiotok.data.aligned import AlignedUtterance, FrontEnd, boundaries, laid_out
from audiotok.data.code_vectors import code_vectors
from audiotok.data.phonemes import SILENCE, PhonemeVocabulary, phonemize
from audiotok.decoding.acceptance import Exact
from audiotok.models.text import Batch
from audiotok.store.schema import Utterance
from audiotok.synthesis.drafting import Nobody
from audiotok.synthesis.scripts import Manner
from audiotok.synthesis.speech import speak
from audiotok.synthesis.transcribing import Transcript, laid_out_codes, transcribe
from audiotok.synthesis.voice import Request, Spoken, Voice
from audiotok.transforms.patterns import Delay, Parallel
from audiotok.transforms.stack import Stack

FRAMES = (6, 11, 9, 2, 7)
LAYOUTS = [Parallel(), Delay(step=1), Stack(frames=2)]
COARSE = ["tokenizer=dmel", "tokenizer.mel.num_mels=20", "tokenizer.mel.hop=800", "tokenizer.vocoder.iterations=2"]  # for speed
CPU = torch.device("cpu")
RATE = 16000
TINY = {"width": 64, "layers": 2, "heads": 2, "feed_forward": 128, "text_layers": 1, "dropout": 0.0}
UNSPOILT = dict.fromkeys(("replace_codes", "blank_frames", "own_history", "anonymous", "unconditional"), 0.0)
OF_TRAINING = ("masked_history", "masked_speech", "blank_letters")


def stored(id: str, codes_KN: torch.Tensor, text: str | None = None) -> Utterance:
    return Utterance(id, codes_KN, codes_KN.shape[1] * 320, text, None, "en", codes_KN.shape[1] / 50)


def random_utterances() -> list[Utterance]:
    generator = torch.Generator().manual_seed(0)
    codes = [torch.stack([torch.randint(0, size, (frames,), generator=generator) for size in SPEC.codebook_sizes]) for frames in FRAMES]
    return [stored(f"u{i}", codes_KN) for i, codes_KN in enumerate(codes)]


def written(utterances, model, transform, *, batch_size=2, sampler=RANDOM, seed=0, letters_per_second=50.0) -> dict[str, Transcript]:
    told = {"layout": transform, "spec": SPEC, "sampler": sampler, "seed": seed, "device": CPU}
    made = transcribe(utterances, model, batch_size=batch_size, letters_per_second=letters_per_second, **told)
    return {each.id: each for each in made}


@pytest.mark.parametrize("sampler", [GREEDY, RANDOM], ids=["greedy", "random"])
@pytest.mark.parametrize("transform", LAYOUTS, ids=repr)
def test_a_batch_is_written_down_as_each_of_its_utterances_alone(transform, sampler):
    model, utterances = tiny(transform, seed=3).eval(), random_utterances()
    with torch.no_grad():
        for weight in (each for each in model.decoder.transformer.parameters() if each.ndim == 2):
            weight.mul_(10.0)  # so that what is heard decides
    together = written(utterances, model, transform, batch_size=3, sampler=sampler)
    alone = [written([each], model, transform, sampler=sampler)[each.id] for each in utterances]
    assert [together[each.id] for each in alone] == alone and len({each.text for each in alone}) > 1


def test_what_never_ends_is_cut_at_the_letters_that_its_seconds_allow():
    model = tiny(Parallel()).eval()
    with torch.no_grad():
        model.letter_head.bias[model.letter_end] = -1e4
    made = written(random_utterances(), model, Parallel(), letters_per_second=100.0)
    assert [(len(made[f"u{i}"].text), made[f"u{i}"].ended) for i in range(5)] == [(2 * frames + 1, False) for frames in FRAMES]
    with torch.no_grad():
        model.letter_head.bias[model.letter_end] = 1e4
    assert set(written(random_utterances(), model, Parallel()).values()) == {Transcript(f"u{i}", "", True) for i in range(5)}


def test_codes_are_heard_as_in_training():
    utterances = random_utterances()
    for transform in LAYOUTS:
        codes_KN = laid_out_codes(utterances[1], transform, SPEC)
        holes_KN = ~transform.legal(11, SPEC)
        assert ((codes_KN == -1) == holes_KN).all() and torch.equal(
            codes_KN[~holes_KN], transform.apply(utterances[1].codes_KN, SPEC)[~holes_KN]
        )


def test_nothing_to_write_down_is_nothing_and_a_model_that_does_not_write_is_refused():
    assert written([], tiny(Parallel()).eval(), Parallel()) == {}
    with pytest.raises(
        ValueError, match="CodeDecoder speaks, but writes nothing down; train a model that does, such as model=speech_text_dmel"
    ):
        written(random_utterances(), tiny_decoder(Parallel()), Parallel())


@pytest.fixture(scope="module")
def real(speech: Path) -> tuple[Voice, list[Utterance]]:
    """A voice that has learnt nothing, of the recipe's model made small, and three real utterances."""
    pytest.importorskip("gruut", reason="needs the tts extra")
    changed = [f"model.decoder.{key}={value}" for key, value in (TINY | UNSPOILT).items()]
    cfg = cli.load("prompts/speech_text", [*COARSE, *changed, *(f"model.{key}=0" for key in OF_TRAINING)])
    tokenizer, transform = instantiate(cfg.tokenizer), instantiate(cfg.transform)
    utterances = []
    for row in shortest_transcribed(speech, 3):
        wav_T, rate = audio.read(speech / row["path"])
        assert rate == RATE
        codes_1KN, _ = tokenizer.encode(wav_T[None], torch.tensor([len(wav_T)]))
        utterances.append(stored(Path(row["path"]).stem, codes_1KN[0], row["text"]))
    front_end = FrontEnd(PhonemeVocabulary.of([_phonemes(each.text) for each in utterances]), ("reader",), ("en",))
    torch.manual_seed(0)
    model = instantiate(cfg.model, _partial_=True)(
        spec=transform.out_spec(tokenizer.spec),
        num_phonemes=len(front_end.vocabulary),
        num_speakers=1,
        num_languages=1,
        vectors=partial(code_vectors, tokenizer, transform),
    )
    return Voice(model, front_end, transform, tokenizer), utterances


def _phonemes(text: str) -> list[str]:
    return [SILENCE, *(phoneme for word in phonemize(text, "en") for phoneme in word)]


def _aligned(utterance: Utterance, voice: Voice) -> AlignedUtterance:
    phonemes = _phonemes(utterance.text)
    durations_P = [utterance.num_frames / len(phonemes)] * len(phonemes)
    path = laid_out(boundaries(durations_P, utterance.num_frames), voice.transform, voice.tokenizer.spec)
    line = voice.front_end.line(phonemes, "reader", "en")
    return AlignedUtterance(utterance.id, line, durations_P, path, utterance.codes_KN, utterance.text)


def test_a_tiny_model_learns_three_real_utterances_so_that_it_writes_them_down_and_speaks_them(real):
    voice, utterances = real
    descend(voice.model, Batch.of([_aligned(each, voice) for each in utterances]), steps=170, rate=5e-3)
    voice.model.eval()
    told = {"layout": voice.transform, "spec": voice.tokenizer.spec, "sampler": GREEDY, "seed": 0, "device": CPU}
    made = {each.id: each for each in transcribe(utterances, voice.model, batch_size=2, letters_per_second=30.0, **told)}
    assert {each.id: made[each.id] for each in utterances} == {each.id: Transcript(each.id, each.text.lower(), True) for each in utterances}
    requests = [Request(each.id, each.text, "reader", "en") for each in utterances]
    manner = Manner(5.0, 0.0, None, 2, CPU)
    for each, said in zip(utterances, speak(requests, voice, sampler=GREEDY, seed=0, manner=manner, drafting=Nobody(), rule=Exact())):
        assert isinstance(said, Spoken) and said.codes_KN.shape == each.codes_KN.shape
        assert (said.codes_KN == each.codes_KN).float().mean() > 0.99
