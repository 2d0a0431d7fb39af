"""What is wrong with the feature files and the pictures of a dataset folder."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from safetensors import SafetensorError, safe_open

from mmrns.data.folders import largest_exponent
from mmrns.prepare.findings import Findings, find_lines, quoted
from mmrns.prepare.folders import is_address, leads_out, lies_within, named_pictures, pictures_of

CHUNK_BYTES = 1 << 25
"""Feature values that are looked at in one go."""

FLOAT16_MAX = float(np.finfo(np.float16).max)
DTYPES = {"F16": 2, "F32": 4}


def check_features(findings: Findings, entities: pl.Series) -> dict[str, Any]:
    """Examine `features/`; counts by modality.

    Args:
        findings: where to.
        entities: the names of all entities.
    """
    folder = findings.folder / "features"
    features: dict[str, Any] = {}
    for path in sorted(folder.glob("*")):
        if path.suffix == ".safetensors":
            features[path.stem] = _check_modality(findings, path, entities)
        elif path.suffix == ".entities" or path.name.endswith(".tokens.jsonl"):
            stem = path.name.removesuffix(".entities").removesuffix(".tokens.jsonl")
            if not path.with_name(f"{stem}.safetensors").exists():
                remedy = f"write {stem}.safetensors, or remove it"
                findings.add("warning", "stray-file", path, f"belongs to no {stem}.safetensors", remedy)
        elif not path.name.startswith("."):
            remedy = "`mmrns data convert` makes .safetensors of other layouts"
            findings.add("note", "stray-file", path, "is not read", remedy)
    return features


def _check_modality(findings: Findings, path: Path, entities: pl.Series) -> dict[str, Any]:
    found: dict[str, Any] = {"rows": 0, "tokens": 0, "width": 0, "entities": 0, "coverage": 0.0, "unmatched": 0}
    listing = path.with_suffix(".entities")
    names: pl.DataFrame | None = None
    if listing.exists():
        names = find_lines(findings, listing)
        found |= _check_listing(findings, listing, names, entities)
    else:
        remedy = f"list the entity of each row of {path.name}, one a line"
        findings.add("error", "missing-listing", listing, "is missing", remedy)
    try:
        with safe_open(path, framework="np") as file:
            found |= _check_tensors(findings, path, file, names)
    except (SafetensorError, OSError) as error:
        findings.add("error", "unreadable", path, f"is not a readable safetensors file ({error})", "write it again")
    return found


def _check_listing(findings: Findings, path: Path, names: pl.DataFrame, entities: pl.Series) -> dict[str, Any]:
    """Which entities of the graph a listing covers."""
    repeated = names.drop_nulls("text").filter(~pl.col("text").is_first_distinct())
    findings.rows(
        "error",
        "repeated",
        path,
        repeated["line"],
        lambda i: f"entity {quoted(repeated['text'][i])} is listed twice",
        "keep one row",
    )
    known = names["text"].is_in(entities.implode()).fill_null(True)
    unmatched = names.filter(~known)
    covered = names["text"].filter(known).drop_nulls().n_unique()
    if len(unmatched):
        plain = pl.col("text").str.normalize("NFKC").str.strip_chars().str.to_lowercase().alias("plain")
        listed = unmatched.head(findings.limit).with_columns(plain)
        close = entities.alias("text").to_frame().with_columns(plain).unique("plain", keep="first", maintain_order=True)
        close = listed.join(close, on="plain", how="left", maintain_order="left")["text_right"]
        severity = "warning" if covered else "error"
        findings.rows(
            severity,
            "unmatched",
            path,
            unmatched["line"],
            lambda i: (
                f"{quoted(listed['text'][i])} is no entity of the graph"
                + (f"; did you mean {quoted(close[i])}?" if close[i] is not None else "")
            ),
            "use the names of the triples, or leave the row out",
        )
    share = round(covered / len(entities), 4) if len(entities) else 0.0
    return {"entities": covered, "coverage": share, "unmatched": len(unmatched)}


def _check_tensors(findings: Findings, path: Path, file: Any, names: pl.DataFrame | None) -> dict[str, Any]:
    """Shapes, and what is wrong with values."""
    absent = sorted({"values", "mask"} - set(file.keys()))
    if absent:
        findings.add("error", "tensors", path, f"holds no tensor {absent[0]!r}", "write `values` and `mask`")
        return {}
    values, mask = file.get_slice("values"), file.get_slice("mask")
    shape, kind = list(values.get_shape()), values.get_dtype()
    if len(shape) != 3 or kind not in DTYPES or 0 in shape:
        findings.add(
            "error", "tensors", path, f"values are {kind} {shape}", "store float16 or float32 of shape [n, L, D]"
        )
        return {}
    n, length, width = shape
    found = {"rows": n, "tokens": length, "width": width}
    if mask.get_dtype() != "BOOL" or list(mask.get_shape()) != [n, length]:
        message = f"mask is {mask.get_dtype()} {list(mask.get_shape())}"
        findings.add("error", "tensors", path, message, f"store bool of shape {[n, length]}")
        return found
    if names is not None and len(names) != n:
        message = f"{len(names):,} lines but {path.name} has {n:,} rows"
        listing = path.with_suffix(".entities")
        findings.add("error", "lengths", listing, message, "give one entity a row", min(len(names), n) + 1)
        names = None
    rows, digests = _examine(values, mask, n, max(1, CHUNK_BYTES // (length * width * DTYPES[kind])))

    def whose(row: int) -> str:
        return f"row {row + 1}" if names is None else f"row {row + 1}, {quoted(names['text'][row])},"

    for code, severity, message, remedy in (
        ("not-finite", "error", "holds NaN or infinity", "encode it again, or leave the row out"),
        (
            "float16-overflow",
            "error" if kind == "F16" else "warning",
            "holds infinity, as float16 makes of what is above 65,504"
            if kind == "F16"
            else "holds values above 65,504, which float16 cannot",
            "scale the features" if kind == "F32" else "scale the features before they are stored as float16",
        ),
        (
            "too-large",
            "error",
            "holds a value too large to be squared in single precision",
            "scale the features",
        ),
        ("zero-row", "warning", "is all zeros", "leave it out: then the entity is missing, which zeros are not"),
        ("constant-row", "warning", "is constant", "leave it out if the encoder failed on it"),
        ("empty-row", "note", "has no present token", "leave it out"),
    ):
        lines = np.flatnonzero(rows[code]) + 1
        findings.rows(
            severity,  # pyright: ignore[reportArgumentType]
            code,
            path,
            lines.tolist(),
            lambda i, lines=lines, message=message: f"{whose(int(lines[i]) - 1)} {message}",
            remedy,
        )
        found[code.replace("-", "_")] = len(lines)
    alike = Counter(digests.values())
    count = sum(times for times in alike.values() if times > 1)
    if count:
        most, times = alike.most_common(1)[0]
        first = [row for row, digest in digests.items() if digest == most][:2]
        message = (
            f"{count:,} rows equal another one; {times:,} are the same, such as rows {first[0] + 1} and {first[1] + 1}"
        )
        remedy = "look at what was encoded: a stand-in for missing pictures or texts is not information"
        findings.add("note", "equal-rows", path, message, remedy, first[0] + 1)
    return {**found, "equal_rows": count}


def _examine(values: Any, mask: Any, n: int, step: int) -> tuple[dict[str, npt.NDArray[np.bool_]], dict[int, bytes]]:
    """What is wrong with which rows, in their present tokens; and a digest of each row that is fit."""
    codes = ("not-finite", "float16-overflow", "too-large", "zero-row", "constant-row", "empty-row")
    found = {code: np.zeros(n, np.bool_) for code in codes}
    digests: dict[int, bytes] = {}
    for start in range(0, n, step):
        part = slice(start, min(start + step, n))
        x, present = np.ascontiguousarray(values[part]), np.asarray(mask[part], np.bool_)
        # On the bits: NumPy's arithmetic on float16 is many times slower than on integers.
        bits = x.view(np.uint16 if x.dtype == np.float16 else np.uint32)
        exponent, magnitude = (0x7C00, 0x7FFF) if x.dtype == np.float16 else (0x7F80_0000, 0x7FFF_FFFF)
        size = bits & bits.dtype.type(magnitude)
        largest = size.max(-1)  # Ordered as the absolute values are, NaN above infinity.
        infinite = largest == exponent
        if x.dtype == np.float32:
            above = np.float32(FLOAT16_MAX).view(np.uint32)
            limit = (127 + largest_exponent(x.shape[-1])) << 23
            found["float16-overflow"][part] = ((largest > above) & (largest < limit) & present).any(-1)
            found["too-large"][part] = ((largest >= limit) & (largest < exponent) & present).any(-1)
            found["not-finite"][part] = ((largest >= exponent) & present).any(-1)
        else:
            found["float16-overflow"][part] = (infinite & present).any(-1)
            found["not-finite"][part] = ((largest > exponent) & present).any(-1)
        some = present.any(-1)
        zero = some & ~((largest != 0) & present).any(-1)
        same = (bits == bits[..., :1]).all(-1)
        found["zero-row"][part] = zero
        found["constant-row"][part] = some & ~zero & (same | ~present).all(-1) & (x.shape[-1] > 1)
        found["empty-row"][part] = ~some
        bits[~present] = 0
        fit = np.flatnonzero(some & ~zero)
        digests |= {start + int(i): hashlib.blake2b(bits[i], digest_size=16).digest() for i in fit}
    return found, digests


def check_images(findings: Findings, path: Path, table: pl.DataFrame) -> None:
    """Examine the pictures that a table names: columns image and line.

    Paths, of a file or of a folder of files, are relative to the dataset folder; one that leads out of it is an error,
    whatever lies there.
    """
    kinds: dict[str, list[tuple[int, str]]] = defaultdict(list)
    sizes: dict[int, dict[str, int]] = defaultdict(dict)
    root = os.path.realpath(findings.folder)
    for image, line in table.select(pl.col("image").str.strip_chars(), "line").iter_rows():
        code = None
        try:
            places = named_pictures(findings.folder, image)
            if is_address(image):
                code = "image-link"
            elif leads_out(image) or not all(lies_within(place, root) for place in places):
                code = "image-outside"
            else:
                files = [f for p in places for f in (pictures_of(p) if stat.S_ISDIR(os.stat(p).st_mode) else [p])]
                if not all(os.access(file, os.R_OK) for file in files if file.exists()):
                    raise PermissionError(image)
                of_each = {file.relative_to(findings.folder).as_posix(): os.stat(file).st_size for file in files}
                code = None if of_each and all(of_each.values()) else "image-empty"
                for name, size in of_each.items():
                    sizes[size].setdefault(name, line)
        except FileNotFoundError:
            code = "image-missing"
        except (OSError, ValueError):
            code = "image-unreadable"
        if code:
            kinds[code].append((line, image))
    sizes.pop(0, None)
    texts = {
        "image-link": ("warning", "is a web address", "download the picture and give its path"),
        "image-outside": ("error", "leads out of the dataset folder", "put the picture into the folder"),
        "image-missing": ("warning", "is not there", "restore the picture, or leave the field empty"),
        "image-unreadable": ("warning", "cannot be read", "restore the picture, or leave the field empty"),
        "image-empty": ("warning", "is empty", "restore the picture, or leave the field empty"),
    }
    for code, (severity, message, remedy) in texts.items():
        found = kinds[code]
        findings.rows(
            severity,  # pyright: ignore[reportArgumentType]
            code,
            path,
            [line for line, _ in found],
            lambda i, found=found, message=message: f"picture {quoted(found[i][1])} {message}",
            remedy,
        )
    equal = _equal_files(findings.folder, sizes)
    findings.rows(
        "note",
        "image-duplicate",
        path,
        [line for line, _, _ in equal],
        lambda i: f"picture {quoted(equal[i][1])} has the same bytes as {quoted(equal[i][2])}",
        "nothing, if they are meant to be the same",
    )


def _equal_files(folder: Path, sizes: dict[int, dict[str, int]]) -> list[tuple[int, str, str]]:
    """Pictures with the bytes of an earlier one: line, path, path of the earlier one."""
    found: list[tuple[int, str, str]] = []
    for paths in sizes.values():
        first: dict[bytes, str] = {}
        for image, line in paths.items() if len(paths) > 1 else ():
            with (folder / image).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
            if first.setdefault(digest, image) != image:
                found.append((line, image, first[digest]))
    return sorted(found)
