"""The two sides of a rule: the source pattern that is its key, and the destination template.

A template is a repository's name with placeholders for parts of the source's name. ACR holds only names of exactly two
segments, which is checked here as far as the rule alone tells.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, product
from typing import TYPE_CHECKING

from replicator.aliyun.acr import NAME_SEGMENTS, endpoint_of, is_acr, name_problem
from replicator.reference import (
    MAX_TAG_LENGTH,
    Repository,
    full_name,
    is_digest,
    is_registry,
    is_repository_name,
    is_tag,
)
from replicator.rules.node import without_login
from replicator.rules.patterns import (
    check_name_glob,
    compile_glob,
    compile_tag_pattern,
    is_expression,
    is_glob,
    literal_prefix,
    shorten,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


_STARS = re.compile(r"\*+")
_FILLINGS = {False: ("", "x"), True: ("", "x", "/", "x/", "/x", "x/x")}
"""The text that replaces one star in samples, and two stars: with a slash the project is another one."""
_MOST_STARS = 3


@dataclass(frozen=True, slots=True)
class SourcePattern:
    """The source of a rule.

    Attributes:
        registry: the host, in lower case.
        path: a repository's name, or a glob for names.
        tags: the part after the colon: tags, globs or one regular expression; empty for every tag.
        digest: the part after the @, if the rule is for a single digest.
    """

    registry: str
    path: str
    tags: tuple[str, ...] = ()
    digest: str | None = None

    @property
    def repository(self) -> Repository | None:
        """The repository, or None if the path is a glob."""
        return None if is_glob(self.path) else Repository(self.registry, self.path)

    @property
    def project(self) -> str | None:
        """The first segment of the path if another one follows and it has no wildcard; else None."""
        first, slash, _ = self.path.partition("/")
        return first if slash and not is_glob(first) else None

    @property
    def segments(self) -> tuple[int, float]:
        """The lowest and the highest number of segments in a matching name."""
        lowest = self.path.count("/") + 1
        return lowest, math.inf if "**" in self.path else lowest

    @property
    def fixed(self) -> str:
        """The common beginning of every matching ``registry/repository``; all of it if there is no wildcard."""
        return f"{self.registry}/{literal_prefix(self.path)}"

    def samples(self) -> Iterator[Repository]:
        """Yield matches among which are the shortest in each segment; a glob of many wildcards has none."""
        parts = _STARS.split(self.path)
        fillings = [_FILLINGS["**" in stars] for stars in _STARS.findall(self.path)]
        for filled in product(*fillings) if len(fillings) <= _MOST_STARS else ():
            name = "".join(chain.from_iterable(zip(parts, (*filled, ""), strict=True))).replace("?", "x")
            if is_repository_name(name) and self.includes(name):
                yield Repository(self.registry, name)

    def includes(self, name: str) -> bool:
        """Tell whether the path matches the repository ``name`` of this registry."""
        if not is_glob(self.path):
            return name == self.path
        return compile_glob(self.path).match(name) is not None

    def refusal(self, repository: Repository) -> str | None:
        """Return why ``repository`` does not match, in words; None if it does."""
        if repository.registry != self.registry:
            return f"the registry is {repository.registry}, not {self.registry}"
        if not self.includes(repository.name):
            return (
                f"the repository {repository.name} {'does not match' if is_glob(self.path) else 'is not'} {self.path}"
            )
        return None


def parse_source(key: str, wrong: Callable[[str], None]) -> SourcePattern | None:
    """Parse ``host/repository``, optionally with ``:tags``, ``:/expression/`` or ``@digest``.

    One of Docker's short names is taken as `full_name` does. With ``:tag@digest`` the digest decides, as for Docker.

    Args:
        key: as in the file.
        wrong: called with the message of every mistake.

    Returns:
        The pattern, or None if there was a mistake.
    """
    registry, slash, rest = full_name(key).partition("/")
    # Hosts are not case-sensitive, repositories are.
    registry = registry.lower()
    if not is_registry(registry):
        wrong(_no_registry(key, registry))
        if not slash or "://" in key:
            return None
    if not slash or not rest:
        wrong("no repository; append /** to the host (** after its slash) to mean all of them")
        return None
    path, mark, suffix = _split(rest)
    mistakes = 0

    def note(message: str) -> None:
        nonlocal mistakes
        mistakes += 1
        wrong(message)

    check_path(path, note)
    tags: tuple[str, ...] = ()
    digest = None
    tag, at, behind = suffix.partition("@")
    if at and mark == ":" and is_tag(tag):
        mark, suffix = at, behind
    if mark == ":":
        tags = _parse_tags(suffix, note)
    elif mark == "@":
        digest = suffix
        if "," in suffix and all(map(is_digest, suffix.split(","))):
            note("a source has at most one digest; write one source for each digest")
        elif not is_digest(suffix):
            note(f"{shorten(suffix)} is not a digest: write sha256: and 64 hex characters, or sha512: and 128")
        elif is_glob(path):
            note("a digest needs a single repository, without wildcards")
    if mistakes or not is_registry(registry):
        return None
    return SourcePattern(registry, path, tags, digest)


def _no_registry(key: str, registry: str) -> str:
    if "://" in key:
        return "a source begins with the registry's host; remove http:// or https://"
    if is_glob(registry):
        return "the registry can't have wildcards; write a rule for each host"
    registry = without_login(registry)
    return f"{shorten(registry)} is not a registry host: it needs a dot or a port, e.g. harbor.example.com/..."


def _split(rest: str) -> tuple[str, str, str]:
    """Split at the first ``:`` or ``@``: the path, that mark, the rest."""
    mark = re.search("[:@]", rest)
    return (rest[: mark.start()], mark[0], rest[mark.end() :]) if mark else (rest, "", "")


def check_path(path: str, wrong: Callable[[str], None]) -> None:
    """Check a repository's name, or a glob for names; ``wrong`` is called with every mistake."""
    try:
        if path.endswith("/") and not path.startswith("/"):
            wrong("ends with a slash: remove it, or append ** to mean all repositories below")
        elif is_glob(path):
            check_name_glob(path)
        elif not is_repository_name(path):
            wrong(f"{shorten(path)} is not a repository name: use lower-case letters, digits, and . _ - / between them")
    except ValueError as error:
        wrong(str(error))


