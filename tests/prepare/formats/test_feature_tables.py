"""Feature tables of other projects: matched, counted, stored; what is refused."""

from __future__ import annotations

import io
import json
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors import safe_open

from mmrns.data.datasets import load_dataset
from mmrns.data.features import Features, Modality
from mmrns.data.vocabulary import Vocabulary
from mmrns.errors import DataError
from mmrns.prepare.formats import Source, arrays, convert
from mmrns.prepare.formats.arrays import open_table
from mmrns.prepare.formats.features import read_links

NAMES = ["d", "a", "c", "b"]
"""In the order of their ids."""

RNG = np.random.default_rng(0)


@pytest.fixture
def openke(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "entity2id.txt").write_text("4\n" + "".join(f"{name}\t{i}\n" for i, name in enumerate(NAMES)))
    (folder / "relation2id.txt").write_text("1\nr\t0\n")
    (folder / "train2id.txt").write_text("3\n0 1 0\n1 2 0\n2 3 0\n")
    return folder


def opened(folder: Path, name: str = "image") -> Modality:
    return Modality.open(folder / "features" / f"{name}.safetensors", Vocabulary(NAMES))


def of(modality: Modality, name: str) -> np.ndarray:
    values, _ = modality.gather(torch.tensor([sorted(NAMES).index(name)]))
    return values[0].numpy()


