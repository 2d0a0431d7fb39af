"""Files of RDF statements: which of them a source holds, their notation, and their statements as tables."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import polars as pl

from mmrns.data.terms import BASE, MARK, NAME
from mmrns.errors import DataError, UsageError
from mmrns.prepare.formats.contents import TEXT_SUFFIXES, TRIPLE

FORMATS = {".nt": "nt", ".ttl": "ttl", ".rdf": "rdf", ".owl": "rdf", ".xml": "rdf", ".nq": "nq", ".trig": "trig"}

_LINES = ("nt", "nq")
"""Notations of one statement a line."""

_BATCH = 1 << 16
_BLOCK_BYTES = 1 << 18
_SHOWN = 3
_HEAD_BYTES = 1 << 16
_LINE = re.compile(rb"(?:<[^<>\s]*>|_:\S+)[ \t]*<[^<>\s]*>[ \t]*(?:<[^<>\s]*>|_:\S+|\".*).*\.[ \t]*(?:#.*)?")
_RELATIVE = re.compile(rb"<(?![A-Za-z][A-Za-z0-9+.\-]*:)[^<>\"]*>")
_DIRECTIVE = re.compile(rb"(?:@(?:prefix|base)|(?:prefix|base)\b)[^<]*<", re.IGNORECASE)
_XML = re.compile(rb"\s*<(?:\?xml|!--|!DOCTYPE|rdf:RDF)", re.IGNORECASE)
_ANONYMOUS = r"^_:[a-f][0-9a-f]{15,31}$"
"""Labels such as the parser gives to blank nodes without one: the digits of a random number."""


@dataclass
class Statements:
    """The statements of one file.

    Attributes:
        path: the file.
        frame: columns head, relation, tail, literal (whether the tail is one), type and language.
        mark: what graph the file says that it is a part of, see `MARK`.
        malformed: line and reason of the first statements that were left out since they are malformed.
        n_malformed: how many they are.
        quoted: how many statements about statements were left out.
        anonymous: names of the blank nodes that the file gives no label.
    """

    path: Path
    frame: pl.DataFrame
    mark: str | None = None
    malformed: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    n_malformed: int = 0
    quoted: int = 0
    anonymous: list[str] = field(default_factory=list[str])


def suffix_format(path: Path) -> str | None:
    """The notation that a file's suffix says, without `.gz`."""
    suffix = Path(path.stem).suffix if path.suffix.lower() == ".gz" else path.suffix
    return FORMATS.get(suffix.lower())


def rdf_files(source: Path) -> list[Path]:
    """The RDF files of a folder, by their suffix or, of text files, by their content; or the one file."""
    if not source.is_dir():
        return [source]
    paths = sorted(path for path in source.iterdir() if path.is_file() or path.is_symlink())
    return [path for path in paths if suffix_format(path) or _is_text(path)]


def _is_text(path: Path) -> bool:
    """Whether a file that is called like a text holds statements."""
    if path.name.startswith(".") or not (path.name.lower().endswith(TEXT_SUFFIXES) or not path.suffix):
        return False
    try:
        return _seen_format(_head(path)) not in (None, "rdf")
    except DataError:
        return False


def looks_like_rdf(path: Path) -> bool:
    """Whether the first lines of a file are RDF, whatever it is called."""
    return _seen_format(_head(path)) is not None


def _notation(path: Path, head: bytes) -> str:
    """The notation of a file: as its suffix says, unless its first lines are plainly something else."""
    named, seen = suffix_format(path), _seen_format(head)
    if named is None and seen is None:
        raise DataError(path, "is no RDF that is recognised", f"check the file, or name it {', '.join(FORMATS)}")
    if named is None or (seen is not None and (named == "rdf") != (seen == "rdf")):
        return str(seen)
    return named


def _head(path: Path) -> bytes:
    with opened(path) as file:
        return file.read(_HEAD_BYTES)


def _seen_format(head: bytes) -> str | None:
    """What the first lines of a file are: of several notations that would do, the widest one."""
    if _XML.match(head):
        return "rdf"
    for line in (line.strip() for line in head.splitlines()):
        if _DIRECTIVE.match(line):
            return "trig"
        if _LINE.fullmatch(line):
            # Relative IRIs are for Turtle and its kin, where `<a> <b> <c> .` is a statement too.
            return "trig" if _RELATIVE.search(line.split(b'"')[0]) else "nq"
    return None


