"""Lines for people: foreign text has no effect but to be read."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from rich.console import Console, Group
from rich.table import Table

from replicator.console import page, page_rows, plain, printable, say

if TYPE_CHECKING:
    from collections.abc import Callable


def test_foreign_text_is_printed_as_it_is_but_for_what_a_terminal_would_obey(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    say(f"[red]a[/red] :warning: {'long/' * 20}\x1b[2J\nb", label="Warning:", style="yellow", indent=2)
    assert capsys.readouterr().out == f"  Warning: [red]a[/red] :warning: {'long/' * 20} [2J b\n"


def test_a_label_can_stand_alone(capsys: pytest.CaptureFixture[str]) -> None:
    say("", label="Failed:")
    assert capsys.readouterr().out == "Failed:\n"


_ROWS = [("h/a/b:v1", "9 B", "[b]it[/b] is there"), ("h/a/世界:v2", "1.2 kB", ""), ("h/a/b:v\x1b[2J", "", "a\nb")]


@pytest.mark.parametrize(("width", "terminal", "fits"), [(30, False, True), (40, True, True), (30, True, False)])
def test_rows_look_as_rich_draws_them_which_is_only_asked_to_fold_those_that_do_not_fit(
    monkeypatch: pytest.MonkeyPatch, width: int, *, terminal: bool, fits: bool
) -> None:
    names = ("IMAGE", "SIZE", "WHY")
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold", justify="right" if name == "SIZE" else "left")
    for row in _ROWS:
        table.add_row(*map(plain, row))

    def drawn(draw: Callable[[Console], None]) -> list[str]:
        out = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
        with out.capture() as capture:
            draw(out)
        return [line.rstrip() for line in capture.get().splitlines()]

    expected = drawn(lambda out: page(table, out))
    if not terminal:
        assert expected[1] == "h/a/b:v1\t9 B\t[b]it[/b] is there", "tabs, and nothing is padded"
        expected = ["\t".join(map(printable, row)).rstrip() for row in (names, *_ROWS)]
    if fits:
        monkeypatch.delattr(Table, "add_row")
    assert drawn(lambda out: page_rows(names, _ROWS, out, right={"SIZE"})) == expected


def drawn(width: int) -> str:
    """A table in a group, as a terminal of so many columns shows it."""
    table = Table("copy and reason", "class", "first, last", box=None, pad_edge=False)
    name = "harbor.example.com/team/a-long-name-of-an-application:v1"
    table.add_row(Group(plain(name), "401: denied"), "permanent", "2026-01-01 00:00:00+00:00")
    table.add_row(plain("short"), plain(""), "")
    out = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with out.capture() as captured:
        page(Group("2 copies", table), out)
    return captured.get()


def test_a_terminal_too_narrow_for_a_table_shows_each_cell_on_its_own_lines() -> None:
    lines = drawn(40).splitlines()
    assert [line.rstrip() for line in lines] == [
        "2 copies",
        "harbor.example.com/team/a-long-name-of-a",
        "n-application:v1",
        "401: denied",
        "  class: permanent",
        "  first, last: 2026-01-01 00:00:00+00:00",
        "short",
    ]
    assert max(map(len, drawn(20).splitlines())) == 20
    assert "copy and reason" in drawn(80), "its longest column has room enough there"
