"""Draft of a rules file: logins, rules and remarks are collected, then written as YAML.

The written file is parsed before it is returned. A mistake or a warning of the parser is reported at its origin in the
source file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from replicator.errors import ConfigError, Problem
from replicator.reference import HUB, full_host
from replicator.rules import parse
from replicator.rules.auth import read_auth
from replicator.rules.node import Node, Plain, join

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

UNKNOWN = "is an unknown key; left out"
"""The remark on a key that the other program would ignore."""

_VARIABLE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")


@dataclass(frozen=True, slots=True)
class File:
    """A file of another program; its name appears in messages."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Options:
    """Settings that the files don't have.

    Attributes:
        registry: the registry of images for which the file names no destination.
        namespace: their namespace. Both are options of image-syncer.
        keep_secrets: whether to write passwords literally instead of a variable for each.
        harbor: the host of the Harbor whose replication policies these are.
        environ: the variables of regsync's templates in places where rules can't have variables.
    """

    registry: str | None = None
    namespace: str | None = None
    keep_secrets: bool = False
    harbor: str | None = None
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(slots=True)
class Entry:
    """The value of one key of a section.

    Attributes:
        origin: the path in the source that it comes from.
        comments: lines to write above it.
    """

    value: Any
    origin: str
    comments: list[str] = field(default_factory=list)


class Draft:
    """Collects logins and rules.

    Args:
        program: the name of the other program.
        options: settings that the files don't have.

    Attributes:
        auth: logins by ``registry`` or ``registry/path``.
        images: a list of destinations by source.
        problems: mistakes in the source.
        remarks: settings without an equivalent, or that were added.
        comments: the remarks that belong to no entry.
        variables: descriptions of the environment variables that the file newly needs, by name.
        has_logins_only: whether the source is meant to have no rules.
    """

    has_logins_only = False

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

    def wrong(self, path: str, message: str) -> None:
        """Note a mistake at ``path`` of the source, because of which no file is written."""
        self.problems.append(Problem(path, message))

    def remark(self, path: str, message: str, entry: Entry | None = None) -> None:
        """Add a remark, which is printed and also written as a comment.

        Args:
            path: its path in the source.
            message: the remark; without secrets.
            entry: the entry of the rules that it belongs to; None for the whole file.
        """
        remark = Problem(path, message)
        if remark not in self.remarks:
            self.remarks.append(remark)
            (self.comments if entry is None else entry.comments).append(str(remark))

    def add_destination(self, source: str, destination: Any, origin: str) -> Entry:
        """Add a rule, or another destination to the rule of this ``source``."""
        entry = self.images.setdefault(source, Entry([], origin))
        if destination not in entry.value:
            entry.value.append(destination)
        return entry

    def secret(self, value: str, name: str, of: str) -> str:
        """Return the text to write for a secret: a new variable, or the secret itself if that is wanted.

        Args:
            value: the secret.
            name: e.g. ``PASSWORD``.
            of: its registry.
        """
        if self.options.keep_secrets or _VARIABLE.fullmatch(value):
            return value
        return self.variable(name, of)

    def variable(self, name: str, of: str) -> str:
        """Return a new variable, ``${NAME_REGISTRY}``."""
        of = "docker.io" if of == HUB else of
        base = f"{name}_{re.sub(r'[^A-Z0-9]', '_', of.upper())}"
        number, unique = 1, base
        while unique in self.variables:
            number += 1
            unique = f"{base}_{number}"
        self.variables[unique] = f"{name.lower()} of {of}"
        return f"${{{unique}}}"

    def hosts(self) -> Iterator[tuple[str, bool]]:
        """Return every registry that the rules name, in lower case, and whether it is a destination."""

        def host(name: str) -> str:
            return _NAMED_VARIABLE.sub(lambda match: self.options.environ.get(match[1], ""), name).partition("/")[0]

        for source, entry in self.images.items():
            yield full_host(host(source)), False
            for item in entry.value:
                destinations = item.get("to") if isinstance(item, dict) else item
                for name in destinations if isinstance(destinations, list) else [destinations]:
                    if isinstance(name, str) and (name or self.defaults.get("registry")):
                        yield full_host(host(name or self.defaults["registry"])), True

    def has_login(self, host: str) -> bool:
        """Tell whether a key of ``auth`` begins with ``host``."""
        return any(key.partition("/")[0].lower() == host for key in self.auth)


