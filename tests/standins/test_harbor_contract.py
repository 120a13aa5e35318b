"""The Harbor stand-in answers and tells what a real Harbor 2.16 was recorded to (`harbor_real.json`).

What the stand-in can't do:

- It copies nothing inside of Harbor (``not_in_the_stand_in``, with the reason).
- Of its own accord it sends no event of a scan, a quota, a replication or a proxy cache, since it has none of these.
  Tests of the product send them by `HarborStandIn.deliver`, or as they were recorded.
- An image's ``extra_attrs``, its type's icon and the platform of a child that names none are made up.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from tests.standins.cosign import cosign_signature
from tests.standins.harbor import HarborStandIn
from tests.standins.images import cosign_tag, image, multi_arch, push, put_manifest, referrer
from tests.standins.logins import HARBOR_ADMIN, HARBOR_ROBOT, basic
from tests.standins.receiver import receiver

pytest_plugins = ["tests.standins.fixtures"]

REAL = json.loads((Path(__file__).parent / "harbor_real.json").read_text())
HEADERS = {
    None: {},
    "admin": basic(HARBOR_ADMIN),
    "robot": basic(HARBOR_ROBOT),
    "wrong": basic((HARBOR_ADMIN[0], "wrong")),
    "unknown": basic(("robot$unknown", "wrong")),
    "bearer": {"Authorization": "Bearer nonsense"},
}
PATTERNS = {"<digits>": "[0-9]+", "<digest>": "sha256:[0-9a-f]{64}"}
SIGSTORE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def difference(found: Any, real: Any, at: str = "") -> str | None:
    """Return the first difference of two JSON values; ``<str>`` stands for any text, and so on.

    A list of objects has rows of all the forms of the real one, and of no other.
    """
    if isinstance(real, str) and re.fullmatch("<(str|int|bool)>", real):
        return None if f"<{type(found).__name__}>" == real else f"{at}: {found!r} is no {real}"
    if isinstance(real, dict) and isinstance(found, dict):
        if real.keys() != found.keys():
            return f"{at}: lacks {sorted(real.keys() - found.keys())}, adds {sorted(found.keys() - real.keys())}"
        return next(filter(None, (difference(found[key], real[key], f"{at}.{key}") for key in real)), None)
    if isinstance(real, list) and isinstance(found, list) and (real or not found):
        for row in found:
            differences = [difference(row, form, f"{at}[]") for form in real]
            if None not in differences:
                return differences[0]
        missed = [form for form in real if all(difference(row, form) for row in found)]
        return f"{at}: there is no {json.dumps(missed[0])}" if missed else None
    return None if found == real and type(found) is type(real) else f"{at}: {found!r} is not {real!r}"


async def fill(harbor: HarborStandIn) -> dict[str, str]:
    """Push what the questions are about; return the digests that they name."""
    signed = image(1)
    harbor.add_project("pub", public=True)
    bundle = referrer(signed, 3, SIGSTORE)
    for name, tag, one in (
        ("team/cmp/x", "v1", signed),
        ("team/cmp/x", cosign_tag(signed), cosign_signature(signed)),
        ("team/cmp/x", bundle.digest, bundle),
        ("team/cmp/x", "v2", image(2, docker=True)),
        ("team/cmp/x", cosign_tag(signed, ".att"), image(4)),
        ("team/cmp/x", "multi", multi_arch(5)),
        ("pub/app", "v1", image(6)),
    ):
        await push(harbor.host, name, tag, one, HARBOR_ADMIN)
    for number in range(5):
        await put_manifest(harbor.host, "team/cmp/x", f"sha256-{number:064}.sig", image(4), HARBOR_ADMIN)
    for number in range(7, 15):
        await push(harbor.host, "team/cmp/x", f"v{number}", image(number, (10,)), HARBOR_ADMIN)
    return {"{v1}": signed.digest}


async def replay(
    session: aiohttp.ClientSession, harbor: HarborStandIn, question: dict[str, Any], named: dict[str, str]
) -> list[str]:
    """Ask a recorded question; return what differs."""
    method, _, path = question["ask"].partition(" ")
    for name, digest in named.items():
        path = path.replace(name, digest)
    sent = {**HEADERS[question["as"]], "Accept": "application/json, application/vnd.oci.image.manifest.v1+json, */*"}
    url = URL(f"{harbor.url}{path}", encoded=True)
    async with session.request(method, url, headers=sent, json=question.get("sends")) as answer:
        body = await answer.text()
    found = [] if answer.status == question["status"] else [f"status {answer.status}"]
    for name, real in question["headers"].items():
        shown = answer.headers.get(name)
        pattern = re.escape(real or "")
        for sign, meaning in PATTERNS.items():
            pattern = pattern.replace(re.escape(sign), meaning)
        if (shown is None) != (real is None) or not re.fullmatch(pattern, shown or ""):
            found.append(f"{name} {shown!r}, not {real!r}")
    if "body" in question:
        document = json.loads(body) if question["body"] != "" else body
        found += filter(None, [difference(document, question["body"])])
    if "listed" in question:
        found += [] if len(json.loads(body)["manifests"]) == question["listed"] else [body]
    return [f"{question['what']}: {each}" for each in found]


async def test_each_question_is_answered_as_by_a_real_harbor(harbor: HarborStandIn) -> None:
    named = await fill(harbor)
    async with aiohttp.ClientSession() as session:
        differences = [each for question in REAL["answers"] for each in await replay(session, harbor, question, named)]
    assert differences == []


NOT_SENT = ("QUOTA_WARNING", "QUOTA_EXCEED", "REPLICATION")
"""Types of events that are only fed to the product as they were recorded."""
USERS = {HARBOR_ADMIN[0]: HARBOR_ADMIN[1], HARBOR_ROBOT[0]: HARBOR_ROBOT[1], "robot$pusher": "secret"}


async def cause(harbor: HarborStandIn, behind: str, event: dict[str, Any], seed: int) -> None:
    """Do what a recorded event of the Default format tells of, by the same user."""
    data = event["event_data"]
    (resource,), name = data["resources"], data["repository"]["repo_full_name"]
    root = image(seed)
    tag = root.digest if resource["tag"] == resource["digest"] else resource["tag"]
    if event["operator"] not in USERS or event["type"].startswith("SCANNING"):
        harbor.deliver(event["type"], name, tag, root.digest, operator=event["operator"])
        return
    account = event["operator"], USERS[event["operator"]]
    await push(harbor.host if event["type"] == "PUSH_ARTIFACT" else behind, name, tag, root, account)
    if event["type"] != "PUSH_ARTIFACT":
        method, reference = ("GET", tag) if event["type"] == "PULL_ARTIFACT" else ("DELETE", root.digest)
        url = f"{harbor.url}/v2/{name}/manifests/{reference}"
        headers = {**basic(account), "Accept": root.media_type}
        async with aiohttp.request(method, url, headers=headers) as answer:
            assert answer.status in (200, 202)


def canonical(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event with all digests alike."""
    found: dict[str, Any] = json.loads(re.sub("sha256([:-])[0-9a-f]{64}", r"sha256\1digest", json.dumps(event)))
    return found


