"""Entities that are added to a dataset after the training: answered for where the model knows them by features."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import mmrns
from mmrns.errors import DataError, Note, UsageError
from toy import SHORT


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset `kg`, a run `structure` and a run `fused` of it; not to be changed."""
    from toy import write_toy

    folder = tmp_path_factory.mktemp("added")
    write_toy(folder / "kg")
    for name, modalities in (("structure", None), ("fused", ["text"])):
        given: dict[str, Any] = {"modalities": modalities, "method": "mmrns", "device": "cpu", "settings": SHORT}
        mmrns.train(dataset=folder / "kg", out=folder / name, **given, plots=False)
    return folder


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "x"))


def add(kg: Path, entity: str, name: str, like: str | None = None) -> None:
    """A row of `entities.tsv`, and of the feature `text` a copy of another's."""
    with (kg / "entities.tsv").open("a") as file:
        file.write(f"{entity}\t{name}\t\t\n")
    if like is None:
        return
    path = kg / "features" / "text.safetensors"
    tensors, listing = load_file(path), path.with_suffix(".entities")
    names = listing.read_text().splitlines()
    row = names.index(like)
    save_file(
        {key: torch.cat([value, value[row : row + 1]]) for key, value in tensors.items()}, path, {"encoder": "toy"}
    )
    listing.write_text("\n".join([*names, entity]) + "\n")


def load(path: Path, **more: Any) -> mmrns.Run:
    with pytest.warns(Note, match="is not as it was when"):
        return mmrns.load_run(path, **more)


def test_a_model_of_features_answers_for_new_entities(place: Path) -> None:
    before = mmrns.load_run(place / "fused")
    expected = before.predict("e04", "likes", top=99)
    # In the order of names it stands among the others.
    add(place / "kg", "e04b", "New one", like="e08")
    run = load(place / "fused")
    with pytest.warns(
        Note, match=r"kg has 1 more entity \('e04b'\) since the training, which the model knows by features"
    ):
        found = run.predict("e04", "likes", top=99)
    assert found.filter(found["tail"] != "e04b").drop("rank").equals(expected.drop("rank"))
    row = found.filter(tail="e04b").row(0, named=True)
    assert (row["tail_name"], row["seen"], row["known"]) == ("New one", False, False)
    assert len(run.predict("new ONE", "likes", top=3)) == 3
    assert run.score([("e04", "likes", "New one")])["score"][0] == pytest.approx(row["score"])
    # What it is scored by is its text, which is that of another.
    vectors = {row["entity"]: row for row in run.embeddings().to_dicts()}
    assert vectors["e04b"]["structure"] is None
    assert vectors["e04b"]["text"] == pytest.approx(vectors["e08"]["text"])
    assert run.neighbours("e04b", by="text", top=1)["entity"].to_list() == ["e08"]
    with pytest.raises(UsageError, match="'e04b' has no vector that was trained: train has no triple of it; ask by"):
        run.neighbours("e04b")


def test_new_triples_of_new_entities_are_known_and_evaluated_and_not_seen(place: Path) -> None:
    add(place / "kg", "e99", "New one", like="e08")
    for split in ("train", "test"):
        with (place / "kg" / f"{split}.tsv").open("a") as file:
            file.write("e04\tlikes\te99\n" if split == "train" else "e99\tlikes\te01\n")
    run = load(place / "fused")
    with pytest.warns(Note, match="knows by features"):
        assert run.evaluate()["queries"] == 52
    row = run.predict("e04", "likes", top=99).filter(tail="e99").row(0, named=True)
    # It occurs in the triples of train by now, but not in those that the model was trained on.
    assert (row["known"], row["seen"]) == (True, False)
    assert not run.model.entities(torch.tensor([40])).present[0, 0]


def test_the_sampler_knows_those_of_its_training_only(place: Path) -> None:
    expected = mmrns.load_run(place / "fused").inspect("e04", "likes", "e05", steps=2)
    add(place / "kg", "e04b", "New one", like="e08")
    run = load(place / "fused")
    with pytest.warns(Note, match="since the training"):
        assert run.inspect("e04", "likes", "e05", steps=2) == expected
    with pytest.raises(
        UsageError, match=r"entity 'e04b' was added to .*kg after the training, and no sampler knows it$"
    ):
        run.inspect("e04", "likes", "e04b", steps=2)


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (
            "structure",
            r"the model has only structure, no vector for it; train again, or train a model that reads features",
        ),
        ("fused", r"without the features that the model reads \(text\); encode them"),
    ],
)
def test_what_the_model_cannot_know_is_refused_in_one_line(place: Path, run: str, why: str) -> None:
    expected = mmrns.load_run(place / run).predict("e04", "likes", top=99)
    add(place / "kg", "e04b", "New one", like="e08" if run == "structure" else None)
    opened = load(place / run)
    with pytest.warns(Note, match=r"kg has 1 more entity \('e04b'\) since the training, .* no vector for; left out"):
        assert opened.predict("e04", "likes", top=99).equals(expected)
    for name in ("e04b", "New one"):
        with pytest.raises(UsageError, match=rf"^entity 'e04b' was added to .*kg after the training, .*{why}") as told:
            opened.predict(name, "likes")
        assert "\n" not in str(told.value)
    assert opened.evaluate()["queries"] == 50
    assert opened.inspect("e04", "likes", "e05", steps=2)


def test_a_bundle_carries_what_was_added(place: Path) -> None:
    add(place / "kg", "e04b", "New one", like="e08")
    run = load(place / "fused")
    with pytest.warns(Note, match="knows by features"):
        run.export_bundle(place / "bundle")
    expected = run.predict("e04", "likes", top=99)
    shutil.rmtree(place / "kg")
    carried = mmrns.load_run(place / "bundle")
    with pytest.warns(Note, match="knows by features"):
        assert carried.predict("e04", "likes", top=99).equals(expected)


def test_an_entity_that_is_gone_is_refused(place: Path) -> None:
    kg = place / "kg"
    for file in ("test.tsv", "entities.tsv"):
        lines = (kg / file).read_text().splitlines()
        (kg / file).write_text("".join(f"{line}\n" for line in lines if not line.startswith("e39\t")))
    with pytest.raises(DataError, match=r"entities\.txt: is not the entities of .*kg \(1 gone, first 'e39'\)"):
        load(place / "structure").predict("e04", "likes")
    with pytest.warns(Note), pytest.raises(DataError, match="843 new"):
        mmrns.load_run(place / "structure", dataset="countries").predict("e04", "likes")
