"""A push that is refused because its repository is missing creates it and is repeated; no other push creates any."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from replicator.commands.check.findings import FindingState
from replicator.commands.check.registries import try_push
from replicator.copy import Copier, Result
from replicator.errors import ErrorClass
from replicator.reference import Repository
from replicator.replication.job import Handler
from replicator.replication.transfer import CopyFailed, transfer
from replicator.server.metrics.counters import RequestCounts
from tests.aliyun.conftest import ACR, to
from tests.replication.test_job import Job, run
from tests.standins.faults import Answer, Fault
from tests.standins.images import image, verify_tree
from tests.standins.tokens import READ
from tests.standins.tokens import Account as User

if TYPE_CHECKING:
    from tests.aliyun.conftest import Stage

DENIED = Answer(403, "DENIED", "requested access to the resource is denied")


@pytest.mark.parametrize("denies_missing", [True, False])
@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("personal", [True, False])
async def test_a_copy_to_a_repository_that_is_missing_creates_it(
    stage: Stage, acr_upstream: str, status: Any, *, denies_missing: bool, personal: bool
) -> None:
    stage.acr.denied_status, stage.acr.denies_missing, stage.acr.personal = status, denies_missing, personal
    assert await stage.copy(stage.access(), "manual/app") == [Result.COPIED]
    assert stage.openapi.repositories == {"manual/app": "PRIVATE"}
    await verify_tree(acr_upstream, "manual/app", "v1", image(1))


async def test_a_push_that_finds_the_name_unknown_creates_it_too(stage: Stage, acr_upstream: str) -> None:
    stage.acr.faults.add(Fault(Answer(404, "NAME_UNKNOWN", "not known"), "POST", "/uploads/"))
    assert await stage.copy(stage.access(), "manual/app") == [Result.COPIED]
    assert stage.openapi.repositories == {"manual/app": "PRIVATE"}
    await verify_tree(acr_upstream, "manual/app", "v1", image(1))


async def test_nothing_is_created_unless_the_rules_say_so(stage: Stage) -> None:
    with pytest.raises(CopyFailed, match="Automatically Create Repository"):
        await stage.copy(stage.access(None), "manual/app")
    assert stage.openapi.actions == ["GetAuthorizationToken"]


async def test_copies_to_one_repository_create_it_once(stage: Stage) -> None:
    async with stage.registries(stage.access()) as registries:
        copier = Copier(registries)
        tags = [transfer(copier, stage.request("manual/app", f"t{number}")) for number in range(8)]
        assert {outcome.result for outcome in await asyncio.gather(*tags)} == {Result.COPIED}
    assert stage.openapi.actions.count("CreateRepo") == 1


async def test_nothing_is_created_while_pushes_work(stage: Stage) -> None:
    login = stage.access()
    async with stage.registries(login) as registries:
        await registries.destination(Repository(ACR, "cache/app")).head_destination("v1")
    stage.openapi.faults.add(Fault(Answer(503), times=None))
    assert await stage.copy(login, "cache/app", "image-syncer/app") == [Result.COPIED, Result.COPIED]


async def test_an_unreachable_openapi_is_a_transient_error_that_quotes_both_refusals(stage: Stage) -> None:
    stage.openapi.faults.add(Fault(Answer(503), path="/repos$", times=None))
    with pytest.raises(CopyFailed) as caught:
        await stage.copy(stage.access(), "manual/app")
    assert caught.value.error_class is ErrorClass.TRANSIENT
    for part in ("CreateRepo", "creating manual/app", "requested access to the resource is denied"):
        assert part in str(caught.value)


async def test_a_permission_that_is_missing_is_named_and_no_secret_is(stage: Stage) -> None:
    body = b'{"Code": "NoPermission", "Message": "You are not authorized, key-secret"}'
    stage.openapi.faults.add(Fault(Answer(403, body=body), path="/repos", times=None))
    with pytest.raises(CopyFailed, match="cr:CreateRepository") as caught:
        await stage.copy(stage.access(), "manual/app")
    assert caught.value.error_class is ErrorClass.CREDENTIALS
    assert "key-secret" not in str(caught.value)


async def test_a_registry_that_sees_the_new_repository_late_is_retried(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.replication.transfer._PAUSES", (0.0, 0.0, 0.0))
    late = stage.acr.faults.add(Fault(DENIED, "POST", "/uploads/", times=3))
    assert await stage.copy(stage.access(), "manual/app") == [Result.COPIED]
    assert late.hits == 3
    assert stage.openapi.actions.count("CreateRepo") == 1


async def test_a_login_that_may_only_pull_is_still_refused(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.replication.transfer._PAUSES", (0.0, 0.0))
    login = stage.access()
    async with stage.registries(login) as registries:
        await registries.destination(Repository(ACR, "cache/other")).head_destination("v1")
        user = stage.acr.accounts["cr_temp_user"]
        stage.acr.accounts["cr_temp_user"] = User(user.secret, READ)
        stage.openapi.repositories["cache/app"] = "PUBLIC"
        with pytest.raises(CopyFailed, match="permission to push"):
            await transfer(Copier(registries), stage.request("cache/app"))
    assert stage.openapi.repositories == {"cache/app": "PUBLIC"}


@pytest.mark.parametrize(
    "message", ["unknown manifest class for application/vnd.oci.empty.v1+json", "REPO_EXCEED_QUOTA"]
)
async def test_what_is_refused_for_another_reason_creates_nothing(stage: Stage, message: str) -> None:
    stage.acr.faults.add(Fault(Answer(403, "DENIED", message), "POST", times=None))
    with pytest.raises(CopyFailed, match=message.split()[0]):
        await stage.copy(stage.access(), "manual/app")
    assert "CreateRepo" not in stage.openapi.actions


async def test_a_refusal_of_the_source_creates_nothing(stage: Stage) -> None:
    stage.source.faults.add(Fault(DENIED, times=None))
    with pytest.raises(CopyFailed, match="or the project does not exist"):
        await stage.copy(stage.access(), "manual/app")
    assert "CreateRepo" not in stage.openapi.actions


async def test_a_check_of_the_push_creates_nothing_and_says_who_will(stage: Stage) -> None:
    async with stage.registries(stage.access()) as registries:
        (finding,) = await try_push(registries, to("manual/app"))
    assert finding.state is FindingState.NOT_TRIED
    assert "the first copy creates it" in finding.message
    assert stage.openapi.repositories == {}
    async with stage.registries(replace(stage.access(), creator=None)) as registries:
        (finding,) = await try_push(registries, to("manual/app"))
    assert finding.state is FindingState.FAILED


@pytest.mark.parametrize("personal", [True, False])
async def test_nothing_is_created_for_a_tag_that_can_not_be_moved(stage: Stage, *, personal: bool) -> None:
    stage.acr.personal, stage.acr.immutable = personal, {"cache/app"}
    assert await stage.copy(stage.access(), "cache/app") == [Result.COPIED]
    await stage.source.push("v1", image(2))
    with pytest.raises(CopyFailed, match=f"immutable, holds {image(1).digest}") as raised:
        await stage.copy(stage.access(), "cache/app")
    assert raised.value.error_class is ErrorClass.PERMANENT
    assert set(stage.openapi.actions) == {"GetAuthorizationToken"}
    assert await stage.copy(stage.access(), "cache/other") == [Result.COPIED]


@pytest.mark.parametrize("status", [401, 403])
async def test_a_denied_copy_is_permanent_and_counted_as_denied_whatever_its_status(stage: Stage, status: Any) -> None:
    stage.acr.denied_status = status
    collected = CollectorRegistry()
    counts = RequestCounts(collected)
    counts.add_hosts([ACR])

    def denied() -> float | None:
        return collected.get_sample_value("replicator_registry_refusals_total", {"host": ACR, "result": "denied"})

    assert denied() == 0, "increase() does not see a series that begins at 1"
    async with stage.registries(stage.access(None), counts.observer) as registries:
        handler = Handler(Copier(registries))
        with pytest.raises(CopyFailed) as caught:
            await run(handler, Job(stage.request("manual/app").to_json()))
        assert (caught.value.error_class, caught.value.reason) == (ErrorClass.PERMANENT, "denied")
        assert denied() == 1
        await run(handler, Job(stage.request("cache/app").to_json()))
    assert denied() == 1, "the first question whether it is there was denied too"
