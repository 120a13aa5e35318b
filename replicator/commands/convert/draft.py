"""A rules file in the making, with what a person must know about it.

A draft as the text of a rules file, which the rules' own parser has read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from replicator.errors import ConfigError, Problem
from replicator.rules import parse
from replicator.rules.document import Plain
from replicator.rules.node import join

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from replicator.rules.node import Node

UNKNOWN = "is no key known here; left out"
"""Told of a key that the program, as it is known here, would pass over."""

_VARIABLE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")


@dataclass(frozen=True, slots=True)
class File:
    """A file of another program.

    Attributes:
        name: what people know it by.
        text: its content.
    """

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Options:
    """What the files alone don't say.

    Attributes:
        registry: where images go whose destination the file does not name.
        namespace: likewise, in front of the name there; both are image-syncer's options of these names.
        keep_secrets: write passwords as they are, instead of a variable for each.
        environ: what a template of regsync's takes variables from, where rules can have none.
    """

    registry: str | None = None
    namespace: str | None = None
    keep_secrets: bool = False
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(slots=True)
class Entry:
    """One key of a section.

    Attributes:
        value: what stands under it.
        place: where it comes from, in the source.
        comments: what is told beside it.
    """

    value: Any
    place: str
    comments: list[str] = field(default_factory=list)


class Draft:
    """Collects logins and rules.

    Args:
        program: whose file it is.
        options: what the files don't say.

    Attributes:
        auth: logins by ``registry`` or ``registry/path``.
        defaults: the section of that name.
        images: a list of destinations by source.
        problems: what is wrong with the source.
        remarks: what has no equivalent, or was added.
        comments: those of them that concern no entry.
        variables: what newly asked-for environment variables hold, by name.
    """

    def __init__(self, program: str, options: Options) -> None:
        self.program = program
        self.options = options
        self.auth: dict[str, Entry] = {}
        self.defaults: dict[str, str] = {}
        self.images: dict[str, Entry] = {}
        self.problems: list[Problem] = []
        self.remarks: list[Problem] = []
        self.comments: list[str] = []
        self.variables: dict[str, str] = {}

    def wrong(self, place: str, message: str) -> None:
        """Note a mistake: nothing comes of the file."""
        self.problems.append(Problem(place, message))

    def tell(self, place: str, message: str, entry: Entry | None = None) -> None:
        """Tell what a person must know, as a comment too.

        Args:
            place: what it is about, in the source.
            message: the remark; without secrets.
            entry: what it concerns in the rules; None for all.
        """
        remark = Problem(place, message)
        if remark not in self.remarks:
            self.remarks.append(remark)
            (self.comments if entry is None else entry.comments).append(str(remark))

    def add_destination(self, source: str, destination: Any, place: str) -> Entry:
        """Add a rule, or one more destination to the rule of this ``source``."""
        entry = self.images.setdefault(source, Entry([], place))
        if destination not in entry.value:
            entry.value.append(destination)
        return entry

    def secret(self, value: str, name: str, of: str) -> str:
        """Return what is written for a secret: itself, if that is wanted, else a variable.

        Args:
            value: the secret.
            name: e.g. ``PASSWORD``.
            of: the registry it is for.
        """
        if self.options.keep_secrets or _VARIABLE.fullmatch(value):
            return value
        return self.variable(name, of)

    def variable(self, name: str, of: str) -> str:
        """Return ``${NAME_REGISTRY}``, a variable that nothing else has."""
        base = f"{name}_{re.sub(r'[^A-Z0-9]', '_', of.upper())}"
        number, unique = 1, base
        while unique in self.variables:
            number += 1
            unique = f"{base}_{number}"
        self.variables[unique] = f"{name.lower()} of {of}"
        return f"${{{unique}}}"

    def hosts(self) -> Iterator[tuple[str, bool]]:
        """Return every registry that the rules name, in lower case, and whether something goes there."""
        for source, entry in self.images.items():
            yield source.partition("/")[0].lower(), False
            for item in entry.value:
                destinations = item.get("to") if isinstance(item, dict) else item
                for name in destinations if isinstance(destinations, list) else [destinations]:
                    if isinstance(name, str) and (name or self.defaults.get("registry")):
                        yield (name or self.defaults["registry"]).partition("/")[0].lower(), True

    def has_login(self, host: str) -> bool:
        """Tell whether a key of ``auth`` is for ``host`` or a part of it."""
        return any(key.partition("/")[0].lower() == host for key in self.auth)


def known_fields(place: Node | None, known: tuple[str, ...], tell: Callable[[str, str], None]) -> dict[str, Node]:
    """Return the places of a mapping's values; none if there is no mapping, which is noted if it is something else.

    Args:
        place: where the mapping stands.
        known: the keys it can have.
        tell: told of every other key: its place, and the message.
    """
    fields = (place.mapping() if place is not None and place.value is not None else None) or {}
    for key in [key for key in fields if key not in known]:
        tell(fields.pop(key).path, UNKNOWN)
    return {key: field for key, field in fields.items() if field.value is not None}


_NAMED_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
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
    environ = dict.fromkeys(_NAMED_VARIABLE.findall(text), "x")
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
