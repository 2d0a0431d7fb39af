"""What a comparison came to: rows, a table with paired differences, a report, two plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mmrns.files import json_text, write_changed
from mmrns.runs.card import escaped
from mmrns.studies.comparison import Comparison
from mmrns.studies.plots import Drawn, draw_mrr, draw_time, seeds_in_words

Record = Mapping[str, Any]
METRICS = ("mrr", "hits@1", "hits@3", "hits@10")
REFERENCE = "self-adversarial"
"""The method that the others are compared with, where it takes part."""
PUBLISHED = "Published MRR is as its authors tell it, under their tie rule and their selection, which may be others."

# 97.5 % quantiles of Student's t by degrees of freedom, from 1; beyond them the normal's.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
      2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)  # fmt: skip


def rows(records: Sequence[Record], comparison: Comparison | None = None) -> list[dict[str, Any]]:
    """One row a training with a seed: what `results.json` of a comparison holds.

    Metrics are null where the training failed, whose reason is `failed`; those of test where only validation was read,
    whose own then are `valid_hits@1` and so on.

    Args:
        records: of the seeds.
        comparison: what they are of. Where it says what entries are held against, or what is published, a row has its
            entry as `model` as well, and `published_mrr`, null of an entry of which nothing is published.
    """
    of_models = comparison is not None and (comparison.reference is not None or comparison.published)
    published = comparison.published if comparison is not None and of_models else None
    found: list[dict[str, Any]] = []
    for record in records:
        test = _metrics(record, "test")
        row = {
            "scorer": record["scorer"],
            "sampler": record["sampler"],
            "label": record["label"],
            "seed": record["seed"],
            "valid_mrr": record["valid_mrr"],
            "test_mrr": test.get("mrr"),
            **{key: test.get(key) for key in METRICS[1:]},
            "seconds": sum(record["seconds"].values()) if "seconds" in record else None,
            "settings": record["settings"],
        }
        if "valid" in record:
            row |= {f"valid_{key}": _metrics(record, "valid").get(key) for key in METRICS[1:]}
        if "failed" in record:
            row["failed"] = record["failed"]
        if published is not None:
            told = published.get(record["label"])
            row |= {"model": record["label"], "published_mrr": None if told is None else round(told / 100, 6)}
        found.append(row)
    return found


def ranked_split(records: Sequence[Record]) -> str:
    """What entries are compared by: test where all were ranked on it, else valid."""
    return "test" if all("test" in record for record in worked(records)) and worked(records) else "valid"


def worked(records: Sequence[Record]) -> list[Record]:
    """Without those of trainings that failed."""
    return [record for record in records if "failed" not in record]


def _metrics(record: Record, split: str) -> Mapping[str, float]:
    """The realistic metrics of a split, as far as they are recorded."""
    known = {"mrr": record["valid_mrr"]} if split == "valid" else {}
    return known | record.get(split, {}).get("realistic", {})


def by_label(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The records of each entry, by seed."""
    found: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: record["seed"]):
        found.setdefault(record["label"], []).append(record)
    return found


def interval(values: Sequence[float]) -> float:
    """Half the width of the 95 % confidence interval of a mean, by Student's t; infinite for a single value.

    >>> round(interval([1.0, 2.0, 3.0]), 3)
    2.484
    """
    if len(values) < 2:
        return math.inf
    quantile = _T[len(values) - 2] if len(values) - 2 < len(_T) else 1.96
    return quantile * stdev(values) / math.sqrt(len(values))


def reference_of(label: str, groups: Mapping[str, Sequence[Record]], given: str | None = None) -> str | None:
    """What an entry is compared with: the one that is given, or else the entry of the same scorer that is `REFERENCE`,
    alone or behind the scorer's name; None without one, and for itself.
    """
    if given is not None:
        return given if given in groups and label != given else None
    scorer = groups[label][0]["scorer"]
    for other in (f"{label.partition('-')[0]}-{REFERENCE}", f"{scorer}-{REFERENCE}", REFERENCE):
        if other in groups and groups[other][0]["scorer"] == scorer:
            return None if other == label else other
    return None


