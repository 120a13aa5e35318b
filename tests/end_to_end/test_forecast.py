"""``backfill --dry-run --forecast`` tells what the run that follows sends and asks, within a tenth."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from replicator.replication.forecast import Forecast
from replicator.replication.repositories import QuotaCount
from replicator.timetable import parse_bandwidth
from tests.rules.building import ACR, HARBOR, rules_of
from tests.running import replicator
from tests.standins.images import image, index, layer, push
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.end_to_end.conftest import House

KIB = 1024


async def one_base(house: House) -> None:
    """Many tags of one repository that share their base."""
    base = [layer(1, 1500 * KIB), layer(2, 300 * KIB)]
    for number in range(12):
        root = image(number + 10, [120 * KIB, 900], base=base)
        await push(house.harbor.host, "library/app", f"v{number}", root, HARBOR_ROBOT)


async def several_repositories(house: House) -> None:
    """Repositories with an index for two architectures each; some of their layers are the same."""
    base = [layer(3, 1200 * KIB)]
    for number, name in enumerate(("web", "api", "db", "job")):
        for tag in ("v1", "v2"):
            seed = 100 + 10 * number + 4 * int(tag[1:])
            root = index([image(seed, [90 * KIB, 700], base=base), image(seed + 1, [80 * KIB], architecture="arm64")])
            await push(house.harbor.host, f"library/{name}", tag, root, HARBOR_ROBOT)


async def partly_in_place(house: House) -> None:
    """Images of which some are there, and some share layers with those, in the same or in another repository."""
    base = [layer(5, 2000 * KIB), layer(6, 200 * KIB)]
    for number in range(8):
        root = image(number + 200, [150 * KIB, 700], base=base)
        for name in ("app", "other"):
            await push(house.harbor.host, f"library/{name}", f"v{number}", root, HARBOR_ROBOT)
        if number < 4:
            await push(house.behind_acr, "image-syncer/app", f"v{number}", root)


@pytest.mark.parametrize("shape", [one_base, several_repositories, partly_in_place])
async def test_the_forecast_is_within_a_tenth_of_the_run(
    house: House, shape: Callable[[House], Awaitable[None]]
) -> None:
    await shape(house)
    rules = house.rules({"HARBOR/library/**": "ACR/image-syncer/{name}"})
    logs = (house.harbor.faults.log, house.acr.faults.log)
    options = ("--dry-run", "--forecast", "--rate=10kB/s")
    ended = await replicator("backfill", "--config", rules, *options, cwd=house.directory)
    assert ended.code == 0, ended.said
    told = dict(re.findall(r"^([a-z ]+): (.+)$", ended.out, re.MULTILINE))
    assert not [entry for entry in house.acr.faults.log if entry.method not in ("GET", "HEAD")], "nothing is written"
    for log in logs:
        log.clear()
    ended = await replicator("backfill", "--config", rules, cwd=house.directory)
    assert ended.code == 0, ended.said
    sent = sum(entry.request_bytes for entry in house.acr.faults.log.select("PUT", "/blobs/uploads/"))
    assert int(told["bytes"]) == pytest.approx(sent, rel=0.1)
    assert int(told["requests"]) == pytest.approx(sum(map(len, logs)), rel=0.1)
    assert int(told["seconds"]) == pytest.approx(sent / 10_000, rel=0.1)
    assert f"{told['tags']}  copied" in ended.out
    assert int(told["manifests"]) == house.acr.faults.log.count("PUT", "/manifests/")


def test_the_time_goes_by_the_rate_of_each_registry_and_quotas_are_those_of_the_rules() -> None:
    rules = rules_of({f"{HARBOR}/team/{name}": f"{ACR}/mirror/{name}" for name in ("a", "b")})
    forecast = Forecast(parse_bandwidth("unlimited; slow.example.com=1MB/s; r.example.com=2MB/s"))
    assert forecast.facts(QuotaCount(rules))["quota"] == [
        f"{ACR}: the rules need 1 of 3 namespaces and up to 2 of 300 repositories"
    ]
    assert forecast.facts(None)["seconds"] is None
    forecast.bytes.update({"slow.example.com": 90_000_000, "r.example.com": 100_000_000, "other.example.com": 10**12})
    assert forecast.seconds == 90.0
    assert forecast.facts(None)["forecast"] == "1.0 TB in 1 min"
