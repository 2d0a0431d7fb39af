"""Feature files: written whole or in blocks, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from mmrns.data.folders import EMBEDDED
from mmrns.errors import DataError
from mmrns.prepare.encoders import stream_features, write_features

METADATA = {"encoder": "none", "revision": "é", "preprocessing": "none", "a": "b"}


def features(count: int = 3) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Entities, values and mask of a small modality."""
    values = np.random.default_rng(0).normal(size=(count, 2, 5)).astype(np.float32)
    return [f'country/{i} é "quoted"' for i in range(count)], values, np.ones((count, 2), dtype=np.bool_)


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


@pytest.mark.parametrize("name", ["text", "image"])
def test_the_embedded_features_keep_their_bytes(tmp_path: Path, name: str):
    source = EMBEDDED["countries"] / "features" / f"{name}.safetensors"
    stored = load_file(source)
    entities = source.with_suffix(".entities").read_text(encoding="utf-8").splitlines()
    with safe_open(source, framework="np") as file:
        write_features(tmp_path, name, entities, stored["values"], stored["mask"], file.metadata())
    for suffix in (".safetensors", ".entities"):
        assert (tmp_path / f"features/{name}{suffix}").read_bytes() == source.with_suffix(suffix).read_bytes()


def test_blocks_give_the_bytes_of_the_whole(tmp_path: Path):
    entities, values, mask = features(10)
    mask[4, 1] = False
    write_features(tmp_path, "whole", entities, values, mask, METADATA)
    blocks = ((values[i:j], mask[i:j]) for i, j in [(0, 3), (3, 3), (3, 4), (4, 10)])
    stream_features(tmp_path, "blocks", entities, (2, 5), blocks, METADATA)
    whole, parts = ((tmp_path / f"features/{name}.safetensors").read_bytes() for name in ("whole", "blocks"))
    assert whole == parts


def test_float32_holds_what_float16_does_not(tmp_path: Path):
    entities, values, mask = features(3)
    values[0, 0, 0] = 1e5
    stream_features(tmp_path, "text", entities, (2, 5), [(values, mask)], METADATA, dtype="float32")
    stored = load_file(tmp_path / "features/text.safetensors")["values"]
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, values)


def test_keys_are_stored_beside(tmp_path: Path):
    entities, values, mask = features(3)
    keys = np.array([5, 0, 2**62])
    stream_features(tmp_path, "text", entities, (2, 5), [(values, mask)], METADATA, keys=keys)
    stored = load_file(tmp_path / "features/text.safetensors")
    np.testing.assert_array_equal(stored["key"], keys)
    np.testing.assert_array_equal(stored["values"], values.astype(np.float16))
    np.testing.assert_array_equal(stored["mask"], mask)


def test_a_failure_amid_the_blocks_leaves_the_old_files(tmp_path: Path):
    write_features(tmp_path, "text", *features(), METADATA)
    before = {path.name: path.read_bytes() for path in (tmp_path / "features").iterdir()}
    entities, values, mask = features(5)

    def full_disk() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield values[:3], mask[:3]
        raise OSError("no space left")

    with pytest.raises(DataError, match="no space"):
        stream_features(tmp_path, "text", entities, (2, 5), full_disk(), METADATA)
    assert {path.name: path.read_bytes() for path in (tmp_path / "features").iterdir()} == before


@pytest.mark.parametrize("ends", [[(0, 3)], [(0, 5), (4, 5)]])
def test_blocks_that_are_too_few_or_too_many(tmp_path: Path, ends: list[tuple[int, int]]):
    entities, values, mask = features(5)
    with pytest.raises(ValueError, match="expected"):
        stream_features(tmp_path, "text", entities, (2, 5), ((values[i:j], mask[i:j]) for i, j in ends), METADATA)
    assert not list(tmp_path.iterdir())
