"""Several processes that have some of the entities each train what one process trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from forked import forking
from forms import form_of
from mmrns.data.datasets import Dataset, load_dataset
from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.vocabulary import Vocabulary
from mmrns.errors import UsageError
from mmrns.files import read_tensors
from mmrns.nn.embedders import Embedder, TableEmbedder
from mmrns.nn.losses import Loss
from mmrns.nn.mixtures import Gated, Mixture
from mmrns.nn.scorers import Scorer
from mmrns.rng import seeded
from mmrns.runs.build import Parts, build_model
from mmrns.runs.config import make_config
from mmrns.samplers.base import Sampler
from mmrns.training.sharded import undivided
from mmrns.training.world import ALONE, Parting, World
from sharded_cases import come_to, free_port, run_all
from toy import write_toy


def case(method: str, scorer: str = "TransE", **sections: Any) -> dict[str, Any]:
    sampled = {} if method in ("1-vs-all", "k-vs-all") else {"negatives": 5}
    values: dict[str, Any] = {
        "method": method,
        "model": {"scorer": scorer, "dim": 6},
        "sampler": sampled,
        "training": {"batch_size": 32, "lr": 0.01},
    }
    given = {key: {**values.get(key, {}), **part} if isinstance(part, dict) else part for key, part in sections.items()}
    return values | given


def views(method: str, scorer: str = "TransE", **given: Any) -> dict[str, Any]:
    """A case whose entities have views of their modalities; what is of no section of its own is of the model's."""
    sections = {
        key: given.pop(key) for key in ("sampler", "objective", "training", "steps", "memory_mb") if key in given
    }
    data = {key: given.pop(key) for key in ("drop_modality", "altered") if key in given}
    return case(method, scorer, model={"modalities": ["text", "image"], **given}, data=data, **sections)


