"""A rules file in the making, with what a person must know about it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from replicator.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from replicator.rules.place import Place

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


def known_fields(place: Place | None, known: tuple[str, ...], tell: Callable[[str, str], None]) -> dict[str, Place]:
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
