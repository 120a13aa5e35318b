"""Lines for people: foreign text has no effect but to be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replicator.console import say

if TYPE_CHECKING:
    import pytest


def test_foreign_text_is_printed_as_it_is_but_for_what_a_terminal_would_obey(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    say(f"[red]a[/red] :warning: {'long/' * 20}\x1b[2J\nb", label="Warning:", style="yellow", indent=2)
    assert capsys.readouterr().out == f"  Warning: [red]a[/red] :warning: {'long/' * 20} [2J b\n"


def test_a_label_can_stand_alone(capsys: pytest.CaptureFixture[str]) -> None:
    say("", label="Failed:")
    assert capsys.readouterr().out == "Failed:\n"
