"""The validation MRR against time, where a study's own seconds are beside other work.

    python experiments/equal_time.py measure STUDY.yaml [--rounds 7] [--steps 20]
    python experiments/equal_time.py draw STUDY.yaml [STUDY.yaml ...] --out FILE.png

`measure` times a step of every method of a study, in turns: processor seconds of one thread, the median over rounds,
written to `step-seconds.json` beside the records. `draw` draws the recorded validations against steps times these
seconds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from mmrns.files import write_json
from mmrns.memory import freed_memory_kept
from mmrns.runs.build import build_dataset, build_trainer
from mmrns.studies.comparison import Comparison
from mmrns.studies.plots import Drawn, draw_times, seeds_in_words
from mmrns.studies.records import read_records

_FILE = "step-seconds.json"


def main() -> None:
    """Measure, or draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("measure", "draw"))
    parser.add_argument("studies", type=Path, nargs="+", help="their YAML files")
    parser.add_argument("--out", type=Path, help="the picture")
    parser.add_argument("--rounds", type=int, default=7, help="in which a few steps of each method are timed in turn")
    parser.add_argument(
        "--steps", type=int, default=20, help="of a round: whole blocks and lessons, of which 20 are some"
    )
    arguments = parser.parse_args()
    if arguments.what == "measure":
        for study in arguments.studies:
            found = measure(Comparison.read(study), arguments.rounds, arguments.steps)
            write_json(study.with_suffix("") / _FILE, found)
    elif arguments.out is None:
        parser.error("draw needs --out FILE.png")
    else:
        drawn = dict(entries(Comparison.read(study), study.with_suffix("")) for study in arguments.studies)
        draw_times(drawn, arguments.out, counted="steps times the seconds of a step, one core")


def measure(comparison: Comparison, rounds: int, steps: int) -> dict[str, float]:
    """Processor seconds of a step of each entry."""
    torch.set_num_threads(1)
    configs = {label: next(iter(comparison.configs(entry))) for label, entry in comparison.entries.items()}
    dataset = build_dataset(next(iter(configs.values())))
    trainers = {label: build_trainer(config, dataset) for label, config in configs.items()}
    taken: dict[str, list[float]] = {label: [] for label in trainers}
    for trainer in trainers.values():
        trainer.sampler.pretrain(trainer.batch)
    with freed_memory_kept():
        for turn in range(rounds + 1):
            for label, trainer in trainers.items():
                started = time.process_time()
                for step in range(turn * steps, (turn + 1) * steps):
                    trainer.step(step)
                taken[label].append((time.process_time() - started) / steps)
    # In the first round everything is fetched.
    found = {label: median(seconds[1:]) for label, seconds in taken.items()}
    for label, seconds in found.items():
        print(f"{label:<20} {1e3 * seconds:.1f} ms")
    return found


def entries(comparison: Comparison, folder: Path) -> tuple[str, list[Drawn]]:
    """What a study is about, and the curves of its records against steps times the measured seconds."""
    step_seconds: dict[str, float] = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    records: list[dict[str, Any]] = [
        record for record in read_records(folder) if record.get("curve") and "test" in record
    ]
    found: list[Drawn] = []
    for label in comparison.entries:
        runs = [record for record in records if record["label"] == label]
        curves = [[(step_seconds[label] * step, 100 * mrr) for step, _, mrr in run["curve"]] for run in runs]
        found.append(Drawn(label, runs[0]["sampler"], [100 * run["valid_mrr"] for run in runs], curves=curves))
    scorers = ", ".join(dict.fromkeys(record["scorer"] for record in records))
    seeds = seeds_in_words(sorted({record["seed"] for record in records}))
    return f"{comparison.common['data.dataset']}, {scorers}, {seeds}", found


if __name__ == "__main__":
    main()