def save(path: Path, array: np.ndarray) -> Path:
    match path.suffix:
        case ".npy":
            np.save(path, array)
        case ".npz":
            np.savez(path, table=array)
        case ".json":
            path.write_text(json.dumps(array.tolist()))
        case ".h5":
            with h5py.File(path, "w") as file:
                file["table"] = array
        case _:
            torch.save(torch.from_numpy(array), path, _use_new_zipfile_serialization=path.suffix == ".pth")
    return path


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".npy", ".npz", ".h5", ".json"])
@pytest.mark.parametrize("shape", [(4, 5), (4, 3, 5)])
def test_tables_in_the_order_of_ids(openke: Path, tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    array = RNG.normal(size=shape).astype(np.float32)
    if suffix in (".h5", ".json") and len(shape) == 2:
        # A lone matrix in HDF5 is an entity's; rows of numbers in JSON are lists of tokens.
        array = array[:, None]
    array[2] = 0
    file = save(tmp_path / f"table{suffix}", array)
    done = convert(openke, tmp_path / "out", features={"image": Source.parse(str(file))})
    image = opened(tmp_path / "out")
    assert (image.covered, image.tokens) == (3, 1 if array.ndim == 2 else array.shape[1])
    for i, name in enumerate(NAMES):
        np.testing.assert_array_equal(
            of(image, name).squeeze(), array[i].astype(np.float16).astype(np.float32).squeeze()
        )
    found = done.features["image"]
    assert (found["rows"], found["entities"], found["zero rows"]) == (4, 3, 1)
    assert image.provenance["source"] == file.name


def test_tables_beside_the_triples_are_found_by_their_names(openke: Path, tmp_path: Path) -> None:
    save(openke / "X-visual.pth", np.ones((4, 2), np.float32))
    save(openke / "X-textual.npy", np.ones((4, 3), np.float32))
    save(openke / "visual_features_rel.pth", np.ones((1, 2), np.float32))
    save(openke / "other.npy", np.ones((9, 2), np.float32))
    assert set(convert(openke, tmp_path / "out").features) == {"image", "text"}
    assert convert(openke, tmp_path / "without", features={}).features == {}
    save(openke / "img.npy", np.ones((4, 2), np.float32))
    with pytest.raises(DataError, match=r"X-visual.pth and img.npy both look like image features; choose one"):
        convert(openke, tmp_path / "two")


def test_zeros_are_counted_and_missing_or_kept(openke: Path, tmp_path: Path) -> None:
    array = np.ones((4, 3, 2), np.float32)
    array[0] = 0
    array[1, 2] = 0
    source = {"image": Source(save(tmp_path / "t.npy", array))}
    done = convert(openke, tmp_path / "missing", features=source)
    assert (done.features["image"]["zero tokens"], done.features["image"]["zero rows"]) == (4, 1)
    image = opened(tmp_path / "missing")
    assert image.mask.tolist() == [[True, True, False], [True] * 3, [True] * 3]
    assert int(image.row[sorted(NAMES).index("d")]) == -1
    kept = convert(openke, tmp_path / "kept", features=source, zeros="keep")
    assert (kept.features["image"]["zero tokens"], kept.features["image"]["zero rows"]) == (4, 0)
    assert opened(tmp_path / "kept").mask.all()


@pytest.mark.parametrize(
    ("largest", "float32", "dtype"), [(65504, False, "float16"), (7e4, False, "float32"), (1, True, "float32")]
)
def test_single_precision_where_half_is_too_small(
    openke: Path, tmp_path: Path, largest: float, float32: bool, dtype: str
) -> None:
    array = np.full((4, 1, 2), largest, np.float64)
    file = {"image": Source(save(tmp_path / "t.npy", array))}
    assert convert(openke, tmp_path / "out", features=file, float32=float32).features["image"]["dtype"] == dtype
    with safe_open(tmp_path / "out" / "features" / "image.safetensors", framework="np") as stored:
        assert stored.get_tensor("values").dtype == dtype
        np.testing.assert_array_equal(stored.get_tensor("values"), array.astype(dtype))


def test_many_blocks_are_one_file(openke: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = RNG.normal(size=(4, 3, 5)).astype(np.float32)
    source = {"image": Source(save(tmp_path / "t.pth", array))}
    convert(openke, tmp_path / "one", features=source)
    monkeypatch.setattr("mmrns.prepare.formats.features._BLOCK_BYTES", 60)
    told: list[tuple[str, int, int | None]] = []
    convert(openke, tmp_path / "many", features=source, advance=lambda *step: told.append(step))
    one, many = (tmp_path / f / "features" / "image.safetensors" for f in ("one", "many"))
    assert one.read_bytes() == many.read_bytes()
    assert [step[1:] for step in told if step[0] == "image"] == [(i, 8) for i in range(1, 9)]


def test_one_of_several_arrays(openke: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", image=np.ones((4, 2)), text=np.ones((4, 3)))
    source = Source.parse(f"{tmp_path / 't.npz'}:text")
    assert convert(openke, tmp_path / "out", features={"text": source}).features["text"]["width"] == 3
    with pytest.raises(DataError, match=r"t.npz: holds several arrays \(image, text\); choose"):
        convert(openke, tmp_path / "no", features={"text": Source(tmp_path / "t.npz")})
    with pytest.raises(DataError, match="holds no array 'txt'"):
        convert(openke, tmp_path / "no", features={"text": Source(tmp_path / "t.npz", "txt")})


def test_rows_without_names_need_ids(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "train.tsv").write_text("a\tr\tb\nc\tr\td\n")
    save(tmp_path / "in" / "image.npy", np.arange(1, 9, dtype=np.float32).reshape(4, 2))
    done = convert(tmp_path / "in", tmp_path / "out")
    assert done.notes == ["image.npy: rows without names, left out; --ids FILE says whose they are"]
    source = {"image": Source(tmp_path / "in" / "image.npy")}
    with pytest.raises(DataError, match="its rows have no names; say whose they are: --ids FILE"):
        convert(tmp_path / "in", tmp_path / "no", features=source)
    (tmp_path / "ids.txt").write_text("d\na\nc\nb\n")
    convert(tmp_path / "in", tmp_path / "named", ids=tmp_path / "ids.txt")
    assert of(opened(tmp_path / "named"), "d").tolist() == [[1.0, 2.0]]


def test_a_dictionary_of_entities(openke: Path, tmp_path: Path) -> None:
    values = {name: torch.full((i + 1, 2), float(i + 1)) for i, name in enumerate(["a", "b", "nobody", "d", "c"])}
    torch.save(values, tmp_path / "t.pt")
    done = convert(openke, tmp_path / "out", features={"image": Source(tmp_path / "t.pt")}, tokens=3)
    image = opened(tmp_path / "out")
    assert image.mask.sum(1).tolist() == [1, 2, 3, 3]
    assert of(image, "d").tolist() == [[4.0, 4.0]] * 3
    assert (done.features["image"]["unmatched"], done.features["image"]["first unmatched"]) == (1, "nobody")


def test_token_numbers_are_looked_up_the_most_frequent_first(openke: Path, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps({"a": [7, 2, 2, 5, 7, 2], "b": [1], "d": [], "zoe": [3]}))
    codes = np.arange(1, 17, dtype=np.float32).reshape(8, 2)
    codebook = save(tmp_path / "codes.pth", codes)
    source = Source.parse(f"{tmp_path / 't.json'},{codebook}")
    convert(openke, tmp_path / "out", features={"image": source}, tokens=2)
    image = opened(tmp_path / "out")
    assert of(image, "a").tolist() == codes[[2, 7]].tolist()
    assert image.covered == 2
    assert image.mask.tolist() == [[True, True], [True, False]]
    with pytest.raises(DataError, match="holds token numbers, not vectors; add the table of their vectors"):
        convert(openke, tmp_path / "no", features={"image": Source(tmp_path / "t.json")})
    (tmp_path / "t.json").write_text(json.dumps({"a": [8]}))
    with pytest.raises(DataError, match=r"token 8 of 'a' is not in codes.pth \(0 to 7\)"):
        convert(openke, tmp_path / "no", features={"image": source})


def authors_folder(folder: Path, linked: str) -> Path:
    """Small files of the authors' layout: DBpedia names, a link file, sentences [s, 384] and images [24, 383]."""
    dbr = "http://dbpedia.org/resource/"
    data = folder / ("MMKB-DB15K" if linked == "db15k" else "MKG-W")
    data.mkdir(parents=True)
    names = ["Kenya", "AC/DC", "Uganda"]
    ids = [dbr + name for name in names] if linked == "db15k" else ["Q1", "Q2", "Q3"]
    triples = f"{ids[0]}\tr\t{ids[1]}\n{ids[1]}\tr\t{ids[2]}\n"
    for split in ("train", "valid", "test"):
        (data / f"{split}.txt").write_text(triples)
    if linked == "db15k":
        lines = [f"/m/0{i} SameAs <{dbr}{name}> .\n" for i, name in enumerate(names)]
        (data / "DB15K_SameAsLink.txt").write_text("".join(lines))
        images = {f"m.0{i}": i for i in range(3)}
    else:
        (data / "ent_links").write_text("".join(f"{dbr}{n}\t{i}\n" for n, i in zip(names, ids, strict=True)))
        images = {name: i for i, name in enumerate(names)}
    stem = "MMKB" if linked == "db15k" else "MKG_W"
    with h5py.File(folder / f"{stem}_description_sentences.h5", "w") as file:
        for i, name in enumerate(names):
            file[name] = np.full((2 * i + 1, 384), i + 1, np.float32)
        file["Atlantis"] = np.ones((1, 384), np.float32)
    with h5py.File(folder / f"{stem}_img_BEIT_16-224.h5", "w") as file:
        for name, i in images.items():
            file[name] = np.full((24, 383), i - 1, np.float32)
    with h5py.File(folder / "other_text.h5", "w") as file:
        file["x"] = np.ones((1, 2))
    return data


@pytest.mark.parametrize("linked", ["db15k", "mkg-w"])
def test_the_authors_layout(tmp_path: Path, linked: str) -> None:
    done = convert(authors_folder(tmp_path / "data", linked), tmp_path / "out")
    assert done.layout == "mmrns"
    loaded = load_dataset(tmp_path / "out")
    text, image = loaded.features["text"], loaded.features["image"]
    assert (text.tokens, text.width, image.tokens, image.width) == (4, 384, 24, 383)
    assert text.covered == 3
    assert done.features["text"]["first unmatched"] == "Atlantis"
    # The picture of the second entity is zeros only.
    assert (image.covered, done.features["image"]["zero rows"]) == (2, 1)
    last = "http://dbpedia.org/resource/Uganda" if linked == "db15k" else "Q3"
    values, mask = text.gather(torch.tensor([loaded.graph.entities.id(last)]))
    assert mask.all()
    assert values.unique().tolist() == [3.0]


def test_links_of_both_kinds(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("http://dbpedia.org/resource/X\tQ1\n")
    (tmp_path / "b").write_text("/m/01 SameAs <http://dbpedia.org/resource/X> .\n")
    assert read_links(tmp_path / "a").rows() == [("http://dbpedia.org/resource/X", "Q1")]
    assert read_links(tmp_path / "b").rows() == [("/m/01", "http://dbpedia.org/resource/X")]
    (tmp_path / "a").write_text("a\tb\nalone\n")
    with pytest.raises(DataError, match="a:2: neither"):
        read_links(tmp_path / "a")


def test_features_of_a_dataset_folder_come_along(toy_folder: Path, tmp_path: Path) -> None:
    vector = {name: torch.ones(3) for name in load_dataset(toy_folder).graph.entities}
    torch.save(vector, tmp_path / "audio.pth")
    convert(toy_folder, tmp_path / "out", features={"audio": Source(tmp_path / "audio.pth")})
    graph = load_dataset(tmp_path / "out").graph
    features: Any = Features.open(tmp_path / "out" / "features", graph.entities)
    assert list(features) == ["audio", "image", "text"]
    assert features["audio"].covered == 40


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((3, 2), np.float32), "3 rows, but there are 4 entity ids; use the table that belongs"),
        (np.full((4, 2), np.nan, np.float32), r"row 0 \(d\) holds NaN or infinity"),
        (np.full((4, 2), 1e39, np.float64), r"row 0 \(d\) holds NaN or infinity"),
        (np.zeros((4, 2), np.float32), "holds zeros only"),
        (np.ones(4, np.float32), r"holds float32 \[4\]; save numbers"),
        (np.ones((4, 0), np.float32), r"holds float32 \[4, 0\]"),
        (np.ones((4, 2), np.complex64), "holds complex64"),
    ],
)
def test_unfit_tables(openke: Path, tmp_path: Path, array: np.ndarray, message: str) -> None:
    file = save(tmp_path / "t.npy", array)
    with pytest.raises(DataError, match=message) as caught:
        convert(openke, tmp_path / "out", features={"image": Source(file)})
    assert str(caught.value).startswith(str(file))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "t.npy"]


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.h5"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_damaged_tables_end_in_one_line(tmp_path: Path, name: str, kept: float) -> None:
    path = tmp_path / name
    values = np.random.default_rng(0).normal(size=(30, 2, 5)).astype(np.float32)
    if name == "a.npy":
        np.save(path, values)
    elif name == "a.npz":
        np.savez(path, values=values)
    else:
        with h5py.File(path, "w") as file:
            for row in range(30):
                file[f"e{row}"] = values[row]
    data = path.read_bytes()
    place = int(kept * len(data))
    for damaged in (data[:place], data[:place] + bytes(40) + data[place + 40 :], data[:20] + b"(" * 60 + data[80:]):
        path.unlink()
        path.write_bytes(damaged)
        with suppress(DataError):
            open_table(path).read(np.arange(30))


