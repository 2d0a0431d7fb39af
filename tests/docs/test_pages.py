"""Every page runs: its Python, its `mmrns` commands and its configurations, block by block, in a folder of its own.

Trainings are cut down to a few steps here, and draw no pictures, so that the pages may say what a user would do. What
cannot run is listed in `ELSEWHERE` with the reason; it parses all the same.
"""

from __future__ import annotations

import gzip
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
import yaml

import mmrns.runs.train
from forked import torchrun
from mmrns.cli import app, main
from mmrns.data.folders import EMBEDDED
from mmrns.nn.embedders import Embedder
from mmrns.nn.losses import Loss
from mmrns.nn.mixtures import Mixture
from mmrns.nn.scorers import Scorer
from mmrns.prepare.encoders import ENCODERS, Encoder
from mmrns.prepare.formats import LAYOUTS, convert
from mmrns.runs.config import Config, apply_settings, make_config
from mmrns.samplers.base import Sampler
from mmrns.studies.compare import Comparison
from mmrns.training.callbacks import Callback
from mmrns.training.trackers.base import Tracker

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

ELSEWHERE = {
    r"make |pip install|python3 -m venv|\.venv/bin/pip": "installs",
    r"export MMRNS_DATA=": "the test sets it",
    r"(MMRNS_DATA=\S+ )?python (benchmarks|experiments)/": "measures for minutes; tests of its own",
    r"mmrns data get": "needs the network",
    r"mmrns encode wordnet": "needs what the network gives, and half an hour",
    r"mmrns train --dataset (FB15k-237|MKG-W|WN9|DB15K)": "needs a published dataset",
    r"mmrns (train experiments/(DB15K|WN9|MKG-W)|sees runs/(db15k|wn9|mkg-w))": "needs a published dataset",
    r"git clone": "needs the network",
    r"torchrun --nnodes": "needs several machines",
    r"mmrns data (convert|split) ((data|MyGO/data)/)?(MKG-W|DB15K|triples DB15K)": "needs published files",
    r"mmrns compare experiments/": "trains for hours, most of it on published datasets",
    r"python scripts/mutants.py": "changes the package and runs its tests, for hours",
    r"mmrns serve": "answers until it is ended; tests of its own",
    r"curl |python -c": "asks a service, or makes its token",
    r"python scripts/docs_tables": "rewrites the pages; test_tables.py compares",
}
"""Lines of shell blocks that are not run, by how they begin."""

PLACEHOLDERS = {
    "RUN": "runs/r",
    "DIR": "my-graph",
    "SRC": "countries",
    "DST": "my-copy",
    "NEW": "my-split",
    "BUNDLE": "my-bundle",
    "NEWDIR": "my-repository",
    "MODEL": "classical",
    "FILE": "queries.tsv",
    "FILE.html": "page.html",
}
"""What stands for the words in capitals of the README's table of commands."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The file that its first line says it is."""
        found = re.match(r"# ([\w./-]+\.(?:py|yaml))\n", self.text)
        return found[1] if found else None

    @property
    def lines(self) -> list[str]:
        """Lines of a shell block, continued ones joined, without comments."""
        joined = self.text.replace("\\\n", " ").splitlines()
        return [line for line in (re.sub(r"\s+#.*", "", line).strip() for line in joined) if line]


