from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

import mmrns
from forms import form_of
from mmrns.data.datasets import Dataset
from mmrns.errors import Diverged, UsageError
from mmrns.nn.lookup import Lookup
from mmrns.nn.losses import KvsAllLoss, SoftplusLoss
from mmrns.nn.model import Model
from mmrns.runs.build import Parts, build_trainer
from mmrns.runs.config import make_config
from mmrns.samplers.base import Sampler
from mmrns.samplers.every import Every
from mmrns.samplers.inbatch import InBatch
from mmrns.training.callbacks import Callback, CallbackList, Hardness, Training
from mmrns.training.progress import Plan, Progress
from mmrns.training.trainer import Trainer
from mmrns.types import Batch, Negatives, OwnNegatives


def _trainer(toy: Dataset, **sections: dict[str, object]) -> Trainer:
    values: dict[str, dict[str, object]] = {
        "model": {"dim": 8},
        "sampler": {"name": "mmrns", "negatives": 4, "discount": 0.25},
        "training": {"batch_size": 64},
    }
    for section, given in sections.items():
        values[section] = values.get(section, {}) | given
    return build_trainer(make_config({**values, "device": "cpu"}), toy)


class _Records(Callback):
    """Remembers what it is told, and what is saved."""

    def __init__(self, mrrs: list[float], stop_at: int | None = None):
        self.mrrs, self.stop_at = iter(mrrs), stop_at
        self.rows: list[dict[str, Any]] = []
        self.saves: list[tuple[int, bool]] = []
        self.step = 0
        self.measured: list[tuple[int, bool]] = []

    def fit(self, trainer: Trainer, progress: Progress, plan: Plan, *further: Callback) -> None:
        trainer.fit(
            progress,
            plan,
            validate=lambda: next(self.mrrs),
            save=lambda best: self.saves.append((progress.step, best)),
            callback=CallbackList([*further, self]),
        )

    def on_start(self, training: Training) -> None:
        self.plan = training.plan

    def watches(self, step: int) -> bool:
        return self.plan.ends_log(step)

    def on_step(self, batch: Batch, negatives: Negatives) -> None:
        self.measured.append((self.step + 1, bool(batch.head.all())))

    def on_progress(self, step: int, loss: float | None) -> None:
        self.step = step

    def on_row(self, row: dict[str, Any]) -> None:
        self.rows.append(dict(row))

    def should_stop(self) -> bool:
        return self.step == self.stop_at


