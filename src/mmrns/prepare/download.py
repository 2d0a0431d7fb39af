"""Getting a named dataset: download, check, unpack or build, count, and only then give it its name."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from functools import partial
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO, Any
from urllib.parse import unquote, urlsplit

import polars as pl

from mmrns.data.folders import SPLITS, SUFFIXES, cache_folder, read_triples, split_file
from mmrns.errors import DataError, MmrnsError, UsageError
from mmrns.files import make_folder, new_folder, sha256_of, unwritable, write_text
from mmrns.prepare.catalogue import Entry

Progress = Callable[[int, int | None], None]
"""Told the bytes there are so far and, where the server says it, the bytes in all."""

CHUNK = 1 << 18
TIMEOUT = 30.0
TRAIN = tuple(f"train{suffix}" for suffix in SUFFIXES)
WANTED = (
    *(f"{split}{suffix}" for split in SPLITS for suffix in SUFFIXES),
    *("entities.tsv", "relations.tsv", "texts.tsv", "numbers.tsv", "dataset.json", "README*", "LICEN[CS]E*"),
)


def get_dataset(
    entry: Entry,
    source: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Bring a dataset of the catalogue into the cache.

    Args:
        entry: what to get.
        source: an archive (.zip, .tar.gz, ...) or folder that holds it, or the archive's address; by default the
            catalogue's link.
        progress: told how the download goes.

    Returns:
        The dataset's folder. One that is there already is returned as it is.

    Raises:
        DataError: not reachable, incomplete, another checksum, or other counts than the catalogue's; nothing is left
            under the dataset's name. What was downloaded so far is kept and continued next time.
        UsageError: there is no link, and no `source` was given; the message says what to do by hand.
    """
    target = cache_folder() / entry.name
    if target.is_dir():
        return target
    origin = source or entry.url
    if origin is None:
        raise UsageError(f"{entry.name} has no direct link. {entry.obtain.strip()}")
    is_link = urlsplit(origin).scheme in ("http", "https")
    if not is_link and not Path(origin).exists():
        raise UsageError(f"--from {origin}: there is no such file or folder, and it is no http address")
    # Before the download, so that nobody else downloads the same.
    with new_folder(target) as folder:
        if is_link:
            name = PurePosixPath(unquote(urlsplit(origin).path)).name or "download"
            archive = cache_folder().with_name("downloads") / f"{entry.name}-{name}"
            expected = entry.sha256 if source is None else None
            digest = download(origin, archive, expected, progress)
        else:
            archive = Path(origin)
            digest = sha256_of(archive) if archive.is_file() else None
        if entry.layout is None:
            unpack(archive, folder)
        else:
            _build(archive, folder, entry, origin)
        verify(folder, entry, origin)
        _describe(folder, entry, origin if is_link else archive.name, digest)
    if is_link:
        archive.unlink()
    return target


def download(url: str, target: Path, sha256: str | None = None, progress: Progress = lambda done, total: None) -> str:
    """Download a file to `target`, continuing an earlier attempt where the server allows it.

    The bytes go to `target` with `.part` added, beside a note of which version of the file they are of, and are renamed
    when they are complete and have the checksum.

    Returns:
        The file's SHA-256.

    Raises:
        DataError: not reachable, refused, incomplete, or another checksum.
    """
    part, note = (target.with_name(target.name + end) for end in (".part", ".part.json"))
    make_folder(target.parent)
    request = urllib.request.Request(url, headers={"User-Agent": "mmrns", "Accept-Encoding": "identity"})
    have = part.stat().st_size if part.exists() else 0
    version = _read_note(note, url)
    if have and version:
        # If-Range: the rest if the file is still the same, else all of it.
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", version)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            if answer.status != 206 or not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                have = 0
            length = answer.headers.get("Content-Length")
            total = have + int(length) if length is not None else None
            validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
            # A weak ETag promises equal meaning, not equal bytes.
            strong = validator and not validator.startswith("W/")
            with _appended(part, have) as write:
                # After the file was emptied: a note must never speak of another version than the bytes before it.
                write_text(note, json.dumps({"url": url, "version": validator if strong else None}))
                progress(have, total)
                while chunk := answer.read(CHUNK):
                    write(chunk)
                    have += len(chunk)
                    progress(have, total)
    except urllib.error.HTTPError as error:
        if error.code == 416 and request.has_header(
            "Range"
        ):  # The earlier attempt had all bytes, or more than there are.
            part.unlink()
            note.unlink(missing_ok=True)
            return download(url, target, sha256, progress)
        remedy = "look for it at its source, then give the file with --from"
        raise DataError(url, f"the server answers {error.code} {error.reason}", remedy) from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        message = f"cannot be reached ({getattr(reason, 'strerror', None) or reason})"
        if have:
            message = f"broke off after {have:,} bytes ({reason})"
        remedy = "check the network and try again" if not have else "try again: it continues where it stopped"
        raise DataError(url, message, f"{remedy}, or fetch it elsewhere and give the file with --from") from error
    if total is not None and have != total:
        message = f"broke off after {have:,} of {total:,} bytes"
        raise DataError(url, message, "try again: it continues where it stopped")
    digest = sha256_of(part)
    if sha256 is not None and digest != sha256:
        part.unlink()
        note.unlink()
        message = f"has SHA-256 {digest}, not {sha256}"
        raise DataError(url, message, "try again; if it stays so, the file was changed at its source")
    part.replace(target)
    note.unlink()
    return digest


