"""What the product reads from the recorded answers and deliveries of a real Harbor 2.16."""

from __future__ import annotations

import asyncio
import contextlib
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from replicator.harbor.api import SystemInfo
from replicator.harbor.events import Fate, Push, parse_event
from replicator.harbor.lists import artifact_of, repository_of
from replicator.harbor.policy import CLOUD_EVENTS, DEFAULT, PolicyTarget, payload_format, policy_of
from replicator.queue import Lane
from replicator.reference import Repository
from replicator.rules import parse
from replicator.server.app import Readiness, Webhook, create_app
from replicator.server.auth import WebhookAuth
from replicator.server.http import Server, listen
from tests.queue.conftest import prefix, queue, server, short_dir
from tests.running import TOKEN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from replicator.queue import Queue

__all__ = ["prefix", "queue", "server", "short_dir"]

REAL = json.loads((Path(__file__).parents[1] / "standins" / "harbor_real.json").read_text())
DELIVERIES = {each["what"]: each for each in REAL["deliveries"]}
HARBOR = "harbor.example.com"
SIGNATURE = f"sha256-{0x12:064x}.sig"


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def pushed(repository: str, tag: str | None, number: int) -> Push:
    return Push(repository, tag, digest(number), HARBOR)


PUSHES = {
    "default PUSH_ARTIFACT tag": pushed("team/app", "v1", 0xE),
    "cloudevents harbor.artifact.pushed tag": pushed("team/app", "v1", 0xE),
    "default PUSH_ARTIFACT nested": pushed("team/app/api/deep", "oci", 0xD),
    "cloudevents harbor.artifact.pushed nested": pushed("team/app/api/deep", "oci", 0xD),
    "default PUSH_ARTIFACT digest": pushed("team/multi-skopeo", None, 0xF),
    "cloudevents harbor.artifact.pushed digest": pushed("team/multi-skopeo", None, 0xF),
    "default PUSH_ARTIFACT sig": pushed("team/app", SIGNATURE, 0x11),
    "cloudevents harbor.artifact.pushed sig": pushed("team/app", SIGNATURE, 0x11),
    "default PUSH_ARTIFACT digest proxycache": pushed("cache/up/app", None, 0x17),
    "default PUSH_ARTIFACT tag robot": pushed("team/burst2", "t4", 0x18),
    "cloudevents harbor.artifact.pushed tag robot": pushed("team/burst2", "t4", 0x18),
}
"""What was pushed, by delivery; the others tell of no push."""
TYPES = {"pushed": "PUSH_ARTIFACT", "pulled": "PULL_ARTIFACT", "deleted": "DELETE_ARTIFACT"}


@pytest.mark.parametrize("what", DELIVERIES)
def test_a_delivery_is_read(what: str) -> None:
    body = DELIVERIES[what]["body"]
    event = parse_event(json.dumps(body).encode())
    assert event.pushes == ((PUSHES[what],) if what in PUSHES else ())
    form, kind, *_ = what.split(" ")
    cloud = form == "cloudevents"
    assert event.type == (TYPES[kind.rpartition(".")[2]] if cloud else kind)
    assert event.id == (body["id"] if cloud else None)
    assert event.occurred == (
        datetime.fromisoformat(body["time"]) if cloud else datetime.fromtimestamp(body["occur_at"], UTC)
    )


