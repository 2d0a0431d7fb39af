"""A run goes to a server that speaks as the Hub does, and comes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import mmrns
from hub_server import Hub, Repository, serving
from mmrns.errors import DataError, Note, UsageError
from mmrns.runs.hub import located
from undrawn import drawing

TOKEN = "hf_of_the_test"
QUERY = {"head": "e04", "relation": "likes"}


@pytest.fixture(scope="module")
def hub() -> Generator[Hub]:
    with serving(TOKEN) as hub:
        yield hub


@pytest.fixture
def client(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The server, which the library in this process talks to, logged in and with a cache of the test's own."""
    from huggingface_hub import constants

    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    own = {"ENDPOINT": hub.url, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_CACHE": str(tmp_path / "cache")}
    for name, value in (own | {"HF_HUB_DISABLE_XET": True, "HF_HUB_OFFLINE": False}).items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, mmrns.Run]:
    """A run of structure alone, whose sampler reads features, and one whose model does."""
    from toy import SHORT, write_toy

    folder = tmp_path_factory.mktemp("hub")
    data = write_toy(folder / "kg")
    (data / "LICENSE.txt").write_text("Do as you like.\n")
    about = (
        '{"title": "A <b>toy</b>", "licence": "CC BY-SA 4.0", "source": "https://example.org/kg", "defects": ["e39"]}'
    )
    (data / "dataset.json").write_text(about)
    given: dict[str, Any] = {"dataset": data, "device": "cpu"}
    few = SHORT | {"training.steps": 4, "training.evaluate_every": 2}
    with drawing():
        plain = mmrns.train(**given, method="mmrns", settings=few, out=folder / "plain")
    reading = few | {"model.modalities": ["text"], "evaluation.test": False}
    return {
        "plain": plain,
        "reads": mmrns.train(**given, method="uniform", settings=reading, out=folder / "reads", plots=False),
    }


def metadata(card: str) -> dict[str, Any]:
    _, front, _ = card.split("---\n", 2)
    return yaml.safe_load(front)


def test_a_run_comes_back_and_answers_the_same(client: Hub, runs: dict[str, mmrns.Run], tmp_path: Path) -> None:
    url = runs["plain"].push("me/plain", private=True, message="The first")
    repository = client.repositories["me/plain"]
    assert url == f"{client.url}/me/plain"
    assert repository.private
    assert repository.messages == ["initial commit", "The first"]
    sha = [*repository.commits][-1]
    files = repository.commits[sha]
    assert {name for name in files if "/" not in name} == {
        *(".gitattributes", "README.md", "SHA256SUMS", "config.yaml", "entities.txt", "metrics.jsonl"),
        *("model.safetensors", "record.json", "relations.txt", "results.json", "sampler.safetensors"),
    }
    assert files["dataset/LICENSE.txt"] == b"Do as you like.\n"
    assert "plots/curves.png" in files
    assert not any(name.startswith(("checkpoint", "dataset/features")) for name in files)
    # Large files went the way of large files.
    assert files["model.safetensors"] in client.large.values()
    folder = runs["plain"].folder
    assert folder is not None
    for content in files.values():
        assert str(folder.parent).encode() not in content
    for address in ("hf://me/plain", f"hf://me/plain@{sha}", Path("hf://me/plain")):
        back = mmrns.load_run(address)
        assert back.predict(**QUERY).equals(runs["plain"].predict(**QUERY))
    assert back.evaluate() == runs["plain"].evaluate()
    # A second push replaces what was there, in one commit.
    asked = len(client.asked)
    assert runs["reads"].push("me/plain", features=True) == url
    files = repository.commits[[*repository.commits][-1]]
    assert "dataset/features/text.safetensors" in files
    assert sum("commit/main" in line for line in client.asked[asked:]) == 1
    assert mmrns.load_run("hf://me/plain").config.model.modalities == ["text"]
    assert mmrns.load_run(f"hf://me/plain@{sha}").config.model.modalities == []


def test_features_go_along_where_it_is_asked_for(client: Hub, runs: dict[str, mmrns.Run], tmp_path: Path) -> None:
    runs["reads"].push("me/reads", features=True)
    assert mmrns.load_run("hf://me/reads").predict(**QUERY).equals(runs["reads"].predict(**QUERY))
    runs["reads"].export_repository(tmp_path / "without", "me/without")
    alone = mmrns.load_run(tmp_path / "without")
    with pytest.raises(DataError, match="which alone has the features 'text' that are read here"):
        alone.predict(**QUERY)
    data = runs["reads"].dataset.folder
    assert mmrns.load_run(tmp_path / "without", dataset=data).predict(**QUERY).equals(runs["reads"].predict(**QUERY))