def test_the_step_is_the_step_of_the_design(toy: Dataset) -> None:
    """The loss of `Trainer.step` and the parameters after it, against the six lines written out with plain SGD."""
    trainer, other = (_trainer(toy, objective={"l3": 0.01, "gamma": 9.0}) for _ in range(2))
    loss = trainer.step(51)
    model, sampler = other.model, other.sampler
    batch = other.batches.at(51)
    lookup = model.lookup(batch)
    negatives = sampler.draw(lookup, model, 51)
    assert isinstance(negatives, OwnNegatives)
    # The fifty-second step is one of those that train the attention.
    assert negatives.through is not None
    assert negatives.log_weight is not None
    assert negatives.mask is not None
    assert negatives.mask.all()
    r = model.relations(batch.r)
    h, t = (model.entities(ids).vectors[:, 0] for ids in (batch.h, batch.t))
    s_pos = -(h + r - t).abs().sum(1)
    q = torch.where(batch.head[:, None], t - r, h + r)
    s_neg = negatives.through - (q[:, None] - model.entities(negatives.ids).vectors[:, :, 0]).abs().sum(2)
    p = torch.softmax(2.0 * s_neg + negatives.log_weight, 1).detach()
    gamma = 9.0
    w = batch.weight / batch.weight.sum()
    expected = -0.5 * (w * torch.nn.functional.logsigmoid(gamma + s_pos)).sum()
    expected -= 0.5 * (w * (p * torch.nn.functional.logsigmoid(-gamma - s_neg)).sum(1)).sum()
    expected = expected + 0.01 * sum(x.abs().pow(3).sum() for x in (h, r, t)) / len(batch)
    expected = expected + sampler.loss(lookup, negatives, s_pos, s_neg, model, 51)
    torch.testing.assert_close(loss, expected.detach())
    other.optimizer.zero_grad()
    expected.backward()
    other.optimizer.step(51)
    for a, b in zip(trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


UNSEEN = 39


@pytest.mark.parametrize("sampler", ["uniform", "shared-pool", "1-vs-all", "domain-range"])
def test_negatives_that_are_known_by_features_alone_do_not_count(toy: Dataset, sampler: str) -> None:
    def drawn(**sections: dict[str, object]) -> tuple[Negatives, Batch, Trainer]:
        options = {} if sampler == "1-vs-all" else {"negatives": 400}
        values = {"method": sampler, "sampler": options, "training": {"batch_size": 64}, "device": "cpu", **sections}
        trainer = build_trainer(make_config(values), toy)
        found: list[Negatives] = []
        trainer.step(0, lambda batch, negatives: found.append(negatives))
        return found[0], trainer.batch(0), trainer

    fused = {"model": {"dim": 8, "modalities": ["image", "text"]}}
    negatives, batch, trainer = drawn(**fused)
    unseen = negatives.entities(len(batch)) == UNSEEN
    assert unseen.any()
    assert not negatives.counts(len(batch))[unseen].any()
    assert trainer.known_by_features.nonzero().flatten().tolist() == [UNSEEN]
    # All others are as they were drawn.
    counted, _, _ = drawn(**fused, objective={"unseen_negatives": True})
    assert torch.equal(counted.entities(len(batch)), negatives.entities(len(batch)))
    assert torch.equal(counted.counts(len(batch))[~unseen], negatives.counts(len(batch))[~unseen])
    assert counted.counts(len(batch))[unseen].any()
    # It counts where the model does not read any feature of it.
    for model in ({"modalities": []}, {"modalities": ["text"]}):
        negatives, batch, trainer = drawn(model={"dim": 8} | model)
        assert not trainer.known_by_features.any()
        assert negatives.counts(len(batch))[negatives.entities(len(batch)) == UNSEEN].any()


@pytest.mark.parametrize("loss", ["k-vs-all", "bce"])
def test_what_is_known_by_features_alone_is_no_true_answer(toy: Dataset, loss: str) -> None:
    """The mask of these losses tells what is true, so that whoever does not count is no candidate at all."""
    model = {"dim": 8, "modalities": ["image", "text"]}
    trainer = build_trainer(
        make_config({"method": "k-vs-all", "objective": {"loss": loss}, "model": model, "device": "cpu"}), toy
    )
    assert trainer.known_by_features[UNSEEN]
    found: list[Negatives] = []
    trainer.step(0, lambda batch, negatives: found.append(negatives))
    batch = trainer.batch(0)
    assert torch.equal(found[0].counts(len(batch)), ~toy.graph.train_index.batch_mask(batch))
    weight = torch.zeros(len(toy.graph.entities))
    weight[UNSEEN] = -torch.inf
    assert found[0].log_weight is not None
    assert torch.equal(found[0].log_weight, weight.expand(len(batch), -1))
    assert trainer.rows_at_once > len(batch)
    whole = trainer.compared(trainer.model.lookup(batch), 0)[0].model
    trainer.memory_mb = 0.02
    assert trainer.rows_at_once < len(batch)
    torch.testing.assert_close(trainer.compared(trainer.model.lookup(batch), 0)[0].model, whole)


def test_training_lowers_the_loss(toy: Dataset) -> None:
    trainer = _trainer(toy, training={"lr": 0.02}, sampler={"refresh": 10})
    losses = [float(trainer.step(step)) for step in range(120)]
    assert sum(losses[-20:]) < 0.7 * sum(losses[:20])


def test_intervals_early_stopping_and_best(toy: Dataset) -> None:
    progress, records = Progress(), _Records([0.1, 0.3, 0.2, 0.3, 0.9])
    plan = Plan(steps=50, log_every=4, evaluate_every=10, checkpoint_every=25, patience=2)
    records.fit(_trainer(toy), progress, plan)
    # 0.3 at step 20 is best; 0.2 and an equal 0.3 do not better it.
    assert (progress.step, progress.best_step, progress.best_mrr, progress.stopped) == (40, 20, 0.3, True)
    assert [step for step, best in records.saves if best] == [10, 20]
    assert [step for step, best in records.saves if not best] == [25, 40]
    logged = [row["step"] for row in records.rows if "loss" in row]
    assert logged == list(range(4, 41, 4))


def test_a_logged_loss_is_the_mean_of_its_own_interval(toy: Dataset) -> None:
    trainer, other = _trainer(toy), _trainer(toy)
    losses = torch.stack([other.step(step) for step in range(14)])
    plan = Plan(steps=14, log_every=4, evaluate_every=5, checkpoint_every=3, patience=0)
    told, records = [], _Records([0.1, 0.2, 0.3])
    records.on_progress = lambda step, loss: told.append((step, loss))  # type: ignore[method-assign]
    records.fit(trainer, Progress(), plan)
    logged = [(row["step"], row["loss"]) for row in records.rows if "loss" in row]
    assert logged == [
        (n, pytest.approx(losses[n - size : n].mean().item())) for n, size in ((4, 4), (8, 4), (12, 4), (14, 2))
    ]
    # What a progress bar shows between is the mean since the last row.
    assert [told[i] for i, (step, loss) in enumerate(told) if step == 6 and loss is not None] == [
        (6, pytest.approx(losses[4:6].mean().item()))
    ]


@pytest.mark.parametrize("stop", [None, 3, 6])
def test_the_two_parts_of_the_loss_are_logged_apart(toy: Dataset, stop: int | None) -> None:
    """A sampler that is trained in some steps only makes saw teeth of neither, nor does a stop in between."""
    plan = Plan(steps=14, log_every=4, evaluate_every=100, checkpoint_every=100, patience=0)
    config = make_config({"method": "uniform", "model": {"dim": 8}, "training": {"batch_size": 64}, "device": "cpu"})
    other, trainer = build_trainer(config, toy), build_trainer(config, toy)
    plain = [float(other.step(step)) for step in range(14)]
    progress, rows = Progress(), list[dict[str, Any]]()

    def own(*given: Any) -> torch.Tensor | float:
        step = given[-1]
        return torch.tensor(10.0 + step) if step % 5 == 0 else 0.0

    trainer.sampler.loss = own  # type: ignore[method-assign]
    for at in (stop, None):
        records = _Records([0.5], at)
        records.fit(trainer, progress, plan)
        rows += [row for row in records.rows if "loss" in row]
    assert [row["step"] for row in rows] == [4, 8, 12, 14]
    for row, first in zip(rows, (0, 4, 8, 12), strict=True):
        steps = range(first, row["step"])
        terms = [10.0 + step for step in steps if step % 5 == 0]
        assert row["model_loss"] == pytest.approx(sum(plain[step] for step in steps) / len(steps), rel=1e-4)
        assert row.get("sampler_loss") == (pytest.approx(sum(terms) / len(terms)) if terms else None)
        assert row["loss"] == pytest.approx(row["model_loss"] + sum(terms) / len(steps))


def test_the_last_two_steps_of_a_log_interval_are_measured(toy: Dataset) -> None:
    progress, records = Progress(), _Records([0.1])
    plan = Plan(steps=13, log_every=6, evaluate_every=13, checkpoint_every=13, patience=0)
    records.fit(_trainer(toy), progress, plan)
    # One of each side; the last interval has a single step.
    assert records.measured == [(5, False), (6, True), (11, False), (12, True), (13, False)]


def test_interruption_keeps_the_running_mean(toy: Dataset) -> None:
    """Stopping in the middle of a log interval, between its measured steps too, and going on gives the same record."""
    plan = Plan(steps=12, log_every=6, evaluate_every=100, checkpoint_every=100, patience=0)

    def losses(stops: list[int]) -> list[object]:
        trainer, progress, state = _trainer(toy), Progress(), {}
        rows: list[dict[str, Any]] = []
        for stop in [*stops, None]:
            records, hardness = _Records([0.5], stop), Hardness()
            if state:
                hardness.load_state_dict(json.loads(json.dumps(state)))
            records.fit(trainer, progress, plan, hardness)
            state = hardness.state_dict()
            rows += records.rows
        return [(row["loss"], row["hardness"]) for row in rows if "loss" in row]

    assert losses([4, 9]) == losses([5, 11]) == losses([])


def test_a_loss_that_is_not_finite_is_an_error_before_anything_is_saved(toy: Dataset) -> None:
    trainer, progress = _trainer(toy), Progress()
    with torch.no_grad():
        trainer.model.entity.weight[0, 0] = math.nan
    records = _Records([0.1])
    plan = Plan(steps=50, log_every=50, evaluate_every=50, checkpoint_every=5, patience=0)
    with pytest.raises(Diverged, match="the loss is not finite at step 5"):
        records.fit(trainer, progress, plan)
    assert records.saves == []


def test_whatever_fails_on_numbers_that_are_not_finite_is_divergence(toy: Dataset) -> None:
    plan = Plan(steps=50, log_every=50, evaluate_every=2, checkpoint_every=50, patience=0)

    def refuse() -> float:
        raise Diverged("scores")

    records, trainer = _Records([0.1]), _trainer(toy)
    with pytest.raises(Diverged, match="the model is not finite at step 2"):
        trainer.fit(Progress(), plan, validate=refuse, save=lambda best: None)

    def multinomial(*given: object) -> Negatives:
        raise RuntimeError("probability tensor contains nan")

    trainer.sampler.draw = multinomial  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="probability"):
        records.fit(trainer, Progress(), plan)
    with torch.no_grad():
        trainer.model.entity.weight[0, 0] = math.inf
    with pytest.raises(Diverged, match="the model is not finite at step 1"):
        records.fit(trainer, Progress(), plan)


