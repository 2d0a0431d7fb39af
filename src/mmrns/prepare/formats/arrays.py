"""Feature tables of other projects: `.pth`, `.npy`, `.npz`, `.h5`, token lists in JSON; read block by block."""

from __future__ import annotations

import json
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from mmrns.data.tables import GZIP_GROWTH, LARGEST_GZIP, is_text
from mmrns.errors import DataError, UsageError

SUFFIXES = (".pth", ".pt", ".npy", ".npz", ".h5", ".hdf5", ".json")
RAGGED_TOKENS = 4
"""Tokens that are kept where entities have different numbers of them, as in the authors' code of MMRNS."""

_LONGEST_CLASS = 1000
"""Characters of a class's name with its modules."""
_PICKLES = 5
"""How many a torch file of the older kind consists of."""

Rows = npt.NDArray[np.int64]
Block = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class Table:
    """Rows of tokens, read when asked for.

    Attributes:
        path: the file.
        shape: n, L, D.
        names: what each row is called; None where rows follow the ids of the entities.
        read: values [k, L, D] and mask [k, L] of some rows, ascending.
        dtype: of the values in the file.
    """

    path: Path
    shape: tuple[int, int, int]
    names: pl.Series | None
    read: Callable[[Rows], Block]
    dtype: str


def open_table(path: Path, *, key: str | None = None, codebook: Path | None = None, tokens: int | None = None) -> Table:
    """A feature table: [n, D], [n, L, D], or one array [L, D] or [D] an entity under its name.

    Args:
        path: the file.
        key: which array of the file, where it holds several.
        codebook: for lists of token numbers, the table of their vectors.
        tokens: L, at most; by default all tokens, but 4 where entities have different numbers of them.

    Raises:
        DataError: unreadable, unsafe to read, or of another shape.
        UsageError: an extra that is not installed.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise DataError(path, "is no file", "check the path of --features")
    if path.stat().st_size == 0:
        raise DataError(path, "is empty", "write it again")
    if suffix in (".pth", ".pt"):
        return _of_object(path, _torch_file(path), key, tokens)
    if suffix == ".npy":
        return _of_array(path, _npy(path), tokens)
    if suffix == ".npz":
        return _of_object(path, _npz(path), key, tokens)
    if suffix in (".h5", ".hdf5"):
        return _of_hdf5(path, key, tokens)
    if suffix == ".json":
        return _of_json(path, key, codebook, tokens)
    raise DataError(path, f"has no known suffix {path.suffix!r}", f"give one of {', '.join(SUFFIXES)}")


def _torch_file(path: Path) -> Any:
    """What a `.pth` file holds, if that is tensors, lists, dictionaries, strings and numbers: nothing that runs code.

    Mapped into memory where the file is of the present kind, a zip archive.
    """
    _refuse_long_names(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # The reader raises a class of its own for what it refuses, and many for damage.
        text = str(error)
        if type(error).__name__ == "UnpicklingError":
            needed = re.search(r"GLOBAL ([\w.]+)", text)
            message = f"needs {needed[1] if needed else 'more than tensors'}, and loading that could run any code"
            remedy = "save the tensor alone, or as .npy, with the code that made the file"
            raise DataError(path, message, remedy) from error
        raise DataError(path, f"is no readable torch file ({_reason(error)})", "write it again") from error


def _refuse_long_names(path: Path) -> None:
    """Refuse a file that asks for a class whose name is absurdly long: torch looks for words in its own message about
    it in a time that grows with the square of the length.

    Raises:
        DataError: it does.
    """
    try:
        with path.open("rb") as file, ExitStack() as opened, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pickled: Any = file
            if zipfile.is_zipfile(file):
                archive = opened.enter_context(zipfile.ZipFile(file))
                name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                # A class is named in plain characters; without such a run there is nothing to look for.
                if not re.search(rb"[^\x00-\x20]{%d}" % _LONGEST_CLASS, archive.read(name)):
                    return
                pickled = opened.enter_context(archive.open(name))
            else:
                file.seek(0)
            # Files of the older kind are some pickles one after the other, and then numbers.
            for _ in range(_PICKLES):
                for operation, argument, _ in pickletools.genops(pickled):
                    if operation.name in ("GLOBAL", "INST") and len(str(argument)) > _LONGEST_CLASS:
                        message = "names a class that cannot be: it is damaged, or loading it could run any code"
                        raise DataError(path, message, "save the tensor alone, or as .npy")
    except DataError:
        raise
    except Exception:  # Damaged in one of many other ways, which the reader says.
        return


def _npy(path: Path) -> npt.NDArray[Any]:
    with _readable(path, ".npy file", "save a plain array of numbers"):
        return np.lib.format.open_memmap(path, mode="r")


def _npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    with (
        _readable(path, ".npz file", "save plain arrays of numbers"),
        path.open("rb") as opened,
        np.lib.npyio.NpzFile(opened) as file,
    ):
        size = sum(part.file_size for part in zipfile.ZipFile(opened).infolist())
        if size > max(LARGEST_GZIP, GZIP_GROWTH * path.stat().st_size):
            message = f"grows more than {GZIP_GROWTH}-fold, to {size / 2**30:,.1f} GiB, when it is decompressed"
            raise DataError(path, message, "check the file, or save it as .npy, which is not read into memory")
        return {name: file[name] for name in file.files}


@contextmanager
def _readable(path: Path, what: str, remedy: str) -> Generator[None]:
    """Whatever a reader of others raises, on damage or on sizes that cannot be, says that the file is not readable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (DataError, UsageError):
        raise
    except Exception as error:
        raise DataError(path, f"is no readable {what} ({_reason(error)})", remedy) from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return "it holds objects, not numbers" if re.search("object array|python object", text.lower()) else text


