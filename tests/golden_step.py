"""One step of a scorer with an MMRNS sampler on given inputs, and its comparison with a recorded one.

The steps of the authors' code lie in a folder that is no part of the repository. Ours lie in `tests/golden/`;
`scripts/build_golden.py` made them once the sampler had passed those of the authors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmrns.data.features import Features, Modality
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.vocabulary import Vocabulary
from mmrns.nn.losses import SelfAdversarialLoss
from mmrns.nn.model import Model
from mmrns.nn.scorers import Scorer
from mmrns.samplers.mmrns.published import MmrnsPublished
from mmrns.samplers.mmrns.sampler import Mmrns
from mmrns.types import Batch

STEP = 7
AUTHORS = ["TransE_head", "TransE_tail", "RotatE_tail", "DistMult_head"]
"""The steps that the authors' code was made to leave."""
SCORERS = ["TransE", "DistMult", "ComplEx", "RotatE", "pRotatE"]
"""The scorers of the authors' code."""
LAYERS = {
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
PARAMETERS = {
    "model.entity.weight": "kge.entity_embedding",
    "model.relation.weight": "kge.relation_embedding",
    **{
        f"sampler.similarity.{ours}.{k}": f"kca.{theirs}.{k}"
        for ours, theirs in LAYERS.items()
        for k in ("weight", "bias")
    },
}


@dataclass(frozen=True)
class Step:
    """The settings of a recorded step; `published` takes the sampler in the arithmetic of the authors' code."""

    scorer: str
    dim: int
    gamma: float
    init_range: float
    head: bool
    published: bool
    width: int = 50
    gate_width: int = 100


class Recorded(Mmrns):
    """`mmrns` with its pool and noise replaced by recorded ones.

    Attributes:
        recorded_pool: Int[P].
        recorded_noise: Float[B C].
    """

    recorded_pool: Tensor
    recorded_noise: Tensor

    def pool(self, step: int) -> Tensor:
        return self.recorded_pool

    def noise(self, shape: torch.Size, step: int, device: torch.device) -> Tensor:
        return (-self.recorded_noise).exp()


class RecordedPublished(MmrnsPublished):
    """`mmrns-published` with its pool and noise replaced by recorded ones.

    Attributes:
        recorded_pool: Int[P].
        recorded_noise: Float[K B P].
    """

    recorded_pool: Tensor
    recorded_noise: Tensor

    def pool(self, step: int) -> Tensor:
        return self.recorded_pool

    def noise(self, shape: torch.Size, step: int, device: torch.device) -> Tensor:
        # A copy, which the draw adds to.
        return self.recorded_noise.clone()


def compare(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Similarities and logits to 1e-5, losses to 1e-5 relative, gradients to 1e-4 of each tensor's largest entry."""
    for name in (name for name in expected if name.startswith("sim_") or name == "pmi"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5)
    torch.testing.assert_close(found["logits_masked"], expected["logits_masked"], rtol=1e-5, atol=1e-5)
    assert torch.equal(found["drawn_positions"], expected["drawn_positions"])
    for name in ("positive_scores", "negative_scores", "score_loss", "loss"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)
    gradients = {name for name in expected if name.startswith("grad.")}
    assert gradients == {name for name in found if name.startswith("grad.")}
    for name in gradients:
        error = (found[name] - expected[name]).abs().max()
        assert error <= 1e-4 * expected[name].abs().max(), name


def reproduce_authors(path: Path) -> None:
    """Take a step of the authors' code, `SCORER_SIDE.npz`, and compare."""
    with np.load(path) as file:
        z = {key: torch.from_numpy(file[key]) for key in file.files if key != "meta"}
    scorer, side = path.stem.split("_")
    step = Step(
        scorer,
        dim=12,
        gamma=float(z["kge.gamma"]),
        init_range=float(z["kge.embedding_range"]),
        head=side == "head",
        published=True,
    )
    expected = {k: v for k, v in z.items() if not k.startswith("grad.")}
    expected |= {f"grad.{ours}": z[f"grad.{theirs}"] for ours, theirs in PARAMETERS.items()}
    expected["score_loss"] = (z["positive_loss"] + z["negative_loss"]) / 2
    compare(take_step(step, z, {ours: z[theirs] for ours, theirs in PARAMETERS.items()}), expected)


def small(scorer: str, side: str) -> Step:
    """The settings of a recorded step of ours in the authors' arithmetic, `SCORER_SIDE`."""
    return Step(scorer, 4, gamma=6.0, init_range=2.0, head=side == "head", published=True, width=4, gate_width=5)


DEFAULT = Step("TransE", dim=6, gamma=6.0, init_range=8 / 6, head=False, published=False, width=5)
"""The settings of the recorded step of `mmrns`."""


def take_step(
    step: Step, given: Mapping[str, Tensor], parameters: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Similarities, logits, draws, scores, losses, and the parameters with their gradients.

    Args:
        step: the settings.
        given: image, text, pool, gumbel_noise, positives_hrt, true_mask, subsampling_weight; optionally image_mask and
            text_mask; of `mmrns` also own_noise, that of the candidates from the domains and ranges.
        parameters: values by `model.NAME` and `sampler.NAME`; otherwise the initial ones.
    """
    positives = given["positives_hrt"]
    n_entities = given["true_mask"].shape[1]
    n_relations = int(positives[:, 1].max()) + 1
    if parameters is not None:
        n_relations = len(parameters["model.relation.weight"])
    # A train split that makes exactly the recorded candidates true.
    rows, entities = given["true_mask"].nonzero(as_tuple=True)
    triples = positives[rows].clone()
    triples[:, 0 if step.head else 2] = entities
    none = torch.empty(0, 3, dtype=torch.int64)
    names = [Vocabulary([f"{i:05d}" for i in range(n)]) for n in (n_entities, n_relations)]
    graph = KnowledgeGraph(names[0], names[1], triples, none, none)
    features = Features(
        {
            m: Modality(
                given[m],
                given.get(f"{m}_mask", torch.ones(given[m].shape[:2], dtype=torch.bool)),
                torch.arange(n_entities),
            )
            for m in ("image", "text")
        }
    )
    scorer = Scorer.registry.get(step.scorer)(step.dim, step.init_range)
    model = Model(scorer, n_entities, n_relations)
    sampler = _sampler(step, given, graph, features, model)
    everything = {f"model.{n}": p for n, p in model.named_parameters()}
    everything |= {f"sampler.{n}": p for n, p in sampler.named_parameters()}
    if parameters is not None:
        assert set(parameters) == set(everything)
        with torch.no_grad():
            for name, parameter in everything.items():
                parameter.copy_(parameters[name])

    batch = Batch.of(positives, torch.full((len(positives),), step.head), given["subsampling_weight"])
    lookup = model.lookup(batch)
    negatives = sampler.draw(lookup, model, STEP)
    trace = negatives.trace
    margin = step.gamma if scorer.distance else 0.0
    s_pos, s_neg = model.score(lookup), model.score_against(lookup, negatives)
    score_loss = SelfAdversarialLoss(gamma=margin, alpha=0.5)(
        s_pos, s_neg, negatives.mask, batch.weight, negatives.log_weight
    )
    loss = score_loss + sampler.loss(lookup, negatives, s_pos, s_neg, model, STEP)
    loss.backward()
    if step.published:
        found = {f"sim_{name}": s for name, s in zip(sampler.similarity.terms, trace.similarities, strict=True)}
    else:
        found = {"pmi": trace.more.pmi}
    found |= {
        "logits_masked": trace.logits,
        "drawn_positions": trace.positions,
        "positive_scores": s_pos[:, None] + margin,
        "negative_scores": s_neg + margin,
        "score_loss": score_loss,
        "loss": loss,
    }
    for name, parameter in everything.items():
        assert parameter.grad is not None, name
        found |= {f"parameter.{name}": parameter, f"grad.{name}": parameter.grad}
    return {name: value.detach() for name, value in found.items()}


def _sampler(
    step: Step, given: Mapping[str, Tensor], graph: KnowledgeGraph, features: Features, model: Model
) -> Recorded | RecordedPublished:
    noise = given["gumbel_noise"]
    options: dict[str, Any] = {
        "negatives": len(noise),
        "pool": len(given["pool"]),
        "modalities": ["image", "text"],
        "width": step.width,
        "alpha": 0.5,
    }
    if step.published:
        options["gate_width"] = step.gate_width
        sampler = RecordedPublished(graph, features, model.spec, loss_rate=100.0, **options)
        sampler.recorded_noise = noise
    else:
        sampler = Recorded(
            graph, features, model.spec, domain_range=6, discount=0.25, refresh=1, columns=9, attention=True, **options
        )
        sampler.recorded_noise = torch.cat([noise[0], given["own_noise"]], dim=1)
    sampler.recorded_pool = given["pool"]
    return sampler
