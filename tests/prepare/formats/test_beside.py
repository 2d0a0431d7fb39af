"""Tables and pictures beside the triples, as people have them: mapped, or named as not understood."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrns.data.datasets import load_dataset
from mmrns.data.folders import EMBEDDED
from mmrns.errors import DataError, UsageError
from mmrns.prepare.formats import Chosen, Converted, convert
from mmrns.prepare.formats.columns import find_roles, role_of
from mmrns.prepare.formats.photos import match_pictures

FILMS = {"tt1": "Face/Off", "tt2": "Alien", "tt3": "Up"}
PLOT = "A man takes the face of another man, and nobody knows who is who any more."
FACTS = "film,property,value\n" + "".join(
    f"{film},{relation},{value}\n"
    for i, film in enumerate(FILMS)
    for relation, value in (("director", f"Person {i}"), ("genre", "Drama"), ("year", "1997"))
)
PNG = (EMBEDDED["countries"] / "images" / "ke.png").read_bytes()


def put(folder: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, pl.DataFrame):
            content.write_parquet(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def entities(folder: Path) -> dict[str, dict[str, str]]:
    """The rows of `entities.tsv`."""
    frame = pl.read_csv(folder / "entities.tsv", separator="\t", quote_char=None, infer_schema=False)
    return {row.pop("entity"): row for row in frame.fill_null("").to_dicts()}


def films(tmp_path: Path, files: dict[str, Any], **options: Any) -> Converted:
    source = put(tmp_path / "in", {"triples.csv": FACTS, **files})
    return convert(source, tmp_path / "out", **options)


def said(done: Converted, *starts: str) -> bool:
    """Whether there is a note for each of these starts."""
    return all(any(note.startswith(start) for note in done.notes) for start in starts)


def test_a_film_graph_as_people_have_it(tmp_path: Path) -> None:
    table = "id,title,original_title,tagline,plot,year,budget,genre,poster\n"
    table += f'tt1,Face/Off,Volte/Face,Wow,"{PLOT}",1997,8e7,thriller,tt1.png\ntt2,Alien,Alien,,N/A,1979,N/A,horror,\n'
    done = films(tmp_path, {"movies.csv": table, "posters/tt1.png": PNG, "posters/tt3.jpg": PNG, "notes.docx": b"PK"})
    assert done.relations == 3
    assert entities(tmp_path / "out") == {
        "tt1": {
            "name": "Face/Off",
            "original_title": "Volte/Face",
            "description": f"Wow. {PLOT}",
            "genre": "thriller",
            "image": "posters/tt1.png",
        },
        "tt2": {"name": "Alien", "original_title": "Alien", "description": "", "genre": "horror", "image": ""},
        "tt3": {"name": "", "original_title": "", "description": "", "genre": "", "image": "posters/tt3.jpg"},
    }
    assert (tmp_path / "out/numbers.tsv").read_text().splitlines() == [
        "entity\tattribute\tvalue",
        *("tt1\tyear\t1997", "tt2\tyear\t1979", "tt1\tbudget\t8e7"),
    ]
    assert done.pictures == (2, 2)
    assert done.notes == [
        "triples.csv: the first line was taken for a header (film, property, value); --no-header makes it a triple",
        "movies.csv: `id` names 2 of 8 entities: name from `title`; description from `tagline` and `plot`, joined; "
        "picture from `poster`; numbers from `year`, `budget` (numbers.tsv, for encode --numbers); "
        "--text COLUMN takes one alone",
        "movies.csv: `original_title`, `genre` are columns of entities.tsv that nothing reads; "
        "--name, --text or --image COLUMN maps one",
        "not read: notes.docx",
    ]


ROWS = [
    {"id": "tt1", "title": "Face/Off", "plot": PLOT, "cast": ["A", "B"]},
    {"id": "tt2", "title": "Alien", "plot": None},
]
FORMATS: dict[str, Any] = {
    "movies.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    "movies.ndjson": "\n".join(json.dumps(row) for row in ROWS) + "\n\n",
    "movies.json": json.dumps(ROWS),
    "by_id.json": json.dumps({row["id"]: {k: v for k, v in row.items() if k != "id"} for row in ROWS}),
    "movies.parquet": pl.DataFrame(ROWS),
    "movies.tsv": f"id\ttitle\tplot\tcast\ntt1\tFace/Off\t{PLOT}\tA; B\ntt2\tAlien\t\t\n",
    "movies.txt": f"id|title|plot|cast\ntt1|Face/Off|{PLOT}|A; B\ntt2|Alien||\n",
    "entities.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_of_tables(tmp_path: Path, name: str) -> None:
    films(tmp_path, {name: FORMATS[name]})
    assert entities(tmp_path / "out") == {
        "tt1": {"name": "Face/Off", "description": PLOT, "cast": "A; B"},
        "tt2": {"name": "Alien", "description": "", "cast": ""},
    }


def test_the_column_of_entities_is_found_by_what_it_holds(tmp_path: Path) -> None:
    """Years are entities too, and there are fewer of them."""
    table = (
        f"year,imdb,film,words\n1997,9,tt1,{PLOT.replace(',', '')}\n1979,8,tt2,{PLOT.replace(',', '')}x\n1997,7,tt9,\n"
    )
    done = films(tmp_path, {"x.csv": table})
    assert set(entities(tmp_path / "out")) == {"tt1", "tt2"}
    assert said(done, "x.csv: 1 rows are of no entity of the triples and were left out, first: 'tt9'; --entities x.csv")
    convert(tmp_path / "in", tmp_path / "all", entities=[tmp_path / "in/x.csv"])
    assert set(entities(tmp_path / "all")) == {"tt1", "tt2", "tt9"}
    done = convert(tmp_path / "in", tmp_path / "keyed", entities=[tmp_path / "in/x.csv"], chosen=Chosen(key="year"))
    assert set(entities(tmp_path / "keyed")) == {"1997", "1979"}
    assert said(done, "x.csv: 1 rows contradict another of the same entity, of which the first counts")


def test_columns_can_be_chosen(tmp_path: Path) -> None:
    table = "id,title,wörk,plot,hint\ntt1,Face/Off,Werk,Short.,More\ntt2,Alien,Film,,x\n"
    films(tmp_path, {"m.csv": table}, chosen=Chosen(name="wörk", text=["hint", "plot"]))
    assert entities(tmp_path / "out")["tt1"] == {"title": "Face/Off", "name": "Werk", "description": "More. Short."}
    with pytest.raises(UsageError) as caught:
        convert(tmp_path / "in", tmp_path / "no", chosen=Chosen(text=["plto"]))
    wanted = "no table of entities has a column 'plto'; did you mean 'plot'? m.csv has id, title, wörk, plot, hint"
    assert str(caught.value) == wanted
    assert not (tmp_path / "no").exists()
    with pytest.raises(UsageError, match="no table of entities has a column 'plot'; there is no table"):
        convert(put(tmp_path / "bare", {"g.csv": FACTS}), tmp_path / "no", chosen=Chosen(text=["plot"]))


LEFT: dict[str, tuple[dict[str, Any], str]] = {
    "rows of others": ({"x.csv": "user,score\nu1,3\nu2,4\n"}, "x.csv is not read: it has no column whose names are"),
    "few entities": (
        {"x.csv": "id,title\ntt1,a\n" + "".join(f"zz{i},b\n" for i in range(9))}
        | {"triples.csv": FACTS * 3 + "".join(f"a{i},r,b{i}\n" for i in range(40))},
        "x.csv is not read: it has no column of entities: of `id` 1 of 10 names are one; --entities FILE takes",
    ),
    "several rows": (
        {"cast.csv": "film,actor,role\n" + "".join(f"{film},p{i},r{i}\n" for film in FILMS for i in range(3))},
        "cast.csv is not read: it has several rows for an entity, by its column `film`; --entities FILE joins them",
    ),
    "more triples": (
        {"more.csv": "tt1,director,Person 2\ntt2,genre,Drama\ntt3,year,1998\n"},
        "more.csv is not read: it seems to hold triples too; put all of them into one file",
    ),
    "no header": (
        {"x.csv": f"tt1,Face,{PLOT.replace(',', '')}\ntt2,Alien,y\n"},
        "x.csv is not read: it has no header line; name its columns in one",
    ),
    "malformed": ({"x.csv": "id,title\ntt1\n"}, "x.csv is not read: 1 column where 2 are expected (line 2); mend"),
    "malformed JSON": ({"x.jsonl": '{"id": "tt1"}\n{"id\n'}, "x.jsonl is not read: is not valid JSON"),
    "an empty table": ({"x.csv": ""}, "x.csv is not read: is empty; check the file"),
    "a folder of texts": ({"docs/a.txt": "a"}, "docs/ is not read; --images "),
    "pictures of others": (
        {"me/a.png": PNG, "me/b.png": PNG, "logo.png": PNG},
        "me is not read: its pictures are called after no entity, first: me/a.png; --images ",
    ),
    "an array": ({"vectors.npy": b"\x93NUMPY"}, "vectors.npy is not read; --features NAME="),
    "a column more": (
        {"triples.csv": FACTS.replace("\n", ",imdb\n").replace(",imdb", ",source", 1)},
        "triples.csv: the first",
    ),
    "others": ({"a.xlsx": b"PK", "b.py": "x"}, "not read: a.xlsx, b.py"),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_is_not_understood_is_named(tmp_path: Path, case: str) -> None:
    files, note = LEFT[case]
    done = films(tmp_path, files)
    assert said(done, note), done.notes
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["train.tsv"]


def test_nothing_is_said_of_what_goes_along_or_is_of_no_use(tmp_path: Path) -> None:
    files = {"README.md": "x", "LICENSE.txt": "x", ".git/x": "y", ".DS_Store": "z", "README.txt": "q"}
    assert len(films(tmp_path, files).notes) == 1


def test_a_table_of_relations_is_found(tmp_path: Path) -> None:
    table = "property,label,comment\ngenre,is of the genre,x\ndirector,was directed by,y\nsequel,z,\n"
    done = films(tmp_path, {"properties.csv": table})
    assert said(done, "properties.csv: names 2 relations")
    assert (tmp_path / "out/relations.tsv").read_text().splitlines()[1].startswith("genre\tis of the genre")


def test_the_triples_are_found_among_several_tables(tmp_path: Path) -> None:
    files = {"films.csv": "id,title,plot\ntt1,Face/Off,x\ntt2,Alien,y\ntt3,Up,z\n", "statements.csv": FACTS}
    done = convert(put(tmp_path / "in", files), tmp_path / "out")
    assert (done.relations, entities(tmp_path / "out")["tt3"]["name"]) == (3, "Up")
    put(tmp_path / "in", {"more_statements.csv": FACTS})
    with pytest.raises(
        DataError, match=r"in: holds no triples that are recognised .* name the file of triples \(and --ent"
    ):
        convert(tmp_path / "in", tmp_path / "no")


def test_a_file_alone_says_what_lies_beside_it(tmp_path: Path) -> None:
    source = put(tmp_path / "in", {"g.csv": FACTS, "m.csv": "id,title\ntt1,Face/Off\n", "posters/tt1.png": PNG})
    done = convert(source / "g.csv", tmp_path / "alone")
    assert said(done, "g.csv alone was read; beside it lie m.csv, posters/: give the folder, or --entities FILE and")
    done = convert(source / "g.csv", tmp_path / "out", entities=[source / "m.csv"], images=[source / "posters"])
    assert entities(tmp_path / "out") == {"tt1": {"name": "Face/Off", "image": "posters/tt1.png"}}
    assert not said(done, "g.csv alone")


def test_what_is_given_must_fit(tmp_path: Path) -> None:
    source = put(tmp_path / "in", {"g.csv": FACTS, "m.csv": "id,title\nx,y\n"})
    for options, message in (
        ({"entities": [source / "absent.csv"]}, r"absent\.csv: cannot be read"),
        ({"entities": [put(tmp_path, {"a.xlsx": b"PK"}) / "a.xlsx"]}, r"a\.xlsx: is a spreadsheet; save it as CSV"),
        ({"images": [source / "absent"]}, r"absent: is no folder; give the folder of the pictures itself"),
        ({"images": [source / "g.csv"]}, r"g\.csv: is no folder"),
    ):
        with pytest.raises(DataError, match=message):
            convert(source, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()


NAMES = [
    "country/Côte d'Ivoire",
    "country/Kenya",
    "http://x.org/Abu_Dhabi",
    "Q1",
    "Q2",
    "Star Wars: A New Hope",
    "流浪地球",
]
LABELS = {"Q1": "Happiness", "Q2": "Belgium"}


@pytest.mark.parametrize(
    ("picture", "entity"),
    [
        ("p/country/Kenya.png", "country/Kenya"),
        ("p/country_Kenya.png", "country/Kenya"),
        ("p/country-kenya.JPG", "country/Kenya"),
        ("p/country%2FKenya.webp", "country/Kenya"),
        ("p/Kenya.png", None),
        ("p/country_Côte_d_Ivoire.png", "country/Côte d'Ivoire"),
        ("p/country_Co\u0302te d'Ivoire.png", "country/Côte d'Ivoire"),
        ("p/http%3A%2F%2Fx.org%2FAbu_Dhabi.png", "http://x.org/Abu_Dhabi"),
        ("p/Abu Dhabi.png", "http://x.org/Abu_Dhabi"),
        ("p/Q1.png", "Q1"),
        ("p/happiness.png", "Q1"),
        ("p/Q2/front.png", "Q2"),
        ("Q2.png", "Q2"),
        ("p/Star Wars - A New Hope.png", "Star Wars: A New Hope"),
        ("p/流浪地球.png", "流浪地球"),
        ("p/1994/流浪地球.png", "流浪地球"),
        ("p/nobody.png", None),
        ("p/---.png", None),
    ],
)
def test_pictures_are_called_after_entities(picture: str, entity: str | None) -> None:
    found = match_pictures([picture], pl.Series(NAMES), LABELS)
    assert found.get(picture, (None,))[0] == entity


def test_a_name_of_two_is_of_none() -> None:
    names = pl.Series(["a/b", "a_b", "x", "y"])
    assert match_pictures(["p/a-b.png", "p/same.png"], names, {"x": "same", "y": "same"}) == {}
    assert match_pictures(["p/a_b.png"], names, {}) == {"p/a_b.png": ("a_b", "p/a_b.png")}
    cased = match_pictures(["p/m_0x.png", "p/m_0X.png", "p/M_0X.png"], pl.Series(["/m/0x", "/m/0X"]), {})
    assert {path: entity for path, (entity, _) in cased.items()} == {"p/m_0x.png": "/m/0x", "p/m_0X.png": "/m/0X"}


def test_folders_of_years_are_told_from_folders_of_entities() -> None:
    names = pl.Series(["1994", "1995", "tt1", "tt2", "tt3", "bob", "1", "2"])
    years = [f"p/{year}/tt{i}.png" for i, year in ((1, 1994), (2, 1994), (3, 1995))]
    assert [entity for entity, _ in match_pictures(years, names, {}).values()] == ["tt1", "tt2", "tt3"]
    assert match_pictures(["p/bob/7.png", "p/bob/8.png"], names, {}) == {
        f"p/bob/{i}.png": ("bob", "p/bob") for i in (7, 8)
    }


@settings(deadline=None)
@given(st.lists(st.text("ab/ _-%é:", min_size=1, max_size=6), unique=True, max_size=8))
def test_a_picture_called_as_an_entity_is_its_own(names: list[str]) -> None:
    for name in names:
        found = match_pictures([f"p/{name}.png"], pl.Series(names, dtype=pl.String), {})
        assert found[f"p/{name}.png"] == (name, f"p/{name}.png")


CELLS = {
    "the name of the file": "tt1.png",
    "relative to the table": "posters/tt1.png",
    "a path of Windows": "C:\\films\\posters\\tt1.png",
    "a path elsewhere": "/data/posters/TT1.png",
    "a path upwards": "../posters/tt1.png",
    "a web address": "https://image.example.org/t/p/w500/tt1.png?size=1",
}


@pytest.mark.parametrize("case", CELLS)
def test_fields_of_pictures(tmp_path: Path, case: str) -> None:
    done = films(tmp_path, {"m.csv": f"id,poster_path\ntt1,{CELLS[case]}\n", "posters/tt1.png": PNG})
    assert entities(tmp_path / "out")["tt1"] == {"image": "posters/tt1.png"}
    assert done.pictures == (1, 1)


def test_an_absolute_path_and_one_that_only_the_table_knows(tmp_path: Path) -> None:
    source = put(tmp_path / "in", {"data/deep/a.png": PNG, **{f"data/{i}.txt": "x" for i in range(9)}, "b.png": PNG})
    table = f"id,poster\ntt1,data/deep/a.png\ntt2,{source.resolve()}/b.png\ntt3,https://x.org/nowhere.png\n"
    films(tmp_path, {"m.csv": table})
    images = {entity: row["image"] for entity, row in entities(tmp_path / "out").items()}
    assert images == {"tt1": "data/deep/a.png", "tt2": "b.png", "tt3": "https://x.org/nowhere.png"}
    assert (tmp_path / "out/data/deep/a.png").read_bytes() == (tmp_path / "out/b.png").read_bytes() == PNG


def test_several_pictures_of_an_entity(tmp_path: Path) -> None:
    done = films(tmp_path, {"posters/tt1.png": PNG, "photos/tt1.jpg": PNG, "photos/x.png": PNG})
    assert entities(tmp_path / "out") == {"tt1": {"image": "photos/tt1.jpg; posters/tt1.png"}}
    assert said(
        done, "1 of 3 pictures are called after no entity, or after several, first: photos/x.png; call them ENTITY.png"
    )


def links(tmp_path: Path, folder: str, made: Sequence[tuple[str, Path]]) -> None:
    (tmp_path / "in" / folder).mkdir(parents=True, exist_ok=True)
    for name, to in made:
        (tmp_path / "in" / folder / name).symlink_to(to)


def test_links_to_pictures_are_followed(tmp_path: Path) -> None:
    store = put(tmp_path / "store", {"ab/1": PNG, "posters/tt2.png": PNG})
    links(tmp_path, ".", [("posters", store / "posters")])
    links(tmp_path, "photos", [("tt1.png", store / "ab/1")])
    done = films(tmp_path, {})
    images = {entity: row["image"] for entity, row in entities(tmp_path / "out").items()}
    assert images == {"tt1": "photos/tt1.png", "tt2": "posters/tt2.png"}
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert said(done, "1 pictures are links to other places; what they lead to was copied")
    assert said(done, f"posters/ is a link to {store / 'posters'}; what lies there was copied")


def test_other_links_are_refused_or_stay_within(tmp_path: Path) -> None:
    secret = put(tmp_path / "secret", {"passwd": "root", "a/b.png": PNG})
    put(tmp_path / "in", {"posters/deep/tt1.png": PNG, "posters/tt3.png": PNG})
    links(tmp_path, "posters", [("again", Path("deep"))])
    films(tmp_path, {})
    assert (tmp_path / "out/posters/again/tt1.png").is_file()
    (tmp_path / "in/lost").symlink_to("nowhere")
    done = convert(tmp_path / "in", tmp_path / "lost")
    assert said(done, "lost is a link that leads nowhere or in a circle")
    for name, to, message in (
        ("tt2.png", secret / "passwd", "is a link out of its folder; put the file itself there"),
        ("tt2", secret / "a", "is a link to a folder elsewhere; put the folder itself there, or name it with --images"),
        ("deep/up", Path(".."), "is a link to a folder that it lies in; remove it"),
        ("lost.png", Path("nowhere"), "is a link that leads nowhere or in a circle"),
    ):
        link = tmp_path / "in/posters" / name
        link.symlink_to(to)
        with pytest.raises(DataError, match=message):
            convert(tmp_path / "in", tmp_path / "no")
        link.unlink()


def test_a_dataset_folder_stays_as_it_is(toy_folder: Path, tmp_path: Path) -> None:
    """Whatever is recognised, a dataset is converted to itself."""
    before = {path.name: path.read_bytes() for path in toy_folder.iterdir() if path.is_file()}
    done = convert(toy_folder, tmp_path / "out")
    assert done.notes == []
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()} == before


def test_words_of_columns() -> None:
    roles = {
        "name": "title 片名 movie_title englishName 中文名称",
        "text": "Overview plot_summary 剧情简介 shortDescription",
    }
    roles["image"] = "poster_path Image 海报链接 thumbnailUrl"
    for role, columns in roles.items():
        assert [role_of(column)[0] for column in columns.split()] == [role] * len(columns.split())
    frame = pl.DataFrame({"id": ["a"], "image_width": ["300"], "title": ["1984"], "zip": ["12345"], "film_id": ["7"]})
    found = find_roles(frame, "id", Chosen())
    assert (found.name, found.image, found.numbers, found.others) == (
        "title",
        None,
        ["image_width"],
        ["zip", "film_id"],
    )


def test_it_loads_and_splits(tmp_path: Path) -> None:
    from mmrns.prepare.split import split_dataset

    films(tmp_path, {"m.csv": f'id,title,plot\ntt1,Face/Off,"{PLOT}"\n', "posters/tt1.png": PNG})
    with pytest.raises(DataError, match=r"`mmrns data split .*out DST` makes train, valid and test"):
        load_dataset(tmp_path / "out")
    split_dataset(tmp_path / "out", tmp_path / "split", valid=1, test=0, leakage_free=False)
    dataset = load_dataset(tmp_path / "split")
    assert (dataset.labels["tt1"], dataset.descriptions["tt1"]) == ("Face/Off", PLOT)
    assert (tmp_path / "split" / dataset.images["tt1"]).is_file()