def _of_object(path: Path, value: Any, key: str | None, tokens: int | None) -> Table:
    """A tensor, a list of tensors, or a dictionary: one array under a name, or an array an entity."""
    if isinstance(value, Mapping):
        arrays = {str(name): array for name, array in value.items() if isinstance(array, Tensor | np.ndarray)}
        if not arrays:
            raise DataError(path, "holds no array", "save the table of features")
        if key is None and len(arrays) > 1:
            if (
                all(
                    array.ndim in (1, 2) and array.shape[-1:] == next(iter(arrays.values())).shape[-1:]
                    for array in arrays.values()
                )
                and len(arrays) > 3
            ):
                return _of_named(path, arrays, tokens)
            listed = ", ".join(sorted(arrays)[:8])
            raise DataError(path, f"holds several arrays ({listed})", f"choose: --features NAME={path.name}:KEY")
        if key is not None and key not in arrays:
            raise DataError(path, f"holds no array {key!r}", f"choose one of {', '.join(sorted(arrays)[:8])}")
        return _of_array(path, arrays[key] if key else next(iter(arrays.values())), tokens)
    if (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and value
        and all(isinstance(v, Tensor) for v in value)
    ):
        return replace(_of_named(path, dict(enumerate(value)), tokens), names=None)
    if not isinstance(value, Tensor):
        raise DataError(path, f"holds a {type(value).__name__}, not a table", "save a tensor [n, D] or [n, L, D]")
    return _of_array(path, value, tokens)


def _of_array(path: Path, array: Any, tokens: int | None) -> Table:
    """[n, D] or [n, L, D]: a tensor, an array, a memory map or an HDF5 dataset."""
    shape = tuple(int(size) for size in array.shape)
    dtype = str(array.dtype).removeprefix("torch.")
    if len(shape) not in (2, 3) or 0 in shape or not _holds_numbers(array):
        raise DataError(path, f"holds {dtype} {list(shape)}", "save numbers of shape [n, D] or [n, L, D]")
    n, length, width = (shape[0], 1, shape[1]) if len(shape) == 2 else shape
    kept = min(tokens or length, length)

    def read(rows: Rows) -> Block:
        # Neighbouring rows, the usual case, are one slice: HDF5 is slow and memory maps copy otherwise.
        whole = len(rows) == rows[-1] - rows[0] + 1
        part = (
            array[int(rows[0]) : int(rows[-1]) + 1]
            if whole
            else array[torch.from_numpy(rows) if isinstance(array, Tensor) else rows]
        )
        values = _float32(part).reshape(len(rows), length, width)[:, :kept]
        return values, np.ones(values.shape[:2], dtype=np.bool_)

    return Table(path, (n, kept, width), None, read, dtype)


