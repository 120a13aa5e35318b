"""Lines for people: foreign text has no effect but to be read."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
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
