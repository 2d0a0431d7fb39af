"""Datasets of the studies: `python experiments/resplit.py FOLDER` writes them to a folder for `$MMRNS_DATA`.

DB15K-resplit     DB15K's train and valid without what is in test, 4,000 random rows of it as valid; test as published.
                  (Of the 9,904 published valid rows all but 80 are in train or test.)
FB15k-237-fifth   a random fifth of FB15k-237's train, 4,000 random rows each of valid and test.
FB15k-237-film    the triples of FB15k-237 about films (`/film/film/...`), split without leakage, a tenth each for valid
                  and test: few relations, and closed vocabularies such as genres, countries and kinds of work.

All are read from `$MMRNS_DATA`; features and descriptions are linked, not copied.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl

from mmrns.data.folders import dataset_folders, read_entities
from mmrns.data.splitting import split_triples
from mmrns.data.tables import read_columns

COLUMNS = ["head", "relation", "tail"]
HELD_OUT = 4_000


def main() -> None:
    """Write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    known = dataset_folders()
    if missing := [name for name in ("DB15K", "FB15k-237") if name not in known]:
        raise SystemExit(f"no dataset {' and '.join(missing)}; `mmrns data get NAME` brings one, or says where it is")

    train, valid, test = splits(known["DB15K"])
    rest = pl.concat([train, valid]).unique(maintain_order=True).join(test, on=COLUMNS, how="anti")
    rest = rest.sample(fraction=1.0, shuffle=True, seed=0)
    write(folder / "DB15K-resplit", known["DB15K"], rest[HELD_OUT:], rest[:HELD_OUT], test)

    train, valid, test = splits(known["FB15k-237"])
    parts = [part.sample(HELD_OUT, shuffle=True, seed=0) for part in (valid, test)]
    write(folder / "FB15k-237-fifth", known["FB15k-237"], train.sample(fraction=0.2, shuffle=True, seed=0), *parts)

    films = pl.concat([train, valid, test]).filter(pl.col("relation").str.starts_with("/film/film/"))
    found = split_triples(films, valid=0.1, test=0.1)
    write(folder / "FB15k-237-film", known["FB15k-237"], found.train, found.valid, found.test, "features")
    own = pl.concat([films["head"], films["tail"].alias("head")]).unique()
    table = read_entities(known["FB15k-237"])
    assert table is not None
    table = table.filter(pl.col("entity").is_in(own.to_list()))
    table.write_csv(folder / "FB15k-237-film" / "entities.tsv", separator="\t", quote_style="never")


def splits(source: Path) -> list[pl.DataFrame]:
    """Train, valid and test of a folder."""
    return [read_columns(source / f"{name}.tsv", COLUMNS) for name in ("train", "valid", "test")]


def write(target: Path, source: Path, train: pl.DataFrame, valid: pl.DataFrame, test: pl.DataFrame, *same: str) -> None:
    """A dataset folder with other triples and the same features, and names if nothing else is said."""
    target.mkdir(parents=True, exist_ok=True)
    for name, frame in (("train", train), ("valid", valid), ("test", test)):
        frame.write_csv(target / f"{name}.tsv", separator="\t", include_header=False, quote_style="never")
    for name in same or ("entities.tsv", "features"):
        link = target / name
        if not link.exists():
            link.symlink_to((source / name).resolve())


if __name__ == "__main__":
    main()
