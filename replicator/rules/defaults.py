"""The ``defaults`` section, and the command line's word in it: where ``""`` goes, and what of an image is copied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from replicator.reference import is_registry, is_repository_name
from replicator.rules.content import KEYS, NOTHING_SAID, Content, read_content
from replicator.rules.destination import Template
from replicator.rules.patterns import shorten
from replicator.rules.place import Place
from replicator.rules.variables import expand_variables

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from replicator.errors import Problem

NAMES = ("registry", "namespace")
"""What ``""`` is made of."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What ``""`` stands for, and what rules mean that don't say it themselves.

    Attributes:
        registry: the host, in lower case; None if none is given, or a wrong one.
        namespace: what comes in front of the repository's name; None likewise.
        missing: which of the two nobody gave.
        content: what of an image is copied.
    """

    registry: str | None = None
    namespace: str | None = None
    missing: tuple[str, ...] = NAMES
    content: Content = NOTHING_SAID

    @property
    def template(self) -> Template | None:
        """The destination that ``""`` means; None if it can't be told."""
        if self.registry is None or self.namespace is None:
            return None
        return Template(self.registry, f"{self.namespace}/{{name}}", is_default=True)


def read_defaults(
    place: Place | None,
    environ: Mapping[str, str],
    options: Mapping[str, str | None],
    problems: list[Problem],
    warnings: list[Problem],
) -> Defaults:
    """Read the ``defaults`` mapping; what is wrong is noted.

    Args:
        place: the mapping; None if the file has none.
        environ: what ``${NAME}`` in the file is taken from.
        options: what the command line gives, by name; it wins.
        problems: gets what is wrong with the options.
        warnings: gets what is allowed but looks like a mistake.
    """
    values: dict[str, Place] = {}
    fields = (place.mapping((*NAMES, *KEYS)) if place is not None else None) or {}
    for name in [name for name in fields if name in NAMES]:
        written = fields[name]
        text = written.text()
        expanded = None if text is None else expand_variables(written, text, environ)
        written.value = expanded
        values[name] = written
    for name, option in options.items():
        if option is not None:
            values[name] = Place(option, f"--{name}", problems)
    registry = _checked(values.get("registry"), is_registry, "is no registry's host, e.g. harbor.example.com")
    namespace = _checked(
        values.get("namespace"), is_repository_name, "is no namespace: lower-case letters, digits, - _ ."
    )
    missing = tuple(name for name in NAMES if name not in values)
    return Defaults(registry, namespace, missing, read_content(fields, warnings))


def _checked(place: Place | None, is_valid: Callable[[str], bool], advice: str) -> str | None:
    if place is None or place.value is None:
        return None
    text = str(place.value)
    if place.path.endswith("registry"):
        text = text.lower()
    if not is_valid(text):
        place.wrong(f"{shorten(text)} {advice}")
        return None
    return text
