"""A seeded toy dataset: 40 entities, 5 relations of different shapes, two modalities with gaps.

    part_of   every entity to one of three hubs (n-1)
    owns      every hub to entities of its own (1-n)
    next_to   the following entity (1-1)
    knows     symmetric (n-n)
    likes     group g to group g + 1 mod 4, where entity i is of group i mod 4 (n-n)

The features of an entity are its group's prototype plus noise. `e39` occurs in test only; `e05` has neither modality.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from mmrns.data.datasets import Dataset, load_dataset

ENTITIES = [f"e{i:02d}" for i in range(40)]
GROUPS = 4
SHAPES = {"image": (5, 7), "text": (3, 8)}
MISSING = {"image": [5, 11, 17, 23, 38], "text": [5, 6, 29, 39]}

SHORT: dict[str, Any] = {
    "model.dim": 8,
    "training.steps": 20,
    "training.evaluate_every": 10,
    "training.batch_size": 64,
    "sampler.negatives": 4,
}
"""Settings of a training that takes no time."""


def triples(rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """All triples but that of `e39`, distinct, in random order."""
    found: set[tuple[int, str, int]] = set()
    last = len(ENTITIES) - 1
    for i in range(last):
        found.add((i, "part_of", i % 3))
        if i + 1 < last:
            found.add((i, "next_to", i + 1))
        if i >= 3 and rng.random() < 0.8:
            found.add((int(rng.integers(3)), "owns", i))
    while sum(r == "knows" for _, r, _ in found) < 50:
        a, b = rng.choice(last, size=2, replace=False).tolist()
        found |= {(a, "knows", b), (b, "knows", a)}
    while sum(r == "likes" for _, r, _ in found) < 90:
        a, b = rng.integers(last, size=2).tolist()
        if (a + 1) % GROUPS == b % GROUPS:
            found.add((a, "likes", b))
    ordered = sorted(found)
    return [(ENTITIES[h], r, ENTITIES[t]) for h, r, t in (ordered[i] for i in rng.permutation(len(ordered)))]


def write_toy(folder: Path, seed: int = 0) -> Path:
    """Write the dataset folder (made if need be) and return it."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = triples(rng)
    splits = {"valid": rows[:25], "test": [*rows[25:49], (ENTITIES[39], "likes", ENTITIES[0])], "train": rows[49:]}
    for split, part in splits.items():
        (folder / f"{split}.tsv").write_text("".join("\t".join(row) + "\n" for row in part), encoding="utf-8")
    lines = [f"{e}\tEntity {i}\tmember of group {i % GROUPS}\t" for i, e in enumerate(ENTITIES)]
    header = "entity\tname\tdescription\timage"
    (folder / "entities.tsv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    (folder / "features").mkdir(exist_ok=True)
    for modality, (n_tokens, width) in SHAPES.items():
        present = rng.permutation([i for i in range(len(ENTITIES)) if i not in MISSING[modality]])
        prototypes = rng.normal(size=(GROUPS, n_tokens, width))
        values = prototypes[present % GROUPS] + 0.5 * rng.normal(size=(len(present), n_tokens, width))
        mask = rng.random(values.shape[:2]) < 0.85
        mask[:, 0] = True
        path = folder / "features" / f"{modality}.safetensors"
        save_file({"values": values.astype(np.float32), "mask": mask}, path, metadata={"encoder": "toy"})
        names = "".join(f"{ENTITIES[i]}\n" for i in present)
        path.with_suffix(".entities").write_text(names, encoding="utf-8")
    return folder


def write_negatives(path: Path, seed: int = 0) -> Path:
    """Write negatives for every other triple of train, two of each side, and return the path."""
    train = triples(np.random.default_rng(seed))[49:]
    true = set(train)
    lines: list[str] = []
    for h, r, t in train[::2]:
        heads = [(e, r, t) for e in reversed(ENTITIES) if (e, r, t) not in true][:2]
        tails = [(h, r, e) for e in ENTITIES if (h, r, e) not in true][:2]
        lines += ["\t".join((h, r, t, *negative)) + "\n" for negative in (*heads, *tails)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def toy(folder: Path | None = None, seed: int = 0) -> Dataset:
    """The dataset, loaded; written first where there is none. Without a folder it lies in a temporary one."""
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="toy-"))
    if not (folder / "train.tsv").exists():
        write_toy(folder, seed)
    return load_dataset(folder)
