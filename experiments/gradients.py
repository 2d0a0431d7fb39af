"""Do the gradients of easy negatives vanish, and how many of the hard ones are true?

    python experiments/gradients.py RUN... --out FILE.png

Of runs that measured their negatives' hardness while they trained (`training.hardness`, on by default): the L2 norm of
the model's gradient at each logged step, and the share of the negatives drawn there that are true in the validation
split, in the mean over ten logged steps.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from mmrns.runs.figures import legend, new_figure, save_figure
from mmrns.runs.values import parse_yaml

_MEAN_OF = 10


def measured(run: Path) -> list[dict[str, Any]]:
    """The logged steps of a run that have their hardness."""
    with (run / "metrics.jsonl").open(encoding="utf-8") as lines:
        return [row for row in map(json.loads, lines) if row.get("hardness")]


def main() -> None:
    """Draw both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    figure, above = new_figure("Gradients, and false negatives", height=6)
    figure.clear()
    above, below = figure.subplots(2, 1, sharex=True)
    lines, names = [], []
    for run in arguments.runs:
        rows = measured(run)
        steps = np.array([row["step"] for row in rows])
        norm = np.array([row["hardness"]["gradient_norm"]["model"] for row in rows], float)
        share = np.array([row["hardness"]["valid_negatives"] for row in rows], float)
        whole = len(rows) // _MEAN_OF * _MEAN_OF
        steps, norm, share = (x[:whole].reshape(-1, _MEAN_OF).mean(1) for x in (steps, norm, share))
        lines += above.plot(steps, norm)
        below.plot(steps, 100 * share)
        names.append(parse_yaml((run / "config.yaml").read_text(encoding="utf-8"))["method"])
        print(f"{names[-1]:<18} gradient {norm[0]:.4f} at first, {norm[-1]:.4f} at last; ", end="")
        print(f"true in valid {100 * share[0]:.2f}% at first, {100 * share[-1]:.2f}% at last")
    above.set_ylim(bottom=0)
    below.set_ylim(bottom=0)
    above.set_ylabel("L2 norm of the gradient")
    below.set_ylabel("drawn and true in valid, %")
    below.set_xlabel("step")
    for axes in (above, below):
        axes.grid(color="0.92")
    legend(figure, lines, names, "outside right center")
    save_figure(figure, arguments.out)


if __name__ == "__main__":
    main()
