"""Decisions on what to report: once, together, and not too often."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import ErrorClass
from replicator.queue import (
    Cause,
    Causes,
    Complaint,
    DeadLetter,
    Failure,
    Findings,
    KeySilence,
    Lane,
    NewDeadLetters,
    PublicCopy,
    ReconcileResult,
)
from replicator.queue.traffic import LostImages
from replicator.server.notify.decide import Snapshot, decide
from replicator.server.notify.formats import lines_of
from replicator.server.notify.message import (
    EMPTY,
    Example,
    Lateness,
    Message,
    MessageState,
    NotifyState,
    NotifyTiming,
    Occasion,
    Origin,
    PendingMessage,
    Reported,
)
from tests.server.notify.conftest import NOW

TIMING = NotifyTiming(late=900, gather=60, pause=600)
FINE = Snapshot(NOW, NewDeadLetters(0, 0, 0, ()), Lateness(0.0), None, ())


def at(seconds: float, **changes: Any) -> Snapshot:
    return replace(FINE, now=NOW + int(seconds * 1000), **changes)


def letters(number: int) -> tuple[DeadLetter, ...]:
    moment = datetime.fromtimestamp(NOW / 1000, UTC)
    why = (ErrorClass.PERMANENT, "denied", 1, moment, moment)
    return tuple(DeadLetter(f"acr/a:v{n}", Lane.EVENTS, {"source": f"h/a:v{n}"}, *why) for n in range(number))


def dead(number: int, newer: int | None = None, mark: int = 0) -> NewDeadLetters:
    newer = number if newer is None else newer
    return NewDeadLetters(number, newer, mark or number, letters(min(newer, 5)))


def causes(number: int, *others: str) -> tuple[Cause, ...]:
    found = Causes()
    for letter in letters(number):
        found.add_letter(letter)
    for why in others:
        found.add("transient", why, "h/b:v1", "acr/b:v1")
    return tuple(found.sorted())


def reconciled(findings: Findings, hours: float = 0) -> ReconcileResult:
    ended = datetime.fromtimestamp(NOW / 1000, UTC) + timedelta(hours=hours)
    return ReconcileResult(ended - timedelta(minutes=5), ended, "box-1", findings)


class Reports:
    """Decides at one moment after the other, as the processes of an installation do."""

    def __init__(self) -> None:
        self.state = EMPTY
        self.messages: list[Message] = []

    def __call__(self, snapshot: Snapshot) -> list[Message]:
        state, messages = decide(self.state, snapshot, TIMING)
        # The next process knows only what was stored.
        self.state = NotifyState.load(state.dump())
        assert self.state == state
        self.messages += messages
        return messages


def test_nothing_is_reported_while_all_is_well() -> None:
    report = Reports()
    for seconds in range(0, 7200, 5):
        assert report(at(seconds, reconcile=reconciled(Findings(listed=9, up_to_date=9)))) == []


def silent(seconds: float, *hosts: str) -> tuple[KeySilence, ...]:
    since = datetime.fromtimestamp(NOW / 1000, UTC)
    lanes = {Lane.EVENTS: 70, Lane.BACKFILL: 4}
    return tuple(KeySilence(host, since, seconds, "no connection in time", lanes) for host in hosts)


def test_a_silent_registry_is_reported_once_and_once_more_when_it_answers() -> None:
    report = Reports()
    assert report(at(10, silent=silent(10, "acr.example"))) == [], "a short one is not worth a message"
    for seconds in range(15, 7200, 5):
        report(at(seconds, silent=silent(seconds, "acr.example")))
    (message,) = report.messages
    assert (message.occasion, message.state, message.count) == (Occasion.SILENCE, MessageState.TROUBLE, 74)
    assert message.title == (
        "replicator: registry acr.example has not answered since 2026-01-01 00:00 UTC; 74 copies wait for it"
    )
    assert message.since == NOW
    for seconds in range(7200, 7260, 5):
        report(at(seconds))
    (_, recovered) = report.messages
    assert (recovered.occasion, recovered.state) == (Occasion.SILENCE, MessageState.RECOVERED)
    assert recovered.title == "replicator: recovered: registry acr.example answers again"


def test_public_copies_are_reported_when_there_are_others_and_when_there_are_none_left() -> None:
    since = datetime.fromtimestamp(NOW / 1000, UTC)
    one, other = (
        PublicCopy(f"h.example/team/{name}:v1", f"registry.cn-beijing.aliyuncs.com/team/{name}:v1", since)
        for name in ("app", "web")
    )
    report = Reports()
    for seconds in range(0, 7200, 60):
        report(at(seconds, public=(one,)))
    (message,) = report.messages
    assert (message.occasion, message.state, message.count) == (Occasion.PUBLIC, MessageState.TROUBLE, 1)
    assert message.title == "replicator: 1 image is private at the source, and anyone may pull it at the destination"
    (example,) = message.examples
    assert example.subject == f"{one.source} -> {one.destination}"
    # What to change, in the words of ACR's console.
    assert all(word in example.reason for word in ("仓库类型", "默认仓库类型", "public: allow"))
    report(at(7200, public=(one, other)))
    assert [each.count for each in report.messages] == [1, 2]
    report(at(7260))
    assert (report.messages[-1].occasion, report.messages[-1].state) == (Occasion.PUBLIC, MessageState.RECOVERED)


def test_a_version_that_does_not_know_of_silence_can_read_what_is_stored() -> None:
    report = Reports()
    (message,) = report(at(60, silent=silent(60, "acr.example")))
    state = replace(report.state, pending=(PendingMessage("key", message, NOW),))
    stored = json.loads(state.dump())
    assert (stored["told"], stored["parcels"]) == ({}, [])
    assert NotifyState.load(state.dump()) == state


def test_ten_dead_letters_within_a_minute_are_one_message_with_the_first_few() -> None:
    report = Reports()
    for second in range(0, 60, 5):
        assert report(at(second, dead_letters=dead(min(10, 1 + second)))) == []
    (message,) = report(at(60, dead_letters=dead(10), causes=causes(10)))
    assert message.title == "replicator: 10 copies failed and are not retried automatically, for one reason"
    assert (message.state, message.count, message.since) == (MessageState.TROUBLE, 10, NOW)
    one = Example("10 copies, one reason, e.g. h/a:v0 -> acr/a:v0", "permanent: denied", 10)
    assert message.examples == (one,)
    assert any(f"replicator failures retry --cause {causes(10)[0].id}" in each for each in message.advice)
    # They stay for a week without another report.
    assert [report(at(3600 * hour, dead_letters=dead(10, newer=0))) for hour in range(1, 168)] == [[]] * 167


def test_dead_letters_of_several_causes_are_told_with_one_example_of_each() -> None:
    report = Reports()
    report(at(0, dead_letters=dead(9)))
    (message,) = report(at(60, dead_letters=dead(9), causes=causes(2, *(f"reason {word}" for word in "abcdefg"))))
    assert message.title == "replicator: 9 copies failed and are not retried automatically"
    assert [each.count for each in message.examples] == [2, 1, 1, 1, 1]
    assert any(each.subject == "h/b:v1 -> acr/b:v1" for each in message.examples)
    assert any("retry --all" in each for each in message.advice)
    lines = lines_of(message, Origin("here"), 6000)
    assert "and 3 more" in lines, "an example of two copies counts twice"


def test_dead_letters_soon_after_a_report_wait_and_are_reported_together() -> None:
    report = Reports()
    report(at(0, dead_letters=dead(1)))
    assert len(report(at(60, dead_letters=dead(1)))) == 1
    for second in range(65, 660, 5):
        assert report(at(second, dead_letters=dead(1 + second // 65, newer=second // 65))) == []
    (message,) = report(at(661, dead_letters=dead(11, newer=10)))
    assert message.title == "replicator: 10 copies failed and are not retried automatically (11 dead letters in total)"


def test_the_end_of_the_last_dead_letter_is_reported_once_with_its_start() -> None:
    report = Reports()
    report(at(0, dead_letters=dead(1)))
    report(at(60, dead_letters=dead(1)))
    (message,) = report(at(90))
    assert (message.occasion, message.state) == (Occasion.DEAD_LETTERS, MessageState.RECOVERED)
    assert (message.since, message.at) == (NOW, NOW + 90_000)
    assert report(at(95)) == []


def test_a_dead_letter_retried_before_its_report_is_not_reported() -> None:
    report = Reports()
    report(at(0, dead_letters=dead(3)))
    for second in (30, 100, 5000):
        report(at(second))
    assert report.messages == []


def test_late_copies_are_reported_once_and_so_is_their_recovery() -> None:
    report = Reports()
    assert report(at(0, lateness=Lateness(899))) == []
    examples = (Example("acr/a:v1", "no connection"),)
    (message,) = report(at(5, lateness=Lateness(904, 3, examples, 2)))
    assert message.title == "replicator: copies are late: the oldest has been waiting for 15 min"
    assert (message.since, message.count, message.examples) == (NOW + 5000 - 904_000, 3, examples)
    assert any("replicator status" in each for each in message.advice)
    # It swings around the threshold.
    assert [report(at(t, lateness=Lateness(950 - t % 200, 3, examples, 2))) for t in range(10, 3000, 5)] == [[]] * 598
    (message,) = report(at(3000, lateness=Lateness(100)))
    assert message.state is MessageState.RECOVERED


def test_without_a_worker_the_advice_is_to_start_one() -> None:
    (message,) = Reports()(at(0, lateness=Lateness(1000, workers=0)))
    assert message.advice[0] == "No worker is running for events: start replicator serve or replicator worker."


def test_each_run_that_finds_images_missing_which_had_been_in_place_is_reported_once() -> None:
    report, ended = Reports(), datetime.fromtimestamp(NOW / 1000, UTC)
    lost = LostImages(ended, 7, ("acr/a:v1", "acr/a:v2"))
    (message,) = report(at(0, lost=lost))
    assert message.title == "replicator: 7 images were in place at the destination before, and missing now"
    assert (message.occasion, message.state, message.count) == (Occasion.LOST, MessageState.NEWS, 7)
    assert [each.subject for each in message.examples] == ["acr/a:v1", "acr/a:v2"]
    assert report(at(86_000, lost=lost)) == []
    (message,) = report(at(86_400, lost=LostImages(ended + timedelta(days=1), 1, ("acr/a:v1",))))
    assert "1 image was in place" in message.title


def test_each_reconcile_that_finds_drift_is_reported_once() -> None:
    report = Reports()
    drift = reconciled(Findings(listed=9, drift=3))
    (message,) = report(at(0, reconcile=drift))
    assert message.title == "replicator: the reconcile found drift: 3 images were out of date without a webhook event"
    assert (message.state, message.count) == (MessageState.NEWS, 3)
    assert report(at(86_000, reconcile=drift)) == []
    assert report(at(86_400, reconcile=reconciled(Findings(listed=9), hours=24))) == []
    (message,) = report(at(172_800, reconcile=reconciled(Findings(listed=9, drift=1), hours=48)))
    assert "1 image was out of date" in message.title


def test_failing_reconciles_are_reported_once_and_so_is_the_next_success() -> None:
    report = Reports()
    (message,) = report(at(0, reconcile=reconciled(Findings(error="no connection to harbor.example.com"))))
    assert message.title == "replicator: the reconcile failed"
    assert message.examples == (Example("on box-1", "no connection to harbor.example.com"),)
    assert report(at(7200, reconcile=reconciled(Findings(error="another reason"), hours=1))) == []
    # The result of the last one is not known.
    assert report(at(7205)) == []
    (message,) = report(at(9000, reconcile=reconciled(Findings(listed=9, up_to_date=9), hours=2)))
    assert (message.occasion, message.state, message.since) == (Occasion.RECONCILE, MessageState.RECOVERED, NOW)


def test_an_incomplete_reconcile_is_reported() -> None:
    (message,) = Reports()(at(0, reconcile=reconciled(Findings(listed=9, failed=2))))
    assert message.title == "replicator: the reconcile could not compare 2 of 9 tags"
    failures = (Failure("h/lost/**", "not found"), Failure("h/a:v1", "it collides"))
    found = Findings(listed=3, failed=2, collisions=2, unlisted=2, drift=1, failures=failures)
    (message, news) = Reports()(at(0, reconcile=reconciled(found)))
    assert message.title == "replicator: the reconcile could not compare 4 of 5 (3 tags and 2 lists)"
    assert message.examples == (Example("h/lost/**", "not found"), Example("h/a:v1", "it collides"))
    assert (message.count, news.occasion) == (4, Occasion.DRIFT)


def test_a_reconcile_that_waits_for_an_approval_is_reported_and_so_is_its_end() -> None:
    report = Reports()
    found = Findings(listed=2000, held=300, up_to_date=1700, failures=(Failure("h/a:v1", "sha256:b is there"),))
    (message,) = report(at(0, reconcile=reconciled(found)))
    assert message.title == "replicator: the reconcile would replace 300 of 2,000 images, and waits for an approval"
    assert message.examples == (Example("h/a:v1", "sha256:b is there"),)
    assert "replicator reconcile approve" in " ".join(message.advice)
    assert report(at(700, reconcile=reconciled(replace(found, held=301)))) == []
    (message,) = report(at(1400, reconcile=reconciled(Findings(listed=2000, up_to_date=2000))))
    assert message.state is MessageState.RECOVERED


def test_a_refused_configuration_is_reported_once_for_all_processes_and_again_for_another_error() -> None:
    report = Reports()
    complaints = tuple(Complaint(f"box-{n % 2}", "rules.yaml: no such key", NOW) for n in range(3))
    (message,) = report(at(0, complaints=complaints[:1]))
    assert message.title == "replicator: the configuration has an error; 1 process does not use the changed files"
    assert message.examples == (Example("on box-0", "rules.yaml: no such key"),)
    # The other processes notice a second later.
    assert report(at(5, complaints=complaints)) == []
    another = (Complaint("box-0", "rules.yaml: no such host", NOW + 60_000),)
    assert report(at(60, complaints=another)) == []
    (message,) = report(at(600, complaints=another))
    assert message.examples == (Example("on box-0", "rules.yaml: no such host"),)
    (message,) = report(at(605))
    assert (message.state, message.since) == (MessageState.RECOVERED, NOW)


def test_a_state_that_can_not_be_read_is_empty() -> None:
    strange = b'{"mark": 1, "gathering": null, "told": {"x": {}}, "parcels": []}'
    for text in (b"", b"{", b"[]", b"null", b'{"mark": 1}', strange):
        assert NotifyState.load(text) == EMPTY


def test_the_stored_form_is_the_one_that_other_versions_read_and_unknown_fields_are_ignored() -> None:
    example = Example.of("a", "no \udcffn")
    message = Message("0", Occasion.LAG, MessageState.TROUBLE, "late", 5, examples=(example,), advice=("wait",))
    state = NotifyState(3, None, {Occasion.LAG: Reported("late", 1, 2)}, (PendingMessage("key", message, 9, 8, 2),))
    stored = {
        "mark": 3,
        "gathering": None,
        "told": {"lag": {"mark": "late", "since": 1, "at": 2}},
        "parcels": [
            {
                "receiver": "key",
                "message": {
                    "id": "0",
                    "occasion": "lag",
                    "state": "trouble",
                    "title": "late",
                    "at": 5,
                    "since": None,
                    "count": None,
                    "examples": [{"subject": "a", "reason": "no n", "count": 1}],
                    "advice": ["wait"],
                },
                "until": 9,
                "due": 8,
                "tries": 2,
            }
        ],
    }
    assert state.dump() == json.dumps(stored).encode()
    newer = {**stored, "told": {"lag": {"mark": "late", "since": 1, "at": 2, "newer": 1}}, "newer": 1}
    assert NotifyState.load(json.dumps(newer).encode()) == state
    older = json.dumps(stored).replace(', "count": 1', "")
    assert NotifyState.load(older.encode()) == state


def test_pending_messages_are_remembered() -> None:
    (message,) = Reports()(at(0, lateness=Lateness(1000, 1, (Example("a", "b"),), 1)))
    state = replace(EMPTY, pending=(PendingMessage("key", message, NOW + 1, NOW, 2),))
    assert NotifyState.load(state.dump()) == state


moments = st.builds(
    at,
    st.floats(0, 20_000),
    dead_letters=st.integers(0, 8).flatmap(lambda n: st.integers(0, n).map(lambda newer: dead(n, newer, 8))),
    lateness=st.builds(Lateness, st.floats(0, 2000)),
    reconcile=st.none() | st.builds(reconciled, st.builds(Findings, failed=st.integers(0, 1), drift=st.integers(0, 1))),
    complaints=st.sampled_from(["", "a", "b"]).map(lambda text: (Complaint("h", text, NOW),) if text else ()),
)


@given(st.lists(moments, max_size=60).map(lambda snapshots: sorted(snapshots, key=lambda each: each.now)))
def test_problems_and_recoveries_alternate_and_problems_keep_their_pause(snapshots: list[Snapshot]) -> None:
    report = Reports()
    for each in snapshots:
        report(each)
    for occasion in Occasion:
        messages = [message for message in report.messages if message.occasion is occasion]
        troubles = [message for message in messages if message.state is not MessageState.RECOVERED]
        assert all(later.at - sooner.at >= 600_000 for sooner, later in pairwise(troubles))
        states = [message.state for message in messages]
        assert states[:1] != [MessageState.RECOVERED]
        assert (MessageState.RECOVERED, MessageState.RECOVERED) not in set(pairwise(states))
