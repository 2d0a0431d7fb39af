"""Every pair of options together: a step is taken, or the combination is refused in one line when it is put together.

The rows are a covering array over the registries, so that a new part meets all others by itself.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from covering import covering
from forms import FORMS, convert, form_of
from mmrns.data.datasets import Dataset
from mmrns.errors import UsageError
from mmrns.nn.embedders import STRUCTURE, Embedder
from mmrns.nn.losses import Loss
from mmrns.nn.mixtures import Mixture
from mmrns.nn.scorers import Scorer
from mmrns.runs.build import build_model, build_trainer
from mmrns.runs.config import make_config, takes
from mmrns.runs.methods import method_names, method_of
from mmrns.samplers.base import Sampler
from mmrns.samplers.dhns import Dhns
from mmrns.training.trainer import Trainer

# A sampler's form, or the name of a method that is no sampler.
METHODS = [*FORMS, *(name for name in method_names() if name not in Sampler.registry.names())]
READING = [name for name in Embedder.registry.names() if takes(Embedder.registry.get(name), "modalities")]
# Those that give a single view say so in the class.
SINGLE = [name for name in READING if "views" in vars(Embedder.registry.get(name))]
# With the mixture of their views.
EMBEDDERS = [
    *((name, (), "gated") for name in Embedder.registry.names() if name not in READING),
    *((name, ("image", "text"), "gated") for name in SINGLE),
    # Each of these meets every method, so that all mixtures are those of `fused`, and two views those of one of them.
    *(("fused", ("image", "text"), mixture) for mixture in Mixture.registry.names()),
    ("fused", ("text",), "gated"),
    *((name, ("image", "text"), "mean-probability") for name in READING if name not in [*SINGLE, "fused"]),
]


def fits(embedder: Any, scorer: str) -> bool:
    """Whether an embedder gives vectors for a scorer."""
    return issubclass(Scorer.registry.get(scorer), Embedder.registry.get(embedder[0]).scorer)


READ = ("fused", ("image", "text"), "gated")
FACTORS: dict[str, list[Any]] = {
    "method": METHODS,
    "scorer": Scorer.registry.names(),
    "loss": Loss.registry.names(),
    "embedder": EMBEDDERS,
    "optimizer": ["adam", "adagrad"],
    "autocast": [False, True],
    "sparse": [False, True],
    "reciprocal": [False, True],
    "sides": ["alternate", "bernoulli"],
    "dtype": [torch.float32, torch.float64],
    "n3": [0.0, 0.1],
}
ROWS = covering(FACTORS)
# What torch compiles are the formulas of scorers and losses. It takes a second for each, so that these are the fewest
# rows in which each occurs, beside every value of what changes the tensors that they are given.
COMPILED = [
    {key: values[i % len(values)] for key, values in FACTORS.items()}
    | {"method": ["self-adversarial", "1-vs-all", "inbatch, uncorrected"][i % 3], "dtype": torch.float32}
    | {"scorer": scorer, "loss": (losses := [x for x in Loss.registry.names() if x != "k-vs-all"])[i % len(losses)]}
    | {"embedder": (fitting := [embedder for embedder in EMBEDDERS if fits(embedder, scorer)])[i % len(fitting)]}
    | {"autocast": i % 2 == 1, "sparse": i % 3 == 2, "reciprocal": i // 2 % 2 == 1, "sides": "bernoulli"}
    for i, scorer in enumerate(Scorer.registry.names())
]


def config_of(row: dict[str, Any]) -> dict[str, Any]:
    embedder, modalities, mixture = row["embedder"]
    method = row["method"]
    draws = {"sampler": form_of(method, 5)} if method in FORMS else {"method": method}
    return {
        "model": {
            "scorer": row["scorer"],
            "dim": 6,
            "embedder": embedder,
            "modalities": list(modalities),
            "mixture": mixture,
            "reciprocal": row["reciprocal"],
        },
        "objective": {"loss": row["loss"], "n3": row["n3"]},
        "training": {
            "batch_size": 24,
            "lr": 0.01,
            "compile": row.get("compile", False),
            **{key: row[key] for key in ("optimizer", "autocast", "sparse", "sides")},
        },
        "device": "cpu",
        **draws,
    }


def sampler_of(row: dict[str, Any]) -> type[Sampler]:
    name = FORMS[row["method"]]["name"] if row["method"] in FORMS else method_of(row["method"]).sampler
    return Sampler.registry.get(name)


@pytest.fixture(scope="module")
def weighs(toy: Dataset) -> Callable[[str], bool]:
    """Whether the draws of a method have importance weights that differ within a row."""

    @cache
    def found(method: str) -> bool:
        plain = {"scorer": "TransE", "loss": None, "embedder": READ, "method": method, "n3": 0.0}
        rest = {"optimizer": "adam", "autocast": False, "sparse": False, "reciprocal": False, "sides": None}
        trainer = build_trainer(make_config(config_of(plain | rest)), toy)
        drawn = trainer.sampler.draw(trainer.model.lookup(trainer.batch(0)), trainer.model, 0)
        return drawn.log_weight is not None and bool(drawn.log_weight.std(1).max() > 1e-3)

    return found


@pytest.fixture(scope="module")
def modal(toy: Dataset) -> Callable[[Any], bool]:
    """Whether a model has the view structure and others, by its embedder, modalities and mixture."""

    @cache
    def found(embedder: Any) -> bool:
        name, modalities, mixture = embedder
        if name in SINGLE:
            return False
        model = {"dim": 6, "embedder": name, "modalities": list(modalities), "mixture": mixture}
        views = build_model(make_config({"model": model, "method": "uniform", "device": "cpu"}), toy).views
        return STRUCTURE in views and len(views) > 1

    return found


def why_not(row: dict[str, Any], weighs: Callable[[str], bool], modal: Callable[[Any], bool]) -> list[str]:
    """Why a combination makes no sense, as the message has to say; empty where it does."""
    loss, every = Loss.registry.get(row["loss"]), sampler_of(row).every
    embedder, mixture = Embedder.registry.get(row["embedder"][0]), Mixture.registry.get(row["embedder"][2])
    queries = row["method"] not in FORMS and method_of(row["method"]).queries
    reasons = {
        # A mean over all true entities needs all entities.
        "needs every entity as a candidate": loss.needs_all and not every,
        # A row-wise optimizer is of no use where every row has a gradient.
        "touches every row in a step": every and row["sparse"],
        # Negatives that are drawn often would count often, and nobody would be told.
        "takes no importance weights": not loss.takes_weights and not loss.needs_all and weighs(row["method"]),
        # Who has no modality cannot have another's.
        "replaces an entity's modalities": sampler_of(row).needs_modalities and not modal(row["embedder"]),
        # One query of all views is none of any.
        "asks each view by itself": sampler_of(row).asks_each_view and not mixture(("a", "b")).asks_each_view,
        # What lies where in a vector has a meaning for one formula.
        "gives vectors for": not fits(row["embedder"], row["scorer"]),
        # What is made up has vectors and nothing else.
        "makes vectors of no entity": issubclass(sampler_of(row), Dhns) and embedder.has_traits,
        # A query is of one side.
        "batches of queries have their sides in turn": queries and row["sides"] == "bernoulli",
    }
    return [message for message, holds in reasons.items() if holds]


def name_of(row: dict[str, Any]) -> str:
    return "-".join(str(value) for value in row.values())


def take_steps(trainer: Trainer, method: str) -> None:
    """One step a side: everything is finite, what must move moves."""
    modules = {"model": trainer.model, "sampler": trainer.sampler}
    before = {f"{m}.{n}": p.detach().clone() for m, module in modules.items() for n, p in module.named_parameters()}
    for step in range(2):
        assert torch.isfinite(trainer.step(step))
        for m, module in modules.items():
            for n, p in module.named_parameters():
                assert torch.isfinite(p).all(), (m, n)
                if p.grad is not None:
                    gradient = p.grad.coalesce().values() if p.grad.is_sparse else p.grad
                    assert torch.isfinite(gradient).all(), (m, n)
                assert p.dtype == before[f"{m}.{n}"].dtype
    after = {f"{m}.{n}": p for m, module in modules.items() for n, p in module.named_parameters()}
    still = [name for name, value in before.items() if torch.equal(value, after[name])]
    # Where the relation has the vector 0, what multiplies it gets no gradient.
    assert not still or method == "mmrns without guidance", still
    assert all(re.fullmatch(r"sampler\.information\.(?:.*\.)?(scale|gate(?:\.\d)?)\.weight", name) for name in still), (
        still
    )


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_a_step_with_every_pair_of_options(
    toy: Dataset, weighs: Callable[[str], bool], modal: Callable[[Any], bool], row: dict[str, Any]
) -> None:
    reasons = why_not(row, weighs, modal)
    if reasons:
        with pytest.raises(UsageError) as caught:
            build_trainer(make_config(config_of(row)), toy)
        assert any(reason in str(caught.value) for reason in reasons)
        assert "\n" not in str(caught.value)
        return
    trainer = build_trainer(make_config(config_of(row)), toy)
    convert(trainer, row["dtype"])
    take_steps(trainer, row["method"])


IN_ANOTHER_PROCESS = """
import sys
from functools import partial
sys.path[:0] = sys.argv[1:3]
import torch
torch.compile = partial(torch.compile, backend="eager")
import test_options
from mmrns.data.datasets import load_dataset
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config

