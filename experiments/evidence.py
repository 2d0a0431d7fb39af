"""Does the evidence that `Run.explain` names carry the prediction? Take it out of train, train again, and rank again.

    python experiments/evidence.py [--only DATASET] [--table]

Of a trained model test queries with rank 10 or better are drawn, as many as `MODELS` says. For each of them `k` triples
are named: by one of the lists of `Run.explain`, or by chance. What was named for all of them is taken out of train at
once, and the model is trained again with the same seed. What the queries lose on average is appended to
`experiments/evidence.jsonl`, one line for each way to name; what is there is not trained again. `--table` only prints.

By chance are named
    sharing    triples that share an entity with the query's
    matched    in the place of each triple that `influence` names a triple of the same entity, another one if it has any
    any        triples of train, whatever they are

DB15K-resplit (`experiments/resplit.py`) is found through `$MMRNS_DATA`.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

import mmrns
from mmrns.data.graph import KnowledgeGraph
from mmrns.rng import generator

RECORDS = Path(__file__).with_name("evidence.jsonl")
COMMON = {
    "model.modalities": [],
    "training.patience": 0,
    "training.hardness": False,
    "threads": 1,
    "device": "cpu",
}
TRANSE = {"model.scorer": "TransE", "method": "self-adversarial", "training.lr": 0.01}
COMPLEX = {"model.scorer": "ComplEx", "method": "1-vs-all", "training.lr": 0.03, "objective.n3": 0.1}
SMALL = {"model.dim": 32, "training.batch_size": 256}
MODELS: dict[str, tuple[int, int, list[dict[str, Any]]]] = {
    "countries": (
        3,
        60,
        [
            {**TRANSE, **SMALL, "objective.gamma": 6, "training.steps": 600},
            {**COMPLEX, **SMALL, "training.steps": 400},
        ],
    ),
    "DB15K-resplit": (
        2,
        200,
        [{**TRANSE, "model.dim": 64, "objective.gamma": 9, "training.batch_size": 1024, "training.steps": 1000}],
    ),
}
"""Of each graph the number of seeds, of queries, and the settings of models: a minute of one core at most."""
LISTS = ("influence", "similar", "rules")
CHANCE = ("matched", "sharing", "any")
K = 3
"""Triples that are named for each query."""
Triples = Int[Tensor, "n 3"]


def main() -> None:
    """Train what is missing, print what there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=MODELS)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    for name in [arguments.only] if arguments.only else MODELS:
        if not arguments.table:
            seeds, n_queries, models = MODELS[name]
            for seed in range(seeds):
                for settings in models:
                    measure(name, settings, seed, n_queries)
        print_table(name)


def records() -> list[dict[str, Any]]:
    """What was measured so far."""
    return [json.loads(line) for line in RECORDS.read_text(encoding="utf-8").splitlines()] if RECORDS.exists() else []


def measure(name: str, settings: dict[str, Any], seed: int, n_queries: int) -> None:
    """All ways to name that are missing, for one model."""
    scorer = settings["model.scorer"]
    done = {(one["dataset"], one["scorer"], one["seed"], one["named"]) for one in records()}
    missing = [way for way in (*LISTS, *CHANCE) if (name, scorer, seed, way) not in done]
    if not missing:
        return
    chosen = {**COMMON, **settings, "training.evaluate_every": settings["training.steps"]}
    dataset = mmrns.load_dataset(name)
    before = mmrns.train(dataset=dataset, seed=seed, settings=chosen, progress=False)
    ranks = before.ranks("test")
    good = (ranks.realistic <= 10).nonzero().squeeze(1)
    queries = good[torch.randperm(len(good), generator=generator(seed, "queries"))[:n_queries]]
    named = name_triples(before, ranks.triples[queries], ranks.head[queries].tolist(), seed)
    own = ranks.realistic[queries]
    for way in missing:
        gone = torch.unique(torch.cat(named[way]), dim=0)
        train = without(dataset.graph, gone)
        after = mmrns.train(
            dataset=replace(dataset, graph=replace(dataset.graph, train=train)),
            seed=seed,
            settings=chosen,
            progress=False,
        )
        again = after.ranks("test").realistic[queries]
        record = {
            "dataset": name,
            "scorer": scorer,
            "seed": seed,
            "named": way,
            "k": K,
            "queries": len(queries),
            "named_per_query": mean(len(one) for one in named[way]),
            "triples": len(gone),
            "rank": [float(own.mean()), float(again.mean())],
            "median_rank": [float(own.median()), float(again.median())],
            "mrr": [float((1 / own).mean()), float((1 / again).mean())],
            "test_mrr": [run.results["test"]["both"]["realistic"]["mrr"] for run in (before, after)],
            "settings": chosen,
        }
        with RECORDS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(name, scorer, seed, way, record["triples"], record["rank"], record["mrr"], flush=True)


