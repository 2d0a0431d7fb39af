"""Folders of texts, pictures and numbers become features: once, and again only where something changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from mmrns.data.datasets import load_dataset
from mmrns.data.tokens import Origin, Patches
from mmrns.errors import DataError, MmrnsError, Note
from mmrns.prepare.encoders import (
    Encoded,
    Encoder,
    encode_numbers,
    encode_pictures,
    encode_texts,
    grid_tokens,
    text_tokens,
    write_features,
)
from mmrns.prepare.encoders.pictures import read_picture

LETTERS = ["a", "n", "e"]
ENTITIES = {"fr": "France", "de": "Germany", "jp": "Japan", "br": "Brazil", "ch": "Switzerland"}


def write_table(path: Path, rows: Iterable[Sequence[str]]) -> None:
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")


def write_entities(folder: Path, **descriptions: str) -> None:
    """Five countries with flags, and one entity with a name alone."""
    texts = {code: f"{name} is a country. It has a flag." for code, name in ENTITIES.items()} | descriptions
    rows = [(code, name, texts[code], f"images/{code}.png") for code, name in ENTITIES.items()]
    write_table(folder / "entities.tsv", [("entity", "name", "description", "image"), *rows, ("eu", "Europe", "", "")])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from mmrns.data.folders import EMBEDDED

    own = tmp_path / "own"
    (own / "images").mkdir(parents=True)
    for code in ENTITIES:
        (own / f"images/{code}.png").write_bytes((EMBEDDED["countries"] / f"images/{code}.png").read_bytes())
    write_entities(own)
    for split in ("train", "valid", "test"):
        write_table(own / f"{split}.tsv", [(code, "in", "eu") for code in ENTITIES])
    return own


class Letters(Encoder):
    """Stands in for a sentence encoder: a token counts three letters. Notes what it was asked for."""

    reads = "texts"
    asked: ClassVar[list[str]] = []
    interrupt_at: ClassVar[int | None] = None

    def __init__(self, model: str, **options: Any):
        super().__init__(**options)
        self.name = model

    def settings(self, tokens: int) -> dict[str, str]:
        return {**super().settings(tokens), "encoder": self.name}

    def encode(self, inputs: Sequence[Sequence[str]], tokens: int) -> tuple[np.ndarray, np.ndarray]:
        values, mask = np.zeros((len(inputs), tokens, 3), np.float16), np.zeros((len(inputs), tokens), np.bool_)
        for row, strings in enumerate(inputs):
            for place, text in enumerate(strings):
                if len(Letters.asked) == Letters.interrupt_at:
                    raise KeyboardInterrupt
                Letters.asked.append(text)
                values[row, place], mask[row, place] = [text.count(letter) for letter in LETTERS], True
        return values, mask


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> type[Letters]:
    monkeypatch.setattr("mmrns.prepare.encoders.encode.SentenceEncoder", Letters)
    monkeypatch.setattr("mmrns.prepare.encoders.encode._CHUNK", 2)
    monkeypatch.setattr(Letters, "asked", [])
    monkeypatch.setattr(Letters, "interrupt_at", None)
    return Letters


def stored(folder: Path, name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Values and mask by entity."""
    path = folder / "features" / f"{name}.safetensors"
    tensors = load_file(path)
    entities = path.with_suffix(".entities").read_text(encoding="utf-8").splitlines()
    return {entity: (tensors["values"][i], tensors["mask"][i]) for i, entity in enumerate(entities)}


def metadata(folder: Path, name: str) -> dict[str, str]:
    with safe_open(folder / "features" / f"{name}.safetensors", framework="np") as file:
        return file.metadata()


def made_of(folder: Path, name: str, entity: str) -> list[Origin]:
    """What the tokens of an entity are said to be made of."""
    dataset = load_dataset(folder)
    return dataset.features[name].made_of(dataset.graph.entities.id(entity))


def files(folder: Path) -> set[str]:
    return {path.name for path in (folder / "features").iterdir()}


