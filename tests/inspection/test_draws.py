"""`Run.inspect` against loops that draw, score and count by themselves."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import mmrns
from mmrns.data.folders import dataset_folders
from mmrns.errors import DataError, UsageError
from mmrns.files import write_tensors
from mmrns.inspection import draws
from mmrns.inspection.draws import Query
from mmrns.runs.build import build_batches
from mmrns.runs.methods import method_names, method_of
from mmrns.samplers.base import Sampler
from mmrns.types import Batch

CONFIG: dict[str, Any] = {
    "model": {"dim": 8},
    "sampler": {"name": "mmrns", "negatives": 6, "pool": 16, "domain_range": 16, "discount": 0.25, "attention": True},
    "training": {"steps": 11, "batch_size": 64, "lr": 0.01, "evaluate_every": 11},
    "device": "cpu",
}
TRIPLE = ("e08", "part_of", "e02")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> mmrns.Run:
    from toy import write_toy

    folder = tmp_path_factory.mktemp("inspect")
    return mmrns.train(CONFIG | {"data": {"dataset": str(write_toy(folder / "toy"))}}, out=folder / "run", plots=False)


def _query(run: mmrns.Run, *triple: str, **options: Any) -> Query:
    (query,) = run.inspect(*triple, top=1000, **{"steps": 20, "side": "tail", **options})["queries"]
    return query


@pytest.mark.parametrize("side", ["head", "tail"])
def test_it_draws_as_training_would_have(run: mmrns.Run, side: Any) -> None:
    (drawn,) = _query(run, *TRIPLE, side=side)["samplers"]
    graph = run.dataset.graph
    triple = torch.tensor([[graph.entities.id(TRIPLE[0]), graph.relations.id(TRIPLE[1]), graph.entities.id(TRIPLE[2])]])
    batches = build_batches(run.config, run.dataset)
    counts: Counter[str] = Counter()
    for i in range(20):
        # The run selected step 11; the first even step from there is 12, and heads are replaced in odd steps.
        step = 12 + 2 * i + (side == "head")
        own = batches.at(step)
        assert bool(own.head.all()) == (side == "head")
        rows = torch.cat([torch.stack([own.h, own.r, own.t], dim=1), triple])
        weight = torch.cat([own.weight, torch.ones(1)])
        batch = Batch.of(rows, torch.full((len(rows),), side == "head"), weight)
        with torch.no_grad():
            negatives = run.sampler.draw(run.model.lookup(batch), run.model, step)
        ids, counting = negatives.entities(len(batch))[-1], negatives.counts(len(batch))[-1]
        counts.update(graph.entities[e] for e in ids[counting].tolist())
    assert {n["entity"]: n["drawn"] for n in drawn["negatives"]} == counts
    assert drawn["draws"] == counts.total() == 20 * 6
    assert drawn["distinct"] == len(counts)
    assert (drawn["trained"], drawn["closed_form"], drawn["exact"], drawn["per_step"]) == (True, True, False, 6)
    assert [n["probability"] for n in drawn["negatives"]] == sorted(
        (n["probability"] for n in drawn["negatives"]), reverse=True
    )


def test_scores_ranks_and_known_triples(run: mmrns.Run) -> None:
    query = _query(run, *TRIPLE, samplers=["1-vs-all"])
    every = run.predict(head=TRIPLE[0], relation=TRIPLE[1], top=1000)
    scores = dict(zip(every["tail"], every["score"], strict=True))
    graph = run.dataset.graph
    held = {
        split: {(graph.entities[h], graph.relations[r], graph.entities[t]) for h, r, t in rows.tolist()}
        for split, rows in (("train", graph.train), ("valid", graph.valid), ("test", graph.test))
    }
    own, everything = query["samplers"]
    # The anchor is a candidate like any other here, and not among the predictions.
    anchor = next(n for n in everything["negatives"] if n["entity"] == TRIPLE[0])
    scores[TRIPLE[0]] = anchor["score"]
    for n in [*own["negatives"], *everything["negatives"]]:
        assert n["score"] == pytest.approx(scores[n["entity"]])
        assert n["rank"] == 1 + sum(s > n["score"] for s in scores.values())
        splits = [s for s, rows in held.items() if (TRIPLE[0], TRIPLE[1], n["entity"]) in rows]
        assert n["known"] == (splits[0] if splits else None)
        assert n["known"] != "train"
    assert query["score"] == pytest.approx(scores[TRIPLE[2]])
    assert query["rank"] == 1 + sum(s > query["score"] for s in scores.values())
    assert query["split"] == next(s for s, rows in held.items() if TRIPLE in rows)
    for drawn in query["samplers"]:
        for split, share in drawn["known"].items():
            hits = sum(n["drawn"] for n in drawn["negatives"] if n["known"] == split)
            assert share == pytest.approx(hits / drawn["draws"])
        ranks = sorted(n["rank"] for n in drawn["negatives"] for _ in range(n["drawn"]))
        assert drawn["median_rank"] == ranks[(len(ranks) - 1) // 2]


def test_similarities_are_those_of_the_draw(run: mmrns.Run) -> None:
    for triple, absent in ((TRIPLE, set[str]()), (("e11", "part_of", "e02"), {"image"})):
        query = _query(run, *triple, side="head")
        (drawn,) = query["samplers"]
        assert drawn["why_not"] == ""
        assert {name for name, w in drawn["weights"].items() if w == 0} == absent
        graph = run.dataset.graph
        ids = [graph.entities.id(name) for name in triple[::2]]
        batch = Batch.of(torch.tensor([[ids[0], graph.relations.id(triple[1]), ids[1]]]), torch.tensor([True]))
        with torch.no_grad():
            found = run.sampler.evidence(batch, torch.arange(len(graph.entities)), run.model).similarities
        for n in drawn["negatives"]:
            e = graph.entities.id(n["entity"])
            for name, similarity in found.items():
                missing = name in absent or run.dataset.features[name].row[e] < 0
                expected = None if missing else pytest.approx(float(similarity[0, e]), abs=1e-5)
                assert n["similarities"][name] == expected
            terms = [(w, n["similarities"][name]) for name, w in drawn["weights"].items() if w]
            if any(s is None for _, s in terms):
                assert n["pmi"] is None
            else:
                assert n["pmi"] == pytest.approx(sum(w * s for w, s in terms if s is not None))
        assert {n["pmi"] is None for n in drawn["negatives"]} == {True, False}


def test_the_attention_is_of_the_true_entity(run: mmrns.Run) -> None:
    attention = _query(run, "e08", "part_of", "e02", side="head")["samplers"][0]["attention"]
    assert attention is not None
    assert attention["entity"] == "e08"
    assert [(m["reads"], m["guide"]) for m in attention["maps"]] == [("image", "text"), ("text", "image")]
    graph, row = run.dataset.graph, {}
    for name, tokens in attention["tokens"].items():
        _, mask = run.dataset.features.gather(name, torch.tensor([graph.entities.id("e08")]))
        row[name] = mask[0].tolist()
        assert tokens == {"present": row[name], "labels": None, "grid": None, "grids": []}
    for one in attention["maps"]:
        weights = torch.tensor(one["attention"])
        assert weights.shape == (len(row[one["reads"]]), len(row[one["guide"]]))
        torch.testing.assert_close(weights.sum(0), torch.ones(weights.shape[1]))
        assert (weights[~torch.tensor(row[one["reads"]])] == 0).all()
    lacking = _query(run, "e05", "part_of", "e02", side="head")["samplers"][0]["attention"]
    assert lacking is not None
    assert not any(any(tokens["present"]) for tokens in lacking["tokens"].values())


def test_every_method_can_stand_beside_it(run: mmrns.Run) -> None:
    # Negatives of the user's own need a file of them, and those that are another's modalities a model that reads some.
    needing = [n for n in method_names() if Sampler.registry.get(method_of(n).sampler).needs_modalities]
    beside = [name for name in method_names() if name not in ("file", *needing)]
    for name in needing:
        with pytest.raises(
            UsageError, match=r"the views of the model are structure; give it modalities of the dataset"
        ):
            run.inspect(*TRIPLE, side="tail", samplers=[name], steps=1)
    (query,) = run.inspect(*TRIPLE, side="tail", samplers=beside, steps=3)["queries"]
    assert [d["method"] for d in query["samplers"]] == ["mmrns", *(name for name in beside if name != "mmrns")]
    by_name = {d["method"]: d for d in query["samplers"]}
    assert [by_name[name]["trained"] for name in ("mmrns", "kbgan", "uniform")] == [True, False, None]
    free = 40 - int(run.dataset.graph.train_index.counts(torch.tensor([8]), torch.tensor([4]), False)[0])
    for name in ("uniform", "self-adversarial", "shared-pool", "1-vs-all"):
        assert by_name[name]["exact"]
        assert [n["probability"] for n in by_name[name]["negatives"]] == pytest.approx([1 / free] * 10)
    assert by_name["uniform"]["why_not"] == "it compares no modalities"
    for drawn in query["samplers"]:
        assert drawn["draws"] == sum(n["drawn"] for n in drawn["negatives"]) or len(drawn["negatives"]) == 10


def test_a_query_that_a_sampler_cannot_serve_says_so(run: mmrns.Run) -> None:
    # e39 occurs in test only.
    query = _query(run, "e39", "likes", "e00", samplers=["nscaching"])
    assert query["split"] == "test"
    own, caching = query["samplers"]
    assert own["draws"] > 0
    assert (caching["draws"], caching["negatives"], caching["median_rank"]) == (0, [], None)
    assert caching["why_not"] == "it has nothing to draw for this query: no triple of train asks it"


def test_it_is_deterministic_and_plain(run: mmrns.Run) -> None:
    found = run.inspect(*TRIPLE, against=["next_to"], samplers=["kbgan"], steps=4)
    again = mmrns.load_run(run.folder).inspect(
        "Entity 8", "part_of", "Entity 2", against=["next_to"], samplers=["kbgan"], steps=4
    )
    assert found == again == json.loads(json.dumps(found, allow_nan=False))
    assert [(q["head"], q["relation"], q["tail"], q["side"]) for q in found["queries"]] == [
        ("e08", "part_of", "e02", "tail"),
        ("e08", "part_of", "e02", "head"),
        ("e08", "next_to", "e09", "tail"),
        ("e08", "next_to", "e09", "head"),
    ]
    assert (found["first_step"], found["steps"], found["entities"]) == (12, 4, 40)
    assert found["names"]["e08"] == "Entity 8"
    assert found["descriptions"]["e08"] == "member of group 0"
    assert found["images"] == {}


def test_against_takes_the_head_or_else_the_tail(run: mmrns.Run) -> None:
    # e08 owns nothing; something owns the entity e04.
    found = run.inspect("e08", "knows", "e04", against=["owns"], steps=1, side="tail")["queries"]
    assert (found[1]["relation"], found[1]["tail"]) == ("owns", "e04")
    with pytest.raises(
        UsageError, match=r"no triple of 'owns' has the head 'e39' or the tail 'e00'.*that do: .*part_of"
    ):
        run.inspect("e39", "likes", "e00", against=["owns"])


def test_without_features_it_says_so(toy_folder: Path, tmp_path: Path) -> None:
    for file in (toy_folder / "features").iterdir():
        file.unlink()
    (toy_folder / "entities.tsv").unlink()
    run = mmrns.train(CONFIG | {"data": {"dataset": str(toy_folder)}}, out=tmp_path / "run", plots=False)
    found = run.inspect(*TRIPLE, steps=3)
    assert found["names"] == found["images"] == {}
    drawn = found["queries"][0]["samplers"][0]
    assert drawn["attention"] is None
    assert set(drawn["negatives"][0]["similarities"]) == {"structure"}
    assert drawn["why_not"] == "without a modality it compares structure alone"


def test_unknown_names_and_weights_that_do_not_fit(run: mmrns.Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown method 'unifrm'; did you mean 'uniform'"):
        run.inspect(*TRIPLE, samplers=["unifrm"])
    with pytest.raises(UsageError, match=r"unknown relation 'part'"):
        run.inspect("e08", "part", "e02")
    copy = mmrns.load_run(run.folder)
    path = run.folder / "sampler.safetensors"
    before = path.read_bytes()
    try:
        write_tensors(path, {"x": torch.zeros(1)})
        with pytest.raises(DataError, match=r"sampler\.safetensors: is not the file that the run wrote"):
            copy.inspect(*TRIPLE)
    finally:
        path.write_bytes(before)


def test_pictures_are_those_that_tokens_were_made_of(tmp_path: Path) -> None:
    """Pictures that `mmrns encode` found by the entity's name are shown, too, though no column names them."""
    folder = tmp_path / "own"
    shutil.copytree(dataset_folders()["countries"], folder, ignore=shutil.ignore_patterns("images"))
    table = [line.split("\t") for line in (folder / "entities.tsv").read_text(encoding="utf-8").splitlines()]
    place = table[0].index("image")
    lines = ["\t".join(cells[:place] + cells[place + 1 :]) for cells in table]
    (folder / "entities.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    dataset = mmrns.load_dataset(folder)
    assert dataset.images == {}
    query: dict[str, Any] = {
        "head": "country/France",
        "relation": "language",
        "tail": "language/French",
        "samplers": [],
    }
    assert draws.about(dataset, [query])["images"] == {"country/France": "images/fr.png"}  # type: ignore[list-item]
    mask = torch.ones(24, dtype=torch.bool)
    whole: dict[str, Any] = {"picture": "images/fr.png", "rows": 4, "columns": 6, "box": (0.0, 0.0, 1.0, 1.0)}
    assert draws._tokens(dataset, "image", "country/France", mask) == {
        "present": [True] * 24,
        "labels": None,
        "grid": (4, 6),
        "grids": [whole],
    }
    # Of two pictures, and of a part of one, there is no single grid over a whole picture.
    path = folder / "features" / "image.tokens.jsonl"
    row = (folder / "features" / "image.entities").read_text().splitlines().index("country/France")
    lines = path.read_text(encoding="utf-8").splitlines()
    halves = [whole | {"rows": 2, "picture": name} for name in ("a.png", "b.png")]
    for grids in (halves, [whole | {"box": (0.25, 0.0, 0.75, 1.0)}]):
        lines[row] = json.dumps(grids)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        found = draws._tokens(mmrns.load_dataset(folder), "image", "country/France", mask)
        assert found["grid"] is None
        assert [one | {"box": list(one["box"] or ())} for one in found["grids"]] == [
            one | {"box": list(one["box"])} for one in grids
        ]
