"""What the columns of a table about entities are: by what one says, by their names, by what they hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from mmrns.errors import UsageError, nearest
from mmrns.prepare.folders import PICTURE_SUFFIXES

KEYS = "entity id uri iri qid key node item 实体 编号 标识 主体"
NAMES = "name label title 名称 名字 姓名 标题 片名 名 中文名 标签"
TEXTS = (
    "description desc text abstract comment plot overview summary synopsis bio biography about intro introduction "
    "story storyline tagline content profile 描述 简介 剧情 摘要 介绍 概述 内容 生平 概要 说明"
)
IMAGES = (
    "image img picture pic photo poster cover thumbnail thumb logo avatar portrait headshot icon depiction "
    "图片 海报 照片 封面 头像 图像 剧照"
)
"""Words that columns are called by. A column whose name has one among others, such as `movie_title`, is meant too."""

_WORDS = {
    role: frozenset(words.split())
    for role, words in (("name", NAMES), ("text", TEXTS), ("image", IMAGES), ("entity", KEYS))
}
_NUMBER = r"^[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?$"
_IDS = re.compile(r"(?:^|_)(?:id|ids|code|zip|isbn|phone|index|编号|编码)$")
_PICTURE = rf"(?i)\.(?:{'|'.join(suffix.removeprefix('.') for suffix in PICTURE_SUFFIXES)})(?:\?\S*)?$"

_MOST = 0.95
"""Share of the filled fields of a column that must be numbers, or pictures, for it to hold them."""

_LONG = 60
"""Bytes that the fields of a column have on average where it holds texts."""


@dataclass(frozen=True)
class Chosen:
    """Which columns a user has chosen; what is left out is found.

    Attributes:
        key: of the entities.
        name, image: of their names and pictures.
        text: of their texts, which are joined in this order.
    """

    key: str | None = None
    name: str | None = None
    text: Sequence[str] = ()
    image: str | None = None

    @property
    def all(self) -> list[str]:
        """Every column that is named."""
        return [column for column in (self.key, self.name, *self.text, self.image) if column is not None]

    def refuse_absent(self, tables: Iterable[tuple[Path, Sequence[str]]]) -> None:
        """Refuse a column that no table has.

        Raises:
            UsageError: it, with those that there are.
        """
        tables = list(tables)
        known = [column for _, columns in tables for column in columns]
        for column in self.all:
            if column not in known:
                there = "; ".join(f"{path.name} has {', '.join(columns)}" for path, columns in tables)
                hint = nearest(column, known) or ";"
                raise UsageError(f"no table of entities has a column {column!r}{hint} {there or 'there is no table'}")


@dataclass
class Roles:
    """What each column of a table is: `name` and `image` one at most, `texts` and `numbers` any, `others` the rest."""

    name: str | None = None
    image: str | None = None
    texts: list[str] = field(default_factory=list[str])
    numbers: list[str] = field(default_factory=list[str])
    others: list[str] = field(default_factory=list[str])


def role_of(column: str) -> tuple[str | None, bool]:
    """What a column is by its name, and whether that is all of the name.

    >>> role_of("Title"), role_of("poster_url"), role_of("剧情简介"), role_of("genre")
    (('name', True), ('image', False), ('text', False), (None, False))
    """
    whole = re.sub(r"[\W_]+", "_", column.strip().casefold()).strip("_")
    for role, words in _WORDS.items():
        if whole in words:
            return role, True
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", column)
    tokens = {part.casefold() for part in parts}
    for role in ("text", "image", "name"):
        if tokens & _WORDS[role] or any(not word.isascii() and word in whole for word in _WORDS[role]):
            return role, False
    return None, False


def find_key(frame: pl.DataFrame, names: pl.Series) -> tuple[str | None, int]:
    """The column with the most distinct values among some names, and how many; of equals one called so, or the first.

    Args:
        frame: strings.
        names: distinct.
    """
    kind = pl.Enum(names)
    counts = {
        column: int(frame[column].str.strip_chars().unique().cast(kind, strict=False).is_not_null().sum())
        for column in frame.columns
    }
    most = max(counts.values(), default=0)
    if not most:
        return None, 0
    best = [column for column, count in counts.items() if count == most]
    return next((column for column in best if role_of(column)[0] == "entity"), best[0]), most


def find_roles(frame: pl.DataFrame, key: str, chosen: Chosen) -> Roles:
    """What the columns of a table are beside the key: as chosen, else by their names, else by what they hold.

    A name, a picture and a text are known by the words above; numbers and pictures by nearly all fields, texts by their
    length. Of several names or pictures the one whose column is called so and nothing else comes first, the others are
    left to be kept as they are.
    """
    there = set(frame.columns) - {key}
    found = Roles(chosen.name if chosen.name in there else None, chosen.image if chosen.image in there else None)
    found.texts = [column for column in chosen.text if column in there]
    taken = {key, found.name, found.image, *found.texts}
    rest = [column for column in frame.columns if column not in taken]
    by_name = {column: role_of(column) for column in rest}
    kinds = {column: _content(frame[column], column) for column in rest}
    for exact in (True, False):
        for column in rest:
            role, whole = by_name[column]
            # `image_width` is a number, whatever words it is made of.
            if whole is exact and (exact or kinds[column] != "number"):
                if role == "name" and found.name is None:
                    found.name = column
                elif role == "image" and found.image is None and kinds[column] != "number":
                    found.image = column
    for column in rest:
        if column in (found.name, found.image):
            continue
        role, whole = by_name[column]
        worded = role == "text" and (whole or kinds[column] != "number")
        if worded or (kinds[column] == "text" and role != "name"):
            (found.others if chosen.text else found.texts).append(column)
        elif kinds[column] == "image" and found.image is None:
            found.image = column
        elif kinds[column] == "number":
            found.numbers.append(column)
        else:
            found.others.append(column)
    return found


def _content(values: pl.Series, column: str) -> str | None:
    """Whether a column holds numbers, pictures or texts."""
    filled = values.str.strip_chars()
    filled = filled.filter(filled != "")
    if filled.is_empty():
        return None
    numbers = filled.str.contains(_NUMBER) & filled.cast(pl.Float64, strict=False).is_finite().fill_null(False)
    if numbers.all():
        whole = re.sub(r"[\W_]+", "_", column.strip().casefold()).strip("_")
        return None if _IDS.search(whole) else "number"
    if _share(filled.str.contains(_PICTURE)) >= _MOST:
        return "image"
    spaced = filled.str.contains(r"\S\s+\S|[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]{8}")
    return "text" if _share(spaced) > 0.5 and float(filled.str.len_bytes().mean() or 0) >= _LONG else None  # pyright: ignore[reportArgumentType]


def _share(flags: pl.Series) -> float:
    return float(flags.sum()) / len(flags)


def joined(columns: Sequence[str]) -> pl.Expr:
    """The texts of several columns as one, with a full stop after each but the last that ends with a letter or digit.

    What two columns say alike is said once.
    """
    if len(columns) == 1:
        return pl.col(columns[0])
    parts: list[pl.Expr] = []
    for i, column in enumerate(columns):
        text = pl.col(column).str.strip_chars()
        same = pl.any_horizontal(pl.lit(False), *(pl.col(before).str.strip_chars() == text for before in columns[:i]))
        more = pl.any_horizontal(pl.lit(False), *(pl.col(c).str.strip_chars() != "" for c in columns[i + 1 :]))
        ended = pl.when(more).then(text.str.replace(r"([\p{L}\p{N}])$", "${1}.")).otherwise(text)
        parts.append(pl.when((text == "") | same).then(None).otherwise(ended))
    return pl.concat_str(parts, separator=" ", ignore_nulls=True)
