"""Every method of a comparison has the same budget, unless it is told otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmrns.runs.methods import method_names
from mmrns.studies.budget import BUDGET, NEGATIVES, budget_told, budgets_of
from mmrns.studies.comparison import Comparison, Entry, config_of

EVERY = ("1-vs-all", "k-vs-all")


@pytest.fixture
def path(tmp_path: Path) -> str:
    """What the method `file` draws from."""
    (tmp_path / "negatives.tsv").write_text("a\tr\tb\ttail\tc\n")
    return str(tmp_path / "negatives.tsv")


def all_methods(path: str) -> dict[str, Entry]:
    return {
        method: Entry({"method": method} | ({"sampler.path": path} if method == "file" else {}))
        for method in method_names()
    }


@pytest.mark.parametrize(("told", "k"), [({}, 64), ({NEGATIVES: 7, "training.steps": 5, "training.batch_size": 9}, 7)])
def test_every_method_has_the_same_steps_triples_and_negatives(path: str, told: dict[str, Any], k: int) -> None:
    comparison = Comparison({"data.dataset": "countries"} | told, all_methods(path)).checked()
    budget = BUDGET | told
    for label, entry in comparison.entries.items():
        (config,) = comparison.configs(entry)
        assert config.training.steps == budget["training.steps"]
        assert config.training.batch_size == budget["training.batch_size"]
        assert config.training.patience == 0
        # Whatever a sampler has by default, such as 20 of mmrns-published; what scores every entity has none.
        drawn = (config.sampler.model_extra or {}).get("negatives")
        assert drawn == (None if label in EVERY else k), label
    assert f"{k} (1-vs-all, k-vs-all: all) negatives a triple" in comparison.budget_told


def test_a_training_has_what_it_is_told_and_that_is_said() -> None:
    entries = {
        "uniform": Entry({"method": "uniform"}),
        "more": Entry({"method": "uniform", NEGATIVES: 256}),
        "tried": Entry({"method": "uniform"}, {NEGATIVES: [16, 32]}),
    }
    comparison = Comparison({"data.dataset": "countries"}, entries, trials=2).checked()
    found = {label: budgets_of(comparison.configs(entry))[NEGATIVES] for label, entry in comparison.entries.items()}
    assert found == {"uniform": {64}, "more": {256}, "tried": {16, 32}}
    assert "64 (more: 256; tried: 16 or 32) negatives a triple" in comparison.notes[0]


def test_what_all_entries_say_themselves_is_not_said_in_common() -> None:
    own = dict.fromkeys(BUDGET, 3)
    entries = {
        "set": Entry({"method": "uniform"} | own),
        "listed": Entry({}, listed=[{"method": "uniform"} | own]),
        "every": Entry({"method": "k-vs-all"} | {key: value for key, value in own.items() if key != NEGATIVES}),
    }
    comparison = Comparison({"data.dataset": "countries"}, entries).checked()
    assert comparison.common == {"data.dataset": "countries"}
    # One that leaves a part out is given it, as are all others.
    entries["listed"] = Entry({}, listed=[{"method": "uniform"} | own, {"method": "uniform"}])
    assert Comparison({}, entries).checked().common == BUDGET


def test_a_study_of_before_that_had_another_budget_is_another() -> None:
    uniform, published = (Entry({"method": method}) for method in ("uniform", "mmrns-published"))
    before = Comparison(
        {"training.steps": 1000, "training.evaluate_every": 100, "training.patience": 0}, {"a": uniform}
    )
    now = Comparison(before.common, before.entries).checked()
    assert now.common != before.common
    assert before.difference(now) is None
    # Twenty negatives where there are 64 now.
    before, now = (Comparison(one.common, {"a": published}) for one in (before, now))
    assert config_of(before.given(published, {})).sampler.model_extra["negatives"] == 20  # type: ignore[index]
    assert before.difference(now) == "common"


def test_the_most_usual_budget_is_told_first() -> None:
    one, two = ({"training.steps": {n}, "training.batch_size": {5}, NEGATIVES: {6}} for n in (1000, 2000))
    assert budget_told({"a": one, "b": two, "c": two}).startswith("Each training: 2,000 (a: 1,000) steps, 5 triples")
