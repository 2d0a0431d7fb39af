"""`mmrns data convert` as a process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmrns.cli.data import data_app
from mmrns.data.datasets import load_dataset
from test_cli import mmrns


def test_own_triples_become_a_dataset(tmp_path: Path) -> None:
    source = tmp_path / "mine"
    (source / "pictures").mkdir(parents=True)
    (source / "triples.csv").write_text("subject,predicate,object\nalice,knows,bob\nbob,knows,carol\n")
    (source / "descriptions.csv").write_text("entity,description\nalice,A woman.\n")
    (source / "pictures" / "bob.png").write_bytes(b"picture")
    done = mmrns("data", "convert", source, "people", cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "people: 3 entities, 1 relations; triples: train 2",
        "1 of 1 pictures belong to an entity",
        "note: triples.csv: the first line was taken for a header (subject, predicate, object)",
        "no valid and no test triples: split them next, with mmrns data split people DST",
    ]
    assert done.stderr == ""
    assert (tmp_path / "people" / "train.tsv").read_text() == "alice\tknows\tbob\nbob\tknows\tcarol\n"
    again = mmrns("data", "convert", source, "people", cwd=tmp_path, code=1)
    assert again.stderr == "mmrns: people: exists already; choose another name or remove it\n"
    (source / "triples.csv").write_bytes(b"a,b,c\na,b\n")
    broken = mmrns("data", "convert", source, "new", cwd=tmp_path, code=1)
    assert broken.stderr.endswith("triples.csv:2: 2 columns where 3 are expected; mend or delete the row\n")
    assert len(broken.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "people"]


def run(*arguments: str | Path) -> str:
    done = CliRunner().invoke(data_app, ["convert", *map(str, arguments)])
    assert done.exit_code == 0, done.exception
    return done.stdout


def test_options_and_json(toy_folder: Path, tmp_path: Path) -> None:
    found = json.loads(run(toy_folder, tmp_path / "ke", "--to", "openke", "--json"))
    assert found == {
        "folder": str(tmp_path / "ke"),
        "from": "tsv",
        "to": "openke",
        "triples": {"train": found["triples"]["train"], "valid": 25, "test": 25},
        "entities": 40,
        "relations": 5,
        "features": {},
        "pictures": None,
        "malformed": 0,
        "left_out": {},
        "notes": [],
    }
    back = json.loads(run(tmp_path / "ke", tmp_path / "back", "--from", "openke", "--columns", "1,3,2", "--json"))
    assert back["from"] == "openke"
    assert load_dataset(tmp_path / "back").graph.train.tolist() == load_dataset(toy_folder).graph.train.tolist()


def test_features_are_told(toy_folder: Path, tmp_path: Path) -> None:
    import numpy as np

    np.save(tmp_path / "t.npy", np.eye(40, dtype=np.float32)[:, :39] * 1e5)
    run(toy_folder, tmp_path / "ke", "--to", "openke")
    text = run(tmp_path / "ke", tmp_path / "out", "--features", f"audio={tmp_path / 't.npy'}")
    assert "audio           39  40          0          1       1     39  float32" in text
    assert "note: audio: 1 tokens are zeros only, in 1 rows all of them" in text
    assert "note: audio: values up to 1e+05, too large for half precision" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "opnke"], "unknown layout 'opnke'; did you mean 'openke'?"),
        (["--to", "xls"], "unknown layout to write 'xls'"),
        (["--columns", "1,2"], "give head, relation and tail, three of them"),
        (["--delimiter", "ab"], "give one character"),
        (["--features", "visual.pth"], "write NAME=FILE"),
        (["--features", "image=x.pth", "--no-features"], "give either"),
    ],
)
def test_mistaken_options(toy_folder: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    from mmrns.errors import UsageError

    done = CliRunner().invoke(data_app, ["convert", str(toy_folder), str(tmp_path / "out"), *arguments])
    assert isinstance(done.exception, UsageError)
    assert message in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_help_has_an_example() -> None:
    assert (
        "Example: mmrns data convert triples.csv people" in CliRunner().invoke(data_app, ["convert", "--help"]).stdout
    )


def test_malformed_statements_are_left_out_on_request(tmp_path: Path) -> None:
    pytest.importorskip("pyoxigraph")
    good = "<http://e/a> <http://e/r> <http://e/b> .\n"
    nan = '<http://e/a> <http://e/p> "nan"^^<http://www.w3.org/2001/XMLSchema#double> .\n'
    (tmp_path / "g.nt").write_text(good + "<no IRI>\n" + nan)
    found = json.loads(run(tmp_path / "g.nt", tmp_path / "out", "--skip-malformed", "--json"))
    assert (found["malformed"], found["triples"]) == (1, {"train": 1})
    assert found["left_out"] == {"http://www.w3.org/2001/XMLSchema#double": 1}
