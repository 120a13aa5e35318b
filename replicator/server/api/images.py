"""The state of an image: from memory, or by asking the registries within limits."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from replicator.copy import Result, SourceNotFound, selection_key
from replicator.copy.context import place_of, refusal_note
from replicator.copy.options import VERBATIM
from replicator.errors import ErrorText, ReplicatorError
from replicator.queue import KnownDestination, KnownJob, look_up
from replicator.queue.records import moment
from replicator.replication.advice import explained
from replicator.replication.transfer import select
from replicator.rules.request import may_trust
from replicator.server.api.errors import ApiError
from replicator.server.api.models import (
    WORST_FIRST,
    EndedCopy,
    ErrorWord,
    Failure,
    Image,
    ImageAtDestination,
    Job,
    State,
)
from replicator.tasks import Shared

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any

    from replicator.copy import Copier
    from replicator.errors import ErrorClass
    from replicator.queue import DeadLetter, Ended, Observations, Observed, Queue
    from replicator.reference import Reference
    from replicator.rules import CopyRequest, Rules

ASKED_AT_ONCE = 8
"""Concurrent comparisons for questions about images without an observation."""
MOST_WAITING = 32
"""Further questions that wait for their turn."""
ASK_SECONDS = 10.0
"""For the answers of the registries."""
SAME_SECONDS = 2.0
"""For so long an answer of the registries is given again to equal questions that are not for a fresh one."""
KNOWN_SECONDS = 2 * 86_400.0
"""For so long a destination that was seen in place is not compared again: twice the time between two reconciles."""


def class_word(error_class: ErrorClass) -> ErrorWord:
    """Return the word of a class."""
    return ErrorWord(str(error_class).replace(" ", "_"))


def failure_of(error_class: ErrorClass, message: str, at: datetime, attempts: int) -> Failure:
    """Return a failure from its stored text."""
    return Failure(
        error_class=class_word(error_class), **ErrorText.parse(message).to_json(), at=at, attempts=max(0, attempts)
    )


@dataclass(frozen=True, slots=True)
class _Compared:
    image: ImageAtDestination
    digest: str | None


class _Question:
    """A question to the registries, and its answer for all askers.

    Attributes:
        requests: the copies to compare.
        began: when its turn came, by `time.monotonic`; None before.
    """

    def __init__(
        self,
        requests: tuple[CopyRequest, ...],
        ask: Callable[[_Question], Coroutine[Any, Any, list[_Compared]]],
    ) -> None:
        self.requests = requests
        self.began: float | None = None
        self._asking = Shared(lambda: ask(self))
        self._answer: list[_Compared] | None = None
        self._failed = False

    def is_old(self, now: float) -> bool:
        """Whether it is over, and its answer not of the last moment."""
        over = self._failed or self._answer is not None
        return over and (self._failed or self.began is None or now - self.began >= SAME_SECONDS)

    async def answer(self) -> list[_Compared]:
        """Ask, unless somebody has.

        Raises:
            ApiError: there is no usable answer.
        """
        if self._answer is None:
            try:
                self._answer = await self._asking.result()
            except BaseException:
                self._failed = True
                raise
        return self._answer


class Images:
    """Tells the states of images.

    Args:
        queue: copies on their way, and observations; None without a queue: then the registries give all answers.
        copier: compares images without an observation.
        checks: records what a comparison finds in place; None to record nothing.
        rules: those in force.
    """

    def __init__(self, queue: Queue | None, copier: Copier, checks: Observations | None, rules: Rules) -> None:
        self._queue = queue
        self._copier = copier
        self._checks = checks
        self.rules = rules
        self._turns = asyncio.Semaphore(ASKED_AT_ONCE)
        self._waiting = 0
        self._questions: dict[tuple[CopyRequest, ...], _Question] = {}

    def requests(self, source: Reference, destination: str | None) -> Sequence[CopyRequest]:
        """Return the copies that the rules ask for, all or only the one to a destination."""
        found = self.rules.destinations(source)
        return [each for each in found if destination in (None, str(each.destination))]

    def reason(self, source: Reference, destination: str | None) -> str:
        """Say why no rule names an image, or does not send it to a destination."""
        if destination is not None and self.rules.destinations(source):
            return f"no rule sends it to {destination}"
        near = [each for each in self.rules.explain(source) if not each.matches]
        same = [each for each in near if each.rule.startswith(f"{source.registry}/")] or near
        return "; ".join(f"{each.rule}: {each.reason}" for each in same[:5]) or "there are no rules"

    async def tell(self, source: Reference, destination: str | None = None, *, fresh: bool = False) -> Image:
        """Return the state of an image at each destination.

        Args:
            source: the image.
            destination: only this one; None for all.
            fresh: ask the registries even where memory knows the answer, or a failure that may be over. What is on its
                way is still told as that.

        Raises:
            QueueUnavailable: Redis does not answer.
            ApiError: a registry does not answer usably, or too many questions wait.
        """
        requests = self.requests(source, destination)
        if not requests:
            return Image(source=str(source), state=State.NO_RULE, reason=self.reason(source, destination))
        known = [KnownDestination()] * len(requests)
        if self._queue is not None:
            known = await look_up(self._queue, [str(each.destination) for each in requests])
        failed = [_refused(request, each) for request, each in zip(requests, known, strict=True)]
        found = [
            self._remembered(request, each, refused, fresh=fresh)
            for request, each, refused in zip(requests, known, failed, strict=True)
        ]
        unknown = [number for number, each in enumerate(found) if each is None]
        try:
            asked = await self._ask(tuple(requests[number] for number in unknown), fresh=fresh) if unknown else []
        except ApiError:
            if not all(failed[number] for number in unknown):
                raise
            # The failure that is known says more.
            asked = [each for number in unknown if (each := failed[number]) is not None]
        for number, each in zip(unknown, asked, strict=True):
            # The image of a failed copy may still be in place: somebody copied it by hand.
            found[number] = failed[number] if each.image.state is State.MISSING and failed[number] else each
        whole = [each for each in found if each is not None]
        images = [each.image for each in whole]
        state = min((each.state for each in images), key=WORST_FIRST.index)
        digest = next((each.digest for each in whole if each.digest is not None), None)
        return Image(source=str(source), digest=digest, state=state, asked=bool(unknown), images=images)

    def _remembered(
        self, request: CopyRequest, known: KnownDestination, refused: _Compared | None, *, fresh: bool
    ) -> _Compared | None:
        """Return what the queue and memory know; None where the registries are to be asked."""
        names = {"destination": str(request.destination), "rule": request.rule}
        sources = (str(request.source), request.origin)
        job, seen = known.job, known.observed
        if job is not None and job.payload.get("source", sources[0]) in sources:
            return _Compared(_pending(job, names), None)
        if fresh or refused is not None:
            return None if fresh else refused
        if seen is None or job is not None or known.tag.source not in ("", *sources):
            return None
        return self._seen(request, seen, names)

    def _seen(self, request: CopyRequest, seen: Observed, names: dict[str, str]) -> _Compared | None:
        """Return what memory knows of a destination in place, if that is what the rules want now."""
        if time.time() - seen.time / 1000 > KNOWN_SECONDS or not seen.digest:
            return None
        if seen.wanted != selection_key(seen.digest, request.options):
            return None
        digest: str | None = seen.digest
        if not request.options.keeps_bytes:
            cached = self._copier.selections.get(seen.digest, request.options, place_of(request.destination.repository))
            digest = cached.digest if cached is not None else None
        image = ImageAtDestination(**names, state=State.IN_PLACE, digest=digest, since=moment(seen.time))
        return _Compared(image, seen.digest)

    async def _ask(self, requests: tuple[CopyRequest, ...], *, fresh: bool) -> list[_Compared]:
        """Compare at the registries, once for equal questions.

        Raises:
            ApiError: one does not answer usably or in time, or too many questions wait.
        """
        now = time.monotonic()
        while self._questions and (oldest := next(iter(self._questions.values()))).is_old(now):
            del self._questions[oldest.requests]
        known = self._questions.get(requests)
        # What began before a fresh question may have read what a push has changed since.
        if known is None or (known.began is not None if fresh else known.is_old(now)):
            known = self._questions[requests] = _Question(requests, self._compare_all)
        return await known.answer()

    async def _compare_all(self, question: _Question) -> list[_Compared]:
        requests = question.requests
        if self._waiting >= MOST_WAITING:
            what = f"{MOST_WAITING} questions wait for registries already"
            raise ApiError(429, ErrorText(what, do="ask again in a few seconds"), retry_after=5)
        self._waiting += 1
        try:
            async with asyncio.timeout(ASK_SECONDS), self._turns:
                question.began = time.monotonic()
                return [await self._compare(request) for request in requests]
        except TimeoutError:
            hosts = sorted({host for each in requests for host in (each.source.registry, each.destination.registry)})
            what = f"no answer from {' and '.join(hosts)} within {ASK_SECONDS:g} s"
            raise ApiError(504, ErrorText(what, do="ask again")) from None
        except ReplicatorError as error:
            words = explained(error, requests[0].destination)
            raise ApiError(502, words) from error
        finally:
            self._waiting -= 1

    async def _compare(self, request: CopyRequest) -> _Compared:
        names = {"destination": str(request.destination), "rule": request.rule}
        now = datetime.now(UTC)
        if request.problem is not None:
            return _Compared(ImageAtDestination(**names, state=State.SKIPPED, note=request.problem), None)
        options = VERBATIM if request.signature else request.options
        try:
            selected = await select(self._copier.registries, request)
            if isinstance(selected, str):
                return _Compared(ImageAtDestination(**names, state=State.SKIPPED, note=selected), None)
            found = await self._copier.compare(request.source, request.destination, options, read=False)
        except SourceNotFound:
            return _Compared(ImageAtDestination(**names, state=State.NO_SOURCE, since=now), None)
        if found.result is Result.UP_TO_DATE:
            if self._checks is not None and may_trust(request):
                key, owner = selection_key(found.announced, request.options), request.origin
                owner = "" if request.signature else owner
                self._checks.record(names["destination"], key, now.timestamp(), owner, found.announced)
            image = ImageAtDestination(**names, state=State.IN_PLACE, digest=found.digest, since=now)
            return _Compared(image, found.announced)
        note = found.note
        if found.result is None and options.refused != "fail":
            place = place_of(request.destination.repository)
            kind = await self._copier.refused.skipped(*place, selection_key(found.announced, options, place))
            note = refusal_note(request.destination.registry, kind) if kind else ""
        if found.result is None and not note and (kept := await self._kept(request, found.replaced)):
            note = request.overwrite.kept(request.destination, kept)
        skipped = found.result is not None or bool(note)
        state = State.SKIPPED if skipped else State.MISSING
        note = note if skipped else ""
        image = ImageAtDestination(**names, state=state, digest=found.present, since=now, note=note)
        return _Compared(image, found.announced)

    async def _kept(self, request: CopyRequest, replaced: str | None) -> str | None:
        """Return the image that the rule does not let be replaced; None if it may be."""
        if replaced is None or request.overwrite.allows(replaced):
            return None
        owned = await self._checks.owned([str(request.destination)]) if self._checks is not None else None
        return None if owned is None or request.overwrite.allows(replaced, owned[0]) else replaced


def _refused(request: CopyRequest, known: KnownDestination) -> _Compared | None:
    """Return the failure of a copy that failed for good; None without one."""
    letter, sources = known.letter, (str(request.source), request.origin)
    if letter is None or (letter.payload or {}).get("source", sources[0]) not in sources:
        return None
    failure = failure_of(letter.error_class, letter.message, letter.last, letter.tries)
    names = {"destination": str(request.destination), "rule": request.rule}
    return _Compared(ImageAtDestination(**names, state=State.REFUSED, since=letter.last, failure=failure), None)


def _pending(job: KnownJob, names: dict[str, str]) -> ImageAtDestination:
    running, failure = job.running, None
    if job.failure is not None:
        last = job.failure
        failure = failure_of(last.error_class, last.message, last.last, last.tries)
    attempt = running.failures + 1 if running is not None else 0 if job.failure is None else job.failure.tries
    state = State.QUEUED if job.state == "paused" else State(job.state)
    shown = Job(
        lane=job.lane.value,
        attempt=max(0, attempt),
        bytes=max(0, running.bytes) if running is not None else 0,
        size=running.size if running is not None and running.size > 0 else None,
        seconds_left=running.seconds_left if running is not None else None,
        due=job.due if state is State.WAITING else None,
        queued=job.enqueued,
        paused=job.state == "paused",
    )
    since = running.since if running is not None else job.enqueued
    return ImageAtDestination(**names, state=state, since=since, job=shown, failure=failure)


def letter_names(letter: DeadLetter) -> tuple[str, str]:
    """Return the source and the rule of a dead letter; empty where they were lost."""
    payload = letter.payload or {}
    return str(payload.get("source", "")), str(payload.get("rule", ""))


def ended_copy(job: Ended) -> EndedCopy:
    """Return a copy that ended."""
    failure = None if job.error_class is None else failure_of(job.error_class, job.note, job.at, job.tries)
    return EndedCopy(
        at=job.at,
        source=job.source,
        destination=job.id,
        rule=job.rule,
        lane=job.lane.value,
        result=job.result,
        note=str(ErrorText.parse(job.note)) if failure is None else "",
        failure=failure,
        bytes=max(0, job.bytes),
        seconds=max(0.0, job.seconds),
        lag=job.lag,
        attempts=max(0, job.tries),
        replaced=job.replaced,
    )
