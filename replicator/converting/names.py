"""How regsync names images, and repositories by regular expressions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from replicator.reference import is_digest, is_registry, is_repository_name, is_tag
from replicator.rules.patterns import shorten

HUB = "docker.io"
"""Where a name without a registry is."""
_HUB_NAMES = ("index.docker.io", "registry-1.docker.io")
_NAME = re.compile(r"(?P<name>[^:@]+(?::[0-9]+/[^:@]+)?)(?::(?P<tag>[^@]+))?(?:@(?P<digest>.+))?\Z")
_PARTS = re.compile(r"(?P<any>\.[*+])|(?P<segment>\[\^/\][*+])|(?P<itself>[a-z0-9_/-]|\\[._/-])|(?P<else>.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Name:
    """An image as regsync names it.

    Attributes:
        repository: ``registry/repository``, with the registry that is meant where none stands.
        tag: what stands behind the colon, if anything.
        digest: what stands behind the @, if anything.
    """

    repository: str
    tag: str | None
    digest: str | None


def name_of(text: str) -> Name:
    """Read ``[registry/]repository[:tag][@digest]``.

    Raises:
        ValueError: it is none; the message says what is wrong.
    """
    if "://" in text:
        raise ValueError(f"has no equivalent: {shorten(text)} is no registry's image")
    match = _NAME.match(text)
    if match is None:
        raise ValueError(f"{shorten(text)} is no image")
    registry, slash, path = match["name"].partition("/")
    if not slash or not is_registry(registry):
        registry, path = HUB, match["name"]
    registry = registry_of(registry)
    if registry == HUB and "/" not in path:
        path = f"library/{path}"
    if not is_repository_name(path):
        raise ValueError(f"{shorten(path)} is no repository's name")
    if match["tag"] and not is_tag(match["tag"]):
        raise ValueError(f"{shorten(match['tag'])} is no tag")
    if match["digest"] and not is_digest(match["digest"]):
        raise ValueError(f"{shorten(match['digest'])} is no digest")
    return Name(f"{registry}/{path}", match["tag"], match["digest"])


def registry_of(text: str) -> str:
    """Return a registry's host by the name it has among images: Docker Hub has three."""
    return HUB if text.lower() in _HUB_NAMES else text.lower()


def repositories(expression: str) -> str:
    """Return the glob for the repositories that an anchored regular expression matches whole.

    Raises:
        ValueError: a glob can't say it.
    """
    glob, end = "", len(expression)
    for part in _PARTS.finditer(expression):
        if part["else"]:
            raise ValueError("has no equivalent: repositories are named by *, ** and ? here")
        if part["itself"]:
            glob += part["itself"].removeprefix("\\")
            continue
        # In a name something stands between two slashes, before the first and behind the last; so + asks no more.
        alone = (not glob or glob[-1] == "/") and (part.end() == end or expression[part.end()] == "/")
        if part[0].endswith("+") and not alone:
            raise ValueError("has no equivalent: a * here can stand for nothing")
        if glob.endswith("*"):
            raise ValueError("has no equivalent: repositories are named by *, ** and ? here")
        glob += "**" if part["any"] else "*"
    if not glob:
        raise ValueError("names no repository")
    return glob
