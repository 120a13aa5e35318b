"""Authentication of the status page and its forms."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from replicator.server.auth import PageAuth, is_cross_site
from replicator.settings import Settings

PASSWORD = "päss:word"
DAY = 86_400


def auth(**given: Any) -> PageAuth:
    return PageAuth.of(Settings(_env_file=None, _secrets_dir=None, **given))


def basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def test_any_user_name_goes_with_the_password() -> None:
    found = auth(status_token=PASSWORD)
    for user in ("", "admin", "ä"):
        assert found.matches_password(f"Basic {basic(user, PASSWORD)}")
        assert found.matches_password(f"basic  {basic(user, PASSWORD)}")
    assert not found.matches_password(f"Basic {basic('a:b', PASSWORD)}")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic ",
        PASSWORD,
        f"Bearer {PASSWORD}",
        f"Bearer {basic('u', PASSWORD)}",
        "Basic ====",
        "Basic ä",
        f"Basic {basic('u', PASSWORD)[:-2]}",
        f"Basic {basic('u', PASSWORD + 'x')}",
        f"Basic {basic('u', '')}",
        f"Basic {base64.b64encode(PASSWORD.encode()).decode()}",
    ],
)
def test_any_other_authorization_is_refused(header: str) -> None:
    assert not auth(status_token=PASSWORD).matches_password(header)


@given(st.text(max_size=50))
def test_no_header_raises_an_error(header: str) -> None:
    assert not auth(status_token=PASSWORD).matches_password(header)


@pytest.mark.parametrize("given", [{}, {"status_token": ""}, {"status_token": " \n"}])
def test_without_a_token_nobody_gets_in(given: dict[str, str]) -> None:
    assert auth(**given).token is None
    assert not auth(**given).matches_password(f"Basic {basic('u', '')}")


@given(st.integers(0, 10_000 * DAY), st.integers(0, 3 * DAY))
def test_a_form_is_accepted_for_half_a_day_and_not_after_a_whole_one(made: int, later: int) -> None:
    found = auth(status_token=PASSWORD)
    taken = found.accepts_form(found.form_token(made), made + later)
    assert taken or later > DAY / 2
    assert not taken or later < DAY


def test_a_form_is_valid_for_one_password_only() -> None:
    one, other = auth(status_token="one"), auth(status_token="other")
    assert one.form_token(0) == auth(status_token="one").form_token(0), "another process takes it too"
    assert not other.accepts_form(one.form_token(0), 0)
    for wrong in ("", "x", "ä", one.form_token(0)[:-1]):
        assert not one.accepts_form(wrong, 0)


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
def test_a_request_caused_by_another_site_is_recognized_by_its_headers(
    elsewhere: bool, headers: dict[str, str]
) -> None:
    assert is_cross_site(Headers(headers)) is elsewhere
