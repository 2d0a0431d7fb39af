"""Queries of every form: what is asked travels with the query, mistakes name their place, answers agree with scores."""

from __future__ import annotations

import io
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mmrns
from mmrns.cli import show
from mmrns.cli.options import By, Known
from mmrns.cli.use import evaluate, predict
from mmrns.errors import DataError, Diverged, Note, UsageError
from mmrns.files import FRAME_WRITERS
from mmrns.runs.queries import largest
from toy import SHORT

COLUMNS = ["head", "relation", "tail", "score", "rank", "known", "seen", "asked", "query"]
COLUMNS += ["head_name", "relation_name", "tail_name"]


def _train(dataset: Any, out: Path | None = None, **more: Any) -> mmrns.Run:
    return mmrns.train(dataset=dataset, method="uniform", device="cpu", settings=SHORT | more, out=out)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> mmrns.Run:
    """A run whose dataset names relations, and whose `e39` occurs in test only."""
    from toy import write_toy

    folder = tmp_path_factory.mktemp("queries")
    toy = write_toy(folder / "toy")
    rows = ["relation\tname", "likes\tis fond of", "knows\thas met", "owns\thas", "part_of\thas", "next_to\tpart_of"]
    (toy / "relations.tsv").write_text("\n".join(rows) + "\n")
    return _train(toy, folder / "run")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    written = io.StringIO()
    monkeypatch.setattr(show.out, "_file", written)
    monkeypatch.setattr(show.out, "_width", 200)
    return written


def _said(lines: list[str]) -> Any:
    return pytest.warns(Note) if lines else warnings.catch_warnings()


@pytest.mark.filterwarnings("ignore:'part_of' is taken for the id")
@pytest.mark.parametrize("asked", ["head", "relation", "tail"])
@pytest.mark.parametrize("top", [1, 3, 100])
def test_answers_agree_with_scores(run: mmrns.Run, asked: str, top: int) -> None:
    names = {"head": "e04", "relation": "knows", "tail": "e08"}
    del names[asked]
    frame = run.predict(**names, top=top)
    every = run.dataset.graph.relations if asked == "relation" else run.dataset.graph.entities
    # An entity that knows itself is in no split.
    candidates = [name for name in every if name not in names.values()]
    triples = pl.DataFrame({part: names.get(part, candidates) for part in ("head", "relation", "tail")})
    scored = run.score(triples).sort("score", descending=True, maintain_order=True).head(top)
    assert frame.columns == COLUMNS
    assert frame[asked].to_list() == scored[asked].to_list()
    assert frame["score"].to_list() == pytest.approx(scored["score"].to_list(), abs=1e-5)
    assert frame["rank"].to_list() == list(range(1, len(scored) + 1))
    assert set(frame["asked"]) == {asked}
    assert set(frame["query"]) == {1}


def test_known_relations_are_flagged_dropped_and_kept(run: mmrns.Run) -> None:
    graph = run.dataset.graph
    h, _, t = graph.test[0].tolist()
    pair = {"head": graph.entities[h], "tail": graph.entities[t]}
    every = {tuple(row) for row in torch.cat([graph.train, graph.valid, graph.test]).tolist()}
    flagged = run.predict(**pair)
    assert flagged["known"].to_list() == [(h, graph.relations.id(r), t) in every for r in flagged["relation"]]
    assert flagged["known"].any()
    assert (
        run.predict(**pair, known="drop")["relation"].to_list()
        == flagged.filter(~pl.col("known"))["relation"].to_list()
    )
    assert run.predict(**pair, known="keep")["known"].to_list() == [None] * 5


