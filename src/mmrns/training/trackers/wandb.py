"""Weights & Biases, offline unless the user is logged in or asks for something else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmrns.training.trackers.base import Tracked, Tracker


class WeightsAndBiases(Tracker, name="wandb"):
    """A run of the project `mmrns` (`WANDB_PROJECT`), of the group of its study; files in `wandb/` beside the run.

    `WANDB_MODE` says whether it goes to the server; left unset it does where W&B finds a login, and else it stays
    offline, to be sent by `wandb sync`. Nothing is told of the machine, its user, the program or its output.
    """

    needs = "wandb"

    def begin(self, training: Tracked) -> str | None:
        # Reports of W&B's own faults would go over the network, whatever the mode.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            save_code=False,
            x_save_requirements=False,
            x_disable_stats=True,
            x_disable_meta=True,
            host=os.environ.get("WANDB_HOST", "unnamed"),
            # So long a server that does not answer may hold a training up.
            init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", "30")),
        )
        wandb.setup(settings)
        logged_in = "WANDB_MODE" in os.environ or wandb.login(prompt=False, verify=False)
        training.folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "mmrns"),
            group=training.group,
            name=training.name,
            id=training.key,
            resume=None if training.key is None else "allow",
            dir=str(training.folder),
            mode=None if logged_in else "offline",
            config=dict(training.config),
            settings=settings,
            # Whatever run of the user's own is under way stays as it is.
            reinit="create_new",
        )
        return self.run.id

    @property
    def where(self) -> str:
        if self.run.disabled:
            return "nothing is kept, as WANDB_MODE says"
        return f"wandb sync {Path(self.run.dir).parent}" if self.run.offline else self.run.url or ""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def end(self, step: int, results: Mapping[str, float], pictures: Sequence[Path]) -> None:
        import wandb

        self.run.summary.update(dict(results))
        self.run.log({f"pictures/{path.stem}": wandb.Image(str(path)) for path in pictures})

    def close(self, finished: bool) -> None:
        self.run.finish(exit_code=0 if finished else 1)
