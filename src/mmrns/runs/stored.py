"""A run as it is kept: in a folder, with what it was trained on, its weights and what was recorded."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import polars as pl
import torch
from torch import Tensor, nn

from mmrns.data.datasets import Dataset, changes, load_dataset
from mmrns.data.folders import dataset_folders, find_dataset
from mmrns.data.writing import write_graph
from mmrns.errors import DataError, UsageError, note
from mmrns.files import StoredTensors, json_text, locked, read_json, read_json_lines, write_json, write_text
from mmrns.nn.model import Model
from mmrns.runs.build import build_dataset, build_device, build_model, build_sampler, usable_device
from mmrns.runs.config import Config, dump_config, flatten, make_config, with_paths
from mmrns.runs.digests import KEPT, KEPT_FILES, REMEDY, SUMS, keeps, verify, write_sums
from mmrns.runs.display import run_html
from mmrns.runs.figures import save_figure
from mmrns.runs.kept import RunData, kept_dataset, names_of_training, run_data
from mmrns.runs.places import dataset_of_run
from mmrns.runs.plots import About, plot_curves, plot_hardness
from mmrns.runs.record import Record, Results, Row, listing
from mmrns.runs.values import read_config, told_of
from mmrns.samplers.base import Sampler
from mmrns.training.checkpoint import weights_misfit
from mmrns.training.sharded import refuse_unshared
from mmrns.training.shards import own_weights, write_whole
from mmrns.training.world import ALONE, World

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Found = Literal["same", "changed", "nowhere"]
"""What became of a dataset since the training."""
_Module = TypeVar("_Module", bound=nn.Module)
_Run = TypeVar("_Run", bound="StoredRun")


class StoredRun:
    """A finished run: its configuration, results, data and weights, from a folder or in memory.

    Attributes:
        config: the configuration.
        results: the metrics, as `results.json` holds them.
        record: where the run came from, as `record.json` holds it.
        folder: where it is kept; None for a run that is in memory only.
        world: the processes of which each has some of the entities' vectors; by default this one has all.
    """

    def __init__(
        self,
        config: Config,
        results: dict[str, Any],
        record: dict[str, Any],
        *,
        rows: Sequence[Mapping[str, Any]] = (),
        folder: Path | None = None,
        dataset: Dataset | None = None,
        model: Model | None = None,
        sampler: Sampler | None = None,
        device: str | None = None,
        found: Found = "same",
        grows: bool = True,
        world: World = ALONE,
    ):
        self.config, self.results, self.record, self.folder = config, results, record, folder
        self._rows = [*rows]
        self._dataset, self._model, self._sampler, self._device = dataset, model, sampler, device
        # What became of the dataset since the training, and whether entities that were added to it are known.
        self._found: Found = found
        self._grows = grows
        self.world = world

    @classmethod
    def load(
        cls: type[_Run],
        folder: str | Path,
        *,
        dataset: Dataset | str | Path | None = None,
        device: str | None = None,
        world: World = ALONE,
    ) -> _Run:
        """Open a finished run folder.

        A `Note` says what is not as it was in the training: the device where that is not available, the place of the
        dataset, and every file of it that has changed.

        Args:
            folder: the run folder.
            dataset: the dataset, its name or its folder. By default it is looked for where it was, then by its name
                among the datasets that a name finds, in the working directory and in the folders above the run. Where
                it is nowhere the triples and names that the run folder keeps take its place; features are only in a
                bundle (`export_bundle`).
            device: where to put the model, instead of where it was trained.
            world: processes that have `started`, all of which open the run: each then has the vectors of some entities.
                What such a run can do, scores, ranks, predictions, classification and calibration, is done by all of
                them at once, with the same results in each.

        Raises:
            DataError: the folder holds no finished run.
            UsageError: there is no such dataset or device.
        """
        path = Path(folder)
        if not (path / "results.json").exists():
            remedy = "continue it with `mmrns train --resume`" if (path / "config.yaml").exists() else "train one"
            raise DataError(path, "holds no finished run", remedy)
        values = read_config(path / "config.yaml")
        with told_of(path / "config.yaml", values):
            config = make_config(values)
        results = read_json(path / "results.json", Results, REMEDY)
        record = read_json(path / "record.json", Record, REMEDY)
        rows = read_json_lines(path / "metrics.jsonl", Row)
        if not (path / SUMS).exists():
            note(f"{path} has no {SUMS}: whether its files are what the run wrote is not known")
        verify(path, "config.yaml", "record.json", "results.json", "metrics.jsonl")
        device = usable_device(config.device) if device is None else str(build_device(device))
        now: Dataset | Path | None = None
        if isinstance(dataset, Dataset):
            now = build_dataset(config, dataset, build_device(device))
        elif dataset is not None:
            now = find_dataset(dataset)
        elif config.data.dataset is not None:
            now = dataset_of_run(config.data.dataset, record["dataset"]["name"], path)
        if isinstance(now, Path):
            # A name stays a name.
            named = config.data.dataset if dataset is None else str(dataset)
            place = named if named in dataset_folders() else str(now.resolve())
            config = with_paths(config, lambda key, value: place if key == "data.dataset" else value)
        # A bundle knows its own dataset, and the one that it was made from.
        own = now is not None and not isinstance(now, Dataset) and now.resolve() == (path / KEPT).resolve()
        began = record["dataset"] if own else record.get("bundle", record)["dataset"]
        changed = [] if now is None else changes(began, now)
        if changed:
            where = now.folder or now.name if isinstance(now, Dataset) else now
            note(f"{where} is not as it was when {path} was trained: {', '.join(changed)}")
        given = dataset if isinstance(dataset, Dataset) else None
        found = "nowhere" if now is None else "changed" if changed else "same"
        options: dict[str, Any] = {"dataset": given, "device": device, "found": found, "world": world}
        return cls(config, results, record, rows=rows, folder=path, **options)

    def save(self, folder: str | Path, *, plots: bool = True) -> None:
        """Write the run to a folder that `load_run` opens. Of several processes all call it, and the first one writes.

        Args:
            folder: made where it is missing.
            plots: draw the training's pictures into it, which takes about a second.

        Raises:
            DataError: the folder holds another run, another process writes to it, or it cannot be written.
        """
        path = Path(folder)
        if not self.world.first:
            self._write_weights(path)
            return
        with locked(path, "plots", KEPT):
            if self.folder != path and (path / "config.yaml").exists():
                raise DataError(path, "holds a run already", "choose another folder")
            self._write(path, plots)

    def _write(self, path: Path, plots: bool) -> None:
        graph = self.dataset.graph
        write_text(path / "config.yaml", dump_config(self.config, path))
        self._write_weights(path)
        write_text(path / "entities.txt", listing(graph.entities.names))
        write_text(path / "relations.txt", listing(graph.relations.names))
        write_graph(self.dataset, path / KEPT)
        if self.folder != path:
            write_text(path / "metrics.jsonl", "".join(f"{json.dumps(row)}\n" for row in self._rows))
        if plots:
            self.draw(path / "plots")
        write_json(path / "record.json", self.record)
        results = json_text(self.results)
        write_sums(path, hashlib.sha256(results.encode()).hexdigest())
        write_text(path / "results.json", results)

    def _write_weights(self, path: Path) -> None:
        for name, part in (("model", self.model), ("sampler", self.sampler)):
            write_whole(path / f"{name}.safetensors", part, self.world)

    def __repr__(self) -> str:
        metrics = {
            split: self.results[split]["both"]["realistic"]["mrr"]
            for split in ("valid", "test")
            if self.results.get(split, {}).get("both")
        }
        scores = ", ".join(f"{split} MRR {mrr:.4f}" for split, mrr in metrics.items())
        return f"Run({self.title}, seed {self.config.seed}: {scores})"

    def _repr_html_(self) -> str:
        picture = None if self.folder is None else self.folder / "plots" / "curves.png"
        return run_html(f"{self.title}, seed {self.config.seed}", self.results, picture)

    @property
    def title(self) -> str:
        """Scorer, method and dataset, in a few words."""
        name = self.record["dataset"]["name"]
        return f"{self.config.model.scorer}, {self.config.method}, {name}"

    @property
    def history(self) -> pl.DataFrame:
        """What was recorded during the training: `step`, `seconds`, `loss`, `model_loss`, `sampler_loss`, `valid_mrr`,
        and `hardness.` columns.

        A row holds what was recorded at its step, null what was not.
        """
        rows = [flatten(row) for row in self._rows]
        keys = dict.fromkeys(key for row in rows for key in row)
        return pl.DataFrame(
            [{key: row.get(key) for key in keys} for row in rows], infer_schema_length=None, strict=False
        )

    def plot(self) -> Figure:
        """The validation MRR and the training loss against the steps, as a matplotlib figure."""
        return plot_curves(self._rows, self._about, self.results["selected_step"])

    def draw(self, folder: Path) -> None:
        """Write the pictures of the training to a folder, which is made where it is missing.

        They are `curves.png` and, where it was measured, `hardness.png`, each with an SVG beside it.
        """
        save_figure(self.plot(), folder / "curves.png")
        if any("hardness" in row for row in self._rows):
            save_figure(plot_hardness(self._rows, self._about), folder / "hardness.png")

    @property
    def _about(self) -> About:
        name = self.record["dataset"]["name"]
        return About(name, self.config.model.scorer, self.config.method, self.config.seed)

    @property
    def dataset(self) -> Dataset:
        """The dataset of the run, in the ids of its model.

        Where it was changed since the training it is taken as it is now. Entities that were added to it stand behind
        the others, if the model reads features that they have; other names that were added are left out, and their
        triples with them. A `Note` says so.

        Raises:
            DataError: it is nowhere, or lacks names that the model was trained with.
        """
        return self._data.dataset

    @cached_property
    def _data(self) -> RunData:
        if self.folder is None or self._model is not None:
            dataset = self._dataset or build_dataset(self.config, device=self.device)
            return RunData(dataset, dataset.graph)
        own = self._dataset is None and self.config.data.dataset == str((self.folder / KEPT).resolve())
        kept = None
        if keeps(self.folder):
            verify(self.folder, *KEPT_FILES)
            if own or self._found != "same":
                kept = kept_dataset(self.folder, self.record)
        if own or self._found == "nowhere":
            if kept is None:
                what = f"its dataset {self.record['dataset']['name']!r} is not found"
                remedy = "say where it is by --dataset NAME or FOLDER (in Python dataset=), or put it under $MMRNS_DATA"
                raise DataError(self.folder, what, remedy)
            dataset, kept = kept, None
        else:
            dataset = self._dataset or load_dataset(self.config.data.dataset or "")
        training = names_of_training(self.folder)
        # Of several processes each takes its part of the features to its device, once it has a part.
        device = self.device if self.world.size == 1 else torch.device("cpu")
        return run_data(self.config, dataset, training, self.folder, device, kept=kept, grows=self._grows)

    @cached_property
    def model(self) -> Model:
        """The selected model; of several processes, what this one has of it.

        Raises:
            UsageError: several processes cannot have some of the entities each, as the embedder or the device is.
        """
        if self._model is not None:
            return self._model
        if self.world.size > 1:
            refuse_unshared(self.device)
        dataset = replace(self.dataset, graph=self._data.trained)
        return self._loaded(build_model(self.config, dataset, world=self.world), "model.safetensors")

    @cached_property
    def sampler(self) -> Sampler:
        """The sampler of the selected step."""
        dataset = replace(self.dataset, graph=self._data.trained)
        return self._sampler or self._loaded(build_sampler(self.config, dataset, self.model), "sampler.safetensors")

    def _loaded(self, module: _Module, file: str) -> _Module:
        assert self.folder is not None
        folder, path = self.folder, self.folder / file
        if self._data.added:
            self._refuse_parted("a run whose dataset was given further entities")
        self.world.together(lambda: verify(folder, file), alone=True)
        if module.state_dict():
            stored = StoredTensors(path)
            tensors = own_weights(stored, module, self.world) if isinstance(module, Model) else dict(stored)
            if self._data.added:
                tensors = _grown(tensors, module, len(self._data.trained.entities), self._data.added)
            if reason := weights_misfit(module, tensors):
                message = f"does not fit the run's configuration, or the features of its dataset ({reason})"
                raise DataError(path, message, "restore them, or train again")
            module.load_state_dict(tensors)
            for name, values in module.state_dict().items():
                if not torch.isfinite(values).all():
                    raise DataError(path, f"holds what is not finite in {name!r}", "restore the file, or train again")
        return module.to(self.device).eval()

    def _with_data(self: _Run, data: RunData) -> _Run:
        """The same run with other features, or with further entities behind those that it has."""
        self._refuse_parted("a run with other entities or features")
        entities = len(data.dataset.graph.entities)
        model, tensors = build_model(self.config, replace(data.dataset, graph=data.trained)), self.model.state_dict()
        if more := entities - len(self.dataset.graph.entities):
            tensors = _grown(tensors, model, entities, more)
        if reason := weights_misfit(model, tensors):
            raise UsageError(f"the model is not what its configuration makes, so that its data are fixed ({reason})")
        model.load_state_dict(tensors)
        run = copy.copy(self)
        # Beside the properties, which would make them of the folder.
        run.__dict__ |= {"_data": data, "model": model.to(self.device).eval()}
        for name in ("names", "_rules"):
            run.__dict__.pop(name, None)
        return run

    def _refuse_parted(self, what: str) -> None:
        """Refuse what takes the vectors of all entities, of which several processes have some each.

        Raises:
            UsageError: there are several.
        """
        if self.world.size > 1:
            raise UsageError(f"{what} takes the vectors of all entities; start one process, without torchrun")

    @cached_property
    def device(self) -> torch.device:
        """Where the model is put."""
        return build_device(self._device or usable_device(self.config.device))


def _grown(tensors: Mapping[str, Tensor], module: nn.Module, entities: int, added: int) -> dict[str, Tensor]:
    """Weights with rows for the entities that were added, as the module was made with them; no view reads these."""
    found = dict(tensors)
    for name, now in module.state_dict().items():
        then = tensors.get(name)
        if then is not None and len(now.shape) and len(now) == entities and len(then) == entities - added:
            found[name] = torch.cat([then, now[-added:].to(then.dtype)])
    return found