def _parse_tags(text: str, wrong: Callable[[str], None]) -> tuple[str, ...]:
    if not text:
        wrong("no tag after the colon; remove the colon to mean every tag")
        return ()
    if "@" in text and not is_expression(text):
        wrong("a source has a tag or a digest, not both; to tag a digest, append the tag to the destination")
        return ()
    if is_expression(text) and "/,/" in text:
        wrong("a source has at most one expression; write several as tags: {include: [/a/, /b/]} of the destination")
        return ()
    # A comma may be part of an expression, so an expression is never split.
    tags = (text,) if is_expression(text) else tuple(text.split(","))
    for tag in tags:
        try:
            compile_tag_pattern(tag)
        except ValueError as error:
            wrong(str(error))
    return tags


PLACEHOLDERS = ("project", "repository", "name", "flat")
"""The names allowed in braces in a destination's repository."""
TAG = "tag"
"""The further name that is allowed in its tag."""

_BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Template:
    """A destination repository that may depend on the source's, and a tag that may depend on both.

    Attributes:
        registry: its host.
        path: its name, with ``{project}`` (the source's first segment), ``{repository}`` (its whole name), ``{name}``
            (the name without the project; the whole name if there is no project) or ``{flat}`` (the whole name with
            ``-`` for every ``/``).
        is_default: whether it comes from ``""`` and the defaults.
        tag: its tag, with the same placeholders and ``{tag}``; None if the destination says nothing of its tags, or
            writes them out.
    """

    registry: str
    path: str
    is_default: bool = False
    tag: str | None = None

    @property
    def placeholders(self) -> frozenset[str]:
        """The placeholders in repository and tag, without braces."""
        return frozenset(_BRACES.findall(self.path)) | frozenset(_BRACES.findall(self.tag or ""))

    @property
    def keeps_tags_apart(self) -> bool:
        """Whether two tags of one repository stay two tags."""
        return self.tag is None or TAG in _BRACES.findall(self.tag)

    def __str__(self) -> str:
        return f"{self.registry}/{self.path}" + (f":{self.tag}" if self.tag is not None else "")

    @property
    def fixed(self) -> tuple[str, bool]:
        """The common beginning of every ``registry/repository`` made of it, and whether that is all of it."""
        beginning, brace, _ = f"{self.registry}/{self.path}".partition("{")
        return beginning, not brace

    def check(self) -> None:
        """Check the parts that don't depend on a source.

        Raises:
            ValueError: it can't become a repository; the message says why.
        """
        if not is_registry(self.registry):
            raise ValueError(f"{self.registry!r} is not a registry host, and a destination begins with one")
        for text, names in ((self.path, PLACEHOLDERS), (self.tag or "", (*PLACEHOLDERS, TAG))):
            for name in sorted(set(_BRACES.findall(text)) - set(names)):
                known = " ".join(f"{{{known}}}" for known in names)
                raise ValueError(f"{{{name}}} is not a placeholder; expected one of {known}")
        sample = _BRACES.sub("x", self.path)
        try:
            Repository(self.registry, sample)
        except ValueError as error:
            # As written in the file, which does not contain the sample.
            raise ValueError(str(error).replace(repr(sample), repr(self.path))) from None
        if self.tag is not None and not is_tag(_BRACES.sub("x", self.tag)):
            raise ValueError(f"{shorten(self.tag)} can't become a tag: use letters, digits, . _ - and placeholders")

    def segments(self, source_minimum: int, source_maximum: float) -> tuple[int, float]:
        """Return the lowest and the highest number of segments, given those of the source's name."""
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
        """Return the destination of ``source``.

        Raises:
            ValueError: there is none, e.g. for a nested name at ACR; the message says why.
        """
        if "/" not in source.name and "project" in self.placeholders:
            raise ValueError(f"{source.name} is not in a project, and {{project}} needs one")
        path = _filled_in(self.path, source)
        repository = Repository(self.registry, path)
        segments = path.count("/") + 1
        if is_acr(self.registry) and segments != NAME_SEGMENTS:
            raise ValueError(f"ACR can't hold {path}: {self.advice(segments)}")
        return repository

    def name_problem(self, destination: Repository) -> str | None:
        """Return why ACR can't hold ``destination``, which `expand` has returned, and what to do; None if it may."""
        if (problem := name_problem(destination)) is None:
            return None
        return f"{problem}; change {self}, or exclude the repository from this rule and give it its own rule"

    def fixed_name_problem(self, source: SourcePattern) -> str | None:
        """Return why ACR can't hold the destination of any match of ``source``, as far as the rule alone tells.

        The host's name has to tell the edition, so that rules are as right or wrong at every start.
        """
        problem = None
        if endpoint_of(self.registry) is not None:
            for repository in source.samples():
                with suppress(ValueError):  # a match without a destination
                    problem = name_problem(self.expand(repository))
                    if problem is None:
                        return None
        return problem and f"{problem}; change {self}"

    def fixed_namespace(self, source: SourcePattern) -> str | None:
        """Return the first segment of all destinations of ``source``; None if they differ in it."""
        first = self.path.partition("/")[0]
        if source.repository is not None:
            return _filled_in(first, source.repository).partition("/")[0]
        if source.project is not None:
            first = re.sub(r"\{repository\}.*", "{project}", first).replace("{project}", source.project)
        return None if "{" in first else first

    def expand_tag(self, source: Repository, tag: str) -> str:
        """Return the tag of ``source`` and its ``tag``; `tag_problem` tells whether it is one."""
        return tag if self.tag is None else _filled_in(self.tag, source, tag)

    def tag_problem(self, source: Repository, tag: str) -> str | None:
        """Return why the tag of ``source`` and its ``tag`` is none, and what to do; None if it is one."""
        end = self.expand_tag(source, tag)
        if is_tag(end):
            return None
        return (
            f"its tag would be {shorten(end)} with {len(end)} characters, and a tag has at most {MAX_TAG_LENGTH}: "
            f"give {source.name} a rule with a shorter tag"
        )

    def advice(self, segments: float) -> str:
        """Return how to avoid a name of ``segments`` segments at ACR."""
        count = "many segments" if math.isinf(segments) else f"{segments:g} segment{'s' if segments > 1 else ''}"
        rule = f"a repository there is namespace/name, not {count}"
        if segments < NAME_SEGMENTS:
            return f"{rule}; put a namespace in front"
        if self.is_default:
            namespace = self.path.removesuffix("{name}")
            if namespace.count("/") > 1:
                return f"{rule}; the default namespace must be one segment"
            return f'{rule}; instead of "" write {self.registry}/{namespace}{{flat}}'
        return f"{rule}; use {{flat}} to make one segment of a nested name"


def _filled_in(text: str, source: Repository, tag: str = "") -> str:
    """Return ``text`` with its placeholders replaced by parts of a source."""
    if "{" not in text:
        return text
    project, slash, name = source.name.partition("/")
    values = {
        "project": project,
        "repository": source.name,
        "name": name if slash else source.name,
        "flat": source.name.replace("/", "-"),
        TAG: tag,
    }
    return _BRACES.sub(lambda match: values[match[1]], text)
