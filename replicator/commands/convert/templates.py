"""How regsync names images, and repositories by regular expressions.

Templates in regsync's files: Go's ``text/template`` with regclient's functions, of which the usual ones are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from replicator.reference import is_digest, is_registry, is_repository_name, is_tag
from replicator.rules.patterns import shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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


_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_CALL = re.compile(r"""(env|file)\s+(?:"([^"\\]*)"|`([^`]*)`)\Z""")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
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
        if not _VARIABLE_NAME.match(name):
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
