"""Trials that promise little are ended early, by rules of Optuna's, and its journal has all that was tried."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from mmrns.errors import DataError, UsageError
from mmrns.runs.train import Interrupted
from mmrns.studies import compare as module
from mmrns.studies import journal
from mmrns.studies.compare import compare
from mmrns.studies.comparison import Comparison, Entry
from mmrns.studies.journal import Prune, Search, drop_cut_line, tell
from mmrns.studies.records import read_records
from mmrns.studies.report import table
from mmrns.training.callbacks import Callback

SPACE = {"training.lr": {"low": 1e-4, "high": 1e-1, "log": True}, "sampler.modalities": [[], ["text"]]}
RATES = [5e-2, 2e-2, 1e-6, 1e-7]


def study_of(folder: Path, label: str) -> optuna.Study:
    """As Optuna's own tools read it."""
    storage = JournalStorage(JournalFileBackend(str(folder / journal.FILE)))
    return optuna.load_study(study_name=label, storage=storage)


def comparison_of(prune: Prune | None = "median", **entries: Entry) -> Comparison:
    common = {
        "data.dataset": "countries",
        "model.scorer": "TransE",
        "training.steps": 24,
        "training.evaluate_every": 4,
        "training.batch_size": 128,
        "training.hardness": False,
        "model.dim": 8,
        "sampler.negatives": 4,
        "device": "cpu",
    }
    listed = [{"method": "uniform", "training.lr": lr} for lr in RATES]
    listed.append({"method": "uniform", "training.lr": 1e30, "model.scorer": "DistMult"})
    some = entries or {"uniform": Entry({}, listed=listed)}
    return Comparison(common, some, trials=5, seeds=1, threads=1, prune=prune).checked()


def script(search: Search, curves: list[list[float]]) -> list[int | None]:
    """Trials with these validations, one after the other; after how many each was ended early."""
    ends: list[int | None] = []
    for n, curve in enumerate(curves):
        name, settings = f"{search.label}-trial-{n}", {"x": n}
        search.begin(name, settings)
        assert search.running(name) == settings
        trial, end = search.trial(name), None
        for i, mrr in enumerate(curve, 1):
            if tell(trial, i * search.every, mrr, last=i == len(curve)):
                end = i
                break
        seen = [[i * search.every, 0.1, mrr] for i, mrr in enumerate(curve[:end], 1)]
        record: dict[str, Any] = {"name": name, "label": search.label, "settings": settings, "curve": seen}
        record |= {"valid_mrr": max(curve[:end])} | ({} if end is None else {"pruned": end * search.every})
        search.settle(record)
        assert search.running(name) is None
        ends.append(end)
    return ends


def test_the_median_rule_ends_what_is_below_the_median_of_those_before(tmp_path: Path) -> None:
    search = Search(tmp_path, "a", {"x": [*range(6)]}, 10, "median", 6)
    curves = [[0.1, 0.2, 0.3], [0.3, 0.4, 0.5], [0.1, 0.5, 0.5], [0.25, 0.29, 0.6], [0.25, 0.31, 0.1], [0.0] * 3]
    # The first two go to their end; then what is below (0.1 + 0.3) / 2 = 0.2, below 0.3 at the second validation.
    assert script(search, curves) == [None, None, 1, 2, None, 1]
    states = [trial.state.name for trial in study_of(tmp_path, "a").trials]
    assert states == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED", "COMPLETE", "PRUNED"]
    assert study_of(tmp_path, "a").best_value == 0.5


def test_successive_halving_keeps_a_third_at_each_rung(tmp_path: Path) -> None:
    search = Search(tmp_path, "a", {"x": [*range(6)]}, 10, "halving", 6)
    curves = [[0.1] * 4, [0.2] * 4, [0.15] * 4, [0.3, 0.3, 0.01, 0.3], [0.05] * 4, [0.25] * 4]
    # Rungs are the first and the third validation. 0.2 is the best of two, 0.15 not of three; 0.3 is, and falls behind.
    assert script(search, curves) == [None, None, 1, 3, 1, None]