@contextmanager
def _appended(part: Path, have: int) -> Generator[Callable[[bytes], None]]:
    """Writes bytes behind the first `have` of a file.

    Raises:
        DataError: it cannot be written; what was written stays.
    """

    def write(chunk: bytes) -> None:
        try:
            file.write(chunk)
        except OSError as error:
            raise unwritable(part, error) from error

    try:
        file = part.open("ab" if have else "wb")
    except OSError as error:
        raise unwritable(part, error) from error
    try:
        yield write
        try:
            file.flush()
        except OSError as error:
            raise unwritable(part, error) from error
    finally:
        with suppress(OSError):  # Of a write that has failed before.
            file.close()


def _read_note(note: Path, url: str) -> str | None:
    """The version that a partial download is of; None where it is of another address, or unknown."""
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found.get("version") if isinstance(found, dict) and found.get("url") == url else None


def _build(archive: Path, folder: Path, entry: Entry, origin: str) -> None:
    """Make a dataset folder of files in another layout: unpack, convert, and split without leakage, by seed 0.

    Raises:
        DataError: see `unpack` and `convert`; the file is named within `origin`.
    """
    from mmrns.prepare.formats import convert  # Here, since it brings torch.
    from mmrns.prepare.split import split_dataset

    with TemporaryDirectory() as place:
        raw, whole, split = (Path(place) / name for name in ("files", "unsplit", entry.name))
        raw.mkdir()
        unpack(archive, raw, entry.files)
        try:
            convert(raw, whole, layout=entry.layout)
        except DataError as error:
            raise DataError(f"{origin}/{error.where.name}", error.message, error.remedy, error.line) from error
        split_dataset(whole, split, valid=entry.valid, test=entry.test)
        unpack(split, folder)


def unpack(source: Path, folder: Path, files: Sequence[str] = ()) -> None:
    """Copy the files of a dataset folder out of a folder, or out of an archive from wherever in it `train` lies.

    Names are matched with the layout, never followed: whatever else an archive holds, absolute paths, `..` and links
    among it, stays there.

    Args:
        source: the folder or archive.
        folder: where to copy them.
        files: names of what to copy instead, from wherever the first of them lies.

    Raises:
        DataError: not a readable archive, or it holds no `train`, or several, or a file twice, or more than
            `_most_bytes`; the files cannot be written.
    """
    first = files[:1] or TRAIN
    left = _most_bytes(source)
    try:
        with _members(source) as members:
            roots = sorted({path.parent for path in members if path.name in first})
            if len(roots) != 1:
                what = " or ".join(first[:2])
                found = f"{len(roots)} folders in it hold a {what}" if roots else f"holds no {first[0]}"
                remedy = "give one of them with --from" if roots else "`mmrns data convert` reads other layouts"
                raise DataError(source, found, remedy)
            for path, opened in members.items():
                inner = path.relative_to(roots[0]) if path.is_relative_to(roots[0]) else PurePosixPath()
                if inner.as_posix() in files if files else _belongs(inner):
                    target = folder / inner
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with opened() as content, _appended(target, 0) as write:
                        while chunk := content.read(CHUNK):
                            left -= len(chunk)
                            if left < 0:
                                message = f"unpacks to more than {_most_bytes(source):,} bytes, as nothing honest does"
                                raise DataError(source, message, "look at it, and give its folder with --from")
                            write(chunk)
    except MmrnsError:
        raise
    except Exception as error:  # A damaged archive may raise anything.
        raise DataError(source, f"cannot be unpacked ({error})", "fetch it again") from error


def _most_bytes(source: Path) -> int:
    """How much an archive may hold: a hundred times its size, or a GiB where that is little; what a folder holds, it
    holds.
    """
    return max(2**30, 100 * source.stat().st_size) if source.is_file() else 2**63


