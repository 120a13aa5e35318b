from __future__ import annotations

import contextlib
from collections.abc import Sized
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from replicator.errors import ErrorClass
from replicator.reference import Repository
from replicator.registry import Access, Registries, Timing
from replicator.registry.auth import Authorizer
from replicator.registry.errors import LoginOnHold, LoginRefused, Unauthorized
from replicator.registry.ladder import LoginPatience
from tests.registry.conftest import Server, served
from tests.registry.guard import PASSWORD, USER, Guard
from tests.standins.logins import ACR_USER
from tests.standins.proxy import Upstream

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


async def test_a_repository_that_a_token_endpoint_refuses_holds_up_no_other(registry: Server) -> None:
    """Some token endpoints answer 401, as to a wrong password, for a repository that a good login may not use."""
    async with Upstream(registry.host) as upstream:
        guard = Guard(upstream.forward)

        async def token(request: web.BaseRequest) -> web.StreamResponse:
            if "closed" in request.query.get("scope", "") or revoked:
                return web.json_response({"errors": [{"code": "UNAUTHORIZED"}]}, status=401)
            return await guard.token(request)

        revoked = False
        async with served(guard) as front, served(token) as tokens:
            guard.realm = f"http://{tokens.host}/token"
            access = Access(USER, PASSWORD, endpoint=f"http://{front.host}")
            patience = LoginPatience(patient=True)
            async with Registries(lambda _: access, patience=patience, timing=Timing(attempts=1)) as registries:
                for number in range(3):
                    assert await registries.source(Repository(front.host, f"open{number}")).head_manifest("v1") is None
                    with pytest.raises(Unauthorized, match="not for the login") as caught:
                        await registries.source(Repository(front.host, "closed")).head_manifest("v1")
                    assert caught.value.error_class is ErrorClass.CREDENTIALS
                # A login that is no good any more is sent without a repository once, and not at each step.
                tokens.faults.log.clear()
                revoked = True
                for _ in range(3):
                    with pytest.raises(LoginOnHold):
                        await registries.source(Repository(front.host, "open3")).head_manifest("v1")
                assert len(tokens.faults.log) == 2


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
    authorizer = Authorizer(Access("user", "pass-word"), Answers(token))
    for number in range(10_000):
        scopes = frozenset({f"repository:{number}:pull"})
        authorizer.challenged([challenge], scopes, None)
        with contextlib.suppress(LoginRefused):
            used = await authorizer.header(scopes)
            authorizer.upload_refused(scopes, used)
            authorizer.accepted(scopes, upload=False)
    kept = [len(value) for value in vars(authorizer).values() if isinstance(value, Sized)]
    assert max(kept) <= 4097
