"""Jobs of the queue: one copy request each, from the webhook's or backfill's enqueue to the outcome."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog

from replicator.aliyun.acr import OTHER_NAME, name_problem, with_edition
from replicator.console import short
from replicator.copy import Outcome, Result, SourceNotFound, selection_key
from replicator.copy.options import VERBATIM
from replicator.errors import AGAIN, ErrorClass, ErrorText, ReplicatorError, class_word
from replicator.queue import Description, Lane, LeftToOthers
from replicator.registry.places import BULK
from replicator.replication.advice import SETTLING_SECONDS, settling
from replicator.replication.enqueue import event_of, rules_of
from replicator.replication.transfer import CopyFailed, owner_of, select, transfer
from replicator.rules import CopyRequest
from replicator.rules.request import may_trust, signature_fact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replicator.copy import Comparison, Copier
    from replicator.queue import InForce, JsonValue, Observations, Running
    from replicator.replication.publicity import Publicity
    from replicator.rules import Rules

log = structlog.get_logger("replicator.copy")

PARTS = ("manifests", "signatures", "blobs_copied", "blobs_mounted", "blobs_present")
"""The numbers of an `Outcome` that the history keeps."""
GIVEN_UP = "given up"
"""The result of a dead letter in the history; stored in Redis."""

LOST = "the image had been in place, and was missing"

_LOOKS = 3
"""Attempts after which a tag that names another digest than its event is believed."""
_ATTEMPTS_TO_RESOLVE = 3
"""Attempts before a source tag that does not resolve counts as deleted: an event may be ahead of Harbor's cache."""
_GONE_SECONDS = {"manifest": 120.0, "repository": 3600.0}
"""Seconds for which a registry has to say that something is gone: an outage may be what makes it say so."""
_ANNOUNCED_SECONDS = 600.0
"""Age from which the digest of an event is not believed to be the tag's any more."""
WITHDRAWN = "no rule names it any more"
"""The note on a job that was queued under other rules, and that no process's rules name."""


def withdrawn(request: CopyRequest, *warnings: str) -> Outcome:
    """Return the outcome of a copy that no rule names any more."""
    source, destination = str(request.source), str(request.destination)
    return Outcome(Result.SKIPPED, source, destination, note=WITHDRAWN, warnings=tuple(filter(None, warnings)))


def describe(lane: Lane, payload: Mapping[str, JsonValue], outcome: Mapping[str, JsonValue] | None) -> Description:
    """Describe a finished job for the history and for receivers of events.

    Args:
        lane: whose worker slot the job took.
        payload: the job's; empty if it was lost.
        outcome: what the `Handler` returned; None for a dead letter.

    Returns:
        The description; not ``kept`` is what a backfill found up to date: ten thousands of them would hide all others.
    """
    source, rule = str(payload.get("source", "")), str(payload.get("rule", ""))
    if outcome is None:
        return Description(GIVEN_UP, source, rule, arrived=False)
    copied = Outcome.from_json(dict(outcome))
    news = copied.result is not Result.UP_TO_DATE or copied.warnings or copied.replaced or lane is Lane.EVENTS
    note = "; ".join(filter(None, (copied.note, *copied.warnings)))
    arrived = copied.result in (Result.COPIED, Result.UP_TO_DATE)
    result, replaced, digest = str(copied.result), copied.replaced or "", copied.digest or ""
    parts = {name: number for name in PARTS if (number := getattr(copied, name))}
    return Description(result, source, rule, note, copied.bytes, arrived, replaced, digest, parts, bool(news))


