"""Webhook policies as values, and the parts of them that may be shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.harbor.policy import (
    PolicyTarget,
    for_registry,
    named_registry,
    names_in_query,
    payload_format,
    policy_of,
    shown_address,
)
from replicator.rules import Source

NAMES = st.from_regex(r"[ab]{1,3}(/[ab]{1,3}){1,2}", fullmatch=True)
GLOBS = st.from_regex(r"[ab*?]{1,4}(/[ab*?]{1,4}){0,2}", fullmatch=True)


@given(GLOBS, NAMES)
def test_a_project_with_a_matching_repository_is_never_left_out(glob: str, name: str) -> None:
    source = Source("harbor.example.com", None, glob, None, needs_tags=True, rules=())
    if source.includes(name):
        assert source.may_be_in(name.partition("/")[0])


@pytest.mark.parametrize(
    ("version", "form"),
    [
        ("v2.7.4-abc", "Default"),
        ("v2.8.0", "CloudEvents"),
        ("v2.16.0-00000000", "CloudEvents"),
        ("v1.10.2", "Default"),
        ("v3.0.0", "CloudEvents"),
        ("dev", "Default"),
        ("", "Default"),
        (None, "Default"),
    ],
)
def test_the_format_is_the_best_that_a_version_has(version: str | None, form: str) -> None:
    assert payload_format(version) == form


@given(
    st.dictionaries(
        st.sampled_from(["id", "name", "enabled", "event_types", "targets"]),
        st.from_type(type(None))
        | st.integers()
        | st.text()
        | st.lists(st.text() | st.dictionaries(st.text(), st.text())),
    )
)
def test_rows_of_any_form_are_read(row: dict[str, object]) -> None:
    policy_of(row)


REGISTRIES = st.from_regex(r"[a-z]{1,5}\.[a-z]{1,5}(:[1-9][0-9]{0,3})?|\[::[1-9]\]:5000", fullmatch=True)
ADDRESSES = st.builds(
    "https://{}{}{}{}".format,
    st.sampled_from(["r.example.com", "r.example.com:8443", "[::1]:8443"]),
    st.sampled_from(["/webhooks/harbor", "/behind/webhooks/harbor", "/hook", "/web%20hooks/harbor"]),
    st.sampled_from(["", "/"]) | REGISTRIES.map("/{}".format),
    st.sampled_from(["", "?key=x%2Fy", "?registry=old.example.com", "?registry=&key=1"]),
)


@given(ADDRESSES, REGISTRIES, REGISTRIES)
def test_an_address_names_the_registry_it_was_made_for_and_stays_the_same_place(
    address: str, first: str, second: str
) -> None:
    made = for_registry(address, first)
    assert named_registry(made) == first
    assert for_registry(for_registry(address, second), first) == made
    assert for_registry(made, first) == made
    if "/webhooks/harbor" in address:
        assert not names_in_query(made)
        assert PolicyTarget(made, "").is_at(address)
        assert PolicyTarget(address, "").is_at(made)
        assert ("key" in made) == ("key" in address)


@given(st.text())
def test_any_text_as_an_address_names_a_registry_or_none(text: str) -> None:
    assert PolicyTarget(text, "").registry == named_registry(text)
    assert PolicyTarget(text, "").is_at(text)
    names_in_query(text)


@given(st.text())
def test_any_text_as_an_address_can_be_shown(text: str) -> None:
    assert len(shown_address(text)) <= 500


def test_what_is_shown_of_a_target_and_its_address_holds_no_secret() -> None:
    assert "hidden" not in shown_address("https://u:hidden@h.example.com/x?key=hidden")
    assert shown_address("https://h.example.com/x?registry=a") == "https://h.example.com/x?registry=a"
    assert "hidden" not in repr(PolicyTarget("https://h.example.com/", "Bearer hidden"))