def table(records: Sequence[Record], comparison: Comparison | None = None) -> list[dict[str, str]]:
    """Mean and standard deviation over the seeds in percent, the difference from the reference paired by seed, and how
    each entry stands to the best (`standings`).

    Args:
        records: of the seeds.
        comparison: what they are of, which knows the trials of each entry, what others are held against, and what is
            published; None leaves that out.
    """
    split, trials = ranked_split(records), None if comparison is None else trials_of(comparison)
    given = None if comparison is None else comparison.reference
    groups = by_label(records)
    titles, stands = _titles(split), standings(records)
    found: list[dict[str, str]] = []
    for label, runs in groups.items():
        reference, good = reference_of(label, groups, given), worked(runs)
        ends = ("failed", "pruned")
        other = {end: max((run.get(f"{end}_trials", 0) for run in runs), default=0) for end in ends}
        counts = ", ".join(f"{count} {end}" for end, count in other.items() if count)
        row = {"method": label, "valid MRR": spread([run["valid_mrr"] for run in good])}
        for key, title in titles.items():
            row[title] = spread([_metrics(run, split)[key] for run in good if key in _metrics(run, split)])
        row["difference"] = "" if reference is None else paired(good, worked(groups[reference]), split)
        row["standing"] = stands[label]
        row["seeds"] = f"{len(good)}" if len(good) == len(runs) else f"{len(good)} of {len(runs)}"
        if trials is not None:
            row["trials"] = f"{trials.get(label, 0)}" + (f" ({counts})" if counts else "")
        row["seconds"] = f"{mean(sum(run['seconds'].values()) for run in good):.0f}" if good else ""
        if comparison is not None and comparison.published:
            row["published MRR"] = f"{comparison.published[label]:.2f}" if label in comparison.published else ""
        found.append(row)
    baseline = next((record["baseline"] for record in records if record.get("baseline")), None)
    if baseline and split == "test":
        cells = {title: spread([baseline["realistic"][key]]) for key, title in titles.items()}
        found.insert(0, dict.fromkeys(found[0], "") | {"method": "relation frequency"} | cells)
    return found


def standings(records: Sequence[Record]) -> dict[str, str]:
    """How each entry stands to the best, the one with the highest mean MRR of the ranked split over its seeds.

    `best` is that one. Another is `within noise` where the 95 % interval of its difference from the best, paired by
    seed, contains 0, and `below` where it does not; `?` where the two have fewer than two seeds in common, of which
    nothing can be told; nothing where all its trainings failed, or nothing else takes part.

    Args:
        records: of the seeds.

    Returns:
        The standing by label.
    """
    split = ranked_split(records)
    groups = {label: worked(runs) for label, runs in by_label(records).items()}
    reached = {label: mean(_metrics(run, split)["mrr"] for run in runs) for label, runs in groups.items() if runs}
    if len(reached) < 2:
        return dict.fromkeys(groups, "")
    best = max(reached, key=reached.__getitem__)

    def standing(label: str) -> str:
        differences = differences_of(groups[label], groups[best], split)
        if label == best or label not in reached:
            return "best" if label == best else ""
        if len(differences) < 2:
            return "?"
        return "within noise" if abs(mean(differences)) <= interval(differences) else "below"

    return {label: standing(label) for label in groups}


def standing_told(records: Sequence[Record]) -> str:
    """What the standings mean, in a sentence; nothing where there is none."""
    stands, name = [*standings(records).values()], _SPLITS[ranked_split(records)]
    if not any(stands):
        return ""
    told = f"Standing: best is the highest mean {name} MRR; "
    if not {"within noise", "below"} & {*stands}:
        return f"{told}from one seed nothing can be told of noise (?)."
    return (
        f"{told}others are within noise where the 95 % interval of their difference from it, paired by seed, contains 0"
        f"{', and ? where they have too few seeds in common' if '?' in stands else ''}."
    )


_SPLITS = {"test": "test", "valid": "validation"}


