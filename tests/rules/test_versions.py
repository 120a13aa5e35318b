"""Ranges of versions: PEP 440's as they have always been, all others node-semver's."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from replicator.rules import TagFilter
from replicator.rules.tags import semantic_version_of, version_range


def passes_pep_440(text: str, tag: str) -> bool:
    """Whether a tag passed when PEP 440 was the only kind of range."""
    try:
        version = Version(tag)
    except InvalidVersion:
        return False
    specifiers = SpecifierSet(text)
    return bool(specifiers.contains(version, prereleases=bool(specifiers.prereleases)))


NUMBERS = st.lists(st.integers(0, 12).map(str), min_size=1, max_size=4).map(".".join)
SUFFIXES = st.sampled_from(["", "", "", "rc1", "-rc.1", ".dev2", "b1", "-1", ".post3", "a1", "-alpine", "_5", "-0"])
VERSIONS = st.builds(
    lambda mark, numbers, suffix: mark + numbers + suffix, st.sampled_from(["", "v"]), NUMBERS, SUFFIXES
)
COMPARISONS = st.builds(
    lambda operator, space, version, rest: f"{operator}{space}{version}{rest}",
    st.sampled_from(["==", "!=", ">=", "<=", ">", "<", "~=", "===", "^", "~", "=", ""]),
    st.sampled_from(["", "", " "]),
    VERSIONS,
    st.sampled_from(["", "", ".*", ".x"]),
)
RANGES = st.one_of(
    st.builds(
        lambda parts, comma: comma.join(parts), st.lists(COMPARISONS, max_size=3), st.sampled_from([",", ", ", " "])
    ),
    st.text(alphabet="0123. <>=~!*,^|-xv", max_size=12),
)
TAGS = VERSIONS | st.sampled_from(["latest", "1.27-alpine", "20260101", "build-9", "1.4.0-rc.1", "01.4"])


@given(RANGES, st.lists(TAGS, max_size=20))
def test_a_range_of_pep_440_keeps_its_meaning_tag_for_tag(text: str, tags: list[str]) -> None:
    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        return
    for tag in tags:
        assert (version_range(text).refusal(tag) is None) is passes_pep_440(text, tag), tag


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("^1.4", "1.4 v1.4.0 1.9.9 1.27 1.4.0_5 V1.5", "1.3.9 2 2.0.0-rc.1 1.4.0-rc.1 1.27-alpine 1.4.0.1 01.4 latest"),
        ("^0.2", "0.2 0.2.9", "0.3 0.1 1"),
        ("^0.0.3", "0.0.3", "0.0.4 0.1"),
        ("~1.4", "1.4 1.4.9", "1.5 1.3 1.4.1-rc.1"),
        ("~1", "1 1.9", "2 0.9"),
        ("1.4", "1.4 1.4.9", "1.5"),
        ("=1.4.2", "1.4.2 v1.4.2", "1.4.3 1.4"),
        ("1.x", "1 1.9.9", "2"),
        ("1.4 - 1.9", "1.4 1.9.9", "1.10 1.3"),
        (">=1.4 <2", "1.4 1.27", "2 1.3 1.4.1-rc.1"),
        ("^1.4 || ~3.1", "1.4 3.1.9", "2 3.2"),
        ("*", "1 20260101", "latest 1.0-rc.1 1.27-alpine"),
        ("^1.4.0-rc.1", "1.4.0-rc.1 1.4.0-rc.2 1.4.0 1.5", "1.4.0-beta 1.5.0-rc.1 2"),
        (">=1.27.0-alpine <1.27.1", "1.27-alpine 1.27.0", "1.26-alpine 1.27.1"),
    ],
)
def test_every_other_range_is_one_of_node_semver(text: str, inside: str, outside: str) -> None:
    tags = TagFilter(semver=text)
    assert [tag for tag in f"{inside} {outside}".split() if tags.matches(tag)] == inside.split()


@pytest.mark.parametrize(
    ("tag", "version"),
    [
        ("v1.27", "1.27.0"),
        ("7", "7.0.0"),
        ("1.27-alpine", "1.27.0-alpine"),
        ("1.4.0-rc1_5", "1.4.0-rc1+5"),
        ("1.4_2026-01", "1.4.0+2026-01"),
        ("20260101", "20260101.0.0"),
        *[
            (tag, None)
            for tag in ("latest", "1.2.3.4", "01.4", "1.2.3-01", "1.2.3-", "1.2.3-a..b", "v", "1.2.3_", "1.4rc1", "")
        ],
    ],
)
def test_a_tag_is_a_semantic_version_with_missing_numbers_zero(tag: str, version: str | None) -> None:
    found = semantic_version_of(tag)
    assert (found and found.raw) == version


@pytest.mark.parametrize(
    ("text", "tag", "why"),
    [
        ("^1.4", "latest", "tag latest is not a semantic version, and semver ^1.4 needs one"),
        ("^1.4", "1.5.0-rc.1", "tag 1.5.0-rc.1 is a pre-release, and semver ^1.4 names none of 1.5.0"),
        ("^1.4", "1.27-alpine", "tag 1.27-alpine is a pre-release, and semver ^1.4 names none of 1.27.0"),
        ("^1.4", "v2", "version v2 is not ^1.4"),
    ],
)
def test_the_reason_of_a_refusal_is_given_in_words(text: str, tag: str, why: str) -> None:
    assert TagFilter(semver=text).refusal(tag) == why


def test_the_latest_of_a_semantic_range_are_ordered_as_semantic_versions() -> None:
    tags = ["1.4.0-alpine", "1.4.0-rc.10", "1.4.0-rc.9", "v1.4", "1.4.0", "1.4.1", "1.4.0-1", "1.3", "latest"]
    semver = TagFilter(semver=">=1.4.0-0 <2")
    assert semver.select(tags) == ["1.4.1", "v1.4", "1.4.0", "1.4.0-rc.10", "1.4.0-rc.9", "1.4.0-alpine", "1.4.0-1"]
    assert TagFilter(semver=">=1.4.0-0 <2", latest=4).select(tags) == ["1.4.1", "v1.4", "1.4.0", "1.4.0-rc.10"]


@pytest.mark.parametrize("text", ["stable", "1.4-alpine", "^", "**", "*=*", "^1.4 &", "1.2.3.4", "^1 " * 100, "^01"])
def test_a_text_that_is_no_range_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a version range: write e\.g\. \^1\.4"):
        version_range(text)


def test_commas_belong_to_pep_440_alone() -> None:
    with pytest.raises(ValueError, match=r"'\^1\.4, <1\.9' is not a version range.* so write \^1\.4 <1\.9$"):
        version_range("^1.4, <1.9")


@given(RANGES | st.text(max_size=30), TAGS | st.text(max_size=10))
def test_any_text_is_a_range_or_refused(text: str, tag: str) -> None:
    try:
        found = version_range(text)
    except ValueError:
        return
    found.refusal(tag)
    found.newest_first([tag, "1", "latest", "1.4-rc"])


def test_a_long_range_takes_no_long_time() -> None:
    begin = time.process_time()
    for text in (
        "1" * 256,
        "^1 ||" * 51,
        " " * 255 + "x",
        "1." * 127,
        ">" * 255,
        "1 -" * 85,
        "v=" * 128,
        "1.1.1-" + "1." * 120,
    ):
        try:
            version_range(text).refusal("1.2.3")
        except ValueError:
            continue
    assert time.process_time() - begin < 1
