"""The image of the service, as far as it can be told without building it."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import typer.main

from mmrns.cli import app

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
INSTRUCTIONS = {
    *("ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "SHELL"),
    *("STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
}


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile with what follows them, continued lines joined."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]
    assert {name for name, _ in found} <= INSTRUCTIONS
    return [(name, rest) for name, rest in found]


@pytest.fixture(scope="module")
def stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage, that of `FROM` first."""
    found: list[list[tuple[str, str]]] = []
    for name, rest in instructions((ROOT / "Dockerfile").read_text(encoding="utf-8")):
        if name == "FROM":
            found.append([])
        found[-1].append((name, rest))
    return found


def of(stage: list[tuple[str, str]], name: str) -> list[str]:
    return [rest for one, rest in stage if one == name]


def test_both_stages_have_the_python_that_is_tested(stages: list[list[tuple[str, str]]]) -> None:
    images = [of(stage, "FROM")[0].split()[0] for stage in stages]
    assert len({*images}) == 1
    version = re.fullmatch(r"python:(\d+\.\d+)-slim-\w+", images[0])
    assert version is not None
    assert PROJECT["requires-python"] == f">={version[1]}"
    assert of(stages[0], "FROM")[0].endswith(" AS build")
    assert any(rest.startswith("--from=build /opt/mmrns ") for rest in of(stages[1], "COPY"))


def ignored(path: str) -> bool:
    """Whether `.dockerignore` keeps a path out: the last pattern that it fits decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip().removeprefix("!")
        if not pattern or pattern.startswith("#"):
            continue
        parts = Path(path).parts
        above = ["/".join(parts[: i + 1]) for i in range(len(parts))]
        flat = pattern.removeprefix("**/")
        if any(fnmatch(one, pattern) or (flat != pattern and fnmatch(one.split("/")[-1], flat)) for one in above):
            out = not line.strip().startswith("!")
    return out


def test_what_it_copies_is_there_and_is_let_in(stages: list[list[tuple[str, str]]]) -> None:
    copied = [shlex.split(rest)[:-1] for rest in of(stages[0], "COPY")]
    names = [name for names in copied for name in names]
    # What the wheel is made from, and what it is installed by.
    assert {"pyproject.toml", "constraints.txt", "src", PROJECT["readme"], *PROJECT["license-files"][:1]} == {*names}
    for name in names:
        assert (ROOT / name).exists(), name
        assert not ignored(name), name
    assert not ignored("src/mmrns/data/countries/train.tsv")
    for name in (
        "runs/first/config.yaml",
        ".git/config",
        ".venv/bin/python",
        "experiments",
        "src/mmrns/__pycache__/x.pyc",
    ):
        assert ignored(name), name


def test_it_installs_what_is_pinned(stages: list[list[tuple[str, str]]]) -> None:
    [install] = [shlex.split(rest) for rest in of(stages[0], "RUN") if "pip install" in rest]
    assert install[install.index("--constraint") + 1] == "constraints.txt"
    assert "https://download.pytorch.org/whl/cpu" in install
    extras = re.fullmatch(r"\.\[([\w,]+)\]", install[-1])
    assert extras is not None
    assert {"serve", "fast"} <= {*extras[1].split(",")} <= {*PROJECT["optional-dependencies"]}
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower().replace("_", "-")
    for extra in extras[1].split(","):
        for line in PROJECT["optional-dependencies"][extra]:
            assert re.search(rf"^{re.split('[<>=]', line)[0]}==", pinned, re.MULTILINE), line


def test_it_serves_as_nobody_with_a_check_of_its_health(stages: list[list[tuple[str, str]]]) -> None:
    last = stages[-1]
    order = [name for name, _ in last]
    user = re.fullmatch(r"(\d+):(\d+)", of(last, "USER")[-1])
    assert user is not None
    assert int(user[1]) > 0
    assert order.index("USER") > max(i for i, name in enumerate(order) if name in ("RUN", "COPY"))
    [port], [entry], [health] = of(last, "EXPOSE"), of(last, "ENTRYPOINT"), of(last, "HEALTHCHECK")
    words = json.loads(entry)
    assert words == ["mmrns", "serve", "--host", "0.0.0.0", "--port", port]
    check = json.loads(health[health.index("CMD ") + 4 :])
    assert check[:2] == ["python", "-c"]
    compile(check[2], "HEALTHCHECK", "exec")
    assert f"http://127.0.0.1:{port}/api/v1/health" in check[2]
    # No secret is built in: the token comes with the start.
    assert "MMRNS_TOKEN" not in " ".join(rest for stage in stages for _, rest in stage)
    # The command has these options.
    commands = getattr(typer.main.get_command(app), "commands", {})
    if "serve" not in commands:
        pytest.skip("this version has no `mmrns serve`")
    commands["serve"].make_context("serve", [*words[2:], "/runs/first"])