class Handler:
    """Runs the queue's jobs.

    Args:
        copier: makes the copies; its registries answer what a rule asks when the job runs.
        checks: records what is seen at destinations, and has to be closed after the last job; None to record nothing.
        rules: decide what is copied when an attempt begins; None to copy what the job says.
        in_force: knows of the rules of other processes; None if there are none.
        publicity: notices private images that become public; None for none.
    """

    def __init__(
        self,
        copier: Copier,
        checks: Observations | None = None,
        rules: Rules | None = None,
        in_force: InForce | None = None,
        publicity: Publicity | None = None,
    ) -> None:
        self._copier = copier
        self._checks = checks
        self._rules = rules
        self._in_force = in_force
        self._publicity = publicity

    def renew(self, rules: Rules) -> None:
        """Have other rules decide from the next attempt on."""
        self._rules = rules
        if self._in_force is not None:
            self._in_force.renew(rules.digest, rules.parts)

    async def __call__(self, running: Running) -> Mapping[str, JsonValue]:
        """Run one job and return its `Outcome` as JSON values.

        Raises:
            ReplicatorError: the job failed; the error's class decides about a retry.
            LeftToOthers: it is a job of processes with other rules.
        """
        BULK.set(running.lane is Lane.BACKFILL)
        if running.lane is Lane.BACKFILL:
            return await self._run(running)
        with self._copier.registries.courtesy.push():
            return await self._run(running)

    async def _run(self, running: Running) -> Mapping[str, JsonValue]:
        started = time.monotonic()
        try:
            request = CopyRequest.from_json(running.payload)
        except (ValueError, TypeError, KeyError) as error:
            raise CopyFailed(ErrorText("the queued job can't be read", str(error)), ErrorClass.PERMANENT) from error
        # A backfill reports failures and warnings itself, so in its lane they are no warning in the log.
        trouble = logging.WARNING if running.lane is Lane.EVENTS else logging.INFO
        present = await self._present(request, running)
        if isinstance(present, Outcome):
            level = logging.WARNING if present.warnings else logging.INFO
            log.log(level, "copy done", **_fields(present), **_circumstances(request, running))
            return present.to_json()
        request = present

        def asked() -> CopyRequest:
            # The parts to copy may depend on the present knowledge of the destination.
            return (self._rules.present(request) if self._rules is not None else None) or request

        try:
            outcome = await with_edition(asked, lambda now: self._outcome(now, running))
        except ReplicatorError as error:
            if isinstance(error, CopyFailed) and error.reason:
                self._copier.registries.note_refusal(error.registry, error.reason)
            log.log(
                trouble,
                "copy failed",
                source=str(request.source),
                destination=str(request.destination),
                error_class=class_word(error.error_class),
                **({"reason": error.reason} if error.reason else {}),
                error=error,
                seconds=round(time.monotonic() - started, 3),
                **_circumstances(request, running),
            )
            raise
        if self._publicity is not None and outcome.result is Result.COPIED:
            self._publicity.copied(request)
        level = trouble if outcome.warnings or outcome.result is Result.SOURCE_GONE else logging.INFO
        log.log(level, "copy done", **_fields(outcome), **_circumstances(request, running))
        return outcome.to_json()

    async def _present(self, request: CopyRequest, running: Running) -> CopyRequest | Outcome:
        """Return a copy as the rules in force ask for it, or the outcome of one that no rule names any more.

        Raises:
            LeftToOthers: other processes have rules that may name it.
        """
        rules, digest = self._rules, rules_of(running.payload)
        if rules is None or digest == rules.digest:
            return request
        present = rules.present(request)
        if present == request or self._in_force is None:
            return present or withdrawn(request)
        place = await self._in_force.place(digest, running.asked)
        if present is not None and not place.is_one_off:
            return present
        if place.left_to is not None:
            raise LeftToOthers(place.left_to)
        if rules.out:
            # A file with a mistake is out of force, and may name it once it is mended.
            raise LeftToOthers(self._in_force.keep(digest, running.asked))
        minutes = f"{place.away / 60:.0f}"
        return withdrawn(
            request, "" if place.is_former else f"no process has had the rules that queued it for {minutes} minutes"
        )

    async def _outcome(self, request: CopyRequest, running: Running) -> Outcome:
        named, selected = request, await select(self._copier.registries, request)
        if isinstance(selected, str):
            return await self._left_alone(request, Result.SKIPPED, selected)
        request = selected
        if problem := request.problem or name_problem(request.destination.repository):  # an edition may be news
            # The rules say themselves what to change.
            text = ErrorText(problem, do=OTHER_NAME if request.problem is None else "")
            raise CopyFailed(text, ErrorClass.PERMANENT)
        # The facts in the request are stale after a failed attempt, after another push was merged into this job,
        # and after a long wait, as for a registry that did not answer.
        waited = (datetime.now(UTC) - running.enqueued_at).total_seconds()
        event = None
        if running.lane is Lane.EVENTS and not running.merged and waited <= _ANNOUNCED_SECONDS:
            event = named.announced
        if running.tries > 1 or running.merged or waited > _ANNOUNCED_SECONDS:
            request = replace(request, announced=None, absent=False)
        if request.absent and (running.lapsed or await self._came_since(request)):
            # Otherwise the destination is not asked a second time.
            request = replace(request, absent=False)
        if self._publicity is not None:
            await self._publicity.guard(request)
        began = time.time()
        try:
            outcome = await self._transfer(request, running)
        except SourceNotFound as error:
            if not await self._is_gone(error, request, running):
                raise
            return await self._left_alone(named, Result.SOURCE_GONE, str(error))
        except CopyFailed as error:
            if (age := settling(request, running, error.__cause__)) is not None:
                why = f"{error.why}; pushed {age:.0f} s ago, and Harbor may take a while to serve every layer whole"
                do = f"{AGAIN} until {round(SETTLING_SECONDS / 60)} minutes after the push"
                raise CopyFailed(ErrorText(error.what, why, do), ErrorClass.NOT_YET) from error
            raise
        outcome = replace(outcome, source=str(named.source))
        outcome = await self._with_loss(request, outcome, running)
        lags = running.tries < _LOOKS and await self._lags(request, outcome, event, running.pushed)
        self._record(request, outcome, began)
        if lags:
            found = short(str(outcome.source_digest))
            what = f"the event announced {short(str(event))}, but {named.source} names {found}, which is in place"
            why = "Harbor's database replica or a cache before it may lag, or the tag was moved back"
            raise CopyFailed(ErrorText(what, why), ErrorClass.NOT_YET)
        return outcome

    async def _transfer(self, request: CopyRequest, running: Running) -> Outcome:
        """Copy, and record the written digest and its source."""
        bytes_read = size = 0

        def progress(read: int, found: int = 0, /) -> None:
            nonlocal bytes_read, size
            bytes_read, size = bytes_read + read, size + found
            running.progress(bytes_read, size)

        owned, owner = running.owned, request.origin

        async def permit(found: Comparison) -> None:
            nonlocal owner
            owner = await owner_of(self._copier.registries, self._rules, request, found, owned.source)

        def writing(digest: str, replaced: str | None) -> None:
            # A digest has one content, wherever it comes from.
            if request.destination.tag is not None:
                running.own(owned.after(owner, digest, replaced))

        outcome = await transfer(
            self._copier,
            request,
            own=owned,
            permit=permit,
            writing=writing,
            confirm=running.confirm,
            answered=running.answered,
            progress=progress,
        )
        if outcome.result is Result.COPIED:
            outcome = replace(outcome, replaced=owned.told(outcome.replaced))
        elif outcome.result is Result.UP_TO_DATE and outcome.digest in owned:
            # An earlier attempt wrote it, and did not come to its end.
            outcome = replace(outcome, replaced=owned.replaced or None)
        return outcome

    async def _with_loss(self, request: CopyRequest, outcome: Outcome, running: Running) -> Outcome:
        """Return the outcome with a word on it, if the destination had lost what this installation had seen there.

        Then nothing that was seen in its repository is trusted any more.
        """
        missing = outcome.former == "" or (outcome.former is None and request.absent)
        # What another image was selected from is known only where all of it is copied.
        other = outcome.former if request.options.keeps_bytes else None
        if self._checks is None or outcome.result is not Result.COPIED or not (missing or other):
            return outcome
        seen = running.observed if may_trust(request) else None
        if seen is None or (not missing and selection_key(str(other), request.options) == seen.wanted):
            return outcome
        await self._checks.distrust(str(request.destination.repository), seen)
        if not missing:
            return outcome
        if running.lane is Lane.EVENTS:
            return replace(outcome, warnings=(*outcome.warnings, LOST))
        # A backfill or reconcile has counted it, and says it once for all.
        return replace(outcome, note="; ".join(filter(None, (LOST, outcome.note))))

    async def _left_alone(self, request: CopyRequest, result: Result, note: str) -> Outcome:
        """Return the outcome of a tag that is not copied, with the digest that its destination still has."""
        outcome = Outcome(result, str(request.source), str(request.destination), note=note)
        tag = request.destination.tag
        if tag is None:
            return outcome
        try:
            if result is Result.SOURCE_GONE:
                target = self._copier.registries.destination(request.destination.repository)
                head = await target.head_destination(tag)
                return outcome.held_by(head.digest if head is not None else None)
            options = VERBATIM if request.signature else request.options
            found = await self._copier.compare(
                request.source, request.destination, options, announced=request.announced, read=False
            )
        except ReplicatorError as error:
            if error.error_class is ErrorClass.TRANSIENT:
                raise
            return outcome
        return outcome.held_by(found.present if found.result is None else found.held)

    async def _is_gone(self, error: SourceNotFound, request: CopyRequest, running: Running) -> bool:
        """Tell whether the source has said so in its own words, for long enough, and is not broken as a whole.

        If not, the next attempt is put off until then where attempts are limited to so few.
        """
        if error.says_gone is None:
            return False
        left = _GONE_SECONDS[error.says_gone] - running.failing(error.error_class)
        if running.tries >= _ATTEMPTS_TO_RESOLVE and left <= 0:
            return await self._copier.registries.source(request.source.repository).answers()
        if running.tries == _ATTEMPTS_TO_RESOLVE - 1 and error.says_gone == "manifest":
            error.retry_after = max(0.0, left)
        return False

    async def _came_since(self, request: CopyRequest) -> bool:
        """Tell whether another copy may have written a tag since it was seen to be absent."""
        # Twice the age of what is believed: it was seen a while before its copy was requested.
        within = 2 * _ANNOUNCED_SECONDS
        return self._checks is not None and await self._checks.noted(str(request.destination), within)

    async def _lags(
        self, request: CopyRequest, outcome: Outcome, announced: str | None, pushed: datetime | None
    ) -> bool:
        """Tell whether the source may show an older state than the one that its event announced.

        Then nothing was to do for another digest, which the destination was not brought after that push.
        """
        found = outcome.source_digest
        if outcome.result is not Result.UP_TO_DATE or None in (announced, found) or announced == found:
            return False
        if self._checks is None or pushed is None or not may_trust(request):
            return True
        expected = (str(request.destination), selection_key(str(found), request.options))
        (seen,) = await self._checks.confirmed([expected], (datetime.now(UTC) - pushed).total_seconds())
        return not seen

    def _record(self, request: CopyRequest, outcome: Outcome, began: float) -> None:
        """Record what the destination holds now, after a copy that began at ``began`` (`time.time`)."""
        in_place = outcome.result in (Result.COPIED, Result.UP_TO_DATE)
        if self._checks is None or outcome.source_digest is None or not in_place:
            return
        attached = request.accessories
        if may_trust(request):
            # Without signatures, the tag is the last thing a copy writes, so it was right a moment ago. If nothing was
            # written, the destination may have been read at the very beginning.
            seen = time.time() if outcome.result is Result.COPIED and not outcome.signatures else began
            key = selection_key(outcome.source_digest, request.options)
            owner = "" if request.signature else request.origin
            self._checks.record(str(request.destination), key, seen, owner, outcome.source_digest)
        if attached is not None and attached.subject == outcome.source_digest and outcome.settled:
            self._checks.record(*signature_fact(request, attached), began)


def _circumstances(request: CopyRequest, running: Running) -> dict[str, Any]:
    """Return the log fields of any attempt, without those whose value is not known."""
    lag = None if running.lag is None else round(running.lag, 3)
    optional = {"lag": lag, "event_id": event_of(running.payload)}
    return {
        "rule": request.rule,
        "tries": running.tries,
        "lane": str(running.lane),
        **{name: value for name, value in optional.items() if value is not None},
    }


def _fields(outcome: Outcome) -> dict[str, Any]:
    fields = {name: value for name, value in outcome.to_json().items() if value not in ("", None)}
    if outcome.source_digest == outcome.digest:
        fields.pop("source_digest", None)
    return fields | {"result": str(outcome.result)}
