from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmrns.data.datasets import Dataset
from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.vocabulary import Vocabulary
from mmrns.nn.model import Model
from mmrns.nn.scorers import TransE
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.samplers.igan import Igan
from mmrns.training.checkpoint import Checkpoint, save_checkpoint
from mmrns.training.progress import Progress
from mmrns.types import Batch


def _model(graph: KnowledgeGraph) -> Model:
    return Model(TransE(4, 1.0), len(graph.entities), len(graph.relations))


@pytest.mark.parametrize("filtered", [True, False])
def test_draws_follow_the_softmax_over_all_that_may_be_drawn(toy: Dataset, filtered: bool) -> None:
    graph = toy.graph
    model = _model(graph)
    torch.manual_seed(0)
    sampler = Igan(graph, toy.features, model.spec, negatives=20_000, dim=8, filtered=filtered)
    batch = Batch.of(graph.train[:8], torch.arange(8) % 2 == 0)
    negatives = sampler.draw(model.lookup(batch), model, 0)
    _, q = negatives.trace
    assert negatives.ids is not None
    true = torch.zeros_like(q, dtype=torch.bool)
    true[graph.train_index.batch_targets(batch)] = True
    assert ((q == 0) == (true & filtered)).all()
    for row, p in zip(negatives.ids, q.double(), strict=True):
        counts = torch.bincount(row, minlength=len(p)).double()
        expected = p * len(row)
        allowed = expected > 0
        assert counts[~allowed].sum() == 0
        chi2 = ((counts - expected)[allowed] ** 2 / expected[allowed]).sum()
        degrees = int(allowed.sum()) - 1
        assert chi2 < degrees + 5 * (2 * degrees) ** 0.5


def test_the_network_learns_what_the_model_scores_high(toy: Dataset) -> None:
    graph = toy.graph
    torch.manual_seed(0)
    model = _model(graph)
    sampler = Igan(graph, toy.features, model.spec, negatives=30, dim=16)
    batch = Batch.of(graph.train[:40], torch.arange(40) % 2 == 0)

    def expected_reward() -> float:
        with torch.no_grad():
            return float((sampler.draw(model.lookup(batch), model, 0).trace[1] * model.score_all(batch)).sum(1).mean())

    before = expected_reward()
    optimizer = torch.optim.Adam(sampler.parameters(), 0.02)
    for step in range(60):
        negatives = sampler.draw(model.lookup(batch), model, step)
        s_neg = model.score_against(model.lookup(batch), negatives)
        optimizer.zero_grad()
        sampler.loss(model.lookup(batch), negatives, s_neg[:, 0], s_neg, model, step).backward()
        optimizer.step()
    assert expected_reward() > before + 0.1
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("pretrain", [0, 1])
def test_a_row_for_which_everything_is_true_counts_nothing(pretrain: int) -> None:
    triples = torch.tensor([[0, 0, e] for e in range(3)] + [[1, 0, 0]])
    none = torch.empty(0, 3, dtype=torch.int64)
    graph = KnowledgeGraph(Vocabulary(["a", "b", "c"]), Vocabulary(["r"]), triples, none, none)
    model = _model(graph)
    sampler = Igan(graph, Features(), model.spec, negatives=5, dim=4, pretrain=pretrain)
    batch = Batch.of(triples, torch.zeros(4, dtype=torch.bool))
    negatives = sampler.draw(model.lookup(batch), model, 0)
    assert negatives.mask is not None
    assert negatives.mask.any(1).tolist() == [False, False, False, True]
    s_neg = model.score_against(model.lookup(batch), negatives)
    loss = sampler.loss(model.lookup(batch), negatives, s_neg[:, 0], s_neg, model, 0)
    assert isinstance(loss, torch.Tensor) == (pretrain == 0)
    if isinstance(loss, torch.Tensor):
        loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in sampler.parameters() if p.grad is not None)