async def test_each_delivery_is_taken_by_the_webhook(queue: Queue) -> None:
    """With its own headers; those whose policy had no token are given one."""
    assert PUSHES.keys() <= DELIVERIES.keys()
    assert len(DELIVERIES) == 32
    document = {
        "auth": {each: {"anonymous": True} for each in (HARBOR, "acr.example.com")},
        "images": {
            f"{HARBOR}/{project}/**": {"to": "acr.example.com/mirror/{flat}", "signatures": False}
            for project in ("team", "gated", "quota", "cache")
        },
    }
    fates: list[tuple[str | None, Fate]] = []
    rules = parse(json.dumps(document), "rules.json", environ={})
    heard: set[tuple[str, str, bool]] = set()
    webhook = Webhook(
        rules,
        queue,
        WebhookAuth(TOKEN),
        lambda kind, fate: fates.append((kind, fate)),
        heard=lambda host, project, number: heard.add((host, project, number is None)),
    )
    answers = {}
    async with serving(create_app(webhook, Readiness(queue, list), metrics=None)) as url:
        for what, delivery in DELIVERIES.items():
            answers[what] = await deliver(url, delivery)
    for what, (status, said) in answers.items():
        tag = PUSHES[what].tag if what in PUSHES else None
        if tag is not None:
            source = f"{HARBOR}/{PUSHES[what].repository}:{tag}"
            assert (status, [each["source"] for each in said["queued"]]) == (202, [source])
        else:
            assert (status, list(said)) == (200, ["ignored"]), (what, said)
    assert fates == [
        (parse_event(json.dumps(each["body"]).encode()).type, Fate.QUEUED if answers[what][0] == 202 else Fate.IGNORED)
        for what, each in DELIVERIES.items()
    ]
    assert {(host, project) for host, project, _ in heard} == {(HARBOR, "team"), (HARBOR, "cache"), (HARBOR, "gated")}
    assert {(HARBOR, "team", True), (HARBOR, "team", False)} < heard, "CloudEvents say the project's id"
    # Both formats tell of the same pushes, and each waits once.
    assert (await queue.counts()).lanes[Lane.EVENTS].queued == len({each for each in PUSHES.values() if each.tag})


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    listening: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    server = Server(app, listening.set_result)
    with contextlib.closing(listen("127.0.0.1:0", "REPLICATOR_LISTEN")) as listener:
        running = asyncio.create_task(server.serve(sockets=[listener]))
        yield f"http://{(await listening).authority}/webhooks/harbor"
        server.should_exit = True
        await running


async def deliver(url: str, delivery: dict[str, Any]) -> tuple[int, Any]:
    sent = {name: value for name, value in delivery["headers"].items() if name not in ("Host", "Content-Length")}
    sent["Authorization"] = f"Bearer {TOKEN}"
    body = json.dumps(delivery["body"]).encode()
    async with aiohttp.request("POST", url, data=body, headers=sent) as answer:
        return answer.status, await answer.json()


def whole(path: str) -> Any:
    """The answer to the question that begins so."""
    (found,) = [body for question, body in REAL["whole"].items() if question.startswith(path)]
    return found


def test_the_system_information_is_read() -> None:
    system = SystemInfo.read(whole("/systeminfo"))
    assert system == SystemInfo("v2.16.0-c50c7ddd", notifies=True, names=(HARBOR,))
    assert payload_format(system.version) == CLOUD_EVENTS


def test_repositories_are_read() -> None:
    read = [repository_of(row, HARBOR, "signed") for row in whole("/projects/signed/repositories?")]
    changed = datetime(2026, 11, 28, 22, 58, 29, 797000, tzinfo=UTC)
    assert [each and (each.repository.name, each.artifact_count, each.changed) for each in read] == [
        ("signed/ev", 2, changed),
        ("signed/app", 2, changed),
    ]


def artifacts() -> Iterator[tuple[Any, ...]]:
    repository = Repository(HARBOR, "signed/app")
    for row in whole("/projects/signed/repositories/app/artifacts"):
        found = artifact_of(row, HARBOR, "signed", repository)
        assert found is not None
        assert found.repository == repository
        yield found.digest, found.size, [tag.name for tag in found.tags], [each.kind for each in found.accessories]


def test_artifacts_are_read() -> None:
    """An attestation in cosign's old form is a row of its own; an image has two signatures."""
    assert list(artifacts()) == [
        (digest(1), 597, [f"sha256-{3:064x}.att"], []),
        (digest(3), 1302, ["v1"], ["signature.cosign", "signature.cosign"]),
    ]


def test_policies_are_read_without_what_harbor_leaves_out() -> None:
    by_hand, other = whole("/projects/team/webhook/policies")
    found = policy_of(by_hand)
    assert found is not None
    assert (found.id, found.name, found.description, found.enabled) == (21, "by-hand", "", True)
    assert found.event_types[0] == "PUSH_ARTIFACT"
    address = f"https://replicator.example.com/webhooks/harbor/{HARBOR}"
    assert found.targets == (PolicyTarget(address, "TOKEN", DEFAULT, skip_cert_verify=False, type="http"),)
    assert found.targets[0].registry == HARBOR
    assert found.targets[0].sends("TOKEN")
    found = policy_of(other)
    assert found is not None
    assert found.targets[0].auth_header == ""


def test_a_policy_without_a_name_is_read() -> None:
    """Harbor takes one."""
    row = {key: value for key, value in whole("/projects/team/webhook/policies")[0].items() if key != "name"}
    found = policy_of(row)
    assert found is not None
    assert (found.name, found.title) == ("", "(policy 21)")
    assert found.is_ours(found.targets[0].address)
