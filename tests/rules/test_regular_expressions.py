"""Regular expressions that could take for ever."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.rules.patterns import check_tag_pattern, explodes

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
    "(?=(a+)+$)a",
]
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


@pytest.mark.parametrize("expression", ENDLESS)
def test_a_repetition_within_a_repetition_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="could take for ever"):
        check_tag_pattern(f"/{expression}/")


@pytest.mark.parametrize("expression", HARMLESS)
def test_what_ends_soon_is_taken(expression: str) -> None:
    assert not explodes(expression)


@given(st.text(alphabet="ab()[]{}|*+?^$\\d0123,:=!<>.-", max_size=30))
def test_any_expression_is_judged_or_no_expression(expression: str) -> None:
    with contextlib.suppress(ValueError):
        check_tag_pattern(f"/{expression}/")
