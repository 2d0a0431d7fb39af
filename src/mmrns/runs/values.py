"""Values as they are written: the one reader of YAML, for configurations, studies and settings, and its writer."""

from __future__ import annotations

import codecs
import re
from collections.abc import Generator, Hashable, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError

from mmrns.errors import DataError, UsageError
from mmrns.runs.places import beside

YAMLError = yaml.YAMLError
"""What `parse_yaml` raises."""
BYTES = 2**20
"""The longest YAML file that is read: the parser takes seconds for so many bytes, and settings are some thousand."""
DEPTH = 50
"""How deep values may be nested."""
VALUES = 100_000
"""How many values a document may have, each alias counted as what it stands for."""
DIGITS = 100
"""Of a whole number at most."""

_TAG = "tag:yaml.org,2002:"
# The core schema of YAML 1.2.2, section 10.3.2, and `<<` of YAML 1.1, by which studies share settings.
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_SCHEMA = {"null": _NULL, "bool": _BOOL, "int": _INT, "float": _FLOAT, "merge": re.compile("<<")}


class _Loader(yaml.SafeLoader):
    """PyYAML's parser with the core schema of YAML 1.2, and without what a document of settings has no use for.

    `1e-4` and `.5` are numbers, `0o17` is 15; `yes`, `on`, `1:30`, `1_000`, `2020-01-01` are texts. A key is the text
    that is written, also `64`. Refused: a key twice in a mapping, a key that is no text, tags of other types, and what
    would take memory or depth without end.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as PyYAML declares it

    def __init__(self, text: str):
        super().__init__(text)
        self.depth, self.values = 0, 0
        self.sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self.sizes:
                raise ComposerError(None, None, f"*{event.anchor} is inside itself", event.start_mark)
            self._count(self.sizes[id(node)], event)
            return node
        self._count(1, event)
        self.depth += 1
        if self.depth > DEPTH:
            raise ComposerError(None, None, f"nested more than {DEPTH} deep", event.start_mark)
        before = self.values
        node = super().compose_node(parent, index)
        self.depth -= 1
        assert node is not None
        self.sizes[id(node)] = self.values - before + 1
        return node

    def _count(self, values: int, event: Any) -> None:
        self.values += values
        if self.values > VALUES:
            raise ComposerError(None, None, f"more than {VALUES:,} values", event.start_mark)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        return {key.value: self.construct_object(value, deep=True) for key, value in self.pairs(node)}

    def pairs(self, node: Any) -> list[tuple[Any, Any]]:
        """The entries of a mapping; those that it merges come first and are overridden by its own."""
        own: dict[str, tuple[Any, Any]] = {}
        merged: dict[str, tuple[Any, Any]] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConstructorError(None, None, "a key is no text", key.start_mark)
            name = str(key.value)
            if name in own:
                message = f"the key {name[:60]!r} is here twice, first in line {own[name][0].start_mark.line + 1}"
                raise ConstructorError(None, None, message, key.start_mark)
            own[name] = key, value
        if "<<" in own and own["<<"][0].tag == f"{_TAG}merge":
            _, given = own.pop("<<")
            for part in reversed(given.value if isinstance(given, yaml.SequenceNode) else [given]):
                if not isinstance(part, yaml.MappingNode):
                    raise ConstructorError(None, None, "<< takes a mapping", part.start_mark)
                merged |= {key.value: (key, value) for key, value in self.pairs(part)}
        return [*(merged | own).values()]

    def number(self, node: Any) -> Any:
        """A value of the core schema, also where its tag is written out."""
        kind, text = node.tag.removeprefix(_TAG), self.construct_scalar(node)
        if not _SCHEMA[kind].fullmatch(text) and not (kind == "float" and _INT.fullmatch(text)):
            raise ConstructorError(None, None, f"{text[:60]!r} is no {kind}", node.start_mark)
        match kind:
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                if len(text) > DIGITS:
                    message = f"a number of more than {DIGITS} digits"
                    raise ConstructorError(None, None, message, node.start_mark)
                return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
            case _:
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))

    def sequence(self, node: Any) -> list[Any]:
        """A list."""
        if not isinstance(node, yaml.SequenceNode):
            raise ConstructorError(None, None, "is no list", node.start_mark)
        return [self.construct_object(child, deep=True) for child in node.value]

    def mapping(self, node: Any) -> dict[Hashable, Any]:
        """A mapping."""
        if not isinstance(node, yaml.MappingNode):
            raise ConstructorError(None, None, "is no mapping", node.start_mark)
        return self.construct_mapping(node)

    def other(self, node: Any) -> Any:
        """What no setting is."""
        raise ConstructorError(None, None, f"a value of type {node.tag}", node.start_mark)


for _kind, _pattern in _SCHEMA.items():
    # By the first letter; the empty text has none.
    _first = {"null": [*"~nN", ""], "bool": [*"tTfF"], "merge": ["<"]}.get(_kind, [*"-+.0123456789"])
    _Loader.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(f"(?:{_pattern.pattern})$"), _first)
_Loader.yaml_constructors = {
    **{f"{_TAG}{kind}": _Loader.number for kind in ("null", "bool", "int", "float")},
    f"{_TAG}str": yaml.SafeLoader.construct_yaml_str,
    f"{_TAG}merge": yaml.SafeLoader.construct_yaml_str,
    f"{_TAG}seq": _Loader.sequence,
    f"{_TAG}map": _Loader.mapping,
    None: _Loader.other,
}


class _Dumper(yaml.SafeDumper):
    """Quotes a text that is a number or the like to readers of YAML 1.1 or of 1.2."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML declares it
        first: [
            *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
            *_Loader.yaml_implicit_resolvers.get(first, []),
        ]
        for first in yaml.SafeDumper.yaml_implicit_resolvers.keys() | _Loader.yaml_implicit_resolvers.keys()
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True


