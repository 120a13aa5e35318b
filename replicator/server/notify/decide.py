"""What people are told, given what is seen and what they were told before. Pure functions.

Each state is told once, when it begins and when it is over, however long it lasts. What happens soon after something of
the same occasion was told waits, and is told together.

What is seen of an installation at one moment, as far as people are told of it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import uuid4

from replicator.console import age
from replicator.queue import Lane, ReconcileState
from replicator.server.notify.message import Example, Message, MessageState, Occasion, Told

if TYPE_CHECKING:
    from replicator.queue import (
        Complaint,
        DeadLetter,
        Leadership,
        NewDeadLetters,
        Notices,
        Queue,
        ReconcileResult,
        WaitingJob,
    )
    from replicator.server.notify.message import NotifyState

EXAMPLES = 5
"""How many examples a message has at the most."""
_WAITING = 1000
"""Copies that wait for a retry and are looked at; the queue may hold more."""


@dataclass(frozen=True, slots=True)
class Lateness:
    """How long copies of what was pushed have been waiting.

    Attributes:
        seconds: for how long the oldest has been due and not begun, or failing; 0 when none is.
        failing: how many of them wait for a retry.
        examples: the oldest of those.
        workers: how many processes copy.
    """

    seconds: float
    failing: int = 0
    examples: tuple[Example, ...] = ()
    workers: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One moment.

    Attributes:
        now: milliseconds since 1970 by Redis's clock.
        buried: the dead letters, and which of them are new.
        lateness: of copies for events.
        reconcile: how the last one ended; None where that is not known.
        complaints: of processes whose configuration was refused.
    """

    now: int
    buried: NewDeadLetters
    lateness: Lateness
    reconcile: ReconcileResult | None
    complaints: tuple[Complaint, ...]


async def take_snapshot(queue: Queue, notices: Notices, turn: Leadership, mark: int) -> Snapshot:
    """Look at the queue; a few commands, whose number no backlog changes.

    Args:
        queue: what is looked at.
        notices: of the same queue.
        turn: this process's.
        mark: of the dead letters that were told of.

    Raises:
        QueueUnavailable: it does not answer.
    """
    return Snapshot(
        now=turn.now,
        buried=await notices.buried(mark, EXAMPLES),
        lateness=await _lateness(queue, turn.now),
        reconcile=(await ReconcileState.read(queue)).last,
        complaints=turn.complaints,
    )


async def _lateness(queue: Queue, now: int) -> Lateness:
    not_begun = (await queue.oldest())[Lane.EVENTS]
    waiting = [job for job in await queue.waiting(limit=_WAITING) if job.lane is Lane.EVENTS]
    # By when they first failed, not by when they are tried next.
    oldest = sorted(waiting, key=lambda job: job.first)
    failing = now / 1000 - oldest[0].first.timestamp() if oldest else 0.0
    examples = tuple(map(_example, oldest[:EXAMPLES]))
    return Lateness(max(not_begun, failing), len(oldest), examples, len(await queue.workers()))


def _example(job: WaitingJob) -> Example:
    return Example.of(job.id, f"{job.error_class}, {job.tries} tries: {job.message}")


_CHECK = "replicator check tries every host, login and permission, and says what to do."


@dataclass(frozen=True, slots=True)
class NotifyTiming:
    """How fast people are told. All times in seconds.

    Attributes:
        late: for how long a copy waits, or fails, before that is told.
        gather: for how long dead letters are gathered from the first one on.
        pause: between two tellings of trouble on the same occasion. That it is over is told at once.
    """

    late: float = 900.0
    gather: float = 60.0
    pause: float = 600.0


@dataclass(frozen=True, slots=True)
class _Trouble:
    """Something that lasts: what tells it from another, since when, and what is told of it."""

    mark: str
    since: int
    title: str
    count: int | None
    examples: tuple[Example, ...]
    advice: tuple[str, ...]


