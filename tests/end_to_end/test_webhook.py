"""The webhook's responses, from a real server with a real queue."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.harbor.test_events import DIGEST, cloud, default
from tests.queue.servers import RedisServer
from tests.running import TOKEN, Serving, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

# 192.0.2.0/24 is for documentation (RFC 5737): nothing answers there, and nothing is asked in these tests.
RULES = {
    "auth": {
        "harbor.example.com": {"anonymous": True},
        "other.example.com:8443": {"anonymous": True},
        "registry.cn-beijing.aliyuncs.com": {"username": "u", "password": "acr-password", "endpoint": "192.0.2.1"},
    },
    "images": {
        "harbor.example.com/team/**": "registry.cn-beijing.aliyuncs.com/team/{flat}",
        "harbor.example.com/nested/**": "registry.cn-beijing.aliyuncs.com/mirror/{name}",
        "other.example.com:8443/team/x": "registry.cn-beijing.aliyuncs.com/other/x",
    },
}


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    file = tmp_path / "rules.json"
    file.write_text(json.dumps(RULES))
    return file


@pytest.fixture
async def serving(rules: Path, tmp_path: Path) -> AsyncIterator[Serving]:
    async with running("serve", "--no-worker", "--config", rules, cwd=tmp_path) as process:
        yield process


async def post(
    serving: Serving, body: Any, *, token: str | None = TOKEN, query: str = ""
) -> tuple[int, dict[str, Any]]:
    """Deliver a body, as JSON unless it is bytes; return status and answer."""
    data = io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
    headers = {"Content-Type": "application/json"} | ({} if token is None else {"Authorization": token})
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{serving.url}/webhooks/harbor{query}", data=data, headers=headers) as answer,
    ):
        return answer.status, await answer.json()


async def test_a_push_is_queued_and_said_so(serving: Serving) -> None:
    queued = {
        "source": "harbor.example.com/team/app/api:v1.2.3",
        "destination": "registry.cn-beijing.aliyuncs.com/team/team-app-api:v1.2.3",
    }
    for event in (default(), cloud()):
        assert await post(serving, event) == (202, {"queued": [queued]})


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (default(tag=DIGEST), "pushed by digest only"),
        ({**default(), "type": "DELETE_ARTIFACT"}, "DELETE_ARTIFACT is not a push"),
        ({**cloud(), "type": "harbor.scan.completed"}, "SCANNING_COMPLETED: no copy is waiting for it"),
    ],
)
async def test_what_leads_to_no_copy_is_ignored_with_the_reason(
    serving: Serving, event: dict[str, Any], reason: str
) -> None:
    status, answer = await post(serving, event)
    assert status == 200
    assert reason in answer["ignored"]


async def test_what_no_rule_names_is_ignored(serving: Serving) -> None:
    event = default()
    event["event_data"]["repository"]["repo_full_name"] = "elsewhere/app"
    status, answer = await post(serving, event)
    assert status == 200
    assert answer["ignored"] == "no rule matches harbor.example.com/elsewhere/app:v1.2.3"


async def test_what_a_rule_names_and_acr_can_not_hold_is_ignored_for_that_reason(serving: Serving) -> None:
    event = default()
    event["event_data"]["repository"]["repo_full_name"] = "nested/app/api"
    status, answer = await post(serving, event)
    assert status == 200
    assert answer["ignored"].startswith(
        "harbor.example.com/nested/app/api:v1.2.3: rule harbor.example.com/nested/**: ACR can't hold mirror/app/api: "
    )


async def test_a_harbor_that_no_rule_names_is_ignored_unless_the_url_says_which_it_is(serving: Serving) -> None:
    event = default(resource_url="harbor.public.example.com/team/x:v1")
    event["event_data"]["repository"]["repo_full_name"] = "team/x"
    status, answer = await post(serving, event)
    assert status == 200
    assert "harbor.public.example.com, which is not a source of any rule" in answer["ignored"]
    for named in ("/other.example.com:8443", "/OTHER.example.com%3A8443", "?registry=other.example.com:8443"):
        status, answer = await post(serving, event, query=named)
        assert status == 202
        assert answer["queued"][0]["destination"] == "registry.cn-beijing.aliyuncs.com/other/x:v1.2.3"
    for named in ("/elsewhere.example.com", "?registry=elsewhere.example.com", "/elsewhere.example.com?registry=other"):
        status, answer = await post(serving, event, query=named)
        assert status == 400
        assert "'elsewhere.example.com', which is not a source of any rule" in answer["error"]


async def test_whose_events_an_address_takes_is_no_matter_to_who_has_no_token(serving: Serving) -> None:
    for named in ("/other.example.com:8443", "/elsewhere.example.com"):
        assert (await post(serving, default(), token="wrong", query=named))[0] == 401


async def test_the_default_port_makes_no_difference(serving: Serving) -> None:
    status, _ = await post(serving, default(resource_url="HARBOR.example.com:443/team/app/api:v1.2.3"))
    assert status == 202


@pytest.mark.parametrize("token", [None, "", "wrong", "Bearer wrong", TOKEN + "x", f"Basic {TOKEN}", "tökén"])
async def test_a_wrong_token_is_refused_and_nothing_queued(serving: Serving, token: str | None) -> None:
    status, answer = await post(serving, default(), token=token)
    assert status == 401
    assert "Authorization" in answer["error"]
    assert TOKEN not in json.dumps(answer)
    assert serving.said("webhook taken") == []


@pytest.mark.parametrize("token", [TOKEN, f"Bearer {TOKEN}"])
async def test_the_token_may_stand_alone_or_behind_bearer(serving: Serving, token: str) -> None:
    status, _ = await post(serving, default(), token=token)
    assert status == 202


@pytest.mark.parametrize("body", [b"", b"garbage", b"{}", b"[1,2]", b"\x00" * 100, b'{"type":"PUSH_ARTIFACT"}'])
async def test_garbage_is_a_bad_request_with_a_reason(serving: Serving, body: bytes) -> None:
    status, answer = await post(serving, body)
    assert status == 400
    assert answer["error"]


async def test_a_body_over_a_mebibyte_is_refused_and_an_endless_one_not_read_to_its_end(serving: Serving) -> None:
    status, answer = await post(serving, b" " * (1024 * 1024 + 1))
    assert status == 413
    assert "1048576" in answer["error"]
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 65536
            yield b" " * 65536

    headers = {"Authorization": TOKEN}
    async with aiohttp.ClientSession() as session:
        with contextlib.suppress(aiohttp.ClientError):
            async with session.post(f"{serving.url}/webhooks/harbor", data=endless(), headers=headers) as refused:
                assert refused.status == 413
    # What the sockets between hold comes on top of what is read.
    assert sent < 64 * 1024 * 1024
    assert (await post(serving, default()))[0] == 202


async def test_other_requests_have_their_answers(serving: Serving) -> None:
    async with aiohttp.ClientSession() as session:
        for method, path, status in [
            ("GET", "/healthz", 200),
            ("GET", "/readyz", 200),
            ("GET", "/webhooks/harbor", 405),
            ("GET", "/nowhere", 404),
        ]:
            async with session.request(method, serving.url + path) as answer:
                assert (answer.status, answer.content_type) == (status, "application/json")


async def test_without_a_queue_nothing_is_acknowledged_and_it_heals_by_itself(rules: Path, tmp_path: Path) -> None:
    import tempfile
    from pathlib import Path as RealPath

    with tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp") as short, RedisServer(RealPath(short)) as redis:
        settings = {"REPLICATOR_REDIS_URL": redis.url}
        async with running("serve", "--no-worker", "--config", rules, cwd=tmp_path, settings=settings) as serving:
            assert (await post(serving, default()))[0] == 202
            redis.kill()
            status, answer = await post(serving, default())
            assert status == 503
            assert "deliver it again" in answer["error"]
            async with aiohttp.ClientSession() as session:
                async with session.get(f"{serving.url}/readyz") as ready:
                    assert ready.status == 503
                    # Anyone may ask, so the address is in the log alone.
                    said = await ready.text()
                    assert "the queue can't accept or hand out work (ConnectionError)" in said
                    assert "redis" not in said
                    assert "redis.sock" in serving.said("not ready")[0]["reason"]
                async with session.get(f"{serving.url}/healthz") as health:
                    assert health.status == 200
            redis.start()
            async with asyncio.timeout(20):
                while (await post(serving, default()))[0] != 202:
                    await asyncio.sleep(0.1)


async def test_events_from_anyone_are_taken_only_when_that_was_asked_for(rules: Path, tmp_path: Path) -> None:
    settings = {"REPLICATOR_WEBHOOK_TOKEN": "", "REPLICATOR_WEBHOOK_ANONYMOUS": "true"}
    async with running("serve", "--no-worker", "--config", rules, cwd=tmp_path, settings=settings) as serving:
        assert serving.said("webhook open to everyone")
        assert (await post(serving, default(), token=None))[0] == 202


async def test_a_slow_sender_does_not_hold_others_up(serving: Serving) -> None:
    host, _, port = serving.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /webhooks/harbor HTTP/1.1\r\nHost: x\r\nAuthorization: {TOKEN}\r\nContent-Length: 1000\r\n\r\n{{"
    writer.write(head.encode())
    await writer.drain()
    assert (await post(serving, default()))[0] == 202
    async with asyncio.timeout(20):
        assert b"408" in await reader.readline()
    writer.close()


async def test_garbage_behind_a_request_leaves_no_trace_in_the_log(serving: Serving) -> None:
    host, _, port = serving.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\nGARBAGE\r\n\r\n")
    async with asyncio.timeout(20):
        assert b"400" in await reader.readline()
    writer.close()
    assert await serving.stop() == 0
    await serving.until("stopped")
    assert not [line for line in serving.lines if "exception" in line]


async def test_a_head_without_end_does_not_fill_the_memory(serving: Serving) -> None:
    host, _, port = serving.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    sent = 0
    with contextlib.suppress(OSError):
        writer.write(b"GET /healthz HTTP/1.1\r\n")
        while sent < 64 * 1024 * 1024:
            writer.write(b"A: b\r\n" * 10_000)
            await writer.drain()
            sent += 60_000
    assert sent < 32 * 1024 * 1024
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    assert (await post(serving, default()))[0] == 202


async def test_a_push_that_names_no_harbor_is_ignored_where_there_are_several(serving: Serving) -> None:
    event = default()
    del event["event_data"]["resources"][0]["resource_url"]
    event["event_data"]["repository"]["repo_full_name"] = "team/x"
    status, answer = await post(serving, event)
    assert status == 200
    assert "is at a Harbor that the event does not name" in answer["ignored"]
    assert "add the Harbor's name to the webhook's URL" in answer["ignored"]


@pytest.mark.parametrize("host", [None, "harbor.internal", "harbor.internal:8443"])
async def test_a_harbor_of_another_name_is_known_by_rules_that_only_one_has(serving: Serving, host: str | None) -> None:
    event = default()
    if host is None:
        del event["event_data"]["resources"][0]["resource_url"]
    else:
        event["event_data"]["resources"][0]["resource_url"] = f"{host}/team/app/api:v1.2.3"
    status, answer = await post(serving, event)
    assert status == 202
    assert [row["source"] for row in answer["queued"]] == ["harbor.example.com/team/app/api:v1.2.3"]
    event["event_data"]["repository"]["repo_full_name"] = "elsewhere/app"
    status, answer = await post(serving, event)
    assert (status, "which is not a source of any rule" in answer["ignored"]) == (200, True)


@pytest.mark.parametrize("host", ["harbor.example.com", "harbor.example.com:443", "HARBOR.example.com:443"])
@pytest.mark.parametrize("query", ["", "/harbor.example.com", "/harbor.example.com:443"])
async def test_both_spellings_of_a_harbor_hear_its_events(tmp_path: Path, host: str, query: str) -> None:
    harbor, destination = "harbor.example.com", "registry.cn-beijing.aliyuncs.com"
    images = {f"{harbor}/team/a": f"{destination}/x/a", f"{harbor}:443/team/b": f"{destination}/x/b"}
    images |= {f"{harbor}/team/c": f"{destination}/x/c", f"{harbor}:443/team/c": f"{destination}/x/d"}
    rules = tmp_path / "rules.json"
    rules.write_text(
        json.dumps(
            {"auth": {name: {"anonymous": True} for name in (harbor, f"{harbor}:443", destination)}, "images": images}
        )
    )
    async with running("serve", "--no-worker", "--config", rules, cwd=tmp_path) as serving:
        for name, ends in (("a", ["a"]), ("b", ["b"]), ("c", ["c", "d"])):
            event = default()
            event["event_data"]["repository"]["repo_full_name"] = f"team/{name}"
            event["event_data"]["resources"][0]["resource_url"] = f"{host}/team/{name}:v1.2.3"
            status, answer = await post(serving, event, query=query)
            assert (status, len(answer["queued"])) == (202, len(ends))
            assert {row["destination"] for row in answer["queued"]} == {f"{destination}/x/{end}:v1.2.3" for end in ends}


@pytest.mark.parametrize("path", ["/", "/harbor.example.com/"])
async def test_a_slash_at_the_end_is_taken_and_nothing_is_redirected(serving: Serving, path: str) -> None:
    status, answer = await post(serving, default(), query=path)
    assert (status, len(answer["queued"])) == (202, 1)
    async with aiohttp.ClientSession() as session:
        for method, other in (
            ("GET", "/webhooks/harbor/"),
            ("GET", "/healthz/"),
            ("POST", "/webhooks/"),
            ("GET", "//x"),
        ):
            async with session.request(method, f"{serving.url}{other}", allow_redirects=False) as response:
                assert (response.status in (404, 405), response.headers.get("Location")) == (True, None)


async def test_a_post_to_another_path_is_logged_once_a_minute_with_a_bounded_path(serving: Serving) -> None:
    async with aiohttp.ClientSession() as session:
        for path in (f"/webhook/harbor%0a{'x' * 5000}", "/", "/healthz", "/webhooks"):
            async with session.post(f"{serving.url}{path}", data=b"{}") as response:
                assert response.status in (404, 405)
    assert (await post(serving, default()))[0] == 202
    (line,) = await serving.until("webhook not found")
    assert line["path"].startswith("/webhook/harbor x")
    assert len(line["path"]) == 200
    assert (line["level"], line["expected"]) == ("warning", "/webhooks/harbor")
    assert await serving.stop() == 0
    assert len(serving.said("webhook not found")) == 1
