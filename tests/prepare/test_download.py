"""Getting datasets from a server on this machine that counts, breaks off and refuses; and the catalogue."""

from __future__ import annotations

import hashlib
import io
import json
import re
import resource
import stat
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from mmrns.data.datasets import load_dataset
from mmrns.data.folders import EMBEDDED, SPLITS, cache_folder, dataset_folders, find_dataset
from mmrns.errors import DataError, Note, UsageError
from mmrns.prepare.catalogue import Entry, catalogue, entry
from mmrns.prepare.check import check_dataset
from mmrns.prepare.download import _most_bytes, download, get_dataset, triples_digest
from tiny_wordnet import Synset, write_wordnet
from toy import write_toy


class Server(BaseHTTPRequestHandler):
    """Serves `files`; gives up after `limit` bytes of a body; answers ranges unless told not to."""

    files: ClassVar[dict[str, bytes]] = {}
    requests: ClassVar[list[tuple[str, str | None]]] = []
    limit: ClassVar[int | None] = None
    ranges: ClassVar[bool] = True
    version: ClassVar[str] = '"1"'

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.requests.append((self.path, wanted))
        if self.path.startswith("/moved.zip"):
            self.send_response(302)
            self.send_header("Location", "/toy.zip")
            self.end_headers()
            return
        body = self.files.get(self.path.partition("?")[0])
        if body is None:
            self.send_error(404, "Not Found")
            return
        start = 0
        if wanted and self.ranges and self.headers["If-Range"] == self.version:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # pyright: ignore[reportOptionalSubscript]
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("ETag", self.version)
        self.end_headers()
        self.wfile.write(body[start : self.limit and start + self.limit])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in {"files": {}, "requests": [], "limit": None, "ranges": True, "version": '"1"'}.items():
        monkeypatch.setattr(Server, name, value)
    http = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MMRNS_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name, **_: tmp_path / "cache" / name)
    assert cache_folder() == tmp_path / "cache" / "mmrns" / "datasets"
    return cache_folder()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "toy")


@pytest.fixture
def known(folder: Path) -> Entry:
    """The toy, as if it were in the catalogue."""
    rows = {split: len((folder / f"{split}.tsv").read_text().splitlines()) for split in SPLITS}
    return Entry("Toy", "A toy", "CC0", "nowhere", 40, 5, **rows, modalities=(), defects=("small",), obtain="Ask.")


def zipped(folder: Path, root: str = "") -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, root + str(path.relative_to(folder)))
    return content.getvalue()


def tarred(folder: Path, root: str = "") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.add(folder, root or ".")
    return content.getvalue()


def test_downloads_unpacks_counts_and_is_found_by_name(server: str, folder: Path, known: Entry, cache: Path) -> None:
    content = zipped(folder, "Toy-1.0/data/")
    Server.files["/toy.zip"] = content
    seen: list[tuple[int, int | None]] = []
    digest = hashlib.sha256(content).hexdigest()
    linked = replace(known, url=f"{server}/moved.zip?x=1", sha256=digest)
    found = get_dataset(linked, progress=lambda done, total: seen.append((done, total)))
    assert found == cache / "Toy" == find_dataset("Toy")
    assert seen[0] == (0, len(content))
    assert seen[-1] == (len(content), len(content))
    assert load_dataset("Toy").checksums() == load_dataset(folder).checksums()
    record = json.loads((found / "dataset.json").read_text())
    assert record["licence"] == "CC0"
    triples = triples_digest(folder)
    assert record["obtained"] == {"from": f"{server}/moved.zip?x=1", "sha256": digest, "triples": triples}
    assert not any((cache.parent / "downloads").iterdir())
    get_dataset(linked)
    assert len(Server.requests) == 2, "what is there is not downloaded again"


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("changed", [False, True])
def test_a_broken_download_is_continued(server: str, tmp_path: Path, ranges: bool, changed: bool) -> None:
    content = bytes(range(256)) * 4000
    Server.files["/x.bin"] = content
    Server.limit = 300_000
    target = tmp_path / "x.bin"
    with pytest.raises(DataError, match=r"x\.bin: broke off after 300,000.*try again: it continues where it stopped"):
        download(f"{server}/x.bin", target)
    assert not target.exists()
    Server.limit, Server.ranges = None, ranges
    if changed:
        content = content[::-1]
        Server.files["/x.bin"], Server.version = content, '"2"'
    seen: list[int] = []
    digest = download(f"{server}/x.bin", target, progress=lambda done, total: seen.append(done))
    assert target.read_bytes() == content
    assert digest == hashlib.sha256(content).hexdigest()
    assert Server.requests[-1] == ("/x.bin", "bytes=300000-")
    assert seen[0] == (300_000 if ranges and not changed else 0)
    assert list(tmp_path.glob("x.bin*")) == [target]


