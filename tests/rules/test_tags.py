"""Filters for tags, and the latest tags."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.rules import TagFilter
from replicator.rules.tags import newest_first, version_of

if TYPE_CHECKING:
    import random

TAGS = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,12}", fullmatch=True) | st.from_regex(
    r"v?[0-9]{1,2}(\.[0-9]{1,2}){0,2}(-(rc|dev|alpine)\.?[0-9]?)?", fullmatch=True
)
PATTERNS = st.sampled_from(["v*", "*-dev", "1.?", "/^release-/", "/[0-9]$/", "latest", "*"])
FILTERS = st.builds(
    TagFilter,
    named=st.lists(PATTERNS, max_size=2).map(tuple),
    include=st.lists(PATTERNS, max_size=2).map(tuple),
    exclude=st.lists(PATTERNS, max_size=1).map(tuple),
    semver=st.none()
    | st.sampled_from([">=1.4", ">=1,<2", "~=1.4", "==1.*", ">=1.4rc1", "!=2", "^1.4", "1.x || ~3.1", ">=1.2.0-0 <2"]),
    latest=st.none() | st.integers(1, 5),
)
NESTED = st.builds(
    lambda one, others: TagFilter(latest=2, include=one.include, others=others),
    FILTERS,
    st.lists(FILTERS, max_size=2).map(tuple),
)


def test_an_empty_filter_lets_everything_pass() -> None:
    assert TagFilter().is_everything
    assert TagFilter().select(["a", "1"]) == ["1", "a"]


@pytest.mark.parametrize(
    ("tag", "why"),
    [
        ("v1.5", None),
        ("v1.5-dev", "tag v1.5-dev is excluded by *-dev"),
        ("v1.3", "version v1.3 is not >=1.4"),
        ("v1.6.0-rc.1", "tag v1.6.0-rc.1 is a pre-release, and semver >=1.4 names none"),
        ("vanilla", "tag vanilla is not a version, and semver >=1.4 needs one"),
        ("1.5", "tag 1.5 is not included by v*, /^release-/"),
    ],
)
def test_a_tag_must_pass_every_filter_and_the_first_refusal_is_the_reason(tag: str, why: str | None) -> None:
    tags = TagFilter(include=("v*", "/^release-/"), exclude=("*-dev",), semver=">=1.4", latest=20)
    assert tags.refusal(tag) == why
    assert tags.matches(tag) == (why is None)


@pytest.mark.parametrize(
    "tag", ["1.10", "v1.2.3", "V2", "7", "20260101", "1.2.0-rc.1", "1.2.3-1", "1.0_beta2", "1.2.dev3"]
)
def test_what_pep_440_reads_is_a_version(tag: str) -> None:
    assert version_of(tag) is not None


@pytest.mark.parametrize(
    "tag", ["latest", "1.27-alpine", "v", "1.2.x", "build-9", "1.2.3-SNAPSHOT", "sha256-aa.sig", ""]
)
def test_everything_else_is_none(tag: str) -> None:
    assert version_of(tag) is None


def test_prereleases_pass_when_the_range_names_one() -> None:
    assert TagFilter(semver=">=1.4rc1").matches("v1.5.0-rc.2")
    assert TagFilter(semver=">=1.4.dev0").matches("1.5.dev1")
    assert not TagFilter(semver=">=1.4").matches("1.5.dev1")


def test_the_latest_are_the_highest_versions_and_only_then_other_tags() -> None:
    tags = ["latest", "1.9", "v1.10", "1.2", "build-9", "build-10", "1.10-rc.1", "stable"]
    assert newest_first(tags) == ["v1.10", "1.10-rc.1", "1.9", "1.2", "stable", "latest", "build-10", "build-9"]
    assert TagFilter(latest=2).select(tags) == ["v1.10", "1.10-rc.1"]
    assert TagFilter(latest=2, include=("build-*",)).select([*tags, "build-100"]) == ["build-100", "build-10"]


def test_latest_counts_only_what_passes_the_rest() -> None:
    tags = [f"1.{minor}" for minor in range(30)] + [f"1.{minor}-dev" for minor in range(30)]
    assert TagFilter(exclude=("*-dev",), semver="<1.20", latest=3).select(tags) == ["1.19", "1.18", "1.17"]


def test_each_of_several_filters_counts_its_own_latest() -> None:
    either = TagFilter(include=("1.*",), latest=1, others=(TagFilter(include=("2.*",), latest=2),))
    assert either.select(["1.1", "1.2", "2.1", "2.2", "2.3", "3.0"]) == ["2.3", "2.2", "1.2"]
    assert either.matches("2.1")
    assert either.matches("1.1")
    assert not either.matches("3.0")


@given(FILTERS | NESTED, st.lists(TAGS), st.randoms(use_true_random=False))
def test_the_choice_depends_on_the_set_of_tags_only(tags: TagFilter, names: list[str], shuffle: random.Random) -> None:
    chosen = tags.select(names)
    others = [*names, *names[:3]]
    shuffle.shuffle(others)
    assert tags.select(others) == chosen
    assert set(chosen) <= {name for name in names if tags.matches(name)}
    assert len(chosen) == len(set(chosen))


@given(FILTERS, st.lists(TAGS))
def test_latest_takes_the_first_of_what_passes_without_it(tags: TagFilter, names: list[str]) -> None:
    alike = TagFilter(tags.named, tags.include, tags.exclude, tags.semver)
    assert tags.select(names) == alike.select(names)[: tags.latest]
    assert alike.select(names) == newest_first(name for name in names if alike.matches(name))


@given(FILTERS | NESTED)
def test_a_filter_survives_the_queue(tags: TagFilter) -> None:
    assert TagFilter.from_json(json.loads(json.dumps(tags.to_json()))) == tags


@given(st.text())
def test_any_text_can_be_asked_about(text: str) -> None:
    tags = TagFilter(include=("*", "/a/"), semver=">=1", latest=1)
    tags.matches(text)
    tags.select([text, "1", "a"])


@pytest.mark.parametrize(
    "values",
    [
        None,
        [],
        {"include": 5},
        {"include": [5]},
        {"include": ["a b"]},
        {"semver": "stable"},
        {"semver": 5},
        {"latest": 0},
        {"latest": "x"},
        {"others": [1]},
    ],
)
def test_an_invalid_stored_filter_is_a_value_error(values: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        TagFilter.from_json(values)