def test_the_proposal_is_that_of_the_network_by_hand(toy: Dataset) -> None:
    graph = toy.graph
    model = _model(graph)
    torch.manual_seed(0)
    sampler = Igan(graph, toy.features, model.spec, negatives=5, dim=4, filtered=False)
    # What starts small would be near uniform whatever the network does.
    with torch.no_grad():
        for parameter in sampler.parameters():
            parameter.normal_()
    batch = Batch.of(graph.train[:6], torch.arange(6) % 2 == 0)
    p = dict(sampler.named_parameters())
    relation = torch.where(batch.head, batch.r + len(graph.relations), batch.r)
    x = torch.cat([p["entity.weight"][batch.anchor], p["relation.weight"][relation]], dim=1)
    for layer in ("hidden.0", "hidden.2"):
        x = (x @ p[f"{layer}.weight"].T + p[f"{layer}.bias"]).clamp(min=0)
    expected = torch.softmax(x @ p["out.weight"].T + p["out.bias"], dim=1)
    negatives = sampler.draw(model.lookup(batch), model, 0)
    found = sampler.proposal(batch, negatives, torch.arange(6))
    torch.testing.assert_close(found, expected.detach())
    assert found.max() > 3 / len(graph.entities)


@pytest.mark.parametrize("filtered", [True, False])
def test_pretraining_draws_uniformly_and_leaves_the_network_alone(toy: Dataset, filtered: bool) -> None:
    graph = toy.graph
    model = _model(graph)
    sampler = Igan(graph, toy.features, model.spec, negatives=20_000, dim=4, filtered=filtered, pretrain=3)
    batch = Batch.of(graph.train[:4], torch.arange(4) % 2 == 0)
    true = torch.zeros(4, len(graph.entities), dtype=torch.bool)
    true[graph.train_index.batch_targets(batch)] = True
    negatives = sampler.draw(model.lookup(batch), model, 2)
    assert negatives.ids is not None
    for row, known in zip(negatives.ids, true, strict=True):
        counts = torch.bincount(row, minlength=len(graph.entities)).double()
        allowed = ~known if filtered else torch.ones_like(known)
        assert counts[~allowed].sum() == 0
        expected = len(row) / allowed.sum()
        degrees = int(allowed.sum()) - 1
        assert ((counts[allowed] - expected) ** 2 / expected).sum() < degrees + 5 * (2 * degrees) ** 0.5
    s_neg = model.score_against(model.lookup(batch), negatives)
    assert sampler.loss(model.lookup(batch), negatives, s_neg[:, 0], s_neg, model, 2) == 0.0
    even = sampler.proposal(batch, negatives, torch.arange(4))
    may = (~true if filtered else torch.ones_like(true)).float()
    torch.testing.assert_close(even, may / may.sum(1, keepdim=True))
    assert sampler.draw(model.lookup(batch), model, 3).trace is not None


def test_a_run_cut_within_its_pretraining_resumes_bit_equal(toy: Dataset, tmp_path: Path) -> None:
    values = {
        "model": {"dim": 6},
        "sampler": {"name": "igan", "negatives": 5, "dim": 4, "pretrain": 5},
        "training": {"batch_size": 32},
        "device": "cpu",
    }
    whole, resumed = (build_trainer(make_config(values), toy) for _ in range(2))
    for step in range(3):
        whole.step(step)
    save_checkpoint(tmp_path / "c.safetensors", whole, Progress(step=3), {})
    Checkpoint.read(tmp_path / "c.safetensors").load(resumed)
    before = whole.sampler.get_parameter("out.bias").clone()
    for step in range(3, 9):
        assert torch.equal(whole.step(step), resumed.step(step))
        assert torch.equal(before, whole.sampler.get_parameter("out.bias")) == (step < 5)
    for a, b in zip(whole.sampler.state_dict().values(), resumed.sampler.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_each_side_has_its_own_vector_of_the_relation(toy: Dataset) -> None:
    graph, model = toy.graph, _model(toy.graph)
    sampler = Igan(graph, toy.features, model.spec, negatives=3, dim=8, filtered=False)
    # The same anchor and relation, asked for a tail and for a head.
    batch = Batch.of(torch.tensor([[7, 2, 1], [3, 2, 7]]), torch.tensor([False, True]))
    assert batch.anchor.tolist() == [7, 7]
    logq, q = sampler.draw(model.lookup(batch), model, 0).trace
    assert not torch.allclose(q[0], q[1])
    for row, used in ((0, 2), (1, 2 + len(graph.relations))):
        (of_relation,) = torch.autograd.grad(logq[row].sum(), sampler.relation.weight, retain_graph=True)
        assert of_relation.any(1).nonzero().flatten().tolist() == [used]