def test_candidates_of_relations_are_those_of_both_sides(run: mmrns.Run, tmp_path: Path) -> None:
    found = run.predict("e08", None, "e02", candidates="train")
    domain = run.dataset.graph.domain_range
    ids = torch.tensor([run.dataset.graph.entities.id(name) for name in ("e08", "e02")])
    r = torch.arange(5)
    expected = domain.contains(ids[:1], r, True)[:, 0] & domain.contains(ids[1:], r, False)[:, 0]
    assert sorted(found["relation"]) == [run.dataset.graph.relations[i] for i in expected.nonzero().flatten().tolist()]
    path = tmp_path / "types.tsv"
    path.write_text("owns\thead\te00\nlikes\ttail\te02\n")
    # A side of which nothing is listed is unrestricted.
    assert sorted(run.predict("e08", None, "e02", candidates=path)["relation"]) == [
        "knows",
        "likes",
        "next_to",
        "part_of",
    ]


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_many_queries_are_answered_as_each_alone(run: mmrns.Run, data: st.DataObject) -> None:
    entity, relation = st.sampled_from([f"e{i:02d}" for i in range(39)]), st.sampled_from(["likes", "owns", "part_of"])
    rows = [list(row) for row in data.draw(st.lists(st.tuples(entity, relation, entity), max_size=6))]
    for row in rows:
        row[data.draw(st.integers(0, 2))] = data.draw(st.sampled_from([None, "?", "", " "]))
    known = data.draw(st.sampled_from(["flag", "drop", "keep"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        found = run.predict(queries=rows, top=3, known=known)
        alone = [run.predict(queries=[row], top=3, known=known) for row in rows]
    for number, part in enumerate(alone, start=1):
        mine = found.filter(pl.col("query") == number)
        assert mine.drop("query", "score").equals(part.drop("query", "score"))
        assert mine["score"].to_list() == pytest.approx(part["score"].to_list(), abs=1e-5)
    assert found.columns == COLUMNS
    assert found["query"].is_sorted()


def test_a_file_of_queries_is_read_as_users_write_it(
    run: mmrns.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("e04", "likes", None), (None, "is fond of", "Entity 1"), ("e04", None, "e08")]
    expected = run.predict(queries=rows, top=2)
    assert expected["relation"][2] == "likes"
    assert expected["tail"][2] == "e01"
    path = tmp_path / "q.tsv"
    texts = {
        "e04\tlikes\t?\n?\tis fond of\tEntity 1\ne04\t?\te08\n": [],
        "e04\tlikes\t\n\tis fond of\tEntity 1\ne04\t\te08": [],
        "\ufeffe04\tlikes\t?\r\n\r\n?\tis fond of\tEntity 1\r\n  \r\ne04\t?\te08\r\n\r\n": [],
        "Head\tRelation\tTail\ne04\tlikes\t?\n?\tis fond of\tEntity 1\ne04\t?\te08\n": ["(head, relation, tail)"],
        "subject\tobject\tpredicate\ne04\t?\tlikes\n?\tEntity 1\tis fond of\ne04\te08\t?\n": ["(head, tail, relation)"],
    }
    for text, notes in texts.items():
        path.write_text(text, encoding="utf-8")
        with _said(notes) as said:
            assert run.predict(queries=path, top=2).equals(expected)
        assert [note in str(told.message) for note, told in zip(notes, said or [], strict=True)] == [True] * len(notes)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
        with _said(notes):
            assert run.predict(queries="-", top=2).equals(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("e04\tlikes\t?\nnobody\tlikes\t?\n", "q.tsv:2: unknown entity 'nobody'; mend the rows"),
        ("\n\ne04\tlikez\t?\n", "q.tsv:3: unknown relation 'likez'; did you mean 'likes'? known: knows, "),
        ("e04\tlikes\te05\n", "q.tsv:1: a query names two of head, relation and tail, and asks for the third; this "
         "asks for nothing; mend the rows"),
        ("?\tlikes\t\n", "q.tsv:1: a query names two .* this asks for 2 of head, relation and tail"),
        ("e04\tlikes\n", "q.tsv:1: 2 columns where head TAB relation TAB tail is expected; mend the rows"),
        ("e04,likes,?\n", "q.tsv:1: 1 column where head TAB"),
        ("e04\tlikes\t?\tx\n", "q.tsv:1: 4 columns where"),
        ("e04\thas\t?\n", "q.tsv:1: 'has' names 2 relations: owns, part_of; give the id"),
        ("a\tlikes\t?\ne04\tlikes\t?\nb\tlikes\t?\nc\tlikes\nd\tlikes\t?\ne\tlikes\t?\nf\tlikes\t?\ng\tlikes\t?\n",
         "q.tsv:1: unknown entity 'a'; line 3: unknown entity 'b'; line 4: 2 columns where head TAB relation TAB tail "
         "is expected; line 5: unknown entity 'd'; line 6: unknown entity 'e'; 2 more; mend the rows"),
    ],
)  # fmt: skip
def test_mistakes_of_a_file_are_told_by_line(run: mmrns.Run, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "q.tsv"
    path.write_text(text)
    with pytest.raises(DataError, match=message.replace("?;", r"\?;").replace("'?", r"'\?")) as raised:
        run.predict(queries=path)
    assert raised.value.exit_code == 1
    assert "\n" not in str(raised.value)
    if "nobody" in text:
        with pytest.raises(UsageError, match=r"queries: row 1 \(counted from 0\): unknown entity 'nobody'"):
            run.predict(queries=[("e04", "likes", None), ("nobody", "likes", None)])


def test_an_empty_file_asks_for_nothing(run: mmrns.Run, tmp_path: Path) -> None:
    for text in ("", "\n\n"):
        (tmp_path / "q.tsv").write_text(text)
        with pytest.warns(Note, match=r"q\.tsv holds no query"):
            frame = run.predict(queries=tmp_path / "q.tsv")
        assert frame.columns == COLUMNS
        assert frame.is_empty()
    assert run.predict(queries=[]).is_empty()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ((None, "likes", None), "this asks for 2 of"),
        ((None, None, None), "this asks for 3 of"),
        (("e04", "?", "?"), "this asks for 2 of"),
        (("e04", "like", None), r"unknown relation 'like'; did you mean 'likes'\? known: knows"),
        (("e04", "has", None), "'has' names 2 relations: owns, part_of; give the id"),
    ],
)
def test_mistaken_queries(run: mmrns.Run, query: tuple[Any, Any, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run.predict(*query)


def test_relations_are_called_by_their_names_everywhere(run: mmrns.Run) -> None:
    assert run.predict("e04", "has met").equals(run.predict("e04", "knows"))
    assert run.score([("e04", "has met", "e08")])["score"].equals(run.score([("e04", "knows", "e08")])["score"])
    found = run.inspect("e04", "has met", "e08", against=["is fond of"], steps=1, side="tail")
    assert {query["relation"] for query in found["queries"]} == {"knows", "likes"}
    with pytest.warns(Note, match="'part_of' is taken for the id; 'next_to' has it as its name"):
        assert set(run.predict("e04", "part_of", top=1)["relation"]) == {"part_of"}


def test_what_train_lacks_is_said_and_marked(run: mmrns.Run) -> None:
    with pytest.warns(Note, match="train lacks the entity 'e39': such vectors were never trained"):
        frame = run.predict("e39", "knows", top=3)
    assert frame["seen"].to_list() == [False] * 3
    frame = run.predict("e04", "knows", top=40)
    assert frame.filter(~pl.col("seen"))["tail"].to_list() == ["e39"]
    unseen = mmrns.Dataset.from_triples(
        [("a", "r", "b"), ("b", "r", "c"), ("c", "r", "a")],
        valid=[("a", "s", "c")],
        features={"age": {"a": [0.1], "b": [1]}},
    )
    made = _train(unseen)
    with pytest.warns(Note, match="train lacks the relation 's': such"):
        assert set(made.predict("a", "s")["seen"]) == {False}
    assert made.predict("a", None, "c").select("relation", "seen").sort("relation").rows() == [
        ("r", True),
        ("s", False),
    ]


def test_an_entity_that_features_score_is_no_surprise(toy_folder: Path) -> None:
    # `e39` has an image, and only `e05` has nothing.
    run = _train(toy_folder, **{"model.modalities": ["image"]})
    assert "e39" in (toy_folder / "features" / "image.entities").read_text().split()
    assert len(run.predict("e39", "knows", top=3)) == 3
    run = _train(toy_folder, **{"model.modalities": ["text"]})
    with pytest.warns(Note, match="train lacks the entity 'e39'"):
        run.predict("e39", "knows", top=3)


def test_names_that_look_like_numbers_options_or_questions(tmp_path: Path) -> None:
    triples = [
        ("007", "-r", "7"),
        ("7", "-r", "--x"),
        ("--x", "-r", "007"),
        ("1e3", "-r", "007"),
        ("NULL", "-r", "nan"),
    ]
    run = _train(mmrns.Dataset.from_triples(triples, valid=[("007", "-r", "1e3")]))
    assert set(run.predict("007", "-r", top=9)["tail"]) == {"7", "--x", "1e3", "NULL", "nan"}
    assert run.predict(queries=[(7, "-r", None)])["head"].unique().to_list() == ["7"]
    path = tmp_path / "q.tsv"
    path.write_text("007\t-r\t?\n7\t-r\t?\nNULL\t-r\t?\n1e3\t?\tnan\n")
    found = run.predict(queries=path, top=1)
    assert found["head"].to_list() == ["007", "7", "NULL", "1e3"]


def _predict(run: mmrns.Run, **given: Any) -> None:
    assert run.folder is not None
    predict(run.folder, **given)


def test_the_table_prints_what_was_asked(run: mmrns.Run, terminal: io.StringIO, tmp_path: Path) -> None:
    path = tmp_path / "q.tsv"
    path.write_text("?\tknows\te01\ne02\tknows\t?\ne03\t?\te05\n")
    _predict(run, queries=path, top=1)
    lines = terminal.getvalue().splitlines()
    assert [line for line in lines if "?" in line] == [
        "?  knows (has met)  e01 (Entity 1)",
        "e02 (Entity 2)  knows (has met)  ?",
        "e03 (Entity 3)  ?  e05 (Entity 5)",
    ]
    headers = [line.split()[:3] for line in lines if line.startswith("rank")]
    assert headers == [["rank", "entity", "name"]] * 2 + [["rank", "relation", "name"]]
    assert not any("seen" in line for line in lines)


def test_nothing_left_is_printed_as_nothing(
    terminal: io.StringIO, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _train(
        mmrns.Dataset.from_triples([("a", "r", "b"), ("b", "r", "a")], valid=[("b", "r", "a")]), tmp_path / "run"
    )
    reopened = mmrns.load_run(tmp_path / "run", dataset=run.dataset)
    assert reopened.predict("a", "r", known="drop").is_empty()
    show.print_rows([])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmrns.runs.run.load_run", lambda *_, **__: reopened)
        predict(tmp_path / "run", head="a", relation="r", known=Known.drop)
        predict(tmp_path / "run", head="a", relation="r", known=Known.drop, as_json=True)
        for suffix in FRAME_WRITERS:
            predict(tmp_path / "run", head="a", relation="r", known=Known.drop, file=tmp_path / f"x{suffix}")
    assert terminal.getvalue() == "nothing\na  r  ?\nnothing\n"
    assert json.loads(capsys.readouterr().out) == []
    assert pl.read_csv(tmp_path / "x.csv").columns == COLUMNS


@pytest.mark.parametrize("option", ["head", "relation", "tail"])
def test_an_empty_option_is_no_question(run: mmrns.Run, option: str) -> None:
    with pytest.raises(UsageError, match=f"--{option} is empty; leave it out to ask for it"):
        _predict(run, **({"head": "e01", "relation": "knows", "tail": "e02"} | {option: ""}))
    with pytest.raises(UsageError, match="give either --queries or"):
        _predict(run, queries=Path("q.tsv"), head="e01")


def test_scores_that_are_not_finite_are_refused(toy_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = _train(toy_folder)
    with torch.no_grad():
        run.model.entity.weight[3] = float("nan")
    for use in (
        lambda: run.predict("e04", "knows"),
        lambda: run.predict("e03", None, "e04"),
        lambda: run.score([("e03", "knows", "e04")]),
        lambda: run.inspect("e04", "knows", "e05", steps=1),
        run.evaluate,
    ):
        with pytest.raises(Diverged, match="scores that are not finite"):
            use()
    assert run.score([("e04", "knows", "e05")])["score"].is_finite().all()
    with torch.no_grad():
        run.model.entity.weight.fill_(float("nan"))
    with pytest.raises(Diverged, match="scores that are not finite"):
        run.predict("e04", "knows")


def test_names_that_a_spreadsheet_would_compute(tmp_path: Path) -> None:
    names = ["=1+1", "+x", "-x", "@x", "\x0bx", "plain", "a=b"]
    triples = [(h, "r", t) for h in names for t in names if h != t]
    run = _train(mmrns.Dataset.from_triples(triples, valid=triples[:2]), tmp_path / "run")
    reopened = mmrns.load_run(tmp_path / "run", dataset=run.dataset)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmrns.runs.run.load_run", lambda *_, **__: reopened)
        for safe in (True, False):
            predict(tmp_path / "run", head="plain", relation="r", file=tmp_path / "x.csv", safe_csv=safe)
            read = set(pl.read_csv(tmp_path / "x.csv")["tail"])
            assert read == {f"'{name}" if safe and name[0] in "=+-@" else name for name in names if name != "plain"}
        for file in (None, tmp_path / "x.json"):
            with pytest.raises(UsageError, match=r"--safe-csv is of a table: give --out FILE\.csv"):
                predict(tmp_path / "run", head="plain", relation="r", file=file, safe_csv=True)


def test_relations_that_train_lacks_have_a_category_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    triples = [("a", "r", "b"), ("b", "r", "c"), ("c", "r", "a")]
    made = mmrns.Dataset.from_triples(triples, valid=[("a", "r", "c")], test=[("a", "s", "c"), ("a", "r", "c")])
    run = _train(made, tmp_path / "run")
    found = run.evaluate(by="category")
    assert dict(found.select("category", "queries").iter_rows()) == {"1-1": 2, "unseen": 2}
    part = run.ranks().where(torch.tensor([False, True, False, True]))
    assert run.evaluate()["seen"]["realistic"]["mr"] == float(part.realistic.mean())
    reopened = mmrns.load_run(tmp_path / "run", dataset=made)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmrns.runs.run.load_run", lambda *_, **__: reopened)
        evaluate(tmp_path / "run", by=By.category, as_json=True)
    assert {row["category"] for row in json.loads(capsys.readouterr().out)} == {"1-1", "unseen"}


@given(
    rows=st.lists(st.lists(st.sampled_from([-float("inf"), -1.0, 0.0, 2.0]), min_size=5, max_size=5), min_size=1),
    top=st.integers(1, 7),
)
def test_the_largest_of_equal_scores_are_those_of_the_lowest_ids(rows: list[list[float]], top: int) -> None:
    scores = torch.tensor(rows)
    place, value = largest(scores, top)
    expected = torch.argsort(scores, dim=1, descending=True, stable=True)[:, :top]
    listed = value > -torch.inf
    assert torch.equal(value, scores.gather(1, expected))
    assert torch.equal(place[listed], expected[listed])
