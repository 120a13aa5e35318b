"""Every exposition can be parsed, and follows Prometheus's conventions."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from replicator.copy import Outcome, Result
from replicator.errors import ErrorClass
from replicator.harbor.events import TYPES, Fate
from replicator.queue import Attempt, AttemptEnd, Lane
from replicator.queue.leaders import Sweeps
from replicator.server.metrics import FAMILIES, Family
from replicator.timetable import UNLIMITED, parse_bandwidth, parse_request_rates
from tests.scraping import OPEN_METRICS, OWN, Scrape, parsed
from tests.server.metrics.conftest import RULE

if TYPE_CHECKING:
    from replicator.queue import Queue
    from replicator.server.metrics import Metrics

ACR = "registry.cn-beijing.aliyuncs.com"
LIMITS = {"upload": parse_bandwidth("8Mbit/s").general, "requests": parse_request_rates("50").general}


def attempt(
    end: AttemptEnd = AttemptEnd.DONE,
    result: Result = Result.COPIED,
    error_class: ErrorClass | None = None,
    *,
    rule: object = RULE,
    lane: Lane = Lane.EVENTS,
    lag: float | None = 1.0,
) -> Attempt:
    outcome = Outcome(result, "a", "b", blobs_copied=1, blobs_mounted=2, blobs_present=3).to_json()
    payload = {"rule": rule}
    return Attempt(f"{ACR}/b:1", lane, end, payload, outcome if end is AttemptEnd.DONE else None, error_class, 0.5, lag)


def use(metrics: Metrics) -> None:
    """Have each metric move."""
    for kind in (*TYPES, "unheard of", None):
        for fate in Fate:
            metrics.deliveries.delivered(kind, fate)
    for result in Result:
        metrics.attempts.attempt_ended(attempt(result=result))
    for error_class in ErrorClass:
        metrics.attempts.attempt_ended(attempt(AttemptEnd.DEAD, error_class=error_class))
    for error_class in (ErrorClass.TRANSIENT, ErrorClass.NOT_YET):
        metrics.attempts.attempt_ended(attempt(AttemptEnd.RETRIED, error_class=error_class))
    metrics.attempts.lease_lost()
    for status in (200, 404, None, 799):
        metrics.requests.answered(ACR, "GET", status, 0.1)
    metrics.requests.received(ACR, 10)
    metrics.requests.sent(ACR, 20)
    metrics.requests.throttled(ACR)
    metrics.requests.refused(ACR, "denied")
    metrics.requests.observer.certified(ACR, 2e9)
    metrics.watch_outbox({"1" * 16: "events.example.com"})
    metrics.watch_disk(Path("/"))
    metrics.watch_limits(lambda kind, _: LIMITS[kind])


async def exposed(metrics: Metrics, accept: str = "") -> Scrape:
    text, content_type = await metrics.expose(accept)
    return parsed(text.decode(), content_type)


@pytest.mark.parametrize("accept", ["", OPEN_METRICS], ids=["text", "openmetrics"])
async def test_what_is_exposed_is_what_is_documented(metrics: Metrics, queue: Queue, accept: str) -> None:
    use(metrics)
    sweeps = Sweeps(queue, lease=30)
    await sweeps.begin()
    await sweeps.end("", {"harbor.example.com": True}, {"harbor.example.com": 2e9})
    found = await exposed(metrics, accept)
    by_name = {family.name + ("_total" if family.type == "counter" else ""): family for family in found.families}
    assert {name for name in by_name if name.startswith(OWN)} == {family.name for family in FAMILIES}
    for family in FAMILIES:
        seen = by_name[family.name]
        assert (seen.type, seen.documentation) == (family.kind, family.help)
        assert seen.samples, family.name
        for sample in seen.samples:
            assert set(sample.labels) - {"le"} == set(family.labels)


async def test_a_first_burst_of_refusals_is_a_change(metrics: Metrics) -> None:
    found = await exposed(metrics)
    events = found.series("replicator_events_total")
    assert {(result, kind) for kind in ("other", "PUSH_ARTIFACT") for result in Fate} <= set(events)
    refusals = found.series("replicator_registry_refusals_total", result="denied")
    assert set(refusals) == {(host, "denied") for host in ("harbor.example.com", ACR, "other")}
    requests = found.series("replicator_registry_requests_total")
    assert {(host, "PUT", "403") for host in ("harbor.example.com", ACR, "other")} <= set(requests)
    failed = found.series("replicator_copies_total", outcome="failed")
    assert set(failed) == {
        (host, lane.value, "failed", rule) for host, rule in ((ACR, RULE), ("other", "other")) for lane in Lane
    }
    for series in (events, refusals, requests, failed):
        assert set(series.values()) == {0}


async def test_copies_and_their_lag_are_told_apart_by_destination(metrics: Metrics) -> None:
    for id_ in (f"{ACR}/b:1", f"{ACR}/c:1", "unknown.example.com/b:1"):
        metrics.attempts.attempt_ended(replace(attempt(), id=id_))
    found = await exposed(metrics)
    for name in ("replicator_copies_total", "replicator_copy_lag_seconds_count"):
        assert found.value(name, destination_host=ACR) == 2
        assert found.value(name, destination_host="other") == 1


@pytest.mark.parametrize("accept", ["", OPEN_METRICS], ids=["text", "openmetrics"])
async def test_a_process_that_has_done_nothing_can_be_scraped(metrics: Metrics, accept: str) -> None:
    found = await exposed(metrics, accept)
    for name in ("replicator_copy_retries_total", "replicator_blobs_total", "replicator_lease_losses_total"):
        assert set(found.series(name).values()) == {0}, "a first one must be a change"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_names_follow_the_conventions_of_prometheus(family: Family) -> None:
    assert re.fullmatch(r"replicator_[a-z]+(_[a-z]+)*", family.name)
    assert family.name.endswith("_total") == (family.kind == "counter")
    assert not re.search(r"_(count|sum|bucket|created|milliseconds|minutes|kb|mb)(_|$)", family.name)
    assert family.help.endswith(".")
    assert (family.kind == "histogram") == bool(family.buckets)
    if family.kind == "histogram":
        assert family.name.endswith("_seconds"), "the base unit"
    assert list(family.buckets) == sorted(set(family.buckets))
    assert not {"le", "quantile", "job", "instance"} & set(family.labels), "labels that Prometheus sets itself"


async def test_what_a_destination_refuses_is_counted_by_itself(metrics: Metrics) -> None:
    skipped = attempt(result=Result.SKIPPED)
    metrics.attempts.attempt_ended(replace(skipped, outcome={**(skipped.outcome or {}), "refused": "chart"}))
    assert (await exposed(metrics)).counted("replicator_copies_total") == {(ACR, "events", "refused", RULE): 1}


@pytest.mark.parametrize(
    ("result", "outcome", "lagged"),
    [
        (Result.COPIED, "copied", 1),
        (Result.UP_TO_DATE, "in_place", 1),
        (Result.SKIPPED, "skipped", 0),
        (Result.SOURCE_GONE, "skipped", 0),
    ],
)
async def test_each_result_has_its_outcome_and_only_a_right_tag_has_a_lag(
    metrics: Metrics, result: Result, outcome: str, lagged: int
) -> None:
    metrics.attempts.attempt_ended(attempt(result=result))
    found = await exposed(metrics)
    assert found.counted("replicator_copies_total") == {(ACR, "events", outcome, RULE): 1}
    assert found.counted("replicator_copy_duration_seconds_sum") == {(outcome,): 0.5}
    assert found.value("replicator_copy_lag_seconds_count") == lagged
    assert found.series("replicator_blobs_total") == {("copied",): 1, ("mounted",): 2, ("present",): 3}


@pytest.mark.parametrize(("lane", "lag"), [(Lane.BACKFILL, 1.0), (Lane.EVENTS, None)])
async def test_no_lag_is_made_up(metrics: Metrics, lane: Lane, lag: float | None) -> None:
    metrics.attempts.attempt_ended(attempt(lane=lane, lag=lag))
    found = await exposed(metrics)
    assert found.value("replicator_copy_lag_seconds_count") == 0
    assert found.value("replicator_copies_total", lane=lane.value) == 1


async def test_a_limit_is_shown_for_every_host_of_the_rules_that_has_one(metrics: Metrics) -> None:
    assert (await exposed(metrics)).series("replicator_registry_upload_limit_bytes") == {}
    limits = parse_bandwidth(f"8Mbit/s; {ACR}=00:00-24:00 unlimited, else 8Mbit/s; other.example.com=1MB/s")
    metrics.watch_limits(lambda kind, host: limits.of(host) if kind == "upload" else UNLIMITED)
    found = await exposed(metrics)
    assert found.series("replicator_registry_upload_limit_bytes") == {
        ("harbor.example.com",): 1e6,
        (ACR,): float("inf"),
    }
    assert found.series("replicator_registry_requests_limit") == {}


async def test_a_bug_in_counting_is_contained_and_logged_once_a_minute(metrics: Metrics) -> None:
    broken = Attempt("b", Lane.EVENTS, AttemptEnd.DONE, {}, {"result": "no such result"}, None, 0.5, None)
    with capture_logs() as lines:
        for _ in range(5):
            metrics.attempts.attempt_ended(broken)
            metrics.requests.received(ACR, -1)
    assert [line["event"] for line in lines] == ["metrics broken"] * 2, "one each for attempts and for requests"
    assert (await exposed(metrics)).value("replicator_copies_total") == 0