def _holds_numbers(array: Any) -> bool:
    named = str(array.dtype).removeprefix("torch.").startswith(("float", "bfloat", "int", "uint"))
    # Numbers in the other byte order have other names.
    return named or (isinstance(array.dtype, np.dtype) and array.dtype.kind in "fiu")


def _float32(array: Any) -> npt.NDArray[np.float32]:
    if isinstance(array, Tensor):
        return array.detach().to(torch.float32).numpy()
    # What single precision cannot hold becomes infinite, and is refused as such.
    with np.errstate(over="ignore"):
        return np.asarray(array, dtype=np.float32)


def _of_named(path: Path, arrays: Mapping[Any, Any], tokens: int | None) -> Table:
    """An array [L, D] or [D] under the name of each entity."""
    names = [str(name) for name in arrays]
    values = list(arrays.values())
    other = next((name for name, array in zip(names, values, strict=True) if not _holds_numbers(array)), None)
    if other is not None:
        raise DataError(path, f"holds something else than numbers under {other!r}", "save arrays of numbers")
    shapes = [tuple(int(size) for size in array.shape) for array in values]
    return _ragged(path, names, shapes, lambda rows: [_float32(values[i]) for i in rows], str(values[0].dtype), tokens)


def _named(path: Path, names: Sequence[Any]) -> pl.Series:
    """Names of rows. What is no text, or half of a character, cannot be an entity's."""
    wrong = next((name for name in names if not isinstance(name, str) or not is_text(name)), None)
    if wrong is not None:
        raise DataError(path, f"holds an array under {wrong!r}, which is no name in UTF-8", "rename it")
    return pl.Series(names, dtype=pl.String)


def _ragged(
    path: Path,
    names: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    read_each: Callable[[Sequence[int]], Sequence[npt.NDArray[np.float32]]],
    dtype: str,
    tokens: int | None,
) -> Table:
    wrong = next((i for i, shape in enumerate(shapes) if len(shape) not in (1, 2) or shape[-1] != shapes[0][-1]), None)
    if wrong is not None:
        message = f"{names[wrong]!r} is {list(shapes[wrong])} where {names[0]!r} is {list(shapes[0])}"
        raise DataError(path, message, "give every entity an array [L, D] of the same D")
    lengths = np.array([1 if len(shape) == 1 else shape[0] for shape in shapes], dtype=np.int64)
    width = shapes[0][-1]
    most = int(lengths.max())
    kept = min(tokens or (most if (lengths == most).all() else RAGGED_TOKENS), most)
    if not kept or not width:
        raise DataError(path, "holds no tokens", "give every entity an array [L, D]")

    def read(rows: Rows) -> Block:
        values = np.zeros((len(rows), kept, width), dtype=np.float32)
        for i, array in enumerate(read_each(rows.tolist())):
            part = array.reshape(-1, width)[:kept]
            values[i, : len(part)] = part
        return values, np.arange(kept) < lengths[rows][:, None]

    return Table(path, (len(names), kept, width), _named(path, names), read, dtype)


def _of_hdf5(path: Path, key: str | None, tokens: int | None) -> Table:
    """One array an entity under its name, however deep (a name may hold a slash); or one table in the order of ids."""
    try:
        import h5py
    except ImportError as error:
        raise UsageError(f"{path}: HDF5 needs the extra `hdf5`: pip install 'mmrns[hdf5]'") from error
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: list[Any] = []

    def visit(name: Any, found: Any) -> None:
        if isinstance(found, h5py.Dataset):
            shapes[name] = found.shape
            dtypes.append(found.dtype)

    @contextmanager
    def opened() -> Generator[Any]:
        with _readable(path, "HDF5 file", "download it again"), h5py.File(path, "r") as file:
            yield file

    with opened() as file:
        file.visititems(visit)
    if not shapes:
        raise DataError(path, "holds no dataset", "check the file")
    bad = next((dtype for dtype in dtypes if dtype.kind not in "fiu"), None)
    if bad is not None:
        raise DataError(path, f"holds {bad}, not numbers", "save floating-point arrays")
    if key is not None and key not in shapes:
        raise DataError(path, f"holds no dataset {key!r}", f"choose one of {', '.join(list(shapes)[:8])}")
    if key is not None or (len(shapes) == 1 and len(next(iter(shapes.values()))) == 3):
        one = key or next(iter(shapes))

        class Lazy:
            shape, dtype = shapes[one], dtypes[list(shapes).index(one)]

            def __getitem__(self, rows: Any) -> Any:
                with opened() as file:
                    return file[one][rows]

        return _of_array(path, Lazy(), tokens)
    names = _named(path, list(shapes)).to_list()

    def read_each(rows: Sequence[int]) -> list[npt.NDArray[np.float32]]:
        with opened() as file:
            return [np.asarray(file[names[i]][()], dtype=np.float32) for i in rows]

    return _ragged(path, names, list(shapes.values()), read_each, str(dtypes[0]), tokens)


