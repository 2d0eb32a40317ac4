import learning
import pytest
import small_codec
import torch
from torch import Tensor

from audiotok import files
from audiotok.models.code_lm import CodeLanguageModel, CodeNetwork, LikelyCodes
from audiotok.models.codec import Crops
from audiotok.models.posttraining import trained_codec
from audiotok.tokenizers.codec import Codec

SHARES = {"utterances": 1.0, "codes": 1.0, "temperature": 1.0}


def network() -> CodeNetwork:
    torch.manual_seed(0)
    made = CodeNetwork(codebook_sizes=[8, 8, 8], width=16, layers=1, heads=2)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return made


@pytest.fixture
def batch(wav_16k: Tensor) -> Crops:
    return Crops(small_codec.crops(wav_16k, number=4, samples=9600))


def test_a_code_is_told_those_before_it_in_time_and_depth_and_no_others() -> None:
    model, codes_BKN = network(), torch.randint(8, (1, 3, 6), generator=torch.Generator().manual_seed(0))
    logits = torch.stack(model(codes_BKN), dim=1)
    for depth in range(3):
        for frame in range(6):
            changed = codes_BKN.clone()
            changed[0, depth, frame] = (changed[0, depth, frame] + 1) % 8
            heard = (torch.stack(model(changed), dim=1) != logits).any(dim=-1)[0]
            expected = torch.zeros(3, 6, dtype=torch.bool)
            expected[:, frame + 1 :] = True
            expected[depth + 1 :, frame] = True
            assert torch.equal(heard, expected)


def test_codes_are_drawn_from_the_language_models_distribution_in_their_share() -> None:
    model = network()
    codes_BKN = torch.randint(8, (1, 3, 4), generator=torch.Generator().manual_seed(0)).expand(4000, -1, -1)
    torch.manual_seed(0)
    quantiser = type("Quantiser", (), {"codebook_sizes": (8, 8, 8)})()
    drawn = LikelyCodes(model, utterances=1.0, codes=1.0, temperature=0.5)(codes_BKN, quantiser)
    for depth, logits_BNV in enumerate(model(codes_BKN[:1])):
        shares = torch.nn.functional.one_hot(drawn[:, depth], 8).float().mean(dim=0)
        torch.testing.assert_close(shares, (logits_BNV[0] / 0.5).softmax(dim=-1), rtol=0, atol=0.04)
    some = LikelyCodes(model, utterances=0.5, codes=0.3, temperature=100.0)(codes_BKN, quantiser) != codes_BKN
    touched = some.any(dim=(1, 2))
    assert touched.float().mean().item() == pytest.approx(0.5 * (1 - (1 - 0.3 * 7 / 8) ** 12), abs=0.03)
    assert some[touched].float().mean().item() == pytest.approx(0.3 * 7 / 8 / (1 - (1 - 0.3 * 7 / 8) ** 12), abs=0.03)


def test_it_learns_the_codes_of_speech_and_a_decoder_learns_on_from_what_it_draws(batch: Crops, tmp_path) -> None:
    codec = small_codec.model()
    learning.descend(codec, batch, steps=10, rate=5e-3)
    codec.export(tmp_path / "codec")
    tokenizer = Codec.from_pretrained(tmp_path / "codec")
    model = CodeLanguageModel(codec=tokenizer, width=32, layers=1, heads=2)
    seen = learning.descend(model, batch, steps=40, rate=1e-2)
    assert seen[-1]["loss"] < 0.6 * seen[0]["loss"]
    assert all(name.startswith("network.") for name in model.state_dict())
    model.export(tmp_path / "lm")
    corrupt = LikelyCodes.from_pretrained(str(tmp_path / "lm"), codec=str(tmp_path / "codec"), **SHARES)
    decoder = trained_codec(str(tmp_path / "codec"), distance=small_codec.distance(), dropout=0.0, corrupt=corrupt)
    codes_BKN, _ = tokenizer.encode(batch.wav_BT, torch.full((4,), 9600))
    assert 0 < (corrupt(codes_BKN, tokenizer.network.quantiser) != codes_BKN).float().mean() < 0.9
    losses = [parts["mel"] for parts in learning.descend(decoder, batch, steps=25, rate=3e-3)]
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])


def test_a_language_model_of_another_codec_is_refused(batch: Crops, tmp_path) -> None:
    for seed in (0, 1):
        codec = small_codec.model(seed=seed)
        learning.descend(codec, batch, steps=1, rate=1e-3)
        codec.export(tmp_path / f"codec{seed}")
    CodeLanguageModel(codec=Codec.from_pretrained(tmp_path / "codec0"), width=16, layers=1, heads=2).export(tmp_path / "lm")
    with pytest.raises(ValueError, match="of other codes"):
        LikelyCodes.from_pretrained(str(tmp_path / "lm"), codec=str(tmp_path / "codec1"), **SHARES)
    settings = files.read_json(tmp_path / "lm" / "config.json")
    files.write_json(tmp_path / "lm" / "config.json", settings | {"network": {"width": 16}})
    with pytest.raises(ValueError, match="describes no language model of codes"):
        LikelyCodes.from_pretrained(str(tmp_path / "lm"), codec=str(tmp_path / "codec0"), **SHARES)


def test_other_codebooks_and_no_temperature_are_refused() -> None:
    quantiser = type("Quantiser", (), {"codebook_sizes": (8, 4)})()
    with pytest.raises(ValueError, match=r"codebooks \[8, 8, 8\], a quantiser of \[8, 4\]"):
        LikelyCodes(network(), **SHARES)(torch.zeros(1, 2, 3, dtype=torch.int64), quantiser)
    with pytest.raises(ValueError, match="temperature is positive"):
        LikelyCodes(network(), **SHARES | {"temperature": 0.0})