def test_a_weak_or_missing_version_starts_again(server: str, tmp_path: Path) -> None:
    Server.files["/x.bin"], Server.limit, Server.version = b"x" * 500_000, 300_000, 'W/"1"'
    for _ in range(2):
        with pytest.raises(DataError, match="broke off after 300,000"):
            download(f"{server}/x.bin", tmp_path / "x.bin")
    assert Server.requests == [("/x.bin", None)] * 2


def test_a_part_that_is_complete_already(server: str, tmp_path: Path) -> None:
    Server.files["/x.bin"] = b"abc"
    (tmp_path / "x.bin.part").write_bytes(b"abc")
    (tmp_path / "x.bin.part.json").write_text(json.dumps({"url": f"{server}/x.bin", "version": '"1"'}))
    download(f"{server}/x.bin", tmp_path / "x.bin")
    assert (tmp_path / "x.bin").read_bytes() == b"abc"


def test_another_checksum_keeps_nothing(server: str, known: Entry, folder: Path, cache: Path) -> None:
    Server.files["/toy.zip"] = zipped(folder)
    with pytest.raises(DataError, match=r"toy\.zip: has SHA-256 [0-9a-f]{64}, not 00; try again"):
        get_dataset(replace(known, url=f"{server}/toy.zip", sha256="00"))
    assert not (cache / "Toy").exists()
    assert not any((cache.parent / "downloads").iterdir())