def test_the_card(runs: dict[str, mmrns.Run], tmp_path: Path) -> None:
    runs["plain"].export_repository(tmp_path / "plain", "me/plain")
    card = (tmp_path / "plain" / "README.md").read_text()
    found = metadata(card)
    assert found["license"], found["license_name"] == ("other", "cc-by-sa-4.0")
    assert (found["library_name"], found["datasets"]) == ("mmrns", ["kg"])
    assert len({*found["tags"]}) == len(found["tags"])
    [result] = found["model-index"][0]["results"]
    test = runs["plain"].results["test"]["both"]["realistic"]
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {
        key: test[key] for key in ("mrr", "hits@1", "hits@3", "hits@10")
    }
    assert f"| test | realistic | {100 * test['mrr']:.2f} | " in card
    assert "| test | pessimistic | " in card
    assert 'mmrns.load_run("hf://me/plain")' in card
    assert "(A \\<b\\>toy\\</b\\>)" in card
    assert "The data are under CC BY-SA 4.0." in card
    assert "- <https://example.org/kg>" in card
    assert "\n- e39\n" in card
    assert "It answers without features; its sampler reads image and text" in card
    # Of validation alone, and of data that say nothing of a licence.
    data = replace(runs["reads"].dataset, folder=None)
    with pytest.warns(Note, match="is not as it was"):
        other = mmrns.load_run(runs["reads"].folder or "", dataset=data)
    other.export_repository(tmp_path / "reads", "me/reads", features=True)
    card = (tmp_path / "reads" / "README.md").read_text()
    found = metadata(card)
    assert (found["license"], found["model-index"][0]["results"][0]["dataset"]["split"]) == ("unknown", "validation")
    assert "does not say its licence" in card
    assert "| test |" not in card
    assert "and others by their features (text)" in card


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        (
            "hf://me/nothing",
            DataError,
            r"^hf://me/nothing: is no repository of the Hub; check the name, and that you may",
        ),
        ("hf://me/plain@v7", DataError, r"^hf://me/plain: has no such revision; leave it out"),
        ("hf://plain", UsageError, r"^hf://plain is no address of a run; write hf://owner/name"),
        ("hf://me/..", UsageError, r"is no name of a repository"),
    ],
)
def test_wrong_addresses_are_one_line(client: Hub, address: str, error: type[Exception], message: str) -> None:
    client.repositories.setdefault("me/plain", _one())
    with pytest.raises(error, match=message):
        located(address)


def _one() -> Repository:
    made = Repository()
    made.commit({"README.md": b"nothing else"}, "one")
    return made


def test_what_holds_no_run_and_who_may_not_write(
    client: Hub, runs: dict[str, mmrns.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    client.repositories["me/empty"] = _one()
    with pytest.raises(DataError, match=r"holds no finished run; train one"):
        mmrns.load_run("hf://me/empty")
    with pytest.raises(UsageError, match=r"^'plain' is no name of a repository; write owner/name"):
        runs["plain"].push("plain")
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(DataError, match=r"^me/x: is refused \(HTTP 401\); check the name.* the token may write$"):
        runs["plain"].push("me/x")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UsageError, match=r"^push needs a login: run `hf auth login`, or set HF_TOKEN"):
        runs["plain"].push("me/x")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"^the Hub needs huggingface_hub; pip install 'mmrns\[hub\]'$"):
        mmrns.load_run("hf://me/plain")


def test_without_a_network_the_copy_is_taken(
    client: Hub, runs: dict[str, mmrns.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    runs["plain"].push("me/kept")
    first = mmrns.load_run("hf://me/kept")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    again = mmrns.load_run("hf://me/kept")
    assert (again.folder, again.predict(**QUERY).equals(first.predict(**QUERY))) == (first.folder, True)
    with pytest.raises(DataError, match=r"^hf://me/other: the exchange with the Hub failed .*; check the network"):
        mmrns.load_run("hf://me/other")


def test_the_command_line_pushes_and_predicts(hub: Hub, runs: dict[str, mmrns.Run], tmp_path: Path) -> None:
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}

    def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "mmrns", *map(str, arguments)]
        environment = os.environ | own | {"COLUMNS": "200"}
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120)
        assert done.returncode == 0, done.stderr + done.stdout
        return done

    folder = runs["plain"].folder
    assert folder is not None
    said = command("push", folder, "me/shell", "--private").stderr.splitlines()
    assert said == [
        f"pushed to {hub.url}/me/shell; mmrns.load_run('hf://me/shell') opens it",
        "it answers without features; its sampler reads image and text, so that explaining its draws takes the "
        "dataset; --features sends them",
    ]
    query = ["--head", "e04", "--relation", "likes", "--json"]
    found = json.loads(command("predict", "hf://me/shell", *query).stdout)
    expected = runs["plain"].predict(**QUERY)
    assert [row["tail"] for row in found] == expected["tail"].to_list()
    # Another process may add in another order.
    assert [row["score"] for row in found] == pytest.approx(expected["score"].to_list(), rel=1e-5)
