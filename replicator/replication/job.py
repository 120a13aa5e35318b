"""What the queue's jobs do: one copy request each, from the webhook's enqueue to the outcome."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import structlog

from replicator.copy import Outcome, Result, SourceNotFound, selection_key
from replicator.errors import ErrorClass, ReplicatorError
from replicator.queue import Description, Job, Lane
from replicator.replication.transfer import CopyFailed, copy_signature, transfer
from replicator.rules import CopyRequest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from replicator.copy import Copier
    from replicator.queue import JsonValue, Observations, Running
    from replicator.registry import Registries

log = structlog.get_logger("replicator.copy")

_LOOKS_FOR_SOURCE = 3
"""Tries before a source tag that does not resolve counts as deleted: an event may be faster than Harbor's cache."""


GIVEN_UP = "given up"
"""The result of a copy that is not tried again by itself."""

_EVENT_ID = "event_id"
_TRACE = "traceparent"


def job_for(
    request: CopyRequest,
    *,
    retries: int | None = None,
    event_id: str | None = None,
    pushed: datetime | None = None,
    trace: str | None = None,
) -> Job:
    """Make the queue's job for a copy request: its id is the destination, so one destination is one job.

    Args:
        request: what to copy where.
        retries: how often a failure is tried again; None for the worker's own patience.
        event_id: names the event that asks for it in log lines; None where none does.
        pushed: when the push was that asks for it; None where none does, or its time is not known.
        trace: the ``traceparent`` of what asks for it; None without traces.
    """
    known = {_EVENT_ID: event_id, _TRACE: trace}
    named = {name: value for name, value in known.items() if value is not None}
    return Job(str(request.destination), {**request.to_json(), **named}, retries, pushed)


def event_of(payload: Mapping[str, Any]) -> str | None:
    """Return the id of the event that asked for a job; None where none did, or an older version took it."""
    event_id = payload.get(_EVENT_ID)
    return event_id if isinstance(event_id, str) else None


def trace_of(payload: Mapping[str, Any]) -> str | None:
    """Return the ``traceparent`` of what asked for a job; None where it left none."""
    trace = payload.get(_TRACE)
    return trace if isinstance(trace, str) else None


def may_trust(request: CopyRequest) -> bool:
    """Tell whether what was seen of a request's destination (`Observations`) says that there is nothing to do.

    Only for a tag: what a digest names does not change, and is not remembered. Not where signatures are wanted too:
    an observation says nothing of them.
    """
    named = request.source.tag is not None and request.destination.tag is not None
    return named and not request.signature and not request.options.signatures


def describe(
    lane: Lane, payload: Mapping[str, JsonValue], outcome: Mapping[str, JsonValue] | None
) -> Description | None:
    """Say what the history keeps of a job that ended.

    Args:
        lane: whose slot it took.
        payload: what it was to do; empty when that was lost.
        outcome: what became of it, as the `Handler` told; None when it was given up.

    Returns:
        What is kept; None for what a backfill found to be right: of ten thousand such nobody would see the others.
    """
    source, rule = str(payload.get("source", "")), str(payload.get("rule", ""))
    if outcome is None:
        return Description(GIVEN_UP, source, rule, arrived=False)
    told = Outcome.from_json(dict(outcome))
    if told.result is Result.UP_TO_DATE and lane is Lane.BACKFILL and not told.warnings:
        return None
    note = "; ".join(filter(None, (told.note, *told.warnings)))
    arrived = told.result in (Result.COPIED, Result.UP_TO_DATE)
    return Description(str(told.result), source, rule, note, told.bytes, arrived)


class Handler:
    """Runs the queue's jobs.

    Args:
        registries: for the questions a rule asks when its job runs.
        copier: does the copies.
        checks: learns what is seen at destinations, and has to be closed after the last job; None where nobody
            remembers it.
    """

    def __init__(self, registries: Registries, copier: Copier, checks: Observations | None = None) -> None:
        self._registries = registries
        self._copier = copier
        self._checks = checks

    async def __call__(self, running: Running) -> Mapping[str, JsonValue]:
        """Run one job.

        Returns:
            The `Outcome` as JSON values.

        Raises:
            ReplicatorError: it failed; its class says whether to try again.
        """
        started = time.monotonic()
        try:
            request = CopyRequest.from_json(running.payload)
        except (ValueError, TypeError, KeyError) as error:
            raise CopyFailed(f"the queued job can't be read: {error}", ErrorClass.PERMANENT) from error
        # Who runs a backfill tells its failures and warnings itself.
        trouble = logging.WARNING if running.lane is Lane.EVENTS else logging.INFO
        try:
            outcome = await self._outcome(request, running)
        except ReplicatorError as error:
            log.log(
                trouble,
                "copy failed",
                source=str(request.source),
                destination=str(request.destination),
                error_class=str(error.error_class),
                error=str(error),
                seconds=round(time.monotonic() - started, 3),
                **_circumstances(request, running),
            )
            raise
        level = trouble if outcome.warnings else logging.INFO
        log.log(level, "copy done", **_told(outcome), **_circumstances(request, running))
        return outcome.to_json()

    async def _outcome(self, request: CopyRequest, running: Running) -> Outcome:
        if request.selection is not None and request.source.tag is not None:
            tags = [tag async for tag in self._registries.source(request.source.repository).tags()]
            if request.source.tag in tags and request.source.tag not in request.selection.select(tags):
                note = "it is not among the latest tags that its rule names"
                return Outcome(Result.SKIPPED, str(request.source), str(request.destination), note=note)
        read = 0

        def progress(number: int) -> None:
            nonlocal read
            read += number
            running.progress(read)

        # What was said or seen of the tag is the last word only if nobody asked for more since, and nothing failed.
        holds = running.tries == 1 and not running.merged
        try:
            if request.signature:
                return await copy_signature(self._copier, request.source, request.destination, progress=progress)
            began = time.time()
            outcome = await transfer(
                self._copier,
                request.source,
                request.destination,
                options=request.options,
                announced=request.announced if holds else None,
                force=request.force,
                confirm=running.confirm,
                progress=progress,
            )
        except SourceNotFound as error:
            if running.tries < _LOOKS_FOR_SOURCE:
                raise
            return Outcome(Result.SOURCE_GONE, str(request.source), str(request.destination), note=str(error))
        self._remember(request, outcome, began)
        return outcome

    def _remember(self, request: CopyRequest, outcome: Outcome, began: float) -> None:
        """Note what the destination holds now.

        Args:
            request: what was asked for.
            outcome: what became of it.
            began: when the copy began, by ``time.time()``: the destination may have been asked right then.
        """
        if self._checks is None or not may_trust(request) or outcome.source_digest is None:
            return
        if outcome.result in (Result.COPIED, Result.UP_TO_DATE):
            # Without signatures the tag is the last that is written.
            at = time.time() if outcome.result is Result.COPIED else began
            self._checks.record(str(request.destination), selection_key(outcome.source_digest, request.options), at)


def _circumstances(request: CopyRequest, running: Running) -> dict[str, Any]:
    """Return what is told of a try however it ended; what is not known is left out."""
    event_id = event_of(running.payload)
    lag = None if running.pushed is None else round(max(0.0, time.time() - running.pushed.timestamp()), 3)
    known = {"lag": lag, "event_id": event_id}
    return {
        "rule": request.rule,
        "tries": running.tries,
        "lane": str(running.lane),
        **{name: value for name, value in known.items() if value is not None},
    }


def _told(outcome: Outcome) -> dict[str, Any]:
    return {name: value for name, value in outcome.to_json().items() if value not in ("", None)} | {
        "result": str(outcome.result)
    }
