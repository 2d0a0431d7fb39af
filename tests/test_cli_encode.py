"""`mmrns encode`: once as a process, its mistakes in this one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from mmrns.cli import main
from mmrns.data.datasets import load_dataset
from mmrns.data.folders import EMBEDDED


@pytest.fixture
def countries(tmp_path: Path) -> Path:
    """Twenty countries with their flags and descriptions, without features; the country itself names the picture."""
    source = EMBEDDED["countries"]
    header, *rows = (source / "entities.tsv").read_text(encoding="utf-8").splitlines()
    kept = [row.split("\t") for row in rows if row.startswith("country/")][:20]
    folder = tmp_path / "own"
    (folder / "pictures" / "country").mkdir(parents=True)
    lines = []
    for entity, name, description, image in kept:
        shutil.copy(source / image, folder / "pictures" / f"{entity}.png")
        lines.append(f"{entity}\t{name}\t{description}\t")
    (folder / "entities.tsv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    numbers = [f"{entity}\tletters\t{len(name)}\n" for entity, name, *_ in kept]
    (folder / "numbers.tsv").write_text("".join(numbers), encoding="utf-8")
    triples = [f"{first[0]}\tnext_to\t{second[0]}\n" for first, second in pairwise(kept)]
    for split, part in (("train", triples[:15]), ("valid", triples[15:17]), ("test", triples[17:])):
        (folder / f"{split}.tsv").write_text("".join(part), encoding="utf-8")
    return folder


def mmrns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and error of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["mmrns", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out, shown.err


def test_a_folder_of_pictures_and_numbers(countries: Path) -> None:
    pytest.importorskip("skimage")
    (countries / "pictures" / "Atlantis.png").write_text("no entity")
    (countries / "pictures" / "sources.txt").write_text("no picture")
    (countries / "pictures" / "country" / "Algeria.png").write_text("no picture")
    command = [sys.executable, "-m", "mmrns", "encode", "own", "--image", "classical"]
    command += ["--pictures", "own/pictures", "--numbers", "own/numbers.tsv", "--device", "cpu"]
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=countries.parent, env=environment, check=True
    )
    assert done.stderr.splitlines() == [
        "image: 19 of 20 entities have a picture.",
        "image: 1 picture cannot be read and is left out, first: own/pictures/country/Algeria.png "
        "(no picture that can be read).",
        "image: 1 input is of no entity of the graph, first: 'Atlantis.png'.",
        "image: 1 other file is no picture, first: 'sources.txt'.",
        "numeric: 20 of 20 entities have a number.",
    ]
    assert [line.split()[:5] for line in done.stdout.splitlines()[1:]] == [
        ["image", "19", "19", "24", "42"],
        ["numeric", "20", "20", "8", "17"],
    ]
    features = load_dataset(countries).features
    assert {name: (m.covered, m.tokens, m.width) for name, m in features.items()} == {
        "image": (19, 24, 42),
        "numeric": (20, 8, 17),
    }


def test_json(countries: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage")
    command = ["encode", str(countries), "--image", "classical", "--pictures", str(countries / "pictures"), "--json"]
    code, out, err = mmrns(capsys, monkeypatch, *command)
    assert (code, err) == (0, "")
    # Notes are for people.
    file = str(countries / "features" / "image.safetensors")
    found = {"modality": "image", "file": file, "entities": 20, "of": 20, "new": 20, "tokens": 24, "width": 42}
    assert json.loads(out) == [{**found, "skipped": [], "unmatched": [], "others": [], "changed": [], "by": {}}]
    code, out, _ = mmrns(capsys, monkeypatch, *command)
    assert json.loads(out)[0]["new"] == 0
    code, out, err = mmrns(capsys, monkeypatch, *command[:-1], "--image-tokens", "6")
    assert "image: all is encoded anew, since this differs from before: pooling." in err.splitlines()


def test_an_interrupt_says_how_to_go_on(
    countries: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmrns.prepare.encoders.encode_pictures", interrupted)
    code, out, err = mmrns(capsys, monkeypatch, "encode", str(countries), "--image", "classical")
    assert (code, out, err) == (130, "", "mmrns: interrupted; the same command goes on from here\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("", 2, "nothing to encode: give --text MODEL, --image MODEL, --image classical or --numbers FILE"),
        ("--texts t.tsv --numbers n.tsv", 2, "--texts needs the model to encode them with: --text MODEL"),
        ("--pictures p --numbers n.tsv", 2, "--pictures needs the model to encode them with: --image MODEL"),
        (
            "--text ./absent",
            2,
            "no folder './absent'; give the folder of a saved model, or a name on the Hugging Face Hub",
        ),
        ("--text DIR", 2, "model 'own' has no safetensors weights in DIR"),
        ("--image DIR", 1, "DIR/images: there are no pictures; fill the column 'image' of entities.tsv"),
        (
            "--image classical --pictures DIR/train.tsv",
            1,
            "DIR/train.tsv: is no folder; give the folder of the pictures",
        ),
        ("--numbers DIR/absent.tsv", 1, "DIR/absent.tsv: cannot be read (No such file or directory); check the file"),
        ("--numbers DIR/train.tsv", 1, "DIR/train.tsv:1: 'country/Albania' is not a number; mend or delete the row"),
        ("--text m --texts DIR/numbers.tsv", 1, "DIR/numbers.tsv:1: 3 columns where entity TAB text is expected"),
        ("--image classical --image-tokens 0", 2, ""),
    ],
)
def test_mistakes_are_one_line(
    countries: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    code: int,
    message: str,
) -> None:
    words = arguments.replace("DIR", str(countries)).split()
    found, out, err = mmrns(capsys, monkeypatch, "encode", str(countries), *words)
    assert found == code
    assert out == ""
    assert "Traceback" not in err
    assert not (countries / "features").exists()
    if message:
        assert err.startswith("mmrns: " + message.replace("DIR", str(countries)))
        assert err.count("\n") == 1


def test_embedded_datasets_are_left_alone(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("countries", str(EMBEDDED["countries"])):
        code, _, err = mmrns(capsys, monkeypatch, "encode", name, "--image", "classical")
        assert code == 2
        assert "is embedded in the package and has its features; copy its folder to change them" in err


def test_a_path_that_leaves_the_folder(
    countries: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = countries / "entities.tsv"
    lines = table.read_text(encoding="utf-8").splitlines()
    lines[3] += "../../secret.png"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    code, _, err = mmrns(capsys, monkeypatch, "encode", str(countries), "--image", "classical")
    assert code == 1
    expected = f"{table}:4: image '../../secret.png' is not inside {countries}; name a file of that folder"
    assert err == f"mmrns: {expected}\n"


def test_without_room(countries: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (countries / "features").write_text("in the way")
    code, _, err = mmrns(capsys, monkeypatch, "encode", str(countries), "--numbers", str(countries / "numbers.tsv"))
    assert (code, err) == (2, f"mmrns: the features {countries / 'features'}: is a file; choose another place\n")
