"""`reference=True` against recorded steps: the authors' (beside the repository) and our own (in it)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrns.data.features import Features, Modality
from mmrns.data.graph import KnowledgeGraph, Vocabulary
from mmrns.nn.losses import SelfAdversarialLoss
from mmrns.nn.model import Model
from mmrns.registry import scorer_class
from mmrns.samplers.mmrns import Mmrns
from mmrns.types import Batch, Negatives

GOLDEN = ["TransE_head", "TransE_tail", "RotatE_tail", "DistMult_head"]
NAMES = {
    "attention.project.0": "linear_img",
    "attention.project.1": "linear_text",
    "attention.gate.0": "linear_rel1",
    "attention.gate.1": "linear_rel2",
    "attention.out.0": "linear_img_project",
    "attention.out.1": "linear_text_project",
    "attention.norm": "layernorm",
    "gate.hidden": "linear1",
    "gate.gate": "linear3",
}


class Recorded(Mmrns):
    """The sampler with its pool and noise replaced by recorded ones."""

    pool: Tensor
    gumbel: Tensor

    def candidates(self, step: int) -> Tensor:
        return self.pool

    def noise(self, shape: torch.Size, step: int, draw: int, device: torch.device) -> Tensor:
        return self.gumbel[draw]


def _graph(z: Mapping[str, np.ndarray], head: bool) -> KnowledgeGraph:
    """A graph whose train split makes exactly the recorded candidates true."""
    n_entities, n_relations = len(z["kge.entity_embedding"]), len(z["kge.relation_embedding"])
    rows, entities = z["true_mask"].nonzero()
    triples = z["positives_hrt"][rows].copy()
    triples[:, 0 if head else 2] = entities
    names = [Vocabulary([f"{i:05d}" for i in range(n)]) for n in (n_entities, n_relations)]
    none = torch.empty(0, 3, dtype=torch.int64)
    return KnowledgeGraph(*names, torch.from_numpy(triples), none, none)


@pytest.mark.parametrize("name", GOLDEN)
def test_reference_reproduces_the_authors_step(shared: Path, name: str) -> None:
    path = shared / "golden" / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"needs the recorded step {path.name}")
    z = dict(np.load(path).items())
    scorer_name, side = name.split("_")
    head, gamma = side == "head", float(z["kge.gamma"][0])
    graph = _graph(z, head)

    features = Features(
        {
            m: Modality(
                torch.from_numpy(z[m]),
                torch.ones(z[m].shape[:2], dtype=torch.bool),
                torch.arange(len(graph.entities)),
            )
            for m in ("image", "text")
        }
    )
    scorer = scorer_class(scorer_name)(dim=12, init_range=float(z["kge.embedding_range"][0]))
    model = Model(scorer, len(graph.entities), len(graph.relations))
    sampler = Recorded(
        graph, features, model.spec, negatives=3, pool=18, modalities=["image", "text"],
        loss_rate=100.0, alpha=0.5, reference=True,
    )  # fmt: skip
    sampler.pool, sampler.gumbel = torch.from_numpy(z["pool"]), torch.from_numpy(z["gumbel_noise"])
    recorded = {"entity.weight": "kge.entity_embedding", "relation.weight": "kge.relation_embedding"}
    parameters = {recorded[n]: p for n, p in model.named_parameters()}
    for n, p in sampler.named_parameters():
        layer, _, kind = n.rpartition(".")
        parameters[f"kca.{NAMES[layer]}.{kind}"] = p
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(z[key]))

    triples = torch.from_numpy(z["positives_hrt"])
    weight = torch.from_numpy(z["subsampling_weight"])
    batch = Batch.of(triples, torch.full((len(triples),), head), weight)
    negatives: Negatives = sampler.draw(batch, model, 7)
    trace = negatives.trace
    for modality in ("image", "text", "structure"):
        torch.testing.assert_close(
            trace.similarities[modality].values.detach(),
            torch.from_numpy(z[f"sim_{modality}"]),
            rtol=0,
            atol=1e-5,
        )
    torch.testing.assert_close(trace.logits.detach(), torch.from_numpy(z["logits_masked"]), rtol=1e-5, atol=1e-5)
    assert (trace.positions == torch.from_numpy(z["drawn_positions"])).all()

    margin = gamma if scorer.distance else 0.0
    s_pos, s_neg = model.score(batch), model.score_against(batch, negatives)
    torch.testing.assert_close((s_pos + margin)[:, None].detach(), torch.from_numpy(z["positive_scores"]))
    torch.testing.assert_close((s_neg + margin).detach(), torch.from_numpy(z["negative_scores"]))
    objective = SelfAdversarialLoss(gamma=margin, alpha=0.5)
    loss = objective(s_pos, s_neg, negatives.mask, batch.weight, negatives.logp)
    torch.testing.assert_close(loss.item(), float(z["positive_loss"] + z["negative_loss"]) / 2, rtol=1e-5, atol=0)
    loss = loss + sampler.loss(batch, negatives, s_pos, s_neg, model, 7)
    torch.testing.assert_close(loss.item(), float(z["loss"]), rtol=1e-5, atol=0)
    loss.backward()
    assert json.dumps(sorted(parameters)) == json.dumps(sorted(k[5:] for k in z if k.startswith("grad.")))
    for key, parameter in parameters.items():
        assert parameter.grad is not None
        error = (parameter.grad - torch.from_numpy(z[f"grad.{key}"])).abs().max()
        assert error <= 1e-4 * np.abs(z[f"grad.{key}"]).max(), key