def test_texts_with_a_real_model(folder: Path, sentence_model: Path) -> None:
    found = encode_texts(folder, str(sentence_model), device="cpu", tokens=2)
    by = {"description": 5, "name": 1, "id": 0}
    assert found == Encoded("text", folder / "features/text.safetensors", 6, 6, (2, 384), 6, by=by)
    rows = [["France", "France is a country."], ["Europe"]]
    values, mask = text_tokens(rows, 2, sentence_model, device="cpu")
    features = stored(folder, "text")
    for i, entity in enumerate(("fr", "eu")):
        np.testing.assert_allclose(features[entity][0], values[i], atol=1e-3)
        np.testing.assert_array_equal(features[entity][1], mask[i])
    about = metadata(folder, "text")
    assert set(about) == {"writer", "encoder", "revision", "preprocessing", "pooling", "date"}
    assert about["encoder"] == sentence_model.name
    assert about["revision"].startswith("sha256 ")
    assert load_dataset(folder).features["text"].covered == 6


def test_a_second_call_encodes_only_what_changed(folder: Path, letters: type[Letters]) -> None:
    first = encode_texts(folder, "m", batch_size=1)
    path = folder / "features/text.safetensors"
    assert (first.entities, first.new) == (6, 6)
    assert files(folder) == {"text.safetensors", "text.entities", "text.tokens.jsonl"}
    before, when = path.read_bytes(), path.stat().st_mtime_ns
    letters.asked.clear()
    assert encode_texts(folder, "m", batch_size=1).new == 0
    assert letters.asked == []
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, when)

    write_entities(folder, jp="An island. Another one.")
    assert encode_texts(folder, "m", batch_size=1).new == 1
    assert letters.asked == ["Japan", "An island.", "Another one."]
    assert stored(folder, "text")["jp"][0][1].tolist() == [1, 2, 0]
    assert stored(folder, "text")["fr"][0][0].tolist() == [1, 1, 1]

    letters.asked.clear()
    table = folder / "entities.tsv"
    table.write_text(table.read_text().replace("fr\tFrance", "fr\t").replace("France is a country. It has a flag.", ""))
    found = encode_texts(folder, "m", batch_size=1)
    assert (found.entities, found.new, found.by) == (6, 1, {"description": 4, "name": 1, "id": 1})
    assert letters.asked == ["fr"]


def test_another_model_or_length_encodes_all_anew(folder: Path, letters: type[Letters]) -> None:
    encode_texts(folder, "m", batch_size=1)
    found = encode_texts(folder, "other", batch_size=1)
    assert (found.new, found.changed) == (6, ["encoder"])
    found = encode_texts(folder, "other", batch_size=1, tokens=2)
    assert (found.new, found.changed, found.shape) == (6, ["pooling"], (2, 3))


@pytest.mark.parametrize("asked", range(1, 16))
def test_an_interrupted_encoding_goes_on(folder: Path, letters: type[Letters], asked: int) -> None:
    encode_texts(folder, "m", batch_size=1)
    uninterrupted = (folder / "features/text.safetensors").read_bytes()
    write_features(folder, "text", ["fr"], np.ones((1, 1, 3)), np.ones((1, 1), np.bool_), {"encoder": "before"})
    before = (folder / "features/text.safetensors").read_bytes()
    letters.asked.clear()
    letters.interrupt_at = asked
    with pytest.raises(KeyboardInterrupt):
        encode_texts(folder, "m", batch_size=1, overwrite=True)
    assert (folder / "features/text.safetensors").read_bytes() == before
    letters.interrupt_at = None
    encode_texts(folder, "m", batch_size=1, overwrite=True)
    # The chunk of two entities under way is done twice, what was before it is not.
    assert len(letters.asked) - len(set(letters.asked)) <= 6 + letters.asked.count("It has a flag.")
    assert len([text for text in letters.asked if text != "It has a flag."]) <= 11 + 4
    assert (folder / "features/text.safetensors").read_bytes() == uninterrupted
    assert files(folder) == {"text.safetensors", "text.entities", "text.tokens.jsonl"}


