"""Tables in the machine's memory: a step that is given its rows is the step that reads them where they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from forms import FORMS, convert, form_of, scorer_for
from mmrns.data.datasets import Dataset
from mmrns.errors import UsageError
from mmrns.evaluation.ranking import rank
from mmrns.nn.embedders import Embedder, Rows, RowsAtHand, TableEmbedder, keep_on_host, on_host
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.samplers.base import Sampler
from mmrns.training.hosted import Foretold
from mmrns.training.trainer import Trainer

STEPS = 4
SAMPLERS = [
    name
    for name, form in FORMS.items()
    if not Sampler.registry.get(form["name"]).every and not Sampler.registry.get(form["name"]).needs_modalities
]
FORETELL = {"dhns", "uniform", "frequency", "inbatch", "shared-pool", "sans", "hard", "domain-range", "mmrns"}


def _trainer(toy: Dataset, sparse: bool | str, form: str = "uniform", **model: Any) -> Trainer:
    values: dict[str, Any] = {
        "model": {"dim": 6} | model,
        "sampler": form_of(form, 4),
        "training": {"batch_size": 40, "sparse": sparse, "lr": 0.05},
        "device": "cpu",
    }
    trainer = build_trainer(make_config(values), toy)
    # In single precision the order in which gradients are added up shows.
    convert(trainer, torch.float64)
    trainer.sampler.pretrain(trainer.batch)
    return trainer


def _ahead(trainer: Trainer) -> Trainer:
    """Have the processor take the part of a device."""
    tables = on_host(trainer.model.entity)
    trainer.foretold = Foretold(tables, trainer.sampler, trainer.batch, trainer.device)
    return trainer


def _come_to(trainer: Trainer) -> dict[str, Tensor]:
    losses = torch.stack([trainer.step(step) for step in range(STEPS)])
    parts = {"model": trainer.model, "sampler": trainer.sampler}
    return {"losses": losses} | {
        f"{part} {name}": p.detach() for part, module in parts.items() for name, p in module.named_parameters()
    }


def _same(found: dict[str, Tensor], wanted: dict[str, Tensor], atol: float) -> None:
    assert found.keys() == wanted.keys()
    for name, values in found.items():
        assert values.dtype == torch.float64
        torch.testing.assert_close(
            values, wanted[name], rtol=0, atol=atol, msg=lambda said, name=name: f"{name}: {said}"
        )


@pytest.mark.parametrize("form", SAMPLERS)
def test_a_step_ahead_changes_nothing_whatever_draws(toy: Dataset, form: str) -> None:
    trainer = _ahead(_trainer(toy, "host", form))
    _same(_come_to(trainer), _come_to(_trainer(toy, True, form)), 1e-10)
    told = trainer.sampler.foretold(trainer.batch(0), 0) is not None
    assert told == (FORMS[form]["name"] in FORETELL and "pool_sampler" not in FORMS[form])


EMBEDDERS = [name for name in Embedder.registry.names() if name != "table"]


@pytest.mark.parametrize("embedder", EMBEDDERS)
def test_a_step_ahead_changes_nothing_whatever_embeds(toy: Dataset, embedder: str) -> None:
    model = {"embedder": embedder, "scorer": scorer_for(embedder), "modalities": ["image", "text"]}
    trainer = _trainer(toy, "host", **model)
    assert on_host(trainer.model.entity)
    if type(trainer.model.entity).loss is Embedder.loss:
        _ahead(trainer)
    _same(_come_to(trainer), _come_to(_trainer(toy, True, **model)), 1e-10)


def test_rows_that_are_asked_for_where_they_are_not_are_the_same(toy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = _come_to(_trainer(toy, True, "hard"))
    monkeypatch.setattr(Rows, "_within_reach", lambda rows, ids: not rows.on_host)
    found = _trainer(toy, "host", "hard")
    _same(_come_to(found), wanted, 0)
    assert found.model.entity.table is None


def test_steps_out_of_turn_have_the_rows_of_now(toy: Dataset) -> None:
    def come_to(trainer: Trainer) -> Tensor:
        return torch.stack([trainer.step(step) for step in (0, 1, 5, 6, 0)])

    torch.testing.assert_close(come_to(_ahead(_trainer(toy, "host"))), come_to(_trainer(toy, True)), rtol=0, atol=1e-10)


def test_ranking_takes_the_entities_in_parts(toy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    model, graph = _trainer(toy, "host", scorer="ComplEx").model, toy.graph
    wanted = rank(model, graph.test, graph.known_index)
    batch = _trainer(toy, True).batch(0)
    scores = model.score_all(batch)
    asked: list[int] = []
    look_up = TableEmbedder.forward
    monkeypatch.setattr(TableEmbedder, "forward", lambda own, ids: (asked.append(ids.numel()), look_up(own, ids))[1])
    assert torch.equal(rank(model, graph.test, graph.known_index, memory_mb=0.01).optimistic, wanted.optimistic)
    assert len(asked) > 4
    asked.clear()
    torch.testing.assert_close(model.score_all(batch, memory_mb=6 * 2 * 8 * 10 / 2**20), scores, rtol=0, atol=1e-12)
    assert asked[0] == len(batch)
    assert set(asked[1:-1]) == {10}


def test_the_table_stays_when_the_model_goes() -> None:
    embedder = TableEmbedder.of(5, 4, 1.0, sparse=True)
    keep_on_host(embedder)
    before = embedder.weight
    embedder.to("meta")
    assert embedder.weight is before
    assert embedder.weight.device.type == "cpu"
    assert embedder.here.device.type == "meta"
    assert embedder.double().weight is before
    assert before.dtype == torch.float64
    assert [name for name, _ in embedder.named_parameters()] == ["weight"]
    # Gradients of another kind would come back than its optimizer takes.
    dense = TableEmbedder.of(5, 4, 1.0)
    keep_on_host(dense)
    assert not on_host(dense)


def test_what_is_not_at_hand_is_refused() -> None:
    weight = torch.nn.Parameter(torch.arange(12.0).view(6, 2))
    ids = torch.tensor([1, 3, 4])
    rows = RowsAtHand(weight, ids, ids, weight.detach()[ids])
    found = rows.look_up(torch.tensor([[4, 1], [1, 3]]))
    assert found.tolist() == [[[8, 9], [2, 3]], [[2, 3], [6, 7]]]
    (found * torch.tensor([1.0, 10.0])).sum().backward()
    assert weight.grad is not None
    assert weight.grad.is_sparse
    assert weight.grad.to_dense().tolist() == [[0, 0], [2, 20], [0, 0], [1, 10], [1, 10], [0, 0]]
    weight.grad = None
    rows = RowsAtHand(weight, ids, ids, weight.detach()[ids])
    with torch.no_grad():
        rows.look_up(ids)
    rows.look_up(torch.tensor([3])).mul(0).sum().backward()
    grad: Tensor | None = weight.grad
    assert grad is not None
    assert grad._indices().tolist() == [[3]]
    for unknown in (0, 2, 5):
        with pytest.raises(IndexError):
            rows.look_up(torch.tensor([unknown]))


def test_what_compares_with_every_entity_is_refused() -> None:
    with pytest.raises(UsageError, match="touches every row"):
        make_config({"method": "1-vs-all", "training": {"sparse": "host"}})
    with pytest.raises(UsageError, match=r"training\.sparse"):
        make_config({"training": {"sparse": "hosts"}})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("form", ["uniform", "hard", "mmrns", "nscaching"])
def test_a_gpu_that_is_given_rows_comes_to_the_same(toy: Dataset, form: str) -> None:
    def come_to(sparse: bool | str) -> tuple[Trainer, dict[str, Tensor]]:
        config: dict[str, Any] = {
            "model": {"dim": 6},
            "sampler": form_of(form, 4),
            "training": {"batch_size": 40, "sparse": sparse, "lr": 0.05},
            "device": "cuda",
        }
        trainer = build_trainer(make_config(config), toy)
        convert(trainer, torch.float64)
        return trainer, {name: values.cpu() for name, values in _come_to(trainer).items()}

    trainer, found = come_to("host")
    assert trainer.foretold is not None
    assert trainer.model.entity.weight.device.type == "cpu"
    _same(found, come_to(True)[1], 1e-9)
    graph = toy.graph
    rank(trainer.model, graph.test, graph.known_index.to("cuda"), memory_mb=1)
