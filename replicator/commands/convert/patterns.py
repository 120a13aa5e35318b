"""Names, templates and filters for tags of other programs, as those of the rules.

Go's expressions (package ``regexp/syntax``) are those of RE2, which runs the rules' expressions, so they stay as they
are. Ranges become ranges of PEP 440. The programs' ranges and PEP 440 agree on plain versions, numbers separated by
dots with an optional ``v`` in front, so only these pass the filters made here, see `PLAIN`. skopeo's syntax is that of
github.com/Masterminds/semver, regsync has its own.

In regsync's files names of images default to Docker Hub, and repositories may be selected by regular expressions.

Harbor's patterns are those of doublestar (github.com/bmatcuk/doublestar, version 1): ``*`` stops at a slash, ``**`` is
any number of segments, ``{a,b}`` and ``[a-z]`` are choices.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from replicator.reference import HUB, full_host, is_digest, is_registry, is_repository_name, is_tag
from replicator.rules.patterns import ExpressionError, check_name_glob, compile_tag_pattern, is_glob, shorten

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_REPETITION = re.compile(r"(\\.)|\{(?=,[0-9]*\})", re.DOTALL)

_BRACKETS = re.compile(r"(\\.)|\[\^?\]?(?:\\.|\[:\^?[a-z]+:\]|[^\]\\])*\]", re.DOTALL)
# After a hyphen the bracket ends a range, and what looks like a class is plain characters.
_CLASS = re.compile(r"(\\.)|(?<!^)(?<!^\[)(?<!-)\[:([a-z]+):\]", re.DOTALL)
_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": r"\x00-\x7f",
    "digit": "0-9",
    "lower": "a-z",
    "punct": r"!-/:-@\[-`{-~",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}
"""The classes of Go with characters that a tag can have."""


def _written_out(match: re.Match[str]) -> str:
    return _CLASSES.get(match[2] or "", match[0])


def translated(pattern: str, *, anchored: bool) -> str:
    """Return a regular expression of Go as the rules write it: ``/…/``, found anywhere in a tag.

    Go's syntax (package ``regexp/syntax``) is that of RE2, which runs the rules' expressions.

    Args:
        pattern: the expression.
        anchored: whether ``^`` and ``$`` are put around it, as text: ``a|b`` becomes ``^a|b$``, which is found in
            every tag that begins with ``a`` or ends with ``b``.

    Raises:
        ValueError: it is no expression of Go, or has no equivalent; the message says why.
    """
    # The rules take a{,2} for a repetition, as Python does; for Go it is plain text. And a class such as [:alpha:]
    # counts in the rules only where it is the first in its brackets.
    body = _NO_REPETITION.sub(lambda match: match[0] if match[1] else r"\{", pattern)
    body = _BRACKETS.sub(lambda match: match[0] if match[1] else _CLASS.sub(_written_out, match[0]), body)
    found = f"/{f'^{body}$' if anchored else body or '^'}/"
    try:
        compiled = compile_tag_pattern(found)
    except ExpressionError as error:
        raise ValueError(error.reason) from None
    if compiled.reason is not None:
        raise ValueError(f"has no equivalent: {compiled.reason}")
    return found


PLAIN = "/^v?[0-9]+([.][0-9]+)*$/"
"""Matches the tags that are plain versions."""
PLAIN_OF_THREE = "/^v?[0-9]+([.][0-9]+){0,2}$/"
"""Matches plain versions of at most three numbers, as semantic versions have."""
NOT_PLAIN = "/[^0-9.v]|.v|^v?[.]|[.][.]|[.]$|^v$/"
"""Matches exactly the tags that `PLAIN` does not match."""

_VERSION = r"v?(?P<version>[0-9]+(?:\.[0-9]+)*)"
_REGSYNC = re.compile(rf"(?P<operator>>=|<=|>|<|=|\^|~|){_VERSION}\Z")
_SKOPEO = re.compile(
    r"\s*(?P<operator>=|!=|>=|=>|<=|=<|>|<|~>|~|\^|)\s*v?(?P<version>[0-9]+|[xX*])(?P<rest>(?:\.(?:[0-9]+|[xX*])){0,2})"
)
_HYPHEN = re.compile(r"\s*v?([0-9][0-9.xX*]*)\s+-\s+v?([0-9][0-9.xX*]*)\s*\Z")
_OF_ANY = ("", "=", ">=", "=>", "~", "~>")
"""Operators that, in front of ``*``, mean any version."""
_SEPARATOR = re.compile(r"\s*,\s*|\s+|\Z")


def of_regsync(text: str) -> str:
    """Convert a range of regsync for plain versions, e.g. ``^1.2 <1.9`` → ``>=1.2,<2,<1.9``.

    Raises:
        ValueError: it is no range, or has no equivalent.
    """
    parts = []
    for word in text.split():
        match = _REGSYNC.match(word)
        if match is None:
            raise ValueError("has no equivalent: it must compare plain versions, without a pre-release")
        version = match["version"]
        major, minor, patch = [*map(int, version.split(".")), 0, 0][:3]
        if match["operator"] == "^":
            above = f"{major + 1}" if major else f"0.{minor + 1}" if minor else f"0.0.{patch + 1}"
            parts += [f">={version}", f"<{above}"]
        elif match["operator"] == "~":
            parts += [f">={version}", f"<{major}.{minor + 1}"]
        else:
            parts.append(f"{'==' if match['operator'] in ('', '=') else match['operator']}{version}")
    if not parts:
        raise ValueError("is empty")
    return ",".join(parts)


def of_skopeo(text: str) -> tuple[str, ...]:
    """Convert a range of skopeo for plain versions to alternatives, e.g. ``~1.2 || 2.x`` → ``>=1.2,<1.3``, ``==2.*``.

    Raises:
        ValueError: it is no range, or has no equivalent.
    """
    return tuple(",".join(_all_of(part)) or ">=0" for part in text.split("||"))


@dataclass(frozen=True, slots=True)
class _Bound:
    """A version in a comparison, of which only the first numbers may be given."""

    given: tuple[int, ...]

    def __str__(self) -> str:
        return ".".join(map(str, self.given))

    @property
    def is_whole(self) -> bool:
        return len(self.given) == 3

    def next(self, index: int) -> str:
        """Return the version that ends with the number at ``index``, raised by one."""
        numbers = (*self.given, 0, 0)[: index + 1]
        return ".".join(map(str, (*numbers[:-1], numbers[-1] + 1)))


def _all_of(text: str) -> list[str]:
    hyphen = _HYPHEN.match(text)
    if hyphen:
        text = f">={hyphen[1]} <={hyphen[2]}"
    parts: list[str] = []
    at, text = 0, text.strip()
    if not text:
        raise ValueError("has no equivalent: a range is empty")
    while at < len(text):
        match = _SKOPEO.match(text, at)
        end = match and _SEPARATOR.match(text, match.end())
        if not match or not end:
            raise ValueError("has no equivalent: it must compare plain versions, without a pre-release")
        numbers: list[int] = []
        for number in (match["version"] + match["rest"]).split("."):
            if not number.isdecimal():
                break
            numbers.append(int(number))
        parts += _compared(match["operator"], _Bound(tuple(numbers)))
        at = end.end()
    return parts


def _compared(operator: str, bound: _Bound) -> list[str]:
    """Return one comparison in terms of PEP 440; numbers missing in the bound match any."""
    if not bound.given:
        if operator not in _OF_ANY:
            raise ValueError(f"has no equivalent: {operator}* matches no version, or depends on the first")
        return []
    last = len(bound.given) - 1
    if operator in ("", "="):
        return [f"=={bound}" if bound.is_whole else f"=={bound}.*"]
    if operator == "!=":
        return [f"!={bound}" if bound.is_whole else f"!={bound}.*"]
    if operator in (">=", "=>"):
        return [f">={bound}"]
    if operator in ("<=", "=<"):
        return [f"<={bound}" if bound.is_whole else f"<{bound.next(last)}"]
    if operator == ">":
        return [f">{bound}" if bound.is_whole else f">={bound.next(last)}"]
    if operator == "<":
        return [f"<{bound}"]
    if operator == "^":
        leading = next((index for index, number in enumerate(bound.given) if number), last)
        return [f">={bound}", f"<{bound.next(leading)}"]
    return [f">={bound}", f"<{bound.next(min(last, 1))}"]


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
    registry = full_host(registry)
    if registry == HUB and "/" not in path:
        path = f"library/{path}"
    if not is_repository_name(path):
        raise ValueError(f"{shorten(path)} is not a repository name")
    if match["tag"] and not is_tag(match["tag"]):
        raise ValueError(f"{shorten(match['tag'])} is not a tag")
    if match["digest"] and not is_digest(match["digest"]):
        raise ValueError(f"{shorten(match['digest'])} is not a digest")
    return Name(f"{registry}/{path}", match["tag"], match["digest"])


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


MAX_CHOICES = 100
"""Patterns that one pattern of Harbor becomes, at the most."""
_TOO_MANY = f"has no equivalent: it stands for more than {MAX_CHOICES} patterns"
_PLAIN_TAG = re.compile(r"[A-Za-z0-9._*?-]+\Z")


def _choices(text: str) -> list[str]:
    r"""Write out the braces of a pattern: ``{a,b}/*`` becomes ``a/*`` and ``b/*``.

    Raises:
        ValueError: it has classes or escapes, braces that do not match, or too many choices.
    """
    if re.search(r"[\[\]\\]", text):
        raise ValueError("has no equivalent: name the choices of [...] instead")
    found = [text]
    while any("{" in each for each in found):
        found = list(dict.fromkeys(_first_choices(found)))
        if len(found) > MAX_CHOICES:
            raise ValueError(_TOO_MANY)
    if any("}" in each for each in found):
        raise ValueError("has braces that do not match")
    return found


def _first_choices(patterns: list[str]) -> Iterator[str]:
    for pattern in patterns:
        match = re.search(r"\{([^{}]*)\}", pattern)
        if match is None:
            if "{" in pattern:
                raise ValueError("has braces that do not match")
            yield pattern
            continue
        for choice in match[1].split(","):
            yield f"{pattern[: match.start()]}{choice}{pattern[match.end() :]}"


def globs_of_harbor(text: str) -> list[str]:
    """Return the globs that together match the repositories of a pattern of Harbor; none if it matches none.

    Raises:
        ValueError: there are no such globs; the message says why.
    """
    found = list(dict.fromkeys(glob for each in _choices(text) for glob in _globs(each)))
    if len(found) > MAX_CHOICES:
        raise ValueError(_TOO_MANY)
    for glob in found:
        if is_glob(glob):
            check_name_glob(glob)
        elif not is_repository_name(glob):
            raise ValueError(f"matches no repository: {shorten(glob)} can't be one")
    return found


def _globs(pattern: str) -> list[str]:
    parts = [part if part == "**" else re.sub(r"\*{2,}", "*", part) for part in pattern.split("/")]
    parts = [part for index, part in enumerate(parts) if part != "**" or parts[index - 1 : index] != ["**"]]
    if parts == ["**"]:
        return ["**"]
    if len(parts) < 2 or not parts[0]:
        return []
    found = [""]
    for index, part in enumerate(parts):
        last, joined = index == len(parts) - 1, [f"{each}/{part}" if each else part for each in found]
        # Between two segments ** is also none, which a glob of the rules is not.
        found = joined + found if part == "**" and index > 0 and not last else joined
        if len(found) > MAX_CHOICES:
            raise ValueError(_TOO_MANY)
    return [each for each in dict.fromkeys(found) if "/" in each]


def tags_of_harbor(text: str) -> list[str]:
    """Return the patterns of which a tag must match one to match a pattern of Harbor.

    Raises:
        ValueError: there are none; the message says why.
    """
    if "/" in text:
        raise ValueError("matches no tag, as it has a slash")
    try:
        found = [re.sub(r"\*{2,}", "*", each) for each in _choices(text)]
    except ValueError:
        found = []
    if not found or not all(map(_PLAIN_TAG.match, found)):
        found = [f"/^{_expression(text)}$/"]
    for pattern in found:
        try:
            compiled = compile_tag_pattern(pattern)
        except ValueError as error:
            raise ValueError(f"has no equivalent: {error}") from None
        if compiled.reason is not None:
            raise ValueError(f"has no equivalent: {compiled.reason}")
    return found


_PART = re.compile(r"\\(?P<escaped>.)|(?P<stars>\*+)|\[(?P<not>\^?)(?P<class>[^\]\\/]+)\]|(?P<other>.)", re.DOTALL)


def _expression(text: str) -> str:
    """Return a pattern without slashes as a regular expression.

    Raises:
        ValueError: it has brackets or braces that do not match.
    """
    depth, body = 0, ""
    for part in _PART.finditer(text):
        other = part["other"] or ""
        if part["stars"]:
            body += ".*"
        elif part["class"]:
            characters = re.sub(r"([\[&~|^])", r"\\\1", part["class"])
            body += f"[{part['not']}{characters}]"
        elif other == "?":
            body += "."
        elif other == "{":
            depth += 1
            body += "(?:"
        elif other in ("[", "]", "}") and not (other == "}" and depth):
            raise ValueError("has no equivalent: its brackets do not match, or have escapes in them")
        elif other == "}":
            depth -= 1
            body += ")"
        elif other == "," and depth:
            body += "|"
        else:
            body += re.escape(part["escaped"] or other)
    if depth:
        raise ValueError("has braces that do not match")
    return body
