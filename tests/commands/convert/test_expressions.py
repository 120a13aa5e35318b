"""Regular expressions of Go keep their meaning in rules, compared with an independent matcher."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.commands.convert.patterns import repositories, translated
from replicator.rules.patterns import compile_glob, compile_tag_pattern

TAGS = ["".join(tag) for length in (1, 2, 3) for tag in product("aB1{", repeat=length)]


@dataclass(frozen=True)
class One:
    """One character of a set, written in Go's way."""

    text: str
    characters: str


@dataclass(frozen=True)
class Either:
    """An alternative."""

    first: Part
    second: Part


@dataclass(frozen=True)
class Both:
    """A sequence."""

    first: Part
    second: Part


@dataclass(frozen=True)
class Repeated:
    """A repetition between ``least`` and ``most`` times."""

    part: Part
    sign: str
    least: int
    most: int


Part: TypeAlias = One | Either | Both | Repeated

ONES = st.sampled_from(
    [
        *(One("a", "a"), One("B", "B"), One(".", "aB1{"), One(r"\d", "1"), One(r"\w", "aB1"), One("[aB]", "aB")),
        *(One("[^a]", "B1{"), One("[[:digit:]]", "1"), One("[[:alpha:]{]", "aB{"), One("[a&&1]", "a1")),
        *(One("[[a]", "a"), One("[]a]", "a"), One(r"\x61", "a"), One(r"[\W]", "{"), One("[[:lower:]-]", "a")),
    ]
)
BRACES = Both(One("{", "{"), Both(One(",", ""), One("1}", "")))
SIGNS = st.sampled_from([("*", 0, 9), ("+", 1, 9), ("?", 0, 1), ("{2}", 2, 2), ("{1,}", 1, 9), ("*?", 0, 9)])
PARTS: st.SearchStrategy[Part] = st.recursive(
    ONES | st.just(BRACES),
    lambda parts: st.one_of(
        st.builds(Either, parts, parts),
        st.builds(Both, parts, parts),
        st.builds(lambda part, sign: Repeated(part, *sign), parts, SIGNS),
    ),
    max_leaves=5,
)


def written(part: Part) -> str:
    match part:
        case One(text, _):
            return text
        case Either(first, second):
            return f"(?:{written(first)}|{written(second)})"
        case Both(first, second):
            return written(first) + written(second)
        case Repeated(inner, sign, _, _):
            return f"(?:{written(inner)}){sign}"


def ends(part: Part, text: str, start: int) -> set[int]:
    """Possible ends of a match that begins at ``start``."""
    match part:
        case One(_, characters):
            return {start + 1} if start < len(text) and text[start] in characters else set()
        case Either(first, second):
            return ends(first, text, start) | ends(second, text, start)
        case Both(first, second):
            return {end for middle in ends(first, text, start) for end in ends(second, text, middle)}
        case Repeated(inner, _, least, most):
            reached, found = {start}, {start} if least == 0 else set()
            for count in range(1, most + 1):
                reached = {end for begin in reached for end in ends(inner, text, begin)}
                found |= reached if count >= least else set()
            return found


def passes(pattern: str, tag: str, *, anchored: bool) -> bool:
    return compile_tag_pattern(translated(pattern, anchored=anchored)).search(tag) is not None


@given(PARTS)
def test_an_expression_is_found_in_the_same_tags(part: Part) -> None:
    for tag in TAGS:
        whole = len(tag) in ends(part, tag, 0)
        found = any(ends(part, tag, start) for start in range(len(tag) + 1))
        assert passes(written(part), tag, anchored=True) is whole, tag
        assert passes(written(part), tag, anchored=False) is found, tag


@given(PARTS, PARTS)
def test_anchors_hold_the_first_and_the_last_of_alternatives_alone(first: Part, last: Part) -> None:
    pattern = f"{written(first)}|{written(last)}"
    for tag in TAGS:
        begins = bool(ends(first, tag, 0))
        closes = any(len(tag) in ends(last, tag, start) for start in range(len(tag) + 1))
        assert passes(pattern, tag, anchored=True) is (begins or closes), tag