def _of_json(path: Path, key: str | None, codebook: Path | None, tokens: int | None) -> Table:
    """Lists of token numbers an entity, looked up in a codebook; or lists of vectors.

    Of token numbers the most frequent of each entity are taken, as in MyGO (Zhang et al., AAAI 2025).
    """
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        line = getattr(error, "lineno", None)
        raise DataError(path, f"is not valid JSON ({_reason(error)})", "write it again", line) from error
    if key is not None:
        value = value.get(key) if isinstance(value, dict) else None
    listed = dict(enumerate(value)) if isinstance(value, list) else value
    if not isinstance(listed, dict) or not listed or not all(isinstance(row, list) for row in listed.values()):
        raise DataError(path, "holds no list of tokens an entity", 'write {"entity": [tokens], ...}')
    names = _named(path, [str(name) for name in listed])
    rows = list(listed.values())
    first = next((token for row in rows for token in row), None)
    if isinstance(first, int) and not isinstance(first, bool):
        if codebook is None:
            remedy = f"add the table of their vectors: --features NAME={path.name},CODEBOOK.pth"
            raise DataError(path, "holds token numbers, not vectors", remedy)
        return _of_numbers(path, names, rows, open_table(codebook), tokens)
    try:
        arrays = [_float32(row) for row in rows]
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(
            path, f"holds tokens that are no vectors ({_reason(error)})", "write lists of numbers"
        ) from error
    width = next((array.shape[-1] for array in arrays if array.ndim and array.size), 0)
    filled = (array if array.size else np.zeros((0, width), dtype=np.float32) for array in arrays)
    table = _of_named(path, dict(zip(names, filled, strict=True)), tokens)
    return table if not isinstance(value, list) else replace(table, names=None)


def _of_numbers(path: Path, names: pl.Series, rows: list[Any], codebook: Table, tokens: int | None) -> Table:
    n, length, width = codebook.shape
    if length != 1:
        raise DataError(codebook.path, f"is [{n}, {length}, {width}]", "a codebook is [tokens, D]")
    try:
        flat = pl.DataFrame(
            {"row": pl.int_range(len(rows), eager=True), "token": pl.Series(rows, dtype=pl.List(pl.Int64))}
        )
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise DataError(path, "mixes token numbers with something else", "write lists of whole numbers") from error
    flat = flat.explode("token").drop_nulls().with_row_index("place")
    outside = flat.filter((pl.col("token") < 0) | (pl.col("token") >= n))
    if len(outside):
        of = names[outside["row"][0]]
        message = f"token {outside['token'][0]} of {of!r} is not in {codebook.path.name} (0 to {n - 1:,})"
        raise DataError(path, message, "give the codebook that belongs to it")
    kept = tokens or RAGGED_TOKENS
    ranked = (
        flat.group_by("row", "token")
        .agg(pl.len().alias("count"), pl.col("place").min())
        .sort(["row", "count", "place"], descending=[False, True, False])
        .with_columns(nth=pl.int_range(pl.len()).over("row"))
        .filter(pl.col("nth") < kept)
    )
    ids = np.full((len(rows), kept), -1, dtype=np.int64)
    ids[ranked["row"].to_numpy(), ranked["nth"].to_numpy()] = ranked["token"].to_numpy()
    vectors, _ = codebook.read(np.arange(n))

    def read(chosen: Rows) -> Block:
        wanted = ids[chosen]
        mask = wanted >= 0
        return np.where(mask[..., None], vectors[wanted, 0], np.float32(0)), mask

    return Table(path, (len(rows), kept, width), names, read, codebook.dtype)
