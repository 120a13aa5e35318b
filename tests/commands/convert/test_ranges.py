"""Ranges of versions keep their meaning in rules, for plain versions."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.commands.convert.patterns import NOT_PLAIN, PLAIN, PLAIN_OF_THREE, of_regsync, of_skopeo
from replicator.rules import TagFilter
from replicator.rules.patterns import compile_tag_pattern

NUMBERS = [
    (),
    *((major, *rest) for major in range(3) for rest in [(), *((minor,) for minor in range(3)), (0, 3), (2, 1)]),
]
PLAIN_TAGS = [f"{mark}{'.'.join(map(str, numbers))}" for mark in ("", "v") for numbers in NUMBERS if numbers]
OTHER_TAGS = ["latest", "1.2.0-alpine", "1.2.0-rc.1", "1.2.3-1", "1.0.post1", "V1.2", "1.2b1", "build-9"]


def whole(tag: str) -> tuple[int, int, int]:
    major, minor, patch = ([int(number) for number in tag.removeprefix("v").split(".")] + [0, 0])[:3]
    return major, minor, patch


def holds(operator: str, numbers: tuple[int, ...], tag: str) -> bool:
    """Whether a comparison holds by the documentation of Masterminds/semver: a missing number matches any."""
    version, low = whole(tag), (*numbers, 0, 0)[:3]
    # The lowest version above all versions that begin with these numbers.
    above = (*numbers[:-1], numbers[-1] + 1, 0, 0)[:3]
    leading = next((place for place, number in enumerate(numbers) if number), len(numbers) - 1)
    results = {
        "": low <= version < above,
        "=": low <= version < above,
        "!=": not low <= version < above,
        ">": version >= above,
        "<": version < low,
        ">=": version >= low,
        "<=": version < above,
        "~": low <= version < (*numbers[: min(len(numbers), 2)][:-1], numbers[min(len(numbers), 2) - 1] + 1, 0, 0)[:3],
        "^": low <= version < (*numbers[:leading], numbers[leading] + 1, 0, 0)[:3],
    }
    return results[operator]


COMPARISONS = st.tuples(
    st.sampled_from(["", "=", "!=", ">", "<", ">=", "<=", "~", "^"]), st.sampled_from([one for one in NUMBERS if one])
)
RANGES = st.lists(st.lists(COMPARISONS, min_size=1, max_size=2), min_size=1, max_size=2)


@given(RANGES, st.sampled_from([" ", ", ", ","]), st.sampled_from(["", "v"]), st.sampled_from(["", ".x", ".*"]))
def test_a_range_of_skopeo_holds_for_the_same_versions(
    ranges: list[list[tuple[str, tuple[int, ...]]]], comma: str, mark: str, rest: str
) -> None:
    text = " || ".join(
        comma.join(
            f"{operator}{mark}{'.'.join(map(str, numbers))}{rest if len(numbers) < 3 else ''}"
            for operator, numbers in every
        )
        for every in ranges
    )
    filters = [TagFilter(include=(PLAIN_OF_THREE,), semver=range_) for range_ in of_skopeo(text)]
    for tag in PLAIN_TAGS:
        expected = any(all(holds(*comparison, tag) for comparison in every) for every in ranges)
        assert any(filter_.matches(tag) for filter_ in filters) is expected, (text, tag)
    assert not any(filter_.matches(tag) for filter_ in filters for tag in [*OTHER_TAGS, "1.2.3.4"])


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        (">= 3.12.0", (">=3.12.0",)),
        ("1.2 - 1.4", (">=1.2,<1.5",)),
        ("*", (">=0",)),
        ("~> 1.2.3 || =>2", (">=1.2.3,<1.3", ">=2")),
    ],
)
def test_forms_of_skopeo_are_read(text: str, ranges: tuple[str, ...]) -> None:
    assert of_skopeo(text) == ranges


@pytest.mark.parametrize("text", ["", ">=1.2.0-0", "nonsense", ">*", "^*", "1.2 ||", "1.2.3.4", ">=1.2 &"])
def test_a_range_of_skopeo_without_equivalent_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="has no equivalent"):
        of_skopeo(text)


@given(st.sampled_from(["", "=", ">", "<", ">=", "<="]), st.sampled_from([one for one in NUMBERS if one]))
def test_a_comparison_of_regsync_takes_missing_numbers_for_zero(operator: str, numbers: tuple[int, ...]) -> None:
    filter_ = TagFilter(include=(PLAIN,), semver=of_regsync(f"{operator}{'.'.join(map(str, numbers))}"))
    low = (*numbers, 0, 0)[:3]
    for tag in PLAIN_TAGS:
        version = whole(tag)
        expected = {
            "": version == low,
            "=": version == low,
            ">": version > low,
            "<": version < low,
            ">=": version >= low,
            "<=": version <= low,
        }[operator]
        assert filter_.matches(tag) is expected, tag
    assert not any(map(filter_.matches, OTHER_TAGS))


@pytest.mark.parametrize(
    ("text", "range_"),
    [
        ("^1.2.3", ">=1.2.3,<2"),
        ("^0.2.3", ">=0.2.3,<0.3"),
        ("^0.0.3", ">=0.0.3,<0.0.4"),
        ("^0", ">=0,<0.0.1"),
        ("~1", ">=1,<1.1"),
        ("~v1.2.3 <1.2.9", ">=1.2.3,<1.3,<1.2.9"),
    ],
)
def test_forms_of_regsync_are_read(text: str, range_: str) -> None:
    assert of_regsync(text) == range_


@pytest.mark.parametrize("text", ["", ">= 1.2", "1.2-rc1", "1.x", "!=1"])
def test_a_range_of_regsync_without_equivalent_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"has no equivalent|is empty"):
        of_regsync(text)


def test_plain_and_not_plain_are_complements() -> None:
    short = ["".join(tag) for length in (1, 2, 3, 4) for tag in product("v1.a", repeat=length)]
    plain, other = TagFilter(include=(PLAIN,)), TagFilter(include=(NOT_PLAIN,))
    for tag in [*PLAIN_TAGS, *OTHER_TAGS, "1.2.3.4", *short]:
        assert plain.matches(tag) is not other.matches(tag), tag


def test_ranges_are_written_without_what_re2_lacks() -> None:
    for pattern in (PLAIN, PLAIN_OF_THREE, NOT_PLAIN):
        assert compile_tag_pattern(pattern).warning is None
