"""What is fuzzed: every reader of files that come from elsewhere, with small valid files for each."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import polars as pl
from safetensors.numpy import save as save_tensors

from fuzz.harness import Target

TRIPLES = [
    ("a", "likes", "b"),
    ("b", "likes", "c c"),
    ("c c", "in", "d"),
    ("a", "in", "d"),
    ("é", "likes", "a"),
    ("d", "in", 'say "x"'),
]
HELD = [("b", "in", "d"), ("a", "likes", "c c")]
NAMES = ["a", "b", "c c", "d", "é"]


def lines(rows: list[tuple[str, ...]], between: str = "\t", header: str = "") -> bytes:
    return (header + "".join(between.join(row) + "\n" for row in rows)).encode()


def parquet(rows: list[tuple[str, ...]]) -> bytes:
    made = io.BytesIO()
    pl.DataFrame(rows, schema=["head", "relation", "tail"], orient="row").write_parquet(made)
    return made.getvalue()


ENTITIES = lines(
    [(name, f"Entity {name}", "A text. And more.", "images/a.png" if name == "a" else "") for name in NAMES],
    header="entity\tname\tdescription\timage\n",
)
RELATIONS = b"relation\tname\nlikes\tto like\nin\tlies in\n"
NUMBERS = b"entity\tattribute\tvalue\na\tage\t3\nb\tage\t4.5\nc c\theight\t1e3\n"
TEXTS = b"entity\ttext\na\tA first text.\nb\tOne more\n"
MOVIES = b'{"id": "a", "title": "A", "cast": ["x", "y"], "year": 1990}\n{"id": "b", "plot": null}\n'
LISTING = "".join(f"{name}\n" for name in NAMES).encode()
ORIGINS = (
    b'["one", "two"]\n["one"]\n[{"picture": "a.png", "rows": 1, "columns": 2, "box": [0, 0, 1, 0.5]}]\n[]\n["a", "b"]\n'
)


def features(dtype: type = np.float32) -> bytes:
    values = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(dtype)
    mask = np.ones((5, 2), dtype=np.bool_)
    mask[1, 1] = False
    return save_tensors({"values": values, "mask": mask}, {"encoder": "e", "revision": "r"})


@cache
def picture(form: str) -> bytes:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    more: dict[str, Any] = {}
    if form == "gif":
        image, more = (
            image.convert("P"),
            {"save_all": True, "append_images": [image.convert("P").rotate(90)], "transparency": 3},
        )
    elif form == "png":
        image = image.convert("RGBA")
        image.putpixel((0, 0), (1, 2, 3, 0))
    elif form == "jpeg":
        exif = Image.Exif()
        exif[0x0112] = 6
        more = {"exif": exif}
    made = io.BytesIO()
    image.save(made, form.upper(), **more)
    return made.getvalue()


DATASET: Mapping[str, bytes] = {
    "train.tsv": lines(TRIPLES),
    "valid.tsv": lines(HELD[:1]),
    "test.tsv": lines(HELD[1:]),
    "entities.tsv": ENTITIES,
    "relations.tsv": RELATIONS,
    "features/text.safetensors": features(),
    "features/text.entities": LISTING,
}
OTHER_DATASET: Mapping[str, bytes] = {
    "train.tsv.gz": gzip.compress(lines(TRIPLES), mtime=0),
    "valid.parquet": parquet(HELD[:1]),
    "test.txt": lines(HELD[1:]).replace(b"\n", b"\r\n"),
    "features/image.safetensors": features(np.float16),
    "features/image.entities": LISTING,
}
WHOLE: Mapping[str, bytes] = {
    **DATASET,
    "numbers.tsv": NUMBERS,
    "texts.tsv": TEXTS,
    "images/a.png": picture("png"),
    "dataset.json": b'{"licence": "CC0", "seed": 1}',
    "README.md": b"# A\n",
}


def _dataset(folder: Path) -> None:
    from mmrns.data.datasets import describe, load_dataset

    found = load_dataset(folder)
    describe(found)
    repr(found)
    for read in ("labels", "relation_labels", "descriptions"):
        getattr(found, read)


def _triples(folder: Path) -> None:
    from mmrns.data.folders import find_table, read_triples

    read_triples(find_table(folder, "train") or folder / "train.tsv")


def _entities(folder: Path) -> None:
    from mmrns.data.folders import read_entities
    from mmrns.prepare.formats.entities import NoTable, read_entity_table

    read_entities(folder)
    for path in sorted(folder.iterdir()):
        read_entity_table(path)
        with suppress(NoTable):
            read_entity_table(path, pl.Series("entity", NAMES), listed=False)


def _modality(folder: Path) -> None:
    import torch

    from mmrns.data.features import Modality

    found = Modality.open(folder / "text.safetensors", vocabulary())
    found.gather(torch.arange(len(NAMES)))
    for entity in range(len(NAMES)):
        found.made_of(entity)


@cache
def vocabulary() -> Any:
    from mmrns.data.vocabulary import Vocabulary

    return Vocabulary(pl.Series(NAMES))


@cache
def graph() -> Any:
    from mmrns.data.graph import KnowledgeGraph

    frames = [
        pl.DataFrame(rows, schema=["head", "relation", "tail"], orient="row") for rows in (TRIPLES, HELD[:1], HELD[1:])
    ]
    return KnowledgeGraph.from_names(*frames)


def _negatives(folder: Path) -> None:
    from mmrns.data.negatives import read_negatives

    read_negatives(folder / "negatives.tsv", graph())


def _candidates(folder: Path) -> None:
    from mmrns.evaluation.candidates import Candidates

    Candidates.read(folder / "candidates.tsv", graph())


def _check(folder: Path) -> None:
    from mmrns.prepare.check import check_dataset

    json.dumps(check_dataset(folder), allow_nan=False)


def _split(folder: Path) -> None:
    from mmrns.prepare.split import split_dataset

    split_dataset(folder, folder / "made", repair=(folder / "valid.tsv").exists())


def _unpack(folder: Path) -> None:
    from mmrns.files import new_folder
    from mmrns.prepare.download import unpack

    source = next(iter(sorted(folder.iterdir())), folder / "none")
    with new_folder(folder / "made") as made:
        unpack(source, made)


def archive(form: str) -> bytes:
    made = io.BytesIO()
    if form == "zip":
        with zipfile.ZipFile(made, "w") as file:
            for name, content in DATASET.items():
                file.writestr(f"in/{name}", content)
    else:
        with tarfile.open(fileobj=made, mode=f"w:{form}") as file:
            for name, content in DATASET.items():
                info = tarfile.TarInfo(f"in/{name}")
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return made.getvalue()


def _layout(name: str, inner: str = "") -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        from mmrns.prepare.formats.base import find_layout, read_layout

        layout = find_layout(name)()
        read_layout(layout, folder / inner if inner else folder, {})
        layout.features(folder)

    return read


def _convert_within(target: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        from mmrns.prepare.formats import convert

        made = folder.parent / "made"
        try:
            convert(folder, made, target=target)
            shutil.rmtree(made)
        finally:
            left = [path.name for path in folder.parent.iterdir() if path != folder]
            assert not left, left

    return read


IDS: Mapping[str, bytes] = {
    "entities.dict": "".join(f"{i}\t{name}\n" for i, name in enumerate(["a", "b", "c", "d"])).encode(),
    "relations.dict": b"0\tlikes\n1\tin\n",
    "train.txt": b"a\tlikes\tb\nb\tin\tc\nc\tin\td\n",
    "valid.txt": b"b\tlikes\td\n",
    "test.txt": b"a\tin\td\n",
    "descriptions.tsv": b"entity\tdescription\na\tFirst\n",
}
BY_ID: Mapping[str, bytes] = {
    "entities.txt": b"a\nb\nc\nd\n",
    "relations.txt": b"likes\nin\n",
    "train.txt": b"0\t0\t1\n1\t1\t2\n2\t1\t3\n",
    "test.txt": b"0\t1\t3\n",
}
OPENKE: Mapping[str, bytes] = {
    "entity2id.txt": b"4\na\t0\nb\t1\nc c\t2\nd\t3\n",
    "relation2id.txt": b"2\nlikes\t0\nin\t1\n",
    "train2id.txt": b"3\n0 1 0\n1 2 1\n2 3 1\n",
    "valid2id.txt": b"1\n0 3 1\n",
    "test2id.txt": b"1\n1 3 1\n",
}


def npy(array: Any) -> bytes:
    made = io.BytesIO()
    np.save(made, array)
    return made.getvalue()


def npz(**arrays: Any) -> bytes:
    made = io.BytesIO()
    np.savez(made, **arrays)
    return made.getvalue()


TABLE = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)


def pth(value: Any) -> bytes:
    import torch

    made = io.BytesIO()
    torch.save(value, made)
    return made.getvalue()


def hdf5(arrays: Mapping[str, Any]) -> bytes:
    import h5py

    made = io.BytesIO()
    with h5py.File(made, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return made.getvalue()


def _array(folder: Path) -> None:
    from mmrns.prepare.formats.arrays import open_table

    book = folder / "codebook.pth"
    path = next((path for path in sorted(folder.iterdir()) if path != book), folder / "a.npy")
    table = open_table(path, codebook=book if book.exists() else None)
    table.read(np.arange(min(table.shape[0], 1000)))


MMRNS: Mapping[str, bytes] = {
    "train.txt": lines(TRIPLES),
    "valid.txt": lines(HELD),
    "ent_links": b"http://dbpedia.org/resource/A\ta\nhttp://dbpedia.org/resource/B\tb\n",
    "visual.h5": b"",
}


def mmrns_folder() -> Mapping[str, bytes]:
    return {**MMRNS, "visual.h5": hdf5({"A": TABLE[0], "b": TABLE[1], "d": TABLE[2]})}


NT = b"""<u:a> <u:p> <u:b> .
<u:b> <u:p> _:c .
<u:a> <http://www.w3.org/2000/01/rdf-schema#label> "A \\u00e9"@en .
<u:a> <u:age> "3"^^<http://www.w3.org/2001/XMLSchema#int> .
<u:b> <u:born> "2001-02-03"^^<http://www.w3.org/2001/XMLSchema#date> .
<u:b> <http://xmlns.com/foaf/0.1/depiction> <u:b.png> .
<u:p> <http://www.w3.org/2000/01/rdf-schema#label> "to p" .
"""
TTL = b"""@prefix : <http://x.org/> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
:a :p :b , :c ; rdfs:label "A"@en , "Ah"@de ; :age 3 ; :when 4.5e1 ; :is true .
:b :p [ :q ( :a :c ) ] . # more
<rel> :p :a .
:c rdfs:comment \"\"\"long
text\"\"\" .
"""
XML = b"""<?xml version="1.0" encoding="UTF-8"?>
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:e="http://x.org/">
  <rdf:Description rdf:about="http://x.org/a"><e:p rdf:resource="http://x.org/b"/><e:n xml:lang="en">A</e:n>
  </rdf:Description>
  <e:T rdf:nodeID="n" e:age="3"><e:p rdf:parseType="Resource"><e:q rdf:resource="#z"/></e:p></e:T>
