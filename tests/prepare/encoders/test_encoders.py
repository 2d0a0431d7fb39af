"""The registry of encoders: names, models, classes from outside, and what is checked of what they answer."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

from mmrns.data.datasets import load_dataset
from mmrns.errors import UsageError
from mmrns.prepare.encoders import (
    ENCODERS,
    Encoder,
    GridEncoder,
    NumberEncoder,
    SentenceEncoder,
    VisionEncoder,
    encode_numbers,
    encode_pictures,
    encode_texts,
)
from mmrns.prepare.encoders.base import checked, open_encoder


class Lengths(Encoder):
    """A token is the length of a sentence and the number of its words."""

    reads = "texts"

    def encode(self, inputs: Sequence[Sequence[str]], tokens: int) -> tuple[np.ndarray, np.ndarray]:
        values, mask = np.zeros((len(inputs), tokens, 2)), np.zeros((len(inputs), tokens), dtype=bool)
        for row, sentences in enumerate(inputs):
            for place, sentence in enumerate(sentences[:tokens]):
                values[row, place], mask[row, place] = [len(sentence), len(sentence.split())], True
        return values, mask


class Sizes(Encoder):
    """One token of two numbers: how wide and high the first picture is."""

    reads = "pictures"

    def encode(self, inputs: Sequence[Sequence[Any]], tokens: int) -> tuple[np.ndarray, np.ndarray]:
        values = np.array([[pictures[0].size] for pictures in inputs], dtype=np.float32)
        return values, np.ones(values.shape[:2], dtype=bool)


def metadata(folder: Path, name: str) -> dict[str, str]:
    with safe_open(folder / "features" / f"{name}.safetensors", framework="np") as file:
        return file.metadata()


def test_the_registry_knows_ours() -> None:
    ours = {"classical": GridEncoder, "transformers": VisionEncoder, "sentence-transformers": SentenceEncoder}
    ours["quantiles"] = NumberEncoder
    assert set(ENCODERS.names()) == set(ours)
    for name, cls in ours.items():
        assert ENCODERS.get(name) is cls
        assert cls.reads in ("texts", "pictures", "numbers")
        assert cls.__doc__


def test_a_class_of_texts(countries: Path) -> None:
    found = encode_texts(countries, Lengths, tokens=3)
    assert found.shape == (3, 2)
    dataset = load_dataset(countries)
    values, _ = dataset.features.gather("text", torch.tensor([dataset.graph.entities.id("country/France")]))
    assert values[0, 0].tolist() == [6, 1]
    about = metadata(countries, "text")
    assert about["encoder"] == f"{__name__}:Lengths"
    assert about["preprocessing"] == "the name, then the sentences of the description"
    assert encode_texts(countries, Lengths, tokens=3).new == 0
    changed = encode_texts(countries, Lengths, tokens=2)
    assert (changed.new, changed.changed) == (found.entities, ["pooling"])


def test_another_revision_encodes_anew(countries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode_texts(countries, Lengths())
    monkeypatch.setattr(Lengths, "revision", "2")
    assert encode_texts(countries, Lengths()).changed == ["revision"]


def test_a_class_of_pictures_may_answer_fewer_tokens(countries: Path) -> None:
    pytest.importorskip("PIL")
    found = encode_pictures(countries, Sizes)
    assert found.shape == (1, 2)
    values, mask = load_dataset(countries).features.gather("image", load_dataset(countries).graph.train[:1, 0])
    assert values.shape == (1, 1, 2)
    assert values[mask].tolist() in ([], [[144, 108]])
    assert metadata(countries, "image")["preprocessing"].startswith("RGB on white; ")


def test_numbers_by_another_encoder(countries: Path) -> None:
    class Raw(Encoder):
        reads = "numbers"

        def encode(self, inputs: Sequence[Sequence[Any]], tokens: int) -> tuple[np.ndarray, np.ndarray]:
            values = np.array([[[value for _, value in pairs][:1]] for pairs in inputs])
            return values, values[..., 0] > 1

    file = countries / "numbers.tsv"
    file.write_text("country/France\tx\t1.5\ncountry/Japan\tx\t2\ncountry/Chile\tx\t0.5\n")
    found = encode_numbers(countries, file, Raw, tokens=2)
    assert (found.entities, found.new, found.shape) == (2, 2, (1, 1))
    assert encode_numbers(countries, file, Raw, tokens=2).new == 0
    back = encode_numbers(countries, file)
    assert back.shape == (8, 17)
    assert "encoder" in back.changed


def test_the_command_takes_a_path_to_a_class(countries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmrns.cli import app

    # The device is chosen elsewhere.
    build = types.ModuleType("mmrns.runs.build")
    build.build_device = lambda name: name  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mmrns.runs.build", build)
    module = types.ModuleType("own_encoders")
    module.Lengths = Lengths  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_encoders", module)
    arguments = ["encode", str(countries), "--text", "own_encoders:Lengths", "--device", "cpu", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)[0]["width"] == 2


@pytest.mark.parametrize(
    ("given", "reads", "message"),
    [
        ("classical", "texts", "the encoder 'classical' reads pictures, not texts; choose another"),
        (Lengths, "pictures", "Lengths' reads texts, not pictures"),
        ("sentence-transformers", "texts", "needs a model; give the model's name or folder in place of"),
        ("no.such:Encoder", "texts", "no encoder at 'no.such:Encoder'"),
        ("pathlib:Path", "texts", "pathlib:Path is no encoder: subclass"),
        ("./absent", "texts", "no folder './absent'"),
        ("quantils", "numbers", "unknown encoder 'quantils'; did you mean 'quantiles'?"),
    ],
)
def test_what_is_no_encoder_is_one_line(given: Any, reads: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_encoder(given, reads, None if reads == "numbers" else SentenceEncoder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_whose_name_looks_like_a_path_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:b").mkdir()
    with pytest.raises(UsageError, match="has no safetensors weights"):
        open_encoder("a:b", "texts", SentenceEncoder)


VALUES, MASK = np.ones((2, 1, 3)), np.ones((2, 1), dtype=bool)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((VALUES[0], MASK), "values float64 [1, 3] and mask bool [2, 1] where [2, L <= 2, D]"),
        ((VALUES[:1], MASK), "[1, 1, 3]"),
        ((VALUES, MASK.astype(float)), "mask float64"),
        ((VALUES, MASK[:1]), "mask bool [1, 1]"),
        ((np.ones((2, 3, 3)), np.ones((2, 3), dtype=bool)), "[2, 3, 3]"),
        ((VALUES.astype(str), MASK), "values <U32"),
        ((VALUES * np.nan, MASK), "a value that half precision cannot hold"),
        ((VALUES * 1e6, MASK), "a value that half precision cannot hold"),
    ],
)
def test_answers_that_do_not_fit_are_refused(answer: Any, message: str) -> None:
    class Own(Encoder):
        reads = "texts"

        def encode(self, inputs: Sequence[Sequence[str]], tokens: int) -> Any:
            return answer

    with pytest.raises(UsageError) as caught:
        checked(Own(), 2)([["a"], ["b"]])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_calls_must_agree_and_absent_tokens_are_zeros() -> None:
    class Own(Encoder):
        reads = "texts"

        def encode(self, inputs: Sequence[Sequence[str]], tokens: int) -> tuple[np.ndarray, np.ndarray]:
            values = np.full((len(inputs), 1, len(inputs)), np.inf)
            return values, np.zeros(values.shape[:2], dtype=bool)

    encode = checked(Own(), 2)
    values, mask = encode([["a"]])
    assert not values.any()
    assert not mask.any()
    with pytest.raises(UsageError, match="with one L and D in all calls"):
        encode([["a"], ["b"]])
