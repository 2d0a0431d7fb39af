"""What is compared: what it may be called, what it may try, whether it is the same."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmrns.errors import DataError, UsageError
from mmrns.nn.scorers import RotatE
from mmrns.runs.values import dump_yaml, parse_yaml
from mmrns.studies.budget import BUDGET
from mmrns.studies.comparison import Comparison, Entry, check_labels

COMMON = {"data.dataset": "countries", "model.scorer": "TransE", "training.steps": 5}


@pytest.mark.parametrize("labels", [["a b", "a-b", "a.b", "64", "知识", "é", "null", "~", "-x", "console", "x" * 150]])
def test_labels_that_are_names_of_files(labels: list[str]) -> None:
    check_labels(labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["d/s"], "holds '/'"),
        (["..\\x"], r"holds '\\\\'"),
        *(([f"a{c}b"], "holds") for c in ':*?"<>|\n\t\x00\x1b\u200b\u202e'),
        ([""], "is empty"),
        (["  "], "is empty"),
        ([".."], "a dot"),
        ([".hidden"], "a dot"),
        (["end."], "a dot"),
        ([" a"], "a blank"),
        (["CON"], "device"),
        (["aux.x"], "device"),
        (["lpt1"], "device"),
        (["x" * 151], "more than 150 bytes"),
        (["語" * 60], "more than 150 bytes"),
        (["Mine", "mine"], "is 'Mine' for systems that do not tell case apart"),
        (["é", "e\u0301"], "do not tell case apart"),
    ],
)
def test_labels_that_are_none_are_refused(labels: list[Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        check_labels(labels)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match=message):
        Comparison(COMMON, {label: Entry({"method": "uniform"}) for label in labels}).checked()


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_labels_are_the_texts_that_are_written(tmp_path: Path) -> None:
    text = "methods:\n" + "".join(
        f"  {label}: {{method: uniform}}\n" for label in ("64", "1e-3", "null", "yes", "0x1F")
    )
    assert [*Comparison.read(written(tmp_path, text)).entries] == ["64", "1e-3", "null", "yes", "0x1F"]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("methods:\n  uniform:\n  d/s: {method: sans}\n", 3, "d/s: the label holds '/'"),
        ("methods:\n  uniform:\n    training.lr: -1e-3\n", 3, "uniform: training.lr: .*got -0.001"),
        ("trials: 2\nmethods:\n  uniform:\n    training.lr: {low: 1e-2, high: 1e-3}\n", 4, "low is above high"),
        ("trials: 2\nspace:\n  training.lr: {low: 0, high: 1e-3, log: true}\nmethods: {uniform: }\n", 3, "above 0"),
        ("trials: 2\nspace:\n  training.lr: {low: -1, high: 1e-3}\nmethods: {uniform: }\n", 3, "greater than 0"),
        ("trials: 2\nspace:\n  training.lr: [1e-3, 1e-2, 0]\nmethods: {uniform: }\n", 3, "greater than 0"),
        ("trials: 2\nspace:\n  model.dim: {low: 3, high: 9}\nmethods: {uniform: }\n", 3, "int: true"),
        ("common:\n  training.steps: many\nmethods: {uniform: }\n", 2, "valid integer"),
        ("common:\n  seed: 3\nmethods: {uniform: }\n", 2, "say how many by seeds"),
        ("methods:\n  uniform: {seed: 3}\n", 2, "say how many by seeds"),
        ("methods:\n  uniform: {evaluation.test: false}\n", 2, "said for all alike"),
        ("methods:\n  uniform: 3\n", 2, "neither settings"),
        ("methods:\n  uniform: []\n", 2, "a list holds the settings"),
        ("methods:\n  uniform: [3]\n", 2, "a list holds the settings"),
        ("methods:\n  uniform: [{method: uniform}, {method: uniform, training.lr: 0}]\n", 2, "greater than 0"),
        ("methods:\n  nonesuch: \n", 2, "unknown method 'nonesuch'"),
        ("methods: {uniform: }\nseeds: 0\n", 2, "seeds: input should be greater than 0"),
        ("methods: {uniform: }\nseeds: true\n", 2, "seeds: input should be a number"),
        ("methods: {uniform: }\ntrials: x\n", 2, "trials: input should be a valid integer"),
        ("methods: {uniform: }\nspace: [1]\n", 2, "space: input should be a valid dictionary"),
        ("methods: {uniform: }\nmethod: x\n", 2, "unknown key 'method'"),
        (
            "methods: {uniform: }\nreference: uniforms\n",
            2,
            "reference: unknown entry 'uniforms'; did you mean 'uniform'",
        ),
        ("methods: {uniform: }\npublished: {uniform: 3, x: 4}\n", 2, "published: unknown entry 'x'"),
        ("methods: {uniform: }\npublished: {uniform: 101}\n", 2, "less than or equal to 100"),
        ("methods:\n  uniform:\n  uniform:\n", 3, "'uniform' is here twice"),
    ],
)
def test_a_study_that_does_not_fit_is_told_with_its_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises((DataError, UsageError), match=message) as caught:
        Comparison.read(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert "\n" not in str(caught.value)


def test_sections_and_samplers_within_may_be_mappings(tmp_path: Path) -> None:
    text = """