@pytest.mark.parametrize("prune", ["median", "halving", None])
def test_a_journal_that_is_lost_is_made_anew(tmp_path: Path, prune: Prune | None) -> None:
    curves = [[0.1, 0.2, 0.3], [0.3, 0.4, 0.5], [0.1, 0.5, 0.5], [0.25, 0.29, 0.6], [0.25, 0.31, 0.1]]
    search = Search(tmp_path, "a", {"x": [*range(6)]}, 10, prune, 6)
    ends = script(search, curves)
    again = Search(tmp_path / "again", "a", search.space, 10, prune, 6)
    again.folder.mkdir()
    for n, (curve, end) in enumerate(zip(curves, ends, strict=True)):
        seen = [[10 * i, 0.1, mrr] for i, mrr in enumerate(curve[:end], 1)]
        record: dict[str, Any] = {"name": f"a-trial-{n}", "label": "a", "settings": {"x": n}, "curve": seen}
        again.settle(record | {"valid_mrr": max(curve[:end])} | ({} if end is None else {"pruned": 10 * end}))
    for one, two in zip(study_of(tmp_path, "a").trials, study_of(again.folder, "a").trials, strict=True):
        assert (one.state, one.value, one.params, one.intermediate_values) == (
            two.state,
            two.value,
            two.params,
            two.intermediate_values,
        )
        # What successive halving keeps of each rung, too.
        assert one.system_attrs == two.system_attrs
    for one in (search, again):
        one.begin("a-trial-5", {"x": 5})
    assert tell(search.trial("a-trial-5"), 10, 0.11, last=False) == tell(again.trial("a-trial-5"), 10, 0.11, last=False)


def test_numbers_are_numbers_and_what_is_listed_is_json(tmp_path: Path) -> None:
    search = Search(tmp_path, "a", SPACE, 10, None, 3)
    settings = {"training.lr": 0.01, "sampler.modalities": ["text"]}
    search.begin("a-trial-0", settings)
    search.begin("a-trial-0", settings)
    (trial,) = study_of(tmp_path, "a").trials
    assert trial.params == {"training.lr": 0.01, "sampler.modalities": '["text"]'}
    assert trial.user_attrs == {"name": "a-trial-0", "settings": settings}
    assert search.running("a-trial-0") == settings
    assert search.running("a-trial-1") is None


def test_trials_are_ended_early_and_the_study_goes_on(tmp_path: Path) -> None:
    comparison = comparison_of()
    (record,) = records = compare(comparison, tmp_path)
    trials = read_records(tmp_path)[:5]
    pruned = [trial for trial in trials if "pruned" in trial]
    # Those that learn nothing are ended, the one that diverges has failed, and none of them is chosen.
    assert [trial["settings"]["training.lr"] for trial in pruned] == RATES[2:]
    assert all(trial["pruned"] < 24 and trial["curve"][-1][0] == trial["pruned"] for trial in pruned)
    assert "not finite" in trials[4]["failed"]
    assert record["settings"]["training.lr"] in RATES[:2]
    (row,) = [row for row in table(records, comparison) if row["method"] == "uniform"]
    assert row["trials"] == "5 (1 failed, 2 pruned)"
    states = [trial.state.name for trial in study_of(tmp_path, "uniform").trials]
    assert states == ["FAIL" if "failed" in t else "PRUNED" if "pruned" in t else "COMPLETE" for t in trials]
    # Not even the folders of the trials are left.
    assert [path.name for path in (tmp_path / "trained").iterdir()] == ["uniform-seed-0"]
    # Again it trains nothing and writes nothing.
    before = (tmp_path / journal.FILE).read_bytes()
    assert compare(comparison, tmp_path) == records
    assert (tmp_path / journal.FILE).read_bytes() == before
    with pytest.raises(DataError, match="another 'prune'"):
        compare(comparison_of("halving"), tmp_path)


