"""What the transforms of merged tokens have learnt is kept, belongs to one tokenizer's codes, and is refused where it is not whole."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from merged_cases import codes_with_repeats, spec_of
from safetensors.numpy import load_file, save_file

from audiotok import files
from audiotok.transforms.bpe import Bpe
from audiotok.transforms.expansions import Expansions
from audiotok.transforms.learnt import Learnt
from audiotok.transforms.merges import Merges
from audiotok.transforms.pathpiece import PathPiece
from audiotok.transforms.repair import RePair
from audiotok.transforms.streaming import Causal, TransformStream

SPEC = spec_of(5, 6)
CODES = codes_with_repeats((5, 6), 80, seed=7)
Made = Callable[[Path | None], Bpe | RePair | PathPiece]

KINDS: dict[str, Made] = {
    "bpe": lambda fitted: Bpe(20, False, fitted=fitted),
    "aligned": lambda fitted: Bpe(20, True, fitted=fitted),
    "repair": lambda fitted: RePair(20, 3, fitted=fitted),
    "pathpiece": lambda fitted: PathPiece(Bpe(20, False, fitted=None), 6, fitted=fitted),
}
every_kind = pytest.mark.parametrize("made", KINDS.values(), ids=KINDS.keys())


@pytest.fixture
def folder(made: Made, tmp_path: Path) -> Path:
    transform = made(None)
    transform.fit([CODES], SPEC)
    transform.save(tmp_path / "learnt")
    return tmp_path / "learnt"


@every_kind
def test_what_was_learnt_is_there_again_after_loading(made: Made, folder: Path) -> None:
    fitted, loaded = made(None), made(folder)
    fitted.fit([CODES], SPEC)
    assert (fitted.fitted, loaded.fitted) == (None, folder)
    assert repr(loaded) == repr(fitted) != repr(made(None))
    assert loaded.out_spec(SPEC) == fitted.out_spec(SPEC)
    assert torch.equal(loaded.apply(CODES, SPEC), fitted.apply(CODES, SPEC))
    assert torch.equal(loaded.invert(loaded.apply(CODES, SPEC), SPEC), CODES)


@every_kind
def test_the_name_does_not_tell_where_it_lies(made: Made, folder: Path) -> None:
    moved = folder.rename(folder.with_name("elsewhere"))
    transform = made(moved)
    assert "elsewhere" not in repr(transform) and transform.out_spec(SPEC).fingerprint != SPEC.fingerprint


@every_kind
def test_any_of_their_folders_tells_what_the_tokens_stand_for(made: Made, folder: Path) -> None:
    expansions = Expansions.load(folder / "expansions.safetensors")
    tokens_1N = made(folder).apply(CODES, SPEC)
    assert torch.equal(expansions.invert(tokens_1N, SPEC), CODES) and expansions.longest > 2


@every_kind
@pytest.mark.parametrize("piece", [1, 7, 50])
def test_a_stream_that_comes_in_pieces_becomes_the_same_tokens(made: Made, folder: Path, piece: int) -> None:
    transform, codes_KN = made(folder), codes_with_repeats((5, 6), 120, seed=4)
    assert isinstance(transform, Causal)
    stream, tokens, kept = TransformStream(transform, SPEC), [], 0
    state = stream.open()
    for part_KN in codes_KN.split(piece, dim=1):
        tokens_1N, state = stream.push(state, part_KN)
        tokens.append(tokens_1N)
        kept = max(kept, state.codes_KN.shape[1])
    assert torch.equal(torch.cat([*tokens, stream.close(state)], dim=1), transform.apply(codes_KN, SPEC))
    assert sum(part.shape[1] for part in tokens) > 0 and kept < codes_KN.shape[1] - piece


@every_kind
def test_nothing_can_be_done_before_something_is_learnt(made: Made, tmp_path: Path) -> None:
    for transform in (made(None), made(tmp_path / "still to be made")):
        for act in (
            lambda t: t.out_spec(SPEC), lambda t: t.apply(CODES, SPEC), lambda t: t.invert(CODES[:1], SPEC),
            lambda t: t.grammar(SPEC), lambda t: t.settled(CODES, SPEC), lambda t: t.save(tmp_path / "nothing"),
        ):  # fmt: skip
            with pytest.raises(ValueError, match="has learnt nothing yet; run `audiotok reduce"):
                act(transform)
    assert not (tmp_path / "nothing").exists()


@every_kind
def test_codes_of_another_tokenizer_are_refused_and_both_are_named(made: Made, folder: Path) -> None:
    transform = made(folder)
    for other in (replace(SPEC, fingerprint="xyz"), replace(SPEC, codebook_sizes=(6, 5))):
        for act in (
            transform.out_spec,
            transform.grammar,
            lambda spec: transform.apply(CODES, spec),
            lambda spec: transform.invert(CODES, spec),
        ):
            with pytest.raises(
                ValueError, match=rf"learnt from codes abc of codebooks \[5, 6\] and got codes {other.fingerprint} of codebooks"
            ):
                act(other)


@pytest.mark.parametrize("made", [KINDS["bpe"]])
def test_settings_that_it_was_not_learnt_with_are_refused_by_name(made: Made, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"other settings \(merges: 20 there, 21 now\); learn again"):
        Bpe(21, False, fitted=folder)
    with pytest.raises(ValueError, match=r"kind: 'bpe' there, 'repair' now"):
        RePair(20, 3, fitted=folder)


@pytest.mark.parametrize("made", [KINDS["pathpiece"]])
def test_the_settings_of_its_vocabulary_are_settings_too(made: Made, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"vocabulary.merges: 20 there, 21 now"):
        PathPiece(Bpe(21, False, fitted=None), 6, fitted=folder)


@every_kind
@pytest.mark.parametrize("name", ["config.json", "expansions.safetensors"])
def test_a_folder_that_lacks_a_file_or_has_half_of_one_is_refused(made: Made, folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged"):
        made(folder)
    (folder / name).unlink()
    with pytest.raises(ValueError, match=r"missing|no such file"):
        made(folder)


@every_kind
def test_tables_that_the_record_does_not_describe_are_refused(made: Made, folder: Path) -> None:
    path = folder / "expansions.safetensors"
    tables = load_file(path)
    tables["codes"][0] ^= 1
    save_file(tables, path)
    with pytest.raises(ValueError, match=r"the tables are not those that config\.json describes; learn again"):
        made(folder)


@pytest.mark.parametrize("made", [KINDS["aligned"], KINDS["repair"]])
def test_rules_that_the_record_does_not_describe_are_refused(made: Made, folder: Path) -> None:
    path = folder / "merges.safetensors"
    tables = load_file(path)
    save_file(tables | {"pairs": tables["pairs"][:-1]}, path)
    with pytest.raises(ValueError, match="the tables are not those"):
        made(folder)
    save_file(tables | {"pairs": tables["pairs"] + 100}, path)
    with pytest.raises(ValueError, match="rule 0 joins"):
        made(folder)
    save_file(tables | {"pairs": tables["pairs"].astype(np.int32)}, path)
    with pytest.raises(ValueError, match="pairs of int32"):
        made(folder)


def test_other_rules_are_told_apart_though_their_tokens_stand_for_the_same() -> None:
    first, second = (Learnt(spec_of(3), Merges(np.array([[0, 0], pair]), 3)) for pair in ([3, 0], [0, 3]))
    assert np.array_equal(first.expansions.codes, second.expansions.codes)
    assert first.digest != second.digest


@pytest.mark.parametrize("made", [KINDS["bpe"]])
def test_a_record_of_codes_that_cannot_be_is_refused(made: Made, folder: Path) -> None:
    record = files.read_json(folder / "config.json")
    for spec in (record["spec"] | {"codebook_sizes": [0]}, record["spec"] | {"more": 1}, {}, None):
        files.write_json(folder / "config.json", record | {"spec": spec})
        with pytest.raises(ValueError, match="damaged"):
            made(folder)
    files.write_json(folder / "config.json", record | {"spec": record["spec"] | {"codebook_sizes": [5, 7]}})
    with pytest.raises(ValueError, match="expansions of 11 base ids"):
        made(folder)
