"""The HTTP side: Harbor's webhook and the probes.

| request | answers |
|---|---|
| ``POST /webhooks/harbor`` | 202 queued, 200 ignored, 400, 401, 403 sender's address, 408, 413, 503 not queued |
| ``POST /webhooks/harbor/HOST[:PORT]`` | the same, for a push at the Harbor that the rules name so |
| ``GET /healthz`` | 200 as long as the process serves |
| ``GET /readyz`` | 200 when an event could be queued and, where this process has a worker, copied; else 503 and why |
| ``GET /metrics`` | the metrics, for Prometheus |

The probes and the metrics can be had at an address of their own, too: `create_probes_app`. They need no token.

A 2xx to a webhook means: durably queued, or ignored for the reason given. Harbor waits 3 s for it in all.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from replicator.harbor.events import PUSH, Event, Fate, MalformedEvent, Push, parse_event
from replicator.harbor.policy import PATH, canonical
from replicator.queue import Lane, QueueError
from replicator.reference import Reference, Repository
from replicator.replication.job import job_for
from replicator.server.requests import RequestIdMiddleware, read_body

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.requests import Request
    from starlette.types import ASGIApp

    from replicator.queue import Queue
    from replicator.rules import CopyRequest, Rules
    from replicator.server.auth import WebhookAuth

log = structlog.get_logger("replicator.webhook")

MAX_BODY = 1024 * 1024
"""Bytes of a webhook's body; Harbor's events have about one thousand."""
_RETRY_AFTER = "15"
_CREDIBLE = timedelta(days=1)
"""How far an event's time may be from ours. Harbor's attempts to deliver one are over within hours."""


class Liveness(Protocol):
    """Tells what of this process does not work."""

    def problems(self) -> list[str]:
        """Say what is wrong, a sentence each; nothing when all is well."""


class DeliveryObserver(Protocol):
    """Is told of deliveries to the webhook. It returns at once, and raises nothing."""

    def delivered(self, kind: str | None, fate: Fate) -> None:
        """Hear of a delivery.

        Args:
            kind: the event's type as Harbor names it; None where it was not read.
            fate: what became of it.
        """


class Exposition(Protocol):
    """Writes the metrics."""

    async def expose(self, accept: str) -> tuple[bytes, str]:
        """Return them and their content type, as the request's ``Accept`` wants them. It raises nothing."""


