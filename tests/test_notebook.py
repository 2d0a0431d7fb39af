"""What notebooks show: HTML in which whatever came from files is text."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from typing import Any

import polars as pl
import pytest
from PIL import Image as Pictures

import mmrns
from mmrns.errors import UsageError
from mmrns.notebook import Image, Table, html
from undrawn import drawing

EVIL = '<script>alert("x")</script> & <img src=x onerror=y>'


class Reader(HTMLParser):
    """The elements, their attributes, and the texts of the cells."""

    VOID = ("img",)

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and "style" not in self.open:
            self.texts.append(data.strip())


def read(shown: str) -> Reader:
    found = Reader(shown)
    tags = {tag for tag, _ in found.elements}
    assert tags <= {"div", "style", "b", "span", "table", "caption", "thead", "tbody", "tr", "th", "td", "img"}
    assert all(name in ("class", "src", "width", "alt") for _, given in found.elements for name in given)
    assert all((given["src"] or "").startswith("data:image/") for tag, given in found.elements if tag == "img")
    # No colour that only fits a light page or a dark one.
    assert set(re.findall(r"color: ([^;]+)", shown)) == {"inherit"}
    return found


def test_cells_are_text_and_numbers() -> None:
    picture = Image("data:image/png;base64,AAAA", EVIL, 7)
    rows: list[dict[str, Any]] = [{EVIL: EVIL, "n": None, "picture": None}, {EVIL: "b", "n": 1234, "picture": picture}]
    found = read(html(EVIL, EVIL, [Table(EVIL, rows, EVIL), picture, EVIL, Table("none", [])]))
    assert found.texts == [EVIL, EVIL, EVIL, EVIL, "n", "picture", EVIL, "b", "1,234", EVIL, EVIL]
    images = [given for tag, given in found.elements if tag == "img"]
    assert images == [{"src": picture.uri, "width": "7", "alt": EVIL}] * 2
    assert [given.get("class") for tag, given in found.elements if tag == "th"] == [None, "number", None]
    assert read(html("a", "", [Table("", [{"x": 0.5}, {"x": -12.25}, {"x": True}])])).texts[2:] == [
        "0.5000",
        "-12.2",
        "True",
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> mmrns.Run:
    """A run of a graph whose names are markup and whose entities have pictures, one of them large and one damaged."""
    folder = tmp_path_factory.mktemp("notebook") / "kg"
    folder.mkdir()
    names = [f"e{i}" for i in range(12)]
    for split, rows in {"train": 12, "valid": 2, "test": 2}.items():
        lines = [f"{names[i]}\tis <b>\t{names[(i * 5 + 1 + len(split)) % 12]}\n" for i in range(rows)]
        (folder / f"{split}.tsv").write_text("".join(lines))
    Pictures.new("RGB", (900, 600), (10, 200, 30)).save(folder / "big.png")
    (folder / "bad.png").write_bytes(b"no picture")
    about = [f"{name}\t{EVIL} {name}\t{'big.png' if name != 'e1' else 'bad.png'}" for name in names]
    (folder / "entities.tsv").write_text("\n".join(["entity\tname\timage", *about]) + "\n")
    settings = {"model.dim": 4, "training.steps": 4, "training.evaluate_every": 2, "sampler.negatives": 2}
    given: dict[str, Any] = {"dataset": folder, "method": "uniform", "device": "cpu", "settings": settings}
    with drawing():
        return mmrns.train(**given, out=folder.parent / "run")


def test_a_dataset_shows_its_sizes_and_first_triples(run: mmrns.Run, toy: mmrns.Dataset) -> None:
    found = read(run.dataset._repr_html_())
    assert found.texts[1] == "12 entities, 1 relations"
    assert found.texts[2:10] == ["split", "triples", "train", "12", "valid", "2", "test", "2"]
    assert f"{EVIL} e0" in found.texts
    assert "is <b>" in found.texts
    texts = read(toy._repr_html_()).texts
    place = texts.index("image")
    assert texts[place : place + 5] == ["image", "35", "88 %", "5", "7"]


def test_a_run_shows_its_metrics_and_its_course(run: mmrns.Run) -> None:
    found = read(run._repr_html_())
    test, base = (run.results[key] for key in ("test", "baseline"))
    place = found.texts.index("test")
    assert found.texts[place + 1] == f"{test['both']['realistic']['mrr']:.4f}"
    place = found.texts.index("test, relation frequency")
    assert found.texts[place + 2] == f"{base['realistic']['hits@1']:.4f}"
    assert [given["width"] for tag, given in found.elements if tag == "img"] == ["480"]
    # In memory there is no picture, and without test no row of it.
    memory = {"evaluation.test": False, "training.steps": 2, "model.dim": 4}
    short = mmrns.train(dataset=run.dataset, method="uniform", settings=memory, device="cpu")
    found = read(short._repr_html_())
    assert "test" not in found.texts
    assert "img" not in {tag for tag, _ in found.elements}


def test_predictions_show_names_and_thumbnails(run: mmrns.Run) -> None:
    frame = run.predict(queries=[("e0", "is <b>", None), (None, "is <b>", "e3")], top=5)
    shown = run.show(frame)
    assert repr(shown) == repr(frame)
    text = shown._repr_html_()
    found = read(text)
    assert found.texts[:3] == ["10 predictions", "of 2 queries", f"{EVIL} e0 · is <b> · ?"]
    assert f"? · is <b> · {EVIL} e3" in found.texts
    sources = [given["src"] or "" for tag, given in found.elements if tag == "img"]
    assert (
        len(sources)
        == 10 - frame.select(pl.concat_list("head", "tail").list.gather([0, 1]).list.contains("e1")).sum().item()
    )
    with Pictures.open(io.BytesIO(base64.b64decode(sources[0].partition(",")[2]))) as image:
        assert max(image.size) == 48
    assert len(text) < 30_000
    # Bounded, and it says so; a column that others add is shown.
    few = run.show(frame.with_columns(probability=pl.lit(0.25)), rows=3)._repr_html_()
    assert "and 7 more rows of the frame" in few
    assert "probability" in read(few).texts
    assert read(run.show(frame.clear())._repr_html_()).texts == ["0 predictions", "of 0 queries"]
    relations = read(run.show(run.predict("e0", None, "e2"))._repr_html_())
    assert relations.texts[2] == f"{EVIL} e0 · ? · {EVIL} e2"
    with pytest.raises(UsageError, match="show takes what predict gave; the frame has no column 'rank'"):
        run.show(frame.drop("rank"))
