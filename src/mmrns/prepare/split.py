"""Dataset folders with other splits: split anew, repaired, or reduced to a core."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from mmrns.data.folders import SPLITS, find_table, read_triples
from mmrns.data.names import COLUMNS, find_header
from mmrns.data.splitting import TENTH, Amount, Splits, hold_out, rows_of, split_triples
from mmrns.data.tables import read_header_table
from mmrns.errors import DataError, UsageError
from mmrns.files import new_folder, refuse_taken
from mmrns.prepare.folders import leads_out, named_pictures, pictures_of, write_triples

TABLES = ("relations.tsv", "texts.tsv", "numbers.tsv")
"""What may lie beside `entities.tsv`: names of relations, and what features are built from."""

INHERITED = ("title", "licence", "source", "sources")


def repair_splits(
    splits: Splits, *, valid: Amount | None = None, seed: int = 0, leakage_free: bool = True
) -> tuple[Splits, pl.DataFrame]:
    """Make the splits disjoint and leave test as it is.

    Rows of train that are in test go, rows of valid that are in test or train go, and so do repeated rows of both.

    Args:
        splits: the splits.
        valid: fill valid up to so many rows, or to this share of all distinct rows, from train; None = do not.
        seed, leakage_free: how rows of train are chosen; see `split_triples`.

    Returns:
        The splits; and what changed: columns from, to (empty: the row was dropped), reason, head, relation, tail.

    Raises:
        UsageError: so many rows of train cannot be moved.
    """
    changes: list[pl.DataFrame] = []

    def note(rows: pl.DataFrame, origin: str, to: str, reason: str) -> None:
        fixed = {"from": origin, "to": to, "reason": reason}
        changes.append(rows.select(*(pl.lit(text).alias(name) for name, text in fixed.items()), *COLUMNS))

    def drop(rows: pl.DataFrame, split: str, others: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        note(rows.filter(~pl.struct(COLUMNS).is_first_distinct()), split, "", "repeated")
        rows = rows.unique(maintain_order=True)
        for name, other in others.items():
            note(rows.join(other, on=COLUMNS, how="semi", maintain_order="left"), split, "", f"in {name}")
            rows = rows.join(other, on=COLUMNS, how="anti", maintain_order="left")
        return rows

    test = splits.test
    train = drop(splits.train, "train", {"test": test})
    kept = drop(splits.valid, "valid", {"test": test, "train": train})
    if valid is not None:
        every = pl.concat([train, kept, test]).n_unique()
        missing = max(0, rows_of(valid, every) - len(kept))
        moves = pl.Series(
            hold_out(
                train,
                [missing],
                seed,
                "repair",
                leakage_free,
                remedy=lambda most: f"give --valid at most {len(kept) + most:,}, or --random",
            )
            == 1
        )
        note(train.filter(moves), "train", "valid", "to fill valid")
        kept, train = pl.concat([kept, train.filter(moves)]), train.filter(~moves)
    return Splits(train, kept, test), pl.concat(changes)


def k_core(triples: pl.DataFrame, k: int) -> pl.DataFrame:
    """The largest set of distinct triples in which every entity occurs in at least k of them."""
    triples = triples.unique(maintain_order=True)
    while True:
        # A triple between an entity and itself counts once.
        tails = triples.filter(pl.col("head") != pl.col("tail"))["tail"].alias("head")
        degree = pl.concat([triples["head"], tails]).value_counts()
        weak = degree.filter(pl.col("count") < k)["head"].implode()
        kept = triples.filter(~pl.col("head").is_in(weak) & ~pl.col("tail").is_in(weak))
        if len(kept) == len(triples):
            return triples
        triples = kept


def split_dataset(
    source: Path,
    target: Path,
    *,
    valid: Amount | None = None,
    test: Amount | None = None,
    seed: int = 0,
    leakage_free: bool = True,
    repair: bool = False,
    core: int = 0,
    new_entities: Amount = 0,
) -> dict[str, Any]:
    """Write a dataset folder with other splits and the same features, names and pictures.

    `dataset.json` says how it was made and of what; after a repair `moved.tsv` lists every row that moved or went. Big
    files are hard links where the file system allows it, copies elsewhere; texts are copies.

    Args:
        source: a dataset folder, split or with one file of triples (`triples.tsv`), or a file of triples.
        target: the folder to write; it must not exist.
        valid, test: how many rows, or which share, of those without a new entity; by default a tenth each, or as much
            as can be held out where that is less. With `repair` valid is filled up to `valid` rows, if it is given.
        seed, leakage_free: see `split_triples`.
        repair: keep the splits but make them disjoint; see `repair_splits`.
        core: first keep only what `k_core` keeps; 0 = everything.
        new_entities: how many entities, or which share of them, train is not to know; see `hold_back`.

    Returns:
        What `dataset.json` says; `notes` under `split` are what the user should know of the source, such as a header
        line that was left out.

    Raises:
        DataError: the source is not fit or the target exists; nothing is left under its name.
        UsageError: options that do not go together, or more rows to hold out than can be.
    """
    refuse_taken(target)
    frames, notes = _read(source)
    moved = None
    if repair:
        if test is not None or core or new_entities:
            raise UsageError(
                "--repair keeps test as it is and takes no entity away: leave --test, --k-core and --new-entities out"
            )
        if list(frames) != list(SPLITS):
            raise UsageError(f"{source} has no train, valid and test to repair; leave --repair out to split it")
        before = Splits(frames["train"], frames["valid"], frames["test"])
        splits, moved = repair_splits(before, valid=valid, seed=seed, leakage_free=leakage_free)
    else:
        triples = pl.concat(frames.values())
        triples = k_core(triples, core) if core else triples
        if triples.is_empty():
            why = f"nothing is left of it in which every entity has {core:,} triples" if core else "holds no triple"
            raise DataError(source, why, "lower --k-core" if core else "put triples there")
        splits = split_triples(
            triples, valid=valid, test=test, seed=seed, leakage_free=leakage_free, new_entities=new_entities
        )
        if valid is None and test is None and splits.fewer:
            held = f"valid has {len(splits.valid):,} rows and test {len(splits.test):,}"
            why = "more cannot be held out without leaving an entity or a relation out of train"
            notes.append(f"{held}, since {why}; --random draws a tenth each whatever train then lacks")
            valid, test = len(splits.valid), len(splits.test)
        valid, test = TENTH if valid is None else valid, TENTH if test is None else test
    every = pl.concat(splits.frames.values())
    entities = pl.concat([every["head"], every["tail"].alias("head")]).unique()
    method: dict[str, Any] = {"method": "repair" if repair else "leakage-free" if leakage_free else "random"}
    method |= {"seed": seed, "valid": valid, "test": test, "k_core": core, "leakage_free": leakage_free}
    if new_entities:
        method["new_entities"] = {"asked": new_entities, **_new_entities(splits)}
    if notes:
        method["notes"] = notes
    if moved is not None:
        groups = moved.group_by("from", "to", "reason", maintain_order=True).len("rows")
        method["changes"] = groups.to_dicts()
    record = {
        "name": target.name,
        **_inherited(source),
        "derived_from": {"name": source.resolve().name, "sha256": _checksums(source)},
        "split": method,
        "counts": {
            "entities": len(entities),
            "relations": every["relation"].n_unique(),
            **{split: len(frame) for split, frame in splits.frames.items()},
        },
    }
    with new_folder(target) as folder:
        for split, frame in splits.frames.items():
            write_triples(frame, folder / f"{split}.tsv")
        if moved is not None:
            moved.write_csv(folder / "moved.tsv", separator="\t", quote_style="never")
        if source.is_dir():
            _carry(source, folder, entities if core else None)
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        (folder / "dataset.json").write_text(text, encoding="utf-8")
    return record


def _new_entities(splits: Splits) -> dict[str, int]:
    """How many entities of valid and of test train lacks."""
    names = {split: {*frame["head"], *frame["tail"]} for split, frame in splits.frames.items()}
    return {split: len(names[split] - names["train"]) for split in ("valid", "test")}


def _files(source: Path) -> dict[str, Path]:
    """Find the file of each split; a single file of triples is called `triples`."""
    if source.is_file():
        return {"triples": source}
    found = {split: path for split in SPLITS if (path := find_table(source, split))}
    if not found and (path := find_table(source, "triples")):
        found = {"triples": path}
    if not found:
        raise DataError(source, "holds no triples", "add triples.tsv (head TAB relation TAB tail)")
    return found


def _read(source: Path) -> tuple[dict[str, pl.DataFrame], list[str]]:
    """The triples of each file without their header lines, and what is said of those."""
    frames: dict[str, pl.DataFrame] = {}
    notes: list[str] = []
    for name, path in _files(source).items():
        frame = read_triples(path)
        header = find_header(frame)
        if header is not None:
            words = f"({', '.join(frame.row(0))})"
            if header.certain:
                notes.append(f"{path.name}: the first line was taken for a header {words}")
                places = zip(header.places, COLUMNS, strict=True)
                frame = frame[1:].select(pl.nth(i).alias(column) for i, column in places)
            elif header.likely:
                said = f"{path.name}: the first line {words} is read as a triple"
                notes.append(f"{said}; `mmrns data convert` takes it for a header")
        frames[name] = frame
    return frames, notes


def _checksums(source: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in _files(source).values()}


def _inherited(source: Path) -> dict[str, Any]:
    """What the source's `dataset.json` says of the data rather than of the split."""
    path = source / "dataset.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        inherited = {key: found[key] for key in INHERITED if key in found}
        # JSON may hold halves of characters, which cannot be written again.
        json.dumps(inherited, ensure_ascii=False).encode("utf-8")
        return inherited
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DataError(path, f"is not a JSON object ({error})", "mend or remove it") from error


