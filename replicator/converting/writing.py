"""A draft as the text of a rules file, which the rules' own parser has read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from replicator.errors import ConfigError, Problem
from replicator.rules import parse
from replicator.rules.document import Plain
from replicator.rules.place import join

if TYPE_CHECKING:
    from replicator.converting.draft import Draft, Entry

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_WIDTH = 110
"""Characters of a line, from which on lists and mappings are written a line an item."""


@dataclass(frozen=True, slots=True)
class Converted:
    """A rules file, and what a person must know about it.

    Attributes:
        text: the rules file, YAML.
        variables: the environment variables that it newly asks for: those of the passwords taken out.
        remarks: what has no equivalent or was added, each with its place in the source.
    """

    text: str
    variables: tuple[str, ...]
    remarks: tuple[Problem, ...]


def finished(draft: Draft, source: str) -> Converted:
    """Write the rules file.

    Args:
        draft: what is in it.
        source: the files it comes from, in words.

    Raises:
        ConfigError: there are problems with the source, or its rules can't be used; with every problem at once.
    """
    if draft.problems:
        raise ConfigError(source, dict.fromkeys(draft.problems))
    text = _text(draft, source)
    # Only whether a variable is set counts here, so any value will do.
    environ = dict.fromkeys(_VARIABLE.findall(text), "x")
    try:
        rules = parse(text, source, environ=environ)
    except ConfigError as error:
        raise ConfigError(source, [_in_source(draft, problem) for problem in error.problems]) from None
    for warning in rules.warnings:
        _, entry = _entry(draft, warning.path)
        draft.tell(_in_source(draft, warning).path, warning.message, entry)
    text = _text(draft, source)
    parse(text, source, environ=environ)
    return Converted(text, tuple(draft.variables), tuple(draft.remarks))


def _entry(draft: Draft, path: str) -> tuple[str, Entry | None]:
    """Return the key of the rules file that ``path`` is in, as a path, and its entry."""
    for section, entries in (("auth", draft.auth), ("images", draft.images)):
        for key, entry in entries.items():
            own = join(section, key)
            if path == own or path.startswith((f"{own}.", f"{own}[")):
                return own, entry
    return path, None


def _in_source(draft: Draft, problem: Problem) -> Problem:
    """Return a problem of the rules file with the place in the source that it comes from."""
    own, entry = _entry(draft, problem.path)
    if entry is None or entry.place == own:
        return problem
    return Problem(entry.place, f"{problem.message} (here as {problem.path})")


def _text(draft: Draft, source: str) -> str:
    lines = [_comment(f"From {source}, a file of {draft.program}. Every key: docs/rules.md.")]
    lines += [_comment(f"{name}: the {what}; set it in the environment.") for name, what in draft.variables.items()]
    lines += map(_comment, draft.comments)
    lines += ["auth:", *_section(draft.auth)] if draft.auth else []
    lines += [_dumped({"defaults": draft.defaults})] if draft.defaults else []
    lines += ["", "images:", *_section(draft.images)] if draft.images else ["images: {}"]
    return "\n".join(lines) + "\n"


def _section(entries: dict[str, Entry]) -> list[str]:
    lines = []
    for key, entry in entries.items():
        lines += [f"  {_comment(comment)}" for comment in entry.comments]
        value = entry.value[0] if isinstance(entry.value, list) and len(entry.value) == 1 else entry.value
        lines += [f"  {line}" for line in _dumped({key: value}).splitlines()]
    return lines


def _comment(text: str) -> str:
    """Return one line, whatever stands in ``text``: the names of files and keys are foreign."""
    return "# " + "".join(character if character.isprintable() else " " for character in text)


class _Dumper(yaml.SafeDumper):
    """Repeats what stands twice: anchors are for machines."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# What was written without quotes is a text here; it gets quotes where YAML would take it for something else.
_Dumper.add_representer(Plain, lambda dumper, data: dumper.represent_str(str(data)))


def _dumped(value: Any) -> str:
    short = _with_style(value, flow=None)
    is_short = not short.startswith("{") and max(map(len, short.splitlines())) <= _WIDTH
    return short if is_short else _with_style(value, flow=False)


def _with_style(value: Any, *, flow: bool | None) -> str:
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**31, default_flow_style=flow)
    return str(text).rstrip("\n")
