"""Compare methods on one footing: `python experiments/study.py STUDY.yaml [--method NAME ...]`.

For each method, TRIALS settings are drawn from its space (as many for each, or all of a space that holds fewer; seed
fixed; a method that lists its settings has just those) and trained with seed 0; the best validation MRR chooses one,
which is then trained with every seed and read on the test split. Each finished training is written to the folder
beside the study at once, under the study's name; what is there is not repeated. A method's space may name another
method's sampler (`sampler.name: [NAME]`). When all methods are done, the table goes to `STUDY.md`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import yaml

import mmrns


def main() -> None:
    """Run what is missing of a study, then write its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--method", action="append", help="only these methods")
    arguments = parser.parse_args()
    path: Path = arguments.study
    study = yaml.safe_load(path.read_text(encoding="utf-8"))
    folder = path.with_suffix("")
    folder.mkdir(exist_ok=True)
    torch.set_num_threads(study["threads"])
    for method in arguments.method or study["methods"]:
        chosen = search(study, method, folder)
        for seed in range(study["seeds"]):
            train(study, method, chosen, seed, True, folder / f"{method}-seed-{seed}.json")
    table = summary(study, folder)
    if table is not None:
        path.with_suffix(".md").write_text(table, encoding="utf-8")
        print(table)


def search(study: dict[str, Any], method: str, folder: Path) -> dict[str, Any]:
    """The settings with the best validation MRR among the trials; the test split is not read."""
    found = [
        train(study, method, settings, 0, False, folder / f"{method}-trial-{i}.json")
        for i, settings in enumerate(trials(study, method))
    ]
    return max(found, key=lambda result: result["valid_mrr"])["settings"]


def trials(study: dict[str, Any], method: str) -> list[dict[str, Any]]:
    """The settings to try: those listed, or different ones drawn from the space."""
    given = study["methods"][method]
    if isinstance(given, list):
        return given
    space: dict[str, list[Any]] = study["space"] | given
    stream = random.Random(f"{method} {study['trials']}")
    drawn: list[dict[str, Any]] = []
    while len(drawn) < min(study["trials"], math.prod(len(values) for values in space.values())):
        settings = {key: stream.choice(values) for key, values in space.items()}
        if settings not in drawn:
            drawn.append(settings)
    return drawn


def train(
    study: dict[str, Any], method: str, settings: dict[str, Any], seed: int, test: bool, path: Path
) -> dict[str, Any]:
    """Train once and record the outcome, unless it is recorded already."""
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    given = study["common"] | {"sampler.name": method} | settings | {"seed": seed, "evaluation.test": test}
    with tempfile.TemporaryDirectory() as scratch:
        pairs = [f"{key}={json.dumps(value)}" for key, value in given.items()]
        run = mmrns.train(out=Path(scratch) / "run", settings=pairs)
        record = json.loads((run.folder / "record.json").read_text(encoding="utf-8"))
    results = run.results
    outcome = {
        "method": method,
        "settings": settings,
        "seed": seed,
        "valid_mrr": results["valid"]["both"]["realistic"]["mrr"],
        "selected_step": results["selected_step"],
        "seconds": results["seconds"],
        "commit": record["code"]["commit"],
    }
    if test:
        outcome |= {"test": results["test"]["both"], "baseline": results["baseline"]}
    path.write_text(json.dumps(outcome, indent=1) + "\n", encoding="utf-8")
    print(path.name, f"valid MRR {outcome['valid_mrr']:.4f}", settings, flush=True)
    return outcome


def summary(study: dict[str, Any], folder: Path) -> str | None:
    """Mean and standard deviation over the seeds; None while a method is missing."""
    metrics = ("mrr", "hits@1", "hits@3", "hits@10")
    lines = [
        "| method | valid MRR | test MRR | Hits@1 | Hits@3 | Hits@10 | train s | settings |",
        "|---|---|---|---|---|---|---|---|",
    ]
    baseline: dict[str, Any] | None = None
    for method in study["methods"]:
        paths = [folder / f"{method}-seed-{seed}.json" for seed in range(study["seeds"])]
        if not all(path.exists() for path in paths):
            return None
        runs = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        baseline = runs[0]["baseline"]["realistic"]
        cells = [spread([run["valid_mrr"] for run in runs])]
        cells += [spread([run["test"]["realistic"][key] for run in runs]) for key in metrics]
        seconds = f"{mean(run['seconds']['train'] for run in runs):.0f}"
        settings = ", ".join(f"{k.split('.')[-1]} {v}" for k, v in runs[0]["settings"].items())
        lines.append(f"| {method} | {' | '.join(cells)} | {seconds} | {settings} |")
    if baseline is not None:
        cells = [f"{100 * baseline[key]:.2f}" for key in metrics]
        lines.insert(2, f"| relation frequency |  | {' | '.join(cells)} |  |  |")
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    """Mean and standard deviation in percent."""
    deviation = f" ± {100 * stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.2f}{deviation}"


if __name__ == "__main__":
    main()
