"""``docs/replicator.1``, the man page, generated from the help of the commands.

``python -m tests.docs.man_page``, or ``make docs``, regenerates it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replicator import __version__
from replicator.commands import COMMANDS, EXAMPLES, app, load_command
from tests.docs.pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = ROOT / "docs" / "replicator.1"

_EXITS = {
    "0": "Success.",
    "1": "A copy failed, or a check found a problem.",
    "2": "The command line, the settings or the rules file are invalid.",
    "3": "wait: timeout.",
    "4": "wait: no rule copies the image.",
    "130": "Interrupted.",
}


def man_page() -> str:
    """Build the page (man(7), with the macros of every troff)."""
    lines = [
        f'.TH REPLICATOR 1 "" "replicator {__version__}" "User Commands"',
        *(".SH NAME", rf"replicator \- {_text(str(app.info.help)).rstrip('.')}"),
        *(".SH SYNOPSIS", r".B replicator", r"\fICOMMAND\fR [\fIOPTIONS\fR]"),
        ".SH COMMANDS",
    ]
    for name in COMMANDS:
        command = load_command(name)
        lines += _command(name, command)
        for each, subcommand in getattr(command, "commands", {}).items():
            lines += _command(f"{name} {each}", subcommand)
    lines.append(".SH EXIT STATUS")
    for code, meaning in _EXITS.items():
        lines += [".TP", rf"\fB{code}\fR", _text(meaning)]
    lines += [".SH ENVIRONMENT", _text("Every setting is a variable REPLICATOR_..., see docs/settings.md.")]
    return "\n".join(lines) + "\n"


def _command(name: str, command: Any) -> Iterator[str]:
    yield f".SS replicator {_text(name)}"
    for number, paragraph in enumerate((command.help or "").split("\n\n")):
        yield from [".PP"] if number else []
        yield _text(paragraph)
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        yield ".TP"
        names = ", ".join(rf"\fB{_text(each)}\fR" for each in (*parameter.opts, *parameter.secondary_opts))
        is_option = parameter.param_type_name == "option"
        value = "" if not is_option or parameter.is_flag else f" \\fI{_text(parameter.metavar)}\\fR"
        yield f"{names}{value}" if is_option else rf"\fI{_text(parameter.metavar)}\fR"
        yield _text(parameter.help or "")
    yield from (".PP", "Examples:", ".PP", ".nf")
    yield from (f"    {_text(f'replicator {line}')}" for line in EXAMPLES[name])
    yield ".fi"


def _text(text: str) -> str:
    """Escape a text for troff, in one line."""
    line = " ".join(text.split()).replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{line}" if line.startswith((".", "'")) else line


if __name__ == "__main__":
    PAGE.write_text(man_page())
