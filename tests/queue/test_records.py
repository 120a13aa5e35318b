"""Records: typed in Python, JSON in Redis, and readable by older and newer versions of this program."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import ErrorClass
from replicator.queue import DeadLetter, Finished, Lane, ProcessInfo, WaitingJob, WorkerInfo
from replicator.queue.attempt import Failure
from replicator.queue.job import RunningRecord, encode_running
from replicator.queue.leaders import Complaint
from replicator.queue.records import EPOCH, decode, encode, milliseconds, moment

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
RECORDS = [
    Complaint("h", "no answer", 1),
    DeadLetter("a", Lane.EVENTS, {"source": "h/a"}, ErrorClass.PERMANENT, "no", 3, NOON, NOON),
    Failure("a", ErrorClass.NOT_YET, "no", 1, NOON, NOON),
    Finished("a", None, "no", ErrorClass.TRANSIENT, 1, 0.5, retrying=True),
    ProcessInfo("serve", "1", "h", 1, NOON, NOON, None),
    ProcessInfo("serve", "1", "h", 1, NOON, NOON, None, "upload 20Mbit/s"),
    RunningRecord("t", Lane.BACKFILL, "w", NOON, 1, 0, 5, 0, NOON),
    WaitingJob("a", Lane.EVENTS, ErrorClass.TRANSIENT, "no", 1, NOON, NOON),
    WorkerInfo("w", "h", 1, NOON, NOON, {Lane.EVENTS: 1}, {Lane.EVENTS: 4}, stopping=False),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_comes_back_as_it_was_also_with_a_key_that_only_a_newer_version_knows(record: Any) -> None:
    fields = json.loads(encode(record))
    assert decode(type(record), json.dumps({**fields, "of a newer version": [1]}).encode()) == record


@pytest.mark.parametrize("data", [b"", b"[]", b"7", b"{}", b'{"id": "a"}', b"\xff", b'{"id": ["a"], "first": "noon"}'])
def test_anything_else_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(Failure, data)
    with pytest.raises(ValueError, match=r"."):
        decode(Failure, data, tries=1)


@given(st.integers(0, 4_000_000_000_000))
def test_a_time_keeps_its_milliseconds(stored: int) -> None:
    assert milliseconds(moment(stored)) == stored


@pytest.mark.parametrize("stored", [1, 1000, 20_000_000_000, 1_795_933_467_386])
def test_a_time_is_in_milliseconds_whatever_its_size(stored: int) -> None:
    fields = json.loads(encode(RECORDS[2]))
    read = decode(Failure, json.dumps({**fields, "first": stored}).encode())
    assert read.first == EPOCH + timedelta(milliseconds=stored)


@pytest.mark.parametrize("stored", [1e30, -1e30, float("inf"), float("nan")])
def test_a_time_that_no_calendar_has_is_an_error(stored: float) -> None:
    fields = json.loads(encode(RECORDS[2]))
    with pytest.raises(ValueError, match=r"."):
        decode(Failure, json.dumps({**fields, "first": stored}).encode())


@pytest.mark.parametrize("outcome", [{"x": float("nan")}, {"x": "\ud800"}])
def test_what_json_can_not_express_is_refused(outcome: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        encode(Finished("a", outcome, None, None, 1, 0.5))


def test_an_unknown_push_is_left_out_of_a_running_record_as_the_scripts_can_not_compare_with_null() -> None:
    assert "pushed" not in json.loads(encode_running(RunningRecord("t", Lane.EVENTS, "w", NOON, 1, 0, 0, 0)))
