"""`Run.explain`: its parts fit together and to the run; names in, names out; mistakes in one line."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn.functional import cosine_similarity

import mmrns
from mmrns.data.datasets import Dataset
from mmrns.errors import UsageError
from mmrns.inspection.evidence import Explanation
from toy import SHORT


@pytest.fixture(scope="module")
def run(toy: Dataset) -> mmrns.Run:
    """Scored by structure, images and texts."""
    settings = SHORT | {"training.lr": 0.05, "threads": 1}
    return mmrns.train(
        dataset=toy,
        scorer="TransE",
        method="self-adversarial",
        modalities=["image", "text"],
        settings=settings,
        device="cpu",
    )


def names_of(toy: Dataset, split: str) -> list[tuple[str, str, str]]:
    graph = toy.graph
    rows = getattr(graph, split).tolist()
    return [(graph.entities[h], graph.relations[r], graph.entities[t]) for h, r, t in rows]


def every_triple(found: Explanation) -> list[tuple[str, str, str]]:
    listed = [*found["similar"], *found["inverse"]]
    triples = [(one["head"], one["relation"], one["tail"]) for one in listed]
    return triples + [(h, r, t) for path in found["paths"] for h, r, t in path["triples"]]


def test_what_is_named_is_in_train(run: mmrns.Run, toy: Dataset) -> None:
    train = set(names_of(toy, "train"))
    kinds = {"similar": 0, "inverse": 0, "paths": 0, "influence": 0}
    for split in ("train", "valid", "test"):
        for triple in names_of(toy, split)[:5]:
            found = run.explain(*triple, side="head", top=5)
            assert json.loads(json.dumps(found, allow_nan=False)) == found
            assert (found["head"], found["relation"], found["tail"], found["side"]) == (*triple, "head")
            assert found["known"] == split
            named = every_triple(found)
            assert set(named) <= train - {triple}
            influence = [(one["head"], one["relation"], one["tail"]) for one in found["influence"]]
            assert set(influence) <= train
            assert (triple in influence) <= (split == "train")
            assert all({h, t} & {triple[0], triple[2]} for h, _, t in influence)
            changes = [one["change"] for one in found["influence"]]
            assert changes == sorted(changes)
            assert all(change < 0 for change in changes)
            for path in found["paths"]:
                ends = [{one[0], one[2]} for one in path["triples"]]
                assert ends[0] ^ ends[1] == {triple[0], triple[2]}
            for one in found["inverse"]:
                assert {one["head"], one["tail"]} == {triple[0], triple[2]}
            said = {name for triple in [*named, *influence, triple] for name in triple} & set(toy.labels)
            assert found["names"] == {name: toy.labels[name] for name in said}
            for kind in kinds:
                kinds[kind] += len(found[kind])
                assert len(found[kind]) <= 5 * (3 if kind == "similar" else 1)
    assert all(kinds.values()), f"a kind of evidence never came up: {kinds}"


def test_the_score_and_the_rank_are_those_of_the_run(run: mmrns.Run, toy: Dataset) -> None:
    ranks = run.ranks("test")
    for i, triple in enumerate(names_of(toy, "test")[:6]):
        found = run.explain(*triple, side="tail", top=1)
        assert found["score"] == pytest.approx(run.score([triple])["score"][0], abs=1e-5)
        # The ranking has the anchor among the candidates.
        assert 0 <= int(ranks.realistic[i]) - found["rank"] <= 1
        assert found["candidates"] in (int(ranks.candidates[i]), int(ranks.candidates[i]) - 1)
    assert len(ranks) == 2 * len(toy.graph.test)


def test_similar_entities_are_similar(run: mmrns.Run, toy: Dataset) -> None:
    h, r, t = names_of(toy, "test")[0]
    found = run.explain(h, r, t, top=99)["similar"]
    graph = toy.graph
    values, mask = toy.features["text"].gather(torch.arange(40))
    means = values.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    by_text = [one for one in found if one["by"] == "text"]
    assert by_text
    assert {one["by"] for one in found} == {"structure", "image", "text"}
    for one in by_text:
        replaced = {"head": h, "tail": t}[one["instead_of"]]
        stays = {"head": "tail", "tail": "head"}[one["instead_of"]]
        assert one[one["instead_of"]] == one["entity"] != replaced
        assert one[stays] == {"head": h, "tail": t}[stays]
        pair = means[[graph.entities.id(replaced), graph.entities.id(one["entity"])]]
        assert one["similarity"] == pytest.approx(float(cosine_similarity(pair[:1], pair[1:])), abs=1e-5)
    heads = {e for e, relation, tail in names_of(toy, "train") if (relation, tail) == (r, t)} - {h}
    assert {one["entity"] for one in found if one["instead_of"] == "head"} <= heads


def test_the_best_new_answer(run: mmrns.Run) -> None:
    best = run.predict("e08", "likes", known="drop", top=1).row(0, named=True)
    found = run.explain("e08", "likes", None)
    assert (found["tail"], found["side"], found["known"], found["rank"]) == (best["tail"], "tail", None, 1)
    assert found["score"] == pytest.approx(best["score"])
    found = run.explain(None, "LIKES", "entity 2")
    assert (found["head"], found["side"]) == (run.predict(None, "likes", "e02", known="drop", top=1)["head"][0], "head")


@pytest.mark.parametrize(
    ("asked", "side", "message"),
    [
        (("e8", "likes", "e02"), None, "unknown entity 'e8'; did you mean "),
        (("e08", "like", "e02"), None, "unknown relation 'like'; did you mean 'likes'?"),
        ((None, "likes", None), None, "a query names two of head, relation and tail"),
        ((None, "likes", "e02"), "tail", "the head is left out, so that it is asked for; leave side=tail out"),
    ],
)
def test_mistakes(run: mmrns.Run, asked: tuple[str, str, str], side: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        run.explain(*asked, side=side)  # pyright: ignore
    assert str(raised.value).startswith(message)


def test_a_run_of_structure_on_the_other_side(toy: Dataset) -> None:
    settings = {key: value for key, value in SHORT.items() if key != "sampler.negatives"} | {
        "model.reciprocal": True,
        "threads": 1,
    }
    run = mmrns.train(dataset=toy, scorer="DistMult", method="1-vs-all", modalities=[], settings=settings, device="cpu")
    triple = names_of(toy, "test")[0]
    tail, head = run.explain(*triple, side="tail"), run.explain(*triple, side="head")
    assert [part["part"] for part in tail["parts"]] == ["structure"]
    assert tail["score"] != head["score"]
    assert tail["influence"] != head["influence"]
    assert (tail["paths"], tail["inverse"]) == (head["paths"], head["inverse"])
