"""Where a rule sends to: a repository's name with placeholders in it, and what ACR can hold."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from replicator.acr import NAME_SEGMENTS, is_acr
from replicator.reference import Repository, is_registry

PLACEHOLDERS = ("project", "repository", "name", "flat")
"""What may stand in braces in a destination."""

_BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Template:
    """A destination repository, perhaps depending on the source's.

    Attributes:
        registry: its host.
        path: its name, with ``{project}`` (the source's first segment), ``{repository}`` (its whole name), ``{name}``
            (what follows the project; all of it if there is no project) or ``{flat}`` (its whole name with ``-`` for
            every ``/``).
        is_default: whether it came from ``""`` and the defaults.
    """

    registry: str
    path: str
    is_default: bool = False

    @property
    def placeholders(self) -> frozenset[str]:
        """The placeholders in it, without braces."""
        return frozenset(_BRACES.findall(self.path))

    def __str__(self) -> str:
        return f"{self.registry}/{self.path}"

    @property
    def fixed(self) -> tuple[str, bool]:
        """What every ``registry/repository`` made of it begins with, and whether that is all of it."""
        beginning, brace, _ = f"{self.registry}/{self.path}".partition("{")
        return beginning, not brace

    def check(self) -> None:
        """Check all that can be known without a source.

        Raises:
            ValueError: it can't become a repository; the message says why.
        """
        if not is_registry(self.registry):
            raise ValueError(f"{self.registry!r} is no registry's host, which a destination begins with")
        for name in self.placeholders - set(PLACEHOLDERS):
            known = " ".join(f"{{{known}}}" for known in PLACEHOLDERS)
            raise ValueError(f"{{{name}}} is no placeholder; there are {known}")
        Repository(self.registry, _BRACES.sub("x", self.path))

    def segments(self, source_minimum: int, source_maximum: float) -> tuple[int, float]:
        """Return how many segments the name has at least and at most, given the same of the source's name."""
        lowest, highest = 0, 0.0
        for segment in self.path.split("/"):
            inside = set(_BRACES.findall(segment))
            shortest, longest = 1, 1.0
            if "repository" in inside:
                shortest, longest = source_minimum, source_maximum
            elif "name" in inside:
                shortest, longest = max(1, source_minimum - 1), max(1.0, source_maximum - 1)
            lowest, highest = lowest + shortest, highest + longest
        return lowest, highest

    def expand(self, source: Repository) -> Repository:
        """Return the repository that ``source`` goes to.

        Raises:
            ValueError: there is none, e.g. a nested name at ACR; the message says why.
        """
        project, slash, name = source.name.partition("/")
        if not slash and "{project}" in self.path:
            raise ValueError(f"{source.name} stands in no project, which {{project}} asks for")
        path = self.path
        if "{" in path:
            values = {
                "project": project,
                "repository": source.name,
                "name": name if slash else source.name,
                "flat": source.name.replace("/", "-"),
            }
            path = _BRACES.sub(lambda match: values[match[1]], path)
        repository = Repository(self.registry, path)
        segments = path.count("/") + 1
        if is_acr(self.registry) and segments != NAME_SEGMENTS:
            raise ValueError(f"ACR can't hold {path}: {self.advice(segments)}")
        return repository

    def advice(self, segments: float) -> str:
        """Return what to do about a name of ``segments`` segments at ACR."""
        count = "many segments" if math.isinf(segments) else f"{segments:g} segment{'s' if segments > 1 else ''}"
        rule = f"a repository there is exactly namespace/name, not {count}"
        if segments < NAME_SEGMENTS:
            return f"{rule}; put a namespace in front"
        if self.is_default:
            namespace = self.path.removesuffix("{name}")
            if namespace.count("/") > 1:
                return f"{rule}; the default namespace must be one segment"
            return f'{rule}; instead of "" write {self.registry}/{namespace}{{flat}}'
        return f"{rule}; {{flat}} makes one segment of a nested name"
