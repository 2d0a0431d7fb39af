"""What leaves a run: vectors, predictions in bulk, a bundle that is used where nothing else is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors import safe_open

import mmrns
from forms import form_of
from mmrns.data.features import Modality
from mmrns.data.vocabulary import Vocabulary
from mmrns.errors import DataError, UsageError
from mmrns.runs import run as runs
from mmrns.samplers.base import Sampler

SETTINGS: dict[str, Any] = {
    "model.dim": 8,
    "training.steps": 6,
    "training.evaluate_every": 3,
    "training.batch_size": 64,
    "sampler.negatives": 4,
}


def _train(dataset: Any, out: Path, **more: Any) -> mmrns.Run:
    given = {"method": "uniform", "device": "cpu", **more}
    return mmrns.train(dataset=dataset, settings=SETTINGS | given.pop("settings", {}), out=out, **given, plots=False)


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> mmrns.Run:
    """Scored by structure and text; `e39` lacks the former, `e05` and others the latter."""
    from toy import write_toy

    folder = tmp_path_factory.mktemp("exports")
    return _train(write_toy(folder / "kg"), folder / "run", modalities=["text"], settings={"model.reciprocal": True})


def test_vectors_as_parquet(fused: mmrns.Run, tmp_path: Path) -> None:
    assert fused.export_embeddings(tmp_path / "e.parquet") == [tmp_path / "e.parquet"]
    assert pl.read_parquet(tmp_path / "e.parquet").equals(fused.embeddings())
    fused.export_embeddings(tmp_path / "r.parquet", "relations")
    assert pl.read_parquet(tmp_path / "r.parquet").columns == ["relation", "name", "vector", "inverse"]
    fused.export_embeddings(tmp_path / "t.parquet", view="text")
    assert pl.read_parquet(tmp_path / "t.parquet").columns == ["entity", "name", "text"]


def test_vectors_for_the_projector(fused: mmrns.Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"e\.tsv: such a file holds one vector each; choose one of structure, text"):
        fused.export_embeddings(tmp_path / "e.tsv")
    files = fused.export_embeddings(tmp_path / "e.tsv", view="text")
    assert [file.name for file in files] == ["e.tsv", "e_metadata.tsv"]
    frame = fused.embeddings().drop_nulls("text")
    assert 0 < len(frame) < 40
    assert np.allclose(np.loadtxt(files[0], delimiter="\t"), frame["text"].to_numpy(), atol=1e-6)
    # With two columns the projector expects a header line.
    metadata = [line.split("\t") for line in files[1].read_text().splitlines()]
    assert metadata == [["entity", "name"], *map(list, frame.select("entity", "name").iter_rows())]


def test_vectors_as_safetensors_are_features(fused: mmrns.Run, tmp_path: Path) -> None:
    fused.export_embeddings(tmp_path / "e.safetensors")
    modality = Modality.open(tmp_path / "e.safetensors", fused.dataset.graph.entities)
    assert modality.provenance["views"] == "structure, text"
    assert modality.provenance["encoder"] == "TransE, uniform, kg"
    with torch.no_grad():
        views = fused.model.entity.all()
    values, mask = modality.gather(torch.arange(40))
    assert torch.equal(mask, views.present)
    assert torch.equal(values[mask], views.vectors[views.present])
    files = fused.export_embeddings(tmp_path / "r.safetensors", "relations")
    assert files[1].read_text().split() == list(fused.dataset.graph.relations)
    with safe_open(files[0], framework="pt") as file:
        assert torch.equal(file.get_tensor("values")[:, 1], fused.model.relations(torch.arange(5, 10)))


@pytest.mark.filterwarnings("ignore:train lacks the entity")
@pytest.mark.parametrize("suffix", [".parquet", ".nt"])
def test_predictions_in_bulk_are_those_of_predict(
    fused: mmrns.Run, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "ROWS", 40)  # Some ten parts.
    path, done = tmp_path / f"p{suffix}", list[int]()
    asked = fused.every_query()
    expected = fused.answers(asked, top=3, known="drop")
    assert fused.export_predictions(path, asked, top=3, progress=done.append) == len(expected)
    assert sum(done) == len(asked)
    assert len(done) > 5
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    if suffix == ".parquet":
        found = pl.read_parquet(path)
        assert found.drop("score").equals(expected.drop("score"))
        assert found["score"].to_list() == pytest.approx(expected["score"].to_list(), abs=1e-5)
        return
    lines = ["<urn:mmrns:{}> <urn:mmrns:{}> <urn:mmrns:{}> .".format(*row[:3]) for row in expected.rows()]
    assert path.read_text().splitlines() == lines


@pytest.mark.parametrize("side", ["head", "tail"])
def test_every_query_is_asked_once(fused: mmrns.Run, side: Any) -> None:
    graph = fused.dataset.graph
    every = torch.cat([graph.train, graph.valid, graph.test])
    asked = fused.every_query(side).triples
    expected = {(h, r, -1) if side == "tail" else (-1, r, t) for h, r, t in every.tolist()}
    assert sorted(map(tuple, asked.tolist())) == sorted(expected)


def test_no_query_makes_an_empty_file(fused: mmrns.Run, tmp_path: Path) -> None:
    assert fused.export_predictions(tmp_path / "p.parquet", []) == 0
    assert pl.read_parquet(tmp_path / "p.parquet").schema == fused.predict("e04", "likes").schema


def test_iris_and_blank_names_are_written_as_they_are(tmp_path: Path) -> None:
    triples = [("http://x/a", "http://x/r", "_:b1"), ("_:b1", "http://x/r", "a name"), ("a name", "p", "http://x/a")]
    run = _train(mmrns.Dataset.from_triples(triples, valid=triples[:1]), tmp_path / "run")
    run.export_predictions(tmp_path / "p.nt", [("http://x/a", "p", None)], top=1, known="keep")
    mark, line = (tmp_path / "p.nt").read_text().splitlines()
    assert mark.startswith("# mmrns graph ")
    assert line in ("<http://x/a> <urn:mmrns:p> _:b1 .", "<http://x/a> <urn:mmrns:p> <urn:mmrns:a%20name> .")


@pytest.mark.filterwarnings("ignore:train lacks the entity")
def test_a_failure_in_the_middle_leaves_nothing(
    fused: mmrns.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "ROWS", 40)

    def fail(n: int) -> None:
        raise DataError("x", "broke", "mend it")

    for suffix in (".parquet", ".nt"):
        with pytest.raises(DataError, match="broke"):
            fused.export_predictions(tmp_path / f"p{suffix}", fused.every_query(), progress=fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["e.csv", "e", "p.json"])
def test_other_endings_are_refused(fused: mmrns.Run, tmp_path: Path, name: str) -> None:
    stem = Path(name).stem
    with pytest.raises(UsageError, match=rf"{name}: name it {stem}\.parquet or {stem}\.tsv or {stem}\.safetensors"):
        fused.export_embeddings(tmp_path / name)
    with pytest.raises(UsageError, match=rf"{name}: name it {stem}\.parquet or {stem}\.nt"):
        fused.export_predictions(tmp_path / name, [])
    with pytest.raises(UsageError, match="unknown view 'textt'; did you mean 'text'"):
        fused.export_embeddings(tmp_path / "e.parquet", view="textt")


def _used(run: mmrns.Run) -> list[Any]:
    """All that a run is used for."""
    inspected = run.inspect("e04", "likes", "e05", steps=2)
    return [
        run.predict("e04", "likes", candidates="train").to_dicts(),
        run.predict("e04", None, "e05", known="drop").to_dicts(),
        run.score([("e04", "likes", "Entity 5")]).to_dicts(),
        run.evaluate(),
        run.evaluate("valid", by="relation").to_dicts(),
        {key: inspected[key] for key in inspected if key != "images"},
        run.neighbours("e04").drop("image", "text", strict=False).to_dicts(),
        run.title,
        run.dataset.name,
    ]


@pytest.mark.parametrize(
    ("method", "modalities", "read"),
    [
        ("uniform", None, []),
        ("uniform", ["text"], ["text"]),
        ("mmrns", ["text"], ["image", "text"]),
        ("mmrns-published", None, ["image", "text"]),
        ("file", None, []),
    ],
)
def test_a_bundle_is_all_that_is_needed(
    tmp_path: Path,
    toy_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    modalities: list[str] | None,
    read: list[str],
) -> None:
    from toy import write_negatives

    settings = {"sampler.path": str(write_negatives(tmp_path / "negatives.tsv"))} if method == "file" else {}
    _train(toy_folder, tmp_path / "run", method=method, modalities=modalities, settings=settings)
    run = mmrns.load_run(tmp_path / "run")
    expected = _used(run)
    (tmp_path / "run" / "plots").mkdir()
    (tmp_path / "run" / "plots" / "curves.png").write_bytes(b"a picture")
    run.export_bundle(tmp_path / "elsewhere" / "bundle")
    (picture,) = (tmp_path / "elsewhere").rglob("curves.png")
    assert picture.read_bytes() == b"a picture"
    assert sorted(path.stem for path in (tmp_path / "elsewhere").rglob("features/*.safetensors")) == read
    for gone in (toy_folder, tmp_path / "run", tmp_path / "negatives.tsv"):
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink(missing_ok=True)
    monkeypatch.delenv("MMRNS_DATA", raising=False)
    moved = shutil.move(tmp_path / "elsewhere" / "bundle", tmp_path / "carried")
    monkeypatch.chdir(tmp_path / "elsewhere")
    carried = mmrns.load_run(moved)
    assert _used(carried) == expected
    assert not list(Path(moved).rglob("checkpoint"))
    # A bundle is a run, and may be bundled again.
    carried.export_bundle(tmp_path / "again")
    assert _used(mmrns.load_run(tmp_path / "again")) == expected


def test_what_is_not_in_a_bundle_is_said(fused: mmrns.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fused.export_bundle(tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    carried = mmrns.load_run(tmp_path / "bundle")
    with pytest.raises(DataError, match=r"its dataset 'kg' is not found, which alone has the features 'image'"):
        carried.neighbours("e04", by="image")
    assert len(carried.neighbours("e04", by="text")) == 10
    with pytest.raises(UsageError, match="unknown measure of similarity 'sound'; known: structure, text, image"):
        carried.neighbours("e04", by="sound")
    # The dataset itself takes the place of what is carried.
    whole = mmrns.load_run(tmp_path / "bundle", dataset=fused.dataset.folder)
    assert len(whole.neighbours("e04", by="image")) == 10


def test_a_damaged_bundle_is_refused(fused: mmrns.Run, tmp_path: Path) -> None:
    fused.export_bundle(tmp_path / "bundle")
    path = tmp_path / "bundle" / "dataset" / "train.parquet"
    pl.read_parquet(path).reverse().write_parquet(path)
    with pytest.warns(UserWarning, match=r"train\.parquet has changed"):
        run = mmrns.load_run(tmp_path / "bundle")
    with pytest.raises(DataError, match=r"train\.parquet: is not the file that the run wrote"):
        run.predict("e04", "likes")


def test_a_bundle_of_a_dataset_in_memory(tmp_path: Path) -> None:
    people = [(f"p{i}", "knows", f"p{(i * k) % 9}") for i in range(9) for k in (2, 5)]
    ages = {f"p{i}": np.array([[i / 9, 1.0]]) for i in range(8)}
    data = mmrns.Dataset.from_triples(
        people, valid=people[:2], features={"age": ages}, names={"p1": "Ann"}, name="people"
    )
    run = _train(data, tmp_path / "run", modalities=["age"])
    run.export_bundle(tmp_path / "bundle")
    carried = mmrns.load_run(tmp_path / "bundle")
    assert carried.predict("ann", "knows").equals(run.predict("p1", "knows"))
    assert carried.dataset.name == "people"
    with pytest.raises(DataError, match="exists already"):
        run.export_bundle(tmp_path / "bundle")
    alone = mmrns.train(dataset=data, settings=SETTINGS, method="uniform", device="cpu")
    with pytest.raises(UsageError, match="the run is in memory only; save it first"):
        alone.export_bundle(tmp_path / "other")


def test_every_sampler_is_bundled_with_what_it_reads(toy_folder: Path, tmp_path: Path) -> None:
    """Whatever a sampler reads it asks for when it is made: nothing is missing when it draws."""
    names = [name for name in Sampler.registry.names() if name != "file"]  # That reads a file; above.
    for name in names:
        needs = Sampler.registry.get(name).needs_modalities
        short = {"training.steps": 1, "training.evaluate_every": 1, "model.dim": 8}
        short |= {"model.modalities": ["image", "text"]} if needs else {}
        short |= {f"sampler.{option}": value for option, value in form_of(name, 4).items()}
        run = mmrns.train(dataset=toy_folder, device="cpu", settings=short, out=tmp_path / name, plots=False)
        run.export_bundle(tmp_path / "b" / name)
    shutil.move(toy_folder, tmp_path / "gone")
    for name in names:
        assert mmrns.load_run(tmp_path / "b" / name).inspect("e04", "likes", "e05", steps=1)["queries"]


def test_ids_are_kept_when_names_are_added() -> None:
    names = Vocabulary(["b", "d"]).extended(pl.Series(["c", "d", "a"]))
    assert [names.id(name) for name in "bdac"] == [0, 1, 2, 3]
    assert names.extended(pl.Series(["a"])) is names