def parse_yaml(text: str) -> Any:
    """The value that a YAML text stands for, by the core schema of YAML 1.2.

    >>> parse_yaml("{lr: 1e-4, alpha: .5, sides: no, 64: 0o17}")
    {'lr': 0.0001, 'alpha': 0.5, 'sides': 'no', '64': 15}

    Raises:
        YAMLError: not YAML.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def dump_yaml(value: Any) -> str:
    """A value as YAML, which `parse_yaml` reads back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read_config(path: Path) -> dict[str, Any]:
    """The nested values of a YAML file, not yet validated.

    UTF-8, with a byte-order mark or without, or UTF-16 with one.

    Raises:
        DataError: unreadable or not a mapping, with the line.
    """
    text = _text(path)
    try:
        values = parse_yaml(text)
    except YAMLError as error:
        reason, line = _reason(error, text)
        raise DataError(path, f"is not valid YAML ({reason})", "mend the line", line) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise DataError(path, "holds no mapping", "write `section: {key: value}`", 1)
    return beside(values, path)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(BYTES + 1)
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror or error})", "give a YAML file") from error
    if len(content) > BYTES:
        raise DataError(path, f"has more than {BYTES:,} bytes, too many for settings", "give a YAML file")
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = None if wide else content[: error.start].count(b"\n") + 1
        raise DataError(path, "is no text in UTF-8", "give a YAML file, saved as UTF-8", line) from error


def _reason(error: yaml.YAMLError, text: str) -> tuple[str, int | None]:
    """What is wrong with a text, in one line, and in which line of it."""
    if isinstance(error, ReaderError):
        code = error.character if isinstance(error.character, int) else ord(str(error.character))
        return f"the character U+{code:04X}", text.count("\n", 0, error.position) + 1
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        return " ".join(str(error.problem or error.context).split()), mark.line + 1 if mark else None
    return " ".join(str(error).split()), None


@contextmanager
def told_of(path: Path | None, values: Mapping[str, Any]) -> Generator[None]:
    """Within it, a `UsageError` about a key tells the line of the file that has it.

    Args:
        path: of the file; None = there is none.
        values: what is validated: the values of the file, with others laid over them.
    """
    try:
        yield
    except UsageError as error:
        found = None if path is None or error.key is None else find(path, error.key)
        given: Any = values
        for part in (error.key or "").split("."):
            given = given.get(part) if isinstance(given, Mapping) else None
        if found is None or found[1] != plain(given):
            raise
        raise UsageError(f"{path}:{found[0]}: {error}") from error


def find(path: Path, key: str) -> tuple[int, Any] | None:
    """The line and the value of a dotted key in a file that `read_config` has read; None where it is not there.

    A key of the file may be dotted itself.
    """
    loader = _Loader(_text(path))
    try:
        node: Any = loader.get_single_node()
        line = 1
        while key:
            pairs = loader.pairs(node) if isinstance(node, yaml.MappingNode) else []
            fitting = [(k, v) for k, v in pairs if f"{key}.".startswith(f"{k.value}.")]
            if not fitting:
                return None
            name, node = max(fitting, key=lambda pair: len(pair[0].value))
            line, key = name.start_mark.line + 1, key[len(name.value) + 1 :]
        return line, loader.construct_object(node, deep=True)
    finally:
        loader.dispose()


def plain(value: Any, key: str = "") -> Any:
    """A copy in what YAML and JSON know: of classes the names, of tuples lists, of NumPy's and torch's numbers
    those of Python.

    What has no such form stays as it is, for validation to refuse.

    Args:
        value: nested mappings and lists.
        key: where it is, for the message.

    Raises:
        UsageError: a key of a mapping that is no text.
    """
    match value:
        case Mapping():
            strange = [name for name in value if not isinstance(name, str)]
            if strange:
                where = f"{key.rstrip('.')}: " if key else ""
                raise UsageError(f"{where}the key {strange[0]!r} is no text")
            return {name: plain(inner, f"{key}{name}.") for name, inner in value.items()}
        case list() | tuple():
            return [plain(inner, key) for inner in value]
        case Enum():
            return plain(value.value, key)
        case PurePath():
            return str(value)
        case type():
            registry: Any = getattr(value, "registry", None)
            return value if registry is None else registry.name_of(registry.get(value))
        case np.generic():
            return value.item()
        case np.ndarray():
            return value.tolist()
        case torch.Tensor():
            return value.tolist() if value.numel() <= VALUES else value
        case _:
            return value
