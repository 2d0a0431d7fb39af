"""`mmrns export` and `mmrns neighbours` as a user gives them, in a folder with nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from command import inside as mmrns
from command import process


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No dataset has a name."""
    monkeypatch.delenv("MMRNS_DATA", raising=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model that reads texts."""
    from toy import write_toy

    folder = tmp_path_factory.mktemp("export")
    write_toy(folder / "kg")
    settings = ["model.dim=8", "training.steps=20", "training.evaluate_every=10", "model.modalities=[text]"]
    options = [f"--set={setting}" for setting in settings]
    mmrns("train", "--dataset", "kg", "--method", "uniform", "--device", "cpu", *options, "--out", "run", cwd=folder)
    return folder


def test_a_bundle_answers_elsewhere(place: Path, tmp_path: Path) -> None:
    query = ["--head", "entity 4", "--relation", "likes", "--json"]
    done = mmrns("export", "run", "--bundle", tmp_path / "carried", cwd=place)
    assert done.stderr == f"bundle in {tmp_path / 'carried'}\n"
    expected = json.loads(mmrns("predict", "run", *query, cwd=place).stdout)
    (tmp_path / "empty").mkdir()
    # A process knows nothing of the run but what it finds there.
    found = json.loads(process("predict", tmp_path / "carried", *query, cwd=tmp_path / "empty").stdout)
    # Another process may add in another order.
    assert [row.pop("score") for row in found] == pytest.approx([row.pop("score") for row in expected], rel=1e-5)
    assert found == expected
    assert found[0]["head_name"] == "Entity 4"
    assert (
        "negative"
        in mmrns(
            *("inspect", "carried", "--head", "e04", "--relation", "likes", "--tail", "e05", "--steps", "2"),
            cwd=tmp_path,
        ).stdout
    )
    assert mmrns("evaluate", "carried", cwd=tmp_path).stdout == mmrns("evaluate", "run", cwd=place).stdout
    # Without one, elsewhere, one line says what to do.
    shutil.copytree(place / "run", tmp_path / "empty" / "run")
    alone = mmrns("predict", "run", *query, cwd=tmp_path / "empty", code=1).stderr
    assert "`mmrns export RUN --bundle FOLDER`" in alone
    assert len(alone.splitlines()) == 1
    again = mmrns("export", "run", "--bundle", tmp_path / "carried", cwd=place, code=1).stderr
    assert again == f"mmrns: {tmp_path / 'carried'}: exists already; choose another name or remove it\n"


def test_vectors_and_predictions(place: Path, tmp_path: Path) -> None:
    files = ["--entities", tmp_path / "e.tsv", "--view", "structure", "--relations", tmp_path / "r.safetensors"]
    done = mmrns("export", "run", *files, "--predictions", tmp_path / "p.parquet", "--top", "2", cwd=place)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("e.tsv", "e_metadata.tsv", "r.safetensors", "r.relations", "p.parquet"),
    }
    frame = pl.read_parquet(tmp_path / "p.parquet")
    assert f"{len(frame):,} predictions of " in done.stderr
    assert frame["known"].any() is False
    assert set(frame["asked"]) == {"tail"}
    (tmp_path / "q.tsv").write_text("Entity 4\tlikes\t?\n?\tlikes\te01\n")
    asked = ["--predictions", tmp_path / "p.nt", "--queries", tmp_path / "q.tsv", "--top", "1", "--known", "keep"]
    mmrns("export", "run", *asked, cwd=place)
    lines = (tmp_path / "p.nt").read_text().splitlines()
    assert lines[0].startswith("<urn:mmrns:e04> <urn:mmrns:likes> <urn:mmrns:e")
    assert lines[1].endswith("<urn:mmrns:likes> <urn:mmrns:e01> .")
    heads = ["--predictions", tmp_path / "h.parquet", "--side", "head", "--top", "1"]
    mmrns("export", "run", *heads, cwd=place)
    assert set(pl.read_parquet(tmp_path / "h.parquet")["asked"]) == {"head"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "say what to export: --bundle, --entities, --relations or --predictions"),
        (["--entities", "x.csv"], 2, "x.csv: name it x.parquet or x.tsv or x.safetensors"),
        (["--entities", "no/x.tsv"], 2, "no/x.tsv: no folder 'no'; choose another place"),
        (["--entities", "x.tsv"], 2, "such a file holds one vector each; choose one of structure, text (--view)"),
        (["--entities", "x.tsv", "--view", "sound"], 2, "unknown view 'sound'; known: structure, text"),
        (["--predictions", "x.json"], 2, "x.json: name it x.parquet or x.nt"),
        (["--queries", "q.tsv", "--bundle", "b"], 2, "--queries are answered in a file: give --predictions FILE"),
        (["--bundle", "kg"], 1, "kg: exists already; choose another name or remove it"),
        (["--bundle", "."], 1, "exists already; choose another name or remove it"),
    ],
)
def test_wrong_exports_are_one_line(place: Path, arguments: list[str], code: int, message: str) -> None:
    before = sorted(place.iterdir())
    done = mmrns("export", "run", *arguments, cwd=place, code=code)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(place.iterdir()) == before


def test_neighbours(place: Path, tmp_path: Path) -> None:
    table = mmrns("neighbours", "run", "ENTITY 4", "--by", "text", "--top", "3", cwd=place).stdout.splitlines()
    assert table[0] == "most like e04 (Entity 4) by text"
    assert table[1].split() == ["rank", "entity", "name", "structure", "image", "text"]
    assert len(table) == 5
    rows = json.loads(mmrns("neighbours", "run", "e04", "--top", "3", "--json", cwd=place).stdout)
    assert [set(row) for row in rows] == [{"rank", "entity", "name", "similarity", "structure", "image", "text"}] * 3
    mmrns("neighbours", "run", "e04", "--top", "3", "--out", tmp_path / "n.csv", cwd=place)
    assert pl.read_csv(tmp_path / "n.csv")["entity"].to_list() == [row["entity"] for row in rows]
    wrong = mmrns("neighbours", "run", "e04", "--by", "sound", cwd=place, code=2).stderr
    assert wrong == "mmrns: unknown measure of similarity 'sound'; known: structure, image, text\n"
    assert "write one of .csv" in mmrns("neighbours", "run", "e04", "--out", "x.xls", cwd=place, code=2).stderr
