"""Do the gradients of easy negatives vanish, and how many of the hard ones are true?

    python experiments/gradients.py RUN... --out FILE.png

Of runs that measured their negatives' hardness while they trained (`training.hardness`, on by default): the L2 norm of
the model's gradient at each logged step, and the share of the negatives drawn there that are true in the validation
split, in the mean over ten logged steps.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import mmrns
from mmrns.runs.figures import End, caption, grid, label_ends, new_figure, save_figure
from mmrns.runs.palette import styles_of
from mmrns.studies.plots import seeds_in_words

_MEAN_OF = 10
_NORM, _TRUE = "hardness.gradient_norm.model", "hardness.valid_negatives"


def main() -> None:
    """Draw both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    runs = [mmrns.load_run(folder) for folder in arguments.runs]
    about = dict.fromkeys(f"{run.record['dataset']['name']}, {run.config.model.scorer}" for run in runs)
    seeds = seeds_in_words([run.config.seed for run in runs])
    figure, (above, below) = new_figure(
        f"Gradients and false negatives: {'; '.join(about)}, {seeds}",
        f"each point is the mean of {_MEAN_OF} measurements",
        rows=2,
        width=10,
        height=7,
        sharex=True,
    )
    ends: dict[Any, list[End]] = {above: [], below: []}
    for run, style in zip(runs, styles_of([run.config.method for run in runs]), strict=True):
        measured = run.history.select("step", _NORM, _TRUE).drop_nulls().to_numpy()
        whole = len(measured) // _MEAN_OF * _MEAN_OF
        step, norm, true = measured[:whole].reshape(-1, _MEAN_OF, 3).mean(1).T
        method = run.config.method
        for axes, values, text in ((above, norm, f"{norm[-1]:.3f}"), (below, 100 * true, f"{100 * true[-1]:.2f}")):
            axes.plot(step, values, color=style.colour, linestyle=style.line, linewidth=2)
            ends[axes].append(End(float(step[-1]), float(values[-1]), f"{method} {text}", float(values[-1]), style))
        print(f"{method:<18} gradient {norm[0]:.4f} at first, {norm[-1]:.4f} at last; ", end="")
        print(f"true in valid {100 * true[0]:.2f}% at first, {100 * true[-1]:.2f}% at last")
    caption(above, "L2 norm of the gradient")
    caption(below, "drawn and true in validation, %")
    below.set_xlabel("step")
    for axes in (above, below):
        axes.set_ylim(bottom=0)
        grid(axes)
        label_ends(axes, ends[axes])
    save_figure(figure, arguments.out)


if __name__ == "__main__":
    main()
