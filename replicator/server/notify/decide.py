"""Decides what to report, given a snapshot of the installation and the earlier reports.

Each problem is reported once when it begins and once when it is over, however long it lasts. What happens soon after a
message about the same occasion waits, and is reported together.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from replicator.console import age
from replicator.queue import Causes, Lane, ReconcileState, list_pauses, list_public_copies, list_waits, sample_causes
from replicator.queue.traffic import LostImages
from replicator.replication.advice import close_to_anyone, public_copies
from replicator.server.notify.message import (
    RECOVERED,
    Example,
    Lateness,
    Message,
    MessageState,
    NotifyTiming,
    Occasion,
    Reported,
    cause_example,
    configuration_example,
    waiting_example,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from replicator.queue import (
        Cause,
        Complaint,
        KeySilence,
        Leadership,
        NewDeadLetters,
        Notices,
        PublicCopy,
        Queue,
        ReconcileResult,
    )
    from replicator.server.notify.message import NotifyState

EXAMPLES = 5
"""Examples in a message at most."""
_MAX_WAITING = 1000
"""Copies waiting for a retry that are looked at; the queue may hold more."""
_RETRY_ALL = "replicator failures retry --all"
_CHECK = "Run replicator check: it tests every host, login and permission, and says what to do."
_APPROVE = (
    "This is normal once after image-syncer, which rewrites indexes. Otherwise check the rules and Harbor first.",
    "To replace them once: replicator reconcile approve, or the button on the status page.",
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The installation at one moment.

    Attributes:
        now: milliseconds since 1970 by Redis's clock.
        dead_letters: their number, and the unreported ones.
        causes: of the unreported dead letters, the largest first; empty while they are not to be reported.
        lateness: of copies for events.
        reconcile: how the last one ended; None if that is unknown.
        complaints: from processes that refused a changed configuration.
        silent: registries that do not answer, the longest silence first.
        lost: images that were found missing lately although they had been in place.
        public: images that are private at their source and public at their destination.
    """

    now: int
    dead_letters: NewDeadLetters
    lateness: Lateness
    reconcile: ReconcileResult | None
    complaints: tuple[Complaint, ...]
    silent: tuple[KeySilence, ...] = ()
    lost: LostImages | None = None
    public: tuple[PublicCopy, ...] = ()
    causes: tuple[Cause, ...] = ()


