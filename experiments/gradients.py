"""Do the gradients of easy negatives vanish, and how many of the hard ones are true?

    python experiments/gradients.py RUN... --out FILE.png

Of runs that measured their negatives' hardness while they trained (`training.hardness`, on by default): the L2 norm of
the model's gradient at each logged step, and the share of the negatives drawn there that are true in the validation
split, in the mean over ten logged steps.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import mmrns
from mmrns.runs.figures import legend, new_figure, save_figure

_MEAN_OF = 10
_NORM, _TRUE = "hardness.gradient_norm.model", "hardness.valid_negatives"


def main() -> None:
    """Draw both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    figure, empty = new_figure("", height=6)
    empty.remove()
    above, below = figure.subplots(2, 1, sharex=True)
    lines, names = [], []
    for folder in arguments.runs:
        run = mmrns.load_run(folder)
        measured = run.history.select("step", _NORM, _TRUE).drop_nulls().to_numpy()
        whole = len(measured) // _MEAN_OF * _MEAN_OF
        step, norm, true = measured[:whole].reshape(-1, _MEAN_OF, 3).mean(1).T
        lines += above.plot(step, norm)
        below.plot(step, 100 * true)
        names.append(run.config.method)
        print(f"{names[-1]:<18} gradient {norm[0]:.4f} at first, {norm[-1]:.4f} at last; ", end="")
        print(f"true in valid {100 * true[0]:.2f}% at first, {100 * true[-1]:.2f}% at last")
    above.set_ylabel("L2 norm of the gradient")
    below.set_ylabel("drawn and true in valid, %")
    below.set_xlabel("step")
    for axes in (above, below):
        axes.set_ylim(bottom=0)
        axes.grid(color="0.92")
    legend(figure, lines, names, "outside right center")
    save_figure(figure, arguments.out)


if __name__ == "__main__":
    main()
