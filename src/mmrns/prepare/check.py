"""Everything that is wrong with a dataset folder, and everything about it that distorts a comparison.

`load_dataset` stops at the first thing that it cannot read; `check_dataset` goes on with the rows and files that are
fit, and counts what can be read but should be known: leakage between the splits, names that differ in a blank, features
that are constant. It loads no torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from mmrns.data.folders import SPLITS, SUFFIXES
from mmrns.data.names import COLUMNS, INVISIBLE, find_header, visible
from mmrns.prepare.check_features import check_features, check_images
from mmrns.prepare.findings import Findings, find_table, find_triples, quoted

TRIPLE = ["h", "r", "t"]


def check_dataset(folder: str | Path, limit: int = 5) -> dict[str, Any]:
    """Examine a dataset folder, also one that `load_dataset` refuses.

    Args:
        folder: the folder.
        limit: problems of one kind in one file that are listed; the others are counted under `more`.

    Returns:
        Plain values: `triples` (file; well-formed, distinct and malformed rows of each split), `entities`, `relations`,
        `leakage`, `unseen`, `features`, `problems` (see `mmrns.prepare.findings.Problem`), `more`, and `errors`, how
        many of the problems are errors, listed or not. Under `leakage`, `valid_in_train`, `test_in_train` and
        `valid_in_test` count the rows of the first split that are also rows of the second; `inverse_in_train` counts
        the rows of valid and test whose two entities a row of train joins in the other direction, `same_pair_in_train`
        those that one joins in the same direction by another relation; `by_split` tells valid and test apart.
    """
    folder = Path(folder)
    findings = Findings(folder, limit)
    paths = _find_tables(findings)
    triples: dict[str, dict[str, Any]] = {}
    frames: dict[str, pl.DataFrame] = {}
    for name, path in paths.items():
        before = len(findings.problems)
        frames[name], malformed = find_triples(findings, path)
        distinct = frames[name].select(COLUMNS).n_unique()
        triples[name] = {"file": path.name, "rows": len(frames[name]), "distinct": distinct, "malformed": malformed}
        _check_header(findings, path, frames[name])
        if frames[name].is_empty() and len(findings.problems) == before:
            refused = name == "train"
            remedy = "put the training triples there" if refused else "move some triples from train there"
            findings.add("error" if refused else "warning", "empty-split", path, "holds no triple", remedy)
    graph = _Graph.of(paths, frames)
    _check_duplicates(findings, graph)
    leakage = _check_leakage(findings, graph)
    unseen = _check_unseen(findings, graph)
    entities = _check_tables(findings, graph)
    features = check_features(findings, entities)
    return {
        "name": Path(os.path.abspath(folder)).name,
        "folder": str(folder),
        "entities": len(graph.entities),
        "relations": len(graph.relations),
        "triples": triples,
        "leakage": leakage,
        "unseen": unseen,
        "features": features,
        "problems": [asdict(problem) for problem in findings.problems],
        "more": [asdict(rest) for rest in findings.rest],
        "errors": findings.errors,
    }


def _find_tables(findings: Findings) -> dict[str, Path]:
    """Find the file of each split; in a folder that is not split yet the single file of triples counts as train."""
    folder = findings.folder
    found: dict[str, Path] = {}
    for name in (*SPLITS, "triples"):
        paths = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
        there = [path for path in paths if path.exists()]
        if there:
            found[name] = there[0]
        for path in there[1:]:
            message = f"holds {name} too; only {there[0].name} was examined"
            findings.add("error", "two-files", path, message, "keep one of the two")
        for path in paths:
            if path.is_symlink() and not path.exists():
                findings.add("error", "unreadable", path, "is a link that leads nowhere", "restore what it links to")
    if list(found) in (["triples"], ["train"]):
        path = found.popitem()[1]
        remedy = "`mmrns data split` makes train, valid and test of it"
        findings.add("warning", "not-split", path, "is the only file of triples", remedy)
        return {"train": path}
    if not found:
        remedy = "add train.tsv, valid.tsv, test.tsv (head TAB relation TAB tail), or see `mmrns data convert`"
        findings.add("error", "missing-split", folder, "holds no file of triples", remedy)
        return {}
    found.pop("triples", None)
    for split in SPLITS:
        if split not in found:
            remedy = f"add {split}.tsv (head TAB relation TAB tail), or let `mmrns data split` make the splits"
            findings.add("error", "missing-split", folder, f"split {split!r} is missing", remedy)
    return found


def _check_header(findings: Findings, path: Path, frame: pl.DataFrame) -> None:
    triples = frame.select(COLUMNS)
    header = find_header(triples) if len(frame) and frame["line"][0] == 1 else None
    if header is not None and header.certain:
        message = f"{' TAB '.join(triples.row(0))} looks like a header, and is read as a triple"
        findings.add("warning", "header", path, message, "delete the line", 1)


@dataclass(frozen=True)
class _Graph:
    """All rows of all splits.

    Attributes:
        paths: the file of each split.
        rows: columns split, line and, as codes into `entities` and `relations`, h, r, t.
        entities, relations: the names, by code.
    """

    paths: Mapping[str, Path]
    rows: pl.DataFrame
    entities: pl.Series
    relations: pl.Series

    @classmethod
    def of(cls, paths: Mapping[str, Path], frames: Mapping[str, pl.DataFrame]) -> _Graph:
        empty = pl.DataFrame(schema={**dict.fromkeys(COLUMNS, pl.String), "line": pl.UInt32, "split": pl.String})
        every = pl.concat([empty, *(frame.with_columns(split=pl.lit(name)) for name, frame in frames.items())])
        entities = pl.concat([every["head"], every["tail"].alias("head")]).unique().sort().alias("name")
        relations = every["relation"].unique().sort().alias("name")
        entity, relation = pl.Enum(entities), pl.Enum(relations)
        kinds = {"head": entity, "relation": relation, "tail": entity}
        codes = [pl.col(c).cast(kind).to_physical().cast(pl.UInt32).alias(c[0]) for c, kind in kinds.items()]
        return cls(paths, every.select("split", "line", *codes), entities, relations)

    def split(self, name: str) -> pl.DataFrame:
        """The rows of a split."""
        return self.rows.filter(pl.col("split") == name)

    def named(self, row: Mapping[str, Any]) -> str:
        """A triple as a message quotes it."""
        h, r, t = self.entities[row["h"]], self.relations[row["r"]], self.entities[row["t"]]
        return f"({quoted(h)}, {quoted(r)}, {quoted(t)})"

    def first_use(self) -> pl.DataFrame:
        """Where each entity and relation first occurs: columns kind, name, split, line."""
        parts = [
            self.rows.select("split", "line", code=pl.col(column), kind=pl.lit(kind))
            for column, kind in (("h", "entity"), ("r", "relation"), ("t", "entity"))
        ]
        uses = pl.concat(parts).unique(["kind", "code"], keep="first", maintain_order=True)
        entity = uses.filter(pl.col("kind") == "entity")
        relation = uses.filter(pl.col("kind") == "relation")
        entity = entity.with_columns(name=self.entities.gather(entity["code"]))
        relation = relation.with_columns(name=self.relations.gather(relation["code"]))
        return pl.concat([entity, relation]).select("kind", "name", "split", "line")


def _check_duplicates(findings: Findings, graph: _Graph) -> None:
    for split, path in graph.paths.items():
        rows = graph.split(split)
        repeated = rows.filter(~pl.struct(TRIPLE).is_first_distinct())
        listed = repeated.head(findings.limit).join(rows, on=TRIPLE, how="left", maintain_order="left")
        first = listed.group_by("line", maintain_order=True).agg(pl.col("line_right").min())["line_right"]
        findings.rows(
            "warning",
            "duplicate",
            path,
            repeated["line"],
            lambda i, first=first: f"repeats line {first[i]}",
            "delete one, or `mmrns data split --repair` does",
        )


def _check_leakage(findings: Findings, graph: _Graph) -> dict[str, Any]:
    train = graph.split("train")
    joined = train.group_by("h", "t").agg(least=pl.col("r").min(), most=pl.col("r").max())
    leakage: dict[str, Any] = dict.fromkeys(("valid_in_train", "test_in_train", "valid_in_test"), 0)
    leakage |= dict.fromkeys(("inverse_in_train", "same_pair_in_train"), 0)
    for split, other in (("valid", "train"), ("test", "train"), ("valid", "test")):
        rows, there = graph.split(split), graph.split(other)
        leaked = rows.join(there, on=TRIPLE, how="semi", maintain_order="left")
        leakage[f"{split}_in_{other}"] = len(leaked)
        if len(leaked):
            first = leaked.row(0, named=True)
            line = there.join(leaked.head(1), on=TRIPLE, how="semi")["line"][0]
            message = (
                f"{len(leaked):,} of {len(rows):,} rows are also rows of {other}; the first, {graph.named(first)}, is "
                f"{graph.paths[other].name}:{line}"
            )
            remedy = "`mmrns data split --repair` makes a clean split"
            findings.add("error", "leak", graph.paths[split], message, remedy, first["line"])
    by_split: dict[str, dict[str, int]] = {}
    for split in ("valid", "test"):
        rows = graph.split(split)
        crossed = rows.filter(pl.col("h") != pl.col("t"))
        inverse = crossed.join(joined, left_on=["h", "t"], right_on=["t", "h"], how="semi", maintain_order="left")
        pairs = rows.join(joined, on=["h", "t"], maintain_order="left")
        pairs = pairs.filter((pl.col("least") != pl.col("r")) | (pl.col("most") != pl.col("r")))
        by_split[split] = {"inverse_in_train": len(inverse), "same_pair_in_train": len(pairs)}
        for key, found, how in (
            ("inverse_in_train", inverse, "in the other direction"),
            ("same_pair_in_train", pairs, "in the same direction by another relation"),
        ):
            leakage[key] += len(found)
            if len(found):
                message = f"{len(found):,} of {len(rows):,} rows join two entities that a row of train joins {how}"
                if key == "inverse_in_train":
                    message += f"; most often {_common_inverse(graph, found, train)}"
                remedy = "report it, or let `mmrns data split` keep such pairs together"
                code = key.removesuffix("_in_train").replace("_", "-")
                findings.add("warning", code, graph.paths[split], message, remedy, found["line"][0])
    return {**leakage, "by_split": by_split}


def _common_inverse(graph: _Graph, rows: pl.DataFrame, train: pl.DataFrame) -> str:
    """The two relations that most often join the same entities in both directions."""
    both = rows.join(train, left_on=["h", "t"], right_on=["t", "h"])
    top = both.group_by("r", "r_right").len().sort(["len", "r", "r_right"], descending=[True, False, False])
    here, there = graph.relations[top["r"][0]], graph.relations[top["r_right"][0]]
    return f"{quoted(here)} here and {quoted(there)} there ({top['len'][0]:,})"


def _check_unseen(findings: Findings, graph: _Graph) -> dict[str, Any]:
    train = graph.split("train")
    seen = {"h": pl.concat([train["h"], train["t"].alias("h")]).unique(), "r": train["r"].unique()}
    unseen: dict[str, Any] = {}
    for split in ("valid", "test"):
        rows = graph.split(split)
        found: dict[str, int] = {}
        for kind, code, columns, names in (
            ("entities", "unseen-entity", ["h", "t"], graph.entities),
            ("relations", "unseen-relation", ["r"], graph.relations),
        ):
            new = rows.unpivot(columns, index="line", value_name="code")
            new = new.filter(~pl.col("code").is_in(seen[columns[0]].implode())).sort("line")
            count, affected = new["code"].n_unique(), new["line"].n_unique()
            found[kind] = count
            found[f"rows with unseen {kind}"] = affected
            if affected:
                name = quoted(names[new["code"][0]])
                message = (
                    f"{affected:,} of {len(rows):,} rows hold {kind} that train lacks, {count:,} in all, such as {name}"
                )
                remedy = "nothing has been learned of them: `mmrns data split` covers all by train"
                if kind == "entities":
                    remedy = "results are also given without them; `mmrns data split` covers all by train"
                findings.add("warning", code, graph.paths[split], message, remedy, new["line"][0])
        unseen[split] = found
    return unseen


def _check_tables(findings: Findings, graph: _Graph) -> pl.Series:
    """Check `entities.tsv`, `relations.tsv` and the names themselves; the names of all entities."""
    files = {split: path.name for split, path in graph.paths.items()}
    file = pl.col("split").replace_strict(files, return_dtype=pl.String).alias("file")
    uses = graph.first_use().select("kind", "name", file, "line")
    for kind, name in (("entity", "entities.tsv"), ("relation", "relations.tsv")):
        path = findings.folder / name
        if not path.exists():
            continue
        table = find_table(findings, path, kind, "error" if kind == "entity" else "warning")
        if table is None:
            continue
        used = uses.filter(pl.col("kind") == kind)["name"]
        alone = table.filter(~pl.col(kind).is_in(used.implode()))
        if len(alone):
            message = f"{len(alone):,} of {len(table):,} occur in no triple; the first is {quoted(alone[kind][0])}"
            remedy = "nothing, if that is meant: they are ranked like any other" if kind == "entity" else "delete them"
            findings.add("note", f"isolated-{kind}", path, message, remedy, alone["line"][0])
        unlisted = used.filter(~used.is_in(table[kind].implode()))
        if len(unlisted):
            message = (
                f"{len(unlisted):,} of {len(used):,} names of the triples are not listed, such as {quoted(unlisted[0])}"
            )
            findings.add("note", f"unlisted-{kind}", path, message, "nothing, or add them: they go by their ids")
        if "name" in table.columns:
            _check_labels(findings, path, table.filter(pl.col("name") != ""))
        if kind == "entity":
            if "image" in table.columns:
                check_images(findings, path, table.filter(pl.col("image").str.strip_chars() != ""))
            listed = table.select(kind=pl.lit(kind), name=pl.col(kind), file=pl.lit(name), line="line")
            uses = pl.concat([uses, listed]).unique(["kind", "name"], keep="first", maintain_order=True)
    _check_names(findings, uses)
    _check_order(findings, graph, uses)
    return uses.filter(pl.col("kind") == "entity")["name"]


def _check_labels(findings: Findings, path: Path, table: pl.DataFrame) -> None:
    shared = table.filter(pl.col("name").is_duplicated())
    if len(shared):
        first = shared["name"][0]
        message = f"{len(shared):,} rows share their name with another, such as {quoted(first)}"
        findings.add("note", "shared-name", path, message, "ask for them by id", shared["line"][0])


def _check_names(findings: Findings, uses: pl.DataFrame) -> None:
    """Names that begin or end with a blank, and names that differ from another in what is hard to see."""
    plain = pl.col("name").str.replace_all(r"\s+", " ").str.strip_chars()
    names = uses.with_columns(plain=plain, seen=visible(pl.col("name")))
    names = names.with_columns(form=pl.col("seen").str.normalize("NFKC"))
    names = names.with_columns(key=pl.col("form").str.to_lowercase())
    first = [
        pl.col(c).first().over("kind", "key").alias(f"first_{c}")
        for c in ("name", "file", "line", "plain", "seen", "form")
    ]
    names = names.with_columns(first)
    how = (
        pl.when(pl.col("plain") == pl.col("first_plain"))
        .then(pl.lit("blanks"))
        .when(pl.col("seen") == pl.col("first_seen"))
        .then(pl.lit("invisible characters"))
        .when(pl.col("form") == pl.col("first_form"))
        .then(pl.lit("their Unicode form"))
        .otherwise(pl.lit("upper and lower case"))
    )
    near = names.filter(pl.col("name") != pl.col("first_name")).with_columns(how=how).sort("how", maintain_order=True)
    edges = names.filter(pl.col("name").str.contains(rf"^(\s|{INVISIBLE})|(\s|{INVISIBLE})$"))
    for file in names["file"].unique(maintain_order=True):
        rows, path = near.filter(pl.col("file") == file), findings.folder / file
        findings.rows(
            "warning",
            "near-duplicate",
            path,
            rows["line"],
            lambda i, rows=rows: (
                f"{rows['kind'][i]} {quoted(rows['name'][i])} and {quoted(rows['first_name'][i])} "
                f"({rows['first_file'][i]}:{rows['first_line'][i]}) differ in {rows['how'][i]}"
            ),
            "write both alike if they are one",
        )
        rows = edges.filter(pl.col("file") == file)
        findings.rows(
            "warning",
            "blank-edge",
            path,
            rows["line"],
            lambda i, rows=rows: (
                f"{rows['kind'][i]} {quoted(rows['name'][i])} begins or ends with a blank or an invisible character"
            ),
            "take it away, everywhere",
        )


def _check_order(findings: Findings, graph: _Graph, uses: pl.DataFrame) -> None:
    """Relations that look like entities: the columns are probably in another order."""
    both = graph.relations.filter(graph.relations.is_in(graph.entities.implode()))
    if not len(both) and len(graph.relations) <= len(graph.entities):
        return
    wanted = both[0] if len(both) else graph.relations[0]
    place = uses.filter((pl.col("kind") == "relation") & (pl.col("name") == wanted)).row(0, named=True)
    message = f"{len(graph.relations):,} relations for {len(graph.entities):,} entities"
    if len(both):
        message = f"{len(both):,} of {len(graph.relations):,} relations are also entities, such as {quoted(wanted)}"
    remedy = "put the columns in the order head, relation, tail if they are not"
    findings.add("warning", "column-order", findings.folder / place["file"], message, remedy, place["line"])
