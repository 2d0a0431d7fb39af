"""What a comparison came to: rows, a table with paired differences, a report, two plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mmrns.files import write_json, write_text
from mmrns.runs.figures import legend, logarithmic, name_ticks, new_figure, save_figure

Record = Mapping[str, Any]
METRICS = ("mrr", "hits@1", "hits@3", "hits@10")
REFERENCE = "self-adversarial"
"""The method that the others are compared with, where it takes part."""

# 97.5 % quantiles of Student's t by degrees of freedom, from 1; beyond them the normal's.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
      2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)  # fmt: skip


def rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One row a finished training with a seed: what `results.json` of a comparison holds."""
    return [
        {
            "scorer": record["scorer"],
            "sampler": record["sampler"],
            "label": record["label"],
            "seed": record["seed"],
            "valid_mrr": record["valid_mrr"],
            "test_mrr": record["test"]["realistic"]["mrr"],
            **{key: record["test"]["realistic"][key] for key in METRICS[1:]},
            "seconds": sum(record["seconds"].values()),
            "settings": record["settings"],
        }
        for record in records
    ]


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


def reference_of(label: str, labels: Sequence[str]) -> str | None:
    """What an entry is compared with: the entry of the same scorer whose method is `REFERENCE`; None without one."""
    prefix, _, _ = label.partition("-")
    for other in (f"{prefix}-{REFERENCE}", REFERENCE):
        if other in labels:
            return None if other == label else other
    return None


def table(records: Sequence[Record]) -> list[dict[str, str]]:
    """Mean and standard deviation over the seeds in percent, and the difference from the reference paired by seed."""
    found: list[dict[str, str]] = []
    groups = by_label(records)
    for label, runs in groups.items():
        reference = reference_of(label, [*groups])
        row = {"method": label, "valid MRR": spread([run["valid_mrr"] for run in runs])}
        for key in METRICS:
            name = "test MRR" if key == "mrr" else key.replace("hits", "Hits")
            row[name] = spread([run["test"]["realistic"][key] for run in runs])
        row["difference"] = "" if reference is None else paired(runs, groups[reference])
        row["seconds"] = f"{mean(sum(run['seconds'].values()) for run in runs):.0f}"
        found.append(row)
    baseline = records[0].get("baseline") if records else None
    if baseline:
        empty = dict.fromkeys(found[0], "")
        cells = {name: spread([baseline["realistic"][key]]) for name, key in zip(_test_names(), METRICS, strict=True)}
        found.insert(0, empty | {"method": "relation frequency"} | cells)
    return found


def paired(runs: Sequence[Record], others: Sequence[Record]) -> str:
    """Mean difference of the test MRR between trainings of the same seed, in points, and its 95 % interval."""
    other = {run["seed"]: run["test"]["realistic"]["mrr"] for run in others}
    differences = [100 * (run["test"]["realistic"]["mrr"] - other[run["seed"]]) for run in runs if run["seed"] in other]
    if not differences:
        return ""
    width = interval(differences)
    return f"{mean(differences):+.2f}" + ("" if math.isinf(width) else f" ± {width:.2f}")


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation in percent."""
    return f"{100 * mean(values):.2f}" + (f" ± {100 * stdev(values):.2f}" if len(values) > 1 else "")


def write_summary(records: Sequence[Record], folder: Path, common: Mapping[str, Any], trials: int) -> list[Path]:
    """`results.json`, `report.md`, `mrr.png` and, where the records have curves, `time.png` of a comparison.

    Returns:
        The plots.
    """
    write_json(folder / "results.json", rows(records))
    write_text(folder / "report.md", report(records, common, trials))
    plots = {folder / "mrr.png": _plot_mrr} | ({folder / "time.png": _plot_time} if _timed(records) else {})
    for path, plot in plots.items():
        plot(records, path)
    return [*plots]


def report(records: Sequence[Record], common: Mapping[str, Any], trials: int) -> str:
    """The table with what is needed to read it, as Markdown."""
    groups = by_label(records)
    cells = table(records)
    lines = [
        f"# {common.get('data.dataset', 'Comparison')}",
        "",
        "Filtered link prediction on both sides, in percent, ties at their mean rank; mean ± standard deviation over "
        f"the seeds. The difference is that of the test MRR from `{REFERENCE}`, paired by seed, with its 95 % interval "
        f"(Student's t). Settings are chosen {f'on validation among {trials} trials' if trials else 'beforehand'}. "
        "Seconds are of a whole training.",
        "",
        "| " + " | ".join(cells[0]) + " |",
        "|" + "---|" * len(cells[0]),
        *("| " + " | ".join(row.values()) + " |" for row in cells),
        "",
        "![Test MRR](mrr.png)",
        *(["![Validation MRR against time](time.png)"] if _timed(records) else []),
        "",
        "Every training: " + _settings(common) + ".",
        "",
        "| method | chosen |",
        "|---|---|",
        *(f"| {label} | {_settings(runs[0]['settings'])} |" for label, runs in groups.items()),
    ]
    return "\n".join(lines) + "\n"


def _timed(records: Sequence[Record]) -> bool:
    return any(record.get("curve") for record in records)


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"`{key}={value}`" for key, value in settings.items())


def _test_names() -> list[str]:
    return ["test MRR", *(key.replace("hits", "Hits") for key in METRICS[1:])]


def _plot_mrr(records: Sequence[Record], path: Path) -> None:
    """Mean test MRR of each entry with its standard deviation and the seeds themselves."""
    groups = by_label(records)
    figure, axes = new_figure("Test MRR: mean, standard deviation, seeds", height=1.2 + 0.4 * len(groups))
    for place, (label, runs) in enumerate(groups.items()):
        values = [run["test"]["realistic"]["mrr"] for run in runs]
        error = stdev(values) if len(values) > 1 else 0.0
        own = label if label.endswith(REFERENCE) else ""
        axes.errorbar(mean(values), place, xerr=error, fmt="o", capsize=4, color="0.4" if own else "tab:blue")
        axes.plot(values, [place] * len(values), "|", color="0.6", markersize=10)
    name_ticks(axes, [*groups])
    axes.grid(axis="x", color="0.9")
    axes.set_xlabel("test MRR (filtered, mean rank on ties)")
    save_figure(figure, path)


def _plot_time(records: Sequence[Record], path: Path) -> None:
    """Validation MRR against seconds of training, the mean over the seeds."""
    from matplotlib import colormaps
    from matplotlib.rcsetup import cycler

    groups = by_label(records)
    figure, axes = new_figure("Validation MRR against training time, mean over the seeds", height=4.5)
    # Twenty colours; further entries repeat them with dashes.
    axes.set_prop_cycle(cycler(linestyle=["-", "--"]) * cycler(color=[colormaps["tab20"](i) for i in range(20)]))
    lines: list[Any] = []
    names: list[str] = []
    starts: list[float] = []
    for label, runs in groups.items():
        curves = [run["curve"] for run in runs if run.get("curve")]
        if not curves:
            continue
        # Early stopping may end seeds at different steps: the mean is of those that have come so far.
        points = [[curve[i] for curve in curves if i < len(curve)] for i in range(max(map(len, curves)))]
        seconds, mrr = ([mean(point[k] for point in at) for at in points] for k in (1, 2))
        lines += axes.plot(seconds, mrr, marker=".")
        names.append(label)
        starts += seconds
    logarithmic(axes, "x", starts)
    axes.set_xlabel("seconds of training")
    axes.set_ylabel("validation MRR")
    axes.grid(color="0.92")
    legend(figure, lines, names, "outside right center")
    save_figure(figure, path)