common: {training: {lr: 1e-3, steps: 7}, data.dataset: countries}
threads:
methods:
  mmrns: {sampler.pool_sampler: {name: nscaching, cache: 5}, training: {lr: 1e-2}}
"""
    found = Comparison.read(written(tmp_path, text))
    assert found.common == BUDGET | {"training.lr": 1e-3, "training.steps": 7, "data.dataset": "countries"}
    (entry,) = found.entries.values()
    assert entry.settings["sampler.pool_sampler"] == {"name": "nscaching", "cache": 5}
    (config,) = found.configs(entry)
    assert (config.training.lr, config.training.steps) == (1e-2, 7)
    # In Python, too: a section does not replace what is set beside it.
    given = Comparison.of("countries", ["TransE"], ["uniform"], settings={"training": {"lr": 0.5}})
    assert given.common["training.lr"] == 0.5
    assert given.common["training.steps"] == 1000


def test_what_is_listed_twice_is_tried_once() -> None:
    space = {"training.lr": [1e-3, "1e-3", 0.001, 1e-2], "objective.gamma": [1, 1.0, np.float32(1)]}
    found = Comparison.of("countries", ["TransE"], ["uniform"], trials=10, space=space)
    (entry,) = found.entries.values()
    assert entry.space == {"training.lr": [1e-3, 1e-2], "objective.gamma": [1]}
    assert found.budget(entry) == 2
    assert found.notes[1:] == ["uniform: there are 2 settings to try, fewer than 10 trials; each is tried once."]
    listed = Entry({"method": "uniform"}, listed=[{"training.lr": 1e-3}, {"training.lr": "0.001"}, {"training.lr": 1}])
    (entry,) = Comparison(COMMON, {"a": listed}).checked().entries.values()
    assert entry.listed == [{"training.lr": 1e-3}, {"training.lr": 1}]


@pytest.mark.parametrize(
    ("common", "settings", "space"),
    [
        ({"training.lr": 1e-3}, {}, {}),
        ({"training.lr": "1e-3", "training.steps": 5.0}, {}, {}),
        ({"training.lr": 0.001, "training.patience": "0", "objective.subsampling": "yes"}, {}, {}),
        ({}, {"training.lr": np.float64(0.001)}, {}),
        ({"training": {"lr": 1e-3}, "model.scorer": "TransE"}, {}, {}),
    ],
)
def test_spellings_and_defaults_make_no_other_comparison(
    common: dict[str, Any], settings: dict[str, Any], space: dict[str, Any]
) -> None:
    own = Comparison(COMMON | {"training.lr": 0.001}, {"a": Entry({"method": "uniform"})}).checked()
    other = Comparison(COMMON | common, {"a": Entry({"method": "uniform"} | settings, space)}).checked()
    # Where it is said, in common or by the entry, is all the same for what has been trained.
    assert own.difference(other) in (None, "common" if "training.lr" in settings else None)
    assert Comparison(other.common, own.entries).difference(other) is None or "training.lr" in settings


def test_shorthands_tuples_and_classes_make_no_other_comparison() -> None:
    def of(scorer: Any, pool: Any, modalities: Any, space: dict[str, Any]) -> Comparison:
        settings = {"method": "mmrns", "sampler.pool_sampler": pool, "sampler.modalities": modalities}
        entries = {"a": Entry(settings, space)}
        return Comparison({"data.dataset": "countries", "model.scorer": scorer}, entries, trials=3).checked()

    one = of(
        "RotatE", "nscaching", ["text"], {"training.lr": [1e-3, 1e-2], "model.dim": {"low": 2, "high": 9, "int": True}}
    )
    two = of(
        RotatE,
        {"name": "nscaching"},
        ("text",),
        {"model.dim": {"low": 2.0, "high": "9", "int": 1}, "training.lr": ("0.001", 0.01)},
    )
    assert one.difference(two) is two.difference(one) is None
    # And what is written down is the same when it is read.
    back = parse_yaml(dump_yaml({label: asdict(entry) for label, entry in two.entries.items()}))
    assert one.difference(replace(two, entries={label: Entry(**entry) for label, entry in back.items()})) is None


@pytest.mark.parametrize(
    ("common", "entry", "trials", "what"),
    [
        ({"training.steps": 6}, {}, 2, "common"),
        ({"evaluation.test": False}, {}, 2, "common"),
        ({"training.nonsense": 6}, {}, 2, "common"),
        ({}, {}, 3, "trials"),
        ({}, {"settings": {"method": "sans"}}, 2, "a"),
        ({}, {"space": {"training.lr": [1, 3]}}, 2, "a"),
        ({}, {"space": {"training.lr": {"low": 1, "high": 2}}}, 2, "a"),
        ({}, {"space": {}}, 2, "a"),
        ({}, {"space": {}, "listed": [{"training.lr": 1}, {"training.lr": 2}]}, 2, "a"),
    ],
)
def test_another_comparison_is_told(common: dict[str, Any], entry: dict[str, Any], trials: int, what: str) -> None:
    a = Entry({"method": "uniform"}, {"training.lr": [1, 2]})
    own = Comparison(COMMON, {"a": a}, trials=2)
    other = Comparison(COMMON | common, {"a": replace(a, **entry), "b": a}, trials=trials)
    assert own.difference(other) == what
    assert own.difference(Comparison(COMMON, {"b": a, "a": a}, trials=2, seeds=9)) is None
