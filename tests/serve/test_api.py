"""Every question of the service: its answers have the shapes of the reference, and agree with the run itself."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

import mmrns
from mmrns.data.folders import EMBEDDED
from mmrns.errors import DataError
from mmrns.serve import answers
from mmrns.serve.app import create_app, named_runs
from mmrns.serve.guard import API, HEADERS

FRANCE = {"head": "France", "relation": "borders"}
TRIPLE = {**FRANCE, "tail": "Germany"}

GOOD: list[tuple[str, dict[str, Any], type[answers.Answer]]] = [
    ("health", {}, answers.Health),
    ("runs", {}, answers.Runs),
    ("runs/flags", {}, answers.RunFacts),
    ("relations", {}, answers.Relations),
    ("entities", {"q": "germ"}, answers.Search),
    ("entity", {"entity": "France"}, answers.EntityPage),
    ("predict", {**FRANCE, "top": 3}, answers.Predictions),
    ("predict", {"head": "France", "tail": "Germany"}, answers.Predictions),
    ("neighbours", {"entity": "France", "by": "image", "top": 2}, answers.Neighbours),
    ("inspect", {**TRIPLE, "against": "language", "side": "head", "steps": 2}, answers.Inspected),
    ("compare", {"run": ["flags", "world"], **FRANCE}, answers.Compared),
]

BAD: list[tuple[str, dict[str, Any], int, str | None, str]] = [
    ("predict", {"head": "Frnace", "relation": "borders"}, 404, "head", "did you mean 'France'"),
    ("predict", {"head": "France", "relation": "bordrs"}, 404, "relation", "did you mean 'borders'?"),
    ("predict", {"head": "LUXEMBOURG", "relation": "borders"}, 404, "head", "names 2 entities"),
    ("predict", {"head": "France"}, 422, "head, relation, tail", "give two of head, relation and tail"),
    ("predict", TRIPLE, 422, "head, relation, tail", "(3 given)"),
    ("predict", {**FRANCE, "top": 0}, 422, "top", "greater than or equal to 1"),
    ("predict", {**FRANCE, "top": 10**6}, 422, "top", "less than or equal to 200"),
    ("predict", {**FRANCE, "known": "no"}, 422, "known", "'flag', 'drop' or 'keep'"),
    ("predict", {**FRANCE, "run": "none"}, 404, "run", "served: flags, world"),
    ("predict", {"head": "x" * 3000, "relation": "borders"}, 422, "head", "at most 2000 characters"),
    ("runs/none", {}, 404, "run", "served: flags, world"),
    ("entities", {}, 422, "q", "q: is missing"),
    ("entity", {"entity": "Atlantis!"}, 404, "entity", "unknown entity"),
    ("picture", {"entity": "France", "number": 7}, 404, "number", "no picture 7"),
    ("picture", {"entity": "French"}, 404, "number", "no picture 0"),
    ("neighbours", {"entity": "France", "by": "smell"}, 422, "by", "known: structure, image, text"),
    ("neighbours", {"entity": "French", "by": "image"}, 422, None, "has no feature 'image'"),
    ("inspect", {**TRIPLE, "against": "part_of"}, 422, None, "no triple of 'part_of'"),
    ("inspect", {**TRIPLE, "steps": 51}, 422, "steps", "less than or equal to 50"),
    ("compare", {"run": ["flags"], **FRANCE}, 422, "run", "at least 2 items"),
    ("compare", {"run": ["flags", "world"], **TRIPLE}, 422, "head, relation, tail", "(3 given)"),
    ("nothing", {}, 404, None, "/docs lists"),
]


def get(client: TestClient, path: str, given: dict[str, Any]) -> Any:
    response = client.get(f"{API}/{path}", params=given)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize(("path", "given", "shape"), GOOD, ids=[f"{path} {i}" for i, (path, *_) in enumerate(GOOD)])
def test_answers_have_the_shape_that_the_reference_says(
    client: TestClient, path: str, given: dict[str, Any], shape: type[answers.Answer]
) -> None:
    found = shape.model_validate(get(client, path, given), strict=True)
    assert set(type(found).model_fields) <= set(found.model_dump())
    described = client.get(f"{API}/openapi.json").json()["paths"]
    name = f"{API}/runs/{{run}}" if path.startswith("runs/") else f"{API}/{path}"
    told = described[name]["get"]["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    assert told.endswith(f"/{shape.__name__}")


@pytest.mark.parametrize(("path", "given", "status", "field", "said"), BAD, ids=range(len(BAD)))
def test_what_is_wrong_is_one_line_with_the_field(
    client: TestClient, path: str, given: dict[str, Any], status: int, field: str | None, said: str
) -> None:
    response = client.get(f"{API}/{path}", params=given)
    error = answers.Failed.model_validate(response.json(), strict=True).error
    assert (response.status_code, error.status, error.field) == (status, status, field)
    assert said in error.message
    assert "\n" not in error.message


def test_close_names_come_with_their_ids(client: TestClient) -> None:
    error = client.get(f"{API}/entity", params={"entity": "Frnace"}).json()["error"]
    assert {"entity": "country/France", "name": "France"} in error["did_you_mean"]


def test_predictions_are_those_of_the_run(client: TestClient, runs: dict[str, mmrns.Run]) -> None:
    for known in ("flag", "drop"):
        for query in (FRANCE, {"tail": "French", "relation": "language"}, {"head": "France", "tail": "Germany"}):
            own = runs["flags"].predict(**query, top=7, known=known).drop("query").to_dicts()
            found = get(client, "predict", {**query, "top": 7, "known": known})["answers"]
            assert [{k: v for k, v in one.items() if k in own[0] and k != "score"} for one in found] == [
                {k: v for k, v in one.items() if k != "score"} for one in own
            ]
            assert [one["score"] for one in found] == pytest.approx([one["score"] for one in own], abs=1e-4)
    many = client.post(
        f"{API}/predict", json={"queries": [FRANCE, {"tail": "French", "relation": "language"}], "top": 2}
    )
    found = answers.ManyPredictions.model_validate(many.json(), strict=True).answers
    assert [[one.asked for one in part] for part in found] == [["tail"] * 2, ["head"] * 2]


def test_scores_are_those_of_the_run_named_by_id_or_name(client: TestClient, runs: dict[str, mmrns.Run]) -> None:
    named = {"head": "france", "relation": "shares a land border with", "tail": "country/Germany"}
    response = client.post(f"{API}/score", json={"triples": [named], "run": "world"})
    found = answers.Scores.model_validate(response.json(), strict=True)
    own = runs["world"].score([("country/France", "borders", "country/Germany")])["score"][0]
    assert (found.run, found.scores[0].score) == ("world", pytest.approx(own))
    assert client.post(f"{API}/score", json={"triples": []}).status_code == 422
    wrong = client.post(f"{API}/score", json={"triples": [named, {**named, "tail": "Germnay"}]}).json()["error"]
    assert (wrong["status"], wrong["field"]) == (404, "triples.1.tail")
    half = client.post(f"{API}/predict", content='{"queries": [{"head": "\\ud800", "relation": "borders"}]}')
    assert half.status_code in (404, 422)
    assert client.post(f"{API}/score", content="{").json()["error"]["status"] == 422


def test_an_entity_page_has_all_facts_of_all_splits(client: TestClient, runs: dict[str, mmrns.Run]) -> None:
    page = get(client, "entity", {"entity": "country/France"})
    graph = runs["flags"].dataset.graph
    own = graph.entities.id("country/France")
    expected = {
        (graph.relations[r], "tail" if h == own else "head", graph.entities[t if h == own else h], split)
        for split in ("train", "valid", "test")
        for h, r, t in getattr(graph, split).tolist()
        if own in (h, t)
    }
    found = {(f["relation"], f["side"], o["entity"], o["split"]) for f in page["facts"] for o in f["entities"]}
    assert found == expected
    assert page["total"] == len(expected) == sum(fact["total"] for fact in page["facts"])
    assert page["texts"]["text"][0] == "France"
    assert (page["pictures"], page["seen"], page["modalities"]) == (1, True, {"image": True, "text": True})


def test_pictures_are_small_and_may_be_kept(client: TestClient) -> None:
    for size, longest in (("small", 192), ("large", 512)):
        response = client.get(f"{API}/picture", params={"entity": "country/Kenya", "size": size})
        assert response.headers["cache-control"] == "private, max-age=3600"
        image = Image.open(io.BytesIO(response.content))
        assert response.headers["content-type"] == f"image/{(image.format or '').lower()}"
        assert 0 < max(image.size) <= longest


def test_inspection_has_maps_over_pictures_that_are_told_by_number(client: TestClient) -> None:
    given = {**TRIPLE, "against": "language", "side": "head", "steps": 2, "top": 4}
    found = get(client, "inspect", given)
    assert [query["relation"] for query in found["queries"]] == ["borders", "language"]
    for query in found["queries"]:
        drawn = query["samplers"][0]
        assert len(drawn["negatives"]) == 4
        image = next(one for one in drawn["maps"] if one["reads"] == "image")
        assert {json.dumps(light["picture"]) for light in image["spotlights"]} == {
            json.dumps({"entity": "country/France", "number": 0})
        }
        assert all(0 <= shade <= 1 for light in image["spotlights"] for shade in light["shades"])
        assert len(image["spotlights"][0]["shades"]) == 24
    assert "country/France" in found["images"]
    assert get(client, "inspect", given) == found


def test_an_entity_without_pictures_has_no_maps(client: TestClient) -> None:
    given = {"head": "France", "relation": "language", "tail": "French", "side": "tail", "steps": 1, "top": 1}
    drawn = get(client, "inspect", given)["queries"][0]["samplers"][0]
    assert [one["absent"] for one in drawn["maps"]] == [["image"]] * len(drawn["maps"])


def test_two_runs_are_compared_by_ranks(client: TestClient, runs: dict[str, mmrns.Run]) -> None:
    found = get(client, "compare", {"run": ["flags", "world"], **FRANCE, "top": 5})
    both = [runs[name].predict(**FRANCE, top=1000)["tail"].to_list() for name in ("flags", "world")]
    assert {one["entity"] for one in found["answers"]} == {*both[0][:5], *both[1][:5]}
    for one in found["answers"]:
        assert one["ranks"] == [ranked.index(one["entity"]) + 1 for ranked in both]
    assert found["shared"] == len({*both[0][:5]} & {*both[1][:5]})


def test_evidence_is_that_of_the_run(client: TestClient, runs: dict[str, mmrns.Run]) -> None:
    found = get(client, "explain", {**TRIPLE, "side": "head", "top": 3})
    expected = runs["flags"].explain(*TRIPLE.values(), side="head", top=3)
    assert found == json.loads(json.dumps(expected))
    assert found["parts"]
    assert found["influence"]


def test_every_answer_tells_a_browser_what_it_may_do(client: TestClient) -> None:
    for path in ("/", "/docs", "/explorer/app.js", f"{API}/health", f"{API}/nothing", "/nothing"):
        headers = client.get(path).headers
        for name, value in HEADERS:
            assert headers[name.decode()] == value.decode(), path


def test_pages_load_nothing_from_elsewhere(client: TestClient) -> None:
    folder = Path(mmrns.__file__).parent / "serve" / "explorer"
    for path in folder.rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
            assert "http://" not in text.replace("`http", "")
            assert "https://" not in text
            served = client.get(f"/explorer/{path.relative_to(folder).as_posix()}")
            assert served.status_code == 200


def test_runs_of_one_name_are_numbered(runs: dict[str, mmrns.Run]) -> None:
    assert list(named_runs([runs["flags"], runs["flags"], runs["world"]])) == ["flags", "flags-2", "world"]


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, mmrns.Run]:
    """A run of a dataset in a folder of this machine, which its configuration names, with numbers."""
    folder = tmp_path_factory.mktemp("secret-place")
    shutil.copytree(EMBEDDED["countries"], folder / "mine")
    (folder / "mine" / "numbers.tsv").write_text("entity\tattribute\tvalue\ncountry/France\tarea\t551695\n")
    settings = {"training.steps": 2, "training.evaluate_every": 2, "model.dim": 4}
    mmrns.train(dataset=str(folder / "mine"), method="uniform", settings=settings, out=folder / "run", plots=False)
    return folder, mmrns.load_run(folder / "run")


def test_no_answer_names_a_folder_of_the_host(placed: tuple[Path, mmrns.Run], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, run = placed
    assert str(folder) in str(run.config)
    with TestClient(create_app([run])) as client:

        def broken(*_: Any, **__: Any) -> None:
            raise DataError(
                folder / "mine" / "train.tsv", "is not fit", f"look at {folder.resolve()} and {Path.home()}"
            )

        questions = [(path.replace("flags", "run"), given) for path, given, *_ in (*GOOD, *BAD)]
        texts = [client.get(f"{API}/{path}", params=given).text for path, given in questions]
        facts = json.loads(texts[2])
        assert facts["config"]["data"]["dataset"] == "mine"
        page = get(client, "entity", {"entity": "France"})
        assert page["numbers"] == [{"attribute": "area", "value": 551695.0}]
        monkeypatch.setattr(run, "score", broken)
        response = client.post(f"{API}/score", json={"triples": [TRIPLE]})
        assert response.status_code == 500
        assert response.json()["error"]["message"].startswith("mine/train.tsv: is not fit; look at ")
        monkeypatch.setattr(run, "score", lambda _: 1 / 0)
        texts += [response.text, client.post(f"{API}/score", json={"triples": [TRIPLE]}).text]
        assert json.loads(texts[-1])["error"] == {
            "status": 500,
            "message": "the service failed at this question; its log says where",
            "field": None,
        }
    for text in texts:
        for place in (folder, folder.parent, Path.home(), Path(mmrns.__file__).parent, Path.cwd()):
            assert len(str(place)) < 2 or str(place) not in text