@contextmanager
def opened(path: Path) -> Generator[Any]:
    """A file to read bytes from, unpacked, after its byte order mark.

    Raises (also by what is done inside):
        DataError: it cannot be read.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.open(raw) if packed else nullcontext(raw) as file:
                if file.read(3) != b"\xef\xbb\xbf":
                    file.seek(0)
                yield file
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(path, f"cannot be read ({reason})", "check the file") from error


def read_statements(path: Path, advance: Callable[[int], None], *, skip_malformed: bool = False) -> Statements:
    """The statements of a file.

    Names are IRIs and `_:label`. Blank nodes without a label are called `_:b0`, `_:b1` and so on in the order in which
    they occur; labels that the file uses itself are passed over.

    Args:
        path: the file.
        advance: told how many statements are done, now and then.
        skip_malformed: leave malformed lines of N-Triples and N-Quads out.

    Raises:
        DataError: a malformed or truncated file, by line.
        UsageError: the extra `rdf` is not installed.
    """
    try:
        import pyoxigraph as ox
    except ImportError as error:
        raise UsageError("RDF needs the extra `rdf`: pip install 'mmrns[rdf]'") from error
    formats = {
        "nt": ox.RdfFormat.N_TRIPLES,
        "ttl": ox.RdfFormat.TURTLE,
        "rdf": ox.RdfFormat.RDF_XML,
        "nq": ox.RdfFormat.N_QUADS,
        "trig": ox.RdfFormat.TRIG,
    }
    head = _head(path)
    notation = _notation(path, head)
    chosen, by_line = formats[notation], notation in _LINES
    found = Statements(path, pl.DataFrame())
    if head.startswith(MARK):
        found.mark = head[len(MARK) :].splitlines()[0].decode("utf-8", "replace")
    schema = {**dict.fromkeys(TRIPLE, pl.String), "literal": pl.Boolean, "type": pl.String, "language": pl.String}
    frames: list[pl.DataFrame] = []
    columns: list[list[Any]] = [[] for _ in schema]
    add_head, add_relation, add_tail, add_literal, add_type, add_language = (column.append for column in columns)
    iri, literal, blank = ox.NamedNode, ox.Literal, ox.BlankNode

    def flush() -> None:
        frames.append(pl.DataFrame([list(column) for column in columns], schema=schema, orient="col"))
        advance(len(columns[0]))
        for column in columns:
            column.clear()

    with opened(path) as file:
        for quad in _by_line(file, chosen, found, skip_malformed) if by_line else _whole(file, chosen, path):
            subject, value = quad.subject, quad.object
            if isinstance(value, iri):
                tail, kind, language = value.value, None, None
            elif isinstance(value, literal):
                tail, kind, language = value.value, value.datatype.value, value.language
            elif isinstance(value, blank):
                tail, kind, language = f"_:{value.value}", None, None
            else:
                found.quoted += 1
                continue
            if isinstance(subject, iri):
                add_head(subject.value)
            elif isinstance(subject, blank):
                add_head(f"_:{subject.value}")
            else:
                found.quoted += 1
                continue
            add_relation(quad.predicate.value)
            add_tail(tail)
            add_literal(kind is not None)
            add_type(kind)
            add_language(language)
            if len(columns[0]) >= _BATCH:
                flush()
    flush()
    found.frame = pl.concat(frames)
    if not by_line:
        _number(found)
    return found


def _by_line(file: Any, chosen: Any, found: Statements, skip: bool) -> Iterator[Any]:
    """The statements of N-Triples or N-Quads, block by block; only a block with a malformed line is read by line."""
    import pyoxigraph as ox

    before = 0
    while block := file.read(_BLOCK_BYTES):
        block += file.readline()
        try:
            quads = list(ox.parse(block, chosen))
        except SyntaxError:
            quads: list[Any] = []
            for number, line in enumerate(block.splitlines(), before + 1):
                try:
                    quads += ox.parse(line, chosen)
                except SyntaxError as error:
                    if not skip:
                        remedy = "mend the statement, or leave such statements out with --skip-malformed"
                        raise DataError(found.path, f"is malformed ({_reason(error)})", remedy, number) from error
                    found.n_malformed += 1
                    if len(found.malformed) < _SHOWN:
                        found.malformed.append((number, _reason(error)))
        yield from quads
        before += block.count(b"\n")


def _whole(file: Any, chosen: Any, path: Path) -> Iterator[Any]:
    """The statements of a notation in which one statement may depend on those before it."""
    import pyoxigraph as ox

    try:
        yield from ox.parse(file, chosen, base_iri=BASE + quote(path.name))
    except SyntaxError as error:
        remedy = "mend the statement; only lines of N-Triples and N-Quads can be left out"
        raise DataError(path, f"is malformed ({_reason(error)})", remedy, error.lineno) from error
    except ValueError as error:
        raise DataError(path, f"is malformed ({str(error).splitlines()[0]})", "check the file") from error


def _reason(error: SyntaxError) -> str:
    return re.sub(r"^Parser error (at|between) .*?: ", "", str(error.msg).split("\n")[0])


def _number(found: Statements) -> None:
    """Name blank nodes without a label, in place: the parser gives them random ones, others each time."""
    frame = found.frame
    sides = [pl.col("head"), pl.when(~pl.col("literal")).then("tail")]
    places = [frame.select(side.alias("name"), place=2 * pl.int_range(pl.len()) + i) for i, side in enumerate(sides)]
    blank = [part.filter(pl.col("name").str.starts_with("_:")) for part in places]
    names = pl.concat(blank).sort("place")["name"].unique(maintain_order=True)
    random = names.filter(names.str.contains(_ANONYMOUS))
    if random.is_empty():
        return
    written = _labels(found.path)
    random = [name for name in random.to_list() if name.removeprefix("_:").encode() not in written]
    taken = set(names.to_list()).difference(random)
    free = (name for i in count() if (name := f"_:b{i}") not in taken)
    new = dict(zip(random, free, strict=False))
    found.frame, found.anonymous = renamed(frame, new), list(new.values())


def _labels(path: Path) -> set[bytes]:
    """The labels of a file that look like the parser's own."""
    found: set[bytes] = set()
    rest = b""
    with opened(path) as file:
        while block := file.read(_BLOCK_BYTES):
            found.update(re.findall(rb"(?:_:|nodeID\s*=\s*[\"'])([a-f][0-9a-f]{15,31})\b", rest + block))
            rest = (rest + block)[-_HEAD_BYTES:]
    return found


