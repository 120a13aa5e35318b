"""What people are told, given what is seen: once, together, and not too often."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import ErrorClass
from replicator.queue import Complaint, DeadLetter, Findings, Lane, NewDeadLetters, ReconcileResult
from replicator.server.notify.decide import Lateness, NotifyTiming, Snapshot, decide
from replicator.server.notify.message import Example, Message, MessageState, NotifyState, Occasion, PendingMessage
from tests.server.notify.conftest import NOW

PACE = NotifyTiming(late=900, gather=60, pause=600)
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


def reconciled(findings: Findings, hours: float = 0) -> ReconcileResult:
    ended = datetime.fromtimestamp(NOW / 1000, UTC) + timedelta(hours=hours)
    return ReconcileResult(ended - timedelta(minutes=5), ended, "box-1", findings)


class Told:
    """Goes from moment to moment, as the processes of an installation do."""

    def __init__(self) -> None:
        self.memory = NotifyState()
        self.messages: list[Message] = []

    def __call__(self, seen: Snapshot) -> list[Message]:
        memory, messages = decide(self.memory, seen, PACE)
        # Whoever is next knows only what was written down.
        self.memory = NotifyState.load(memory.dump())
        assert self.memory == memory
        self.messages += messages
        return messages


def test_where_all_is_well_nothing_is_told() -> None:
    told = Told()
    for seconds in range(0, 7200, 5):
        assert told(at(seconds, reconcile=reconciled(Findings(listed=9, up_to_date=9)))) == []


def test_ten_dead_letters_within_a_minute_are_one_message_with_the_first_few() -> None:
    told = Told()
    for second in range(0, 60, 5):
        assert told(at(second, buried=dead(min(10, 1 + second)))) == []
    (message,) = told(at(60, buried=dead(10)))
    assert message.title == "replicator: 10 copies were given up"
    assert (message.state, message.count, message.since) == (MessageState.TROUBLE, 10, NOW)
    assert len(message.examples) == 5
    assert message.examples[0] == Example("h/a:v0 -> acr/a:v0", "permanent: denied")
    assert any("replicator failures retry" in each for each in message.advice)
    # They stay dead for a week, and nobody hears of it again.
    assert [told(at(3600 * hour, buried=dead(10, newer=0))) for hour in range(1, 168)] == [[]] * 167


def test_what_dies_soon_after_waits_and_is_told_together() -> None:
    told = Told()
    told(at(0, buried=dead(1)))
    assert len(told(at(60, buried=dead(1)))) == 1
    for second in range(65, 660, 5):
        assert told(at(second, buried=dead(1 + second // 65, newer=second // 65))) == []
    (message,) = told(at(661, buried=dead(11, newer=10)))
    assert message.title == "replicator: 10 copies were given up, 11 wait for you in all"


def test_that_no_copy_is_given_up_any_more_is_told_once_with_how_long_it_was() -> None:
    told = Told()
    told(at(0, buried=dead(1)))
    told(at(60, buried=dead(1)))
    (message,) = told(at(90))
    assert (message.occasion, message.state) == (Occasion.DEAD_LETTERS, MessageState.RECOVERED)
    assert (message.since, message.at) == (NOW, NOW + 90_000)
    assert told(at(95)) == []


def test_what_is_retried_before_it_was_told_is_not_told() -> None:
    told = Told()
    told(at(0, buried=dead(3)))
    for second in (30, 100, 5000):
        told(at(second))
    assert told.messages == []


def test_copies_that_wait_too_long_are_told_once_and_that_they_are_in_time_again() -> None:
    told = Told()
    assert told(at(0, lateness=Lateness(899))) == []
    examples = (Example("acr/a:v1", "no connection"),)
    (message,) = told(at(5, lateness=Lateness(904, 3, examples, 2)))
    assert message.title == "replicator: copies are late: the oldest has waited for 15 min"
    assert (message.since, message.count, message.examples) == (NOW + 5000 - 904_000, 3, examples)
    assert any("replicator status" in each for each in message.advice)
    # It swings around the threshold.
    assert [told(at(t, lateness=Lateness(950 - t % 200, 3, examples, 2))) for t in range(10, 3000, 5)] == [[]] * 598
    (message,) = told(at(3000, lateness=Lateness(100)))
    assert message.state is MessageState.RECOVERED


def test_without_a_worker_the_advice_is_to_start_one() -> None:
    (message,) = Told()(at(0, lateness=Lateness(1000, workers=0)))
    assert message.advice[0] == "No worker runs: start replicator serve or replicator worker."


def test_each_reconcile_that_finds_drift_is_told_once() -> None:
    told = Told()
    drift = reconciled(Findings(listed=9, drift=3))
    (message,) = told(at(0, reconcile=drift))
    assert message.title == "replicator: the reconcile found drift: 3 images differed, and no event had told of it"
    assert (message.state, message.count) == (MessageState.NEWS, 3)
    assert told(at(86_000, reconcile=drift)) == []
    assert told(at(86_400, reconcile=reconciled(Findings(listed=9), hours=24))) == []
    (message,) = told(at(172_800, reconcile=reconciled(Findings(listed=9, drift=1), hours=48)))
    assert "1 image differed" in message.title


def test_a_reconcile_that_failed_is_told_once_and_again_when_one_went_well() -> None:
    told = Told()
    (message,) = told(at(0, reconcile=reconciled(Findings(error="no connection to harbor.example.com"))))
    assert message.title == "replicator: the reconcile failed"
    assert message.examples == (Example("on box-1", "no connection to harbor.example.com"),)
    assert told(at(7200, reconcile=reconciled(Findings(error="another reason"), hours=1))) == []
    # One that was begun anew and of which nothing is known yet.
    assert told(at(7205)) == []
    (message,) = told(at(9000, reconcile=reconciled(Findings(listed=9, up_to_date=9), hours=2)))
    assert (message.occasion, message.state, message.since) == (Occasion.RECONCILE, MessageState.RECOVERED, NOW)


def test_a_reconcile_that_could_not_compare_everything_is_told() -> None:
    (message,) = Told()(at(0, reconcile=reconciled(Findings(listed=9, failed=2))))
    assert message.title == "replicator: the reconcile could not compare everything: 2 of 11"


def test_a_refused_configuration_is_told_once_for_all_processes_and_anew_for_another_mistake() -> None:
    told = Told()
    complaints = tuple(Complaint(f"box-{n % 2}", "rules.yaml: no such key", NOW) for n in range(3))
    (message,) = told(at(0, complaints=complaints[:1]))
    assert message.title == "replicator: a changed configuration was refused by 1 process"
    assert message.examples == (Example("on box-0", "rules.yaml: no such key"),)
    # The other processes notice a second later.
    assert told(at(5, complaints=complaints)) == []
    another = (Complaint("box-0", "rules.yaml: no such host", NOW + 60_000),)
    assert told(at(60, complaints=another)) == []
    (message,) = told(at(600, complaints=another))
    assert message.examples == (Example("on box-0", "rules.yaml: no such host"),)
    (message,) = told(at(605))
    assert (message.state, message.since) == (MessageState.RECOVERED, NOW)


def test_what_was_written_by_another_version_is_nothing() -> None:
    strange = b'{"mark": 1, "gathering": null, "told": {"x": {}}, "parcels": []}'
    for text in (b"", b"{", b"[]", b"null", b'{"mark": 1}', strange):
        assert NotifyState.load(text) == NotifyState()


def test_what_is_to_be_sent_is_remembered_too() -> None:
    (message,) = Told()(at(0, lateness=Lateness(1000, 1, (Example("a", "b"),), 1)))
    memory = NotifyState(parcels=(PendingMessage("key", message, NOW + 1, NOW, 2),))
    assert NotifyState.load(memory.dump()) == memory


moments = st.builds(
    at,
    st.floats(0, 20_000),
    buried=st.integers(0, 8).flatmap(lambda n: st.integers(0, n).map(lambda newer: dead(n, newer, 8))),
    lateness=st.builds(Lateness, st.floats(0, 2000)),
    reconcile=st.none() | st.builds(reconciled, st.builds(Findings, failed=st.integers(0, 1), drift=st.integers(0, 1))),
    complaints=st.sampled_from(["", "a", "b"]).map(lambda text: (Complaint("h", text, NOW),) if text else ()),
)


@given(st.lists(moments, max_size=60).map(lambda seen: sorted(seen, key=lambda each: each.now)))
def test_whatever_happens_it_is_told_in_turns_and_at_the_pace(seen: list[Snapshot]) -> None:
    told = Told()
    for each in seen:
        told(each)
    for occasion in Occasion:
        messages = [message for message in told.messages if message.occasion is occasion]
        troubles = [message for message in messages if message.state is not MessageState.RECOVERED]
        assert all(later.at - sooner.at >= 600_000 for sooner, later in pairwise(troubles))
        states = [message.state for message in messages]
        assert states[:1] != [MessageState.RECOVERED]
        assert (MessageState.RECOVERED, MessageState.RECOVERED) not in set(pairwise(states))
