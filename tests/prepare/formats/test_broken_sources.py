"""What is broken is refused with one line that names it, and nothing is left under the target's name or beside it."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mmrns.errors import DataError
from mmrns.prepare.formats import Source, convert

OPENKE = {
    "entity2id.txt": b"3\na\t0\nb\t1\nc\t2\n",
    "relation2id.txt": b"1\nr\t0\n",
    "train2id.txt": b"2\n0 1 0\n1 2 0\n",
}
NT = b"<http://x/a> <http://x/r> <http://x/b> .\n"
HUGE = 100_000_000


class Harmful:
    """Would make a folder if it were unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("harmed",)


def torch_bytes(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def npy_bytes(value: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, value, allow_pickle=True)
    return file.getvalue()


def openke(**changed: bytes) -> dict[str, bytes]:
    return OPENKE | {f"{name}2id.txt": content for name, content in changed.items()}


def table(**files: bytes) -> dict[str, bytes]:
    return {"train.tsv": b"a\tr\tb\n"} | {name.replace("__", "."): content for name, content in files.items()}


CASES: dict[str, tuple[dict[str, bytes], str]] = {
    "nothing": ({}, r"in: holds no triples that are recognised"),
    "empty table": ({"train.tsv": b""}, r"train.tsv: is empty"),
    "empty split": (table(valid__tsv=b""), r"valid.tsv: is empty"),
    "empty csv": ({"train.csv": b"\n\n"}, r"train.csv:1: blank line"),
    "header only": ({"train.csv": b"head,relation,tail\n"}, r"in: holds no training triple"),
    "two columns": ({"train.tsv": b"a\tr\tb\na\tr\n"}, r"train.tsv:2: 2 columns"),
    "two columns in csv": ({"train.csv": b"a,r,b\na,r\n"}, r"train.csv:2: 2 columns where 3"),
    "four columns in csv": ({"train.csv": b"a,r,b\na,r,b,c\n"}, r"train.csv:2: 4 columns where 3"),
    "blank line": ({"train.tsv": b"a\tr\tb\n\na\tr\tb\n"}, r"train.tsv:2: blank line"),
    "blank line in csv": ({"train.csv": b"a,r,b\n\na,r,b\n"}, r"train.csv:2: blank line"),
    "empty field": ({"train.csv": b"a,r,b\n,r,b\n"}, r"train.csv:2: empty field"),
    "open quote": ({"train.csv": b'a,r,b\n"a,r,b\na,r,b\n'}, r"train.csv:2: is malformed \(unexpected end of data\)"),
    "latin-1": ({"train.tsv": b"a\tr\tb\n\xe9\tr\tb\n"}, r"train.tsv:2: is not valid UTF-8"),
    "latin-1 in csv": ({"train.csv": b"a,r,b\n\xe9,r,b\n"}, r"train.csv:2: is not valid UTF-8"),
    "utf-16": ({"train.tsv": "a\tr\tb\n".encode("utf-16")}, r"train.tsv:1: is not valid UTF-8"),
    "truncated gzip": ({"train.tsv.gz": gzip.compress(os.urandom(9000).hex().encode())[:5000]}, r"train.tsv.gz:?\d?: "),
    "no gzip": ({"train.tsv.gz": b"a\tr\tb\n"}, r"train.tsv.gz: cannot be read \(Not a gzipped file"),
    "a line of 100 MB": ({"train.tsv": b"x" * HUGE}, r"train.tsv:1: the first line has more than 65,536 bytes"),
    "a later line of 100 MB": (
        {"train.tsv": b"a\tr\tb\na\tr\t" + b"x" * HUGE},
        r"train.tsv:2: a name of more than 65,536",
    ),
    "a text where a table should be": ({"train.csv": b"Dear all,\nhere it is.\n"}, r"train.csv:2: 1 column"),
    "no parquet": ({"train.parquet": b"PAR1 not really"}, r"train.parquet: is not a readable Parquet file"),
    "two trains": ({"train.tsv": b"a\tr\tb\n", "train.csv": b"a,r,b\n"}, r"in: train.tsv and train.csv both hold"),
    "entity listed twice": (
        table(entities__csv=b"entity,name\na,A\na,B\n"),
        r"entities.csv:3: entity 'a' is listed twice",
    ),
    "picture outside": (
        table(entities__csv=b"entity,image\nb,x.png\na,../../etc/passwd\n"),
        r"entities.csv:3: picture",
    ),
    "picture at an absolute path": (
        table(entities__tsv=b"entity\timage\na\t/etc/passwd\n"),
        r"entities.tsv:2: picture",
    ),
    "openke, wrong count": (openke(train=b"3\n0 1 0\n1 2 0\n"), r"train2id.txt:1: counts 3 but 2 lines follow"),
    "openke, no count": (openke(train=b"0 1 0\n1 2 0\n"), r"train2id.txt:1: the first line is no count"),
    "openke, wrong count of names": (openke(entity=b"4\na\t0\nb\t1\nc\t2\n"), r"entity2id.txt:1: counts 4 but 3"),
    "openke, columns swapped": (
        openke(train=b"2\n0 0 1\n1 0 2\n"),
        r"train2id.txt:2: relation '1' is no relation id .*--columns",
    ),
    "openke, names in triples": (openke(train=b"1\na b r\n"), r"train2id.txt:2: head 'a' is no entity id"),
    "openke, negative id": (openke(train=b"1\n-1 2 0\n"), r"train2id.txt:2: head '-1' is no entity id"),
    "openke, id twice": (openke(entity=b"3\na\t0\nb\t1\nc\t1\n"), r"entity2id.txt:4: id 1 is listed twice"),
    "openke, name twice": (openke(entity=b"3\na\t0\nb\t1\na\t2\n"), r"entity2id.txt:4: name 'a' is listed twice"),
    "openke, gap": (openke(entity=b"3\na\t0\nb\t1\nc\t3\n"), r"entity2id.txt: ids are not 0 to 2: 2 has no name"),
    "openke, no ids": (openke(entity=b"3\na\nb\nc\n"), r"entity2id.txt:2: no name and id"),
    "openke, two columns": (openke(train=b"1\n0 1\n"), r"train2id.txt:2: no three columns"),
    "openke, no names": ({k: v for k, v in OPENKE.items() if "relation" not in k}, r"relation2id.txt: cannot be read"),
    "ids, unknown name": (
        {"entities.dict": b"0\ta\n1\tb\n", "train.txt": b"a\tr\tb\na\tr\tzoe\n"},
        r"train.txt:2: entity 'zoe'",
    ),
    "ids, out of range": (
        {"entities.txt": b"a\nb\n", "relations.txt": b"r\n", "train.txt": b"0\t0\t1\n0\t0\t2\n"},
        r"train.txt:2: tail '2' is no entity id \(0 to 1\)",
    ),
    "n-triples, no full stop": ({"g.nt": NT + NT[:-3] + b"\n" + NT}, r"g.nt:[23]: is malformed"),
    "n-triples, latin-1": ({"g.nt": NT + NT.replace(b"x/a", b"x/\xe9")}, r"g.nt(:2)?: is malformed"),
    "n-triples, truncated gzip": ({"g.nt.gz": gzip.compress(NT * 999)[:-9]}, r"g.nt.gz: cannot be read"),
    "n-triples of literals": (
        {"g.nt": b'<http://x/a> <http://x/r> "b" .\n'},
        r"in: no statement between two resources",
    ),
    "n-triples, empty": ({"g.nt": b""}, r"in: no statement between two resources"),
    "turtle, unknown prefix": (
        {"g.ttl": b"ex:a ex:b ex:c .\n"},
        r"g.ttl:1: is malformed \(The prefix ex: has not been",
    ),
    "rdf/xml, cut off": (
        {"g.rdf": b'<?xml version="1.0"?><rdf:RDF xmlns:rdf="http://a#"><rdf:Desc'},
        r"g.rdf.*: is malformed",
    ),
    "rdf, picture outside": (
        {"g.ttl": b'<a> <r> <b> . <a> <http://xmlns.com/foaf/0.1/depiction> "../../x.png" .'},
        r"in: picture '../../x.png' of 'a' lies outside",
    ),
    "pth that runs code": (
        OPENKE | {"visual.pth": torch_bytes(Harmful())},
        r"visual.pth: needs \w+.mkdir, and loading that",
    ),
    "pth with an object": (
        OPENKE | {"visual.pth": torch_bytes(torch.nn.Linear(1, 1))},
        r"visual.pth: needs torch.nn.modules.linear.Linear",
    ),
    "pth with an array": (OPENKE | {"visual.pth": torch_bytes(np.zeros(3))}, r"visual.pth: needs numpy"),
    "pth cut off": (
        OPENKE | {"visual.pth": torch_bytes(torch.zeros(99))[:700]},
        r"visual.pth: is no readable torch file",
    ),
    "pth of text": (OPENKE | {"visual.pth": b"hello"}, r"visual.pth: (is no readable|needs more)"),
    "pth of nothing": (OPENKE | {"visual.pth": b""}, r"visual.pth: is empty"),
    "pth with a list": (OPENKE | {"visual.pth": torch_bytes([1, 2])}, r"visual.pth: holds a list, not a table"),
    "npy of objects": (
        OPENKE | {"image.npy": npy_bytes(np.array([{}], dtype=object))},
        r"image.npy: .*objects, not numbers",
    ),
    "npy cut off": (OPENKE | {"image.npy": npy_bytes(np.ones((3, 99)))[:500]}, r"image.npy: is no readable .npy file"),
    "npz of nothing": (OPENKE | {"image.npz": b"PK"}, r"image.npz: is no readable .npz file"),
    "h5 of nothing": (OPENKE | {"image.h5": b"\x89HDF\r\n\x1a\nxxxx"}, r"image.h5: is no readable HDF5 file"),
    "json cut off": (OPENKE | {"image.json": b'{"a": [1,'}, r"image.json:1: is not valid JSON"),
    "json of something else": (OPENKE | {"image.json": b'{"a": 1}'}, r"image.json: holds no list of tokens"),
    "deep json": (OPENKE | {"image.json": b"[" * 99_999}, r"image.json: is not valid JSON"),
    "rows for others": (
        OPENKE | {"image.npy": npy_bytes(np.ones((4, 2)))},
        r"image.npy: 4 rows, but there are 3 entity ids",
    ),
    "NaN features": (OPENKE | {"image.npy": npy_bytes(np.full((3, 2), np.nan))}, r"image.npy: row 0 \(a\) holds NaN"),
    "names of others": (
        OPENKE | {"image.pth": torch_bytes({"x": torch.ones(1, 2)} | {str(i + 9): torch.ones(1, 2) for i in range(4)})},
        r"none of its 5 names is an entity",
    ),
}


def refused(source: Path, pattern: str, **options: object) -> None:
    before = sorted(source.parent.rglob("*"))
    with pytest.raises(DataError, match=pattern) as caught:
        convert(source, source.parent / "out", **options)  # pyright: ignore[reportArgumentType]
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert sorted(source.parent.rglob("*")) == before


@pytest.mark.parametrize("case", CASES)
def test_broken_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.chdir(tmp_path)
    files, pattern = CASES[case]
    (tmp_path / "in").mkdir()
    for name, content in files.items():
        (tmp_path / "in" / name).write_bytes(content)
    given = {"features": {"image": Source(tmp_path / "in" / "image.json")}} if "image.json" in files else {}
    refused(tmp_path / "in", pattern, **given)


def test_files_of_options_that_are_not_there(toy_folder: Path) -> None:
    absent = toy_folder / "absent"
    refused(toy_folder, r"absent: is no file; check the path of --features", features={"image": Source(absent)})
    refused(toy_folder, r"absent: cannot be read \(No such file", links=absent)
    refused(toy_folder, r"absent: cannot be read \(No such file", ids=absent)


def test_links_in_a_circle(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "train.tsv").symlink_to("train.tsv")
    refused(source, r"train.tsv: cannot be read \(Too many levels of symbolic links\)")
    (source / "train.tsv").unlink()
    (source / "train.tsv").write_text("a\tr\tb\n")
    (source / "images").mkdir()
    (source / "images" / "loop").symlink_to("..")
    refused(source, r"images/loop: is a link to a folder")
    (source / "images" / "loop").unlink()
    (source / "images" / "a.png").symlink_to("a.png")
    refused(source, r"images/a.png: is a link that leads nowhere or in a circle")
    (source / "images" / "a.png").unlink()
    (source / "images" / "a.png").symlink_to(tmp_path.parent)
    refused(source, r"images/a.png: is a link")
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    refused(loop, r"loop: is a link that leads nowhere or in a circle")


def test_a_full_disk_leaves_nothing(toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    refused(toy_folder, r"cannot be (written|copied) \(No space left on device\)")


def test_an_interrupt_leaves_nothing(toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmrns.prepare.formats.conversion._carry", stop)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        convert(toy_folder, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_a_target_that_cannot_be_made(toy_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/out: cannot be made \(.*\); choose another place"):
        convert(toy_folder, tmp_path / "file" / "out")