def test_parts_of_another_encoding_or_damaged_ones_are_not_used(folder: Path, letters: type[Letters]) -> None:
    letters.interrupt_at = 7
    with pytest.raises(KeyboardInterrupt):
        encode_texts(folder, "m", batch_size=1)
    (part,) = (folder / "features/.text.parts").iterdir()
    assert load_dataset(folder).features.keys() == set()  # Parts are not features.
    content = part.read_bytes()
    letters.interrupt_at = None
    letters.asked.clear()
    encode_texts(folder, "other", batch_size=1)
    assert len(letters.asked) == 16
    part.parent.mkdir()
    part.write_bytes(content[: len(content) // 2])
    letters.asked.clear()
    encode_texts(folder, "m", batch_size=1)
    assert len(letters.asked) == 16


def test_equal_inputs_are_encoded_once(folder: Path, letters: type[Letters], tmp_path: Path) -> None:
    write_table(tmp_path / "t.tsv", [(code, "The same.") for code in ENTITIES])
    found = encode_texts(folder, "m", batch_size=1, file=tmp_path / "t.tsv")
    assert letters.asked == ["The same.", "Europe"]
    assert (found.entities, found.new) == (6, 6)
    assert len({values.tobytes() for values, _ in stored(folder, "text").values()}) == 2


def test_files_of_other_means_are_not_replaced(folder: Path, letters: type[Letters]) -> None:
    write_features(folder, "text", ["fr"], np.ones((1, 1, 3)), np.ones((1, 1), np.bool_), {"encoder": "mine"})
    path = folder / "features/text.safetensors"
    with pytest.raises(DataError) as caught:
        encode_texts(folder, "m", batch_size=1)
    assert str(caught.value) == f"{path}: was made by other means; move it away, or replace it with --overwrite"
    assert letters.asked == []
    assert encode_texts(folder, "m", batch_size=1, overwrite=True).entities == 6
    path.write_bytes(b"damaged")
    with pytest.raises(DataError, match="was made by other means"):
        encode_texts(folder, "m", batch_size=1)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.tsv", "entity\ttext\nfr\tAna ran. Ben\nzoe\tnobody\nfr\tAnna\n"),
        ("t.csv", 'Entity,Description\nfr,"Ana ran. Ben"\nzoe,nobody\nfr,Anna\n'),
        ("t.csv", 'fr,"Ana ran.\nBen"\nzoe,nobody\nfr,Anna\n'),
        ("t.csv", 'entity;text\nfr;"Ana ran. Ben"\nzoe;nobody\nfr;Anna\n'),
        ("t.tsv", '"fr"\t"Ana ran. Ben"\n"zoe"\t"nobody"\n"fr"\t"Anna"\n'),
        ("t.csv", "fr,Ana ran. Ben\rzoe,nobody\rfr,Anna\r"),
    ],
)
@pytest.mark.filterwarnings("ignore:t.tsv. the fields are in quotes, which were taken off")
def test_a_file_of_texts(folder: Path, letters: type[Letters], name: str, content: str) -> None:
    (folder / name).write_text(content)
    found = encode_texts(folder, "m", batch_size=1, file=folder / name)
    assert letters.asked == ["Brazil", "Switzerland", "Germany", "Europe", "Ana ran.", "Ben", "Anna", "Japan"]
    assert found.unmatched == ["zoe"]
    assert found.by == {"description": 1, "name": 5, "id": 0}


