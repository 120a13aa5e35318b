"""What policies say, and what of them may be shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.harbor.webhooks import Target, payload_format, policy_of, shown_address
from replicator.rules import Source

NAMES = st.from_regex(r"[ab]{1,3}(/[ab]{1,3}){1,2}", fullmatch=True)
GLOBS = st.from_regex(r"[ab*?]{1,4}(/[ab*?]{1,4}){0,2}", fullmatch=True)


@given(GLOBS, NAMES)
def test_a_project_with_a_repository_that_is_meant_is_never_left_out(glob: str, name: str) -> None:
    source = Source("harbor.example.com", None, glob, None, needs_tags=True, rules=())
    if source.includes(name):
        assert source.may_be_in(name.partition("/")[0])


@pytest.mark.parametrize(
    ("version", "form"),
    [
        ("v2.7.4-abc", "Default"), ("v2.8.0", "CloudEvents"), ("v2.16.0-00000000", "CloudEvents"),
        ("v1.10.2", "Default"), ("v3.0.0", "CloudEvents"), ("dev", "Default"), ("", "Default"), (None, "Default"),
    ],
)  # fmt: skip
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


@given(st.text())
def test_addresses_of_any_form_are_shown(text: str) -> None:
    assert len(shown_address(text)) <= 500


def test_what_is_shown_of_a_target_and_its_address_holds_no_secret() -> None:
    assert "hidden" not in shown_address("https://u:hidden@h.example.com/x?key=hidden")
    assert shown_address("https://h.example.com/x?registry=a") == "https://h.example.com/x?registry=a"
    assert "hidden" not in repr(Target("https://h.example.com/", "Bearer hidden"))
