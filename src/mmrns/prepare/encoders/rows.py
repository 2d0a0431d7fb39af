"""Encoding row by row into a feature file, so that an interrupted work goes on and what has not changed is kept."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mmrns.data.tables import read_lines
from mmrns.data.tokens import Origin, origins_line, origins_path
from mmrns.errors import DataError
from mmrns.files import locked, make_folder, replacing, stamp_of
from mmrns.prepare.encoders.files import Block, stream_features

WRITER = "mmrns encode"
"""The metadata `writer` of the files that `mmrns encode` may replace without being asked."""

Keys = npt.NDArray[np.int64]
Progress = Callable[[int], AbstractContextManager[Callable[[int], None]]]
"""Opened with the rows that are to be encoded; what it yields is told of those done."""

_PART_BYTES = 2**26
_PART_SECONDS = 20.0
_BLOCK = 4096


@dataclass(frozen=True)
class Skipped:
    """An input that has no token.

    Attributes:
        entity: whose it is.
        input: the file.
        reason: why it cannot be used.
    """

    entity: str
    input: str
    reason: str


@dataclass(frozen=True)
class Encoded:
    """What became of an encoding.

    Attributes:
        name: the modality.
        path: the feature file.
        entities: rows of the file.
        of: entities of the graph.
        new: rows that were encoded now.
        shape: L and D.
        skipped: inputs that cannot be used.
        unmatched: inputs of no entity.
        others: files of the folder of pictures that are none.
        changed: what an existing file was made with otherwise, so that nothing of it was kept.
        by: of texts, how many entities have a `description`, how many only a `name`, and how many only their `id`.
    """

    name: str
    path: Path
    entities: int
    new: int
    shape: tuple[int, int]
    of: int = 0
    skipped: Sequence[Skipped] = field(default_factory=list[Skipped])
    unmatched: Sequence[str] = field(default_factory=list[str])
    others: Sequence[str] = field(default_factory=list[str])
    changed: Sequence[str] = field(default_factory=list[str])
    by: Mapping[str, int] = field(default_factory=dict[str, int])


def silent(total: int) -> AbstractContextManager[Callable[[int], None]]:
    """A progress bar that shows nothing."""
    return nullcontext(lambda n: None)


def key_of(*inputs: bytes) -> int:
    """A number of 63 bits that stands for what a row is made from; it is never 0."""
    digest = hashlib.blake2b(digest_size=8)
    for part in inputs:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return int.from_bytes(digest.digest(), "little") >> 1 or 1


class Stock:
    """The rows that are encoded already. They are found by their keys and mapped from their files."""

    def __init__(self):
        self.sources: list[Block] = []
        self._keys: list[Keys] = []
        self._index: tuple[Keys, Keys, Keys] | None = None

    def add(self, keys: Keys, block: Block) -> None:
        """Add rows; those of key 0 are never found."""
        self.sources.append(block)
        self._keys.append(keys)
        self._index = None

    def find(self, keys: Keys) -> tuple[Keys, Keys]:
        """Source and row of each key; -1 where there is none."""
        known, source, row = self._sorted()
        if not len(known):
            return np.full(len(keys), -1), np.full(len(keys), -1)
        place = np.searchsorted(known, keys).clip(max=len(known) - 1)
        found = (known[place] == keys) & (keys != 0)
        return np.where(found, source[place], -1), np.where(found, row[place], -1)

    def blocks(self, keys: Keys) -> Iterator[Block]:
        """The rows of keys that are all there, block by block."""
        for first in range(0, len(keys), _BLOCK):
            source, row = self.find(keys[first : first + _BLOCK])
            shape = self.sources[source[0]][0].shape[1:]
            values, mask = np.zeros((len(row), *shape), np.float16), np.zeros((len(row), shape[0]), np.bool_)
            for number in np.unique(source):
                here = source == number
                values[here], mask[here] = (part[row[here]] for part in self.sources[number])
            yield values, mask

    def _sorted(self) -> tuple[Keys, Keys, Keys]:
        if self._index is None:
            sizes = [len(keys) for keys in self._keys]
            keys = np.concatenate([np.empty(0, np.int64), *self._keys])
            row = np.concatenate([np.empty(0, np.int64), *(np.arange(size) for size in sizes)])
            source = np.repeat(np.arange(len(sizes)), sizes)
            order = np.argsort(keys, kind="stable")
            self._index = keys[order], source[order], row[order]
        return self._index


def encode_rows(
    folder: Path,
    name: str,
    entities: Sequence[str],
    keys: Keys,
    encode: Callable[[Keys], tuple[Block, npt.NDArray[np.bool_]]],
    settings: Mapping[str, str],
    *,
    chunk: int,
    nothing: Callable[[], DataError],
    origins: Callable[[Keys], Sequence[Sequence[Origin]]],
    overwrite: bool = False,
    progress: Progress = silent,
) -> Encoded:
    """Encode what is not encoded yet and write `features/NAME`.

    Rows of equal key are encoded once. What an earlier call with equal settings has encoded is kept, be it in the
    finished file or, if that call was interrupted, in parts beside it.

    Args:
        folder: the dataset folder.
        name: the modality.
        entities: of each row.
        keys: what each row is made from, see `key_of`.
        encode: given positions of rows, their values and mask, and which of them are whole: a row that is not is tried
            anew by the next call. A row without any token is left out.
        settings: metadata that decides about the tokens.
        chunk: rows encoded at a time.
        nothing: the error where no row has a token.
        origins: given positions of rows that have one, what their tokens were made of.
        overwrite: replace a file that was made by other means.
        progress: opened with the number of rows to encode; told of those done.

    Raises:
        DataError: the file was made by other means, or changed meanwhile; no row has a token; or another process
            encodes this dataset.
    """
    path = folder / "features" / f"{name}.safetensors"
    settings = {"writer": WRITER, **settings}
    with locked(path.parent, f".{name}.parts"):
        before = _stamp(path)
        stock, names, stored, changed = finished(path, settings, overwrite)
        parts = _Parts(path.with_name(f".{name}.parts"), settings)
        parts.read(stock)
        distinct, first = np.unique(keys, return_index=True)
        todo = np.sort(first[stock.find(distinct)[0] < 0])
        broken: list[Keys] = []
        with parts, progress(len(todo)) as advance:
            for start in range(0, len(todo), chunk):
                rows = todo[start : start + chunk]
                (values, mask), whole = encode(rows)
                there = mask.any(1)
                kept, only_now = whole & there, ~whole & there
                parts.add(keys[rows[kept]], (values[kept], mask[kept]))
                stock.add(keys[rows[only_now]], (values[only_now], mask[only_now]))
                broken.append(keys[rows[only_now]])
                advance(len(rows))
        parts.read(stock)
        present = stock.find(keys)[0] >= 0
        if not present.any():
            parts.remove()
            raise nothing()
        entities = [entity for entity, there in zip(entities, present, strict=True) if there]
        keys, made_of = keys[present], origins(np.flatnonzero(present))
        final = np.where(np.isin(keys, np.concatenate([keys[:0], *broken])), 0, keys)
        shape = stock.sources[int(stock.find(keys[:1])[0][0])][0].shape[1:]
        same = names == entities and np.array_equal(stored, final) and (final != 0).all()
        if not same or not _says(path, made_of):
            metadata = {**settings, "date": datetime.now(UTC).date().isoformat()}
            blocks = _while_unchanged(stock.blocks(keys), path, before)
            stream_features(folder, name, entities, (shape[0], shape[1]), blocks, metadata, keys=final, origins=made_of)
        parts.remove()
    new = np.isin(keys, distinct[np.isin(first, todo)]).sum()
    return Encoded(name, path, len(keys), int(new), (shape[0], shape[1]), changed=changed)


def _says(path: Path, made_of: Sequence[Sequence[Origin]]) -> bool:
    """Whether the finished file says already what its tokens were made of."""
    said = origins_path(path)
    return said.exists() and read_lines(said).to_list() == [origins_line(row) for row in made_of]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """`stamp_of` a file; None where there is none."""
    return stamp_of(path) if path.exists() else None


def _while_unchanged(blocks: Iterator[Block], path: Path, before: tuple[int, int, int] | None) -> Iterator[Block]:
    """Blocks, some of which are mapped from a file, for as long as nobody else writes to it.

    Raises (in the end):
        DataError: somebody did.
    """
    yield from blocks
    if _stamp(path) != before:
        remedy = "let one program write to it at a time, then run the command again"
        raise DataError(path, "was changed by another program while it was read", remedy)


def finished(path: Path, settings: Mapping[str, str], overwrite: bool) -> tuple[Stock, list[str], Keys, list[str]]:
    """What the finished file holds for equal settings: rows, entities, keys; else in which settings it differs.

    Raises:
        DataError: it was made by other means, and is not to be overwritten.
    """
    stock, none = Stock(), np.empty(0, np.int64)
    if not path.exists():
        return stock, [], none, []
    try:
        keys, block, metadata = _read(path)
    except (SafetensorError, OSError, KeyError):
        keys, block, metadata = none, None, {}
    if block is None or metadata.get("writer") != WRITER:
        if overwrite:
            return stock, [], none, []
        raise DataError(path, "was made by other means", "move it away, or replace it with --overwrite")
    changed = sorted(key for key in {*metadata, *settings} - {"date"} if metadata.get(key) != settings.get(key))
    listing = path.with_suffix(".entities")
    names = read_lines(listing).to_list() if listing.exists() else []
    if changed or len(names) != len(keys):
        return stock, [], none, changed
    stock.add(keys, block)
    return stock, names, keys, []


class _Parts:
    """Rows of an encoding under way, in files of a folder of its own; whatever ends it, what is encoded is written."""

    def __init__(self, folder: Path, settings: Mapping[str, str]):
        self.folder, self.settings = folder, dict(settings)
        self.waiting: list[tuple[Keys, Block]] = []
        self.since = time.monotonic()
        self.known: set[Path] = set()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        self.flush()

    def read(self, stock: Stock) -> None:
        """Add the rows that are not in the stock yet; parts of other settings are of no use and removed."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path in self.known:
                continue
            try:
                keys, block, metadata = _read(path)
            except (SafetensorError, OSError, KeyError):
                path.unlink()
                continue
            if metadata != self.settings:
                path.unlink()
                continue
            self.known.add(path)
            stock.add(keys, block)

    def add(self, keys: Keys, block: Block) -> None:
        """Add rows, which are written once they are many or have waited long."""
        if len(keys):
            self.waiting.append((keys, block))
        size = sum(values.nbytes for _, (values, _) in self.waiting)
        if size >= _PART_BYTES or time.monotonic() - self.since >= _PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait."""
        self.since = time.monotonic()
        if not self.waiting:
            return
        make_folder(self.folder)
        keys = np.concatenate([keys for keys, _ in self.waiting])
        values, mask = (np.concatenate([block[i] for _, block in self.waiting]) for i in range(2))
        number = 1 + max((int(path.stem) for path in self.folder.glob("*.safetensors")), default=0)
        with replacing(self.folder / f"{number:06}.safetensors") as (file,):
            file.write(save({"key": keys, "values": values.astype(np.float16), "mask": mask}, self.settings))
        self.waiting = []

    def remove(self) -> None:
        """Remove all parts."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _read(path: Path) -> tuple[Keys, Block, dict[str, str]]:
    """Keys, values and mask, mapped, and the metadata."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if "key" not in file.keys():  # noqa: SIM118
            raise KeyError("key")
        keys, values, mask = (file.get_tensor(name).numpy() for name in ("key", "values", "mask"))
    return keys, (values, mask), metadata
