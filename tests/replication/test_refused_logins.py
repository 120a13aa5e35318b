"""What is said of a login that Harbor takes for none, and of a project that is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from replicator.commands.check.webhook import Expected, look_at_policies
from replicator.copy import Copier, SourceNotFound
from replicator.errors import ErrorClass
from replicator.harbor.api import HarborApi
from replicator.reference import Reference, Repository
from replicator.registry import Access, Registries
from replicator.registry.errors import AskedLoginOnHold, LoginOnHold, RegistryError
from replicator.replication.advice import explained
from replicator.replication.transfer import CopyFailed, transfer
from replicator.rules import CopyRequest
from tests.standins.images import image, push
from tests.standins.logins import ACR_USER, HARBOR_ADMIN, HARBOR_ROBOT

if TYPE_CHECKING:
    from tests.standins.acr import AcrStandIn
    from tests.standins.harbor import HarborStandIn

WRONG = (HARBOR_ROBOT[0], "wrong")
NO_PROJECT = "or the project does not exist"


def registries(harbor: HarborStandIn, login: tuple[str, str], acr: AcrStandIn | None = None) -> Registries:
    def access(repository: Repository) -> Access:
        if acr is not None and repository.registry == acr.host:
            return Access(*ACR_USER, endpoint=acr.url)
        return Access(*login, endpoint=harbor.url)

    return Registries(access)


async def failure(harbor: HarborStandIn, acr: AcrStandIn, login: tuple[str, str], project: str) -> Exception:
    source = Reference.parse(f"{harbor.host}/{project}/app:v1")
    request = CopyRequest(source, Reference.parse(f"{acr.host}/cache/app:v1"), "rule")
    async with registries(harbor, login, acr) as opened:
        with pytest.raises((CopyFailed, SourceNotFound)) as caught:
            await transfer(Copier(opened), request)
    return caught.value


async def test_a_wrong_password_is_named_where_harbor_names_permissions(
    harbor_upstream: str, harbor: HarborStandIn, acr: AcrStandIn
) -> None:
    await push(harbor_upstream, "team/app", "v1", image(1))
    error = await failure(harbor, acr, WRONG, "team")
    assert "the login was refused" in str(error)
    assert "check the username and password" in str(error)


async def test_a_wrong_password_is_named_where_a_public_project_was_served_without_a_login(
    harbor_upstream: str, harbor: HarborStandIn
) -> None:
    await push(harbor_upstream, "open/app", "v1", image(1))
    harbor.add_project("open", public=True)
    async with registries(harbor, WRONG) as opened:
        # It is served; only what needs more than an anonymous login fails.
        assert await opened.source(Repository(harbor.host, "open/app")).head_manifest("v1") is not None
        expected = Expected("http://replicator.example.com/webhooks/harbor", "t0ken")
        (found,) = await look_at_policies(opened, harbor.host, "open", expected)
        assert "check the username and password under auth" in found.message
        with pytest.raises(RegistryError) as caught:
            await opened.destination(Repository(harbor.host, "open/app")).start_upload()
    words = explained(caught.value, Reference.parse(f"{harbor.host}/open/app:v1"))
    assert "the login was refused" in words.why
    assert "check the username and password" in words.do


@pytest.mark.parametrize("login", [HARBOR_ROBOT, HARBOR_ADMIN])
async def test_a_project_that_is_not_there_is_named_as_a_cause(
    harbor: HarborStandIn, acr: AcrStandIn, login: tuple[str, str]
) -> None:
    """401 with an empty challenge at the registry; 404 or 403 at the API."""
    error = await failure(harbor, acr, login, "nowhere")
    assert NO_PROJECT in str(error)
    async with registries(harbor, login) as opened:
        api = HarborApi(harbor.host, opened.transport(Repository(harbor.host, "nowhere/x")))
        with pytest.raises(RegistryError) as caught:
            async for _ in api.repositories("nowhere"):
                pass
    assert NO_PROJECT in explained(caught.value).do
    assert caught.value.error_class is not ErrorClass.TRANSIENT


@pytest.mark.parametrize(
    ("kind", "host", "advice"),
    [
        (
            LoginOnHold,
            "registry.cn-beijing.aliyuncs.com",
            "not those of the console",
        ),
        (LoginOnHold, "harbor.example.com", "a robot account has not expired"),
        (AskedLoginOnHold, "registry.cn-beijing.aliyuncs.com", "check the account under aliyun"),
    ],
)
def test_a_login_that_is_sent_again_has_the_advice_of_a_refused_one(
    kind: type[LoginOnHold], host: str, advice: str
) -> None:
    words = explained(kind("the login was refused", "it is sent again at 12:00:00 UTC").at(host))
    assert advice in words.do
    assert words.do.endswith("; it is sent again at 12:00:00 UTC")
