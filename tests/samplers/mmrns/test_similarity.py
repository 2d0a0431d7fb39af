from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from live_memory import LiveMemory
from mmrns.data.datasets import Dataset
from mmrns.data.features import Features, Modality
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.vocabulary import Vocabulary
from mmrns.nn.model import Model
from mmrns.nn.scorers import TransE
from mmrns.rng import seeded
from mmrns.samplers.mmrns.attention import KnowledgeGuidedAttention
from mmrns.samplers.mmrns.published import MmrnsPublished
from mmrns.samplers.mmrns.similarity import structure
from mmrns.types import Batch

DIM = 6


def _build(toy: Dataset, memory_mb: int) -> tuple[Model, MmrnsPublished]:
    with seeded(0, "test"):
        model = Model(TransE(DIM, 1.0), len(toy.graph.entities), len(toy.graph.relations))
        settings = {"negatives": 4, "pool": 30, "width": 8, "gate_width": 9, "memory_mb": memory_mb}
        return model, MmrnsPublished(toy.graph, toy.features, model.spec, **settings)


@pytest.mark.parametrize("relations", [1, 5])
@pytest.mark.parametrize("memory_mb", [0, 1024])
@pytest.mark.parametrize("at_once", [1, 3])
def test_folded_and_chunked_similarities_equal_the_direct_ones(
    toy: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    relations: int,
    memory_mb: int,
    at_once: int,
) -> None:
    """In float64, with gradients: one relation or all, in one piece or a relation at a time with recomputation.

    With cosines of one relation at a time, as on a processor, or of several.
    """
    monkeypatch.setattr(KnowledgeGuidedAttention, "folds", lambda self, modality, n_relations: n_relations > 0)
    rows = toy.graph.train[:60]
    if relations == 1:
        rows = rows[rows[:, 1] == rows[0, 1]]
    batch = Batch.of(rows, torch.arange(len(rows)) % 2 == 0)
    assert len(batch.relations) == relations
    outcomes: list[tuple[Tensor, list[Tensor]]] = []
    for direct in (True, False):
        model, sampler = _build(toy, memory_mb=1024 if direct else memory_mb)
        if not direct:
            monkeypatch.setattr(sampler.similarity, "_relations_at_once", lambda candidates, rows: at_once)
        model.double()
        sampler.double()
        pool = sampler.pool(0)
        candidates = structure(model.entities(pool))
        found = sampler.similarity(model.lookup(batch), pool, candidates, model, direct=direct)
        torch.sin(3 * found).sum().backward()
        gradients = [p.grad for p in [*sampler.parameters(), *model.parameters()] if p.grad is not None]
        outcomes.append((found, gradients))
    torch.testing.assert_close(outcomes[1][0], outcomes[0][0], rtol=0, atol=1e-10)
    assert len(outcomes[0][1]) == len(outcomes[1][1])
    for a, b in zip(outcomes[0][1], outcomes[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("memory_mb", [0.3, 0.05, 0])
def test_a_draw_and_its_gradients_are_the_same_under_any_bound(toy: Dataset, memory_mb: float) -> None:
    batch = Batch.of(toy.graph.train[:60], torch.arange(60) % 2 == 0)
    outcomes: list[tuple[Tensor, list[Tensor]]] = []
    for bound in (1024, memory_mb):
        model, sampler = _build(toy, memory_mb=1024)
        model.double()
        sampler.double()
        sampler.similarity.memory_mb = bound
        lookup = model.lookup(batch)
        drawn = sampler.draw(lookup, model, 0)
        s_pos, s_neg = model.score(lookup), model.score_against(lookup, drawn)
        (s_neg.mean() + sampler.loss(lookup, drawn, s_pos, s_neg, model, 0)).backward()
        gradients = [p.grad for p in [*sampler.parameters(), *model.parameters()] if p.grad is not None]
        outcomes.append((drawn.entities(60), gradients))
    assert torch.equal(outcomes[0][0], outcomes[1][0])
    assert len(outcomes[0][1]) == len(outcomes[1][1])
    for a, b in zip(outcomes[0][1], outcomes[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("n_relations", "image", "text"), [(40, 24, 4), (2, 49, 16)])
def test_the_bound_is_kept(n_relations: int, image: int, text: int) -> None:
    n, g = 400, torch.Generator().manual_seed(0)
    train = torch.stack([torch.randint(size, (300,), generator=g) for size in (n, n_relations, n)], dim=1)
    names = Vocabulary([f"e{i:03d}" for i in range(n)]), Vocabulary([f"r{i:03d}" for i in range(n_relations)])
    graph = KnowledgeGraph(*names, train, train[:3], train[:3])
    every = torch.arange(n)
    modalities = {
        name: Modality(torch.randn(n, tokens, 100, generator=g), torch.ones(n, tokens, dtype=torch.bool), every)
        for name, tokens in (("image", image), ("text", text))
    }
    batch = Batch.of(train[:128], torch.zeros(128, dtype=torch.bool))
    model = Model(TransE(16, 1.0), n, n_relations)
    peaks: dict[int, float] = {}
    for bound in (1024, 16):
        sampler = MmrnsPublished(graph, Features(modalities), model.spec, negatives=4, pool=300, memory_mb=bound)
        with LiveMemory() as memory:
            lookup = model.lookup(batch)
            drawn = sampler.draw(lookup, model, 0)
            s_pos, s_neg = model.score(lookup), model.score_against(lookup, drawn)
            (s_neg.mean() + sampler.loss(lookup, drawn, s_pos, s_neg, model, 0)).backward()
        peaks[bound] = memory.peak / 2**20
        (said,) = (int(x) for x in re.findall(r"hold about ([\d,]+) MiB", sampler.notes(batch)[-1]))
        assert bound < 1024 or peaks[bound] < 1.3 * said
    assert peaks[1024] > 50
    # The similarities themselves, the logits and what is made of them are there either way.
    assert peaks[16] < 16 + 10 * 4 * 128 * 300 * 3 / 2**20


@pytest.mark.parametrize("n_relations", [1, 5, 40])
def test_the_terms_of_an_entity_take_as_much_as_is_estimated(toy: Dataset, n_relations: int) -> None:
    similarity, pool = _build(toy, memory_mb=1024)[1].similarity, torch.arange(40)
    attention = similarity.attention
    assert attention is not None
    with LiveMemory() as memory:
        terms = attention.terms(similarity.tokens(pool), n_relations=n_relations)
        parts = [part for t in terms for part in (t.attended, t.affinity)]
        parts += [part for t in terms if (f := t.folded) for part in (f.constant, f.blocks, f.pairs)]
        torch.stack([part.sum() for part in parts]).sum().backward()
    share = memory.peak / 4 / len(pool) / attention.reals_per_entity(n_relations)
    assert 0.5 < share <= 1