def decide(memory: NotifyState, seen: Snapshot, pace: NotifyTiming) -> tuple[NotifyState, list[Message]]:
    """Say what is to be told now.

    Args:
        memory: what was told.
        seen: how it is.
        pace: how fast people are told.

    Returns:
        What is remembered from now on, and the messages; both are to be kept together.
    """
    messages: list[Message] = []
    memory = _dead_letters(memory, seen, pace, messages)
    memory = _drift(memory, seen, pace, messages)
    # A reconcile of which nothing is known is neither trouble nor the end of one.
    if seen.reconcile is not None:
        memory = _state(memory, seen, pace, Occasion.RECONCILE, _reconcile(seen), messages)
    memory = _state(memory, seen, pace, Occasion.LAG, _lag(memory, seen, pace), messages)
    memory = _state(memory, seen, pace, Occasion.CONFIGURATION, _configuration(seen.complaints), messages)
    return memory, messages


_OVER = {
    Occasion.DEAD_LETTERS: "replicator: recovered: no copy is given up any more",
    Occasion.LAG: "replicator: recovered: copies are in time again",
    Occasion.RECONCILE: "replicator: recovered: a reconcile compared everything",
    Occasion.CONFIGURATION: "replicator: recovered: no process refuses its configuration any more",
}


def _state(
    memory: NotifyState,
    seen: Snapshot,
    pace: NotifyTiming,
    occasion: Occasion,
    trouble: _Trouble | None,
    messages: list[Message],
) -> NotifyState:
    """Tell of something that lasts: once when it begins or becomes another, once when it is over."""
    told = memory.told.get(occasion)
    if trouble is None:
        return _over(memory, seen, occasion, messages)
    if told is not None and (told.mark == trouble.mark or _lately(told, seen, pace)):
        return memory
    since = told.since if told is not None and told.mark is not None else trouble.since
    messages.append(
        Message(
            uuid4().hex,
            occasion,
            MessageState.TROUBLE,
            trouble.title,
            seen.now,
            since,
            trouble.count,
            trouble.examples,
            trouble.advice,
        )
    )
    return _telling(memory, occasion, Told(trouble.mark, since, seen.now))


def _over(memory: NotifyState, seen: Snapshot, occasion: Occasion, messages: list[Message]) -> NotifyState:
    told = memory.told.get(occasion)
    if told is None or told.mark is None:
        return memory
    messages.append(Message(uuid4().hex, occasion, MessageState.RECOVERED, _OVER[occasion], seen.now, told.since))
    return _telling(memory, occasion, replace(told, mark=None))


def _telling(memory: NotifyState, occasion: Occasion, told: Told) -> NotifyState:
    return replace(memory, told={**memory.told, occasion: told})


def _lately(told: Told, seen: Snapshot, pace: NotifyTiming) -> bool:
    # A clock that was set back does not silence us for longer than a pause.
    return 0 <= seen.now - told.at < pace.pause * 1000


def _dead_letters(memory: NotifyState, seen: Snapshot, pace: NotifyTiming, messages: list[Message]) -> NotifyState:
    """Tell of copies that were given up, those of a minute together; and that none is left."""
    buried, told = seen.buried, memory.told.get(Occasion.DEAD_LETTERS)
    if not buried.dead:
        return _over(replace(memory, mark=buried.mark, gathering=None), seen, Occasion.DEAD_LETTERS, messages)
    if not buried.newer:
        return replace(memory, gathering=None)
    gathering = seen.now if memory.gathering is None else min(memory.gathering, seen.now)
    memory = replace(memory, gathering=gathering)
    if seen.now - gathering < pace.gather * 1000 or (told is not None and _lately(told, seen, pace)):
        return memory
    since = min((int(letter.last.timestamp() * 1000) for letter in buried.first), default=gathering)
    copies = "1 copy was" if buried.newer == 1 else f"{buried.newer} copies were"
    all_of_them = "" if buried.dead == buried.newer else f", {buried.dead} wait for you in all"
    messages.append(
        Message(
            uuid4().hex,
            Occasion.DEAD_LETTERS,
            MessageState.TROUBLE,
            f"replicator: {copies} given up{all_of_them}",
            seen.now,
            since,
            buried.newer,
            tuple(_letter(letter) for letter in buried.first),
            (
                "replicator failures shows all of them. They are not tried again by themselves.",
                "Once the cause is gone: replicator failures retry --all",
            ),
        )
    )
    began = told.since if told is not None and told.mark is not None else since
    memory = replace(memory, mark=buried.mark, gathering=None)
    return _telling(memory, Occasion.DEAD_LETTERS, Told("dead", began, seen.now))