def test_epoch_ends_are_told(toy: Dataset) -> None:
    trainer = _trainer(toy)
    ended: list[int] = []
    trainer.sampler.end_epoch = ended.append  # type: ignore[method-assign]
    progress, steps = Progress(), 2 * trainer.batches.per_epoch + 1
    plan = Plan(steps=steps, log_every=steps, evaluate_every=steps, checkpoint_every=steps, patience=0)
    _Records([0.1]).fit(trainer, progress, plan)
    assert ended == [0, 1]


class _Typed(Sampler):
    """A sampler of a user, whose weights are unequal in every other row of one side only."""

    unequal = True

    def draw(self, lookup: Lookup, model: Model, step: int) -> Negatives:
        ids = torch.arange(self.negatives).expand(len(lookup.batch), -1)
        rows = lookup.batch.head & (torch.arange(len(lookup.batch)) % 2 == 1)
        weight = ids.float() * rows[:, None] * self.unequal
        return OwnNegatives(ids, log_weight=weight + lookup.batch.r[:, None])


class _Level(_Typed):
    unequal = False


def test_a_loss_that_takes_no_importance_weights_refuses_a_sampler_that_gives_unequal_ones(toy: Dataset) -> None:
    softplus = {"loss": "softplus"}
    for method in ("uniform", "sans", "1-vs-all", "mmrns-published"):
        values = {"method": method, "objective": softplus, "model": {"dim": 6}, "device": "cpu"}
        build_trainer(make_config(values), toy)
    for values in (
        {"method": "frequency"},
        {"method": "hard", "sampler": {"negatives": 5, "pool": 20, "choice": "corrected"}},
    ):
        with pytest.raises(UsageError) as caught:
            build_trainer(make_config({**values, "objective": softplus, "model": {"dim": 6}, "device": "cpu"}), toy)
        message = str(caught.value)
        start = "objective.loss=softplus takes no importance weights, and the sampler"
        assert message.startswith(f"{start} {values['method']}")
        assert "self-adversarial, margin, cross-entropy" in message
        assert "\n" not in message
    # Options that leave the weights out are let through, and so is whatever else has none.
    for values in (
        {"method": "frequency", "sampler": {"corrected": False}},
        {"method": "hard", "sampler": {"pool": 20}},
        {"sampler": {**form_of("file", 5), "other": {"name": "frequency", "corrected": False}}},
    ):
        build_trainer(make_config({**values, "objective": softplus, "model": {"dim": 6}, "device": "cpu"}), toy)


