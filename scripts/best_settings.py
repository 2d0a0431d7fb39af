"""Write what to take for each dataset: `experiments/DATASET/best.yaml`, of the study that reached most on validation.

    python scripts/best_settings.py

Each study's own `best.yaml` is the best of its entries; of all studies of a dataset the one with the highest mean
validation MRR is taken. Test has no say. A test compares the files with what this writes.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean

from mmrns.files import write_changed
from mmrns.studies.comparison import Comparison
from mmrns.studies.plots import seeds_in_words
from mmrns.studies.recipe import best_label, recipe
from mmrns.studies.records import read_records
from mmrns.studies.report import by_label, worked

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


def best_settings() -> dict[Path, str]:
    """What the file of each dataset is to hold."""
    found: dict[Path, tuple[float, str]] = {}
    for study in sorted(EXPERIMENTS.glob("*/*.yaml")):
        folder = study.with_suffix("")
        if not (folder / "records.jsonl").exists():
            continue
        comparison = Comparison.read(study)
        records = [one for one in read_records(folder) if one["name"] == f"{one['label']}-seed-{one['seed']}"]
        label = best_label(records)
        written = recipe(records, comparison, study.parent)
        if label is None or written is None:
            continue
        runs = worked(by_label(records)[label])
        reached = mean(run["valid_mrr"] for run in runs)
        seeds = seeds_in_words([run["seed"] for run in runs])
        said = (
            f"# What to take for {study.parent.name}: {label} of {study.name}, the best by validation of all recorded\n"
            f"# studies of this dataset, with a mean MRR of {100 * reached:.2f} % ({seeds}).\n"
        )
        path = study.parent / "best.yaml"
        if path not in found or reached > found[path][0]:
            found[path] = reached, said + written.partition("\n")[2]
    return {path: text for path, (_, text) in found.items()}


def main() -> None:
    """Write all."""
    for path, text in best_settings().items():
        write_changed(path, text)


if __name__ == "__main__":
    main()