def _letter(letter: DeadLetter) -> Example:
    source = (letter.payload or {}).get("source")
    subject = f"{source} -> {letter.id}" if isinstance(source, str) else letter.id
    return Example.of(subject, f"{letter.error_class}: {letter.message}")


def _drift(memory: NotifyState, seen: Snapshot, pace: NotifyTiming, messages: list[Message]) -> NotifyState:
    """Tell once of each reconcile that found something."""
    result, told = seen.reconcile, memory.told.get(Occasion.DRIFT)
    if result is None or not result.findings.drift:
        return memory
    mark, drift = str(int(result.started.timestamp() * 1000)), result.findings.drift
    if told is not None and (told.mark == mark or _lately(told, seen, pace)):
        return memory
    ended = int(result.ended.timestamp() * 1000)
    differed = "1 image differed" if drift == 1 else f"{drift} images differed"
    messages.append(
        Message(
            uuid4().hex,
            Occasion.DRIFT,
            MessageState.NEWS,
            f"replicator: the reconcile found drift: {differed}, and no event had told of it",
            seen.now,
            ended,
            drift,
            (),
            (
                "They are queued and being copied. After a first start or new rules this is as it should be.",
                "Else events get lost: replicator webhook list shows how their deliveries went.",
            ),
        )
    )
    return _telling(memory, Occasion.DRIFT, Told(mark, ended, seen.now))


def _reconcile(seen: Snapshot) -> _Trouble | None:
    if seen.reconcile is None or seen.reconcile.findings.complete:
        return None
    found, ended = seen.reconcile.findings, int(seen.reconcile.ended.timestamp() * 1000)
    advice = ("Until it succeeds, lost events are not found. It is tried again by itself.", _CHECK)
    if found.error is not None:
        examples = (Example.of(f"on {seen.reconcile.host}", found.error),)
        return _Trouble("incomplete", ended, "replicator: the reconcile failed", None, examples, advice)
    title = f"replicator: the reconcile could not compare everything: {found.failed} of {found.listed + found.failed}"
    return _Trouble("incomplete", ended, title, found.failed, (), advice)


def _lag(memory: NotifyState, seen: Snapshot, pace: NotifyTiming) -> _Trouble | None:
    late, told = seen.lateness, memory.told.get(Occasion.LAG)
    # What swings around the threshold is told once.
    threshold = pace.late / 2 if told is not None and told.mark is not None else pace.late
    if late.seconds < threshold:
        return None
    advice = (
        "No worker runs: start replicator serve or replicator worker."
        if not late.workers
        else "replicator status shows what is copied and what fails.",
        _CHECK,
    )
    title = f"replicator: copies are late: the oldest has waited for {age(late.seconds)}"
    since = seen.now - int(late.seconds * 1000)
    return _Trouble("late", since, title, late.failing or None, late.examples, advice)


def _configuration(complaints: tuple[Complaint, ...]) -> _Trouble | None:
    if not complaints:
        return None
    texts = sorted({complaint.text for complaint in complaints})
    mark = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    processes = "1 process" if len(complaints) == 1 else f"{len(complaints)} processes"
    examples = tuple(
        Example.of("on " + ", ".join(sorted({each.host for each in complaints if each.text == text})), text)
        for text in texts[:EXAMPLES]
    )
    advice = (
        "What was in force stays in force; a process that is started now would not start.",
        "Correct the file, and it is taken over. replicator check shows what is wrong with it.",
    )
    title = f"replicator: a changed configuration was refused by {processes}"
    return _Trouble(mark, min(each.since for each in complaints), title, None, examples, advice)
