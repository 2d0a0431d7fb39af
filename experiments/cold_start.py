"""Entities without a triple in train: how well are they ranked, and what does it take?

    python experiments/cold_start.py FOLDER [--only DATASET] [--table]

Splits three graphs so that some of the entities are held back from train with all their triples (`mmrns data split
--new-entities`, into FOLDER), trains each variant on each, and appends what the test split says to
`experiments/cold-start.jsonl`. Two variants are also trained on the graphs as they are, to see what it costs entities
that train has. What is there is not trained again. `--table` prints the means over the seeds.

WN9 and DB15K-resplit (`experiments/resplit.py`) are found through `$MMRNS_DATA`.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import mmrns
from mmrns.data.folders import find_dataset
from mmrns.prepare.split import split_dataset

RECORDS = Path(__file__).with_name("cold-start.jsonl")
COMMON = {
    "method": "shared-pool",
    "sampler.negatives": 128,
    "model.scorer": "TransE",
    "model.dim": 32,
    "objective.gamma": 6,
    "training.lr": 0.01,
    "training.patience": 0,
    "training.hardness": False,
    "device": "cpu",
}
GRAPHS: dict[str, tuple[int, float, dict[str, Any]]] = {
    "countries": (2, 0.1, {"objective.gamma": 3, "training.batch_size": 256, "training.steps": 500}),
    "WN9": (2, 0.05, {"training.batch_size": 256, "training.steps": 800}),
    "DB15K-resplit": (1, 0.03, {"training.batch_size": 512, "training.steps": 800}),
}
"""Of each the number of seeds, the share of new entities and settings: a minute of one core at most."""
VARIANTS: dict[str, dict[str, Any]] = {
    "structure": {"model.modalities": []},
    "fused, unseen negatives": {"objective.unseen_negatives": True, "model.structure_dropout": 0},
    "fused": {"model.structure_dropout": 0},
    "fused, dropout": {"model.structure_dropout": 0.2},
    "fused, dropout, unseen negatives": {"objective.unseen_negatives": True, "model.structure_dropout": 0.2},
}
WHOLE = ["fused", "fused, dropout"]
PARTS = {
    ("target", "head"): "head is unseen, asked for",
    ("target", "tail"): "tail is unseen, asked for",
    ("anchor", "tail"): "head is unseen, tail asked for",
    ("anchor", "head"): "tail is unseen, head asked for",
}


def main() -> None:
    """Split, train what is missing, print what there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=GRAPHS)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if not arguments.table:
        for seed in range(max(seeds for seeds, _, _ in GRAPHS.values())):
            for name in [arguments.only] if arguments.only else GRAPHS:
                train_missing(name, new_entities(name, arguments.folder / f"{name}-new"), seed, list(VARIANTS))
                train_missing(name, find_dataset(name), seed, WHOLE)
    for name in GRAPHS:
        print_table(name, [record for record in records() if record["dataset"] == name])


def records() -> list[dict[str, Any]]:
    """What was trained so far."""
    return [json.loads(line) for line in RECORDS.read_text(encoding="utf-8").splitlines()] if RECORDS.exists() else []


def new_entities(name: str, folder: Path) -> Path:
    """The graph with its share of entities held back, written where it is missing."""
    if not folder.exists():
        split_dataset(find_dataset(name), folder, valid=0.02, test=0.02, new_entities=GRAPHS[name][1])
    return folder


def train_missing(name: str, folder: Path, seed: int, variants: list[str]) -> None:
    """Train variants with a seed, where the graph has so many."""
    seeds, _, settings = GRAPHS[name]
    dataset = mmrns.load_dataset(folder)
    if seed >= seeds:
        return
    done = {(record["dataset"], record["split"], record["variant"], record["seed"]) for record in records()}
    whole = "whole" if variants == WHOLE else "new entities"
    for variant in variants:
        if (name, whole, variant, seed) in done:
            continue
        chosen = {"model.modalities": list(dataset.features), **COMMON, **settings, **VARIANTS[variant]}
        chosen["training.evaluate_every"] = chosen["training.steps"] // 2
        run = mmrns.train(dataset=folder, seed=seed, settings=chosen)
        test = run.results["test"]
        record = {
            "dataset": name,
            "split": whole,
            "variant": variant,
            "seed": seed,
            "settings": chosen,
            "valid_mrr": run.results["valid"]["both"]["realistic"]["mrr"],
            "seen": test["seen"]["realistic"],
            "cold_start": test["cold_start"],
            "selected_step": run.results["selected_step"],
            "seconds": run.results["seconds"]["train"],
        }
        with RECORDS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(name, whole, variant, seed, f"{record['seconds']:.0f} s", flush=True)


def print_table(name: str, found: list[dict[str, Any]]) -> None:
    """Means over the seeds: MRR in percent, and AMRI in brackets."""
    by_variant: dict[str, list[dict[str, Any]]] = defaultdict(list)
    whole: dict[str, list[float]] = defaultdict(list)
    for record in found:
        if record["split"] == "whole":
            whole[record["variant"]].append(100 * record["seen"]["mrr"])
        else:
            by_variant[record["variant"]].append(record)
    print(f"\n{name}\n\n| variant | seeds | whole | seen | {' | '.join(PARTS.values())} |")
    print(f"|{'---|' * (len(PARTS) + 4)}")
    cells: list[str] = []
    for variant, group in by_variant.items():
        rows = [{(row["unseen"], row["side"]): row for row in record["cold_start"]} for record in group]
        cells = [_cell([(row[part]["frequency_mrr"], row[part]["frequency_amri"]) for row in rows]) for part in PARTS]
        own = [_cell([(row[part]["mrr"], row[part]["amri"]) for row in rows]) for part in PARTS]
        seen = f"{100 * mean(record['seen']['mrr'] for record in group):.2f}"
        of_whole = f"{mean(whole[variant]):.2f}" if variant in whole else ""
        print(f"| {variant} | {len(group)} | {of_whole} | {seen} | {' | '.join(own)} |")
    print(f"| relation frequency |  |  |  | {' | '.join(cells)} |")


def _cell(values: list[tuple[float, float]]) -> str:
    mrr, amri = (mean(column) for column in zip(*values, strict=True))
    return f"{100 * mrr:.2f} ({amri:.2f})"


if __name__ == "__main__":
    main()
