"""Policies registered at reconciles: what is logged, and how little is requested of a Harbor that does not answer."""

from __future__ import annotations

import io
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console
from structlog.testing import capture_logs

from replicator.commands.webhook import _policies_table
from replicator.console import page
from replicator.errors import ConfigError
from replicator.harbor.policy import PolicyTarget, WebhookApi, new_policy
from replicator.harbor.registration import Policies, Registrar
from replicator.reference import Repository
from replicator.registry import Registries, Timing
from replicator.replication.transfer import access_by
from replicator.rules import parse
from replicator.settings import Settings
from tests.standins.faults import Answer, Fault
from tests.standins.logins import HARBOR_ADMIN, HARBOR_ROBOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.standins.harbor import HarborStandIn

URL = "https://replicator.example.com/webhooks/harbor"
QUICK = Timing(connect=5, read=5, write=5, commit=5, tag=5, attempts=1)
PROJECTS = 27
OTHERS = '{"auth": {"h.example.com": {"anonymous": true}}, "images": {"h.example.com/a/b": "h.example.com/c/d"}}'


@asynccontextmanager
async def registrar(harbor: HarborStandIn, login: tuple[str, str] = HARBOR_ADMIN) -> AsyncIterator[Registrar]:
    auth = {
        harbor.host: {"username": login[0], "password": login[1], "insecure": True},
        "registry.example.com": {"anonymous": True},
    }
    images = {f"{harbor.host}/many*/**": "registry.example.com/{repository}"}
    rules = parse(json.dumps({"auth": auth, "images": images}), "rules.json", environ={})
    async with Registries(access_by(rules.credentials), timing=QUICK) as registries:
        yield Registrar(rules, registries, URL, "secret-token")


@pytest.fixture
def many(harbor: HarborStandIn) -> HarborStandIn:
    for number in range(PROJECTS):
        harbor.add_project(f"many-{number:02}")
    return harbor


async def told(registrar: Registrar, failures: int) -> list[Any]:
    """Run it; return its log lines."""
    with capture_logs() as lines:
        assert await registrar.run() == failures
    assert "secret-token" not in str(lines)
    return lines


async def test_many_failures_are_logged_with_their_number_and_not_repeated(many: HarborStandIn) -> None:
    async with registrar(many, HARBOR_ROBOT) as one:
        *lines, last = await told(one, PROJECTS)
        assert [line["event"] for line in lines] == ["webhook not registered"] * 20
        assert (last["event"], last["more"], last["log_level"]) == ("webhooks not registered", PROJECTS - 20, "warning")
        assert await told(one, PROJECTS) == []


async def test_a_harbor_that_does_not_answer_is_not_asked_about_every_project(many: HarborStandIn) -> None:
    fault = many.faults.add(Fault(Answer(503), None, "/webhook/policies", times=None))
    async with registrar(many) as one:
        await told(one, PROJECTS)
        assert fault.hits == 3
        fault.times = fault.hits
        lines = await told(one, 0)
    assert [line["change"] for line in lines] == ["created"] * PROJECTS


async def test_settings_that_have_lost_the_token_are_refused_and_the_old_one_stays(many: HarborStandIn) -> None:
    async with registrar(many) as one:
        others = parse(OTHERS, "others.json", environ={})
        for lost in (None, " "):
            with pytest.raises(ConfigError, match="REPLICATOR_WEBHOOK_TOKEN"):
                one.renew(Settings(_env_file=None, webhook_token=lost), others)
        await told(one, 0)
    (policy,) = many.webhooks.of("many-00")
    assert policy.body["targets"][0]["auth_header"] == "Bearer secret-token"


async def test_a_project_that_always_fails_does_not_stop_the_others(many: HarborStandIn) -> None:
    many.faults.add(Fault(Answer(500), None, "/many-03/webhook/policies", times=None))
    async with registrar(many) as one:
        lines = await told(one, 1)
    assert len([line for line in lines if line["event"] == "webhook registered"]) == PROJECTS - 1


async def test_a_recovery_is_logged_and_so_is_the_next_failure(many: HarborStandIn) -> None:
    path = "/many-03/webhook/policies"
    async with registrar(many) as one:
        await told(one, 0)
        fault = many.faults.add(Fault(Answer(403, "FORBIDDEN"), None, path, times=None))
        (line,) = await told(one, 1)
        assert (line["project"], line["log_level"]) == ("many-03", "warning")
        fault.times = fault.hits
        (line,) = await told(one, 0)
        assert (line["event"], line["change"]) == ("webhook registered", "unchanged")
        fault.times = None
        assert len(await told(one, 1)) == 1


async def test_projects_that_can_not_be_listed_count_as_one_failure(many: HarborStandIn) -> None:
    many.faults.add(Fault(Answer(403, "FORBIDDEN"), "GET", "/api/v2.0/projects$", times=None))
    async with registrar(many) as one:
        (line,) = await told(one, 1)
    assert (line["registry"], line["project"]) == (many.host, "")
    assert "--project" in line["error"]


async def test_a_policy_made_by_hand_is_shown_where_the_address_is_not_known(harbor: HarborStandIn) -> None:
    harbor.add_project("many-1")
    harbor.add_project("many-2")
    async with registrar(harbor) as one:
        api = WebhookApi(harbor.host, "many-1", one._registries.transport(Repository(harbor.host, "many-1/x")))
        for name, url in ("by hand", "http://192.0.2.7:8080/webhooks/harbor"), ("another's", "https://ci.example.com/"):
            await api.create(replace(new_policy(PolicyTarget(url, "Bearer wrong")), name=name))
        policies = Policies(one._rules, one._registries)
        shown, others = await policies.show(None)
        elsewhere, _ = await policies.show(URL)
    assert [each.policy.name for each in shown] == ["by hand"]
    assert elsewhere == []
    paper = io.StringIO()
    page(_policies_table(shown, others), Console(file=paper, width=300))
    assert f"{harbor.host}/many-2\tnone: replicator webhook register creates one" in paper.getvalue()