def known_fields(node: Node | None, known: tuple[str, ...], remark: Callable[[str, str], None]) -> dict[str, Node]:
    """Return the nodes of a mapping's values, without nulls; empty if there is no mapping.

    Args:
        node: the mapping; a value of another type is noted as a mistake.
        known: the keys to return.
        remark: called with the path of every other key and a message.
    """
    fields = (node.mapping() if node is not None and node.value is not None else None) or {}
    for key in [key for key in fields if key not in known]:
        remark(fields.pop(key).path, UNKNOWN)
    return {key: field for key, field in fields.items() if field.value is not None}


_NAMED_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_WIDTH = 110
"""Characters in a line beyond which each item of a list or mapping gets a line of its own."""


@dataclass(frozen=True, slots=True)
class Converted:
    """A converted rules file.

    Attributes:
        text: the rules file, YAML.
        variables: the environment variables that it newly needs, in place of passwords.
        remarks: settings without an equivalent or that were added, each with its path in the source.
    """

    text: str
    variables: tuple[str, ...]
    remarks: tuple[Problem, ...]


def finished(draft: Draft, source: str) -> Converted:
    """Write the rules file.

    Args:
        draft: its content.
        source: the names of the source files, for messages.

    Raises:
        ConfigError: the source has mistakes, or its rules can't be used; with every problem at once.
    """
    if draft.problems:
        raise ConfigError(source, dict.fromkeys(draft.problems))
    text = _text(draft, source)
    # Parsing only needs the variables to be set. One that names a registry in a rule is set; for the others, the
    # second word is one that ACR takes as a part of a name.
    environ = dict.fromkeys(_NAMED_VARIABLE.findall(text), "x.example")
    for name in _NAMED_VARIABLE.findall("\n".join(_section(draft.images))):
        environ[name] = draft.options.environ.get(name) or "xx"
    if draft.has_logins_only:
        problems: list[Problem] = []
        read_auth(Node({key: entry.value for key, entry in draft.auth.items()}, "auth", problems), environ, None, [])
        if problems:
            raise ConfigError(source, [_in_source(draft, problem) for problem in problems])
        return Converted(text, tuple(draft.variables), tuple(draft.remarks))
    try:
        rules = parse(text, source, environ=environ)
    except ConfigError as error:
        raise ConfigError(source, [_in_source(draft, problem) for problem in error.problems]) from None
    for warning in rules.warnings:
        _, entry = _entry(draft, warning.path)
        draft.remark(_in_source(draft, warning).path, warning.message, entry)
    text = _text(draft, source)
    parse(text, source, environ=environ)
    return Converted(text, tuple(draft.variables), tuple(draft.remarks))


def _entry(draft: Draft, path: str) -> tuple[str, Entry | None]:
    """Return the path of the key that contains ``path`` in the rules file, and its entry."""
    for section, entries in (("auth", draft.auth), ("images", draft.images)):
        for key, entry in entries.items():
            own = join(section, key)
            if path == own or path.startswith((f"{own}.", f"{own}[")):
                return own, entry
    return path, None


def _in_source(draft: Draft, problem: Problem) -> Problem:
    """Return a problem of the rules file with the path in the source that it comes from."""
    own, entry = _entry(draft, problem.path)
    if entry is None or entry.origin == own:
        return problem
    return Problem(entry.origin, f"{problem.message} (here as {problem.path})")


def _text(draft: Draft, source: str) -> str:
    lines = [_comment(f"From {source}, a file of {draft.program}. Every key: docs/rules.md.")]
    lines += [_comment(f"{name}: the {what}; set it in the environment.") for name, what in draft.variables.items()]
    lines += map(_comment, draft.comments)
    lines += ["auth:", *_section(draft.auth)] if draft.auth else []
    lines += [_dumped({"defaults": draft.defaults})] if draft.defaults else []
    if not draft.has_logins_only:
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
    """Return a comment of one line. Names of files and keys may contain line breaks, which would end the comment."""
    return "# " + "".join(character if character.isprintable() else " " for character in text)


class _Dumper(yaml.SafeDumper):
    """Writes repeated values in full, without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# A scalar without quotes is a string here; it gets quotes if YAML would take it for something else.
_Dumper.add_representer(Plain, lambda dumper, data: dumper.represent_str(str(data)))


def _dumped(value: Any) -> str:
    short = _with_style(value, flow=None)
    is_short = not short.startswith("{") and max(map(len, short.splitlines())) <= _WIDTH
    return short if is_short else _with_style(value, flow=False)


def _with_style(value: Any, *, flow: bool | None) -> str:
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**31, default_flow_style=flow)
    return str(text).rstrip("\n")