</rdf:RDF>
"""
NQ = b"<u:a> <u:p> <u:b> <u:g> .\n<u:b> <u:p> <u:c> .\n"
TRIG = b"@prefix : <u:> .\n:g { :a :p :b . :b :q 'x'@en }\n:a :p :c .\n"

CONFIG = b"""method: mmrns
data: {dataset: countries}
model: {scorer: TransE, dim: 8, modalities: [text]}
objective: {gamma: 4, loss: self-adversarial}
sampler: {modalities: [text, image], negatives: 4, discount: 0.5}
training: {steps: 10, batch_size: 8, lr: 0.01, callbacks: [hardness]}
evaluation: {memory_mb: 64}
seed: 1
device: cpu
"""
SECOND_CONFIG = b"""model:
  scorer: RotatE
  dim: 4
sampler:
  name: nscaching
  negatives: 3
training: &t
  steps: 5
"""
SETTINGS = b"""seed=1
model.scorer=RotatE
sampler.modalities=[text, image]
training.lr=1e-3
sampler.discount=0.5
data.dataset=countries
objective={gamma: 3}
"""


def _config(folder: Path) -> None:
    from mmrns.runs.config import dump_config, make_config
    from mmrns.runs.values import read_config

    dump_config(make_config(read_config(folder / "config.yaml")))


COMPARISON = b"""threads: 1
trials: 2
seeds: 1
common: {data.dataset: countries, model.scorer: TransE, model.dim: 4, training.steps: 5}
space:
  training.lr: [0.001, 0.003]
