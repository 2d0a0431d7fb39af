"""Test the tests: change one thing in the package and see whether a test fails.

    python scripts/mutants.py map               # which test runs which line; once, and again after tests were added
    python scripts/mutants.py run --n 100       # try a random sample of mutants (--seed), print those that survive
    python scripts/mutants.py run --again       # the survivors among them anew, say with further tests
    python scripts/mutants.py show ID           # one mutant as a diff; `run --only ID` tries it

A mutant is a copy of one module with one change (`OPERATORS`); the working tree is never touched. It is tried in a fork
of this process, which has the libraries imported already, and meets the tests that run the changed line, the fastest
first, until one fails. What was found is kept in `build/mutants/`, so that a run that was cut short goes on where it
was. Mutants that nothing can tell from the original are listed in `scripts/mutants_equivalent.toml`, with the reason;
they count neither way. Needs a system that forks.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import hashlib
import importlib.machinery
import itertools
import json
import os
import re
import resource
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
PACKAGES = [f"src/mmrns/{name}" for name in ("samplers", "nn", "training", "evaluation")]
TESTS = [f"tests/{name}" for name in ("samplers", "nn", "training", "evaluation", "contracts", "runs")]
LEFT_OUT = {"tests/contracts/test_device.py"}
"""Test files that mutants do not meet: it looks at each operation of a step, and takes minutes."""
TABLES = "tests/docs/test_tables.py"
"""Compares defaults with the tables of the documentation, without a call of what has them."""
KERNELS = "nn/kernels/"
"""What is compiled there leaves no trace of its lines: all tests of the folder run it."""
LIBRARIES = ["torch", "torch._dynamo", "numba", "polars", "matplotlib.pyplot", "pydantic", "safetensors.torch", "yaml"]
LIBRARIES += ["pytest", "hypothesis", "beartype", "jaxtyping"]
"""What takes long to import and has no part in what is changed."""
STATE = ROOT / "build" / "mutants"
EQUIVALENT = Path(__file__).with_name("mutants_equivalent.toml")

QUIET = ["-W", "ignore:Module already imported"]
"""Pytest would rewrite the assertions of Hypothesis."""

COMPARISONS: dict[type[ast.cmpop], tuple[str, list[str]]] = {
    ast.Lt: ("<", ["<=", ">="]),
    ast.LtE: ("<=", ["<", ">"]),
    ast.Gt: (">", [">=", "<="]),
    ast.GtE: (">=", [">", "<"]),
    ast.Eq: ("==", ["!="]),
    ast.NotEq: ("!=", ["=="]),
    ast.Is: ("is", ["is not"]),
    ast.IsNot: ("is not", ["is"]),
    ast.In: ("in", ["not in"]),
    ast.NotIn: ("not in", ["in"]),
}
ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
PAIRS = [
    ("min", "max"),
    ("amin", "amax"),
    ("argmin", "argmax"),
    ("minimum", "maximum"),
    ("any", "all"),
    ("floor", "ceil"),
]
PAIRS += [("sum", "mean"), ("cos", "sin"), ("zeros", "ones"), ("zeros_like", "ones_like")]
OTHER_NAME = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}
SYMMETRIC = {"min", "max", "maximum", "minimum", "logaddexp", "equal", "isinstance", "issubclass"}
TALK = {"on_note", "warn", "print"}
"""Calls that only say something."""
ALIKE = {"non_blocking"}
"""Arguments that change no result."""
WORDS = {"__repr__", "notes"}
"""Functions that only make messages."""
OPERATORS = {
    "comparison": "the next comparison, and the opposite one",
    "arithmetic": "another operation",
    "constant": "an integer one more or one less, a float doubled, True for False",
    "default": "the same in the default of an argument",
    "negation": "the condition of a branch negated",
    "connective": "and for or",
    "sign": "not, minus or ~ removed",
    "drop": "a call, or an assignment that is not a name's first, left out",
    "swap": "the first two arguments exchanged",
    "detach": "detach() removed",
    "function": "its counterpart: min for max, any for all",
    "slice": "a bound moved by one",
}


@dataclass(frozen=True)
class Mutant:
    """One change of one module.

    Attributes:
        path: of the module, from the root.
        operator: a key of `OPERATORS`.
        scope: the function or class that it is in.
        lines: first and last line of the changed statement's part.
        start, end: bytes that are replaced.
        text: by what.
        nth: how many equal changes of the scope come before.
    """

    path: str
    operator: str
    scope: str
    lines: tuple[int, int]
    start: int
    end: int
    text: str
    nth: int = 0

    def apply(self, source: bytes) -> bytes:
        """The changed module."""
        return source[: self.start] + self.text.encode() + source[self.end :]

    def diff(self, source: bytes) -> list[str]:
        """The changed lines, marked by - and +."""
        first = source.rfind(b"\n", 0, self.start) + 1
        last = (source + b"\n").find(b"\n", self.end)
        after = source[first : self.start] + self.text.encode() + source[self.end : last]
        return [f"-{line}" for line in source[first:last].decode().split("\n")] + [
            f"+{line}" for line in after.decode().split("\n")
        ]


def mutants_of(path: str, source: bytes) -> Iterator[Mutant]:
    """All mutants of a module."""
    tree = ast.parse(source)
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    seen: dict[tuple[str, ...], int] = {}
    for operator, scope, lines, first, last, text in _Changes(source, starts).of(tree):
        mutant = Mutant(path, operator, scope, lines, first, last, text)
        key = (scope, *(line.strip() for line in mutant.diff(source)))
        seen[key] = seen.get(key, -1) + 1
        yield replace(mutant, nth=seen[key])


Change = tuple[str, str, tuple[int, int], int, int, str]


class _Changes:
    """Walks a tree and yields what may be changed: operator, scope, lines, first byte, last byte, new text."""

    def __init__(self, source: bytes, starts: list[int]):
        self.source, self.starts = source, starts

    def of(self, tree: ast.Module) -> Iterator[Change]:
        yield from self._body(tree.body, "", (1, 1))

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.starts[node.lineno - 1] + node.col_offset, self.starts[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.expr) -> str:
        first, last = self._span(node)
        return self.source[first:last].decode()

    def _body(self, body: list[ast.stmt], scope: str, lines: tuple[int, int]) -> Iterator[Change]:
        for statement in body:
            docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            skipped = (ast.Import, ast.ImportFrom, ast.Assert, ast.Raise, ast.Global, ast.Nonlocal, ast.Pass)
            if docstring or isinstance(statement, skipped):
                continue
            yield from self._statement(statement, scope)

    def _statement(self, node: ast.stmt, scope: str) -> Iterator[Change]:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = f"{scope}.{node.name}" if scope else node.name
            if node.name in WORDS or any(getattr(d, "id", "") == "overload" for d in node.decorator_list):
                return
            if isinstance(node, ast.FunctionDef):
                for default in [*node.args.defaults, *node.args.kw_defaults]:
                    if default is not None:
                        for _, *change in self._expression(default, name):
                            yield "default", *change  # type: ignore[misc]
            yield from self._body(node.body, name, (node.lineno, node.lineno))
            return
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and _called(node.value) in TALK:
            return
        if self._droppable(node, scope):
            first, last = self._span(node)
            assert node.end_lineno is not None
            yield "drop", scope, (node.lineno, node.end_lineno), first, last, "pass"
        if isinstance(node, ast.If | ast.While):
            yield self._negated(node.test, scope)
        for field, value in ast.iter_fields(node):
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, ast.expr) and field != "annotation":
                    yield from self._expression(part, scope)
                elif isinstance(part, ast.withitem):
                    yield from self._expression(part.context_expr, scope)
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                yield from self._body(value, scope, (node.lineno, node.lineno))

    @staticmethod
    def _droppable(node: ast.stmt, scope: str) -> bool:
        if isinstance(node, ast.AugAssign):
            return True
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            return "super().__init__" not in ast.unparse(node.value)
        if not isinstance(node, ast.Assign) or not scope:
            return False
        if isinstance(node.targets[0], ast.Attribute | ast.Subscript):
            return not scope.endswith("__init__")
        names = {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
        return isinstance(node.targets[0], ast.Name) and node.targets[0].id in names

    def _change(self, operator: str, scope: str, node: ast.expr, text: str) -> Change:
        assert node.end_lineno is not None
        return operator, scope, (node.lineno, node.end_lineno), *self._span(node), text

    def _negated(self, test: ast.expr, scope: str) -> Change:
        return self._change("negation", scope, test, f"(not ({self._text(test)}))")

    def _between(self, operator: str, scope: str, left: ast.expr, right: ast.expr, sign: str, other: str) -> Change:
        """The sign between two operands exchanged."""
        start, end = self._span(left)[1], self._span(right)[0]
        pattern = r"\s+".join(re.escape(word) for word in sign.split())
        found = re.search(pattern.encode(), self.source[start:end])
        assert found is not None
        assert right.end_lineno is not None
        lines = (left.lineno, right.end_lineno)
        return operator, scope, lines, start + found.start(), start + found.end(), other

    def _expression(self, node: ast.expr, scope: str) -> Iterator[Change]:
        if isinstance(node, ast.JoinedStr):
            return
        if isinstance(node, ast.Compare):
            for left, sign, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
                own, others = COMPARISONS[type(sign)]
                for other in others:
                    yield self._between("comparison", scope, left, right, own, other)
        elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            texts = (ast.JoinedStr, ast.Constant)
            if not any(
                isinstance(n, texts) and isinstance(getattr(n, "value", ""), str) for n in (node.left, node.right)
            ):
                yield self._between("arithmetic", scope, node.left, node.right, *ARITHMETIC[type(node.op)])
        elif isinstance(node, ast.BoolOp):
            words = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            for left, right in zip(node.values, node.values[1:], strict=False):
                yield self._between("connective", scope, left, right, *words)
        elif isinstance(node, ast.UnaryOp):
            yield self._change("sign", scope, node, f"({self._text(node.operand)})")
        elif isinstance(node, ast.Constant):
            yield from self._constant(node, scope)
        elif isinstance(node, ast.IfExp):
            yield self._negated(node.test, scope)
        elif isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            for part in node.generators:
                for test in part.ifs:
                    yield self._negated(test, scope)
                    yield from self._expression(test, scope)
                yield from self._expression(part.iter, scope)
        elif isinstance(node, ast.Call):
            yield from self._call(node, scope)
        elif isinstance(node, ast.Slice):
            yield from self._slice(node, scope)
            return
        for part in ast.iter_child_nodes(node):
            if isinstance(part, ast.expr):
                yield from self._expression(part, scope)
            elif isinstance(part, ast.keyword) and part.arg not in ALIKE:
                yield from self._expression(part.value, scope)

    def _constant(self, node: ast.Constant, scope: str) -> Iterator[Change]:
        if isinstance(node.value, bool):
            yield self._change("constant", scope, node, str(not node.value))
        elif isinstance(node.value, int):
            for other in (node.value + 1, node.value - 1):
                yield self._change("constant", scope, node, str(other) if other >= 0 else f"({other})")
        elif isinstance(node.value, float):
            yield self._change("constant", scope, node, repr(2 * node.value or 1.0))

    def _call(self, node: ast.Call, scope: str) -> Iterator[Change]:
        name = _called(node)
        if name == "detach" and isinstance(node.func, ast.Attribute):
            yield self._change("detach", scope, node, self._text(node.func.value))
        if name in OTHER_NAME:
            _, end = self._span(node.func)
            assert node.func.end_lineno is not None
            lines = (node.func.lineno, node.func.end_lineno)
            yield "function", scope, lines, end - len(name), end, OTHER_NAME[name]
        if name == "clamp" and len(node.keywords) == 1 and node.keywords[0].arg in OTHER_NAME:
            value = node.keywords[0].value
            start = self._span(value)[0] - len(node.keywords[0].arg) - 1
            other = OTHER_NAME[node.keywords[0].arg]
            yield "function", scope, (value.lineno, value.lineno), start, start + len(other), other
        if len(node.args) > 1 and name not in SYMMETRIC and not any(isinstance(a, ast.Starred) for a in node.args[:2]):
            first, second = node.args[:2]
            start, end = self._span(first)
            then, last = self._span(second)
            text = self._text(second) + self.source[end:then].decode() + self._text(first)
            assert second.end_lineno is not None
            yield "swap", scope, (first.lineno, second.end_lineno), start, last, text

    def _slice(self, node: ast.Slice, scope: str) -> Iterator[Change]:
        if node.lower is None and node.upper is None:
            return
        for bound, sign in ((node.lower, "+ 1"), (node.upper, "- 1")):
            if bound is not None:
                yield self._change("slice", scope, bound, f"({self._text(bound)}) {sign}")
                yield from (c for c in self._expression(bound, scope) if c[0] != "constant")


def _called(node: ast.Call) -> str:
    """The last name of what is called."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _sources() -> dict[str, bytes]:
    paths = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
    return {str(p.relative_to(ROOT)): p.read_bytes() for p in paths}


