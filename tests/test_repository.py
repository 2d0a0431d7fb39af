"""What must hold of the repository as a whole."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "numpy", "polars", "pydantic", "matplotlib", "safetensors", "jaxtyping")


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


def _loaded(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
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


def test_the_sampler_layer_reads_the_train_index_only() -> None:
    for path in (ROOT / "src" / "mmrns" / "samplers").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"known_index|\.valid\b|\.test\b", text), path.name
