"""What commands print: nothing that a terminal would obey, no number that JSON lacks, notes once."""

from __future__ import annotations

import gc
import io
import json
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mmrns.cli import main, show
from mmrns.errors import MmrnsError, Note, note

HOSTILE = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202egnp\r\x7f"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    written = io.StringIO()
    for console in (show.out, show.err):
        monkeypatch.setattr(console, "_file", written)
        monkeypatch.setattr(console, "_width", 200)
    return written


@given(st.text(st.characters(), max_size=20))
def test_printable_texts_hold_nothing_that_a_terminal_obeys(text: str) -> None:
    shown = show.printable(text)
    assert all(c in "\t\n" or (c.isprintable() or c.isspace() or ord(c) > 0x9F) for c in shown)
    assert not any(0xD800 <= ord(c) <= 0xDFFF or c in "\x1b\x9b\r\u202e\u2066" for c in shown)
    shown.encode()
    if text.isprintable():
        assert shown == text


def test_names_cannot_move_the_cursor_or_colour(terminal: io.StringIO) -> None:
    show.print_rows([{"entity": HOSTILE, "score": 1.0}, {"entity": "plain", "score": 2.0}])
    show.out.print(show.Text(f"{HOSTILE}  likes  ?", "bold"), soft_wrap=True)
    show.say(f"mmrns: {HOSTILE}\nsecond line")
    text = terminal.getvalue()
    assert not set(text) & {"\x1b", "\x9b", "\x07", "\r", "\x7f", "\u202e"}
    shown = r"\x1b[31mred\x1b]0;title\x07\x9b2J\u202egnp\x0d\x7f"
    rows = text.splitlines()
    # Escapes count in the widths, so that the columns stand below each other.
    assert rows[1].index("1.0000") == rows[2].index("2.0000")
    assert rows[1].startswith(shown)
    assert rows[3] == f"{shown}  likes  ?"
    assert rows[4] == rf"mmrns: {shown}\nsecond line"


def test_markup_in_names_is_text(terminal: io.StringIO) -> None:
    show.out.print("[/bold] :smile: [link=x]")
    assert terminal.getvalue() == "[/bold] :smile: [link=x]\n"


def test_the_styles_of_a_terminal_are_kept() -> None:
    written = io.StringIO()
    console = type(show.out)(file=written, force_terminal=True, color_system="standard", highlight=False)
    assert isinstance(console, Console)
    console.print(show.Text("a\x1bb", "bold"), "\x1b[2J")
    assert written.getvalue() == "\x1b[1ma\\x1bb\x1b[0m \\x1b[2J\n"


def test_json_escapes_what_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    show.print_json({"name": HOSTILE + "\ud800é"})
    text = capsys.readouterr().out
    assert all(c.isprintable() for c in text.removesuffix("\n"))
    assert json.loads(text) == {"name": HOSTILE + "\ud800é"}
    assert "é" in text


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_json_holds_no_number_that_json_lacks(number: float, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MmrnsError, match="not finite"):
        show.print_json([{"score": number}])
    assert capsys.readouterr().out == ""


def test_notes_are_said_once(terminal: io.StringIO) -> None:
    with warnings.catch_warnings():
        show.show_notes()
        for _ in range(2):
            note("two.tsv has changed")
            note("one.tsv has changed")
    assert terminal.getvalue() == "note: two.tsv has changed\nnote: one.tsv has changed\n"
    with pytest.warns(Note, match="changed"):
        note("it has changed")


WORDS = st.lists(st.text(st.sampled_from("abc-é語"), min_size=1, max_size=12), max_size=4).map(" ".join)


@given(st.integers(1, 5).flatmap(lambda n: st.lists(st.lists(WORDS, min_size=n, max_size=n), min_size=1, max_size=4)))
def test_a_table_breaks_no_word_but_at_hyphens(given_rows: list[list[str]]) -> None:
    rows = [{f"key {i}": value for i, value in enumerate(row)} for row in given_rows]
    for width in (20, 40, 80):
        written = io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            one_by_one: list[object] = []
            patch.setenv("COLUMNS", str(width))
            patch.setattr(show, "out", type(show.out)(file=written, highlight=False, markup=False))
            patch.setattr(show, "_print_one_by_one", one_by_one.append)
            show.print_rows(rows)
        text = written.getvalue()
        assert all(show.Text(line).cell_len <= width for line in text.splitlines()), text
        if one_by_one:
            continue
        whole = text.split()
        for value in (value for row in rows for value in row.values()):
            for word in value.split():
                # Whole, or in whole pieces that end in hyphens.
                pieces = [piece.plain for piece in show._pieces(show.Text(word))]
                assert word in whole or all(any(p in found for found in whole) for p in pieces)
                assert "".join(pieces) == word


def test_a_table_that_is_too_wide_is_narrowed_and_then_written_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"method": "without-the-loss", "MRR": "47.43 ±0.34", "rank": 3}, {"method": "b", "MRR": "", "rank": 4}]

    def printed(width: int) -> list[str]:
        written = io.StringIO()
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr(show, "out", type(show.out)(file=written, highlight=False, markup=False))
        show.print_rows(rows)
        return [line.rstrip() for line in written.getvalue().splitlines()]

    wide = [
        "method            MRR          rank",
        "without-the-loss  47.43 ±0.34     3",
        "b                                 4",
    ]
    assert printed(80) == printed(35) == wide
    assert printed(30) == [
        "method            MRR    rank",
        "without-the-loss  47.43     3",
        "                  ±0.34",
        "b                           4",
    ]
    assert printed(28)[1:4] == ["without-  47.43     3", "the-loss  ±0.34", "b                   4"]
    assert printed(12) == [
        *("method  without-the-loss", "MRR     47.43 ±0.34", "rank    3", ""),
        *("method  b", "rank    4"),
    ]


def test_the_garbage_collector_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr("mmrns.cli.app", lambda *_, **__: seen.append(gc.get_threshold()[0]))
    before = gc.get_threshold()
    with pytest.raises(SystemExit):
        main()
    assert gc.get_threshold() == before
    assert seen[0] > before[0]
