"""Templates in regsync's files: Go's ``text/template`` with regclient's functions, of which the usual ones are read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_CALL = re.compile(r"""(env|file)\s+(?:"([^"\\]*)"|`([^`]*)`)\Z""")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_TRIMMED = re.compile(r"\{\{-|-\}\}")


def is_template(text: str) -> bool:
    """Tell whether something stands in double braces in ``text``."""
    return "{{" in text


def file_of(text: str) -> str | None:
    """Return the path if all of ``text`` is ``{{file "path"}}``; else None."""
    match = _ACTION.fullmatch(text.strip())
    call = _CALL.match(match[1]) if match else None
    return (call[2] or call[3]) if call and call[1] == "file" else None


def with_variables(text: str) -> str:
    """Return ``text`` with ``${NAME}`` for each ``{{env "NAME"}}``.

    Raises:
        ValueError: something else stands in braces; the message says what is understood.
    """

    def variable(name: str) -> str:
        if not _NAME.match(name):
            raise ValueError(f"has no equivalent: {name!r} is no name of a variable here")
        return f"${{{name}}}"

    if "${" in text:
        raise ValueError("has no equivalent: ${ beside a template would be a variable here")
    return _replaced(text, variable, {})


def filled_in(text: str, environ: Mapping[str, str], values: Mapping[str, str]) -> str:
    """Return ``text`` with what its templates stand for.

    Args:
        text: the text.
        environ: where ``{{env "NAME"}}`` is taken from.
        values: what a name such as ``.Sync.Source`` stands for.

    Raises:
        ValueError: a variable is not set, or something else stands in braces.
    """

    def variable(name: str) -> str:
        if not environ.get(name):
            raise ValueError(f"rules have no variables here, and {name} is not set: set it for the conversion")
        return environ[name]

    return _replaced(text, variable, values)


def _replaced(text: str, variable: Callable[[str], str], values: Mapping[str, str]) -> str:
    def action(match: re.Match[str]) -> str:
        call = _CALL.match(match[1])
        if call and call[1] == "env":
            return variable(call[2] or call[3] or "")
        if match[1] in values:
            return values[match[1]]
        raise ValueError(f"has no equivalent: {match[0]!r} is a template that is not understood here")

    if _TRIMMED.search(text):
        raise ValueError("has no equivalent: a template with {{- or -}} is not understood here")
    return _ACTION.sub(action, text)
