"""What tokens were made of: as it was written, or one line that says what is wrong."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrns.data.datasets import load_dataset
from mmrns.data.names import names_of_ids
from mmrns.data.tokens import Origin, Patches, origins_line, origins_path, parse_origins
from mmrns.errors import DataError

share = st.integers(0, 9999).map(lambda n: n / 10_000)
boxes = st.tuples(share, share, share, share).map(lambda b: (b[0] / 2, b[1] / 2, 0.5 + b[2] / 2, 0.5 + b[3] / 2))
patches = st.builds(
    Patches, st.none() | st.text(), st.integers(1, 9), st.integers(1, 9), st.none() | st.just((0.0, 0.0, 1.0, 1.0))
)


@given(st.lists(st.text() | patches, max_size=5))
def test_what_is_written_is_read(origins: list[Origin]) -> None:
    line = origins_line(origins)
    assert "\n" not in line
    present = sum(1 if isinstance(one, str) else one.rows * one.columns for one in origins)
    assert parse_origins(Path("x"), pl.Series([line]), 0, present) == origins
    assert parse_origins(Path("x"), pl.Series([line]), 0, present + 1) == []


@given(boxes)
def test_boxes_are_kept(box: tuple[float, float, float, float]) -> None:
    (found,) = parse_origins(Path("x"), pl.Series([origins_line([Patches("p", 1, 1, box)])]), 0, 1)
    assert isinstance(found, Patches)
    assert found.box == pytest.approx(box, abs=1e-6)


GRIDS = [("1", 2, "null"), ("null", 0, "null"), *(("null", 1, box) for box in ("[0]", "[1, 0, 0, 1]", '"abcd"'))]
MALFORMED = ["", "{", "3", "[3]", "[null]", '[{"picture": "a"}]', "[" * 9999]
MALFORMED += [f'[{{"picture": {p}, "rows": {r}, "columns": 1, "box": {b}}}]' for p, r, b in GRIDS]


@pytest.mark.parametrize("line", MALFORMED)
def test_malformed_lines_are_named(line: str) -> None:
    with pytest.raises(DataError, match=r"^x:2: a list of texts and of grids over pictures is expected .*; encode"):
        parse_origins(Path("x"), pl.Series(["[]", line]), 1, 1)


def test_another_number_of_lines_is_refused(toy_folder: Path) -> None:
    said = origins_path(toy_folder / "features" / "text.safetensors")
    said.write_text('["a"]\n')
    with pytest.raises(DataError, match=r"text\.tokens\.jsonl:2: 1 lines where the feature file has \d+ rows"):
        load_dataset(toy_folder).features["text"].made_of(0)


def test_the_countries_say_what_their_tokens_are() -> None:
    dataset = load_dataset("countries")
    france, kenya = (dataset.graph.entities.id(f"country/{name}") for name in ("France", "Kenya"))
    assert dataset.features["text"].made_of(france)[0] == "France"
    assert dataset.features["image"].made_of(kenya) == [Patches("images/ke.png", 4, 6)]
    for name in ("text", "image"):
        modality = dataset.features[name]
        said = [bool(modality.made_of(i)) for i in range(len(dataset.graph.entities))]
        assert said == modality.present.tolist()


def test_names_of_ids() -> None:
    shared = [f"http://x.org/page#P_{i}" for i in range(3)] + [f"film/{name}" for name in ("Face/Off", "A_B", "C", "")]
    found = names_of_ids(pl.Series([*shared, "a/b", "a/c", "__", "http://x.org/caf%C3%A9/"])).to_list()
    # `film/Face` is shared by one id, `film` by two and by itself.
    assert found == ["P 0", "P 1", "P 2", "film/Face/Off", "film/A B", "film/C", "film/", "a/b", "a/c", "__", "café"]
