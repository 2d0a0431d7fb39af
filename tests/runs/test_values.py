"""How values are written: YAML, settings, what Python gives."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmrns.errors import DataError, UsageError
from mmrns.nn.scorers import RotatE
from mmrns.runs.config import apply_settings, make_config
from mmrns.runs.values import YAMLError, dump_yaml, parse_yaml, plain, read_config, told_of
from mmrns.samplers.nscaching import NSCaching

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=("Cs", "Cc")))
    | st.sampled_from(["1e-4", "yes", "off", "1:30", "017", "0o17", "1_0", "2020-01-01", "null", "~", "<<", "=", ".5"])
)


@given(st.dictionaries(st.text("abc.0 :#'\"é", min_size=1), SCALARS | st.lists(SCALARS), max_size=4))
def test_what_is_written_is_read_back(values: dict[str, Any]) -> None:
    found = parse_yaml(dump_yaml(values))
    assert found == values
    assert [type(value) for value in found.values()] == [type(value) for value in values.values()]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-.5e+2", -50.0),
        ("1.", 1.0),
        ("+12", 12),
        ("0o17", 15),
        ("017", 17),
        ("0x1F", 31),
        (".inf", math.inf),
        ("!!str 12", "12"),
        ("!!float 1", 1.0),
        ("TRUE", True),
        *((text, text) for text in ("yes", "No", "on", "off", "1:30", "1_000", "2020-01-01", "0b1", "=", "e3", ".")),
        *((text, None) for text in ("~", "null", "Null", "")),
        ("{64: 1, null: 2, 1e-3: 3, yes: 4}", {"64": 1, "null": 2, "1e-3": 3, "yes": 4}),
        ("{<<: [{a: 1, b: 1}, {b: 2, c: 2}], c: 3}", {"a": 1, "b": 1, "c": 3}),
        ("{x: &a [1], y: *a}", {"x": [1], "y": [1]}),
    ],
)
def test_numbers_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = parse_yaml(text)
    assert found == value
    assert type(found) is type(value)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"seed: 1\nmodel: {dim: 3}\nseed: 2\n", 3, "'seed' is here twice, first in line 1"),
        (b"model:\n  dim: 5\n  'dim': 6\n", 3, "'dim' is here twice"),
        (b"1: a\n'1': b\n", 2, "'1' is here twice"),
        (b"model:\n\tdim: 5\n", 2, "cannot start any token"),
        (b"model: [\n", 2, "expected"),
        (b"a: 1\nb: \0\n", 2, "U+0000"),
        (b"a: 1\n\nb: \x1b[31m\n", 3, "U+001B"),
        (b"a: 1\nb: \xe9\n", 2, "no text in UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0", 1, "no text in UTF-8"),
        (b"\xff\xfe\x00", None, "no text in UTF-8"),
        (b"a: &a [*a]\n", 1, "*a is inside itself"),
        (b"a: *b\n", 1, "undefined alias"),
        (LAUGHS.encode(), 5, "more than 100,000 values"),
        (b"a: " + b"[" * 5000, 1, "nested more than 50 deep"),
        (b"a: " + b"{b: " * 5000, 1, "nested more than 50 deep"),
        (b"a: " + b"- " * 5000, 1, "not allowed here"),
        (b"a: " + b"9" * 5000, 1, "more than 100 digits"),
        (b"a: 1\n? [1]\n: 2\n", 2, "a key is no text"),
        (b"a: !!python/object/apply:os.system [x]\n", 1, "python/object"),
        (b"a: 1\nb: !!int x\n", 2, "'x' is no int"),
        (b"a: 1\nb: !!timestamp x\n", 2, "timestamp"),
        (b"a: 1\n---\nb: 2\n", 2, "found another document"),
        (b"- 1\n", 1, "holds no mapping"),
        (b"just a text\n", 1, "holds no mapping"),
        (b"#" * (2**20 + 1), None, "more than 1,048,576 bytes"),
    ],
)
def test_what_is_not_to_be_read_is_one_line_with_its_place(
    tmp_path: Path, content: bytes, line: int | None, message: str
) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_config(path)
    text = str(caught.value)
    assert message in text
    assert text.startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert text.isprintable()
    assert len(text) < len(str(path)) + 250
    with pytest.raises(DataError, match="cannot be read"):
        read_config(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends_that_editors_write(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(f"data: {{dataset: Müller}}{end}seed: 3{end}".encode(encoding))
    assert read_config(path) == {"data": {"dataset": "Müller"}, "seed": 3}
    path.write_bytes(b"")
    assert read_config(path) == {}


def test_a_value_that_does_not_fit_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("seed: 1\ntraining:\n  steps: 5\n  lr: -1e-3\nmodel: {p: 3}\n")
    values = read_config(path)
    with (
        pytest.raises(UsageError, match=r"c\.yaml:4: training\.lr: .*greater than 0 \(got -0\.001\)"),
        told_of(path, values),
    ):
        make_config(values)
    # What was laid over the file is not in it.
    for settings, message in ([["training.lr=-2"], "^training.lr"], [["training.lr=1e-3"], r"c\.yaml:5: model\.p"]):
        laid = apply_settings(values, settings)
        with pytest.raises(UsageError, match=message), told_of(path, laid):
            make_config(laid)


@pytest.mark.parametrize(
    ("settings", "key", "value"),
    [
        (["training.lr=1e-3"], "lr", 0.001),
        ({"training.lr": "1e-3"}, "lr", 0.001),
        ({"training.steps": "1e3"}, "steps", 1000),
        ({"training.steps": "0o17"}, "steps", 15),
        (["training.steps=1e3"], "steps", 1000),
        ({"training.steps": np.int64(7)}, "steps", 7),
        ({"training.lr": np.float64(0.25)}, "lr", 0.25),
        ({"training.lr": torch.tensor(0.25)}, "lr", 0.25),
        (["training.hardness=off"], "hardness", False),
        (["training.hardness=yes"], "hardness", True),
    ],
)
def test_a_number_is_read_wherever_one_is_meant(settings: Any, key: str, value: Any) -> None:
    found = getattr(make_config(apply_settings({}, settings)).training, key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("setting", ["training.steps=true", "training.lr=true", "sampler.negatives=true", "seed=true"])
def test_true_is_no_number(setting: str) -> None:
    with pytest.raises(UsageError, match="input should be a number"):
        make_config(apply_settings({}, [setting]))


@pytest.mark.parametrize("setting", ["training.steps=1:30", "training.lr=2020-01-01", "training.steps=1e-3"])
def test_other_texts_are_none(setting: str) -> None:
    with pytest.raises(UsageError, match=setting.partition("=")[0]):
        make_config(apply_settings({}, [setting]))


def test_a_name_that_is_a_number_is_asked_for_in_quotes() -> None:
    with pytest.raises(UsageError, match=r"data\.dataset.*write it in quotes"):
        make_config(apply_settings({}, ["data.dataset=2024"]))
    assert make_config(apply_settings({}, ["data.dataset='2024'"])).data.dataset == "2024"


@pytest.mark.parametrize("settings", [["=3"], ["a..b=3"], [".=3"], {"": 3}, {"a.": 1}])
def test_a_setting_without_a_key_is_refused(settings: Any) -> None:
    with pytest.raises(UsageError, match="write KEY=VALUE"):
        apply_settings({}, settings)


def test_keys_are_texts() -> None:
    with pytest.raises(UsageError, match="model: the key 5 is no text"):
        make_config({"model": {5: 1}})


def test_classes_tuples_and_numbers_of_numpy_become_what_yaml_knows() -> None:
    given = {"a": (1, np.float32(0.5)), "b": {"c": Path("x/y")}, "d": np.arange(2), "s": RotatE, "t": torch.tensor([1])}
    assert plain(given) == {"a": [1, 0.5], "b": {"c": "x/y"}, "d": [0, 1], "s": "RotatE", "t": [1]}
    config = make_config({"model": {"scorer": RotatE}, "sampler": {"pool_sampler": NSCaching, "modalities": ("text",)}})
    assert config == make_config(
        {"model": {"scorer": "RotatE"}, "sampler": {"pool_sampler": "nscaching", "modalities": ["text"]}}
    )
    assert parse_yaml(dump_yaml(config.model_dump(mode="json")))["sampler"]["pool_sampler"]["name"] == "nscaching"


@given(st.text(max_size=40))
def test_any_text_is_a_value_or_an_error(text: str) -> None:
    with suppress(YAMLError):
        parse_yaml(text)
