"""The key of a rule: which repositories, and which tags of them.

Where a rule sends to: a repository's name with placeholders in it, and what ACR can hold.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from replicator.aliyun.acr import NAME_SEGMENTS, is_acr
from replicator.reference import Repository, is_digest, is_registry, is_repository_name
from replicator.rules.patterns import (
    check_name_glob,
    check_tag_pattern,
    compile_glob,
    is_expression,
    is_glob,
    literal_prefix,
    shorten,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class SourcePattern:
    """What a rule copies from.

    Attributes:
        registry: the host, in lower case.
        path: a repository's name, or a glob for names.
        tags: what stands behind the colon: tags, globs or one regular expression; empty for every tag.
        digest: what stands behind the @, if the rule is about a digest.
    """

    registry: str
    path: str
    tags: tuple[str, ...] = ()
    digest: str | None = None

    @property
    def repository(self) -> Repository | None:
        """The repository, if it is a single one."""
        return None if is_glob(self.path) else Repository(self.registry, self.path)

    @property
    def project(self) -> str | None:
        """The first segment, if there is a second one and no wildcard in the first."""
        first, slash, _ = self.path.partition("/")
        return first if slash and not is_glob(first) else None

    @property
    def segments(self) -> tuple[int, float]:
        """How many segments a matching name has at least and at most."""
        lowest = self.path.count("/") + 1
        return lowest, math.inf if "**" in self.path else lowest

    @property
    def fixed(self) -> str:
        """What every matching ``registry/repository`` begins with; all of it if there is no wildcard."""
        return f"{self.registry}/{literal_prefix(self.path)}"

    def includes(self, name: str) -> bool:
        """Tell whether the repository ``name`` of this registry is meant."""
        if not is_glob(self.path):
            return name == self.path
        return compile_glob(self.path).match(name) is not None

    def refusal(self, repository: Repository) -> str | None:
        """Return why ``repository`` is not meant, in words; None if it is."""
        if repository.registry != self.registry:
            return f"the registry is {repository.registry}, not {self.registry}"
        if not self.includes(repository.name):
            return (
                f"the repository {repository.name} {'does not match' if is_glob(self.path) else 'is not'} {self.path}"
            )
        return None


def parse_source(key: str, wrong: Callable[[str], None]) -> SourcePattern | None:
    """Parse ``host/repository``, perhaps with ``:tags``, ``:/expression/`` or ``@digest``.

    Args:
        key: as it stands in the file.
        wrong: told of every mistake.

    Returns:
        What it means, or None if there was a mistake.
    """
    registry, slash, rest = key.partition("/")
    registry = registry.lower()
    if not is_registry(registry):
        wrong(_no_registry(key, registry))
        if not slash or "://" in key:
            return None
    if not slash or not rest:
        wrong("no repository is named; /** behind the host means all of them")
        return None
    path, mark, behind = _split(rest)
    mistakes = 0

    def note(message: str) -> None:
        nonlocal mistakes
        mistakes += 1
        wrong(message)

    _check_path(path, note)
    tags: tuple[str, ...] = ()
    digest = None
    if mark == ":":
        tags = _parse_tags(behind, note)
    elif mark == "@":
        digest = behind
        if not is_digest(behind):
            note(f"{shorten(behind)} is no digest: sha256: and 64, or sha512: and 128 hex characters")
        elif is_glob(path):
            note("a digest needs one repository, without wildcards")
    if mistakes or not is_registry(registry):
        return None
    return SourcePattern(registry, path, tags, digest)


def _no_registry(key: str, registry: str) -> str:
    if "://" in key:
        return "begins with the registry's host, without http:// or https://"
    if is_glob(registry):
        return "the registry can't have wildcards: only hosts that are named are ever contacted"
    return f"{shorten(registry)} is no registry's host: write it with a dot or a port, e.g. harbor.example.com/..."


def _split(rest: str) -> tuple[str, str, str]:
    places = [place for place in (rest.find(":"), rest.find("@")) if place >= 0]
    if not places:
        return rest, "", ""
    return rest[: min(places)], rest[min(places)], rest[min(places) + 1 :]


def _check_path(path: str, wrong: Callable[[str], None]) -> None:
    try:
        if is_glob(path):
            check_name_glob(path)
        elif not is_repository_name(path):
            wrong(f"{shorten(path)} is no repository's name: lower-case letters and digits, between them . _ - or /")
    except ValueError as error:
        wrong(str(error))


def _parse_tags(text: str, wrong: Callable[[str], None]) -> tuple[str, ...]:
    if not text:
        wrong("no tag stands behind the colon; leave the colon out to mean every tag")
        return ()
    if "@" in text and not is_expression(text):
        wrong("a tag or a digest, not both; to give a digest a tag, write it behind the destination")
        return ()
    tags = (text,) if is_expression(text) else tuple(text.split(","))
    for tag in tags:
        try:
            check_tag_pattern(tag)
        except ValueError as error:
            wrong(str(error))
    return tags


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
