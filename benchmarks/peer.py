"""PyKEEN's models and evaluator beside ours, with the same weights; used by `ranking.py` and `training.py`."""

from __future__ import annotations

import logging
import math
import warnings
from typing import Any

import torch
from torch import Tensor

from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.model import Model
from mmrns.nn.scorers import Scorer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pykeen.evaluation import RankBasedEvaluator
    from pykeen.models import ComplEx, DistMult, RotatE, TransE
    from pykeen.nn import modules
    from pykeen.triples import CoreTriplesFactory

logging.getLogger("pykeen").setLevel(logging.ERROR)

_negative_norm = modules.negative_norm


def _sum_of_moduli(x: Tensor, p: Any = 2, power_norm: bool = False) -> Tensor:
    # RotatE's paper sums the moduli; the peer takes their Euclidean norm, which would make another MRR.
    return _negative_norm(x, p=1 if x.is_complex() else p, power_norm=power_norm)


modules.negative_norm = _sum_of_moduli

PEERS: dict[str, Any] = {"TransE": TransE, "DistMult": DistMult, "ComplEx": ComplEx, "RotatE": RotatE}
INIT_RANGE = 11 / 200


def factory(graph: KnowledgeGraph, triples: Tensor) -> CoreTriplesFactory:
    """A split as PyKEEN holds it."""
    return CoreTriplesFactory(triples, len(graph.entities), len(graph.relations))


def peer_of(name: str, graph: KnowledgeGraph, dim: int, **options: Any) -> Any:
    """PyKEEN's model of the same formula, freshly initialised."""
    further = {"scoring_fct_norm": 1} if name == "TransE" else {}
    train = factory(graph, graph.train)
    return PEERS[name](triples_factory=train, embedding_dim=dim, random_seed=0, **further, **options)


def ours_of(name: str, graph: KnowledgeGraph, dim: int, peer: Any) -> Model:
    """Our model with the peer's weights."""
    model = Model(Scorer.registry.get(name)(dim, INIT_RANGE), len(graph.entities), len(graph.relations))
    entity, relation = (r[0](None).detach() for r in (peer.entity_representations, peer.relation_representations))
    with torch.no_grad():
        model.entity.weight.copy_(_reals(entity))
        model.relation.weight.copy_(relation.angle() * INIT_RANGE / math.pi if name == "RotatE" else _reals(relation))
    return model


def evaluate(peer: Any, graph: KnowledgeGraph, batch_size: int) -> float:
    """PyKEEN's filtered MRR of the test split, ties at their mean rank, both sides."""
    evaluator = RankBasedEvaluator(filtered=True)
    results = evaluator.evaluate(
        peer,
        mapped_triples=graph.test,
        additional_filter_triples=[graph.train, graph.valid],
        batch_size=batch_size,
        use_tqdm=False,
    )
    return float(results.get_metric("both.realistic.inverse_harmonic_mean_rank"))


def _reals(vectors: Tensor) -> Tensor:
    return torch.cat([vectors.real, vectors.imag], dim=-1) if vectors.is_complex() else vectors
