"""Presets: every one trains, anything given goes before it, and none is recorded but by its values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import mmrns
from mmrns.cli import app
from mmrns.errors import UsageError
from mmrns.runs import presets as module
from mmrns.runs.config import apply_settings, flatten, make_config
from mmrns.runs.presets import multiplies_bfloat16, presets, with_preset
from mmrns.runs.values import read_config

TINY: dict[str, Any] = {"training.steps": 2, "training.evaluate_every": 2, "training.batch_size": 16, "model.dim": 8}


@pytest.mark.parametrize("name", list(presets()))
def test_every_preset_is_a_configuration_and_trains(name: str) -> None:
    wanted = dict(presets()[name].settings)
    found = flatten(make_config(apply_settings({}, wanted)).model_dump())
    assert {key: found[key] for key in wanted} == wanted
    run = mmrns.train(preset=name, dataset="countries", device="cpu", settings=TINY)
    assert run.results["selected_step"] in (1, 2)
    recorded = flatten(run.config.model_dump())
    own = {key: value for key, value in wanted.items() if key not in TINY and key != "training.autocast"}
    assert {key: recorded[key] for key in own} == own


def test_whatever_is_given_goes_before(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model: {dim: 16}\nobjective: {n3: 0.5}\nseed: 3\n")
    options = ["--preset", "fast", "--dataset", "countries", "--scorer", "DistMult", "--device", "cpu"]
    settings = {**TINY, "objective.n3": 0.25}
    del settings["model.dim"]
    out = ["--out", str(tmp_path / "run"), *(f"--set={key}={value}" for key, value in settings.items())]
    done = CliRunner().invoke(app, ["train", str(tmp_path / "c.yaml"), *options, *out])
    assert done.exit_code == 0, done.output
    recorded = flatten(read_config(tmp_path / "run" / "config.yaml"))
    expected = {"model.scorer": "DistMult", "model.dim": 16, "objective.n3": 0.25, "seed": 3, "method": "k-vs-all"}
    assert {key: recorded[key] for key in expected} == expected
    assert recorded["training.optimizer"] == "adagrad"
    assert not any("preset" in key for key in recorded)


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(
        UsageError, match=r"^unknown preset 'fsat'; did you mean 'fast'\? known: best, fast, multimodal, large$"
    ):
        mmrns.train(preset="fsat", dataset="countries")


def test_the_help_lists_every_preset() -> None:
    said = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["train", "--help"]).stdout
    told = " ".join(said.split()).partition("--preset")[2]
    assert all(f"{name} (" in told for name in presets())


@pytest.mark.parametrize(("flags", "there"), [("flags : fpu avx512_bf16 x", True), ("flags : fpu avx512f", False)])
def test_products_of_bfloat16_are_left_out_where_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, there: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(flags)
    monkeypatch.setattr(module, "_CPU", tmp_path / "cpuinfo")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert multiplies_bfloat16() == there
    assert with_preset("best", {})["training"].get("autocast", False) == there
    assert with_preset("best", {"training": {"autocast": False}})["training"]["autocast"] is False
    assert with_preset(None, {"seed": 1}) == {"seed": 1}
