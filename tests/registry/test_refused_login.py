from __future__ import annotations

import contextlib
from collections.abc import Sized
from typing import TYPE_CHECKING

import pytest

from replicator.reference import Repository
from replicator.registry import Access, Registries
from replicator.registry.auth import Authorizer
from replicator.registry.errors import LoginRefused
from tests.standins.logins import ACR_USER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yarl import URL

    from tests.standins.acr import AcrStandIn


async def test_a_wrong_password_is_not_sent_again_for_every_repository(acr: AcrStandIn) -> None:
    access = Access(username=ACR_USER[0], password="wrong", insecure=True)
    async with Registries(lambda _: access) as registries:
        for number in range(20):
            with pytest.raises(LoginRefused, match="refused"):
                await registries.source(Repository(acr.host, f"cache/app{number}")).head_manifest("v1")
    assert acr.token_faults.log.count() == 1


async def test_a_right_password_is_not_held_up_by_a_wrong_one(acr: AcrStandIn) -> None:
    """A refusal counts for one login, not for the registry."""
    wrong = Access(username=ACR_USER[0], password="wrong", insecure=True)
    right = Access(username=ACR_USER[0], password=ACR_USER[1], insecure=True)
    async with Registries(lambda place: wrong if place.name == "cache/wrong" else right) as registries:
        with pytest.raises(LoginRefused):
            await registries.source(Repository(acr.host, "cache/wrong")).head_manifest("v1")
        assert await registries.destination(Repository(acr.host, "cache/right")).head_destination("v1") is None


class Answers:
    """A token endpoint with one answer: its token, or a refusal if that is None."""

    def __init__(self, token: bytes | None) -> None:
        self._token = token

    async def fetch_token(
        self, realm: URL, query: Iterable[tuple[str, str]], authorization: str | None, form: bytes | None = None
    ) -> bytes:
        if self._token is None:
            raise LoginRefused("no", status=403)
        return self._token

    async def try_basic(self, authorization: str) -> None:
        raise AssertionError("no registry here wants Basic")


@pytest.mark.parametrize("challenge", ['Basic realm="r"', 'Bearer realm="http://h/token"'])
@pytest.mark.parametrize("token", [None, b'{"token": "t"}'])
async def test_what_is_remembered_of_logins_is_bounded(challenge: str, token: bytes | None) -> None:
    authorizer = Authorizer(Access("user", "password"), Answers(token))
    for number in range(10_000):
        scopes = frozenset({f"repository:{number}:pull"})
        authorizer.challenged([challenge], scopes, None)
        with contextlib.suppress(LoginRefused):
            used = await authorizer.header(scopes)
            authorizer.upload_refused(scopes, used)
            authorizer.accepted(scopes, upload=False)
    kept = [len(value) for value in vars(authorizer).values() if isinstance(value, Sized)]
    assert max(kept) <= 4097