def _belongs(path: PurePosixPath) -> bool:
    """Whether a file is one of the layout, by its path within the dataset folder."""
    if os.name == "nt" and any("\\" in part or ":" in part for part in path.parts):
        return False  # There it is a path of its own.
    if len(path.parts) == 1:
        return any(fnmatch(path.name, pattern) for pattern in WANTED)
    return path.parts[:1] in (("features",), ("images",)) and ".." not in path.parts


@contextmanager
def _members(source: Path) -> Generator[dict[PurePosixPath, Callable[[], IO[bytes]]]]:
    """The regular files of an archive, or those of the layout in a folder, and how each is opened."""
    if source.is_dir():
        found = [path for inner in (".", "features", "images") for path in sorted((source / inner).glob("*"))]
        yield {PurePosixPath(p.relative_to(source).as_posix()): partial(p.open, "rb") for p in found if p.is_file()}
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            kinds = {info: stat.S_IFMT(info.external_attr >> 16) for info in archive.infolist() if not info.is_dir()}
            infos = [info for info, kind in kinds.items() if kind in (0, stat.S_IFREG)]  # 0: it is not said.
            yield _once(source, ((info.filename, partial(archive.open, info)) for info in infos))
    else:
        if not tarfile.is_tarfile(source):
            raise DataError(source, "is neither a .zip nor a .tar archive, or is damaged", "fetch it again")
        with tarfile.open(source) as archive:
            yield _once(source, ((m.name, partial(_extracted, archive, m)) for m in archive if m.isfile()))


def _once(
    source: Path, members: Iterable[tuple[str, Callable[[], IO[bytes]]]]
) -> dict[PurePosixPath, Callable[[], IO[bytes]]]:
    """The members of an archive by path.

    Raises:
        DataError: two have the same.
    """
    found: dict[PurePosixPath, Callable[[], IO[bytes]]] = {}
    for name, opened in members:
        path = PurePosixPath(name)
        if path in found:
            raise DataError(source, f"holds {name!r} twice", "unpack it by hand and give the folder with --from")
        found[path] = opened
    return found


def _extracted(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    content = archive.extractfile(member)
    assert content is not None, "a regular file has content"
    return content


def verify(folder: Path, entry: Entry, source: str) -> None:
    """Compare a folder's counts with those of the catalogue.

    Raises:
        DataError: they differ, or a split is missing or malformed; `source` is named as the place.
    """
    try:
        frames = {split: read_triples(split_file(folder, split)) for split in SPLITS}
    except DataError as error:
        inner = "" if error.where == folder else f"/{error.where.name}"
        raise DataError(f"{source}{inner}", error.message, error.remedy, error.line) from error
    every = pl.concat(frames.values())
    found = {split: len(frame) for split, frame in frames.items()}
    found |= {"entities": pl.concat([every["head"], every["tail"].alias("head")]).n_unique()}
    found |= {"relations": every["relation"].n_unique()}
    for what, count in found.items():
        known: int = getattr(entry, what)
        if count != known:
            kind = what if what in ("entities", "relations") else f"rows in {what}"
            message = f"{count:,} {kind} where {entry.name} has {known:,}"
            raise DataError(
                source, message, "get the published dataset, or put this one under $MMRNS_DATA by another name"
            )


def triples_digest(folder: Path) -> str:
    """SHA-256 of a dataset's triples whatever the order of the rows: of the lines split TAB head TAB relation TAB tail,
    sorted by their bytes, each with a line feed.
    """
    frames = [read_triples(split_file(folder, split)).select(pl.lit(split), pl.all()) for split in SPLITS]
    lines = pl.concat(frames).select(pl.concat_str(pl.all(), separator="\t").sort()).to_series()
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def _describe(folder: Path, entry: Entry, origin: str, digest: str | None) -> None:
    """Write `dataset.json`, or add to the one that came along, where the dataset is from."""
    path = folder / "dataset.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        # JSON may hold halves of characters, which cannot be written again.
        json.dumps(found, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise DataError(origin, f"its dataset.json is not JSON ({error})", "mend or remove it") from error
    known = {
        "name": entry.name,
        "title": entry.title,
        "licence": entry.licence,
        "source": entry.source,
        "defects": list(entry.defects),
    }
    obtained = {"from": origin, "sha256": digest, "triples": triples_digest(folder)}
    text = json.dumps({**known, **found, "obtained": obtained}, indent=1, ensure_ascii=False)
    write_text(path, text + "\n")