NOISE = {"dropout": 0.2, "structure_noise": 0.2, "token_noise": 0.2}
FEW: dict[str, Any] = {"training": {"batch_size": 2}, "steps": 3}
"""So few rows that some processes have no entity of a step."""
CASES: dict[str, dict[str, Any]] = {
    **{f"scorer {name}": case("self-adversarial", name) for name in Scorer.registry.names()},
    **{f"scorer {name} of all": case("1-vs-all", name, steps=2) for name in Scorer.registry.names()},
    "uniform": case("uniform", sampler={"filtered": False}),
    "bernoulli": case("bernoulli", "RotatE"),
    "shared-pool": case("shared-pool", "DistMult", objective={"loss": "softplus"}),
    "inbatch": case("inbatch", "ComplEx", objective={"loss": "cross-entropy"}),
    "frequency": case("frequency", objective={"loss": "margin"}),
    "hard": case("hard", sampler={"pool": 20}),
    "hard, corrected": case("hard", "DistMult", sampler={"pool": 20, "choice": "corrected"}),
    "nscaching": case("nscaching", "RotatE", sampler={"cache": 4, "candidates": 5}),
    "sans": case("sans"),
    "file": case("file", sampler=form_of("file with a shared list", 5)),
    "domain-range": case("domain-range", sampler={"pool": 12, "domain_range": 30}),
    "domain-range, filled": case("domain-range", sampler={"pool": 12, "pool_sampler": "nscaching"}),
    "mmrns": views("mmrns", sampler={"pool": 12, "domain_range": 30}),
    "mmrns, structure": case("mmrns", "RotatE", sampler={"pool": 12, "domain_range": 30, "modalities": []}),
    "mmrns, attention": case("mmrns", sampler={"pool": 12, "domain_range": 30, "attention": True}),
    "1-vs-all": case("1-vs-all", "ComplEx", objective={"n3": 0.1, "l2": 0.1}),
    "1-vs-all, in parts": views("1-vs-all", memory_mb=0.12, steps=2),
    "k-vs-all": case("k-vs-all", "DistMult", objective={"smoothing": 0.1}),
    "bce": case("k-vs-all", "RotatE", objective={"loss": "bce", "smoothing": 0.1}),
    "sparse": case("self-adversarial", training={"batch_size": 16, "sparse": True}),
    "sparse, adagrad": case("shared-pool", training={"batch_size": 16, "sparse": True, "optimizer": "adagrad"}),
    "reciprocal": case("hard", "ComplEx", model={"reciprocal": True}, sampler={"pool": 20}),
    "chance": case(
        "1-vs-all",
        "TuckER",
        model={"reciprocal": True, "batch_norm": True, "query_dropout": 0.2, "matrix_dropout": 0.1},
    ),
    "fused": views("self-adversarial", drop_modality=0.2),
    "fused, estimated": views("1-vs-all", "ComplEx", structure_dropout=0.3, modality_dropout=0.2, hidden=5, **FEW),
    "fused, in one": views("hard", concatenate=True, sampler={"pool": 20}, training={"sparse": True, "batch_size": 16}),
    "gated": views("shared-pool", "DistMult", mixture="gated", objective={"loss": "cross-entropy", "n3": 0.1}),
    "residual": views("self-adversarial", "RotatE", mixture="residual", altered={"text": "shuffled"}),
    "residual of all": views("k-vs-all", "ComplEx", mixture="residual", objective={"smoothing": 0.1}, steps=3),
    "mean-probability": views("1-vs-all", "TuckER", mixture="mean-probability", reciprocal=True, steps=3),
    "joint": views("uniform", mixture="joint", sampler={"filtered": False}, objective={"n3": 0.1}),
    "joint of all": views("k-vs-all", "DistMult", mixture="joint", steps=2),
    "cross": views("inbatch", "RotatE", mixture="cross", sums=True),
    "rsme": views("self-adversarial", "ComplEx", mixture="rsme", objective={"n3": 0.1}),
    "adamf": views("bernoulli", "RotatE", embedder="adamf", altered={"image": "noise"}, objective={"n3": 0.1}),
    "m-hyper": views("1-vs-all", "BiQUE", embedder="m-hyper", noise=0.3, objective={"n3": 0.1}, **FEW),
    "mygo": views("k-vs-all", "DistMult", embedder="mygo", inner=8, **NOISE, contrastive=0.1, contrasted=20, **FEW),
}
"""A training of each thing that several processes can train."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Tensor]]:
    """What one process, two and four have come to, by their number."""
    folder = tmp_path_factory.mktemp("sharded")
    dataset = load_dataset(str(write_toy(folder / "toy")))
    alone = {
        f"{name}/{key}": tensor
        for name, values in CASES.items()
        for key, tensor in come_to(dataset, values, ALONE).items()
    }
    return {1: alone} | {size: together(size, folder / "toy", CASES, folder / f"{size}") for size in (2, 4)}


def together(size: int, dataset: Path, cases: Mapping[str, Any], out: Path) -> dict[str, Tensor]:
    """What so many processes come to."""
    context, port = forking(), free_port()
    processes = [context.Process(target=run_all, args=(rank, size, port, dataset, cases, out)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)  # Where other work has the cores.
    assert [process.exitcode for process in processes] == [0] * size
    return read_tensors(out)[0]


@pytest.mark.parametrize("size", [2, 4])
def test_the_number_of_processes_does_not_matter(results: dict[int, dict[str, Tensor]], size: int) -> None:
    alone, found = results[1], results[size]
    assert alone.keys() == found.keys()
    for name, value in alone.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_whatever_can_be_trained_so_has_a_case() -> None:
    samplers = {values["method"] for values in CASES.values()}
    models: list[dict[str, Any]] = [values["model"] for values in CASES.values()]
    embedders = {"table", "fused", *(model.get("embedder") for model in models)}
    assert {name for name in Embedder.registry.names() if not undivided(Embedder.registry.get(name))} <= embedders
    mixtures = {model.get("mixture") for model in models}
    assert {name for name in Mixture.registry.names() if not undivided(Mixture.registry.get(name))} <= mixtures
    assert {name for name in Sampler.registry.names() if not undivided(Sampler.registry.get(name))} <= samplers
    losses = {values.get("objective", {}).get("loss") for values in CASES.values()}
    losses |= {"self-adversarial", "cross-entropy", "k-vs-all"}
    assert {name for name in Loss.registry.names() if Loss.registry.get(name).summed_by_row} <= losses


@given(st.integers(1, 200), st.integers(1, 9))
def test_every_entity_has_one_owner_and_one_row(n: int, size: int) -> None:
    parting, every = Parting(n, size), torch.arange(n)
    parts = [parting.ids(rank) for rank in range(size)]
    assert torch.equal(torch.cat(parts).sort().values, every)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for rank, ids in enumerate(parts):
        assert (parting.owner(ids) == rank).all()
        assert torch.equal(parting.place(ids), torch.arange(len(ids)))


def test_a_part_of_a_table_is_drawn_as_the_whole_one() -> None:
    """Also where it takes several blocks, and whatever is drawn next."""
    ids = torch.tensor([70_000, 3, 65_536, 65_535])
    names = Vocabulary([f"{i:06d}" for i in range(70_001)]), Vocabulary(["r"])
    none = torch.zeros(0, 3, dtype=torch.int64)
    graph = KnowledgeGraph(*names, none, none, none)
    found: list[Tensor] = []
    for part in (True, False):
        options: dict[str, Any] = {"width": 3, "init_range": 0.5}
        with seeded(0, "model"):
            made = TableEmbedder.of_part(ids, graph, Features({}), **options) if part else None
            made = made or TableEmbedder(graph, Features({}), **options).part(ids)
            found += [made.state_dict()["weight"], torch.rand(2)]
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])


class Asked(Tensor):
    """Features that keep the rows that are asked for; whatever else is done with them is an error."""

    rows: set[int]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        index = {Tensor.index_select: 2, Tensor.__getitem__: 1}.get(func)
        if index is not None:
            args[0].rows.update(args[index].tolist())
        elif func.__name__ not in ("__get__", "__len__", "element_size"):
            raise AssertionError(f"{func} reads all rows")
        found = super().__torch_function__(func, types, args, kwargs or {})
        return found.as_subclass(Tensor) if isinstance(found, Asked) else found


@pytest.mark.parametrize("embedder", ["fused", "m-hyper", "mygo"])
def test_each_process_reads_the_features_of_its_own_entities(toy: Dataset, embedder: str) -> None:
    scorer = {"m-hyper": "BiQUE"}.get(embedder, "TransE")
    config = make_config({**views("uniform", scorer, embedder=embedder), "device": "cpu"})
    asked: list[set[int]] = []
    for rank in (0, 1):
        text = toy.features["text"]
        text = replace(text, values=text.values.clone().as_subclass(Asked))
        assert isinstance(text.values, Asked)
        text.values.rows = found = set()
        dataset = replace(toy, features=Features({"text": text, "image": toy.features["image"]}))
        own = Parting(40, 2).ids(rank)
        dataset.refuse_unfit(own)
        model = build_model(config, dataset, world=World(rank, 2))
        for _ in range(2):
            model.entity.all()
            model.entity(torch.arange(20)).vectors.sum().backward()
            model.entity.by_features(torch.arange(20))
            # The first row stands for what is missing, and is then masked.
            assert found - {0} == set(text.row[own].tolist()) - {0, -1}
        asked.append(found - {0})
    assert not asked[0] & asked[1]


def test_a_mixture_says_that_it_can_be_parted(toy: Dataset) -> None:
    class Own(Gated):
        pass

    config = make_config({**views("uniform"), "device": "cpu"})
    with pytest.raises(UsageError, match=r"^the mixture .*Own cannot be trained by several processes: it does"):
        build_model(config, toy, Parts(mixture=Own(("structure", "text", "image"))), World(0, 2))