class Sources:
    """The modules as they are, their mutants, and the names of these."""

    def __init__(self) -> None:
        self.texts = _sources()
        every = [m for path, text in self.texts.items() for m in mutants_of(path, text)]
        self.by_id = {self.id(m): m for m in every}
        assert len(self.by_id) == len(every)
        entries = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")).get("mutant", []) if EQUIVALENT.exists() else []
        self.equivalent = {(e["path"], e["before"], e["after"]): e["reason"] for e in entries}

    def id(self, mutant: Mutant) -> str:
        """The same as long as the changed lines and their scope are."""
        parts = [mutant.path, mutant.scope, *mutant.diff(self.texts[mutant.path]), str(mutant.nth)]
        return hashlib.sha1("\n".join(part.strip() for part in parts).encode()).hexdigest()[:10]

    def reason(self, mutant: Mutant) -> str | None:
        """Why nothing can tell it from the original, where that is so."""
        lines = mutant.diff(self.texts[mutant.path])
        before, after = (" ".join(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")
        return self.equivalent.get((mutant.path, before, after))

    def sample(self, n: int, seed: int) -> list[str]:
        """So many mutants; which, depends on each mutant alone, so that changes elsewhere leave the sample be."""
        order = sorted(self.by_id, key=lambda key: hashlib.sha1(f"{seed} {key}".encode()).digest())
        return list(itertools.islice((key for key in order if self._parses(self.by_id[key])), n))

    def _parses(self, mutant: Mutant) -> bool:
        try:
            ast.parse(mutant.apply(self.texts[mutant.path]))
        except SyntaxError:
            return False
        return True


# Which test runs which line.


class Map:
    """The tests that run a line.

    Attributes:
        sources: the modules as they were.
        digests: of the test files.
        seconds: how long each test took.
        lines: by path and line, the tests.
    """

    def __init__(self, path: Path):
        self.path = path
        known = json.loads(path.read_text()) if path.exists() else {}
        self.sources: dict[str, str] = known.get("sources", {})
        self.digests: dict[str, str] = known.get("digests", {})
        self.seconds: dict[str, float] = known.get("seconds", {})
        names = list(self.seconds)
        self.lines: dict[str, dict[int, set[str]]] = {
            path: {int(line): {names[i] for i in tests} for line, tests in lines.items()}
            for path, lines in known.get("lines", {}).items()
        }

    def save(self) -> None:
        number = {name: i for i, name in enumerate(self.seconds)}
        lines = {
            path: {line: sorted(number[t] for t in tests if t in number) for line, tests in found.items()}
            for path, found in self.lines.items()
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = {"sources": self.sources, "digests": self.digests, "seconds": self.seconds, "lines": lines}
        partial = self.path.with_suffix(".part")
        partial.write_text(json.dumps(whole))
        partial.rename(self.path)

    def forget(self, files: set[str]) -> None:
        """Leave test files out."""
        gone = {test for test in self.seconds if test.split("::")[0] in files}
        self.seconds = {test: s for test, s in self.seconds.items() if test not in gone}
        self.digests = {path: digest for path, digest in self.digests.items() if path not in files}
        for lines in self.lines.values():
            for tests in lines.values():
                tests -= gone

    def add(self, file: str, digest: str, seconds: dict[str, float], lines: dict[str, dict[int, set[str]]]) -> None:
        """Take a test file in."""
        self.digests[file] = digest
        self.seconds |= seconds
        for path, found in lines.items():
            own = self.lines.setdefault(path, {})
            for line, tests in found.items():
                own.setdefault(line, set()).update(tests)

    def follow(self, texts: dict[str, bytes]) -> None:
        """Move lines to where they are now; lines in place of others take over the tests of all of these."""
        for path, text in texts.items():
            now = text.decode()
            before = self.sources.get(path, now)
            if before != now:
                old, moved = self.lines.get(path, {}), dict[int, set[str]]()
                matcher = difflib.SequenceMatcher(None, before.splitlines(), now.splitlines(), autojunk=False)
                for kind, a, end, b, last in matcher.get_opcodes():
                    every = set[str]().union(*(old.get(line + 1, set()) for line in range(a, end)))
                    for i in range(last - b):
                        moved[b + i + 1] = old.get(a + i + 1, set()) if kind == "equal" else every
                self.lines[path] = {line: tests for line, tests in moved.items() if tests}
            self.sources[path] = now

    def tests(self, mutant: Mutant, source: bytes) -> list[str]:
        """The tests that run the changed lines, or else the scope that they are in; the fastest first."""
        lines = self.lines.get(mutant.path, {})

        def during(first: int, last: int) -> set[str]:
            return set[str]().union(*(lines.get(line, set()) for line in range(first, last + 1)))

        found = during(*mutant.lines)
        node: ast.AST = ast.parse(source)
        around = [(1, len(source.splitlines()))]
        for name in filter(None, mutant.scope.split(".")):
            node = next(n for n in ast.walk(node) if getattr(n, "name", None) == name)
            around.append((node.lineno + 1, node.end_lineno))  # type: ignore[attr-defined]
        while not found and around:
            found = during(*around.pop())
        if mutant.operator == "default":
            found |= {test for test in self.seconds if test.startswith(TABLES)}
        if KERNELS in mutant.path:
            found |= {test for test in self.seconds if test.startswith(f"tests/{KERNELS}")}
        return sorted(found & self.seconds.keys(), key=lambda t: self.seconds[t])


def make_map(sources: Sources) -> None:
    """Run the tests of files that are new or changed, and keep which lines each of them runs; saved file by file."""
    import coverage
    import pytest

    known = Map(STATE / "map.json")
    known.follow(sources.texts)
    files = [str(p.relative_to(ROOT)) for folder in TESTS for p in sorted((ROOT / folder).rglob("test_*.py"))]
    files = [path for path in [*files, TABLES] if path not in LEFT_OUT]
    digests = {path: hashlib.sha1((ROOT / path).read_bytes()).hexdigest() for path in files}
    known.forget({path for path, digest in known.digests.items() if digests.get(path) != digest})
    for path, digest in digests.items():
        if path in known.digests:
            continue
        recorder = coverage.Coverage(data_file=None, source=[str(ROOT / p) for p in PACKAGES], config_file=False)
        plugin = _recording(recorder)
        recorder.start()
        pytest.main([path, "-q", "-p", "no:cacheprovider", *QUIET], plugins=[plugin, Reproducible()])
        recorder.stop()
        data = recorder.get_data()
        known.add(
            path,
            digest,
            plugin.seconds,
            {
                str(Path(file).relative_to(ROOT)): {
                    line: set[str]().union(*(plugin.users.get(c, {c}) for c in contexts)) & plugin.seconds.keys()
                    for line, contexts in data.contexts_by_lineno(file).items()
                }
                for file in data.measured_files()
            },
        )
        known.save()
    print(f"{len(known.seconds)} tests, {sum(known.seconds.values()):.0f} s")


class Reproducible:
    """Hypothesis without chance, deadlines and memory."""

    def pytest_configure(self) -> None:
        import hypothesis

        hypothesis.settings.register_profile("mutants", derandomize=True, deadline=None, database=None)
        hypothesis.settings.load_profile("mutants")


def _recording(recorder: Any) -> Any:
    import pytest

    class Recorder:
        """Switches the context of the coverage; what a shared fixture runs counts for all tests that use it.

        Attributes:
            seconds: of each test that passed.
            users: by the context of a shared fixture, the tests.
        """

        def __init__(self) -> None:
            self.seconds: dict[str, float] = {}
            self.users: dict[str, set[str]] = {}
            self.test = ""

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_protocol(self, item: Any) -> Any:
            self.test = item.nodeid
            recorder.switch_context(item.nodeid)
            for fixtures in item._fixtureinfo.name2fixturedefs.values():
                for fixture in fixtures:
                    self.users.setdefault(self._context(fixture), set()).add(item.nodeid)
            started = time.process_time()
            result = yield
            if item.nodeid in self.seconds:
                self.seconds[item.nodeid] = round(time.process_time() - started, 3)
            return result

        @pytest.hookimpl(wrapper=True)
        def pytest_fixture_setup(self, fixturedef: Any) -> Any:
            if fixturedef.scope == "function":
                return (yield)
            recorder.switch_context(self._context(fixturedef))
            try:
                return (yield)
            finally:
                recorder.switch_context(self.test)

        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.when == "call" and report.passed:
                self.seconds[report.nodeid] = 0.0

        @staticmethod
        def _context(fixture: Any) -> str:
            return f"fixture {fixture.baseid} {fixture.argname}"

    return Recorder()


# One mutant after another.


class Chosen:
    """Lets the chosen tests run, in their order, and remembers the one that failed. A file stands for its tests."""

    def __init__(self, tests: list[str]):
        self.place = {test: i for i, test in enumerate(tests)}
        self.failed: str | None = None

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        def place(item: Any) -> int:
            return self.place.get(item.nodeid, self.place.get(item.nodeid.split("::")[0], -1))

        items[:] = sorted((item for item in items if place(item) >= 0), key=place)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and self.failed is None:
            self.failed = report.nodeid


def _replace(path: str, text: bytes) -> None:
    """From now on the module at a path is imported with another text, and its bytecode is neither read nor written."""
    loader = importlib.machinery.SourceFileLoader
    get_data, path_stats = loader.get_data, loader.path_stats
    changed = str(ROOT / path)

    def data(self: Any, path: str) -> bytes:
        return text if path == changed else get_data(self, path)

    def stats(self: Any, path: str) -> Any:
        if path == changed:
            raise OSError
        return path_stats(self, path)

    loader.get_data, loader.path_stats = data, stats  # type: ignore[method-assign]


def _try(mutant: Mutant | None, source: bytes, tests: list[str], folder: Path) -> None:
    """In a fork: import the mutant, run the tests, leave what was found in the folder."""
    import pytest

    output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(output, stream)
    if mutant is not None and KERNELS in mutant.path:
        import numba

        # What was compiled from the original is not what is to be tested.
        numba.config.CACHE_DIR = str(folder / "numba")
    if mutant is not None:
        _replace(mutant.path, mutant.apply(source))
    chosen = Chosen(tests)
    files = sorted({str(ROOT / test.split("::")[0]) for test in tests})
    options = ["-x", "-q", "--no-header", "--tb=short", "-p", "no:cacheprovider", f"--basetemp={folder / 'tmp'}"]
    code = pytest.main([*options, *QUIET, *files], plugins=[chosen, Reproducible()])
    (folder / "found.json").write_text(json.dumps({"code": int(code), "failed": chosen.failed}))


def run(sources: Sources, ids: list[str], *, jobs: int, budget: float, again: bool, files: list[str]) -> None:
    """Try mutants and print what became of them."""
    sys.path.insert(0, str(SOURCE))
    os.environ["PYTHONPATH"] = str(SOURCE)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.chdir(ROOT)
    for name in LIBRARIES:
        __import__(name)
    known = Map(STATE / "map.json")
    if not known.seconds and not files:
        raise SystemExit("no map of the tests; python scripts/mutants.py map")
    known.follow(sources.texts)
    log = STATE / "found.jsonl"
    found = {row["id"]: row for row in map(json.loads, log.read_text().splitlines())} if log.exists() else {}
    waiting = [i for i in ids if sources.reason(sources.by_id[i]) is None]
    waiting = [i for i in waiting if i not in found or (again and not found[i]["killed"])]
    running: dict[int, tuple[str, tempfile.TemporaryDirectory[str], float, float]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            key = waiting.pop(0)
            mutant = sources.by_id[key]
            source = sources.texts[mutant.path]
            tests, planned = list(files), budget if files else 0.0
            for test in [] if files else known.tests(mutant, source):
                planned += known.seconds[test]
                if planned < budget:
                    tests.append(test)
            if not tests:
                found[key] = _record(log, key, mutant, killed=False, by="no test runs it", seconds=0.0)
                continue
            folder = tempfile.TemporaryDirectory(prefix="mutant-")
            limit = int(60 + 3 * min(planned, budget))
            pid = os.fork()
            if not pid:
                os.setpgid(0, 0)
                resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
                try:
                    _try(mutant, source, tests, Path(folder.name))
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(0)
            # Of the processor; by the clock more, for there may be others.
            running[pid] = key, folder, time.monotonic(), 20.0 * limit
        for pid, (key, folder, started, limit) in list(running.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            seconds = time.monotonic() - started
            if not done and seconds > limit:
                os.killpg(pid, signal.SIGKILL)
                done, status = os.waitpid(pid, 0)
            if not done:
                continue
            del running[pid]
            code, by = _outcome(Path(folder.name), status)
            found[key] = _record(log, key, sources.by_id[key], killed=bool(code), by=by, seconds=seconds)
            folder.cleanup()
        time.sleep(0.05)
    _report(sources, ids, found)


def _outcome(folder: Path, status: int) -> tuple[int, str | None]:
    """Pytest's exit code and what failed."""
    result = folder / "found.json"
    if not result.exists() and os.WIFSIGNALED(status):
        return 1, signal.Signals(os.WTERMSIG(status)).name
    found = json.loads(result.read_text()) if result.exists() else {"code": None}
    # Some test failed, the tests could not be collected, or not be run.
    if found["code"] not in (0, 1, 2, 3):
        raise SystemExit(f"{(folder / 'output').read_text()}\nnothing is known of a mutant; is the map old?")
    return found["code"], found["failed"] or ("import" if found["code"] else None)


def _record(log: Path, key: str, mutant: Mutant, *, killed: bool, by: str | None, seconds: float) -> dict[str, Any]:
    row = {"id": key, "path": mutant.path, "line": mutant.lines[0], "operator": mutant.operator}
    row |= {"killed": killed, "by": by, "seconds": round(seconds, 1)}
    with log.open("a") as file:
        file.write(json.dumps(row) + "\n")
    word = "killed  " if killed else "SURVIVED"
    print(f"{word} {seconds:5.1f} s  {key}  {mutant.path}:{mutant.lines[0]}  {by or ''}", flush=True)
    return row


def _report(sources: Sources, ids: list[str], found: dict[str, dict[str, Any]]) -> None:
    rows = [found[key] for key in ids if key in found and sources.reason(sources.by_id[key]) is None]
    survivors = [row for row in rows if not row["killed"]]
    for row in survivors:
        print()
        show(sources, row["id"])
    killed = len(rows) - len(survivors)
    summary = {
        "mutants": len(ids),
        "equivalent": len(ids) - len(rows),
        "killed": killed,
        "survived": [row["id"] for row in survivors],
        "score": round(killed / max(len(rows), 1), 4),
        "of": len(sources.by_id),
        "median_seconds": sorted(row["seconds"] for row in rows)[len(rows) // 2] if rows else None,
    }
    print("\n" + json.dumps(summary))


def show(sources: Sources, key: str) -> None:
    """Print one mutant."""
    mutant = sources.by_id[key]
    print(f"{key}  {mutant.path}:{mutant.lines[0]}  {mutant.scope}  ({mutant.operator}: {OPERATORS[mutant.operator]})")
    print("\n".join(mutant.diff(sources.texts[mutant.path])))
    if reason := sources.reason(mutant):
        print(f"equivalent: {reason}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("map", help="record which test runs which line")
    trying = commands.add_parser("run", help="try mutants")
    trying.add_argument("--n", type=int, default=100, help="how many, at random")
    trying.add_argument("--seed", type=int, default=0, help="of the choice")
    trying.add_argument("--only", nargs="+", metavar="ID", help="these instead")
    trying.add_argument("--tests", nargs="+", metavar="FILE", default=[], help="with the tests of these files")
    trying.add_argument("--again", action="store_true", help="try earlier survivors anew")
    trying.add_argument("--jobs", type=int, default=1, help="at a time")
    trying.add_argument("--budget", type=float, default=120.0, help="seconds of tests a mutant meets at most")
    showing = commands.add_parser("show", help="print a mutant")
    showing.add_argument("id")
    given = parser.parse_args()
    sources = Sources()
    if given.command == "map":
        make_map(sources)
    elif given.command == "show":
        show(sources, given.id)
    else:
        ids = given.only or sources.sample(given.n, given.seed)
        run(
            sources, ids, jobs=given.jobs, budget=given.budget, again=given.again or bool(given.only), files=given.tests
        )


if __name__ == "__main__":
    main()
