"""Regular expressions: RE2 runs them in linear time, and what it lacks stays on ``re`` behind a guard."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.rules.patterns import _compile_backtracking, _compile_re2, compile_tag_pattern, explodes
from tests.rules.building import HARBOR, PLAIN, message_of, rules_of

ENDLESS = [
    "^(a+)+$",
    "^(a*)*$",
    "^(?:[a-z0-9]+[._-]?)+$",
    r"^(\w+-?)+$",
    r"^(-?\d+)*$",
    "^([a-z]+|[0-9]+)*$",
    "^v(1|(x+)+)$",
    "^((a+b?)c?)+$",
    "^(x+x+)+y",
    "^(a+?)+$",
    "^(a+){20,}$",
]
UNSEEN = [
    "^(a|a)+$",
    r"^(\d|\d\d)+$",
    "^(a?){40}a{40}$",
    r"^\d*\d*\d*\d*\d*x",
    r"^(v?\d+\.?)+$",
    r"^(?:\d+[._-]?)+$",
    r"^(\d+\.?)+-rc$",
    r"^(a|a)+\Z",
]
"""Expressions that the guard lets through or takes for endless, and that a backtracking matcher may never end."""
HARMLESS = [
    "^v[0-9]+$",
    r"^v\d+(\.\d+)*$",
    r"^\d+(?:\.\d+){2}(?:-[a-z0-9]+)*$",
    "^(?:[a-z0-9]++[._-]?)+$",
    "^(?>a+)+$",
    "^(a|b)*$",
    "^(a+){2}$",
    "^[a-z]+[0-9]*-?.*$",
    "release|main",
    r"^(sha256|sha512)-[0-9a-f]{64}(\.sig)?$",
    "",
]
LONG_TAGS = ["a" * 127 + "-", "1" * 127 + "-", "x" * 128, "v1." * 42 + "-", "a0" * 64]
TAGS = ["a", "v1", "1.2.3", "v1.2.3-rc.1", "latest", "A_b", "a-b.c", "SKsk", "00", "x" * 30]


@pytest.mark.parametrize("expression", [*ENDLESS, *UNSEEN])
def test_an_expression_takes_linear_time_on_the_longest_tag(expression: str) -> None:
    pattern = compile_tag_pattern(f"/{expression}/")
    assert pattern.warning is None
    begin = time.process_time()
    for tag in LONG_TAGS:
        pattern.search(tag)
    assert time.process_time() - begin < 1


@pytest.mark.parametrize("expression", ENDLESS)
def test_the_guard_finds_a_repetition_of_a_repetition(expression: str) -> None:
    assert explodes(expression)


@pytest.mark.parametrize("expression", [*(f"(?!dev){endless}" for endless in ENDLESS), "(?=(a+)+$)a", r"(a+)+\1"])
def test_an_endless_expression_that_re2_lacks_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="could take exponential time"):
        compile_tag_pattern(f"/{expression}/")


@pytest.mark.parametrize("expression", HARMLESS)
def test_the_guard_lets_a_harmless_expression_through(expression: str) -> None:
    assert not explodes(expression)


@pytest.mark.parametrize(
    ("expression", "matching", "other", "advice"),
    [
        ("^(?!dev)", "v1", "dev-1", "RE2 has no (?!; list what must match under include, and what must not under"),
        ("(?<!a)b", "cb", "ab", "RE2 has no (?<!; list what must match"),
        ("^(?=v)", "v1", "1", "RE2 has no (?=; write it without"),
        ("^a++b", "aab", "ac", "RE2 has no ++; a plain + is enough"),
        ("^(?>a)b", "ab", "ac", "RE2 has no (?>; a plain group is enough"),
        (r"^(a|b)\1$", "aa", "ab", r"RE2 has no \1; write it without"),
        ("^a{,2}$", "aa", "aaa", "RE2 has no {,2}; write {0,"),
        ("^a{2,1001}$", "aa", "a", "because RE2 repeats a part at most 1000 times"),
        ("^a{1,12345}$", "aa", "b", "because RE2 repeats a part at most 1000 times"),
        ("^(?:a{0,400}){3}$", "aa", "b", "because RE2 repeats a part at most 1000 times"),
        (
            "^(?P<x>a|b)(?P=x)$",
            "aa",
            "ab",
            "because RE2 has no backreference such as (?P=name); write the alternatives",
        ),
        ("^[.[:alpha:]]$", "a]", "a", "because a class such as [:alpha:] counts only where it is the first in its"),
        ("^[^[:digit:]]$", "a]", "a", "because a class such as [:alpha:] counts only where it is the first in its"),
        ("(?x)^a $", "a", "b", "RE2 has no (?x; write it without"),
        ("(?i)^\u017f|v", "V", "s", "RE2 has no \u017f; write it without"),
        ("^((((((((((a))))))))))\\10$", "aa", "a\b", "RE2 has no \\1; write it without"),
    ],
)
def test_a_construct_that_re2_lacks_or_reads_differently_keeps_its_meaning_with_a_warning(
    expression: str, matching: str, other: str, advice: str
) -> None:
    pattern = compile_tag_pattern(f"/{expression}/")
    assert pattern.search(matching)
    assert not pattern.search(other)
    assert advice in str(pattern.warning)


def test_an_expression_that_is_too_large_for_re2_is_warned_of() -> None:
    warning = compile_tag_pattern(f"/{'(?:[a-c]{10}[d-f]{10}){50}' * 39}/").warning
    assert warning is not None
    assert "because RE2 would take more than 256 KiB for it; shorten it" in warning


@pytest.mark.parametrize(
    ("expression", "matching", "other"),
    [
        ("^[[:alpha:]]$", "a", "1"),
        ("^[[:alpha:]_.-]$", "_", "1"),
        ("^[[:digit:]a[:upper:]]$", "B", "b"),
        ("^[:alpha:]$", "p", "b"),
        (r"^\[[:alpha:]]?", "[a", "a"),
        (r"^x|\[.[:a]", "x", "a"),
    ],
)
def test_re2_runs_a_class_where_nothing_else_can_be_meant(expression: str, matching: str, other: str) -> None:
    pattern = compile_tag_pattern(f"/{expression}/")
    assert pattern.warning is None
    assert pattern.search(matching)
    assert not pattern.search(other)


@pytest.mark.parametrize("depth", [100, 260, 500])
def test_groups_within_groups_are_judged_or_refused(depth: int) -> None:
    expression = f"(?=a){'(' * depth}a{')' * depth}"
    # How deep Python's re can go depends on its version.
    try:
        assert compile_tag_pattern(f"/{expression}/").search("a")
    except ValueError as error:
        assert depth > 100
        assert "too many groups within groups" in str(error)  # noqa: PT017 - either may happen


def test_the_rules_refuse_groups_within_groups_with_their_place() -> None:
    expression = f"/(?=a){'(' * 500}a{')' * 500}/"
    refused = message_of({f"{HARBOR}/a/b": {"to": f"{PLAIN}/a/b", "tags": {"include": expression}}})
    assert "too many groups within groups" in refused


def test_re2_says_nothing_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    for expression in ("(?!a)", "((((", "(a{0,100}){0,10}b"):
        with contextlib.suppress(ValueError):
            compile_tag_pattern(f"/{expression}/").search("a" * 128)
    assert capfd.readouterr() == ("", "")


def test_rules_warn_where_the_slow_expression_is_written() -> None:
    rules = rules_of(
        {
            f"{HARBOR}/a/b:/^(?!dev)/": {"to": f"{PLAIN}/a/b", "tags": {"include": ["v*", "/a++/"]}},
            f"{HARBOR}/a/c": {"to": f"{PLAIN}/a/c", "tags": {"exclude": "/(?=a)/"}},
        }
    )
    assert [problem.path for problem in rules.warnings if "RE2" in problem.message] == [
        f'images["{HARBOR}/a/b:/^(?!dev)/"].tags.include[1]',
        f'images["{HARBOR}/a/b:/^(?!dev)/"]',
        f'images["{HARBOR}/a/c"].tags.exclude',
    ]
    refused = message_of({f"{HARBOR}/a/b": {"to": f"{PLAIN}/a/b", "tags": {"include": "/(?!x)(a+)+$/"}}})
    assert "RE2, which is never slow, can't run it: RE2 has no (?!; list what must match under include" in refused


@given(st.text(alphabet="ab()[]{}|*+?^$\\d0123,:=!<>.-", max_size=30))
def test_any_expression_is_judged_or_no_expression(expression: str) -> None:
    with contextlib.suppress(ValueError):
        compile_tag_pattern(f"/{expression}/")


ATOMS = st.sampled_from(
    [
        *("a", "v", "1", ".", r"\.", r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", "-", "_", r"\_", "é", "\u017f", r"\-"),
        *("[a-c]", "[^a]", "[]a]", r"[\d.-]", r"[^\W_]", "[a-]", "[--a]", r"\x61", r"\012", r"\141", "{", "}", "]"),
        *(
            "^",
            "$",
            r"\A",
            r"\Z",
            r"\b",
            r"\B",
            "()",
            "(?:)",
            "a|",
            "|a",
            r"[\b]",
            r"\\",
            "[s-k]",
            "[K-k]",
            "[[:alpha:]]",
            "[.[:alpha:]]",
            "[^[:alpha:]]",
            "[]_[:digit:]",
            "[:alpha:]",
        ),
        *("(?i)", "(?s)", "(?m)", "(?x)", "(?a)", "(?im)", "(?#x)", "(?=a)", "(?!a)", r"\1", r"\10"),
    ]
)
SIGNS = st.sampled_from(
    ["*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}", "{0,}", "{,2}", "{,}", "++", "{2}?", "{2", "{0}"]
)
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=4).map("".join),
        st.builds(lambda one, other: f"{one}|{other}", inner, inner),
        st.builds(
            lambda opening, one: f"{opening}{one})", st.sampled_from(["(", "(?:", "(?i:", "(?P<n>", "(?-i:"]), inner
        ),
        st.builds(lambda one, sign: f"(?:{one}){sign}", inner, SIGNS),
        st.builds(lambda one, sign: f"{one}{sign}", inner, SIGNS),
    ),
    max_leaves=6,
)


@given(EXPRESSIONS, st.lists(st.text("aAvsSkK1.-_", min_size=1, max_size=5), min_size=1, max_size=8))
def test_an_expression_that_both_engines_take_matches_the_same_tags(expression: str, tags: list[str]) -> None:
    try:
        backtracking = _compile_backtracking(expression)
        pattern = compile_tag_pattern(f"/{expression}/")
    except ValueError:
        return
    for tag in [*TAGS, *tags]:
        assert bool(pattern.search(tag)) is bool(backtracking.search(tag)), tag


def test_re2_runs_what_it_has() -> None:
    for expression in ("(?i)^v", "a|b$", r"\d+\Z", r"a\{,2}", r"\\1", "[[:digit:]]", r"^a{1000}$"):
        assert _compile_re2(expression)[0] is not None