def test_sizes_that_cannot_be_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    made = io.BytesIO()
    np.save(made, np.zeros((2, 3), dtype=np.float32))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.npy", made.getvalue().replace(b"(2, 3), }" + 11 * b" ", b"(2, 9999999999999)}".ljust(20)))
    with pytest.raises(DataError, match=r"is no readable \.npz file"):
        open_table(path)


def test_numbers_of_either_byte_order_are_read(tmp_path: Path) -> None:
    values = np.arange(12.0).reshape(4, 3)
    for dtype in ("<f4", ">f4", ">f8", ">i2", "u1"):
        np.save(tmp_path / "a.npy", values.astype(dtype))
        found, _ = open_table(tmp_path / "a.npy").read(np.arange(4))
        assert found[:, 0].tolist() == values.tolist()


@pytest.mark.parametrize("dtype", ["U4", "c8", "M8[s]", "V8", "?"])
def test_what_is_no_number_is_refused(tmp_path: Path, dtype: str) -> None:
    array = np.zeros((2, 3), dtype=dtype)
    np.savez(tmp_path / "one.npz", a=array)
    np.savez(tmp_path / "named.npz", a=array, b=array, c=array, d=array)
    for name in ("one", "named"):
        with pytest.raises(DataError, match=r"\.npz: holds "):
            open_table(tmp_path / f"{name}.npz")


