"""What a notebook does: names, classes and objects, frames in memory, no folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor

import mmrns
from mmrns.data.datasets import Dataset
from mmrns.errors import DataError, UsageError
from mmrns.nn.embedders import STRUCTURE, TableEmbedder
from mmrns.nn.losses import Loss, SoftplusLoss
from mmrns.nn.model import Model
from mmrns.nn.scorers import RotatE, Scorer
from mmrns.samplers.uniform import Uniform
from mmrns.types import Batch, Views

QUICK: dict[str, Any] = {"training": {"batch_size": 64, "evaluate_every": 10, "lr": 0.01}, "device": "cpu"}


class NextDoor(mmrns.Sampler):
    """The entities that follow the target by id."""

    def propose(self, batch: Batch, step: int) -> Tensor:
        away = torch.arange(1, self.negatives + 1, device=batch.h.device)
        return (batch.target[:, None] + away) % self.n_entities


class Bilinear(Scorer):
    """f(h, r, t) = <h, r, t>."""

    comparison = "dot"

    def query(self, anchor: Tensor, relation: Tensor, head: bool) -> Tensor:
        return anchor * relation


class Short(TableEmbedder):
    """Vectors of length 1."""

    def forward(self, ids: Tensor) -> Views:
        return self._short(super().forward(ids))

    def all(self) -> Views:
        return self._short(super().all())

    @property
    def table(self) -> None:
        return None

    def _short(self, views: Views) -> Views:
        return views.with_vectors(torch.nn.functional.normalize(views.vectors, dim=-1))


class Squares(Loss):
    """The squared distances of scores from 1 and -1."""

    def __init__(self, *, gamma: float, alpha: float, size: float = 1.0):
        super().__init__(gamma=gamma, alpha=alpha)
        self.size = size

    def rows(self, s_pos: Tensor, s_neg: Tensor, mask: Tensor | None, log_weight: Tensor | None) -> Tensor:
        return (s_pos - self.size) ** 2 + ((s_neg + self.size) ** 2).mean(1)


@pytest.fixture(scope="module")
def run(toy: Dataset) -> mmrns.Run:
    return mmrns.train(QUICK, dataset=toy, scorer="RotatE", sampler="mmrns", modalities=["text"], dim=8, steps=20)


def test_names_train_without_a_folder(
    run: mmrns.Run, toy: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    again = mmrns.train(QUICK, dataset=toy, scorer="RotatE", sampler="mmrns", modalities=["text"], dim=8, steps=20)
    assert os.listdir(tmp_path) == []
    assert again.results["test"] == run.results["test"]
    config = run.config
    assert (config.method, config.sampler.name, config.model.scorer) == ("mmrns", "mmrns", "RotatE")
    assert (config.model.embedder, config.model.modalities, config.training.steps) == ("fused", ["text"], 20)
    assert run.model.views == (STRUCTURE, "text")


def test_classes_of_ones_own_stand_where_names_do(toy: Dataset) -> None:
    found = mmrns.train(
        QUICK, dataset=toy, scorer=Bilinear, sampler=NextDoor, embedder=Short, loss=Squares, dim=8, steps=10
    )
    assert isinstance(found.sampler, NextDoor)
    assert isinstance(found.model.scorer, Bilinear)
    assert isinstance(found.model.entity, Short)
    assert found.config.objective.model_extra == {"size": 1.0}
    assert found.config.sampler.model_extra == {"negatives": 64}
    options = {"sampler.negatives": 3, "objective.size": 2.0}
    other = mmrns.train(QUICK, dataset=toy, sampler=NextDoor, loss=Squares, dim=8, steps=10, settings=options)
    assert other.sampler.negatives == 3
    assert other.results["test"]["queries"] == found.results["test"]["queries"]


def test_objects_stand_where_names_do_but_not_in_a_folder(toy: Dataset, tmp_path: Path) -> None:
    scorer = RotatE(6, 0.5)
    spec = Model(scorer, len(toy.graph.entities), len(toy.graph.relations)).spec
    sampler = Uniform(toy.graph, toy.features, spec, negatives=7)
    objective = SoftplusLoss(gamma=2.0, alpha=0.0)
    found = mmrns.train(QUICK, dataset=toy, scorer=scorer, sampler=sampler, loss=objective, steps=10)
    assert found.model.scorer is scorer
    assert found.sampler is sampler
    assert (found.config.model.scorer, found.config.model.dim, found.config.method) == ("RotatE", 6, "uniform")
    assert found.config.sampler.model_extra is not None
    assert found.config.sampler.model_extra["negatives"] == 7
    with pytest.raises(UsageError, match="a folder cannot tell how the scorer object was made"):
        mmrns.train(QUICK, dataset=toy, scorer=scorer, steps=10, out=tmp_path / "run")


def test_a_method_is_named_by_method_or_sampler(toy: Dataset) -> None:
    kwargs: dict[str, Any] = {"dataset": toy, "dim": 6, "steps": 4}
    by_method = mmrns.train(QUICK, method="bernoulli", **kwargs)
    by_sampler = mmrns.train(QUICK, sampler="bernoulli", **kwargs)
    assert by_method.config == by_sampler.config
    mixed = mmrns.train(QUICK, method="bernoulli", sampler="hard", **kwargs)
    assert (mixed.config.recipe.sampler, mixed.config.recipe.sides) == ("hard", "bernoulli")


def test_a_frame_in_memory_becomes_a_run_and_the_run_a_folder(tmp_path: Path) -> None:
    pairs = [(f"p{i}", "knows", f"p{(i + 1) % 30}") for i in range(30)] + [
        (f"p{i}", "likes", f"p{(i * 7 + 3) % 30}") for i in range(30)
    ]
    frame = pl.DataFrame(pairs, schema=["head", "relation", "tail"], orient="row")
    data = mmrns.Dataset.from_triples(
        frame, split={"valid": 0.2, "test": 0.2}, features={"size": {f"p{i}": [i / 30, 1.0] for i in range(20)}}
    )
    run = mmrns.train(QUICK, dataset=data, sampler="mmrns", dim=6, steps=10, out=tmp_path / "run", plots=False)
    assert run.config.data.dataset is None
    # Its folder keeps all but the features, which here the sampler reads.
    alone = mmrns.load_run(tmp_path / "run")
    assert alone.evaluate() == run.results["test"]
    with pytest.raises(DataError, match=r"alone has the features 'size' that are read here; .*\(in Python dataset=\)"):
        alone.inspect("p1", "knows", "p2")
    again = mmrns.load_run(tmp_path / "run", dataset=data)
    assert again.evaluate() == run.results["test"]
    in_memory = mmrns.train(QUICK, dataset=data, sampler="mmrns", dim=6, steps=10)
    assert in_memory.folder is None
    in_memory.save(tmp_path / "saved")
    for file in ("model.safetensors", "sampler.safetensors", "config.yaml", "entities.txt"):
        assert (tmp_path / "saved" / file).read_bytes() == (tmp_path / "run" / file).read_bytes()
    saved = mmrns.load_run(tmp_path / "saved", dataset=data)
    assert saved.history.drop("seconds").equals(in_memory.history.drop("seconds"))
    with pytest.raises(DataError, match="holds a run already"):
        in_memory.save(tmp_path / "run")


def test_scores_are_those_of_the_predictions(run: mmrns.Run) -> None:
    predicted = run.predict("e04", "likes", top=5)
    scored = run.score(predicted)
    assert scored.columns == ["head", "relation", "tail", "score"]
    assert scored["score"].to_list() == pytest.approx(predicted["score"].to_list(), abs=1e-5)
    assert run.score([("e00", "knows", "e01"), ("Entity 1", "knows", "e02")]).shape == (2, 4)
    assert run.score([]).shape == (0, 4)
    ids, names = (
        [(h, "knows", t) for h, t in pairs]
        for pairs in ([("e01", "e02"), ("e03", "e01")], [("Entity 1", "e02"), ("e03", "Entity 1")])
    )
    assert run.score(ids)["score"].equals(run.score(names)["score"])
    assert run.score(names)["head"].to_list() == ["Entity 1", "e03"]
    with pytest.raises(UsageError, match="did you mean"):
        run.score([("e4", "likes", "e00")])


def test_embeddings_have_names_and_say_what_is_missing(run: mmrns.Run, toy: Dataset) -> None:
    frame = run.embeddings()
    assert frame.columns == ["entity", "name", STRUCTURE, "text"]
    assert frame["entity"].to_list() == list(toy.graph.entities)
    assert frame["name"][3] == "Entity 3"
    assert frame["text"].is_null().to_list() == (~toy.features["text"].present).tolist()
    # The entity of the test split lacks a trained vector, but it has no text either to be scored by.
    assert not frame[STRUCTURE].is_null().any()
    with torch.no_grad():
        vectors = run.model.entity.all().vectors
    assert torch.equal(
        torch.from_numpy(frame["text"].drop_nulls().to_numpy().copy()), vectors[toy.features["text"].present, 1]
    )
    relations = run.embeddings("relations")
    assert relations.columns == ["relation", "name", "vector"]
    assert relations["vector"].to_numpy().shape == (5, run.model.spec.relation_width)


def test_history_and_plot(run: mmrns.Run) -> None:
    history = run.history
    assert history.filter(pl.col("valid_mrr").is_not_null())["step"].to_list() == [10, 20]
    known = {"step", "seconds", "loss", "model_loss", "sampler_loss", "valid_mrr", "hardness.score_percentile"}
    assert known <= set(history.columns)
    # The MRR, and the losses of the model and of the sampler.
    assert len(run.plot().axes) == 3


@pytest.mark.parametrize("by", ["relation", "category", "side"])
def test_metrics_by_part_are_a_frame(run: mmrns.Run, by: Any) -> None:
    frame = run.evaluate(by=by)
    assert frame.columns[: 3 + (by == "relation")] == [by, *(["name"] * (by == "relation")), "queries", "mrr"]
    assert frame["queries"].sum() == run.results["test"]["queries"]
    mean = (frame["mrr"] * frame["queries"]).sum() / frame["queries"].sum()
    assert mean == pytest.approx(run.results["test"]["both"]["realistic"]["mrr"])
    assert {"interval.mrr"} <= set(run.evaluate(by=by, bootstrap=20).columns)


def test_reprs_say_sizes(run: mmrns.Run, toy: Dataset) -> None:
    assert repr(toy) == "Dataset(toy: 40 entities, 5 relations, image 88 %, text 90 %)"
    assert repr(run.model.scorer) == "RotatE(d=8)"
    assert repr(run.model) == "Model(RotatE(d=8), 40 entities, 5 relations, views structure, text)"
    assert repr(run.sampler).startswith("Mmrns(K=40")
    test, valid = (run.results[split]["both"]["realistic"]["mrr"] for split in ("test", "valid"))
    assert repr(run) == f"Run(RotatE, mmrns, toy, seed 0: valid MRR {valid:.4f}, test MRR {test:.4f})"


WRONG = {
    "dataset=3": "dataset=3 is no dataset; give a name, a folder or Dataset.from_triples",
    "dataset='countrys'": "did you mean 'countries'",
    "config=3": "config is a mapping or a YAML file, not 3",
    "config=data": "a dataset is given by dataset=",
    "config={'data': {'dataset': data}}": "data.dataset: input should be a valid string (got Dataset(countries: 843",
    "scorer=3": "scorer=3 is no scorer; give a name, a class or an object",
    "scorer=Uniform": "is no scorer; give a name, a class or an object",
    "sampler=data": "is no sampler; give a name, a class or an object",
    "sampler='unifrm'": "unknown method 'unifrm'; did you mean 'uniform'",
    "method='unifrm'": "unknown method 'unifrm'; did you mean 'uniform'",
    "modalities=['imag']": "did you mean 'image'",
    "steps='many'": "training.steps: input should be a valid integer",
    "seed=-1": "seed: input should be greater than or equal to 0",
    "resume=True": "resume needs the folder of the run",
    "settings=['training.step=3']": "did you mean 'training.steps'",
}


def test_a_wrong_value_is_one_line() -> None:
    # In a process of its own: here annotations are checked before the code sees a value.
    code = (
        "import sys, json, mmrns\n"
        "from mmrns.samplers.uniform import Uniform\n"
        "data = mmrns.load_dataset('countries')\n"
        "for call in json.loads(sys.argv[1]):\n"
        "    try: eval(f'mmrns.train({call})')\n"
        "    except mmrns.errors.MmrnsError as error: print(json.dumps(str(error)))\n"
    )
    command = [sys.executable, "-c", code, json.dumps([*WRONG])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for (call, message), told in zip(WRONG.items(), found, strict=True):
        assert message in told, call
        assert "\n" not in told, call
        assert len(told) < 500, call


def test_a_dataset_without_validation_names_the_remedy() -> None:
    data = mmrns.Dataset.from_triples([("a", "r", "b"), ("b", "r", "c")])
    with pytest.raises(UsageError, match=r"split="):
        mmrns.train(QUICK, dataset=data, steps=2)


def test_a_registered_class_has_a_name_in_the_command_line_too(toy: Dataset) -> None:
    mmrns.register(NextDoor, "next-door of test_front_door")
    try:
        run = mmrns.train(QUICK, dataset=toy, sampler="next-door of test_front_door", dim=6, steps=3)
        assert run.config.method == "next-door of test_front_door"
    finally:
        del mmrns.Sampler.registry._classes["next-door of test_front_door"]


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({}, "no feature that the model reads: they are ranked by vectors that nothing has trained; model.modalities="),
        ({"modalities": ["text"]}, "no feature that the model reads"),
        (
            {"modalities": ["image"]},
            "and the model reads their features; model.structure_dropout=0.2 trains it for such",
        ),
        ({"modalities": ["image"], "structure_dropout": 0.2}, None),
    ],
)
def test_what_can_be_known_of_new_entities_is_said_before_training(
    toy: Dataset, model: dict[str, Any], told: str | None
) -> None:
    class Notes(mmrns.Callback):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def on_note(self, message: str) -> None:
            self.lines.append(message)

    # Entity 39 has a picture, no text, and no triple but one of test.
    notes = Notes()
    config = {"model": {"dim": 4, **model}, "training": {"hardness": False}, "device": "cpu"}
    mmrns.train(config, dataset=toy, method="uniform", steps=1, callbacks=[notes])
    found = [line for line in notes.lines if "have no triple in train" in line]
    assert len(found) == (told is not None)
    if told is not None:
        assert found[0].startswith("1 of the entities of valid and test")
        assert told in found[0]