def _carry(source: Path, folder: Path, entities: pl.Series | None) -> None:
    """Bring names, features and pictures along; if `entities` are given, `entities.tsv` keeps only their rows."""
    table = source / "entities.tsv"
    pictures: list[str] = []
    if table.exists():
        frame = read_header_table(table)
        if entities is not None and "entity" in frame.columns:
            frame = frame.filter(pl.col("entity").is_in(entities.implode()))
            frame.write_csv(folder / table.name, separator="\t", quote_style="never")
        else:
            shutil.copyfile(table, folder / table.name)
        if "image" in frame.columns:
            cells = [image for image in frame["image"].str.strip_chars().unique() if image and not leads_out(image)]
            paths = [path.relative_to(source).as_posix() for image in cells for path in named_pictures(source, image)]
            pictures = [path for path in paths if not leads_out(path)]
    for path in [*(source / name for name in TABLES), *source.glob("LICEN[CS]E*")]:
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    if (source / "README.md").is_file():
        # It tells of the split it came with.
        shutil.copyfile(source / "README.md", folder / "README.source.md")
    for path in sorted({"features", "images", *pictures}):
        files = pictures_of(source / path) if (source / path).is_dir() else [source / path]
        for file in files:
            place = folder / file.relative_to(source)
            if file.is_file() and not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                _link(file, place)


def _link(source: Path, target: Path) -> None:
    """Make a hard link; copy a text instead, since an editor may change it in place, and where no link can be made."""
    if source.suffix != ".entities":
        try:
            os.link(source.resolve(), target)
            return
        except OSError:
            pass
    shutil.copyfile(source, target)