def test_refused_and_unreachable(server: str, known: Entry, cache: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.zip: the server answers 404 Not Found; look for it at its source"):
        get_dataset(replace(known, url=f"{server}/gone.zip"))
    with pytest.raises(DataError, match=r"cannot be reached \(.*\); check the network and try again, or fetch it else"):
        get_dataset(replace(known, url="http://127.0.0.1:9/toy.zip"))
    assert dataset_folders() == EMBEDDED


def test_without_a_link_it_says_what_to_do(known: Entry, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Toy has no direct link\. Ask\."):
        get_dataset(known)
    with pytest.raises(UsageError, match=r"--from .*nowhere\.zip: there is no such file or folder"):
        get_dataset(known, str(tmp_path / "nowhere.zip"))


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("root", ["", "a/b/"])
def test_from_an_archive_by_hand(known: Entry, folder: Path, tmp_path: Path, pack: type, root: str) -> None:
    archive = tmp_path / "toy.bin"
    archive.write_bytes(pack(folder, root))
    get_dataset(known, str(archive))
    assert load_dataset("Toy").checksums() == load_dataset(folder).checksums()
    assert archive.exists()


def test_from_a_folder_by_hand(known: Entry, folder: Path) -> None:
    (folder / "notes.txt").write_text("private")
    (folder / "README.md").write_text("a toy")
    found = get_dataset(known, str(folder))
    assert load_dataset("Toy").checksums() == load_dataset(folder).checksums()
    assert (found / "README.md").exists()
    assert not (found / "notes.txt").exists()
    assert check_dataset(found)["errors"] == 0


@pytest.fixture
def words(tmp_path: Path) -> Entry:
    """A small WordNet in the folder `dict`, as if the archive of its database were in the catalogue."""
    synsets = {f"v{i:08d}": Synset([f"do_{i}"], f"do {i}", [("@", f"v{i // 3:08d}", "0000")]) for i in range(1, 9)}
    synsets["v00000000"] = Synset(["do"], "do")
    for i in range(40):
        more = [("@", f"n{i // 3:08d}", "0000"), ("+", f"v{i % 9:08d}", "0101"), ("+", f"v{i % 7:08d}", "0101")]
        holonyms = [("#p", f"n{i * i % 40:08d}", "0000"), ("!", f"n{(i + 20) % 40:08d}", "0101")]
        synsets[f"n{i:08d}"] = Synset([f"thing_{i}"], f'the thing {i}; "there is a thing"', [*more, *holonyms])
    write_wordnet(tmp_path / "package" / "dict", synsets)
    known = Entry("words", "Words", "WordNet", "nowhere", 49, 4, 156, 10, 10, ("text",), (), layout="wordnet")
    return replace(known, files=("data.noun", "data.verb", "data.adj", "data.adv"))


def test_a_database_is_converted_and_split_without_leakage(
    server: str, words: Entry, tmp_path: Path, cache: Path
) -> None:
    (tmp_path / "package" / "LICENSE").write_text("of the package")
    content = tarred(tmp_path / "package", "package")
    Server.files["/words.tgz"] = content
    digest = hashlib.sha256(content).hexdigest()
    found = get_dataset(replace(words, url=f"{server}/words.tgz", sha256=digest))
    assert found == cache / "words"
    assert {path.name for path in found.iterdir()} == {
        *(f"{split}.tsv" for split in SPLITS),
        *("entities.tsv", "dataset.json", "LICENSE"),
    }
    assert (found / "LICENSE").read_text().startswith("This software and database is provided under a licence.")
    pairs = {
        split: {frozenset(line.split("\t")[::2]) for line in (found / f"{split}.tsv").read_text().splitlines()}
        for split in SPLITS
    }
    assert not pairs["train"] & (pairs["valid"] | pairs["test"])
    assert not pairs["valid"] & pairs["test"]
    assert check_dataset(found)["errors"] == 0
    record = json.loads((found / "dataset.json").read_text())
    assert (record["name"], record["split"]["method"], record["split"]["seed"]) == ("words", "leakage-free", 0)
    assert record["obtained"]["triples"] == triples_digest(found)
    again = get_dataset(replace(words, name="again"), str(tmp_path / "package" / "dict"))
    assert triples_digest(again) == triples_digest(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("", "words.tgz: has SHA-256"),
        ("lacks", "words.tgz: holds no data.noun"),
        ("fewer", "words.tgz: 155 rows in train where words has 156"),
        ("cut", "words.tgz/data.noun:43: is no line of a synset; fetch the file again"),
    ],
)
def test_a_database_that_is_not_the_known_one_leaves_nothing(
    server: str, words: Entry, tmp_path: Path, cache: Path, change: str, message: str
) -> None:
    nouns = tmp_path / "package" / "dict" / "data.noun"
    if change == "lacks":
        nouns.unlink()
    elif change == "fewer":
        nouns.write_text(nouns.read_text().replace("005 @ 00000013 n 0000", "004", 1))
    elif change == "cut":
        nouns.write_text(nouns.read_text()[:-60])
    Server.files["/words.tgz"] = content = tarred(tmp_path / "package", "package")
    digest = hashlib.sha256(content if change else b"").hexdigest()
    with pytest.raises(DataError) as caught:
        get_dataset(replace(words, url=f"{server}/words.tgz", sha256=digest))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not any(cache.iterdir())


def test_an_archive_cannot_write_elsewhere(known: Entry, folder: Path, tmp_path: Path, cache: Path) -> None:
    archive = tmp_path / "evil.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(folder, "toy")
        for name in ("toy/../../evil.tsv", "/evil.tsv", "toy/features/../../../evil.tsv", "toy/images/../../../x"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
        link = tarfile.TarInfo("toy/images/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    found = get_dataset(known, str(archive))
    assert not (found / "images").exists()
    assert {p.name for p in cache.iterdir()} == {"Toy"}
    assert not list(tmp_path.rglob("evil.tsv"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>not found</html>", "is neither a .zip nor a .tar archive, or is damaged; fetch it again"),
        (b"", "is neither a .zip nor a .tar archive"),
        ("cut", "cannot be unpacked"),
        ("flipped", "cannot be unpacked"),
        ("two", "2 folders in it hold a train.tsv or train.txt; give one of them with --from"),
        ("none", "holds no train.tsv; `mmrns data convert` reads other layouts"),
        ("fewer", "39 rows in valid where Toy has 25; get the published dataset"),
        ("malformed", "toy.bin/valid.tsv:26: 1 column where head TAB relation TAB tail is expected"),
        ("split", "toy.bin: split 'valid' is missing"),
    ],
)
def test_unfit_archives_leave_nothing(
    known: Entry, folder: Path, tmp_path: Path, cache: Path, content: bytes | str, message: str
) -> None:
    if content == "cut":
        content = tarred(folder)
        content = content[: len(content) // 2]
    elif content == "flipped":
        whole = zipped(folder)
        content = whole[:200] + bytes(255 - b for b in whole[200:210]) + whole[210:]
    elif content == "two":
        write_toy(folder / "other")
        content = zipped(folder)
    elif content == "none":
        content = zipped(folder / "features")
    elif content == "fewer":
        with (folder / "valid.tsv").open("a") as file:
            file.write("e00\tlikes\te01\n" * 14)
        content = zipped(folder)
    elif content == "malformed":
        with (folder / "valid.tsv").open("a") as file:
            file.write("e00\n")
        content = tarred(folder)
    elif content == "split":
        (folder / "valid.tsv").unlink()
        content = tarred(folder)
    assert isinstance(content, bytes)
    (tmp_path / "toy.bin").write_bytes(content)
    with pytest.raises(DataError) as caught:
        get_dataset(known, str(tmp_path / "toy.bin"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not cache.exists() or not any(cache.iterdir())


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_that_unpacks_to_too_much_is_refused(
    known: Entry, folder: Path, tmp_path: Path, cache: Path, pack: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "bomb.bin"
    archive.write_bytes(pack(folder))
    assert _most_bytes(archive) == 2**30
    monkeypatch.setattr("mmrns.prepare.download._most_bytes", lambda source: 5_000)
    with pytest.raises(DataError, match=r"bomb\.bin: unpacks to more than 5,000 bytes"):
        get_dataset(known, str(archive))
    assert not any(cache.iterdir())
    monkeypatch.undo()
    with archive.open("ab") as file:
        file.truncate(2**25)
    assert _most_bytes(archive) == 100 * 2**25


def test_links_and_pipes_are_no_files_of_the_dataset(known: Entry, folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "toy.zip"
    archive.write_bytes(zipped(folder))
    with zipfile.ZipFile(archive, "a") as file:
        for name, kind in (("images/link.png", stat.S_IFLNK), ("images/pipe.png", stat.S_IFIFO)):
            info = zipfile.ZipInfo(name)
            info.external_attr = (kind | 0o777) << 16
            file.writestr(info, "/etc/passwd")
    assert not (get_dataset(known, str(archive)) / "images").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_an_archive_holds_twice_is_refused(known: Entry, folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "toy.zip"
    archive.write_bytes(zipped(folder))
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("./train.tsv", "a\tb\tc\n")
    with pytest.raises(DataError, match=r"toy\.zip: holds './train\.tsv' twice"):
        get_dataset(known, str(archive))


@pytest.mark.parametrize("note", ["[]", "{", '{"url": 3}', "null"])
def test_a_note_that_is_none_starts_again(server: str, tmp_path: Path, note: str) -> None:
    Server.files["/x"] = b"content"
    (tmp_path / "x.part").write_bytes(b"other")
    (tmp_path / "x.part.json").write_text(note)
    download(f"{server}/x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"content"


def test_a_disk_that_is_full_keeps_what_there_is_and_says_so(
    server: str, folder: Path, known: Entry, tmp_path: Path, cache: Path
) -> None:
    content = zipped(folder)
    Server.files["/toy.zip"] = content
    linked = replace(known, url=f"{server}/toy.zip")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(DataError, match=r"toy\.zip\.part: cannot be written \(File too large\); make room"):
            get_dataset(linked)
        (tmp_path / "by-hand.zip").symlink_to(tmp_path / "elsewhere.zip")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (tmp_path / "elsewhere.zip").write_bytes(content)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(DataError, match=r": cannot be written \(File too large\); make room"):
            get_dataset(known, str(tmp_path / "by-hand.zip"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not any(cache.iterdir())
    assert get_dataset(linked) == cache / "Toy"


def test_one_at_a_time_gets_a_dataset(server: str, folder: Path, known: Entry, cache: Path) -> None:
    Server.files["/toy.zip"] = zipped(folder)
    told: list[str] = []

    def again(done: int, total: int | None) -> None:
        def second() -> None:
            with pytest.raises(DataError, match="is being written by process") as caught:
                get_dataset(replace(known, url=f"{server}/toy.zip"))
            told.append(str(caught.value))

        if not told:
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()

    assert get_dataset(replace(known, url=f"{server}/toy.zip"), progress=again) == cache / "Toy"
    assert len(told) == len(Server.requests) == 1


def test_the_root_comes_before_the_cache(
    known: Entry, folder: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_dataset(known, str(folder))
    monkeypatch.setenv("MMRNS_DATA", str(tmp_path / "root"))
    assert find_dataset("Toy") == cache / "Toy"
    write_toy(tmp_path / "root" / "Toy")
    with pytest.warns(Note, match=re.escape(f"for your own folder of that name write {cache / 'Toy'}")):
        assert find_dataset("Toy") == tmp_path / "root" / "Toy"


def test_a_known_name_that_is_not_here() -> None:
    with pytest.raises(
        UsageError, match=r"dataset 'DB15K' is not on this machine; `mmrns data get DB15K` brings it or s"
    ):
        find_dataset("DB15K")
    with pytest.raises(UsageError, match="did you mean 'DB15K'"):
        find_dataset("DB15k")


def test_the_catalogue_is_whole() -> None:
    assert list(catalogue())[:2] == ["countries", "DB15K"]
    for found in catalogue().values():
        assert found.title
        assert found.licence
        assert found.source.startswith("https://")
        assert min(found.entities, found.relations, found.train, found.valid, found.test) > 0
        assert found.name in EMBEDDED or (found.url is None) == bool(found.obtain)
        assert found.sha256 is None or re.fullmatch("[0-9a-f]{64}", found.sha256)
    with pytest.raises(UsageError, match="unknown dataset 'DB14K'; did you mean 'DB15K'"):
        entry("DB14K")


@pytest.mark.parametrize("name", ["countries", "DB15K", "FB15k-237", "MKG-W", "WN9-IMG"])
def test_counts_of_the_catalogue_are_true(request: pytest.FixtureRequest, name: str) -> None:
    known = catalogue()[name]
    folder = EMBEDDED.get(name) or request.getfixturevalue("shared") / "data" / name.removesuffix("-IMG")
    found = check_dataset(folder)
    assert (found["entities"], found["relations"]) == (known.entities, known.relations)
    for split in SPLITS:
        assert found["triples"][split]["rows"] == getattr(known, split)
    # What the defects say of numbers is what is found.
    said = {int(n.replace(",", "")) for defect in known.defects for n in re.findall(r"\b\d[\d,]*\b(?! wor)", defect)}
    leakage, unseen = found["leakage"], found["unseen"]
    counted = {
        *(row["rows"] for row in found["triples"].values()),
        *(row["distinct"] for row in found["triples"].values()),
        *(value for key, value in leakage.items() if key != "by_split"),
        *(value for split in leakage["by_split"].values() for value in split.values()),
        *(split["rows with unseen entities"] for split in unseen.values()),
        *(feature["equal_rows"] for feature in found["features"].values()),
    }
    assert said - counted <= {4000}


def test_the_digest_of_triples_knows_splits_but_no_order(folder: Path) -> None:
    before = triples_digest(folder)
    train, valid = folder / "train.tsv", folder / "valid.tsv"
    rows = train.read_text().splitlines(keepends=True)
    train.write_text("".join(reversed(rows)))
    assert triples_digest(folder) == before
    train.write_text("".join(rows[1:]))
    valid.write_text(valid.read_text() + rows[0])
    assert triples_digest(folder) != before


def test_the_digests_of_the_catalogue_are_those_of_the_data(shared: Path) -> None:
    for name in ("DB15K", "FB15k-237", "MKG-W"):
        assert triples_digest(shared / "data" / name) == entry(name).triples
