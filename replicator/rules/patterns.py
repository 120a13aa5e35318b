"""Globs and regular expressions for names and tags.

A glob: ``*`` is any run of characters without a slash, also none; ``**`` any run, slashes too; ``?`` one character
that is no slash; everything else is itself. Between slashes regular expressions are meant: ``/^v[0-9]+$/`` is found
anywhere in the tag unless it is anchored.
"""

from __future__ import annotations

import re
import warnings
from functools import lru_cache

from replicator.reference import is_tag
from replicator.rules.backtracking import explodes

_WILDCARD = re.compile(r"[*?]")
_NAME_GLOB = re.compile(r"[a-z0-9._*?-]+(?:/[a-z0-9._*?-]+)*\Z")
_TAG_GLOB = re.compile(r"[A-Za-z0-9._*?-]{1,256}\Z")
MAX_PATTERN_LENGTH = 1024
"""Characters in a pattern."""


def is_glob(text: str) -> bool:
    """Tell whether ``text`` has a wildcard."""
    return _WILDCARD.search(text) is not None


def is_expression(text: str) -> bool:
    """Tell whether ``text`` is a regular expression between slashes."""
    return len(text) >= 2 and text[0] == text[-1] == "/"


def literal_prefix(glob: str) -> str:
    """Return what stands before the first wildcard of ``glob``; all of it if there is none."""
    match = _WILDCARD.search(glob)
    return glob[: match.start()] if match else glob


def check_name_glob(text: str) -> None:
    """Check a glob for repositories.

    Raises:
        ValueError: no repository's name could match; the message says what is allowed.
    """
    if not _NAME_GLOB.match(text) or len(text) > MAX_PATTERN_LENGTH:
        raise ValueError(
            f"{shorten(text)} is no pattern of repositories: lower-case letters, digits, . _ - / and the wildcards "
            "* (stops at a slash), ** (does not), ? (one character)"
        )


def check_tag_pattern(text: str) -> None:
    """Check a tag, a glob for tags, or a regular expression for them.

    Raises:
        ValueError: it is none of these; the message says what is wrong.
    """
    compile_tag_pattern(text)


@lru_cache(maxsize=4096)
def compile_tag_pattern(text: str) -> re.Pattern[str]:
    """Return an expression that ``search`` finds in the tags ``text`` means.

    Raises:
        ValueError: ``text`` is neither a tag, a glob nor a regular expression.
    """
    if is_expression(text):
        return _compile_expression(text[1:-1])
    # What has no wildcard and is no tag either would never match, and must not get far enough to be taken for a tag.
    if not _TAG_GLOB.match(text) or not (is_glob(text) or is_tag(text)):
        raise ValueError(
            f"{shorten(text)} is no tag or pattern of tags: letters, digits, . _ - and the wildcards * and ?; "
            "a regular expression stands between slashes, e.g. /^v[0-9]+$/"
        )
    return compile_glob(text)


def _compile_expression(expression: str) -> re.Pattern[str]:
    if not expression:
        raise ValueError("// is an empty regular expression; leave it out to mean every tag")
    if len(expression) > MAX_PATTERN_LENGTH:
        raise ValueError(f"a regular expression has at most {MAX_PATTERN_LENGTH} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            compiled = re.compile(expression, re.ASCII)
            endless = explodes(expression)
    except (re.error, OverflowError, RecursionError, ValueError, Warning) as error:
        raise ValueError(f"{shorten(f'/{expression}/')} is no regular expression: {error}") from None
    if endless:
        # Whoever may push a tag could stop the whole process with one.
        raise ValueError(
            f"{shorten(f'/{expression}/')} could take for ever on a long tag: a repetition within a repetition. Write "
            "the inner one so that it gives nothing back, ++ for + or *+ for *"
        )
    return compiled


@lru_cache(maxsize=4096)
def compile_glob(glob: str) -> re.Pattern[str]:
    """Return an expression that matches exactly what ``glob`` means, in a time linear in the text for each wildcard.

    A wildcard followed by one at least as wide never needs to give back what it took: its nearest end leaves most
    to the next. So all but the last of a kind are atomic groups, and no pattern can make matching explode.
    """
    spans = [_literals(part) for part in re.split(r"\*{2,}", glob)]
    *head, last = spans
    expression = ""
    for index, span in enumerate(head):
        inner = span[0] + "".join(f"(?>[^/]*?{literal})" for literal in span[1:])
        expression += inner if index == 0 else f"(?>.*?{inner})"
    if head:
        expression += ".*"
    expression += last[0] + "".join(f"(?>[^/]*?{literal})" for literal in last[1:-1])
    if len(last) > 1:
        expression += f"[^/]*{last[-1]}"
    return re.compile(rf"\A{expression}\Z", re.DOTALL)


def _literals(part: str) -> list[str]:
    return ["".join("[^/]" if char == "?" else re.escape(char) for char in text) for text in part.split("*")]


def shorten(text: str) -> str:
    """Return ``text`` as a person wrote it, bounded for a message."""
    return repr(text if len(text) <= 120 else f"{text[:117]}...")
