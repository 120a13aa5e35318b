"""Globs, compared with a slow and simple matcher, and invalid patterns."""

from __future__ import annotations

import contextlib
from functools import cache

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from replicator.rules.patterns import TagPattern, check_name_glob, compile_glob, compile_tag_pattern, literal_prefix


def means(glob: str, text: str) -> bool:
    """Whether the glob matches the text, by trying every split."""

    @cache
    def rest(at: int, place: int) -> bool:
        if at == len(glob):
            return place == len(text)
        if glob[at] == "*":
            end = at
            while end < len(glob) and glob[end] == "*":
                end += 1
            crosses = end - at > 1
            if rest(end, place):
                return True
            return place < len(text) and (crosses or text[place] != "/") and rest(at, place + 1)
        if place == len(text):
            return False
        fits = text[place] != "/" if glob[at] == "?" else text[place] == glob[at]
        return fits and rest(at + 1, place + 1)

    return rest(0, 0)


@given(st.text(alphabet="ab/*?", max_size=12), st.text(alphabet="ab/", max_size=14))
@example("**a*b", "a/ab")
@example("*a*b/*b**a", "aab/bba")
@example("**a/*b", "a/a/ab")
@example("**a*/b**b", "aa/bb")
def test_a_glob_matches_by_its_definition(glob: str, text: str) -> None:
    assert (compile_glob(glob).match(text) is not None) == means(glob, text)


@given(st.text(alphabet="a*?/", max_size=40))
@example("*a" * 20 + "b")
@example("**a" * 15 + "b")
@example("**a*a" * 8 + "b")
def test_no_glob_takes_forever(glob: str) -> None:
    compile_glob(glob).match("a" * 128)
    compile_glob(glob).match("a/" * 127 + "a")


@given(st.text(alphabet="ab./-_", max_size=12))
def test_a_glob_without_wildcards_means_itself(text: str) -> None:
    assert compile_glob(text).match(text)
    assert not compile_glob(text).match(text + "x")
    assert not compile_glob(text).match(text + "\n")
    assert literal_prefix(text) == text


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("team/**", ["team/a", "team/a/b"], ["team", "teams/a", "a/team/b"]),
        ("team/*", ["team/a"], ["team/a/b", "team"]),
        ("*/app", ["team/app"], ["app", "team/x/app"]),
        ("**/app", ["team/app", "team/x/app"], ["app"]),
        ("team/**/app", ["team/x/app", "team/x/y/app"], ["team/app"]),
        ("team/app?", ["team/app1"], ["team/app", "team/app/", "team/app12"]),
        ("**", ["a", "a/b/c"], []),
    ],
)
def test_stars_stop_at_slashes_and_two_stars_do_not(glob: str, yes: list[str], no: list[str]) -> None:
    assert [name for name in [*yes, *no] if compile_glob(glob).match(name)] == yes


@pytest.mark.parametrize(
    "glob", ["Team/**", "team/[ab]*", "team/{a,b}*", "team//*", "/team/*", "team/*/", "", "te am/*"]
)
def test_a_glob_that_no_repository_can_match_is_refused(glob: str) -> None:
    with pytest.raises(ValueError, match="not a repository pattern"):
        check_name_glob(glob)


@pytest.mark.parametrize("pattern", ["", "a b", "v[0-9]", "a/b", "/a", "a,b", "{a,b}", "v1\n", "/"])
def test_an_invalid_tag_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="write a regular expression between slashes"):
        compile_tag_pattern(pattern)


@pytest.mark.parametrize("pattern", ["/(/", "/[/", "/a**/", "/(?P<a/", "/[b-a]/", "/a{99999999999}/", "/(?L)a/", "//"])
def test_an_invalid_expression_is_refused_with_the_reason(pattern: str) -> None:
    with pytest.raises(ValueError, match="regular expression"):
        compile_tag_pattern(pattern)


def test_an_expression_is_found_anywhere_unless_anchored() -> None:
    assert compile_tag_pattern("/9[.]/").search("v1.9.3")
    assert not compile_tag_pattern("/^9/").search("v1.9.3")
    assert not compile_tag_pattern("9*").search("v1.9.3")


@given(st.text(max_size=30))
def test_any_text_is_a_pattern_or_refused(text: str) -> None:
    for pattern in (text, f"/{text}/"):
        with contextlib.suppress(ValueError):
            assert isinstance(compile_tag_pattern(pattern), TagPattern)
