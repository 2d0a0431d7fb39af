"""A dataset for other libraries: what they hold is what the dataset holds."""

from __future__ import annotations

import sys
from io import BytesIO

import networkx
import pytest
import torch

from mmrns.data.datasets import Dataset, load_dataset
from mmrns.errors import UsageError
from mmrns.prepare.formats import to_networkx, to_pyg


def test_networkx_has_every_triple_once(toy: Dataset) -> None:
    graph, found = toy.graph, to_networkx(toy)
    expected = {
        (graph.entities[h], graph.entities[t], graph.relations[r]): split
        for split in ("test", "valid", "train")
        for h, r, t in getattr(graph, split).tolist()
    }
    assert {(h, t, r): d["split"] for h, t, r, d in found.edges(keys=True, data=True)} == expected
    assert set(found) == set(graph.entities)
    assert found.nodes["e07"] == {"name": "Entity 7", "description": "member of group 3"}
    assert to_networkx(toy, ["test"]).number_of_edges() == len(graph.test)
    # It can be written.
    file = BytesIO()
    networkx.write_graphml(found, file)
    file.seek(0)
    again = networkx.read_graphml(file, force_multigraph=True)
    assert again.number_of_edges() == found.number_of_edges()


def test_networkx_names_relations() -> None:
    countries = load_dataset("countries")
    found = to_networkx(countries)
    assert found["country/France"]["country/Germany"]["borders"]["name"] == countries.relation_labels["borders"]


def test_pyg_has_the_ids_of_the_graph(toy: Dataset) -> None:
    pytest.importorskip("torch_geometric")
    data, graph = to_pyg(toy), toy.graph
    assert data["entity"].num_nodes == 40
    assert data["entity"].names == list(graph.entities)
    assert data.validate()
    whole = data.to_homogeneous(node_attrs=[], edge_attrs=["edge_index"])
    triples = torch.stack([whole.edge_index[0], whole.edge_type, whole.edge_index[1]], dim=1)
    assert sorted(map(tuple, triples.tolist())) == sorted(map(tuple, graph.train.tolist()))
    r = graph.relations.id("likes")
    for split in ("valid", "test"):
        rows = getattr(graph, split)
        found = data["entity", "likes", "entity"][f"{split}_edge_label_index"]
        assert torch.equal(found, rows[rows[:, 1] == r][:, [0, 2]].T)
    values, mask = toy.features.gather("text", torch.arange(40))
    assert torch.equal(data["entity"].text, values)
    assert torch.equal(data["entity"].text_mask, mask)
    assert "image" not in to_pyg(toy, ["text"])["entity"]


def test_pyg_that_is_not_installed_is_said(toy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_geometric.data", None)
    with pytest.raises(UsageError, match=r"needs PyTorch Geometric: pip install 'mmrns\[pyg\]'"):
        to_pyg(toy)
