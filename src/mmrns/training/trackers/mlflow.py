"""MLflow: a store in files beside the run, or wherever the user's `MLFLOW_TRACKING_URI` points."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmrns.training.trackers.base import Tracked, Tracker

_AT_ONCE = 100
"""Parameters that a call may hold."""
_LONGEST = 500
"""Characters of a parameter's value that every store keeps."""


class MLflow(Tracker, name="mlflow"):
    """A run of the experiment that is called as the study, or `mmrns` (`MLFLOW_EXPERIMENT_NAME`) for a run by itself.

    `MLFLOW_TRACKING_URI` says where it is kept; left unset, in `mlruns/` beside the run. The configuration is its
    parameters, by dotted key; `@` in a metric's name, which MLflow does not allow, becomes `_at_`.
    """

    needs = "mlflow"

    def begin(self, training: Tracked) -> str | None:
        # Nobody has asked that MLflow's makers be told of its use.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # A server that does not answer holds a training up for seconds and not for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        given = os.environ.get("MLFLOW_TRACKING_URI")
        if given is None:
            # Its later versions keep files only where they are asked to.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self.store = given or (training.folder / "mlruns").resolve().as_uri()
        self.client = MlflowClient(tracking_uri=self.store)
        if training.key is not None:
            self.run = training.key
            self.client.update_run(self.run, status="RUNNING")
            return self.run
        experiment = self._experiment(training.group or os.environ.get("MLFLOW_EXPERIMENT_NAME", "mmrns"))
        self.run = self.client.create_run(experiment, run_name=training.name).info.run_id
        params = [Param(key, str(value)[:_LONGEST]) for key, value in training.settings.items()]
        for first in range(0, len(params), _AT_ONCE):
            self.client.log_batch(self.run, params=params[first : first + _AT_ONCE])
        return self.run

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return self.client.create_experiment(name)
            except MlflowException:
                # Another training of the study was faster.
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        return found.experiment_id

    @property
    def where(self) -> str:
        return f"mlflow ui --backend-store-uri {self.store}"

    def log(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name.replace("@", "_at_"), value, now, step) for name, value in values.items()]
        self.client.log_batch(self.run, metrics=metrics)

    def end(self, step: int, results: Mapping[str, float], pictures: Sequence[Path]) -> None:
        self.log(step, results)
        for path in pictures:
            self.client.log_artifact(self.run, str(path), "plots")

    def close(self, finished: bool) -> None:
        self.client.set_terminated(self.run, "FINISHED" if finished else "KILLED")