toy = load_dataset(sys.argv[3])
for row in test_options.COMPILED:
    print(test_options.name_of(row), flush=True)
    plain, compiled = (
        build_trainer(make_config(test_options.config_of(row | {"compile": compile})), toy) for compile in (False, True)
    )
    expected = float(plain.step(0))
    assert abs(float(compiled.step(0)) - expected) < 1e-2 * abs(expected)
    for (name, a), b in zip(plain.model.named_parameters(), compiled.model.parameters(), strict=True):
        assert b.grad is not None and torch.isfinite(b).all(), name
        torch.testing.assert_close(*(x.to_dense() if x.is_sparse else x for x in (a.grad, b.grad)), rtol=0.1, atol=1e-3)
print("done")
"""


def test_a_step_with_compiled_formulas_and_every_pair(toy_folder: Path) -> None:
    # In a process of its own: torch does not compile what checks types at run time. Its own backend takes a compiler.
    here = Path(__file__).parent
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, here.parent, here, toy_folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("done\n"), done.stdout + done.stderr[-3000:]


def test_every_pair_is_there_and_few_rows_are() -> None:
    assert {row["scorer"] for row in COMPILED} == set(Scorer.registry.names())
    for a, b in combinations(FACTORS, 2):
        assert {(row[a], row[b]) for row in ROWS} == {(x, y) for x in FACTORS[a] for y in FACTORS[b]}
    # Autocast changes nothing of float64, so that it is to meet the embedders in float32.
    plain = [row for row in ROWS if row["dtype"] == torch.float32 and row["autocast"]]
    assert {row["embedder"] for row in plain} == set(EMBEDDERS)
    assert len(plain) > len(ROWS) / 6
    assert len(ROWS) < 1.2 * len(FACTORS["method"]) * max(len(FACTORS["scorer"]), len(EMBEDDERS))