methods:
  uniform: {objective.gamma: [2, 9]}
  self-adversarial:
    objective.gamma: {low: 1.0, high: 9.0}
  mine:
    - {method: mmrns, sampler.discount: 0.25}
    - {method: domain-range, sampler.pool: 32}
"""


def _comparison(folder: Path) -> None:
    from mmrns.studies.comparison import Comparison

    Comparison.read(folder / "comparison.yaml")


def _settings(folder: Path) -> None:
    from mmrns.runs.config import apply_settings, dump_config, make_config

    try:
        texts = (folder / "settings.set").read_bytes().decode("utf-8", "surrogateescape").split("\n")
    except OSError:
        return
    dump_config(make_config(apply_settings({}, [text for text in texts if text])))


@cache
def run() -> Path:
    """A run of the dataset, trained for two steps."""
    import mmrns

    folder = Path(mkdtemp(prefix="fuzz-run-"))
    for name, content in DATASET.items():
        (folder / "dataset" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "dataset" / name).write_bytes(content)
    settings = {
        "training.batch_size": 4,
        "training.evaluate_every": 2,
        "sampler.negatives": 2,
        "training.checkpoint_every": 1,
    }
    mmrns.train(
        dataset=folder / "dataset",
        scorer="TransE",
        method="self-adversarial",
        dim=2,
        steps=2,
        device="cpu",
        settings=settings,
        out=folder / "run",
        plots=False,
    ).calibrate()
    return folder


def run_files() -> Mapping[str, bytes]:
    folder = run() / "run"
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix not in (".png", ".csv")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@cache
def dataset() -> Any:
    from mmrns.data.datasets import load_dataset

    return load_dataset(run() / "dataset")


@cache
def loaded() -> Any:
    import mmrns

    return mmrns.load_run(run() / "run", dataset=dataset())


def _queries(folder: Path) -> None:
    loaded().predict(queries=folder / "queries.tsv", top=2)


def _labelled(folder: Path) -> None:
    from mmrns.runs.labelled import read_labelled

    read_labelled(folder / "labelled.tsv", loaded().dataset.graph, *loaded().names)


def _run(folder: Path) -> None:
    import mmrns

    found = mmrns.load_run(folder, dataset=dataset(), device="cpu")
    repr(found)
    _ = found.title, found.history
    found.score([TRIPLES[0]])
    found.probability([TRIPLES[0]])
    _ = found.sampler
    found.evaluate("valid")


def _checkpoint(folder: Path) -> None:
    from mmrns.runs.build import build_trainer
    from mmrns.training.checkpoint import Checkpoint

    trainer = build_trainer(loaded().config, dataset())
    Checkpoint.read(folder / "best.safetensors").load_weights(trainer)
    Checkpoint.read(folder / "last.safetensors").load(trainer)


def _resume(folder: Path) -> None:
    import mmrns

    mmrns.train(out=folder, resume=True)


RECORD = {
    "name": "uniform-seed-0",
    "label": "uniform",
    "scorer": "TransE",
    "sampler": "uniform",
    "settings": {"training.lr": 0.1},
    "seed": 0,
    "valid_mrr": 0.5,
    "selected_step": 3,
    "seconds": {"pretrain": 0.0, "train": 1.0, "evaluate": 0.1},
    "commit": "c",
    "test": {
        policy: {"mrr": 0.4, "hits@1": 0.1, "hits@3": 0.2, "hits@10": 0.5, "mr": 3.0, "amri": 0.4}
        for policy in ("realistic", "optimistic", "pessimistic")
    },
    "baseline": {"realistic": {"mrr": 0.1, "hits@1": 0.1, "hits@3": 0.2, "hits@10": 0.5, "mr": 3.0, "amri": 0.4}},
    "curve": [[1, 0.1, 0.2], [3, 0.3, 0.5]],
}
TRIAL = {key: value for key, value in RECORD.items() if key not in ("test", "baseline", "curve")} | {
    "name": "uniform-trial-0"
}


def _records(folder: Path) -> None:
    from mmrns.studies.comparison import Comparison
    from mmrns.studies.records import Records, read_records
    from mmrns.studies.report import report, table

    read_records(folder)
    records = Records(folder)
    found = [record for record in read_records(folder) if "test" in record]
    if found:
        table(found)
        report(found, Comparison({}, {}))
    records.get("uniform-seed-0")


def _picture(folder: Path) -> None:
    from mmrns.prepare.encoders.pictures import read_picture, reading_pictures

    path = next(iter(sorted(folder.iterdir())), folder / "none.png")
    with reading_pictures():
        read_picture(path).close()


def _encode_pictures(folder: Path) -> None:
    from mmrns.prepare.encoders.encode import encode_pictures

    encode_pictures(folder, "classical", tokens=2)


def _encode_numbers(folder: Path) -> None:
    from mmrns.prepare.encoders.encode import encode_numbers

    encode_numbers(folder, folder / "numbers.tsv", tokens=2)


def _links(folder: Path) -> None:
    from mmrns.prepare.formats.features import read_links
    from mmrns.prepare.formats.ids import read_names

    read_links(folder / "links.txt")
    for path in sorted(folder.glob("names*")):
        read_names(path)


def make_targets() -> dict[str, Target]:
    """All targets by name."""
    rdf = {".nt": NT, ".ttl": TTL, ".rdf": XML, ".nq": NQ, ".trig": TRIG}
    csv = lines([(h, r, f'"{t}, x"') for h, r, t in TRIPLES[:5]], ",", "head,relation,tail\n")
    found = [
        Target(
            "triples",
            (
                {"train.tsv": lines(TRIPLES)},
                {"train.txt": lines(HELD)},
                {"train.tsv.gz": gzip.compress(lines(TRIPLES), mtime=0)},
                {"train.parquet": parquet(TRIPLES)},
            ),
            _triples,
        ),
        Target(
            "entities",
            (
                {"entities.tsv": ENTITIES, "descriptions.csv": b'entity,description\na,"b, c"\nd,e\n'},
                {"movies.jsonl": MOVIES, "all.json": b"[" + MOVIES.strip().replace(b"\n", b",") + b"]"},
            ),
            _entities,
        ),
        Target("dataset", (DATASET, OTHER_DATASET), _dataset),
        Target(
            "modality",
            (
                {"text.safetensors": features(), "text.entities": LISTING, "text.tokens.jsonl": ORIGINS},
                {"text.safetensors": features(np.float16), "text.entities": LISTING},
            ),
            _modality,
        ),
        Target("negatives", ({"negatives.tsv": b"a\tlikes\tb\tb\tlikes\tb\na\tin\td\ta\tin\tb\n"},), _negatives),
        Target("candidates", ({"candidates.tsv": b"likes\thead\ta\nlikes\ttail\tc c\nin\ttail\td\n"},), _candidates),
        Target("check", (WHOLE, OTHER_DATASET), _check),
        Target("split", (WHOLE, {"triples.tsv": lines(TRIPLES + HELD)}), _split, output="made"),
        Target(
            "unpack",
            (
                {"a.zip": archive("zip")},
                {"a.tar": archive("")},
                {"a.tar.gz": archive("gz")},
                {"a.tar.xz": archive("xz")},
            ),
            _unpack,
            output="made",
        ),
        Target("tsv", ({"train.tsv": lines(TRIPLES), "valid.txt": lines(HELD), "test.csv": csv},), _layout("tsv")),
        Target(
            "csv",
            (
                {"train.csv": csv},
                {"train.csv": csv.replace(b",", b";"), "test.csv": csv},
                {"train.csv.gz": gzip.compress(csv, mtime=0)},
            ),
            _layout("csv"),
        ),
        Target("parquet", ({"train.parquet": parquet(TRIPLES), "valid.parquet": parquet(HELD)},), _layout("parquet")),
        Target("openke", (OPENKE,), _layout("openke")),
        Target("ids", (IDS, BY_ID), _layout("ids")),
        Target("mmrns", (mmrns_folder(),), _layout("mmrns")),
        Target(
            "rdf",
            (
                *({f"train{end}": content} for end, content in rdf.items()),
                {"train.nt.gz": gzip.compress(NT, mtime=0)},
                {"train.nt": NT, "valid.ttl": TTL, "more.rdf": XML},
            ),
            _layout("rdf"),
        ),
        Target(
            "convert",
            (
                WHOLE,
                OPENKE,
                IDS,
                mmrns_folder(),
                {"train.nt": NT, "train-more.ttl": TTL},
                {
                    "train.csv": csv,
                    "entities.csv": b"id,label\na,A\nb,B\n",
                    "films.csv": b"film,plot,year,poster\na,Something happens.,1990,a.png\nb,,1991,\n",
                    "movies.jsonl": MOVIES,
                    "posters/a.png": picture("png"),
                    "text_features.npz": npz(**dict(zip(["a", "b", "c c", "d"], TABLE, strict=True))),
                },
            ),
            _convert_within("tsv"),
        ),
        Target("convert-nt", (WHOLE, {"train.ttl": TTL}), _convert_within("ntriples")),
        Target(
            "links",
            (
                {
                    "links.txt": MMRNS["ent_links"],
                    "names.dict": IDS["entities.dict"],
                    "names2id.txt": OPENKE["entity2id.txt"],
                    "names.txt": LISTING,
                },
            ),
            _links,
        ),
        Target(
            "arrays",
            (
                {"a.npy": npy(TABLE)},
                {"a.npy": npy(TABLE[:, 0].astype(np.float16))},
                {"a.npz": npz(a=TABLE)},
                {"a.npz": npz(a=TABLE[0], b=TABLE[1, :1], c=TABLE[2], d=TABLE[3])},
                {"a.json": json.dumps({"a": [[0.5, 1], [2, 3]], "b": [[1, 2]]}).encode()},
                {"a.json": json.dumps({"a": [0, 1, 1], "b": [2]}).encode(), "codebook.pth": pth(_tensor(TABLE[:, 0]))},
                {"a.pth": pth(_tensor(TABLE))},
                {"a.pth": pth({"a": _tensor(TABLE[0]), "n": [1, "x"]})},
                {"a.h5": hdf5({"a": TABLE[0], "b/c": TABLE[1]})},
                {"a.h5": hdf5({"t": TABLE})},
            ),
            _array,
        ),
        Target("config", ({"config.yaml": CONFIG}, {"config.yaml": SECOND_CONFIG}), _config),
        Target("comparison", ({"comparison.yaml": COMPARISON},), _comparison),
        Target("settings", ({"settings.set": SETTINGS},), _settings),
        Target(
            "pictures",
            tuple({f"a.{form}": picture(form)} for form in ("png", "jpeg", "gif", "webp", "bmp", "tiff")),
            _picture,
            refusals=(ValueError,),
        ),
        Target(
            "encode",
            ({**WHOLE, "images/a.png": picture("png"), "images/b.png": picture("jpeg")},),
            _encode_pictures,
            output="features",
        ),
        Target(
            "numbers",
            ({"numbers.tsv": NUMBERS, "train.tsv": lines(TRIPLES)},),
            _encode_numbers,
            frozenset({"train.tsv"}),
            output="features",
        ),
        Target(
            "records",
            (
                {
                    "records.jsonl": b"".join(
                        json.dumps(r).encode() + b"\n"
                        for r in (TRIAL, RECORD, RECORD | {"name": "uniform-seed-1", "seed": 1})
                    )
                },
            ),
            _records,
            output="records.jsonl",
        ),
        Target("queries", ({"queries.tsv": b"a\tlikes\t?\n?\tin\td\nb\tin\t?\n"},), _queries),
        Target("labelled", ({"labelled.tsv": b"a\tlikes\ta\t-1\nb\tin\td\t1\n"},), _labelled),
    ]
    return {target.name: target for target in found}


def make_run_targets() -> dict[str, Target]:
    """The targets that need a run, which takes seconds to train."""
    files = run_files()
    checkpoints = {
        name.rpartition("/")[2]: content for name, content in files.items() if name.startswith("checkpoint/")
    }
    found = [
        Target("run", (files,), _run),
        Target("checkpoint", (checkpoints,), _checkpoint),
    ]
    return {target.name: target for target in found}


def _tensor(array: Any) -> Any:
    import torch

    return torch.from_numpy(array)