@pytest.mark.parametrize(
    ("pattern", "tag", "is_found"),
    [
        ("*", "anything", True),
        ("*-dev", "x-dev", True),
        ("*-dev", "x-dev-1", False),
        ("+a", "a", True),
        ("+a", "ba", False),
        ("?a", "ba", True),
        ("(?i)V1", "v1", True),
        ("(?i)V1|x", "V1-alpine", True),
        ("(?U)a+", "aa", True),
        (r"v1\z", "v1", True),
        (r"v\_1", "v_1", True),
        ("", "a", False),
        ("(a+)+", "aaa", True),
        ("(v|[0-9]*)+", "v1v", True),
        (r"\pL+", "aB", True),
        (r"\pL+", "a1", False),
        (r"\p{Greek}", "a", False),
        ("a(?i)b", "aB", True),
        ("a(?i)b", "Ab", False),
        (r"\Qa.b\E", "a.b", True),
        (r"\Qa.b\E", "a-b", False),
        ("[[:^digit:]]", "a", True),
        ("[[:^digit:]]", "1", False),
        ("[_[:alpha:]]", "a", True),
        ("[_[:alpha:]]", "1", False),
        ("[^[:alpha:]]", "a", False),
        ("[^[:alpha:]]", "1", True),
        (r"[.\]_[:punct:]]", "-", True),
        (r"\[?[:alph]", "p", True),
        ("[+--]", "-", True),
        ("[+--]", ".", False),
        (r"a\{,1}", "a", False),
    ],
)
def test_peculiar_expressions_of_go_keep_their_meaning(pattern: str, tag: str, is_found: bool) -> None:
    assert passes(pattern, tag, anchored=True) is is_found


def test_nothing_is_found_in_every_tag() -> None:
    assert passes("", "a", anchored=False)


@pytest.mark.parametrize(
    "pattern",
    [
        "(?=a)",
        "(a)\\1",
        "[a",
        "(",
        "a**",
        "a*+",
        r"\1",
        r"(a)\12",
        "é",
    ],
)
def test_an_expression_with_another_meaning_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"has no equivalent|is not a regular expression"):
        translated(pattern, anchored=True)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(bad", "is not a regular expression: missing ), unterminated subpattern at position 1"),
        ("(?=x)", "has no equivalent: RE2 has no (?=; write it without"),
        ("(?!x)", "has no equivalent: RE2 has no (?!; list what must match under include"),
        ("(?!x)(a+)+", "could take exponential time on a long tag, because it repeats a repetition. RE2"),
        ("a" * 1100, "is too long: a regular expression has at most 1024 characters"),
    ],
)
def test_a_refusal_gives_one_reason_whose_subject_is_the_expression(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
        translated(pattern, anchored=True)
    assert "/^" not in str(caught.value)


NAMES = ["nginx", "team/app", "team/app/api", "team-b/app", "lib.x/y"]
PIECES = ["team", "app", "/", r"\/", "-", r"\-", ".*", ".+", "[^/]+", "[^/]*", "b", "nginx", r"lib\.x"]


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join))
def test_a_glob_for_repositories_matches_what_the_expression_does(expression: str) -> None:
    try:
        glob = repositories(expression)
    except ValueError:
        return
    names = [
        *NAMES,
        *(name for parts in product(["team", "app", "b"], repeat=2) for name in ("/".join(parts), "-".join(parts))),
    ]
    for name in names:
        assert (compile_glob(glob).match(name) is not None) is (re.fullmatch(expression, name) is not None), name


@pytest.mark.parametrize(
    "expression", ["team/(a|b)", "[a-z]+", "v?", "team.+x", "te.m", "", "Team", "a{2}", "x.*[^/]*"]
)
def test_an_expression_for_repositories_without_a_glob_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"no equivalent|no repository"):
        repositories(expression)