def varying(event: dict[str, Any]) -> dict[str, Any]:
    """Return a recorded event with the types of what differs each time."""
    one = canonical(event)
    for part in (one, (one.get("event_data") or one.get("data") or {}).get("repository", {})):
        part |= {key: f"<{type(part[key]).__name__}>" for key in ("occur_at", "date_created", "time") if key in part}
    return one | {key: "<str>" for key in ("id", "requestid") if key in one}


async def test_each_event_is_told_as_by_a_real_harbor(harbor_upstream: str) -> None:
    """In both formats: pushes, pulls and deletions, by tag and by digest, by users and robots, and a scan."""
    recorded = [each for each in REAL["deliveries"] if each["body"]["type"] not in NOT_SENT]
    assert len(recorded) == 28
    projects = {"library": True, "team": False, "gated": False, "cache": False}
    types = ["PUSH_ARTIFACT", "PULL_ARTIFACT", "DELETE_ARTIFACT"]
    async with (
        receiver() as taker,
        HarborStandIn(
            harbor_upstream, users=USERS, projects=projects, name="harbor.example.com", webhook_timeout=30
        ) as harbor,
    ):
        harbor.add_policy("team", taker.url, auth_header="Bearer TOKEN", event_types=types)
        harbor.add_policy("team", taker.url, payload_format="CloudEvents", event_types=types)
        for project in ("gated", "cache"):
            harbor.add_policy(project, taker.url)
        for seed, each in enumerate(recorded):
            if "specversion" not in each["body"]:
                await cause(harbor, harbor_upstream, each["body"], seed)
        # Only its other format was recorded.
        thing = {"repository": {"repo_full_name": "team/thing"}, "resources": [{"tag": "1", "digest": ""}]}
        only = {"type": "PULL_ARTIFACT", "operator": HARBOR_ROBOT[0], "event_data": thing}
        await cause(harbor, harbor_upstream, only, 99)
        await harbor.deliveries_settled()
    told = [(canonical(event), headers) for event, headers in zip(taker.events, taker.headers, strict=True)]
    for each in recorded:
        real = varying(each["body"])
        found = [headers for event, headers in told if difference(event, real) is None]
        assert found, (each["what"], real)
        assert sorted(found[0]) == sorted(each["headers"])
        for name in ("User-Agent", "Authorization", "Content-Type", "Accept-Encoding"):
            assert found[0].get(name) == each["headers"].get(name)
