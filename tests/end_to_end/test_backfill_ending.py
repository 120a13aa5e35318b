"""``replicator backfill`` that ends early: at a signal, or at the first failure."""

from __future__ import annotations

import asyncio
import json
import signal
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from tests.end_to_end.conftest import report
from tests.queue.servers import RedisServer
from tests.running import begun, replicator
from tests.standins.faults import Answer, Delay, Fault
from tests.standins.images import image, push
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.end_to_end.conftest import House

FAST = ("--fail-fast", "--retries=0", "--report=r.json")


async def pushed(house: House, number: int) -> Path:
    """Push so many tags, of which the highest comes first; return the rules that copy them."""
    for one in range(number):
        await push(house.harbor.host, "library/app", f"v{one}", image(one + 1), HARBOR_ROBOT)
    return house.rules({"HARBOR/library/app": "ACR/image-syncer/app"})


def outcomes(house: House) -> dict[str, int]:
    return Counter(row["outcome"] for row in report(house.directory / "r.json").values())


async def test_the_first_failure_ends_the_run_and_leaves_nothing_in_the_queue(house: House) -> None:
    rules = await pushed(house, 6)
    house.acr.faults.add(Fault(Answer(403, "DENIED"), "PUT", "/manifests/v5", times=None))
    ended = await replicator("backfill", "--config", rules, "--proc=1", *FAST, cwd=house.directory)
    assert ended.code == 1, ended.said
    assert outcomes(house) == {"failed": 1, "not begun": 5}
    assert "Stopped at the first failure after" in ended.out
    assert "Not started: 5; run the backfill again to copy them" in ended.out
    assert house.acr.faults.log.count("PUT", "/manifests/", 201) == 0
    status = await replicator("status", "--json", cwd=house.directory)
    assert json.loads(status.out)["lanes"]["backfill"] == {"queued": 0, "running": 0, "waiting": 0}


async def test_what_runs_when_another_copy_fails_is_finished(house: House) -> None:
    rules = await pushed(house, 6)
    slow = house.acr.faults.add(Fault(Delay(1.0), "PUT", "/manifests/v5", times=None))
    house.acr.faults.add(Fault(Answer(403, "DENIED"), "PUT", "/manifests/v4", times=None))
    ended = await replicator("backfill", "--config", rules, "--proc=2", *FAST, cwd=house.directory)
    assert ended.code == 1, ended.said
    rows = report(house.directory / "r.json")
    assert slow.hits == 1
    assert (rows["v5"]["outcome"], rows["v4"]["outcome"]) == ("copied", "failed")
    assert rows["v0"]["outcome"] == "not begun"


async def test_what_can_not_be_listed_or_compared_is_a_first_failure_too(house: House) -> None:
    await pushed(house, 4)
    images = {"HARBOR/library/app:v1,absent,v2": "ACR/image-syncer/app", "HARBOR/nowhere/**": "ACR/cache/{name}"}
    rules = house.rules(images)
    house.harbor.faults.add(Fault(Answer(403, "FORBIDDEN"), "GET", "/projects/nowhere/", times=None))
    ended = await replicator("backfill", "--config", rules, *FAST, cwd=house.directory)
    assert ended.code == 1, ended.said
    assert "can't be listed" in ended.out
    assert house.acr.faults.log.count("PUT") == 0
    ended = await replicator(
        "backfill", "--config", rules, "--only=library/app", "--dry-run", "--proc=1", *FAST, cwd=house.directory
    )
    assert ended.code == 1, ended.said
    assert outcomes(house) == {"would copy": 2, "failed": 1}
    ended = await replicator(
        "backfill",
        "--config",
        rules,
        "--only=library/app:absent,v1",
        "--dry-run",
        "--proc=1",
        *FAST,
        cwd=house.directory,
    )
    assert ended.code == 1, ended.said


async def test_without_a_failure_everything_is_copied(house: House) -> None:
    rules = await pushed(house, 6)
    ended = await replicator("backfill", "--config", rules, "--proc=2", *FAST, cwd=house.directory)
    assert ended.code == 0, ended.said
    assert outcomes(house) == {"copied": 6}


async def interrupted(house: House, rules: Path, ready: Callable[[], object]) -> str:
    """Run a backfill until something has come about, end it as an operator would, and return its summary."""
    backfill = begun("backfill", "--config", rules, "--report=r.json", cwd=house.directory)
    async with backfill as process, asyncio.timeout(30):
        while not ready():
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        out, err = await process.communicate()
    assert process.returncode == 130, err.decode()
    return out.decode()


async def test_the_summary_of_an_interrupted_run_accounts_for_every_tag(house: House) -> None:
    rules = await pushed(house, 20)
    house.acr.faults.add(Fault(Delay(3600), "HEAD", "/manifests/v(?!19$)", times=None))
    out = await interrupted(house, rules, lambda: house.acr.faults.log.count("PUT", "/manifests/v", 201))
    assert outcomes(house) == {"copied": 1, "not begun": 19}
    assert "Not started: 19; run the backfill again to copy them" in out
    assert "Still queued" not in out


async def test_interrupted_while_it_lists_it_accounts_for_what_was_listed(house: House) -> None:
    await pushed(house, 3)
    # What is written out needs no list, so it is there first.
    rules = house.rules(
        {"HARBOR/library/app:v0,v1,v2": "ACR/image-syncer/app", "HARBOR/library/x": "ACR/image-syncer/x"}
    )
    slow = house.harbor.faults.add(Fault(Delay(3600), "GET", "/repositories/x/artifacts", times=None))
    held = house.acr.faults.add(Fault(Delay(3600), "HEAD", "/manifests/", times=None))
    out = await interrupted(house, rules, lambda: slow.hits and held.hits == 3)
    assert outcomes(house) == {"not begun": 3}
    assert "Interrupted after" in out
    assert "The list of tags is incomplete" in out


async def test_a_queue_that_is_away_breaks_the_run_off_and_nothing_is_said_to_be_done(house: House) -> None:
    rules = await pushed(house, 3)
    slow = house.acr.faults.add(Fault(Delay(1.0), "HEAD", "/manifests/", times=None))
    with tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp") as short, RedisServer(Path(short)) as redis:
        backfill = asyncio.create_task(
            replicator(
                "backfill",
                "--config",
                rules,
                "--report=r.json",
                cwd=house.directory,
                settings={"REPLICATOR_REDIS_URL": redis.url},
            )
        )
        async with asyncio.timeout(30):
            while not slow.hits:
                await asyncio.sleep(0.01)
        redis.kill()
        ended = await backfill
    assert ended.code == 1, ended.said
    assert "can't accept or hand out work" in ended.err
    assert "Aborted after" in ended.out
    assert outcomes(house) == {"not begun": 3}