@pytest.mark.parametrize(
    ("name", "content"),
    [("t.tsv", " fr\tAnna\nde\t \njp\tBen\nbr\t\n"), ("t.csv", "fr ,Anna\nde,\njp,Ben\nbr,\n")],
)
def test_entities_without_a_text_are_encoded_by_name_and_counted(
    folder: Path, letters: type[Letters], name: str, content: str
) -> None:
    (folder / name).write_text(content)
    with pytest.warns(Note) as said:
        found = encode_texts(folder, "m", batch_size=1, file=folder / name)
    assert letters.asked == ["Brazil", "Switzerland", "Germany", "Europe", "Anna", "Ben"]
    assert (found.entities, found.unmatched, found.by["description"]) == (6, [], 2)
    assert [str(one.message) for one in said] == [
        f"{name}: blanks around 1 names of entities were taken off",
        f"{name}: 2 rows have an empty field and are left out, first: line 2",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("fr\tone\ttwo\n", "t.tsv:1: 3 columns where entity TAB text is expected; mend or delete the row"),
        ("fr\tone\n\nde\ttwo\n", "t.tsv:2: blank line where entity TAB text is expected; mend or delete the row"),
        (
            "zoe\tone\n",
            "t.tsv: no text is of an entity of the graph (first: 'zoe'); use the entity names of the triples",
        ),
        ("", "t.tsv: holds no text; add some"),
    ],
)
def test_files_of_texts_that_do_not_fit(folder: Path, letters: type[Letters], content: str, message: str) -> None:
    (folder / "t.tsv").write_text(content)
    with pytest.raises(DataError) as caught:
        encode_texts(folder, "m", batch_size=1, file=folder / "t.tsv")
    assert str(caught.value) == f"{folder}/{message}"
    assert not (folder / "features").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b,c\n", r"t\.csv:1: 3 columns where entity, text are expected; keep these"),
        ("a,b\nc\n", r"t\.csv:2: 1 column where 2 are expected; mend or delete the row"),
        ("a,b\nc,d,e\n", r"t\.csv:2: 3 columns where 2 are expected; mend or delete the row"),
        ("a,b\n,e\n", r"t\.csv:2: empty entity; name it or delete the row"),
        ('a,b\n"c,e\n', r"t\.csv:2: is malformed \(unexpected end of data\); check the quotes"),
        ("a,\xff", r"t\.csv:1: is not valid UTF-8; save the file as UTF-8"),
    ],
)
def test_csv_that_does_not_fit(folder: Path, letters: type[Letters], content: str, message: str) -> None:
    (folder / "t.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=message) as caught:
        encode_texts(folder, "m", batch_size=1, file=folder / "t.csv")
    assert "\n" not in str(caught.value)


def test_which_words_became_which_token(folder: Path, letters: type[Letters]) -> None:
    write_entities(folder, fr="One. Two. Three. Four.", jp='Says "no"\\. Ñandú\u2028 here.')
    encode_texts(folder, "m", batch_size=1, tokens=3)
    assert made_of(folder, "text", "fr") == ["France", "One.", "Two."]
    assert made_of(folder, "text", "jp")[1:] == ['Says "no"\\.', "Ñandú\u2028 here."]
    assert made_of(folder, "text", "eu") == ["Europe"]
    said = folder / "features/text.tokens.jsonl"
    content = said.read_text()
    said.unlink()
    letters.asked.clear()
    encode_texts(folder, "m", batch_size=1, tokens=3)
    assert (said.read_text(), letters.asked) == (content, [])
    # What another program writes over it is not said to be made of these words.
    write_features(folder, "text", ["fr"], np.ones((1, 1, 3)), np.ones((1, 1), np.bool_), {"encoder": "mine"})
    assert not said.exists()
    assert made_of(folder, "text", "fr") == []


def test_words_of_an_encoder_that_makes_other_tokens_are_not_said(folder: Path, letters: type[Letters]) -> None:
    class Whole(letters):
        def encode(self, inputs: Sequence[Sequence[str]], tokens: int) -> tuple[np.ndarray, np.ndarray]:
            values, mask = super().encode([[" ".join(row)] for row in inputs], tokens)
            return values, mask

    encode_texts(folder, Whole("m"))
    assert made_of(folder, "text", "fr") == []
    assert made_of(folder, "text", "eu") == ["Europe"]


def test_names_of_ids_stand_for_texts(folder: Path, letters: type[Letters]) -> None:
    (folder / "entities.tsv").unlink()
    people = ["http://dbpedia.org/resource/Abu_Dhabi", "person/Ann_Lee", "person/Bo", "person/张艺谋", "AC/DC", "_:b1"]
    rows = [(one, "in", "流浪地球") for one in people]
    for split in ("train", "valid", "test"):
        write_table(folder / f"{split}.tsv", rows)
    found = encode_texts(folder, "m")
    assert found.by == {"description": 0, "name": 0, "id": 7}
    said = {one: made_of(folder, "text", one) for one in [*people, "流浪地球"]}
    expected = ["Abu Dhabi", "Ann Lee", "Bo", "张艺谋", "AC/DC", "b1", "流浪地球"]
    assert said == dict(zip(said, [[name] for name in expected], strict=True))


def test_where_in_which_picture_a_token_lies(folder: Path) -> None:
    pytest.importorskip("skimage")
    (folder / "images" / "de").mkdir()
    for n in (1, 2):
        (folder / f"images/de/{n}.png").write_bytes((folder / "images/de.png").read_bytes())
    (folder / "images/de/3.png").write_text("no picture")
    table = folder / "entities.tsv"
    table.write_text(table.read_text().replace("images/de.png", "images/de"))
    for _ in range(2):
        encode_pictures(folder, "classical")
        assert made_of(folder, "image", "fr") == [Patches("images/fr.png", 4, 6)]
        assert made_of(folder, "image", "de") == [Patches(f"images/de/{n}.png", 3, 4) for n in (1, 2)]
        assert made_of(folder, "image", "eu") == []
    encode_pictures(folder, "classical", pictures=folder.parent / "own/images", tokens=4, overwrite=True)
    assert made_of(folder, "image", "fr") == [Patches("images/fr.png", 2, 2)]


def test_which_number_became_which_token(folder: Path) -> None:
    rows = [("fr", "area", "5"), ("fr", "people", "1e6"), ("fr", "area", "-2"), ("de", "people", "3")]
    rows += [(code, "year", "1990") for code in ("fr", "de", "jp")]
    write_table(folder / "n.tsv", rows)
    encode_numbers(folder, folder / "n.tsv", tokens=3)
    assert made_of(folder, "numeric", "fr") == ["year 1990", "area -2", "area 5"]
    assert made_of(folder, "numeric", "de") == ["year 1990", "people 3"]
    # The tokens say the same: their attribute is one-hot.
    values, _ = stored(folder, "numeric")["fr"]
    assert values[:, :3].argmax(1).tolist() == [0, 1, 1]
    assert values[1].tolist() != values[2].tolist()


def test_folders_without_texts(folder: Path, letters: type[Letters]) -> None:
    for change in (
        lambda: write_table(folder / "entities.tsv", [("entity",), ("fr",)]),
        (folder / "entities.tsv").unlink,
    ):
        change()
        letters.asked.clear()
        found = encode_texts(folder, "m", batch_size=1, overwrite=True)
        assert (found.entities, found.by) == (6, {"description": 0, "name": 0, "id": 6})
    assert {entity: made_of(folder, "text", entity) for entity in ("br", "eu")} == {"br": ["br"], "eu": ["eu"]}
    with pytest.raises(DataError, match=r"holds neither triples nor entities\.tsv; give the folder of a dataset"):
        encode_texts(folder / "images", "m")


def test_classical_pictures(folder: Path) -> None:
    pytest.importorskip("skimage")
    found = encode_pictures(folder, "classical")
    assert found == Encoded("image", folder / "features/image.safetensors", 5, 5, (24, 42), 6)
    features = stored(folder, "image")
    for code in ENTITIES:
        picture = np.asarray(read_picture(folder / f"images/{code}.png"))
        np.testing.assert_allclose(features[code][0], grid_tokens([picture])[0], atol=1e-3)
        assert features[code][1].all()
    assert encode_pictures(folder, "classical").new == 0
    (folder / "images/fr.png").write_bytes((folder / "images/jp.png").read_bytes())
    assert encode_pictures(folder, "classical").new == 0  # The other's tokens are at hand.
    assert (stored(folder, "image")["fr"][0] == stored(folder, "image")["jp"][0]).all()


def test_a_feature_file_that_changes_while_it_is_read_is_noticed(folder: Path, letters: type[Letters]) -> None:
    """What is not encoded anew is mapped from it."""
    encode_texts(folder, "letters")
    path = folder / "features/text.safetensors"
    write_entities(folder, fr="Another text.")

    class Meddling(letters):
        def encode(self, inputs: Sequence[Sequence[str]], tokens: int) -> tuple[np.ndarray, np.ndarray]:
            path.write_bytes(path.read_bytes()[:-1] + b"\0")
            return super().encode(inputs, tokens)

    meddling = Meddling("letters")
    with pytest.raises(
        DataError, match=r"text\.safetensors: was changed by another program while it was read; let one"
    ):
        encode_texts(folder, meddling)
    assert encode_texts(folder, "letters").entities == 6


def test_pictures_with_a_vision_model(folder: Path, vision_model: Path) -> None:
    found = encode_pictures(folder, str(vision_model), tokens=4, batch_size=2)
    assert (found.entities, found.new, found.shape) == (5, 5, (4, 16))
    about = metadata(folder, "image")
    assert about["encoder"] == "tiny-beit"
    assert (
        about["preprocessing"] == "RGB on white; grey levels of more than 8 bits scaled; BeitImageProcessorPil 32 x 32"
    )
    first = stored(folder, "image")
    (folder / "features/image.safetensors").unlink()
    encode_pictures(folder, str(vision_model), tokens=4, batch_size=32)
    for code, (values, _) in stored(folder, "image").items():
        np.testing.assert_allclose(values, first[code][0], atol=2e-3)


def test_several_pictures_share_the_tokens(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    pictures = tmp_path / "pictures"
    for place, code in [("fr/1", "fr"), ("fr/2", "de"), ("fr/3", "jp"), ("de", "de"), ("zoe", "br")]:
        (pictures / place).parent.mkdir(parents=True, exist_ok=True)
        (pictures / f"{place}.png").write_bytes((folder / f"images/{code}.png").read_bytes())
    found = encode_pictures(folder, "classical", pictures=pictures, tokens=7)
    assert (found.entities, list(found.unmatched)) == (2, ["zoe.png"])
    values, mask = stored(folder, "image")["fr"]
    assert mask.tolist() == [True] * 6 + [False]
    for i, code in enumerate(("fr", "de", "jp")):
        picture = np.asarray(read_picture(folder / f"images/{code}.png"))
        np.testing.assert_allclose(values[2 * i : 2 * i + 2], grid_tokens([picture], 1, 2)[0], atol=1e-3)
    assert not values[6].any()
    encode_pictures(folder, "classical", pictures=pictures, tokens=2)
    assert stored(folder, "image")["fr"][1].tolist() == [True, True]  # Of the first two.


def test_pictures_that_cannot_be_read_are_left_out(folder: Path) -> None:
    pytest.importorskip("skimage")
    good = (folder / "images/fr.png").read_bytes()
    (folder / "images/fr.png").write_bytes(good[: len(good) // 2])
    (folder / "images/de.png").unlink()
    (folder / "images/jp.png").rename(folder / "images/jp1.png")
    (folder / "images/jp.png").mkdir()
    (folder / "images/jp1.png").rename(folder / "images/jp.png/1.png")
    (folder / "images/jp.png/2.png").write_text("no picture")
    found = encode_pictures(folder, "classical")
    assert {(s.entity, Path(s.input).name) for s in found.skipped} == {
        ("fr", "fr.png"),
        ("de", "de.png"),
        ("jp", "2.png"),
    }
    assert (found.entities, found.new) == (3, 3)
    features = stored(folder, "image")
    assert set(features) == {"jp", "br", "ch"}
    assert features["jp"][1].all()  # All tokens go to the picture that is left.
    # They are looked at again, the others are not.
    again = encode_pictures(folder, "classical")
    assert again.skipped == found.skipped
    assert (again.entities, again.new) == (3, 1)
    (folder / "images/fr.png").write_bytes(good)
    assert encode_pictures(folder, "classical").entities == 4


def test_equal_pictures_that_cannot_be_read_are_told_for_each_entity(folder: Path) -> None:
    """Rows of equal content are encoded once, but each of their entities is left without a picture."""
    pytest.importorskip("skimage")
    for code in ("de", "jp"):
        (folder / f"images/{code}.png").write_text("<html>404</html>")
    for code in ("br", "ch"):
        (folder / f"images/{code}.png").unlink()
    found = encode_pictures(folder, "classical")
    reasons = {one.entity: (Path(one.input).name, one.reason) for one in found.skipped}
    assert reasons == {
        "de": ("de.png", "no picture that can be read"),
        "jp": ("jp.png", "no picture that can be read"),
        "br": ("br.png", "no such file or directory"),
        "ch": ("ch.png", "no such file or directory"),
    }
    assert found.entities == 1
    assert encode_pictures(folder, "classical").skipped == found.skipped


def test_pictures_that_change_while_they_are_read_are_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage")
    from mmrns.prepare.encoders import encode as module

    def read(path: Path) -> Any:
        picture = read_picture(path)
        if path.name == "fr.png":
            path.write_bytes((folder / "images/de.png").read_bytes())
        return picture

    with monkeypatch.context() as patched:
        patched.setattr(module, "read_picture", read)
        found = encode_pictures(folder, "classical")
    assert [(one.entity, one.reason) for one in found.skipped] == [("fr", "changed while it was read")]
    assert encode_pictures(folder, "classical").entities == 5


def test_an_interrupted_encoding_of_pictures_reports_all_in_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("skimage")
    (folder / "images/br.png").write_text("no picture")
    monkeypatch.setattr("mmrns.prepare.encoders.encode._CHUNK", 2)
    from mmrns.prepare.encoders import encode as module

    calls = 0

    def read(path: Path) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return read_picture(path)

    monkeypatch.setattr(module, "read_picture", read)
    with pytest.raises(KeyboardInterrupt):
        encode_pictures(folder, "classical", batch_size=1)
    found = encode_pictures(folder, "classical", batch_size=1)
    assert [skipped.entity for skipped in found.skipped] == ["br"]
    assert (found.entities, found.new) == (4, 3)
    assert calls == 4 + 4


def test_folders_without_pictures(folder: Path) -> None:
    pytest.importorskip("skimage")
    for path in (folder / "images").iterdir():
        path.write_text("no picture")
    with pytest.raises(DataError, match=r"br\.png: no picture that can be read, nor can another picture be read"):
        encode_pictures(folder, "classical")
    assert not (folder / "features").exists()
    write_table(folder / "entities.tsv", [("entity", "image"), ("fr", "")])
    for path in (folder / "images").iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    with pytest.raises(DataError, match=r"no picture is of an entity of the graph \(first: 'xbr\.png'\)"):
        encode_pictures(folder, "classical")
    (folder / "images").rename(folder / "flags")
    with pytest.raises(DataError, match=r"images: there are no pictures; fill the column 'image' of entities\.tsv"):
        encode_pictures(folder, "classical")


def test_numbers(folder: Path) -> None:
    write_table(
        folder / "n.tsv", [("fr", "area", "643801"), ("de", "area", "3.57e5"), ("zoe", "area", "1"), ("fr", "sea", "1")]
    )
    found = encode_numbers(folder, folder / "n.tsv", tokens=2)
    assert (found.entities, found.new, found.shape, found.unmatched) == (2, 2, (2, 18), ["zoe"])
    features = stored(folder, "numeric")
    assert features["fr"][1].tolist() == [True, True]
    assert features["de"][0][0, :2].tolist() == [1, 0]
    assert "pooling" in metadata(folder, "numeric")
    assert encode_numbers(folder, folder / "n.tsv", tokens=2).new == 0
    assert encode_numbers(folder, folder / "n.tsv", tokens=3).new == 2
    (folder / "n.csv").write_text('id,attribute,value\nfr,area,"5"\n')
    assert encode_numbers(folder, folder / "n.csv").entities == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("entity\tattribute\tvalue\nfr\tarea\tlarge\n", "n.tsv:2: 'large' is not a number; mend or delete the row"),
        ("fr\tarea\t1\nfr\tarea\tnan\n", "n.tsv:2: 'nan' is not a number; mend or delete the row"),
        ("fr\t1\n", "n.tsv:1: 2 columns where entity TAB attribute TAB value is expected; mend or delete the row"),
        (
            "zoe\tarea\t1\n",
            "n.tsv: no number is of an entity of the graph (first: 'zoe'); use the entity names of the triples",
        ),
        ("entity\tattribute\tvalue\n", "n.tsv: holds no number; add some"),
    ],
)
def test_numbers_that_do_not_fit(folder: Path, content: str, message: str) -> None:
    (folder / "n.tsv").write_text(content)
    with pytest.raises(MmrnsError) as caught:
        encode_numbers(folder, folder / "n.tsv")
    assert str(caught.value) == f"{folder}/{message}"
    assert not (folder / "features").exists()
