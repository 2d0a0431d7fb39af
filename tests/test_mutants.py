"""The script that changes one thing in the package: what it changes, and that it finds its mutants and tests again."""

from __future__ import annotations

import importlib.util
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "mutants.py"


@pytest.fixture(scope="module")
def mutants() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutants", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    # Where a dataclass looks for the names of its annotations.
    sys.modules["mutants"] = module
    spec.loader.exec_module(module)
    return module


def _changed(mutants: ModuleType, text: str) -> set[str]:
    """The lines that mutants have in place of others."""
    source = textwrap.dedent(text).encode()
    return {line[1:].strip() for m in mutants.mutants_of("x.py", source) for line in m.diff(source) if line[0] == "+"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("return a < b", {"return a <= b", "return a >= b"}),
        ("return a is not b", {"return a is b"}),
        ("return a * (b)", {"return a / (b)"}),
        ("return a and b", {"return a or b"}),
        ("return not a", {"return (a)"}),
        ("return a if b else c", {"return a if (not (b)) else c"}),
        ("if a: b()", {"if (not (a)): b()", "if a: pass"}),
        ("return f(x, y=True)", {"return f(x, y=False)"}),
        ("return f(2)", {"return f(3)", "return f(1)"}),
        ("return 0.5", {"return 1.0"}),
        ("return f(x, y)", {"return f(y, x)"}),
        ("return x.detach()", {"return x"}),
        ("return x.amax()", {"return x.amin()"}),
        ("return x.clamp(min=y)", {"return x.clamp(max=y)"}),
        ("return x[a:]", {"return x[(a) + 1:]"}),
        ("return x[:, :3]", {"return x[:, :(3) - 1]"}),
        ("x = g(x)", {"pass"}),
        ("x += y", {"pass"}),
        ("self.x = y", {"pass"}),
        ("return [a for a in b if a]", {"return [a for a in b if (not (a))]"}),
    ],
)
def test_one_thing_is_changed(mutants: ModuleType, line: str, expected: set[str]) -> None:
    assert _changed(mutants, f"def f(x):\n    {line}\n") == expected


def test_defaults_are_changed_and_what_only_speaks_is_left_alone(mutants: ModuleType) -> None:
    assert _changed(mutants, "def f(x: Literal[1] = 7, *, y=True): ...") == {
        "def f(x: Literal[1] = 8, *, y=True): ...",
        "def f(x: Literal[1] = 6, *, y=True): ...",
        "def f(x: Literal[1] = 7, *, y=False): ...",
    }
    said = '''
    """Two."""
    from x import y
    if TYPE_CHECKING:
        z = 1
    def f(x: T[1]) -> T[2]:
        """Three."""
        y: T[3] = f"{x + 1}"
        assert x > 4
        raise ValueError("x" if x else 5)
    def notes(x):
        return [x + 1]
    '''
    assert _changed(mutants, said) == set()


def test_mutants_keep_their_names_when_other_lines_move(mutants: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    before = b"def f(x):\n    return x + 1\n\n\ndef g(x):\n    x = abs(x)\n    return x + 1\n"
    after = b"import os\n\n\ndef h(x):\n    return x\n\n\n" + before

    def names(source: bytes) -> set[str]:
        monkeypatch.setattr(mutants, "_sources", lambda: {"x.py": source})
        return set(mutants.Sources().by_id)

    assert names(before) == names(after)
    assert len(names(before)) == 7


def test_a_sample_is_the_beginning_of_a_larger_one(mutants: ModuleType) -> None:
    sources = mutants.Sources()
    few, many, other = sources.sample(5, 0), sources.sample(9, 0), sources.sample(9, 1)
    assert few == many[:5]
    assert not set(many) & set(other)


def test_the_map_follows_lines(mutants: ModuleType, tmp_path: Path) -> None:
    before = b"def f(x):\n    return x + 1\n\n\ndef g(x):\n    return x\n"
    after = before.replace(b"def g", b"K = 2\n\n\ndef g").replace(b"return x\n", b"y = x\n    return y + 2\n")
    known = mutants.Map(tmp_path / "map.json")
    known.follow({"x.py": before})
    tests = {"t.py::fast": 0.1, "t.py::slow": 2.0, "t.py::other": 1.0}
    lines = {1: set(), 2: {"t.py::slow", "t.py::fast"}, 5: set(), 6: {"t.py::other"}}
    known.add("t.py", "digest", tests, {"x.py": lines})
    known.save()
    known = mutants.Map(tmp_path / "map.json")
    known.follow({"x.py": after})

    def tests_of(text: str) -> list[str]:
        mutant = next(m for m in mutants.mutants_of("x.py", after) if any(text in line for line in m.diff(after)))
        return known.tests(mutant, after)

    assert tests_of("return x - 1") == ["t.py::fast", "t.py::slow"]
    assert tests_of("y - 2") == ["t.py::other"]
    # Nothing is known of a line that is new: all that runs the module.
    assert tests_of("K = 3") == ["t.py::fast", "t.py::other", "t.py::slow"]
    known.forget({"t.py"})
    assert tests_of("return x - 1") == []