async def take_snapshot(
    queue: Queue, notices: Notices, leadership: Leadership, before: NotifyState, timing: NotifyTiming
) -> Snapshot:
    """Read the queue, in a few commands whose number does not depend on its length.

    Args:
        queue: the queue.
        notices: of the same queue.
        leadership: of this process.
        before: the earlier reports.
        timing: when dead letters are reported; only then their causes are read.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    silent = await list_waits(queue)
    dead = await notices.new_dead_letters(before.mark, EXAMPLES)
    due = dead.newer > 0 and before.reports_dead_letters(leadership.now, timing)
    # Those that die meanwhile are in the next report.
    causes = await sample_causes(queue, mark=before.mark, most=dead.newer) if due else Causes()
    return Snapshot(
        now=leadership.now,
        dead_letters=dead,
        causes=tuple(causes.sorted()),
        lateness=await _lateness(queue, leadership.now, frozenset(each.key for each in silent)),
        reconcile=(await ReconcileState.read(queue)).last,
        complaints=leadership.complaints,
        silent=tuple(silent),
        lost=await LostImages.read(queue),
        public=tuple(await list_public_copies(queue)),
    )


async def _lateness(queue: Queue, now: int, silent: Collection[str]) -> Lateness:
    not_started = (await queue.oldest())[Lane.EVENTS]
    if any(each.selection.covers(Lane.EVENTS) for each in await list_pauses(queue)):
        not_started = 0.0  # as somebody wants it
    waiting = [
        job
        for job in await queue.waiting(limit=_MAX_WAITING)
        # Copies that wait for a silent registry are reported with it.
        if job.lane is Lane.EVENTS and job.waits_for not in silent
    ]
    # Ordered by their first failure, not by their next attempt.
    oldest = sorted(waiting, key=lambda job: job.first)
    failing = now / 1000 - oldest[0].first.timestamp() if oldest else 0.0
    examples = tuple(map(waiting_example, oldest[:EXAMPLES]))
    workers = [worker for worker in await queue.workers() if worker.serves(Lane.EVENTS)]
    return Lateness(max(not_started, failing), len(oldest), examples, len(workers))


def decide(state: NotifyState, snapshot: Snapshot, timing: NotifyTiming) -> tuple[NotifyState, list[Message]]:
    """Decide what to report now. A pure function.

    Returns:
        The new state and the messages; both have to be stored together.
    """
    decision = _Decision(state, snapshot, timing)
    decision.dead_letters()
    decision.lost()
    # Trouble before news: a receiver gets one message at a time.
    decision.reconcile()
    decision.drift()
    decision.lag()
    decision.configuration()
    decision.silence()
    decision.public()
    return decision.state, decision.messages


@dataclass(frozen=True, slots=True)
class _Problem:
    """A lasting problem: what distinguishes it from another one, since when it lasts, and its message."""

    mark: str
    since: int
    title: str
    advice: tuple[str, ...]
    count: int | None = None
    examples: tuple[Example, ...] = ()


class _Decision:
    """One decision in the making: each method looks at one occasion, and updates the state and the messages."""

    def __init__(self, state: NotifyState, snapshot: Snapshot, timing: NotifyTiming) -> None:
        self.state = state
        self.messages: list[Message] = []
        self._snapshot = snapshot
        self._now = snapshot.now
        self._timing = timing

    def dead_letters(self) -> None:
        """Report new dead letters, those of a minute together, and when none is left."""
        letters, causes = self._snapshot.dead_letters, self._snapshot.causes
        if not letters.dead:
            self.state = replace(self.state, mark=letters.mark, gathering=None)
            self._recovered(Occasion.DEAD_LETTERS)
            return
        if not letters.newer:
            self.state = replace(self.state, gathering=None)
            return
        # min(): a clock that was set back must not make the gathering longer.
        gathering = self._now if self.state.gathering is None else min(self.state.gathering, self._now)
        self.state = replace(self.state, gathering=gathering)
        if not self.state.reports_dead_letters(self._now, self._timing):
            return
        since = min((int(letter.last.timestamp() * 1000) for letter in letters.first), default=gathering)
        copies = "1 copy failed and is" if letters.newer == 1 else f"{letters.newer} copies failed and are"
        one = ", for one reason" if len(causes) == 1 and causes[0].count == letters.newer > 1 else ""
        total = "" if letters.dead == letters.newer else f" ({letters.dead} dead letters in total)"
        self._send(
            Occasion.DEAD_LETTERS,
            MessageState.TROUBLE,
            f"replicator: {copies} not retried automatically{one}{total}",
            since=since,
            count=letters.newer,
            examples=tuple(map(cause_example, causes[:EXAMPLES])),
            advice=(
                "Run replicator failures to see all of them, by cause.",
                f"Once the cause is fixed, run {causes[0].command('retry') if one else _RETRY_ALL}",
            ),
        )
        self.state = replace(self.state, mark=letters.mark, gathering=None)
        self._remember(Occasion.DEAD_LETTERS, Reported("dead", self._began(Occasion.DEAD_LETTERS, since), self._now))

    def lost(self) -> None:
        """Report each run that found images missing which had been in place, once."""
        found, last = self._snapshot.lost, self.state.reported.get(Occasion.LOST)
        at = int(found.at.timestamp() * 1000) if found is not None else 0
        if found is None or (last is not None and last.mark == str(at)) or self._reported_lately(Occasion.LOST):
            return
        images = "1 image was" if found.images == 1 else f"{found.images} images were"
        self._send(
            Occasion.LOST,
            MessageState.NEWS,
            f"replicator: {images} in place at the destination before, and missing now",
            since=at,
            count=found.images,
            examples=tuple(Example.of(each, "missing") for each in found.examples),
            advice=(
                "They are copied again. Was the registry emptied or replaced, or does a policy delete images there?",
            ),
        )
        self._remember(Occasion.LOST, Reported(str(at), at, self._now))

    def drift(self) -> None:
        """Report each reconcile that found drift, once."""
        result, last = self._snapshot.reconcile, self.state.reported.get(Occasion.DRIFT)
        if result is None or not result.findings.drift:
            return
        # One reconcile is one report: its start identifies it.
        mark, drift = str(int(result.started.timestamp() * 1000)), result.findings.drift
        if (last is not None and last.mark == mark) or self._reported_lately(Occasion.DRIFT):
            return
        ended = int(result.ended.timestamp() * 1000)
        images = "1 image was" if drift == 1 else f"{drift} images were"
        self._send(
            Occasion.DRIFT,
            MessageState.NEWS,
            f"replicator: the reconcile found drift: {images} out of date without a webhook event",
            since=ended,
            count=drift,
            advice=(
                "They are queued now. This is normal after the first start or a change of the rules.",
                "Otherwise webhook events are lost: replicator webhook list shows Harbor's last deliveries.",
            ),
        )
        self._remember(Occasion.DRIFT, Reported(mark, ended, self._now))

    def reconcile(self) -> None:
        """Report a reconcile that failed, is incomplete or waits for an approval, and the next that is complete."""
        result = self._snapshot.reconcile
        # Without a result there is neither a problem nor a recovery to report.
        if result is None:
            return
        if result.findings.complete:
            self._recovered(Occasion.RECONCILE)
            return
        findings, ended = result.findings, int(result.ended.timestamp() * 1000)
        advice = ("It is retried automatically. Until it succeeds, lost events are not detected.", _CHECK)
        if findings.error is not None:
            examples = (Example.of(f"on {result.host}", findings.error),)
            self._report(
                Occasion.RECONCILE,
                _Problem("incomplete", ended, "replicator: the reconcile failed", advice, examples=examples),
            )
            return
        named = tuple(Example.of(each.what, each.why) for each in findings.failures[:EXAMPLES])
        if findings.held:
            held = f"{findings.held:,} of {findings.compared:,} images"
            title = f"replicator: the reconcile would replace {held}, and waits for an approval"
            self._report(Occasion.RECONCILE, _Problem("held", ended, title, _APPROVE, findings.held, named))
            return
        missed, total = findings.failed + findings.unlisted, findings.listed + findings.unlisted
        tags = "1 tag" if findings.listed == 1 else f"{findings.listed:,} tags"
        lists = "1 list" if findings.unlisted == 1 else f"{findings.unlisted:,} lists"
        of = f"{total:,} ({tags} and {lists})" if findings.unlisted else tags
        title = f"replicator: the reconcile could not compare {missed:,} of {of}"
        self._report(Occasion.RECONCILE, _Problem("incomplete", ended, title, advice, missed, named))

    def lag(self) -> None:
        """Report copies that are late, and when all are on time again."""
        lateness, last = self._snapshot.lateness, self.state.reported.get(Occasion.LAG)
        # Hysteresis: a lag that swings around the threshold is one problem, not many.
        late = self._timing.late / 2 if last is not None and last.mark is not None else self._timing.late
        if lateness.seconds < late:
            self._recovered(Occasion.LAG)
            return
        advice = (
            "Run replicator status to see what is being copied and what fails."
            if lateness.workers
            else "No worker is running for events: start replicator serve or replicator worker.",
            _CHECK,
        )
        title = f"replicator: copies are late: the oldest has been waiting for {age(lateness.seconds)}"
        since = self._now - int(lateness.seconds * 1000)
        self._report(Occasion.LAG, _Problem("late", since, title, advice, lateness.failing or None, lateness.examples))

    def configuration(self) -> None:
        """Report a changed configuration that can't be used, and when every process has a good one."""
        complaints = self._snapshot.complaints
        if not complaints:
            self._recovered(Occasion.CONFIGURATION)
            return
        errors = sorted({complaint.text for complaint in complaints})
        # The set of errors identifies the problem, not the processes, which notice one after the other.
        mark = hashlib.sha256("\0".join(errors).encode()).hexdigest()[:16]
        use = "1 process does" if len(complaints) == 1 else f"{len(complaints)} processes do"
        title = f"replicator: the configuration has an error; {use} not use the changed files"
        advice = (
            "The last accepted version of each file stays in use; a file without one is not used.",
            "Fix the file; it is reloaded automatically. replicator check shows what is wrong.",
        )
        examples = tuple(configuration_example(error, complaints) for error in errors[:EXAMPLES])
        since = min(complaint.since for complaint in complaints)
        self._report(Occasion.CONFIGURATION, _Problem(mark, since, title, advice, examples=examples))

    def silence(self) -> None:
        """Report registries that do not answer, and when all of them do."""
        silent = [each for each in self._snapshot.silent if each.seconds >= self._timing.silence]
        if not silent:
            # A silence that has only just begun again is no recovery.
            if not self._snapshot.silent:
                last = self.state.reported.get(Occasion.SILENCE)
                hosts = (last.mark if last is not None else None) or ""
                answer = "answer" if ", " in hosts else "answers"
                self._recovered(Occasion.SILENCE, f"replicator: recovered: registry {hosts} {answer} again")
            return
        more = f", and {len(silent) - 1} more do not answer" if len(silent) > 1 else ""
        problem = _Problem(
            ", ".join(sorted(each.key for each in silent)),
            int(silent[0].since.timestamp() * 1000),
            f"replicator: {silent[0].sentence}{more}",
            (
                "Nothing is lost: the copies continue seconds after its first answer. Other copies are not delayed.",
                "Check that it is running and reachable from here. replicator check tests every host.",
            ),
            sum(each.total for each in silent),
            tuple(Example.of(each.key, each.why or "no answer") for each in silent[:EXAMPLES]),
        )
        self._report(Occasion.SILENCE, problem)

    def public(self) -> None:
        """Report private images that are public at their destination, and when there are none left."""
        copies = self._snapshot.public
        if not copies:
            self._recovered(Occasion.PUBLIC)
            return
        mark = hashlib.sha256("\0".join(sorted(each.destination for each in copies)).encode()).hexdigest()[:16]
        since = int(copies[0].since.timestamp() * 1000)
        first = [(f"{each.source} -> {each.destination}", each.destination) for each in copies[:EXAMPLES]]
        examples = tuple(Example.of(subject, close_to_anyone(destination)) for subject, destination in first)
        title = f"replicator: {public_copies(len(copies))}"
        self._report(Occasion.PUBLIC, _Problem(mark, since, title, (_CHECK,), len(copies), examples))

    def _report(self, occasion: Occasion, problem: _Problem) -> None:
        """Report a lasting problem, unless it is the one reported last or another was reported a moment ago."""
        last = self.state.reported.get(occasion)
        if (last is not None and last.mark == problem.mark) or self._reported_lately(occasion):
            return
        since = self._began(occasion, problem.since)
        self._send(
            occasion,
            MessageState.TROUBLE,
            problem.title,
            since=since,
            count=problem.count,
            examples=problem.examples,
            advice=problem.advice,
        )
        self._remember(occasion, Reported(problem.mark, since, self._now))

    def _recovered(self, occasion: Occasion, title: str = "") -> None:
        """Report that the problem is over, if there was one."""
        last = self.state.reported.get(occasion)
        if last is None or last.mark is None:
            return
        self._send(occasion, MessageState.RECOVERED, title or RECOVERED[occasion], since=last.since)
        self._remember(occasion, replace(last, mark=None))

    def _began(self, occasion: Occasion, since: int) -> int:
        """Return when the problem began: with the one reported before, if that is not over."""
        last = self.state.reported.get(occasion)
        return last.since if last is not None and last.mark is not None else since

    def _reported_lately(self, occasion: Occasion) -> bool:
        return self.state.reported_lately(occasion, self._now, self._timing)

    def _remember(self, occasion: Occasion, reported: Reported) -> None:
        self.state = replace(self.state, reported={**self.state.reported, occasion: reported})

    def _send(self, occasion: Occasion, state: MessageState, title: str, **more: Any) -> None:
        self.messages.append(Message(id=uuid4().hex, occasion=occasion, state=state, title=title, at=self._now, **more))