def renamed(frame: pl.DataFrame, names: Mapping[str, str]) -> pl.DataFrame:
    """The statements with other names for some resources."""
    if not names:
        return frame
    tail = pl.when("literal").then("tail").otherwise(pl.col("tail").replace(names))
    return frame.with_columns(pl.col("head", "relation").replace(names), tail.alias("tail"))


def decoded(frame: pl.DataFrame) -> pl.DataFrame:
    """The statements with relative IRIs and percent-encoded names as they were before they became IRIs."""
    names = pl.concat([frame["head"], frame["relation"], frame.filter(~pl.col("literal"))["tail"]]).unique()
    ours = names.filter(names.str.starts_with(NAME) | names.str.starts_with(BASE)).to_list()
    return renamed(frame, {iri: unquote(iri.removeprefix(NAME if iri.startswith(NAME) else BASE)) for iri in ours})


def keep_apart(files: Sequence[Statements], splits: Collection[Path]) -> list[str]:
    """Keep the blank nodes of several files apart, in place: `_:label` becomes `_:FILE.label`.

    A label means the same blank node throughout one file only. But files of one graph share their labels, which then
    stay as they are: those with the same `MARK`, and those named after the splits.

    Args:
        files: what was read.
        splits: those of the files that are named after splits.

    Returns:
        What the user should know.
    """
    if len(files) == 1:
        return []
    mark = next((file.mark for file in files if file.mark is not None), None)
    apart: list[pl.Series] = []
    joined: list[pl.Series] = []
    stems: dict[str, int] = {}
    for file in files:
        resources = pl.concat([file.frame["head"], file.frame.filter(~pl.col("literal"))["tail"]])
        labels = resources.filter(resources.str.starts_with("_:")).unique()
        marked = file.mark is not None and file.mark == mark
        shared = marked or (file.mark is None and file.path in splits)
        stem = re.sub(r"[^A-Za-z0-9_]", "_", _stem(file.path))
        stems[stem] = stems.get(stem, 0) + 1
        prefix = f"_:{stem}." if stems[stem] == 1 else f"_:{stem}-{stems[stem]}."
        own = labels.filter(labels.is_in(file.anonymous)) if shared else labels
        file.frame = renamed(file.frame, {label: prefix + label.removeprefix("_:") for label in own.to_list()})
        if not marked:
            (joined if shared else apart).append(labels.filter(~labels.is_in(file.anonymous)))
    notes: list[str] = []
    same = _several(joined)
    if len(same):
        notes.append(
            f"{len(same):,} labels of blank nodes are in several splits and taken for the same nodes, first: {same[0]}"
        )
    several = _several([*apart, *([pl.concat(joined).unique()] if joined else [])])
    if len(several):
        notes.append(
            f"{len(several):,} labels of blank nodes are in several files and taken for different nodes, named after "
            f"their files, first: {several[0]}"
        )
    return notes


def _several(parts: Sequence[pl.Series]) -> pl.Series:
    """What is in more than one of the parts, sorted."""
    if not parts:
        return pl.Series(dtype=pl.String)
    every = pl.concat([part.alias("name") for part in parts])
    return every.filter(every.is_duplicated()).unique().sort()


def _stem(path: Path) -> str:
    """The name of a file without the suffixes that say its notation."""
    name = path.name.removesuffix(".gz")
    return name.removesuffix(Path(name).suffix)
