"""Metrics match the events, from a push to Harbor to the tag at ACR, and during failures."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from replicator import __version__
from replicator.queue import Queue
from replicator.server.metrics.families import LOOKED_UP
from tests.end_to_end.test_failures import DENIED, destination
from tests.end_to_end.test_push import EVERYTHING
from tests.harbor.test_events import default
from tests.queue.servers import RedisServer
from tests.running import TOKEN, Serving, replicator, running
from tests.scraping import OPEN_METRICS, Scrape, scrape, scraped_until
from tests.standins.faults import Answer, Delay, Fault, Hold
from tests.standins.images import blobs_of, image, push
from tests.standins.logins import ACR_USER, HARBOR_ROBOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.end_to_end.conftest import House

SECRETS = (TOKEN, ACR_USER[1], HARBOR_ROBOT[1])


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp") as short, RedisServer(Path(short) / "redis") as server:
        yield server


def rule(house: House) -> str:
    return f"{house.harbor.host}/library/**"


def policy(house: House, serving: Serving) -> None:
    house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)


def copies(found: Scrape, outcome: str) -> float:
    return found.value("replicator_copies_total", outcome=outcome)


async def deliver(serving: Serving, body: bytes | dict[str, object], token: str = TOKEN) -> int:
    data = io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{serving.url}/webhooks/harbor", headers={"Authorization": token}, data=data) as answer,
    ):
        return answer.status


async def test_a_push_moves_the_counters_by_exactly_what_it_made(house: House) -> None:
    root = image(1, (50_000, 3_000))
    size = sum(blob.size for blob in root.blobs)
    # With public: allow no question without a login follows the copy, at its own time.
    rules = house.rules({key: {"to": to, "public": "allow"} for key, to in EVERYTHING.items()})
    async with running("serve", "--config", rules, cwd=house.directory) as serving:
        before = await scrape(serving.url)
        assert copies(before, "copied") == 0
        policy(house, serving)
        await push(house.harbor.host, "library/app", "v1", root, HARBOR_ROBOT)
        after = await scraped_until(serving.url, lambda found: copies(found, "copied") > 0)
        assert after.counted("replicator_copies_total") == {(house.acr.host, "events", "copied", rule(house)): 1}
        assert after.counted("replicator_events_total") == {("queued", "PUSH_ARTIFACT"): 1}
        assert after.value("replicator_copy_lag_seconds_count") == 1
        assert after.value("replicator_copy_lag_seconds_sum") < 60
        assert after.counted("replicator_copy_duration_seconds_count") == {("copied",): 1}
        assert after.value("replicator_copy_duration_seconds_sum") > 0
        blobs = {("copied",): len(root.blobs), ("mounted",): 0, ("present",): 0}
        assert after.series("replicator_blobs_total") == blobs
        assert after.value("replicator_copy_retries_total") == 0
        assert after.value("replicator_lease_losses_total") == 0
        for side, stand_in in (("harbor", house.harbor), ("acr", house.acr)):
            # Harbor has been asked by who pushed, too: those requests carry another login or another agent.
            log = [entry for entry in stand_in.faults.log if "replicator/" in entry.headers.get("User-Agent", "")]
            asked = {(entry.method, str(entry.status)) for entry in log}
            counted = after.series("replicator_registry_requests_total", host=stand_in.host)
            assert {(method, status): counted[stand_in.host, method, status] for method, status in asked} == {
                (method, status): sum((entry.method, str(entry.status)) == (method, status) for entry in log)
                for method, status in asked
            }, side
        # Besides the blobs only manifests, tokens and a word on errors go over the wire.
        assert size < after.value("replicator_registry_received_bytes_total", host=house.harbor.host) < size + 20_000
        assert size < after.value("replicator_registry_sent_bytes_total", host=house.acr.host) < size + 20_000
        assert after.value("replicator_registry_sent_bytes_total", host=house.harbor.host) == 0
        assert after.value("replicator_registry_throttled_total") == 0
        requests = after.value("replicator_registry_requests_total")
        errors = after.value("replicator_registry_requests_total", status="error")
        assert after.value("replicator_registry_request_duration_seconds_count") == requests - errors
        assert after.value("replicator_build_info", version=__version__, role="serve") == 1
        assert after.value("process_resident_memory_bytes") > 0

        # The same bytes once more: nothing is sent.
        await push(house.harbor.host, "library/app", "v1", root, HARBOR_ROBOT)
        again = await scraped_until(serving.url, lambda found: copies(found, "in_place") > 0)
        assert again.counted("replicator_copies_total") == {
            (house.acr.host, "events", "copied", rule(house)): 1,
            (house.acr.host, "events", "in_place", rule(house)): 1,
        }
        assert again.value("replicator_copy_lag_seconds_count") == 2
        assert again.series("replicator_blobs_total") == blobs


async def test_blobs_are_told_by_how_they_came(house: House) -> None:
    root = image(1, (50_000,))
    async with running("serve", "--config", house.rules(EVERYTHING), cwd=house.directory) as serving:
        policy(house, serving)
        await push(house.harbor.host, "library/first", "v1", root, HARBOR_ROBOT)
        await serving.until("copy done")
        await push(house.harbor.host, "library/second", "v1", root, HARBOR_ROBOT)
        lines = await serving.until("copy done", count=2)
        found = await scraped_until(serving.url, lambda found: copies(found, "copied") > 1)
    for how in ("copied", "mounted", "present"):
        assert found.value("replicator_blobs_total", how=how) == sum(line[f"blobs_{how}"] for line in lines)
    assert found.value("replicator_blobs_total") == 2 * len(blobs_of(root))


async def test_deliveries_are_counted_by_what_became_of_them(house: House, redis: RedisServer) -> None:
    settings = {"REPLICATOR_REDIS_URL": redis.url}
    rules = house.rules(EVERYTHING)
    async with running("serve", "--no-worker", "--config", rules, cwd=house.directory, settings=settings) as serving:
        event = default()
        event["event_data"]["repository"]["repo_full_name"] = "library/app"
        event["event_data"]["resources"][0]["resource_url"] = f"{house.harbor.host}/library/app:v1"
        assert await deliver(serving, event) == 202
        assert await deliver(serving, event, token="wrong") == 401
        assert await deliver(serving, b"no event") == 400
        assert await deliver(serving, b"{" * 2_000_000) == 413
        assert await deliver(serving, {"type": "PULL_ARTIFACT"}) == 200
        assert await deliver(serving, {"type": 'no\nsuch\ttype"}'}) == 200
        redis.kill()
        assert await deliver(serving, event) == 503
        found = await scrape(serving.url)
    assert found.counted("replicator_events_total") == {
        ("queued", "PUSH_ARTIFACT"): 1,
        ("unavailable", "PUSH_ARTIFACT"): 1,
        ("unauthorized", "other"): 1,
        ("malformed", "other"): 2,
        ("ignored", "PULL_ARTIFACT"): 1,
        ("ignored", "other"): 1,
    }


async def test_a_registry_that_wants_fewer_requests_is_seen(house: House) -> None:
    async with running("serve", "--config", house.rules(EVERYTHING), cwd=house.directory) as serving:
        policy(house, serving)
        answer = Answer(429, "TOOMANYREQUESTS", headers={"Retry-After": "0"})
        fault = house.acr.faults.add(Fault(answer, method="POST", path="/blobs/uploads/", times=2))
        await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
        found = await scraped_until(serving.url, lambda found: copies(found, "copied") > 0)
    assert fault.hits == 2
    assert found.series("replicator_registry_throttled_total") == {
        (house.acr.host,): 2,
        (house.harbor.host,): 0,
        ("other",): 0,
    }
    assert found.value("replicator_registry_requests_total", host=house.acr.host, method="POST", status="429") == 2


async def test_failed_tries_are_counted_by_class_and_leave_the_lag_to_the_one_that_goes_well(house: House) -> None:
    async with running("serve", "--config", house.rules(EVERYTHING), cwd=house.directory) as serving:
        policy(house, serving)
        house.harbor.faults.add(Fault(Answer(412, "PROJECTPOLICYVIOLATION"), method="GET", path="/manifests/", times=1))
        await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
        found = await scraped_until(serving.url, lambda found: copies(found, "retried") > 0)
        assert found.series("replicator_copy_retries_total") == {("not_yet",): 1, ("transient",): 0}
        assert found.value("replicator_copy_lag_seconds_count") == 0
        assert found.value("replicator_queue_jobs", lane="events", state="waiting") == 1
        # Pushed again, it does not wait; the lag is that of the first push.
        await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
        found = await scraped_until(serving.url, lambda found: copies(found, "copied") > 0)
        assert found.value("replicator_copy_lag_seconds_count") == 1
        assert found.value("replicator_queue_jobs") == 0
        (line,) = await serving.until("copy done")
        assert line["lag"] > 0


async def test_a_registry_that_fails_is_seen_in_its_requests_and_in_the_class_of_the_retries(house: House) -> None:
    async with running("serve", "--config", house.rules(EVERYTHING), cwd=house.directory) as serving:
        policy(house, serving)
        fault = house.harbor.faults.add(Fault(Answer(502), method="GET", path="/manifests/", times=None))
        await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
        found = await scraped_until(serving.url, lambda found: copies(found, "retried") > 0)
        retried = copies(found, "retried")
        assert found.series("replicator_copy_retries_total") == {("not_yet",): 0, ("transient",): retried}
        assert found.value("replicator_copy_duration_seconds_count", outcome="retried") == retried
        assert found.value("replicator_registry_requests_total", host=house.harbor.host, status="502") >= 3
        fault.times = fault.hits
        await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
        found = await scraped_until(serving.url, lambda found: copies(found, "copied") > 0)
    requests = found.value("replicator_registry_requests_total", host=house.harbor.host, method="GET", status="502")
    assert requests == fault.hits


async def test_what_is_given_up_is_a_failed_copy_and_a_dead_letter_until_someone_looks_after_it(house: House) -> None:
    async with running("serve", "--config", house.rules(DENIED), cwd=house.directory) as serving:
        policy(house, serving)
        await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
        found = await scraped_until(serving.url, lambda found: copies(found, "failed") > 0)
        assert found.counted("replicator_copies_total") == {(house.acr.host, "events", "failed", rule(house)): 1}
        assert found.value("replicator_registry_refusals_total", host=house.acr.host, result="denied") == 1
        assert found.value("replicator_dead_letters") == 1
        assert found.value("replicator_copy_retries_total") == 0
        assert (await replicator("failures", "drop", destination(house), cwd=house.directory)).code == 0
        assert (await scrape(serving.url)).value("replicator_dead_letters") == 0


async def test_a_scrape_answers_while_redis_is_away_and_tells_that(house: House, redis: RedisServer) -> None:
    settings = {"REPLICATOR_REDIS_URL": redis.url}
    rules = house.rules(EVERYTHING)
    async with running("serve", "--config", rules, cwd=house.directory, settings=settings) as serving:
        policy(house, serving)
        assert (await scrape(serving.url)).value("replicator_queue_up") == 1
        slow = house.acr.faults.add(Fault(Delay(0.5), method="POST", path="/blobs/uploads/", times=1))
        await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
        async with asyncio.timeout(30):
            while not slow.hits:
                await asyncio.sleep(0.01)
        redis.kill()
        away = await scrape(serving.url)
        assert away.series("replicator_queue_up") == {(): 0}
        assert {family.name for family in LOOKED_UP} & away.names == {"replicator_queue_up"}
        assert away.value("replicator_events_total", result="queued") == 1
        redis.start()
        back = await scraped_until(serving.url, lambda found: copies(found, "copied") > 0)
        assert back.value("replicator_queue_up") == 1
        assert copies(back, "retried") == 0


async def test_a_lost_lease_is_counted_and_its_copy_is_not(house: House, redis: RedisServer) -> None:
    settings = {"REPLICATOR_REDIS_URL": redis.url, "REPLICATOR_LEASE": "10"}
    rules = house.rules(EVERYTHING)
    async with running("serve", "--config", rules, cwd=house.directory, settings=settings) as serving:
        policy(house, serving)
        slow = house.acr.faults.add(Fault(held := Hold(), method="POST", path="/blobs/uploads/", times=1))
        await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
        async with asyncio.timeout(30):
            while not slow.hits:
                await asyncio.sleep(0.01)
        id_ = f"{house.acr.host}/image-syncer/app:v1"
        async with await Queue.connect(redis.url) as queue:
            await queue.redis.set(f"arq:in-progress:replicator:{id_}", "another", px=60_000)
        held.released.set()
        found = await scraped_until(serving.url, lambda found: found.value("replicator_lease_losses_total") > 0)
    assert found.value("replicator_lease_losses_total") == 1
    assert found.value("replicator_copies_total") == 0


async def test_a_worker_serves_metrics_and_probes_where_it_is_told_to(house: House) -> None:
    rules = house.rules(EVERYTHING)
    settings = {"REPLICATOR_METRICS_LISTEN": "127.0.0.1:0"}
    async with running("serve", "--no-worker", "--config", rules, cwd=house.directory) as serving:
        policy(house, serving)
        async with running(
            "worker", "--config", rules, cwd=house.directory, ready="worker started", settings=settings
        ) as worker:
            (line,) = await worker.until("listening for probes")
            url = f"http://{line['address']}"
            await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
            found = await scraped_until(url, lambda found: copies(found, "copied") > 0)
            assert found.value("replicator_events_total") == 0
            assert found.value("replicator_copy_lag_seconds_count") == 1
            async with aiohttp.ClientSession() as session:
                for path in ("healthz", "readyz"):
                    async with session.get(f"{url}/{path}") as answer:
                        assert answer.status == 200
                async with session.post(f"{url}/webhooks/harbor", json={}) as answer:
                    assert answer.status == 404
            assert await worker.stop() == 0
        beside = await scrape(serving.url)
        assert beside.value("replicator_events_total") == 1
        assert beside.value("replicator_copies_total") == 0


async def test_a_worker_that_is_told_nothing_listens_nowhere(house: House) -> None:
    rules = house.rules(EVERYTHING)
    async with running("worker", "--config", rules, cwd=house.directory, ready="worker started") as worker:
        sockets = Path(f"/proc/{worker.process.pid}/net/tcp").read_text().splitlines()[1:]
        own = {link.readlink().name for link in Path(f"/proc/{worker.process.pid}/fd").iterdir() if link.is_symlink()}
        listening = {f"socket:[{line.split()[9]}]" for line in sockets if line.split()[3] == "0A"}
        assert not listening & own
        assert worker.said("listening for probes") == []


async def test_an_address_of_their_own_takes_the_metrics_off_the_webhooks(house: House) -> None:
    settings = {"REPLICATOR_METRICS_LISTEN": "127.0.0.1:0"}
    rules = house.rules(EVERYTHING)
    async with running("serve", "--config", rules, cwd=house.directory, settings=settings) as serving:
        (line,) = await serving.until("listening for probes")
        assert (await scrape(f"http://{line['address']}")).value("replicator_queue_up") == 1
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{serving.url}/metrics") as answer:
                assert answer.status == 404
            async with session.get(f"{serving.url}/readyz") as answer:
                assert answer.status == 200


@pytest.mark.parametrize("accept", ["text/plain", OPEN_METRICS, "text/plain; version=\xff", "*/*", ""])
async def test_no_scrape_holds_a_secret_in_any_format(house: House, accept: str) -> None:
    async with running("serve", "--config", house.rules(EVERYTHING), cwd=house.directory) as serving:
        policy(house, serving)
        await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
        await scraped_until(serving.url, lambda found: copies(found, "copied") > 0)
        found = await scrape(serving.url, accept)
    assert copies(found, "copied") == 1
    for secret in SECRETS:
        assert secret not in found.text


async def test_a_push_that_a_backfill_asked_for_too_has_a_lag_and_a_backfill_has_none(house: House) -> None:
    rules = house.rules(EVERYTHING)
    await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
    async with running("serve", "--config", rules, cwd=house.directory) as serving:
        assert (await replicator("backfill", "--detach", "--config", rules, cwd=house.directory)).code == 0
        found = await scraped_until(serving.url, lambda found: copies(found, "copied") > 0)
    assert found.counted("replicator_copies_total") == {(house.acr.host, "backfill", "copied", rule(house)): 1}
    assert found.value("replicator_copy_lag_seconds_count") == 0


@pytest.mark.parametrize("command", ["serve", "worker"])
async def test_an_address_that_is_taken_is_told_before_anything_starts(house: House, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = {
            "REPLICATOR_METRICS_LISTEN": address,
            "REPLICATOR_LISTEN": "127.0.0.1:0",
            "REPLICATOR_WEBHOOK_TOKEN": TOKEN,
        }
        ended = await replicator(command, "--config", house.rules(EVERYTHING), cwd=house.directory, settings=settings)
    assert ended.code == 2
    assert (
        f"REPLICATOR_METRICS_LISTEN: {address}: can't be listened on: another program listens there; stop it"
        in ended.err
    )
    assert not (house.directory / "state").exists()


async def test_metrics_are_there_until_the_last_copy_has_ended(house: House) -> None:
    settings = {"REPLICATOR_METRICS_LISTEN": "127.0.0.1:0"}
    rules = house.rules(EVERYTHING)
    async with running("serve", "--config", rules, cwd=house.directory, settings=settings) as serving:
        policy(house, serving)
        (line,) = await serving.until("listening for probes")
        url = f"http://{line['address']}"
        hold = Hold()
        fault = house.acr.faults.add(Fault(hold, method="PUT", path="/manifests/", times=1))
        await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
        async with asyncio.timeout(20):
            while not fault.hits:
                await asyncio.sleep(0.01)
        serving.process.terminate()
        await serving.until("worker stopping")
        assert (await scrape(url)).value("replicator_queue_jobs", state="running") == 1
        async with aiohttp.ClientSession() as session, session.get(f"{url}/readyz") as answer:
            assert answer.status == 503
            assert "stopping" in await answer.text()
        hold.released.set()
        assert await serving.process.wait() == 0
    assert serving.said("copy done")