class Webhook:
    """Takes events, and queues the copies that the rules name for them.

    Args:
        rules: say what is copied where.
        queue: takes the copies.
        entrance: whose events are taken.
        observer: told of every delivery.
        trace: returns the current trace, which is given on with the copies; None without traces.
    """

    def __init__(
        self,
        rules: Rules,
        queue: Queue,
        entrance: WebhookAuth,
        observer: DeliveryObserver,
        trace: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._queue = queue
        self._trace = trace
        self._observer = observer
        self.renew(rules, entrance)

    def renew(self, rules: Rules, entrance: WebhookAuth) -> None:
        """Have other rules, and another entrance, from the next request on."""
        self._rules = rules
        self._entrance = entrance
        self._sources = {canonical(source.registry): source.registry for source in rules.sources()}

    async def __call__(self, request: Request) -> Response:
        """Answer one delivery."""
        if not self._entrance.allows_address(_client(request)):
            log.warning("webhook refused", reason="address not in REPLICATOR_WEBHOOK_SOURCES", client=_client(request))
            self._observer.delivered(None, Fate.UNAUTHORIZED)
            return _refusal(403, "webhooks are not taken from this address")
        token = self._entrance.matching_token(request.headers.get("Authorization", ""))
        if token is None:
            log.warning("webhook refused", reason="wrong Authorization", client=_client(request))
            self._observer.delivered(None, Fate.UNAUTHORIZED)
            return _refusal(401, "the Authorization header is not the configured webhook token")
        kind = None
        try:
            event = parse_event(await read_body(request, MAX_BODY))
            # Harbor's older format has no id: there the delivery's own stands for it.
            event, kind = replace(event, id=event.id or request.state.request_id), event.type
            answer, queued = await self._take(event, _registry(request))
        except HTTPException:
            self._observer.delivered(kind, Fate.MALFORMED)
            raise
        except MalformedEvent as error:
            log.warning("webhook refused", reason=str(error), client=_client(request))
            self._observer.delivered(kind, Fate.MALFORMED)
            return _refusal(400, str(error))
        except QueueError as error:
            log.error("webhook not queued", error=str(error))  # noqa: TRY400 - Redis's absence, not a fault of ours
            self._observer.delivered(kind, Fate.UNAVAILABLE)
            return _refusal(503, "the queue can't take it now; deliver it again", {"Retry-After": _RETRY_AFTER})
        # Whoever changes the token sees here who still has the old one.
        former = {"token": "former", "client": _client(request)} if token == "former" else {}  # noqa: S105 - a word
        log.info("webhook taken", type=event.type, event_id=event.id, **answer, **former)
        self._observer.delivered(kind, Fate.QUEUED if queued else Fate.IGNORED)
        return JSONResponse(answer, 202 if queued else 200)

    async def _take(self, event: Event, registry: str | None) -> tuple[dict[str, Any], bool]:
        """Queue what an event asks for; return the answer, and whether anything was queued.

        Raises:
            MalformedEvent: the webhook's URL names a registry that no rule has as a source.
            QueueError: nothing is durably queued.
        """
        if event.type != PUSH:
            return {"ignored": f"{event.type} is no push"}, False
        if registry is not None and canonical(registry) not in self._sources:
            raise MalformedEvent(f"the webhook's URL names {registry[:100]!r}, which no rule has as its source")
        requests: dict[CopyRequest, None] = {}
        ignored: list[str] = []
        for push in event.pushes:
            found, reason = self._requests(push, registry)
            requests |= dict.fromkeys(found)
            ignored += [reason] if reason else []
        if not requests:
            return {"ignored": "; ".join(dict.fromkeys(ignored))}, False
        pushed = _credible(event.occurred)
        about: dict[str, Any] = {"event_id": event.id, "pushed": pushed, "trace": self._trace()}
        jobs = [job_for(request, **about) for request in requests]
        await self._queue.enqueue(jobs, Lane.EVENTS)
        queued = [{"source": str(item.source), "destination": str(item.destination)} for item in requests]
        return {"queued": queued, **({"ignored": "; ".join(ignored)} if ignored else {})}, True

    def _requests(self, push: Push, registry: str | None) -> tuple[Iterable[CopyRequest], str]:
        """Apply the rules to a push; return what to copy, or nothing and the reason."""
        host = self._source_host(push, registry)
        what = f"{push.repository}:{push.tag}" if push.tag else f"{push.repository}@{push.digest}"
        if host is None:
            return (), f"{what} is at {push.host or 'a Harbor it does not name'}, which no rule has as its source"
        reference = Reference(Repository(host, push.repository), push.tag, None if push.tag else push.digest)
        found = self._rules.destinations(reference)
        if found:
            # Of a tag the job copies what it names when it runs; with what it named here it may spare a question.
            announced = push.digest if push.tag else None
            return tuple(replace(request, announced=announced) for request in found), ""
        unfit = self._rules.route(reference.repository).unfit
        if push.tag and unfit:
            return (), f"{reference}: {'; '.join(unfit)}"
        # Children of an index, signatures, cached images: what needs them is copied with them.
        return (), f"no rule names {reference}" if push.tag else f"{what} was pushed by digest only"

    def _source_host(self, push: Push, registry: str | None) -> str | None:
        """Find the rules' name for the Harbor a push came from.

        It is what the webhook's URL says, else Harbor's own name where a rule has that; where the rules have but one
        source registry it is that one, by whatever name Harbor knows itself.
        """
        if registry is not None:
            return self._sources[canonical(registry)]
        if push.host is not None and canonical(push.host) in self._sources:
            return self._sources[canonical(push.host)]
        return next(iter(self._sources.values())) if len(self._sources) == 1 else None


class Probes:
    """The answers to ``/healthz`` and ``/readyz``.

    Args:
        queue: must take writes.
        parts: what else must work.
    """

    def __init__(self, queue: Queue, parts: Iterable[Liveness] = ()) -> None:
        self._queue = queue
        self._parts = tuple(parts)

    async def health(self, _: Request) -> Response:
        """Answer as long as there is someone to answer."""
        return JSONResponse({"status": "ok"})

    async def readiness(self, _: Request) -> Response:
        """Say whether work would be done, and if not, why."""
        problems = [problem for part in self._parts for problem in part.problems()]
        try:
            await self._queue.ping()
        except QueueError as error:
            problems.append(str(error))
        if problems:
            return JSONResponse({"status": "not ready", "problems": problems}, 503)
        return JSONResponse({"status": "ready"})


def create_app(
    webhook: Webhook,
    queue: Queue,
    *,
    parts: Iterable[Liveness] = (),
    exposition: Exposition | None = None,
    access_log: bool = False,
    more: Iterable[Route] = (),
) -> ASGIApp:
    """Build the ASGI application of the webhook.

    Args:
        webhook: takes the events.
        queue: must take writes.
        parts: what ``/readyz`` asks besides the queue.
        exposition: writes the metrics; None where they are at another address.
        access_log: log a line for every request.
        more: what else is served.
    """

    async def harbor(request: Request) -> Response:
        return await webhook(request)

    places = [Route(path, harbor, methods=["POST"]) for path in (PATH, PATH + "/{registry}")]
    routes = [*places, *_probes(queue, parts, exposition), *more]
    return _named(routes, access_log=access_log)


def create_probes_app(
    queue: Queue, *, parts: Iterable[Liveness], exposition: Exposition, access_log: bool = False
) -> ASGIApp:
    """Build the ASGI application of the probes and the metrics, for an address of their own.

    Args:
        queue: what ``/readyz`` asks.
        parts: what it asks besides.
        exposition: writes the metrics.
        access_log: log a line for every request.
    """
    return _named(_probes(queue, parts, exposition), access_log=access_log)


def _named(routes: list[Route], *, access_log: bool) -> ASGIApp:
    return RequestIdMiddleware(
        Starlette(routes=routes, exception_handlers={HTTPException: _http_error}), access_log=access_log
    )


def _probes(queue: Queue, parts: Iterable[Liveness], exposition: Exposition | None) -> list[Route]:
    probes = Probes(queue, parts)
    routes = [Route("/healthz", probes.health), Route("/readyz", probes.readiness)]
    if exposition is None:
        return routes

    async def metrics(request: Request) -> Response:
        text, content_type = await exposition.expose(request.headers.get("Accept", ""))
        return Response(text, headers={"Content-Type": content_type})

    return [*routes, Route("/metrics", metrics)]


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    return _refusal(error.status_code, error.detail, error.headers)


def _refusal(status: int, reason: str, headers: Any = None) -> Response:
    return JSONResponse({"error": reason}, status, headers)


def _credible(occurred: datetime | None) -> datetime | None:
    """The time of an event; None where it tells none, or one so far off that its clock tells nothing."""
    if occurred is None or abs(datetime.now(UTC) - occurred) > _CREDIBLE:
        return None
    return occurred


def _registry(request: Request) -> str | None:
    """What the webhook's URL says of where an event comes from: behind its path, or in its query."""
    named = request.path_params.get("registry") or request.query_params.get("registry")
    return None if named is None else str(named)


def _client(request: Request) -> str | None:
    return request.client.host if request.client is not None else None
