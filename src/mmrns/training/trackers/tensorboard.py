"""TensorBoard: event files, which need neither a network nor an account."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmrns.training.trackers.base import Tracked, Tracker


class TensorBoard(Tracker, name="tensorboard"):
    """Event files in `tensorboard/NAME` beside the run: metrics as scalars, the configuration as text, pictures.

    A training that goes on marks its event files with the step, from which on TensorBoard drops what is older. So does
    a new training under the name of an earlier one.
    """

    needs = "tensorboard"
    drops = True

    def begin(self, training: Tracked) -> str | None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder = training.folder / "tensorboard"
        first = 0 if training.key is None else training.step + 1
        self.writer = SummaryWriter(str(self.folder / training.name), purge_step=first)
        if training.key is None:
            text = json.dumps(training.config, indent=1, ensure_ascii=False)
            # Indented, so that Markdown shows it as it is.
            self.writer.add_text("config", "".join(f"    {line}\n" for line in text.splitlines()), 0)
        self.writer.flush()
        return training.name

    @property
    def where(self) -> str:
        return f"tensorboard --logdir {self.folder}"

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        # Whoever is killed has what was recorded.
        self.writer.flush()

    def end(self, step: int, results: Mapping[str, float], pictures: Sequence[Path]) -> None:
        import numpy as np
        from PIL import Image

        for name, value in results.items():
            self.writer.add_scalar(name, value, step)
        for path in pictures:
            with Image.open(path) as image:
                self.writer.add_image(path.stem, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self, finished: bool) -> None:
        self.writer.close()
