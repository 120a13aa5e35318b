"""Descriptions of finished jobs for the history and for receivers of events."""

from __future__ import annotations

from replicator.copy import Outcome, Result
from replicator.queue import Description, JsonValue, Lane
from replicator.replication.job import describe

PAYLOAD = {"source": "h.example/a:1", "destination": "r.example/a:1", "rule": "a rule"}


def outcome(result: Result, *, note: str = "", warnings: tuple[str, ...] = ()) -> dict[str, JsonValue]:
    return Outcome(result, "h.example/a:1", "r.example/a:1", bytes=7, note=note, warnings=warnings).to_json()


def test_the_history_has_the_names_bytes_and_notes_of_a_copy() -> None:
    told = describe(Lane.EVENTS, PAYLOAD, outcome(Result.COPIED, note="left out", warnings=("refused",)))
    assert told == Description("copied", "h.example/a:1", "a rule", "left out; refused", 7, arrived=True)


def test_the_history_has_what_a_copy_took_and_what_is_there_now() -> None:
    made = Outcome(Result.COPIED, "h.example/a:1", "r.example/a:1", "sha256:1", blobs_copied=3, manifests=2)
    told = describe(Lane.EVENTS, PAYLOAD, made.to_json())
    assert told is not None
    assert (told.digest, told.parts) == ("sha256:1", {"manifests": 2, "blobs_copied": 3})


def test_an_up_to_date_tag_of_a_backfill_is_not_in_the_history_unless_it_has_a_warning() -> None:
    same = outcome(Result.UP_TO_DATE)
    assert not describe(Lane.BACKFILL, PAYLOAD, same).kept
    assert describe(Lane.EVENTS, PAYLOAD, same).kept
    warned = outcome(Result.UP_TO_DATE, warnings=("refused",))
    assert describe(Lane.BACKFILL, PAYLOAD, warned).kept


def test_a_copy_that_was_skipped_or_is_gone_has_not_arrived() -> None:
    for result in (Result.SKIPPED, Result.SOURCE_GONE):
        told = describe(Lane.EVENTS, PAYLOAD, outcome(result))
        assert not told.arrived


def test_a_job_without_a_payload_is_in_the_history_without_names() -> None:
    assert describe(Lane.EVENTS, {}, None) == Description("given up", arrived=False)


def test_the_history_has_what_a_copy_replaced() -> None:
    replacing = Outcome(Result.COPIED, "h.example/a:1", "r.example/a:1", replaced="sha256:old").to_json()
    told = describe(Lane.BACKFILL, PAYLOAD, replacing)
    assert told.replaced == "sha256:old"


def test_a_description_has_the_digest_that_the_destination_holds() -> None:
    copied = Outcome(Result.COPIED, "h.example/a:1", "r.example/a:1", digest="sha256:new").to_json()
    assert describe(Lane.EVENTS, PAYLOAD, copied).digest == "sha256:new"