def blocks(page: Path, *languages: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = [Block(m[1], m[2], text.count("\n", 0, m.start()) + 2) for m in FENCE.finditer(text)]
    return [block for block in found if not languages or block.language in languages]


def inline_commands(page: Path) -> list[list[str]]:
    """The words of every `mmrns ...` in running text and in tables."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return [shlex.split(found)[1:] for found in re.findall(r"`(mmrns [a-z][^`]*)`", text)]


def elsewhere(line: str) -> bool:
    return any(re.match(pattern, line) for pattern in ELSEWHERE)


def parse(words: list[str]) -> dict[str, Any]:
    """The options of a command line; any error of usage is raised."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        context = command.make_context("mmrns", list(words))
        name, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None, name
        if not words and hasattr(command, "commands"):
            return {}
    return command.make_context("mmrns", list(words)).params


# What pages find in their folder.


def dataset(name: str) -> Callable[[Path], None]:
    """A dataset folder of that name, a copy of the countries."""

    def write(folder: Path) -> None:
        shutil.copytree(EMBEDDED["countries"], folder / name, ignore=shutil.ignore_patterns("images"))

    return write


def for_triples(folder: Path) -> None:
    """Tables of triples with descriptions and pictures, and folders of other layouts."""
    source = EMBEDDED["countries"]
    rows = "".join((source / f"{split}.tsv").read_text(encoding="utf-8") for split in ("train", "valid", "test"))
    triples = [line.split("\t") for line in rows.splitlines()]
    (folder / "mine" / "pictures" / "country").mkdir(parents=True)
    lines = ["subject,predicate,object", *(",".join(f'"{name}"' for name in row) for row in triples)]
    (folder / "mine" / "triples.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "mine" / "countries.csv").write_text("id,title,plot\ncountry/Kenya,Kenya,In Africa.\n")
    shutil.copy(source / "images" / "ke.png", folder / "mine" / "pictures" / "country" / "Kenya.png")
    (folder / "films" / "posters").mkdir(parents=True)
    facts = "film,property,value\nalien,genre,horror\nup,genre,comedy\nup,director,Docter\n"
    (folder / "films" / "triples.csv").write_text(facts)
    movie = {"film": "alien", "title": "Alien", "plot": "In space.", "tagline": "Nobody hears.", "poster": "alien.png"}
    (folder / "films" / "movies.jsonl").write_text(json.dumps(movie) + "\n")
    shutil.copy(source / "images" / "ke.png", folder / "films" / "posters" / "alien.png")
    few = [("a", "knows", "b"), ("b", "knows", "c"), ("c", "likes", "a")]
    (folder / "graph.csv").write_text("von,wie,nach\n" + "".join(f"{h},{r},{t}\n" for h, r, t in few))
    (folder / "graph.txt").write_text("".join(f"{t};{h};{r}\n" for h, r, t in few).replace(";knows", ";knows"))
    (folder / "graph.tsv").write_text("von\twie\tnach\n" + "".join(f"{h}\t{r}\t{t}\n" for h, r, t in few))
    convert(source, folder / "FB15K237-openke", target="openke")
    shutil.copytree(folder / "FB15K237-openke", folder / "benchmark")
    for split in ("train", "valid", "test"):
        path = folder / "benchmark" / f"{split}2id.txt"
        count, *ids = path.read_text().splitlines()
        swapped = (line.split() for line in ids)
        path.write_text("\n".join([count, *(f"{h} {r} {t}" for h, t, r in swapped)]) + "\n")


def for_features(folder: Path) -> None:
    """Triples of people with pictures, descriptions and numbers."""
    from PIL import Image

    graph = folder / "my-graph"
    (graph / "pictures" / "bob").mkdir(parents=True)
    rows = {"train": ["alice\tknows\tbob", "bob\tknows\tcarol", "carol\tknows\tdan"], "valid": ["alice\tknows\tcarol"]}
    for split, lines in (rows | {"test": ["alice\tknows\tdan"]}).items():
        (graph / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    for name in ("alice.jpg", "bob/1.png", "bob/2.png"):
        Image.new("RGB", (40, 30), (200, 30, 90)).save(graph / "pictures" / name)
    people = ("alice", "bob", "carol", "dan")
    (graph / "descriptions.csv").write_text("entity,text\n" + "".join(f"{name},A person.\n" for name in people))
    (graph / "numbers.tsv").write_text("".join(f"{name}\theight\t1.{60 + i}\n" for i, name in enumerate(people)))


def for_rdf(folder: Path) -> None:
    head = "@prefix : <http://x/> . @prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .\n"
    body = ':a :near :b ; rdfs:label "A"@en ; :size 3 . :b :near :c ; rdfs:comment "Second. Place." .\n'
    (folder / "geography.ttl").write_text(head + body)
    line = "<http://x/a> <http://x/near> <http://x/b> .\n"
    (folder / "wild.nt").write_text(line + "<http://x/a> <http://x/near> <http://x/b c> .\n")
    (folder / "DB15K").mkdir()
    (folder / "DB15K" / "train.txt").write_text(line)
    with gzip.open(folder / "dump.nt.gz", "wt") as file:
        file.write("<http://x/a> <http://x/near> <http://x/b> .\n")


def for_samplers(folder: Path) -> None:
    train = (EMBEDDED["countries"] / "train.tsv").read_text(encoding="utf-8").splitlines()
    h, r, t = next(line.split("\t") for line in train if "\tborders\t" in line)
    (folder / "negatives.tsv").write_text(f"{h}\t{r}\t{t}\t{h}\t{r}\tlanguage/Swahili\n", encoding="utf-8")


def for_readme(folder: Path) -> None:
    from PIL import Image

    for_features(folder)
    (folder / "my-graph" / "pictures").rename(folder / "my-graph" / "images")
    (folder / "queries.tsv").write_text("country/France\tborders\t?\n", encoding="utf-8")
    people = ["ann", "bob", "alice", *(f"person{i}" for i in range(30))]
    rows = [f"{a},knows,{b}" for i, a in enumerate(people) for b in (people[i - 1], people[i - 7])]
    (folder / "triples.csv").write_text("\n".join(["head,relation,tail", *rows]) + "\n", encoding="utf-8")
    (folder / "my-files" / "photos").mkdir(parents=True)
    (folder / "my-files" / "facts.csv").write_text("\n".join(["person,property,value", *rows]) + "\n", encoding="utf-8")
    texts = [f"{name},{name.title()},A person called {name}." for name in people]
    (folder / "my-files" / "people.csv").write_text("\n".join(["id,title,plot", *texts]) + "\n", encoding="utf-8")
    for name in ("ann", "bob", "alice"):
        Image.new("RGB", (40, 30), (200, 30, 90)).save(folder / "my-files" / "photos" / f"{name}.png")


def for_experiments(folder: Path) -> None:
    (folder / "space.yaml").write_text("training.lr: [0.001, 0.01]\n")


FILES: dict[str, list[Callable[[Path], None]]] = {
    "README.md": [for_readme],
    "docs/samplers.md": [for_samplers],
    "docs/how-to/check-and-split.md": [dataset("people")],
    "docs/how-to/own-data.md": [dataset("people")],
    "docs/how-to/own-triples.md": [for_triples],
    "docs/how-to/images-and-texts.md": [for_features],
    "docs/how-to/rdf.md": [for_rdf],
    "docs/how-to/run-experiments.md": [for_experiments],
}
"""What pages assume to be in the folder where they are read."""


class _StandIn(Encoder):
    """In the place of a model whose weights no test can download: tokens that say how long an input is."""

    def encode(self, inputs: Any, tokens: int) -> Any:
        values = np.zeros((len(inputs), tokens, 3), dtype=np.float32)
        mask = np.zeros((len(inputs), tokens), dtype=bool)
        for row, given in enumerate(inputs):
            mask[row, : len(given)] = True
            values[row, : len(given)] = len(given)
        return values, mask


@pytest.fixture
def page_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to read a page in: short trainings, no network; registries are put back afterwards."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("MMRNS_DATA", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(mmrns.runs.train, "make_config", lambda values: shortened(make_config(values)))
    # The tree of commands is not made anew for each.
    monkeypatch.setattr(typer.main, "get_command", cache(typer.main.get_command))
    registries = [Sampler.registry, Scorer.registry, Embedder.registry, Loss.registry, Callback.registry]
    registries += [Mixture.registry, Tracker.registry, LAYOUTS, ENCODERS]
    kept = [(registry, {**registry._classes}) for registry in registries if registry.names()]
    modules = set(sys.modules)
    for name, reads in (
        ("sentence-transformers/all-MiniLM-L6-v2", "texts"),
        ("microsoft/beit-base-patch16-224", "pictures"),
    ):
        ENCODERS.add(name, type("StandIn", (_StandIn,), {"reads": reads, "__qualname__": f"StandIn.{reads}"}))
    yield folder
    for registry, classes in kept:
        registry._classes = classes
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
            del sys.modules[name]


def shortened(config: Config) -> Config:
    """A configuration of a few steps and dimensions."""
    training = config.training.model_dump()
    cut = {
        key: min(training[key], most)
        for key, most in (("steps", 6), ("evaluate_every", 3), ("log_every", 3), ("batch_size", 64))
    }
    model = config.model.model_copy(update={"dim": min(config.model.dim, 8)})
    return config.model_copy(update={"training": config.training.model_copy(update=cut), "model": model})


FEW: dict[str, Any] = {"seeds": 1, "trials": 2}
"""How often a study that a page writes down trains each method."""


def run_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A command in this process. Comparisons have one seed, few trials and no further processes."""
    if words[0] == "inspect":
        words = [*words, "--steps", "2"]
    for option, value in (("--seeds", "1"), ("--trials", "2"), ("--jobs", "1"), ("--bootstrap", "5"), ("--steps", "2")):
        if option in words:
            words = [*words[: words.index(option) + 1], value, *words[words.index(option) + 2 :]]
    monkeypatch.setattr(sys, "argv", ["mmrns", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, f"mmrns {shlex.join(words)}"


def run_shell(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line)
    if words[0] == "PYTHONPATH=.":
        words = words[1:]
    if words[0] in ("mmrns", "torchrun"):
        parse(words[words.index("mmrns") + 1 :])
    if elsewhere(line):
        return
    if words[0] == "mmrns":
        run_command(words[1:], monkeypatch)
    elif words[0] == "torchrun":
        short = ["training.steps=4", "training.evaluate_every=2", "model.dim=4"]
        if "train" not in words or "--resume" in words:
            torchrun(*words[1:])
            return
        # What begins a run begins as a user's shell would have it begin.
        command = [sys.executable, "-m", "torch.distributed.run", *words[1:], *(f"--set={each}" for each in short)]
        done = subprocess.run(command, env=os.environ, timeout=300, capture_output=True, text=True)
        assert not done.returncode, done.stderr
    else:
        assert words[0] == "printf", f"neither run nor listed: {line}"
        subprocess.run(["bash", "-c", line], check=True, env=os.environ, timeout=60)


def run_python(block: Block, page: Path, namespace: types.ModuleType) -> None:
    """Python in the page's namespace; what says which file it is becomes that file and is imported."""
    if block.file:
        Path(block.file).write_text(block.text, encoding="utf-8")
        importlib.invalidate_caches()
        vars(namespace).update(vars(importlib.import_module(Path(block.file).stem)))
    else:
        # So many lines before it that tracebacks tell the page's own.
        code = "\n" * (block.line - 1) + block.text
        exec(compile(code, str(page), "exec"), vars(namespace))


SLOW = {"docs/how-to/run-experiments.md"}
"""Pages that take longer than the others: they compare."""


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, id=name, marks=[pytest.mark.slow] * (name in SLOW)) for p, name in zip(PAGES, NAMES, strict=True)],
)
def test_a_page_runs(page: Path, page_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = blocks(page, "python", "sh", "yaml")
    name = str(page.relative_to(ROOT))
    if any(block.text for block in found):
        for write in FILES.get(name, []):
            write(page_folder)
    namespace = types.ModuleType(f"page_{page.stem.replace('-', '_')}")
    monkeypatch.setitem(sys.modules, namespace.__name__, namespace)
    for block in found:
        try:
            if block.language == "python" and block.text.startswith("# quoted"):
                compile(block.text, str(page), "exec")
            elif block.language == "python":
                run_python(block, page, namespace)
            elif block.language == "yaml":
                values, path = yaml.safe_load(block.text), Path(block.file or "unnamed.yaml")
                path.write_text(block.text, encoding="utf-8")
                if "methods" in values:
                    Comparison.read(path)
                    few = {key: min(value, FEW[key]) for key, value in values.items() if key in FEW}
                    path.write_text(yaml.safe_dump(values | few), encoding="utf-8")
                else:
                    make_config(values)
            else:
                for line in block.lines:
                    run_shell(line, monkeypatch)
        except BaseException as error:
            error.add_note(f"in {name}, the block at line {block.line}")
            raise


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_in_running_text_parse(page: Path) -> None:
    for words in inline_commands(page):
        try:
            options = parse(words)
        except Exception as error:
            raise AssertionError(f"mmrns {shlex.join(words)}: {error}") from error
        if options.get("settings"):
            method = {"method": options["method"]} if options.get("method") else {}
            make_config(apply_settings(method, options["settings"]))


def test_the_commands_of_the_readme(page_folder: Path, pictures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for write in FILES["README.md"]:
        write(page_folder)
    run_command(["train", "--dataset", "countries", "--out", "runs/r"], monkeypatch)
    for words in inline_commands(ROOT / "README.md"):
        if not elsewhere(f"mmrns {shlex.join(words)}"):
            run_command([PLACEHOLDERS.get(word, word) for word in words], monkeypatch)


def test_wrong_commands_are_refused() -> None:
    for wrong in ("teach", "train --sead 1", "evaluate", "data lst", "evaluate RUN --split train"):
        with pytest.raises(Exception, match=r"No such|Missing|not one of"):
            parse(wrong.split())


def test_what_is_not_run_is_there() -> None:
    lines = [line for page in PAGES for block in blocks(page, "sh") for line in block.lines]
    for pattern in ELSEWHERE:
        assert any(re.match(pattern, line) for line in lines), f"no page has {pattern}: take it out of the table"
