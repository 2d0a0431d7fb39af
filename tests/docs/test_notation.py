"""The package speaks the words of `docs/notation.md`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import mmrns
from mmrns.nn.embedders import Embedder
from mmrns.nn.losses import Loss
from mmrns.nn.mixtures import Mixture
from mmrns.nn.scorers import Scorer
from mmrns.prepare.encoders import ENCODERS
from mmrns.prepare.formats import LAYOUTS
from mmrns.samplers.base import Sampler
from mmrns.training.callbacks import Callback
from mmrns.training.trackers.base import Tracker

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "notation.md").read_text(encoding="utf-8")
GLOSSARY = PAGE[PAGE.index("## Words\n") : PAGE.index("## Symbols")]

AVOIDED = re.compile(
    r"(?<![a-z])(nodes?|laws?|slots?|fillers?|fellows?|feeds?|fed|likeness(es)?|logp|readings?)(?![a-z])"
)

ALLOWED = {
    "blank node": "a term of RDF",
    "line feed": "a character",
    "reading order": "of cells on a page",
    "reading tables": "the activity",
    "reading undoes": "the activity",
    "reading pictures": "the activity",
}
"""Where a word to avoid is another word."""


def words(name: str) -> str:
    """A name as words: `SlotIndex` and `slot_index` are both "slot index"."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", name).lower()


def spoken(path: Path) -> Iterator[tuple[int, str]]:
    """The public names that a module defines, and its docstrings, with their lines."""

    def walk(body: list[ast.stmt], public: bool) -> Iterator[tuple[int, str]]:
        before: ast.stmt | None = None
        for one in body:
            if isinstance(one, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                seen = public and not one.name.startswith("_")
                if seen:
                    yield one.lineno, words(one.name)
                if not isinstance(one, ast.ClassDef) and seen:
                    arguments = one.args
                    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                        yield argument.lineno, words(argument.arg)
                yield from walk(one.body, seen and isinstance(one, ast.ClassDef))
            targets = (
                one.targets if isinstance(one, ast.Assign) else [one.target] if isinstance(one, ast.AnnAssign) else []
            )
            for target in targets:
                if isinstance(target, ast.Name) and public and not target.id.startswith("_"):
                    yield target.lineno, words(target.id)
            is_text = (
                isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant) and isinstance(one.value.value, str)
            )
            # A text is a docstring at the beginning, or where it says what the assignment before it is.
            if is_text and (before is None or isinstance(before, ast.Assign | ast.AnnAssign)):
                for line, text in enumerate(one.value.value.splitlines()):  # pyright: ignore
                    yield one.lineno + line, text.lower()
            before = one

    yield from walk(ast.parse(path.read_text(encoding="utf-8")).body, True)


def test_the_package_avoids_what_the_glossary_avoids() -> None:
    found = []
    for path in sorted((ROOT / "src" / "mmrns").rglob("*.py")):
        for line, text in spoken(path):
            for allowed in ALLOWED:
                text = re.sub(rf"{allowed}s?", "", text)
            name = str(path.relative_to(ROOT))
            found += [f"{name}:{line}: {word}" for word in sorted({match[0] for match in AVOIDED.finditer(text)})]
    assert not found, "say it in the words of docs/notation.md:\n" + "\n".join(found)


def test_the_reader_of_names_and_docstrings(tmp_path: Path) -> None:
    code = '"""A law."""\nSLOT_SIZE = 1\n"""Of a slot."""\n\n\nclass NodeFeed:\n    fellow: int\n\n'
    code += '    def logp(self, filler):\n        """A likeness."""\n        law = "law"\n        return law\n\n'
    code += "    def _slot(self): ...\n"
    (tmp_path / "m.py").write_text(code)
    found = [match[0] for _, text in spoken(tmp_path / "m.py") for match in AVOIDED.finditer(text)]
    assert sorted(found) == ["feed", "fellow", "filler", "law", "likeness", "logp", "node", "slot", "slot"]
    assert not any(AVOIDED.search(text) for text in ("feedback", "lawful", "a candidate fills it", "flawed", "nodeset"))


def test_what_the_package_exports_is_explained() -> None:
    for name in mmrns.__all__:
        if name[0].isupper():
            assert f"`{name}`" in GLOSSARY, f"{name} has no row in docs/notation.md"


def test_every_kind_that_has_names_is_explained() -> None:
    seams = (Sampler, Scorer, Embedder, Mixture, Loss, Callback, Tracker)
    for registry in (*(seam.registry for seam in seams), LAYOUTS, ENCODERS):
        assert f"\n| {registry.kind} |" in GLOSSARY, f"{registry.kind} has no row in docs/notation.md"
    assert "\n| method |" in GLOSSARY


def test_the_words_to_avoid_are_those_of_the_page() -> None:
    rows = re.findall(r"^\| ([\w, ]+) \| ", PAGE[PAGE.index("## Words to avoid") :], re.MULTILINE)
    for row in rows[1:]:
        for word in row.split(", "):
            assert AVOIDED.search(word) or word.startswith(("of ",)), word