class _Cut(Callback):
    """Ends the sitting after some steps of some trainings."""

    def __init__(self, steps: int):
        self.steps = steps

    def on_progress(self, step: int, loss: float | None) -> None:
        self.steps -= loss is None
        if not self.steps:
            raise KeyboardInterrupt


@pytest.mark.parametrize("lost", [False, True], ids=["with its journal", "without"])
def test_a_search_that_is_cut_comes_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: bool) -> None:
    entry = Entry({"method": "self-adversarial"}, {"training.lr": SPACE["training.lr"], "objective.alpha": [0.5, 1]})
    comparison = comparison_of(entry=entry)
    whole = compare(comparison, tmp_path / "whole")
    cut = _Cut(54)
    with monkeypatch.context() as patch:
        patch.setattr(module, "callbacks", lambda: [cut])
        with pytest.raises(Interrupted):
            compare(comparison, tmp_path / "cut")
    file = tmp_path / "cut" / journal.FILE
    assert any(not trial.state.is_finished() for trial in study_of(tmp_path / "cut", "entry").trials)
    if lost:
        file.unlink()
    else:
        # Killed in the middle of a line, too.
        file.write_bytes(file.read_bytes() + b'{"op_code":4')
    again = compare(comparison, tmp_path / "cut")
    assert [r["test"] for r in again] == [r["test"] for r in whole]

    def without_times(folder: Path) -> list[dict[str, Any]]:
        kept = [{key: one[key] for key in one if key not in ("seconds", "curve")} for one in read_records(folder)]
        return [one | {"n": len(two["curve"])} for one, two in zip(kept, read_records(folder), strict=True)]

    assert without_times(tmp_path / "cut") == without_times(tmp_path / "whole")


def test_workers_end_the_same_trials(tmp_path: Path) -> None:
    entries = {
        method: Entry({"method": method}, listed=[{"training.lr": lr} for lr in RATES])
        for method in ("uniform", "self-adversarial")
    }
    comparison = comparison_of("halving", **entries)
    compare(comparison, tmp_path / "one")
    compare(comparison, tmp_path / "two", jobs=2)
    one, two = ({r["name"]: r.get("pruned") for r in read_records(tmp_path / name)} for name in ("one", "two"))
    assert one == two
    assert any(one.values())


@pytest.mark.parametrize("content", [b"[]\n", b"nonsense\n{}\n", b'{"op_code":99}\n{}\n'])
def test_a_journal_that_is_none_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / journal.FILE).write_bytes(content)
    with pytest.raises(DataError, match=r"optuna\.jsonl: is no journal of Optuna .*; remove it"):
        Search(tmp_path, "a", {"x": [1, 2]}, 1, None, 2).begin("a-trial-0", {"x": 1})


def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    drop_cut_line(tmp_path)
    assert not (tmp_path / journal.FILE).exists()
    for content in (b"", b"{}\n", b"{}\n{", b"{"):
        (tmp_path / journal.FILE).write_bytes(content)
        drop_cut_line(tmp_path)
        assert (tmp_path / journal.FILE).read_bytes() == content[: content.rfind(b"\n") + 1]


def test_what_needs_optuna_says_so_before_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"prune: median needs Optuna; pip install 'mmrns\[hpo\]'"):
        compare(comparison_of(), tmp_path / "a")
    ranges = comparison_of(None, entry=Entry({"method": "uniform"}, {"training.lr": SPACE["training.lr"]}))
    with pytest.raises(UsageError, match="a search over ranges needs Optuna"):
        compare(ranges, tmp_path / "b")
    # What is listed does without, and without a journal.
    plain = comparison_of(None)
    assert compare(plain, tmp_path / "c")
    assert not (tmp_path / "c" / journal.FILE).exists()


def test_the_rule_is_written_down(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps({"methods": {"uniform": {}}, "prune": "halving"}))
    assert Comparison.read(path).prune == "halving"
    path.write_text("methods: {uniform: }\nprune: best\n")
    with pytest.raises(UsageError, match=r"study\.yaml:2: prune: .*'median' or 'halving'"):
        Comparison.read(path)