def name_triples(run: mmrns.Run, triples: Triples, heads: Sequence[bool], seed: int) -> dict[str, list[Triples]]:
    """The triples that are named for each query, by each way."""
    graph, stream = run.dataset.graph, generator(seed, "chance")
    train = torch.unique(graph.train, dim=0)
    named: dict[str, list[Triples]] = defaultdict(list)
    for (h, r, t), head in zip(triples.tolist(), heads, strict=True):
        entities, relation = graph.entities, graph.relations[r]
        found = run.explain(entities[h], relation, entities[t], side="head" if head else "tail", top=K)
        own = [one for one in found["similar"] if one["by"] == "structure"]
        rules: list[tuple[float, list[list[str]]]] = [
            *((one["confidence"], [ends(one)]) for one in found["inverse"]),
            *((one["confidence"], one["triples"]) for one in found["paths"]),
        ]
        rules.sort(key=lambda rule: -rule[0])
        influence = ids(graph, [ends(one) for one in found["influence"]])
        named["influence"].append(influence)
        named["similar"].append(ids(graph, [ends(one) for one in own]))
        named["rules"].append(ids(graph, [triple for _, body in rules for triple in body]))
        named["matched"].append(matched(train, influence, (h, t), stream))
        sharing = train[((train[:, [0, 2]] == h) | (train[:, [0, 2]] == t)).any(1)]
        named["sharing"].append(drawn(sharing, K, stream))
        named["any"].append(drawn(train, K, stream))
    return named


def ends(one: Any) -> list[str]:
    """The three names of a triple of an explanation."""
    return [one["head"], one["relation"], one["tail"]]


def ids(graph: KnowledgeGraph, names: Sequence[Sequence[str]]) -> Triples:
    """The first distinct triples, as many as are named for a query."""
    first = list(dict.fromkeys(map(tuple, names)))[:K]
    found = [[graph.entities.id(h), graph.relations.id(r), graph.entities.id(t)] for h, r, t in first]
    return torch.tensor(found, dtype=torch.int64).view(-1, 3)


def drawn(triples: Triples, n: int, stream: torch.Generator) -> Triples:
    """Some of some triples."""
    return triples[torch.randperm(len(triples), generator=stream)[:n]]


def matched(train: Triples, named: Triples, ends: tuple[int, int], stream: torch.Generator) -> Triples:
    """For each named triple one of the same entity, which was not named if the entity has such."""
    h, t = ends
    found: list[Tensor] = [train[:0]]
    for entity in (h, t):
        # A triple of both entities counts for the head.
        mine = (named[:, [0, 2]] == entity).any(1)
        if entity == t:
            mine &= ~(named[:, [0, 2]] == h).any(1)
        n = int(mine.sum())
        others = train[(train[:, [0, 2]] == entity).any(1)]
        others = others[~(others[:, None] == named).all(2).any(1)]
        others = drawn(others, n, stream)
        found += [others, named[mine][: n - len(others)]]
    return torch.cat(found)


def without(graph: KnowledgeGraph, gone: Triples) -> Triples:
    """Train without some triples."""
    n, m = len(graph.relations), len(graph.entities)
    keys: list[Float[Tensor, " n"]] = [(x[:, 0] * n + x[:, 1]) * m + x[:, 2] for x in (graph.train, gone)]
    return graph.train[~torch.isin(*keys)]


def print_table(name: str) -> None:
    """Means over the seeds of what is lost, and its ratio to that of the triples that share an entity."""
    groups: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for one in records():
        if one["dataset"] == name:
            groups[one["scorer"]][one["named"]].append(one)
    print(f"\n{name}\n\n| scorer | named by | seeds | triples a query | MRR lost | x matched | x sharing | rank lost |")
    print(f"|{'---|' * 8}")
    for scorer, ways in groups.items():
        lost = {way: [one["mrr"][0] - one["mrr"][1] for one in found] for way, found in ways.items()}
        for way in (way for way in (*LISTS, *CHANCE) if way in ways):
            found = ways[way]
            ratios = [f"{mean(lost[way]) / mean(lost[other]):.1f}" if other in lost else "" for other in CHANCE[:2]]
            rank = mean(one["rank"][1] - one["rank"][0] for one in found)
            per = mean(one["named_per_query"] for one in found)
            cells = [scorer, way, len(found), f"{per:.1f}", f"{100 * mean(lost[way]):.1f}", *ratios, f"{rank:.0f}"]
            print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
