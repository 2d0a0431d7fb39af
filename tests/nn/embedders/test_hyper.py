"""M-Hyper: its biquaternions, joint and losses, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mmrns.data.datasets import Dataset
from mmrns.data.features import Features
from mmrns.errors import UsageError
from mmrns.nn.embedders import HyperEmbedder
from mmrns.nn.losses import CrossEntropyLoss
from mmrns.nn.model import Model
from mmrns.rng import among
from mmrns.runs.build import build_model, build_trainer
from mmrns.runs.config import make_config
from mmrns.types import AllNegatives, Batch

D = 3
LACKS_BOTH, LACKS_IMAGE, UNSEEN = 5, 11, 39


def config_of(**model: Any) -> dict[str, Any]:
    values = {"embedder": "m-hyper", "scorer": "BiQUE", "dim": D, "modalities": ["image", "text"], **model}
    return {"model": values, "method": "1-vs-all", "device": "cpu"}


def model_of(toy: Dataset, **options: Any) -> tuple[Model, HyperEmbedder]:
    """A model of numbers that are far from those it starts with."""
    model = build_model(make_config(config_of(**options)), toy).double()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=p.dtype) * 0.5)
    embedder = model.entity
    assert isinstance(embedder, HyperEmbedder)
    return model, embedder


def features_of(embedder: HyperEmbedder, name: str, e: int) -> Tensor | None:
    """The mean of an entity's tokens at mean 0 and length 1."""
    values, mask = embedder.modalities[name].gather(torch.tensor([e]))
    if not mask.any():
        return None
    mean = values[0][mask[0]].double().mean(0)
    # Within the root there is a small number, so that no vector is divided by 0.
    return (mean - mean.mean()) / (mean.var(unbiased=False) + 1e-5).sqrt() / len(mean) ** 0.5


def mlp(network: Any, x: Tensor) -> Tensor:
    between = network.first.weight @ x + network.first.bias
    return network.second.weight @ (between.clamp(min=0) / len(between) ** 0.5) + network.second.bias


def parts_of(embedder: HyperEmbedder, e: int, kept: dict[str, Tensor] | None = None) -> dict[int, Tensor]:
    """The vectors on the bases i, j and k that an entity has, as complex numbers; of features times `kept`."""
    found = {0: embedder.structure.weight[e]}
    for m, name in enumerate(embedder.modalities):
        x = features_of(embedder, name, e)
        if x is not None:
            x = x * kept[name] if kept else x
            found[1 + m] = mlp(embedder.networks[m], x) + embedder.own[m].weight[e]
    # Of structure nothing was trained.
    if e == UNSEEN and len(found) > 1:
        del found[0]
    return {m: torch.complex(*part.chunk(2)) for m, part in found.items()}


def joint(embedder: HyperEmbedder, parts: dict[int, Tensor], relation: Tensor) -> Tensor:
    """sum_m w_m(e, r) e_m."""
    logits = torch.stack(
        [
            embedder.gate[m] @ torch.cat([part.real, part.imag])
            + embedder.relation_gate.weight[m] @ relation[:-1]
            + embedder.relation_gate.bias[m]
            for m, part in parts.items()
        ]
    )
    weights = torch.softmax(logits / relation[-1].exp(), dim=0)
    return sum((w * part for w, part in zip(weights, parts.values(), strict=True)), torch.zeros(D, dtype=torch.cdouble))


