from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mmrns.data.datasets import Dataset
from mmrns.errors import UsageError
from mmrns.nn.scorers import Scorer
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.samplers.dhns import LEVELS, Asked, Dhns
from mmrns.samplers.diffusion import BARS, BETAS, STEPS, Denoiser, chain, noised, reverse
from mmrns.training.trainer import Trainer
from mmrns.types import Batch


def _trainer(toy: Dataset, *, model: dict[str, Any] | None = None, **options: Any) -> Trainer:
    values: dict[str, Any] = {
        "model": {"dim": 4, **(model or {})},
        "sampler": {"name": "dhns", "negatives": 5, "rows": 12, **options},
        "objective": {"gamma": 3.0},
        "training": {"lr": 0.01},
        "device": "cpu",
    }
    return build_trainer(make_config(values), toy)


def _asked(trainer: Trainer, toy: Dataset, rows: int = 12) -> tuple[Asked, Batch]:
    batch = Batch.of(toy.graph.train[:20], torch.arange(20) % 2 == 0)
    return Asked.of(trainer.model.lookup(batch), torch.arange(rows) * 20 // rows, trainer.model), batch


def _sampler(trainer: Trainer) -> Dhns:
    assert isinstance(trainer.sampler, Dhns)
    return trainer.sampler


def _stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _shaken(width: int, condition: int) -> Denoiser:
    torch.manual_seed(0)
    denoiser = Denoiser(width, condition)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return denoiser.double()


def test_the_schedule() -> None:
    assert (len(BETAS), BETAS[0], BETAS[-1]) == (50, 1e-4, 0.02)
    assert BETAS[1] == pytest.approx(1e-4 + 0.0199 / 49)
    assert BARS[:2] == pytest.approx([0.9999, 0.9999 * (1 - BETAS[1])])
    assert BARS[-1] == pytest.approx(0.6030, abs=1e-4)


def test_a_step_back_is_the_posterior_of_the_true_vector() -> None:
    """q(x_{t-1} | x_t, x_0) by the product of two normal distributions, where eps is the noise that was added."""
    x0, noise = torch.randn(2, 5, 3, generator=_stream(), dtype=torch.float64)
    for t in (0, 1, 7, 49):
        bar, beta, before = BARS[t], BETAS[t], BARS[t - 1] if t else 1.0
        xt = noised(x0, torch.full((5,), bar, dtype=torch.float64), noise)
        torch.testing.assert_close(xt, math.sqrt(bar) * x0 + math.sqrt(1 - bar) * noise)
        mean = reverse(xt, t, noise, None)
        if not t:
            torch.testing.assert_close(mean, x0)
            continue
        # Of x_{t-1}: the prior N(sqrt(before) x_0, 1 - before), and x_t | x_{t-1} ~ N(sqrt(1 - beta) x_{t-1}, beta).
        precision = 1 / (1 - before) + (1 - beta) / beta
        weighed = math.sqrt(before) * x0 / (1 - before) + math.sqrt(1 - beta) * xt / beta
        torch.testing.assert_close(mean, weighed / precision)
        spread = reverse(xt, t, noise, torch.ones_like(xt)) - mean
        torch.testing.assert_close(spread, torch.full_like(spread, precision**-0.5))


def test_the_denoiser_by_hand() -> None:
    denoiser, n = _shaken(3, 5), 4
    x, condition = torch.randn(n, 3, dtype=torch.float64), torch.randn(n, 5, dtype=torch.float64)
    assert denoiser.positions.shape == (STEPS, 3)
    assert denoiser.positions[7].tolist() == pytest.approx([math.sin(7), math.sin(7 / 100), math.cos(7)])

    def normalised(v: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
        return (v - v.mean()) / (v.var(correction=0) + 1e-5).sqrt() * norm.weight + norm.bias

    d = denoiser
    for t in (0, 31):
        found = denoiser(x, denoiser.times()[t].expand(n, -1), condition)
        first, _, second = d.time
        time = second.weight @ (first.weight @ d.positions[t] + first.bias).relu() + second.bias  # pyright: ignore
        for row in range(n):
            given = normalised(torch.cat([x[row], time, condition[row]]), d.norm)
            hidden = normalised((d.hidden.weight @ given + d.hidden.bias).relu(), d.hidden_norm)
            expected = d.out.weight @ (d.down.weight @ hidden + d.down.bias) + d.out.bias
            torch.testing.assert_close(found[row], expected)


def test_a_chain_takes_every_step_and_gives_what_is_wanted() -> None:
    denoiser = _shaken(3, 2)
    condition = torch.randn(6, 2, dtype=torch.float64, generator=_stream())
    found = {t: (before, x) for t, before, x in chain(denoiser, condition, {40, 0, 44}, _stream(1))}
    assert list(found) == [44, 40, 0]
    x, *noise = torch.randn(STEPS + 1, 6, 3, generator=_stream(1)).double()
    for t in reversed(range(STEPS)):
        eps = denoiser(x, denoiser.times()[t].expand(6, -1), condition)
        before, x = x, reverse(x, t, eps, noise[STEPS - 1 - t] if t else None)
        if t in found:
            # What the noise is multiplied with has single precision.
            torch.testing.assert_close(found[t], (before, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scorer", Scorer.registry.names())
@pytest.mark.parametrize("reciprocal", [False, True])
def test_the_condition_is_what_the_scorer_asks_with(toy: Dataset, scorer: str, reciprocal: bool) -> None:
    trainer = _trainer(toy, model={"scorer": scorer, "reciprocal": reciprocal})
    asked, batch = _asked(trainer, toy)
    rows = torch.arange(12) * 20 // 12
    triples = torch.stack([batch.h, batch.r, batch.t], 1)[rows]
    alone = [trainer.model.lookup(Batch.of(triples, head)) for head in (False, True)]
    x, conditions = asked.in_units(detached=True)
    for side, lookup in enumerate(alone):
        torch.testing.assert_close(asked.queries[side].vectors, lookup.query.vectors)
        torch.testing.assert_close(x[side] * asked.scale, lookup.target.vectors)
    torch.testing.assert_close(x.square().mean(), torch.ones(()))
    queries = torch.stack([lookup.query.vectors[0] for lookup in alone]).detach()
    torch.testing.assert_close(conditions[..., 0, :] * queries.square().mean().sqrt(), queries)


def test_the_signs_of_the_translation(toy: Dataset) -> None:
    trainer = _trainer(toy)
    asked, batch = _asked(trainer, toy, rows=20)
    h, r, t = (trainer.model.entities(batch.h), trainer.model.relations(batch.r), trainer.model.entities(batch.t))
    torch.testing.assert_close(asked.queries[0].vectors[0], h.vectors[:, 0] + r)
    torch.testing.assert_close(asked.queries[1].vectors[0], t.vectors[:, 0] - r)


def test_the_error_of_the_noise_by_hand(toy: Dataset) -> None:
    trainer = _trainer(toy, model={"modalities": ["image", "text"]})
    sampler = _sampler(trainer)
    asked, _ = _asked(trainer, toy)
    found = sampler.noise_error(asked, *asked.in_units(detached=sampler.detach_diffusion), _stream(3))
    stream = _stream(3)
    t = torch.randint(STEPS, (12,), generator=stream)
    noise = torch.randn(12, 3, 4, generator=stream)
    x, conditions = asked.in_units(detached=True)
    errors: list[Tensor] = []
    for side in range(2):
        for row in range(12):
            for view in range(3):
                if asked.h.present[row, view] and asked.t.present[row, view]:
                    bar, eps = BARS[t[row]], noise[row, view]
                    xt = math.sqrt(bar) * x[side, row, view] + math.sqrt(1 - bar) * eps
                    time = sampler.denoiser.times()[t[row]]
                    seen = sampler.denoiser(xt[None], time[None], conditions[side, row, view][None])
                    errors.append((seen[0] - eps).abs().mean())
    assert len(errors) < 72
    torch.testing.assert_close(found, torch.stack(errors).mean())


@pytest.mark.parametrize("detached", [True, False])
def test_the_diffusion_trains_the_model_only_where_that_is_asked_for(toy: Dataset, detached: bool) -> None:
    trainer = _trainer(toy, detach_diffusion=detached)
    asked, _ = _asked(trainer, toy)
    sampler = _sampler(trainer)
    sampler.noise_error(asked, *asked.in_units(detached=sampler.detach_diffusion), _stream()).backward()
    assert (trainer.model.entity.weight.grad is None) == detached
    assert all(p.grad is not None for p in trainer.sampler.parameters())


def test_queries_share_chains(toy: Dataset) -> None:
    trainer = _trainer(toy, model={"modalities": ["text"]})
    asked, batch = _asked(trainer, toy, rows=20)
    made = _sampler(trainer).generated(asked, asked.in_units(detached=True)[1], _stream())
    assert made.shape == (4, 2, 20, 2, 4)
    flat, numbers = made.flatten(1, 2), asked.numbers
    same = numbers[:, None] == numbers
    queries = [(0, int(h), int(r)) for h, r in zip(batch.h, batch.r, strict=True)]
    queries += [(1, int(t), int(r)) for t, r in zip(batch.t, batch.r, strict=True)]
    assert same.tolist() == [[a == b for b in queries] for a in queries]
    assert same.sum() > 40
    equal = (flat[:, :, None] == flat[:, None]).all(-1).all(-1).all(0)
    assert torch.equal(equal, same)


def test_heads_from_the_tails_chains(toy: Dataset) -> None:
    trainer = _trainer(toy, head_chain=False)
    sampler = _sampler(trainer)
    asked, _ = _asked(trainer, toy)
    made = sampler.generated(asked, asked.in_units(detached=True)[1], _stream(5))
    _, conditions = asked.in_units(detached=True)
    stream = _stream(5)
    for level, (t, before, x) in enumerate(chain(sampler.denoiser, conditions[0, :, 0], LEVELS, stream)):
        torch.testing.assert_close(made[level, 0, :, 0], x * asked.scale)
        noise = torch.randn(12, 4, generator=stream)
        with torch.no_grad():
            eps = sampler.denoiser(before, sampler.denoiser.times()[t].expand(12, -1), conditions[1, :, 0])
        torch.testing.assert_close(made[level, 1, :, 0], reverse(before, t, eps, noise) * asked.scale)
    own = _sampler(_trainer(toy)).generated(asked, asked.in_units(detached=True)[1], _stream(5))
    assert not torch.equal(own[:, 1], made[:, 1])


@pytest.mark.parametrize("use_margins", [True, False])
@pytest.mark.parametrize("scorer", ["TransE", "ComplEx"])
def test_the_levels_by_hand(toy: Dataset, scorer: str, use_margins: bool) -> None:
    trainer = _trainer(toy, model={"scorer": scorer, "reciprocal": scorer == "ComplEx"}, use_margins=use_margins)
    model, sampler = trainer.model, _sampler(trainer)
    assert sampler.gamma == 3.0
    asked, _ = _asked(trainer, toy)
    weight = torch.rand(12, generator=_stream())
    asked = replace(asked, weight=weight)
    made, s_pos = torch.randn(4, 2, 12, 1, asked.h.vectors.shape[-1], generator=_stream()), torch.randn(12)

    def f(head: Tensor, r: Tensor, tail: Tensor) -> Tensor:
        """Asked for the tail."""
        query = model.scorer.query(head[None], r[None], False)
        return model.scorer.compare(query, tail[None, None]).squeeze()

    def ln(z: Tensor) -> Tensor:
        return torch.log(torch.sigmoid(z))

    expected = torch.zeros(())
    shares, margins = (0.5, 1.0, 1.0, 0.5), (0.9, 0.7, 0.5, 0.3)
    for row in range(12):
        h, t = asked.h.vectors[row, 0], asked.t.vectors[row, 0]
        for level in range(4):
            tail, head = made[level, :, row, 0]
            r, inverse = (of_side[row] for of_side in asked.relations)
            of_head = f(t, inverse, head) if model.reciprocal else f(head, r, t)
            m = (3.0 * (margins[level] if use_margins else 1.0)) * (scorer == "TransE")
            for s in (f(h, r, tail), of_head, f(head, r, tail)):
                expected = expected - weight[row] * shares[level] / 4 / 3 * (ln(m + s_pos[row]) + ln(-m - s)) / 2
    found = sampler.of_levels(s_pos, sampler.scores(asked, made, model), weight, model)
    torch.testing.assert_close(found, expected / weight.sum())
    found.backward()
    assert model.entity.weight.grad is not None


def test_who_lacks_a_view_is_made_without_it(toy: Dataset) -> None:
    trainer = _trainer(toy, model={"modalities": ["image", "text"]})
    sampler, model = _sampler(trainer), trainer.model
    asked, _ = _asked(trainer, toy, rows=20)
    made = sampler.generated(asked, asked.in_units(detached=True)[1], _stream())
    found = sampler.scores(asked, made, model)
    lacking = torch.nonzero(~asked.there)
    assert len(lacking)
    for row, view in lacking.tolist():
        other = made.clone()
        other[:, :, row, view] += 1.0
        assert torch.equal(sampler.scores(asked, other, model)[row], found[row])


@pytest.mark.parametrize(("embedder", "scorer"), [("m-hyper", "BiQUE"), ("momok", "TuckER")])
def test_who_is_scored_by_more_than_vectors_is_refused(toy: Dataset, embedder: str, scorer: str) -> None:
    model = {"dim": 6, "embedder": embedder, "scorer": scorer}
    with pytest.raises(UsageError, match=f"^the sampler dhns makes vectors of no entity, and the embedder {embedder} "):
        _trainer(toy, model=model)


def test_the_denoiser_learns(toy: Dataset) -> None:
    trainer = _trainer(toy, model={"dim": 16})
    asked, _ = _asked(trainer, toy)
    sampler = _sampler(trainer)
    optimizer = torch.optim.Adam(sampler.parameters(), 3e-3)
    errors: list[float] = []
    for i in range(200):
        error = sampler.noise_error(asked, *asked.in_units(detached=True), _stream(i))
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    # 0.8 is what noise of variance 1 is away from 0; below 0.72 it is seen by what the entities are.
    assert sum(errors[:20]) / 20 > 0.75
    assert sum(errors[-20:]) / 20 < 0.65
