"""One step of TransE, DistMult or RotatE with the MMRNS sampler on given inputs, for comparison with recorded steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mmrns.data.features import Features, Modality
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.vocabulary import Vocabulary
from mmrns.nn.losses import SelfAdversarialLoss
from mmrns.nn.model import Model
from mmrns.registry import scorer_class
from mmrns.samplers.mmrns.sampler import Mmrns
from mmrns.types import Batch

STEP = 7


@dataclass(frozen=True)
class Step:
    """The settings of a recorded step."""

    scorer: str
    dim: int
    gamma: float
    init_range: float
    head: bool
    reference: bool
    width: int = 50


class Recorded(Mmrns):
    """The sampler with its pool and noise replaced by recorded ones."""

    recorded_pool: Tensor
    recorded_noise: Tensor
    own_noise: Tensor

    def candidates(self, step: int) -> Tensor:
        return self.recorded_pool

    def noise(self, shape: torch.Size, step: int, draw: int, device: torch.device) -> Tensor:
        return torch.cat([self.recorded_noise[draw], self.own_noise], dim=1)[:, : shape[1]]


def take_step(
    step: Step, given: Mapping[str, Tensor], parameters: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Similarities, logits, draws, scores, losses, and the parameters with their gradients.

    Args:
        step: the settings.
        given: image, text, pool, gumbel_noise, positives_hrt, true_mask, subsampling_weight; optionally image_mask,
            text_mask and own_noise.
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
    scorer = scorer_class(step.scorer)(dim=step.dim, init_range=step.init_range)
    model = Model(scorer, n_entities, n_relations)
    sampler = Recorded(
        graph,
        features,
        model.spec,
        negatives=len(given["gumbel_noise"]),
        pool=len(given["pool"]),
        modalities=["image", "text"],
        width=step.width,
        loss_rate=100.0,
        slots=6,
        discount=0.25,
        refresh=1,
        alpha=0.5,
        reference=step.reference,
    )
    sampler.recorded_pool, sampler.recorded_noise = given["pool"], given["gumbel_noise"]
    # Of the slots' fillers, which the authors' form does not have.
    sampler.own_noise = given.get("own_noise", torch.empty(len(positives), 0))
    everything = {f"model.{n}": p for n, p in model.named_parameters()}
    everything |= {f"sampler.{n}": p for n, p in sampler.named_parameters()}
    if parameters is not None:
        assert set(parameters) == set(everything)
        with torch.no_grad():
            for name, parameter in everything.items():
                parameter.copy_(parameters[name])

    batch = Batch.of(positives, torch.full((len(positives),), step.head), given["subsampling_weight"])
    negatives = sampler.draw(batch, model, STEP)
    trace = negatives.trace
    margin = step.gamma if scorer.distance else 0.0
    s_pos, s_neg = model.score(batch), model.score_against(batch, negatives)
    score_loss = SelfAdversarialLoss(gamma=margin, alpha=0.5)(
        s_pos, s_neg, negatives.mask, batch.weight, negatives.logp
    )
    loss = score_loss + sampler.loss(batch, negatives, s_pos, s_neg, model, STEP)
    loss.backward()
    found = {f"sim_{name}": s.values for name, s in trace.similarities.items()}
    if trace.likeness is not None:
        found["likeness"] = trace.likeness
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
