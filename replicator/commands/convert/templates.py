"""Names and templates in regsync's files.

Names of images default to Docker Hub, repositories may be selected by regular expressions, and strings may be Go
templates (``text/template``) with regclient's functions, of which the common ones are supported.
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
"""The registry of a name without one."""
_HUB_NAMES = ("index.docker.io", "registry-1.docker.io")
_NAME = re.compile(r"(?P<name>[^:@]+(?::[0-9]+/[^:@]+)?)(?::(?P<tag>[^@]+))?(?:@(?P<digest>.+))?\Z")
_PARTS = re.compile(r"(?P<any>\.[*+])|(?P<segment>\[\^/\][*+])|(?P<itself>[a-z0-9_/-]|\\[._/-])|(?P<else>.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Name:
    """An image as regsync names it.

    Attributes:
        repository: ``registry/repository``, with the default registry filled in.
        tag: the part after the colon, if there is one.
        digest: the part after the @, if there is one.
    """

    repository: str
    tag: str | None
    digest: str | None


def name_of(text: str) -> Name:
    """Read ``[registry/]repository[:tag][@digest]``.

    Raises:
        ValueError: it is not an image; the message says why.
    """
    if "://" in text:
        raise ValueError(f"has no equivalent: {shorten(text)} is not in a registry")
    match = _NAME.match(text)
    if match is None:
        raise ValueError(f"{shorten(text)} is not an image")
    registry, slash, path = match["name"].partition("/")
    if not slash or not is_registry(registry):
        registry, path = HUB, match["name"]
    registry = registry_of(registry)
    if registry == HUB and "/" not in path:
        path = f"library/{path}"
    if not is_repository_name(path):
        raise ValueError(f"{shorten(path)} is not a repository name")
    if match["tag"] and not is_tag(match["tag"]):
        raise ValueError(f"{shorten(match['tag'])} is not a tag")
    if match["digest"] and not is_digest(match["digest"]):
        raise ValueError(f"{shorten(match['digest'])} is not a digest")
    return Name(f"{registry}/{path}", match["tag"], match["digest"])


def registry_of(text: str) -> str:
    """Return the host of a registry by its name in images; Docker Hub has three names."""
    return HUB if text.lower() in _HUB_NAMES else text.lower()


def repositories(expression: str) -> str:
    """Return the glob that matches the same repositories as an anchored regular expression.

    Raises:
        ValueError: there is no such glob.
    """
    glob, end = "", len(expression)
    for part in _PARTS.finditer(expression):
        if part["else"]:
            raise ValueError("has no equivalent: use the wildcards *, ** and ? for repositories")
        if part["itself"]:
            glob += part["itself"].removeprefix("\\")
            continue
        # No segment of a name is empty, so a whole segment may be * for + as well.
        alone = (not glob or glob[-1] == "/") and (part.end() == end or expression[part.end()] == "/")
        if part[0].endswith("+") and not alone:
            raise ValueError("has no equivalent: the wildcard * also matches nothing")
        if glob.endswith("*"):
            raise ValueError("has no equivalent: use the wildcards *, ** and ? for repositories")
        glob += "**" if part["any"] else "*"
    if not glob:
        raise ValueError("matches no repository")
    return glob


_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_CALL = re.compile(r"""(env|file)\s+(?:"([^"\\]*)"|`([^`]*)`)\Z""")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_TRIMMED = re.compile(r"\{\{-|-\}\}")


def is_template(text: str) -> bool:
    """Tell whether ``text`` contains a template."""
    return "{{" in text


def file_of(text: str) -> str | None:
    """Return the path if all of ``text`` is ``{{file "path"}}``; else None."""
    match = _ACTION.fullmatch(text.strip())
    call = _CALL.match(match[1]) if match else None
    return (call[2] or call[3]) if call and call[1] == "file" else None


def with_variables(text: str) -> str:
    """Return ``text`` with ``${NAME}`` for each ``{{env "NAME"}}``.

    Raises:
        ValueError: there is another template, or a name that can't be a variable here.
    """

    def variable(name: str) -> str:
        if not _VARIABLE_NAME.match(name):
            raise ValueError(f"has no equivalent: {name!r} can't be the name of a variable here")
        return f"${{{name}}}"

    if "${" in text:
        raise ValueError("has no equivalent: ${ in the same string would be a variable here")
    return _replaced(text, variable, {})


def filled_in(text: str, environ: Mapping[str, str], values: Mapping[str, str]) -> str:
    """Return ``text`` with its templates replaced by their values.

    Args:
        text: a string of the file.
        environ: the values of ``{{env "NAME"}}``.
        values: the values of fields such as ``.Sync.Source``.

    Raises:
        ValueError: a variable is not set, or there is another template.
    """

    def variable(name: str) -> str:
        if not environ.get(name):
            raise ValueError(f"the environment variable {name} is not set; set it for the conversion")
        return environ[name]

    return _replaced(text, variable, values)


def _replaced(text: str, variable: Callable[[str], str], values: Mapping[str, str]) -> str:
    def action(match: re.Match[str]) -> str:
        call = _CALL.match(match[1])
        if call and call[1] == "env":
            return variable(call[2] or call[3] or "")
        if match[1] in values:
            return values[match[1]]
        raise ValueError(f"has no equivalent: the template {match[0]!r} is not supported")

    if _TRIMMED.search(text):
        raise ValueError("has no equivalent: templates with {{- or -}} are not supported")
    return _ACTION.sub(action, text)
