"""The registry of layouts: names, aliases, classes from outside, and what `convert` asks of them."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

import mmrns.cli.convert  # noqa: F401
from mmrns.cli.data import data_app
from mmrns.data.datasets import load_dataset
from mmrns.errors import DataError, UsageError
from mmrns.prepare.formats import LAYOUTS, Contents, Layout, convert, sniff
from mmrns.prepare.formats.base import find_layout, find_target, writes

OURS = ["by-id", "csv", "ids", "libkge", "mmrns", "ntriples", "openke", "parquet", "pykeen", "rdf", "tsv", "wordnet"]
TRIPLES = [("a", "likes", "b c"), ("b c", "hates", "a")]


class Arrows(Layout):
    """`a -likes-> b`, one a line."""

    title = "arrows"

    def recognises(self, path: Path) -> bool:
        return path.suffix == ".arrows"

    def read(self, source: Path) -> Contents:
        found = re.findall("(.*) -(.*)-> (.*)", source.read_text())
        return Contents(source, {"train": pl.DataFrame(found, schema=["head", "relation", "tail"], orient="row")})


@pytest.fixture
def arrows() -> Iterator[type[Layout]]:
    LAYOUTS.add("arrows", Arrows)
    yield Arrows
    del LAYOUTS._classes["arrows"]


def source(folder: Path) -> Path:
    path = folder / "g.arrows"
    path.write_text("".join(f"{h} -{r}-> {t}\n" for h, r, t in TRIPLES))
    return path


def test_every_layout_says_what_it_is() -> None:
    assert sorted(LAYOUTS.names()) == OURS
    help_text = CliRunner(env={"COLUMNS": "300"}).invoke(data_app, ["convert", "--help"]).stdout
    for name in LAYOUTS.names():
        layout = LAYOUTS.get(name)
        assert layout.title
        assert "\n" not in layout.title
        assert name in help_text
    assert [name for name in OURS if writes(LAYOUTS.get(name))] == ["ntriples", "openke", "parquet", "pykeen", "tsv"]


@pytest.mark.parametrize(
    ("name", "reads", "target"),
    [
        ("folder", "tsv", "tsv"),
        ("TSV", "tsv", "tsv"),
        ("dict", "ids", None),
        ("ttl", "rdf", None),
        ("ntriples", "ntriples", "ntriples"),
        ("OpenKE", "openke", "openke"),
    ],
)
def test_aliases(name: str, reads: str, target: str | None) -> None:
    assert LAYOUTS.name_of(find_layout(name)) == reads
    if target is not None:
        assert LAYOUTS.name_of(find_target(name)) == target
        return
    with pytest.raises(UsageError, match=r"unknown layout to write .* known: .*openke") as caught:
        find_target(name)
    assert "csv" not in str(caught.value)


def test_nt_is_read_as_rdf_and_written_as_ntriples() -> None:
    assert issubclass(find_layout("nt"), LAYOUTS.get("rdf"))
    assert LAYOUTS.name_of(find_target("nt")) == "ntriples"


def test_a_layout_from_outside_is_recognised_first(tmp_path: Path, arrows: type[Layout]) -> None:
    assert sniff(source(tmp_path)) is arrows
    done = convert(source(tmp_path), tmp_path / "out")
    assert (done.layout, done.target, done.triples) == ("arrows", "tsv", {"train": 2})
    assert (tmp_path / "out/train.tsv").read_text() == "a\tlikes\tb c\nb c\thates\ta\n"


def test_a_class_stands_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = source(tmp_path)
    path = path.rename(path.with_suffix(".txt"))
    assert convert(path, tmp_path / "one", layout=Arrows).triples == {"train": 2}
    module = types.ModuleType("own_layouts")
    monkeypatch.setattr(Arrows, "__module__", "own_layouts")
    module.Arrows = Arrows  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_layouts", module)
    done = CliRunner().invoke(data_app, ["convert", str(path), str(tmp_path / "two"), "--from", "own_layouts:Arrows"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "two/train.tsv").read_bytes() == (tmp_path / "one/train.tsv").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": Arrows, "delimiter": ","}, "--delimiter and --header are for tables, not for .*Arrows"),
        ({"layout": Arrows, "columns": ["1", "2", "3"]}, "--columns is for tables and ids, not for"),
        ({"layout": Arrows, "target": Arrows}, "Arrows cannot be written: its class defines no `write`"),
        ({"layout": "absent.module:X"}, "no layout at 'absent.module:X'"),
        ({"layout": "pathlib:Path"}, "pathlib:Path is no layout: subclass the base class of mmrns.prepare.formats"),
        ({"target": "rdf"}, "unknown layout to write 'rdf'"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        convert(source(tmp_path), tmp_path / "out", **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("splits", "error", "message"),
    [
        ({"dev": pl.DataFrame({"head": ["a"], "relation": ["r"], "tail": ["b"]})}, UsageError, "read 'dev' with the"),
        ({"train": pl.DataFrame({"h": ["a"], "relation": ["r"], "tail": ["b"]})}, UsageError, "columns h, relation, t"),
        ({"train": pl.DataFrame({"head": ["a", ""], "relation": "r", "tail": "b"})}, DataError, ":2: empty field"),
        ({"train": pl.DataFrame({"head": ["a", None], "relation": "r", "tail": "b"})}, DataError, ":2: empty field"),
        ({}, DataError, "holds no training triple"),
    ],
)
def test_what_a_layout_reads_is_checked(
    tmp_path: Path, splits: dict[str, pl.DataFrame], error: type[Exception], message: str
) -> None:
    class Broken(Layout):
        title = "broken"

        def read(self, source: Path) -> Contents:
            return Contents(source, splits)

    with pytest.raises(error, match=message) as caught:
        convert(source(tmp_path), tmp_path / "out", layout=Broken)
    assert "\n" not in str(caught.value)


def test_numbers_as_names_and_line_breaks_are_fitted(tmp_path: Path) -> None:
    class Ids(Layout):
        title = "ids"

        def read(self, source: Path) -> Contents:
            return Contents(source, {"train": pl.DataFrame({"tail": [1, 2], "head": ["a\nb", "c"], "relation": "r"})})

        def write(self, contents: Contents, folder: Path) -> None:
            contents.splits["train"].select("head", "relation", "tail").write_csv(folder / "own.csv")

    done = convert(source(tmp_path), tmp_path / "out", layout=Ids)
    assert (tmp_path / "out/train.tsv").read_text() == "a b\tr\t1\nc\tr\t2\n"
    assert done.notes == ["g.arrows: tabs, line breaks and NULs within the names of 1 triples became blanks"]
    convert("countries", tmp_path / "own", target=Ids)
    assert len(pl.read_csv(tmp_path / "own/own.csv")) == len(load_dataset("countries").graph.train)
