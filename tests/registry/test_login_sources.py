"""Sources of logins: asked on demand, notified of refusals, and never shown."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from replicator.registry import Access
from replicator.registry.auth import Authorizer
from replicator.registry.credentials import Login
from replicator.registry.errors import LoginRefused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yarl import URL

GOOD, BAD = Login("name", "good-secret"), Login("name", "bad-secret")
SCOPES = frozenset({"repository:team/app:pull"})
CHALLENGE = ['Bearer realm="http://tokens.example.com/auth",service="a service"']


class Logins:
    """A source that returns its first login until that is refused, then the next."""

    def __init__(self, *logins: Login) -> None:
        self._logins = list(logins)
        self.services: list[str | None] = []

    async def login(self, service: str | None) -> Login:
        self.services.append(service)
        return self._logins[0]

    def refused(self, login: Login) -> bool:
        another = login == self._logins[0] and len(self._logins) > 1
        if another:
            del self._logins[0]
        return another


class Tokens:
    """A token endpoint that accepts GOOD only."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []

    async def fetch_token(
        self, realm: URL, query: Iterable[tuple[str, str]], authorization: str | None, form: bytes | None = None
    ) -> bytes:
        self.asked.append(authorization)
        if authorization != GOOD.basic:
            raise LoginRefused("401", status=401)
        return b'{"token": "t", "expires_in": 300}'

    async def try_basic(self, authorization: str) -> None:
        raise AssertionError("no registry here wants Basic")


async def test_a_source_is_told_the_service_and_its_login_is_used() -> None:
    logins, tokens = Logins(GOOD), Tokens()
    authorizer = Authorizer(Access(logins=logins), tokens)
    assert authorizer.challenged(CHALLENGE, SCOPES, None)
    assert await authorizer.header(SCOPES) == "Bearer t"
    assert logins.services == ["a service"]


async def test_a_refused_login_is_followed_by_one_other() -> None:
    tokens = Tokens()
    authorizer = Authorizer(Access(logins=Logins(BAD, GOOD)), tokens)
    authorizer.challenged(CHALLENGE, SCOPES, None)
    assert await authorizer.header(SCOPES) == "Bearer t"
    assert len(tokens.asked) == 2

    tokens = Tokens()
    authorizer = Authorizer(Access(logins=Logins(BAD)), tokens)
    authorizer.challenged(CHALLENGE, SCOPES, None)
    with pytest.raises(LoginRefused):
        await authorizer.header(SCOPES)
    assert len(tokens.asked) == 1


async def test_basic_is_answered_with_the_source_s_login_once() -> None:
    authorizer = Authorizer(Access(logins=Logins(GOOD)), Tokens())
    assert authorizer.challenged(["Basic realm=x"], SCOPES, None)
    header = await authorizer.header(SCOPES)
    assert header is not None
    assert header.startswith("Basic ")
    assert not authorizer.challenged(["Basic realm=x"], SCOPES, header)


def test_a_login_does_not_show_its_password() -> None:
    assert "secret" not in repr(GOOD) + repr(replace(GOOD, username="other"))