@pytest.mark.parametrize("content", ['{"a": [[1e999, 2]]}', '{"a": [[1e300, 2]]}', f'{{"a": [[{10**400}, 2]]}}'])
def test_numbers_too_large_are_infinite_or_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with suppress(DataError):
        assert np.isinf(open_table(tmp_path / "a.json").read(np.arange(1))[0]).any()


def test_token_numbers_too_large_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "book.npy", np.zeros((3, 2), dtype=np.float32))
    (tmp_path / "a.json").write_text(f'{{"a": [1], "b": [{10**30}]}}')
    with pytest.raises(DataError):
        open_table(tmp_path / "a.json", codebook=tmp_path / "book.npy")


def test_an_npz_that_grows_beyond_measure_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "v.npz"
    np.savez_compressed(path, np.zeros((1000, 1000), dtype=np.float32))
    assert open_table(path).shape == (1000, 1, 1000)
    monkeypatch.setattr(arrays, "LARGEST_GZIP", 10)
    with pytest.raises(DataError, match=r"v\.npz: grows more than 200-fold, to 0\.0 GiB, when it is decompressed"):
        open_table(path)


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [[1.0, 2.0]], "\\ud800": [[3.0, 4.0]]}')
    with pytest.raises(DataError, match=r"an array under '\\ud800', which is no name in UTF-8; rename it"):
        open_table(tmp_path / "a.json")
    np.save(tmp_path / "book.npy", np.zeros((3, 2), dtype=np.float32))
    (tmp_path / "b.json").write_text('{"\\ud800": [1, 2]}')
    with pytest.raises(DataError, match="no name in UTF-8"):
        open_table(tmp_path / "b.json", codebook=tmp_path / "book.npy")
    (tmp_path / "c.json").write_text('{"a": [1, "\\ud800"]}')
    with pytest.raises(DataError, match="mixes token numbers with something else"):
        open_table(tmp_path / "c.json", codebook=tmp_path / "book.npy")
    with h5py.File(tmp_path / "d.h5", "w") as file:
        for name in (b"a", b"E\xe6x"):
            file.create_dataset(name, data=np.zeros((2, 2), dtype=np.float32))
    with pytest.raises(DataError, match="no name in UTF-8"):
        open_table(tmp_path / "d.h5")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_class_with_an_endless_name_is_refused_at_once(tmp_path: Path, zipped: bool) -> None:
    """torch's own message about it takes a minute to be made, and four times as long for twice the name."""
    path = tmp_path / "t.pth"
    torch.save({"a": torch.zeros(2, 2)}, path, _use_new_zipfile_serialization=zipped)
    asked = b"c" + b"torch" * 30_000 + b"\nTensor\n"
    if zipped:
        parts = {}
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in parts.items():
                archive.writestr(name, data[:2] + asked + data[2:] if name.endswith("data.pkl") else data)
    else:
        path.write_bytes(b"\x80\x02" + asked + b".")
    with pytest.raises(DataError, match="names a class that cannot be"):
        open_table(path)
    if not zipped:
        path.write_bytes(b"S'\\\xe0'\n.")  # An escape that Python warns of.
        with pytest.raises(DataError, match=r"t\.pth: "):
            open_table(path)
    torch.save({"x" * 5000: torch.zeros(2, 2)}, path, _use_new_zipfile_serialization=zipped)
    assert open_table(path, key="x" * 5000).shape == (2, 1, 2)