def product(a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
    """Hamilton's, by the table of the units."""
    units = {"ii": (-1, 0), "jj": (-1, 0), "kk": (-1, 0), "ij": (1, 3), "jk": (1, 1), "ki": (1, 2)}
    units |= {"ji": (-1, 3), "kj": (-1, 1), "ik": (-1, 2)}
    found = [torch.zeros(D, dtype=torch.cdouble) for _ in range(4)]
    for x in range(4):
        for y in range(4):
            sign, place = (1, x + y) if 0 in (x, y) else units["1ijk"[x] + "1ijk"[y]]
            found[place] = found[place] + sign * a[x] * b[y]
    return found


def biquaternion(embedder: HyperEmbedder, e: int, relation: Tensor) -> list[Tensor]:
    parts = parts_of(embedder, e)
    none = torch.zeros(D, dtype=torch.cdouble)
    return [joint(embedder, parts, relation), *(parts.get(m, none) for m in range(3))]


def score(embedder: HyperEmbedder, h: int, relation: Tensor, t: int) -> Tensor:
    """<(Q_h + r_T) (x) r_R, Q_t> over real and imaginary parts."""
    numbers = relation[:-1].view(2, 4, 2, D)
    shift, turn = (list(torch.complex(numbers[0, :, which], numbers[1, :, which])) for which in (0, 1))
    query = product([a + b for a, b in zip(biquaternion(embedder, h, relation), shift, strict=True)], turn)
    pairs = zip(query, biquaternion(embedder, t, relation), strict=True)
    return sum(((q * c.conj()).real.sum() for q, c in pairs), torch.zeros((), dtype=torch.double))


@pytest.mark.parametrize("modalities", [["image", "text"], ["text"]])
@pytest.mark.parametrize("reciprocal", [False, True])
@torch.no_grad()
def test_scores_by_hand(toy: Dataset, modalities: list[str], reciprocal: bool) -> None:
    model, embedder = model_of(toy, modalities=modalities, reciprocal=reciprocal)
    triples = torch.tensor([[0, 1, 2], [LACKS_IMAGE, 0, 3], [LACKS_BOTH, 2, 7], [UNSEEN, 1, 0]])
    for head in (False, True):
        every = model.score_all(Batch.of(triples, head))
        for row, (h, r, t) in enumerate(triples.tolist()):
            for e in (0, 4, LACKS_BOTH, LACKS_IMAGE, UNSEEN):
                relation = model.relation.weight[r + 5 * (reciprocal and head)]
                if reciprocal:
                    expected = score(embedder, t if head else h, relation, e)
                else:
                    expected = score(embedder, *((e, relation, t) if head else (h, relation, e)))
                torch.testing.assert_close(every[row, e], expected)


@torch.no_grad()
def test_who_lacks_a_modality_has_nothing_on_its_base(toy: Dataset) -> None:
    _, embedder = model_of(toy)
    ids = torch.tensor([0, LACKS_IMAGE, LACKS_BOTH, UNSEEN])
    views = embedder(ids)
    bases = views.vectors.squeeze(1).unflatten(-1, (2, 4, D)).abs().sum((1, 3)) > 0
    # Train knows nothing of the last one's structure.
    assert bases.tolist() == [[1, 1, 1, 1], [1, 1, 0, 1], [1, 1, 0, 0], [1, 0, 1, 0]]
    assert views.present.all()
    assert embedder.by_features(ids).tolist() == [True, True, False, True]
    assert embedder.reads == ("image", "text")
    # Of one modality the last base is empty.
    _, alone = model_of(toy, modalities=["text"])
    assert not alone.all().vectors.squeeze(1).unflatten(-1, (2, 4, D))[:, :, 3].any()


def test_the_losses_by_hand(toy: Dataset) -> None:
    options = {"reconstruction": 0.7, "distillation": 1.3, "noise": 0.4}
    model, embedder = model_of(toy, reciprocal=True, **options)
    triples = torch.tensor([[0, 1, 2], [LACKS_IMAGE, 0, 3], [4, 2, LACKS_BOTH]])
    batch = Batch.of(triples, False, torch.tensor([1.0, 2.0, 0.5], dtype=torch.double))
    step, names = 3, list(embedder.modalities)

    def told(e: int) -> Tensor:
        total = torch.zeros((), dtype=torch.double)
        for m, name in enumerate(names):
            x, other = features_of(embedder, name, e), features_of(embedder, names[1 - m], e)
            if x is not None:
                other = torch.zeros(embedder.modalities[names[1 - m]].width) if other is None else other
                back = mlp(embedder.decoders[m], torch.cat([embedder.own[m].weight[e], other.double()]))
                total = total + (back - x).square().sum()
        return total

    def distilled(e: int, relation: Tensor) -> Tensor:
        kept = {}
        for name in names:
            width = embedder.modalities[name].width
            kept[name] = ~among(e * width + torch.arange(width), 0.4, embedder.seed, "noise", name, step)
        noisy = joint(embedder, parts_of(embedder, e, kept), relation)
        apart = noisy - joint(embedder, parts_of(embedder, e), relation).detach()
        return apart.abs().square().sum()

    rows = [
        0.7 * (told(h) + told(t)) / 2 + 1.3 * distilled(h, model.relation.weight[r]) for h, r, t in triples.tolist()
    ]
    expected = sum(w * row for w, row in zip(batch.weight, rows, strict=True)) / batch.weight.sum()

    model.begin(step)
    lookup = model.lookup(batch)
    negatives = AllNegatives(40, torch.device("cpu"))
    objective = CrossEntropyLoss(gamma=1.0, alpha=1.0)  # It has no part in these.
    true, false = model.scores(lookup), model.scores(lookup, negatives)
    found = embedder.loss(lookup, negatives, objective, true, false)
    torch.testing.assert_close(found, expected)
    wanted = [p for p in model.parameters() if p is not embedder.structure.weight]
    ours, theirs = (torch.autograd.grad(loss, wanted, retain_graph=True) for loss in (found, expected))
    torch.testing.assert_close(ours, theirs)
    # Without gaps that are drawn there is nothing to distill: outside of a step.
    model.constrain()
    outside = embedder.loss(lookup, negatives, objective, true, false)
    told_only = sum(
        w * 0.7 * (told(h) + told(t)) / 2 for w, (h, _, t) in zip(batch.weight, triples.tolist(), strict=True)
    )
    torch.testing.assert_close(outside, told_only / batch.weight.sum())


def test_the_gaps_follow_seed_and_step_and_not_the_cut_of_a_batch(toy: Dataset) -> None:
    def losses(seed: int, memory_mb: float) -> list[float]:
        values = config_of(dim=2) | {"seed": seed, "training": {"batch_size": 24}}
        trainer = build_trainer(make_config(values), toy)
        trainer.memory_mb = memory_mb
        assert (trainer.rows_at_once < 24) == (memory_mb < 1)
        return [float(trainer.step(step)) for step in range(4)]

    whole = losses(0, 1000)
    assert losses(0, 1000) == whole
    assert losses(0, 0.02) == pytest.approx(whole, rel=1e-4)
    assert losses(1, 1000) != whole


def test_what_it_has_no_bases_for_is_refused(toy: Dataset) -> None:
    third = Features({**toy.features, "third": toy.features["text"]})
    for features in (Features(), third):
        with pytest.raises(UsageError, match=r"bases for one or two modalities, not [03]"):
            HyperEmbedder(toy.graph, features, width=24, init_range=1.0)
