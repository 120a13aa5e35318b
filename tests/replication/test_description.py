"""What the history keeps of a copy."""

from __future__ import annotations

from replicator.copy import Outcome, Result
from replicator.queue import Description, JsonValue, Lane
from replicator.replication.job import describe

PAYLOAD = {"source": "h.example/a:1", "destination": "r.example/a:1", "rule": "a rule"}


def outcome(result: Result, *, note: str = "", warnings: tuple[str, ...] = ()) -> dict[str, JsonValue]:
    return Outcome(result, "h.example/a:1", "r.example/a:1", bytes=7, note=note, warnings=warnings).to_json()


def test_a_copy_is_kept_with_its_names_bytes_and_reasons() -> None:
    told = describe(Lane.EVENTS, PAYLOAD, outcome(Result.COPIED, note="left out", warnings=("refused",)))
    assert told == Description("copied", "h.example/a:1", "a rule", "left out; refused", 7, arrived=True)


def test_what_a_backfill_found_right_is_not_kept_unless_there_is_a_warning() -> None:
    same = outcome(Result.UP_TO_DATE)
    assert describe(Lane.BACKFILL, PAYLOAD, same) is None
    assert describe(Lane.EVENTS, PAYLOAD, same) is not None
    warned = outcome(Result.UP_TO_DATE, warnings=("refused",))
    assert describe(Lane.BACKFILL, PAYLOAD, warned) is not None


def test_nobody_waited_for_what_did_not_arrive() -> None:
    for result in (Result.SKIPPED, Result.SOURCE_GONE):
        told = describe(Lane.EVENTS, PAYLOAD, outcome(result))
        assert told is not None
        assert not told.arrived


def test_one_whose_job_is_lost_is_kept_without_names() -> None:
    assert describe(Lane.EVENTS, {}, None) == Description("given up", arrived=False)
