"""Who is similar to whom: cosines of what the model has learned, and of features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mmrns
from mmrns.errors import UsageError
from toy import SHORT


@pytest.fixture(scope="module", params=["TransE", "RotatE", "pRotatE"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> mmrns.Run:
    from toy import write_toy

    kg = write_toy(tmp_path_factory.mktemp("neighbours") / "kg")
    return mmrns.train(dataset=kg, scorer=request.param, method="uniform", device="cpu", settings=SHORT)


def _cosine(a: Any, b: Any) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_by_structure_they_are_the_cosines_of_the_models_vectors(run: mmrns.Run) -> None:
    vectors = run.model.entity.weight.detach().numpy()
    if run.config.model.scorer == "pRotatE":
        # Phases: half a turn either way is the same point.
        phases = vectors * np.pi / run.model.scorer.init_range
        vectors = np.concatenate([np.cos(phases), np.sin(phases)], axis=1)
    graph = run.dataset.graph
    seen = [name for name in graph.entities if name not in ("e04", "e39")]
    expected = {name: _cosine(vectors[graph.entities.id(name)], vectors[graph.entities.id("e04")]) for name in seen}
    frame = run.neighbours("Entity 4", top=99)
    assert frame.columns == ["rank", "entity", "name", "similarity", "structure", "image", "text"]
    # What train lacks has a vector that was never trained, and an entity is no neighbour of itself.
    assert set(frame["entity"]) == set(seen)
    assert frame["similarity"].to_list() == pytest.approx(sorted(expected.values(), reverse=True), abs=1e-5)
    assert dict(frame.select("entity", "similarity").iter_rows()) == pytest.approx(expected, abs=1e-5)
    assert frame["rank"].to_list() == list(range(1, 39))
    assert frame["name"][0] == f"Entity {int(frame['entity'][0][1:])}"
    assert run.neighbours("e04", top=3).equals(frame.head(3))


def test_by_a_modality_they_are_those_of_the_mean_tokens(run: mmrns.Run) -> None:
    values, mask = run.dataset.features.gather("text", torch.arange(40))
    means = (values.sum(1) / mask.sum(1, keepdim=True)).numpy()
    frame = run.neighbours("e04", by="text", top=99)
    graph = run.dataset.graph
    for row in frame.to_dicts():
        expected = _cosine(means[graph.entities.id(row["entity"])], means[graph.entities.id("e04")])
        assert row["similarity"] == row["text"] == pytest.approx(expected, abs=1e-5)
        assert (row["image"] is None) == (not run.dataset.features["image"].present[graph.entities.id(row["entity"])])
    assert len(frame) == 35
    # Features are by group, of which there are four.
    assert sum(int(name[1:]) % 4 == 0 for name in frame["entity"].head(9)) >= 8


def test_what_there_is_nothing_to_compare_of_is_said(run: mmrns.Run) -> None:
    for entity, by, message in (
        ("e05", "text", "^'e05' has no feature 'text'; ask by another: structure, image$"),
        (
            "e39",
            "structure",
            "'e39' has no vector that was trained: train has no triple of it; ask by another: image, text",
        ),
        ("e04", "txt", "unknown measure of similarity 'txt'; did you mean 'text'"),
        ("e4", "text", "unknown entity 'e4'; did you mean"),
    ):
        with pytest.raises(UsageError, match=message):
            run.neighbours(entity, by=by)


def test_views_of_a_fused_model(toy_folder: Path) -> None:
    run = mmrns.train(dataset=toy_folder, modalities=["text"], method="uniform", device="cpu", settings=SHORT)
    frame = run.neighbours("e04", top=99)
    assert len(frame) == 38
    vectors = {row["entity"]: row["structure"] for row in run.embeddings().to_dicts()}
    first = frame.row(0, named=True)
    expected = _cosine(np.array(vectors[first["entity"]]), np.array(vectors["e04"]))
    assert first["similarity"] == pytest.approx(expected, abs=1e-5)