def test_so_it_does_with_objects(toy: Dataset) -> None:
    config = make_config({"method": "uniform", "model": {"dim": 6}, "device": "cpu"})
    spec = build_trainer(config, toy).model.spec
    softplus = SoftplusLoss(gamma=1.0, alpha=0.0)
    build_trainer(config, toy, Parts(sampler=_Level(toy.graph, toy.features, spec), objective=softplus))
    for sampler in (_Typed(toy.graph, toy.features, spec), InBatch(toy.graph, toy.features, spec)):
        with pytest.raises(UsageError, match="takes no importance weights"):
            build_trainer(config, toy, Parts(sampler=sampler, objective=softplus))
        build_trainer(config, toy, Parts(sampler=sampler))
    with pytest.raises(UsageError, match=r"objective\.loss=k-vs-all needs every entity"):
        build_trainer(config, toy, Parts(objective=KvsAllLoss(gamma=1.0, alpha=0.0)))
    with pytest.raises(UsageError, match="takes no importance weights"):
        mmrns.train(dataset=toy, sampler=_Typed, loss=softplus, dim=6, steps=1, device="cpu")


def test_subclasses_inherit_what_they_give(toy: Dataset) -> None:
    values = {"sampler": {"name": _Everyone}, "objective": {"loss": "k-vs-all"}, "model": {"dim": 6}, "device": "cpu"}
    assert torch.isfinite(build_trainer(make_config(values), toy).step(0))
    with pytest.raises(UsageError, match="touches every row in a step"):
        make_config({**values, "training": {"sparse": True}})


class _Everyone(Every):
    """A sampler of a user that compares with everyone."""
