"""TuckER as it was published: dropout and batch normalisation against the authors' arithmetic, in steps and outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmrns.data.datasets import Dataset
from mmrns.errors import UsageError
from mmrns.nn.model import Model
from mmrns.nn.scorers import TuckER
from mmrns.rng import generator
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.runs.run import load_run
from mmrns.runs.train import train
from mmrns.training.trainer import Trainer
from mmrns.types import Batch

SHARES = {"anchor_dropout": 0.3, "matrix_dropout": 0.4, "query_dropout": 0.5}


def kept(scorer: TuckER, step: int, what: str, share: float, shape: tuple[int, ...]) -> Tensor:
    """What is left of ones."""
    stream = generator(scorer.seed, "dropout", step, what, 0)
    return (torch.rand(shape, generator=stream) >= share) / (1 - share)


def test_a_step_is_the_authors_arithmetic() -> None:
    """Their `forward` up to the product with all entities, by torch's own layer and the masks that are drawn."""
    scorer = TuckER(6, 0.5, relation_dim=4, batch_norm=True, **SHARES).double()
    norms = [nn.BatchNorm1d(6).double() for _ in range(2)]
    g = torch.Generator().manual_seed(0)
    for step in (7, 8):
        h, r = (torch.randn(9, n, generator=g, dtype=torch.float64) for n in (6, 4))
        x = norms[0](h) * kept(scorer, step, "anchor", 0.3, (9, 6))
        matrices = torch.einsum("bj,ijk->bik", r, scorer.core) * kept(scorer, step, "matrix", 0.4, (9, 6, 6))
        x = norms[1](torch.bmm(x[:, None], matrices).squeeze(1)) * kept(scorer, step, "query", 0.5, (9, 6))
        torch.testing.assert_close(scorer.query_in_step(h, r, False, step), x, rtol=1e-12, atol=1e-12)
    # Outside of a step nothing is dropped, and running means and variances take the place of the batch's.
    for norm in norms:
        norm.eval()
    h, r = (torch.randn(9, n, generator=g, dtype=torch.float64) for n in (6, 4))
    matrices = torch.einsum("bj,ijk->bik", r, scorer.core)
    x = norms[1](torch.bmm(norms[0](h)[:, None], matrices).squeeze(1))
    torch.testing.assert_close(scorer.query(h, r, False), x, rtol=1e-12, atol=1e-12)
    assert not torch.equal(norms[0].running_mean, torch.zeros(6))  # type: ignore[arg-type]


@pytest.mark.parametrize("what", SHARES)
def test_a_share_is_dropped_and_the_mean_stays(what: str) -> None:
    scorer = TuckER(5, 0.5, **{what: 0.25})
    h, r = torch.randn(2, 1, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        drawn = scorer.query_in_step(h.expand(40_000, -1), r.expand(40_000, -1), False, 0)
        exact = scorer.query(h, r, False)[0]
    error = 5 * drawn.std(0) / 200
    assert ((drawn.mean(0) - exact).abs() < error).all()
    if what == "query_dropout":
        assert abs((drawn == 0).float().mean() - 0.25) < 0.01
    # Rows are independent of each other.
    assert len(drawn[:50].unique(dim=0)) > 10


def test_a_single_row_is_normalised_by_running_means() -> None:
    scorer = TuckER(5, 0.5, batch_norm=True)
    h, r = torch.randn(2, 1, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(scorer.query_in_step(h, r, False, 0), scorer.query(h, r, False))


def test_batch_norm_asks_for_tails_of_one_view(toy: Dataset) -> None:
    with pytest.raises(UsageError, match=r"set model\.reciprocal=true"):
        Model(TuckER(4, 0.5, batch_norm=True), 7, 3)
    values = {"scorer": "TuckER", "dim": 4, "batch_norm": True, "reciprocal": True, "modalities": ["text"]}
    with pytest.raises(UsageError, match=r"of one view.*model\.mixture=mean-probability"):
        build_trainer(make_config({"model": values, "device": "cpu"}), toy)


def trainer_of(toy: Dataset, method: str, **sections: dict[str, Any]) -> Trainer:
    values: dict[str, Any] = {
        "model": {"scorer": "TuckER", "dim": 6, "reciprocal": True, "batch_norm": True, **SHARES},
        "method": method,
        "training": {"batch_size": 40},
        "device": "cpu",
    }
    for section, given in sections.items():
        values[section] = values.get(section, {}) | given
    return build_trainer(make_config(values), toy)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("method", ["k-vs-all", "1-vs-all", "uniform", "nscaching", "hard", "mmrns"])
def test_a_step_updates_its_statistics_once(toy: Dataset, method: str, autocast: bool) -> None:
    trainer = trainer_of(toy, method, training={"autocast": autocast})
    assert torch.isfinite(trainer.step(0))
    assert torch.isfinite(trainer.step(1))
    scorer = trainer.model.scorer
    assert isinstance(scorer, TuckER)
    assert [int(norm.num_batches_tracked) for norm in scorer.norms] == [2, 2]  # type: ignore[arg-type]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trainer.model.parameters())


def test_parts_of_a_batch_drop_what_the_whole_drops(toy: Dataset) -> None:
    whole, parts = (trainer_of(toy, "k-vs-all", objective={"loss": "bce", "smoothing": 0.1}) for _ in range(2))
    parts.memory_mb = 0.01
    assert parts.rows_at_once < 20
    for step in range(3):
        assert float(parts.step(step)) == pytest.approx(float(whole.step(step)), rel=1e-5)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["nscaching", "hard", "domain-range"])
def test_samplers_see_exact_scores(toy: Dataset, method: str) -> None:
    """What is drawn in a step does not depend on what the step drops."""
    dropping = trainer_of(toy, method, model={"batch_norm": False})
    plain = trainer_of(toy, method, model={"batch_norm": False, **dict.fromkeys(SHARES, 0.0)})
    for trainer in (dropping, plain):
        trainer.model.begin(0)
    lookups = [trainer.model.lookup(trainer.batch(0)) for trainer in (dropping, plain)]
    assert not torch.equal(lookups[0].query.vectors[0], lookups[1].query.vectors[0])
    for trainer in (dropping, plain):
        trainer.model.constrain()
    drawn: list[Tensor] = []
    for trainer in (dropping, plain):
        found: list[Tensor] = []
        trainer.step(0, lambda batch, negatives, found=found: found.append(negatives.entities(len(batch))))
        drawn += found
    assert torch.equal(*drawn)


def test_a_stored_run_ranks_as_the_one_that_was_trained(toy: Dataset, tmp_path: Path) -> None:
    settings = {
        "model.dim": 6,
        "model.reciprocal": True,
        "model.batch_norm": True,
        **{f"model.{name}": share for name, share in SHARES.items()},
        "objective.loss": "bce",
        "objective.smoothing": 0.1,
        "training.steps": 6,
        "training.evaluate_every": 3,
    }
    given = {"dataset": toy, "scorer": "TuckER", "method": "k-vs-all", "device": "cpu", "progress": False}
    run = train(**given, settings=settings, out=tmp_path / "run", plots=False)
    triples = Batch.of(toy.graph.test[:9], False)
    loaded = load_run(tmp_path / "run", dataset=toy)
    with torch.no_grad():
        expected, found = (m.score(m.lookup(triples)) for m in (run.model, loaded.model))
        # The mode that torch keeps of modules has no say.
        again = run.model.train()
        assert torch.equal(again.score(again.lookup(triples)), expected)
    assert torch.equal(found, expected)
    assert loaded.evaluate("test") == run.results["test"]