def _titles(split: str) -> dict[str, str]:
    """The columns of the metrics. The validation MRR has one in any case."""
    names = {key: key.replace("hits", "Hits") for key in METRICS[1:]}
    return ({"mrr": "test MRR"} if split == "test" else {}) | names


def paired(runs: Sequence[Record], others: Sequence[Record], split: str = "test") -> str:
    """Mean difference of the MRR between trainings of the same seed, in points, and its 95 % interval."""
    differences = differences_of(runs, others, split)
    if not differences:
        return ""
    width = interval(differences)
    return f"{mean(differences):+.2f}" + ("" if math.isinf(width) else f" ± {width:.2f}")


def differences_of(runs: Sequence[Record], others: Sequence[Record], split: str = "test") -> list[float]:
    """The differences of the MRR between trainings of the same seed, in points."""
    other = {run["seed"]: _metrics(run, split)["mrr"] for run in others}
    return [100 * (_metrics(run, split)["mrr"] - other[run["seed"]]) for run in runs if run["seed"] in other]


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation in percent; nothing of none."""
    if not values:
        return ""
    return f"{100 * mean(values):.2f}" + (f" ± {100 * stdev(values):.2f}" if len(values) > 1 else "")


def write_summary(records: Sequence[Record], folder: Path, comparison: Comparison) -> list[Path]:
    """`results.json`, `report.md`, and the pictures of a comparison (`draw`).

    What is there and says the same is left alone: whoever looks at a recorded study changes none of its files. Plots
    are drawn where the results are others, or where they are missing.

    Returns:
        The PNG files of the pictures.
    """
    changed = write_changed(folder / "results.json", json_text(rows(records, comparison)))
    write_changed(folder / "report.md", report(records, comparison))
    plots = [folder / "mrr.png", *([folder / "time.png"] if _timed(records) else [])]
    if changed or not all(path.with_suffix(suffix).exists() for path in plots for suffix in (".png", ".svg")):
        draw(records, folder, comparison)
    return plots


def trials_of(comparison: Comparison) -> dict[str, int]:
    """The trials of each entry, by label."""
    return {label: comparison.budget(entry) for label, entry in comparison.entries.items()}


def report(records: Sequence[Record], comparison: Comparison) -> str:
    """The table with what is needed to read it, as Markdown."""
    groups, trials, split = by_label(records), trials_of(comparison), ranked_split(records)
    cells = table(records, comparison)
    name = _SPLITS[split]
    failed = [record for record in records if "failed" in record]
    lines = [
        f"# {escaped(str(comparison.common.get('data.dataset') or 'Comparison'))}",
        "",
        "Filtered link prediction on both sides, in percent, ties at their mean rank; mean ± standard deviation over "
        f"the seeds{' that did not fail' if failed else ''}. The difference is that of the {name} MRR from "
        f"{_reference_told(comparison)}, paired by seed, with its 95 % interval (Student's t). "
        + (f"{told} " if (told := standing_told(records)) else "")
        + ("" if split == "test" else "The test split was not read: all metrics are of validation. ")
        + f"{_chosen(trials)} {escaped(comparison.budget_told)} Seconds are of a whole training: {_counted(records)}."
        + (f" {PUBLISHED}" if comparison.published else ""),
        "",
        "| " + " | ".join(cells[0]) + " |",
        "|" + "---|" * len(cells[0]),
        *("| " + " | ".join(escaped(cell) for cell in row.values()) + " |" for row in cells),
        "",
        *([*(f"- {escaped(r['name'])} failed: {escaped(r['failed'])}." for r in failed), ""] if failed else []),
        f"![{name.capitalize()} MRR](mrr.png)",
        *(["![Validation MRR against time](time.png)"] if _timed(records) else []),
        "",
        "Every training: " + _settings(comparison.common) + ".",
        "",
        "| method | settings |",
        "|---|---|",
        *(f"| {escaped(label)} | {_settings(_own(label, runs, comparison))} |" for label, runs in groups.items()),
    ]
    return "\n".join(lines) + "\n"


def _chosen(trials: Mapping[str, int]) -> str:
    """Where the settings are from."""
    if not any(trials.values()):
        return "No settings were searched: they are those that the comparison was given."
    chosen = "Settings were chosen on validation, for each entry among its own trials"
    if not all(trials.values()):
        chosen += "; those of an entry without trials are as the comparison gives them"
    return chosen + ("" if len({*trials.values()}) == 1 else "; the numbers of trials differ") + "."


def _counted(records: Sequence[Record]) -> str:
    """What the seconds are of."""
    good = worked(records)
    recorded = [("build" in run["seconds"]) for run in good]
    if all(recorded):
        return "building, pretraining, training and evaluation"
    missing = "building was not recorded" if not any(recorded) else "building only where it was recorded"
    return f"pretraining, training and evaluation; {missing}"


def _timed(records: Sequence[Record]) -> bool:
    return any(record.get("curve") for record in records)


def _own(label: str, runs: Sequence[Record], comparison: Comparison) -> Mapping[str, Any]:
    """The settings of an entry that are not those of every training: its own, and those that were chosen."""
    entry = comparison.entries.get(label)
    own = {} if entry is None else {key: value for key, value in entry.settings.items() if key != "model.scorer"}
    # A method that the label tells is not told again.
    return {key: value for key, value in own.items() if value != label} | runs[0]["settings"]


def _settings(settings: Mapping[str, Any]) -> str:
    found = (f"{key}={value}".replace("`", "'").replace("|", "\\|") for key, value in settings.items())
    return ", ".join(f"`{' '.join(text.split())}`" for text in found)


def _reference_told(comparison: Comparison) -> str:
    """What others are held against."""
    return f"`{REFERENCE}` with the same scorer" if comparison.reference is None else f"`{comparison.reference}`"


def _entries(records: Sequence[Record], given: str | None) -> list[Drawn]:
    """What is drawn of each entry, beside what is given to be held against."""
    groups, split = by_label(records), ranked_split(records)
    references = {reference_of(label, groups, given) for label in groups}
    found: list[Drawn] = []
    for label, runs in groups.items():
        reference, good = reference_of(label, groups, given), worked(runs)
        differences = [] if reference is None else differences_of(good, worked(groups[reference]), split)
        found.append(
            Drawn(
                label,
                runs[0]["sampler"],
                [100 * _metrics(run, split)["mrr"] for run in good],
                (mean(differences), interval(differences)) if differences else None,
                label in references,
                [_curve(run) for run in good if run.get("curve")],
            )
        )
    return found


def _curve(record: Record) -> list[tuple[float, float]]:
    """Seconds and validation MRR in percent; what came before the first step counts, as far as it is recorded."""
    before = sum(record["seconds"].get(part, 0.0) for part in ("build", "pretrain"))
    return [(before + seconds, 100 * mrr) for _, seconds, mrr in record["curve"]]


def draw(records: Sequence[Record], folder: Path, comparison: Comparison) -> None:
    """Draw `mrr.png` and, where the records have curves, `time.png`, with an SVG beside each."""
    entries, split = _entries(records, comparison.reference), ranked_split(records)
    scorers = [*dict.fromkeys(record["scorer"] for record in records)]
    seeds = seeds_in_words([record["seed"] for record in records])
    about = f"{_dataset(comparison)}, {', '.join(scorers)}, {seeds}"
    usual = REFERENCE if len(scorers) == 1 else f"{REFERENCE} with the same scorer"
    draw_mrr(
        entries,
        folder / "mrr.png",
        split=_SPLITS[split],
        about=about,
        reference=comparison.reference or usual,
    )
    if _timed(records):
        timed = [run for run in records if run.get("curve")]
        built = "building, " if all("build" in run["seconds"] for run in timed) else ""
        draw_time(entries, folder / "time.png", about=about, counted=f"{built}pretraining and training")


def _dataset(comparison: Comparison) -> str:
    return Path(str(comparison.common.get("data.dataset") or "comparison")).name
