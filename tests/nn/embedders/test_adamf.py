"""Joint vectors of structure and modalities, by hand, and what joins them where something is missing."""

from __future__ import annotations

import math

import torch

from mmrns.data.datasets import Dataset
from mmrns.nn.embedders.adamf import AdaMFEmbedder
from mmrns.runs.build import build_model
from mmrns.runs.config import make_config
from mmrns.types import Batch

LACKS_BOTH, LACKS_IMAGE, UNSEEN = 5, 11, 39


def embedder_of(toy: Dataset, **options: object) -> AdaMFEmbedder:
    model = {"embedder": "adamf", "dim": 4, "modalities": ["image", "text"], **options}
    found = build_model(make_config({"model": model, "method": "uniform", "device": "cpu"}), toy).double().entity
    assert isinstance(found, AdaMFEmbedder)
    return found


@torch.no_grad()
def test_vectors_by_hand(toy: Dataset) -> None:
    embedder, ids = embedder_of(toy), torch.tensor([0, LACKS_IMAGE, LACKS_BOTH, UNSEEN])
    embedder.attention.copy_(torch.tensor([1.0, -2.0, 0.5, 3.0]))
    for pool in embedder.parts.pools:
        pool.projection.bias.copy_(torch.tensor([0.3, -0.2, 0.1, 0.4]))
    parts, found, weights = embedder.parts(ids), embedder(ids), embedder.weights(ids)
    # Structure, image, text; of the last two the image, and neither of the others.
    has = [[0, 1, 2], [0, 2], [0], [1]]
    assert parts.present.nonzero().tolist() == [[row, v] for row, views in enumerate(has) for v in views]
    for row, views in enumerate(has):
        logits = {v: math.exp(float(parts.vectors[row, v].tanh() @ embedder.attention)) for v in views}
        expected = {v: logit / sum(logits.values()) for v, logit in logits.items()}
        assert [round(w, 9) for w in weights[row].tolist()] == [round(expected.get(v, 0.0), 9) for v in range(3)]
        vector = sum(w * parts.vectors[row, v] for v, w in expected.items())
        torch.testing.assert_close(found.vectors[row, 0], torch.as_tensor(vector))
    assert found.present.all()


def test_what_is_known_by_features_and_what_is_read(toy: Dataset) -> None:
    embedder = embedder_of(toy)
    assert embedder.views == ("joint",)
    assert embedder.reads == ("image", "text")
    assert embedder.by_features(torch.tensor([0, LACKS_IMAGE, LACKS_BOTH, UNSEEN])).tolist() == [
        True,
        True,
        False,
        True,
    ]
    assert embedder_of(toy, modalities=["text"]).reads == ("text",)


@torch.no_grad()
def test_vectors_start_as_long_as_those_of_a_table(toy: Dataset) -> None:
    embedder = embedder_of(toy, dim=200)
    vectors = embedder.all().vectors[embedder.parts.all().present.all(1)]
    table = build_model(make_config({"model": {"dim": 200}, "method": "uniform", "device": "cpu"}), toy).entity
    assert 0.8 < float(vectors.std() / table.all().vectors.std()) < 1.25


def test_an_entity_that_train_lacks_goes_by_its_features(toy: Dataset) -> None:
    values = {"model": {"embedder": "adamf", "dim": 4}, "method": "uniform", "device": "cpu"}
    model = build_model(make_config(values), toy)
    batch = Batch.of(torch.tensor([[UNSEEN, 1, 0]]), False)
    with torch.no_grad():
        before = model.score_all(batch)
        model.entity.parts.structure.weight[UNSEEN] += 10
        assert torch.equal(model.score_all(batch), before)
