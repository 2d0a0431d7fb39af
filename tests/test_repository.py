"""What must hold of the repository as a whole."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "numpy", "polars", "pydantic", "matplotlib", "safetensors", "jaxtyping")
COMPILER = ("torch._dynamo", "sympy")


def test_no_pickle_is_read_or_written() -> None:
    forbidden = re.compile(
        r"\bpickle\b|torch\.(load|save)\(|weights_only|allow_pickle|joblib|np\.load\(|\bdill\b|shelve"
    )
    hits = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for folder in ("src", "experiments", "scripts", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if forbidden.search(line)
    ]
    # Feature tables of other projects are torch files: the one reader of them takes tensors and plain values only.
    allowed = r"src/mmrns/prepare/formats/arrays\.py:\d+: return torch\.load\(path, .*, weights_only=True,.*\)"
    assert [bool(re.fullmatch(allowed, hit)) for hit in hits] == [True]


def _loaded(statement: str, modules: tuple[str, ...] = HEAVY) -> set[str]:
    code = f"{statement}\nimport sys\nprint(' '.join(m for m in {modules!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_import_and_help_load_nothing_heavy() -> None:
    assert _loaded("import mmrns") == set()
    assert _loaded("import mmrns\ndir(mmrns)") == set()
    help_text = (
        "import sys\nsys.argv = ['mmrns', '--help']\nimport mmrns.cli\ntry: mmrns.cli.main()\nexcept SystemExit: 0"
    )
    assert _loaded(help_text) == set()
    # The check itself can fail: using the package does load them.
    assert "torch" in _loaded("import mmrns\nmmrns.load_dataset")


def test_no_model_loads_torchs_compiler() -> None:
    # It takes seconds, at the start of every command; torch's optimizers alone load it.
    score = (
        "import torch, mmrns.runs.train\nfrom mmrns.nn.model import Model\nfrom mmrns.nn.scorers import RotatE\n"
        "from mmrns.types import Batch\nmodel = Model(RotatE(2, 1.0), 5, 2)\n"
        "model.score_all(Batch.of(torch.zeros(1, 3).long(), torch.zeros(1).bool())).sum().backward()"
    )
    assert _loaded(score, COMPILER) == set()
    assert _loaded("import torch._dynamo", COMPILER) == set(COMPILER)


def test_the_sampler_layer_reads_the_train_index_only() -> None:
    for path in (ROOT / "src" / "mmrns" / "samplers").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"known_index|\.valid\b|\.test\b", text), path.name


def _requirements() -> dict[str, list[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"": project["dependencies"], **project["optional-dependencies"]}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_import_is_declared() -> None:
    """What a package imports that only another one's requirements bring breaks when those change."""
    called = {
        "PIL": "pillow",
        "mlflow": "mlflow-skinny",
        "skimage": "scikit-image",
        "sklearn": "scikit-learn",
        "yaml": "pyyaml",
    }
    declared = {_normal(re.split(r"[\[<>=!~ ]", line)[0]) for lines in _requirements().values() for line in lines}
    imported: dict[str, str] = {}
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                top = name.partition(".")[0]
                if top not in sys.stdlib_module_names and top != "mmrns":
                    imported[_normal(called.get(top, top))] = str(path.relative_to(ROOT))
    assert {name: path for name, path in imported.items() if name not in declared} == {}
    assert len(imported) > 10


def test_the_lower_bounds_are_what_is_tested() -> None:
    """`make test-oldest` installs each lower bound as pyproject.toml states it."""
    pinned: dict[str, list[int]] = {}
    for line in (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines():
        if found := re.match(r"([\w.-]+)==([\d.]+)", line):
            pinned[_normal(found[1])] = [*map(int, found[2].strip(".").split("."))]
    untested: list[str] = []
    for line in (line for lines in _requirements().values() for line in lines if not line.startswith("mmrns[")):
        found = re.fullmatch(r"([\w.-]+)(?:\[.*\])?(?:>=|==)([\d.]+)(?:; .*)?", line)
        assert found, f"{line}: say a lower bound"
        bound = [*map(int, found[2].split("."))]
        if pinned[_normal(found[1])][: len(bound)] != bound:
            untested.append(line)
    assert untested == []
