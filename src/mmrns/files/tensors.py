"""Files of tensors, which need not be in memory as a whole to be written or read."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrns.errors import DataError
from mmrns.files.replacing import replaced, under_temporary_name, unwritable

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK = 2**24
"""Bytes of a tensor that are read at a time where not all of it is to be in memory."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file.

    Raises:
        DataError: it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    written = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    # In a folder of its own: safetensors makes a file beside the one that it is asked for.
    with replaced(path) as temporary, under_temporary_name(path) as folder:
        folder.mkdir()
        temporary.touch()
        file = folder / path.name
        try:
            # None where there is none: with an empty mapping and no tensor it writes a file that it cannot read.
            save_file(written, file, dict(metadata) if metadata else None)
        except SafetensorError as error:
            raise unwritable(path, error) from error
        # Only its owner can read it; files of ours follow the umask.
        file.chmod(temporary.stat().st_mode)
        file.replace(temporary)


@contextmanager
def tensor_on_disk(beside: Path, rows: Iterable[Tensor]) -> Generator[Tensor]:
    """A tensor that is put together in a temporary file and never is in memory as a whole; at the end it is gone.

    Args:
        beside: the file that it is written for.
        rows: parts of it, in order; at least one.

    Raises:
        DataError: it cannot be written.
    """
    import torch

    count, shape, dtype = 0, (), torch.float32
    with under_temporary_name(beside.with_name(f"{beside.name}.rows")) as temporary:
        try:
            with temporary.open("wb") as file:
                for part in rows:
                    file.write(part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
                    count, shape, dtype = count + len(part), part.shape[1:], part.dtype
        except OSError as error:
            raise unwritable(beside, error) from error
        values = torch.from_file(str(temporary), shared=True, size=count * math.prod(shape), dtype=dtype)
        yield values.view(count, *shape)


class StoredTensors(Mapping[str, "Tensor"]):
    """The tensors of a safetensors file, on the CPU; each is read when it is asked for, and may be read in blocks.

    Args:
        path: the file.

    Raises:
        DataError: missing or not readable.

    Attributes:
        metadata: of the file.
    """

    def __init__(self, path: Path):
        from safetensors import safe_open

        self.path = path
        with self._told():
            # As numpy has them blocks are copies, and as torch has them the file takes as much memory as it is long to
            # who counts what could be written to; but numpy lacks some types.
            self._file = safe_open(path, framework="np")
            self._names: list[str] = list(self._file.keys())
            kinds = {self._file.get_slice(name).get_dtype() for name in self._names}
            if any(kind.startswith(("BF", "F8", "F4", "E")) for kind in kinds):
                self._file = safe_open(path, framework="pt")
            self.metadata: dict[str, str] = self._file.metadata() or {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        with self._told():
            return _own_tensor(self._file.get_tensor(name))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return tuple(self._file.get_slice(name).get_shape())

    def blocks(self, name: str) -> Iterator[Tensor]:
        """The rows of a tensor in order, as many at a time as take some megabytes; what has no rows as it is."""
        shape = self.shape(name)
        if 0 in (len(shape), math.prod(shape)):
            yield self[name]
            return
        # No number takes more bytes.
        size, held = max(1, _BLOCK // (8 * math.prod(shape[1:]))), self._file.get_slice(name)
        for first in range(0, shape[0], size):
            with self._told():
                found = _own_tensor(held[first : min(first + size, shape[0])])
            yield found

    def rows(self, name: str, ids: Tensor) -> Tensor:
        """Some rows of a tensor, in any order; of what is between them a block at a time is in memory.

        Args:
            name: of the tensor.
            ids: Int[n], the rows.

        Raises:
            DataError: it has fewer rows.
        """
        import torch

        order = torch.argsort(ids)
        ascending, first, found = ids[order], 0, None
        for block in self.blocks(name):
            found = block.new_empty(len(ids), *block.shape[1:]) if found is None else found
            begin, end = torch.searchsorted(ascending, torch.tensor([first, first + len(block)])).tolist()
            found[order[begin:end]] = block[ascending[begin:end] - first]
            first += len(block)
        if found is None or (len(ids) and int(ascending[-1]) >= first):
            raise DataError(self.path, f"has but {first:,} rows of {name!r}", "restore the file, or train again")
        return found

    @contextmanager
    def _told(self) -> Generator[None]:
        """What the library says of a file is told as of any other file."""
        from safetensors import SafetensorError

        try:
            yield
        except (SafetensorError, OSError) as error:
            raise DataError(self.path, f"is not a readable safetensors file ({error})", "train again") from error


def _own_tensor(values: Any) -> Tensor:
    """An array of numpy as a tensor, or a tensor that is mapped from a file as one that is in memory."""
    import torch

    return values.clone() if isinstance(values, torch.Tensor) else torch.from_numpy(values)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors (on the CPU) and the metadata of a safetensors file.

    Raises:
        DataError: missing or not readable.
    """
    stored = StoredTensors(path)
    return dict(stored), stored.metadata
