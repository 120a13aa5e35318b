"""Who may see the page, and whose forms are taken."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from replicator.server.auth import PageAuth, from_elsewhere
from replicator.settings import Settings

PASSWORD = "päss:word"
DAY = 86_400


def door(**given: Any) -> PageAuth:
    return PageAuth.of(Settings(_env_file=None, _secrets_dir=None, **given))


def basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def test_any_user_name_goes_with_the_password() -> None:
    found = door(status_token=PASSWORD)
    for user in ("", "admin", "ä"):
        assert found.matches_password(f"Basic {basic(user, PASSWORD)}")
        assert found.matches_password(f"basic  {basic(user, PASSWORD)}")
    assert not found.matches_password(f"Basic {basic('a:b', PASSWORD)}")


@pytest.mark.parametrize(
    "header",
    ["", "Basic", "Basic ", PASSWORD, f"Bearer {PASSWORD}", f"Bearer {basic('u', PASSWORD)}", "Basic ====", "Basic ä",
     f"Basic {basic('u', PASSWORD)[:-2]}", f"Basic {basic('u', PASSWORD + 'x')}", f"Basic {basic('u', '')}",
     f"Basic {base64.b64encode(PASSWORD.encode()).decode()}"],
)  # fmt: skip
def test_nothing_else_does(header: str) -> None:
    assert not door(status_token=PASSWORD).matches_password(header)


@given(st.text(max_size=50))
def test_a_header_of_any_kind_is_no_fault(header: str) -> None:
    assert not door(status_token=PASSWORD).matches_password(header)


@pytest.mark.parametrize("given", [{}, {"status_token": ""}, {"status_token": " \n"}])
def test_without_a_token_nobody_comes_in(given: dict[str, str]) -> None:
    assert door(**given).token is None
    assert not door(**given).matches_password(f"Basic {basic('u', '')}")


@given(st.integers(0, 10_000 * DAY), st.integers(0, 3 * DAY))
def test_a_form_is_taken_for_half_a_day_and_not_after_a_whole_one(made: int, later: int) -> None:
    found = door(status_token=PASSWORD)
    taken = found.takes(found.form_token(made), made + later)
    assert taken or later > DAY / 2
    assert not taken or later < DAY


def test_a_form_is_that_of_one_password_alone() -> None:
    one, other = door(status_token="one"), door(status_token="other")
    assert one.form_token(0) == door(status_token="one").form_token(0), "another process takes it too"
    assert not other.takes(one.form_token(0), 0)
    for wrong in ("", "x", "ä", one.form_token(0)[:-1]):
        assert not one.takes(wrong, 0)


@pytest.mark.parametrize(
    ("elsewhere", "headers"),
    [
        (False, {"host": "here.example"}),
        (False, {"host": "here.example", "sec-fetch-site": "same-origin"}),
        (False, {"host": "127.0.0.1:8080", "sec-fetch-site": "same-origin", "origin": "https://here.example"}),
        (True, {"host": "here.example", "sec-fetch-site": "cross-site"}),
        (True, {"host": "here.example", "sec-fetch-site": "same-site", "origin": "https://here.example"}),
        (False, {"host": "here.example:8080", "origin": "http://here.example:8080"}),
        (False, {"host": "127.0.0.1:8080", "x-forwarded-host": "here.example", "origin": "https://HERE.example"}),
        (True, {"host": "here.example", "origin": "http://there.example"}),
        (True, {"host": "here.example", "origin": "http://here.example.there.example"}),
        (True, {"host": "here.example", "origin": "null"}),
        (True, {"host": "", "origin": "null"}),
    ],
)
def test_what_another_site_causes_is_known_by_what_the_browser_says(elsewhere: bool, headers: dict[str, str]) -> None:
    assert from_elsewhere(Headers(headers)) is elsewhere
