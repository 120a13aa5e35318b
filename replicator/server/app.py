"""The HTTP application: Harbor's webhook, the probes and the metrics.

| request | answers |
|---|---|
| ``POST /webhooks/harbor`` | 202 queued, 200 ignored, 400, 401, 403 sender's address, 408, 413, 503 not queued |
| ``POST /webhooks/harbor/HOST[:PORT]`` | the same, for a push to the Harbor that the rules call so |
| both with a slash at the end | the same |
| ``GET /healthz`` | 200 while the process serves |
| ``GET /readyz`` | 200 if events can be queued and, where this process has a worker, copied; else 503 and why |
| ``GET /metrics`` | the metrics, for Prometheus |

There are no redirects: behind a proxy with TLS, or under another name, they would lead Harbor to a wrong address.

A 2xx from the webhook means: durably queued, or ignored for the reason given. Harbor waits 3 s in total for an answer.
Probes and metrics need no token, and can have an address of their own: `create_probes_app`.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from replicator.console import printable
from replicator.errors import ErrorClass, ErrorText
from replicator.harbor.events import PUSH, SCANNED, Event, Fate, MalformedEvent, Push, parse_event
from replicator.harbor.policy import PATH, canonical
from replicator.logs import LogLimit
from replicator.queue import Lane, QueueError, hasten
from replicator.reference import Reference, Repository
from replicator.replication.enqueue import job_for
from replicator.server.api.errors import ApiError
from replicator.server.connections import trust
from replicator.server.http import MAX_PATH, RequestIdMiddleware, client_of, read_body
from replicator.tasks import Shared

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from starlette.requests import Request
    from starlette.types import ASGIApp

    from replicator.queue import Queue
    from replicator.rules import CopyRequest, Rules
    from replicator.server.auth import WebhookAuth

    Problems = Callable[[], list[str]]
    """Returns why this process is not ready, one sentence each; empty if it is."""
    Expose = Callable[[str], Awaitable[tuple[bytes, str]]]
    """Takes the ``Accept`` header, and returns the metrics and their content type. Raises nothing."""

log = structlog.get_logger("replicator.webhook")
_refused = LogLimit("replicator.webhook", "webhook refused")
_REGISTER_AGAIN = "if this is Harbor: replicator webhook register has its policy send REPLICATOR_WEBHOOK_TOKEN"

MAX_BODY = 1024 * 1024
"""Bytes of a webhook's body; Harbor's events have about one thousand."""
_RETRY_AFTER = "15"
_SHOWN = 10
"""Hastened copies that an answer names."""
_MISDIRECTED_SECONDS = 60.0
_PART_SECONDS = 5.0
"""Between two attempts at an image of a repository while parts of some image there are scanned, each with an event."""
_READY_SECONDS = 1.0
_CLOCK_TOLERANCE = timedelta(days=1)
"""Between an event's time and ours. Harbor's own delivery attempts are over within hours."""


class Webhook:
    """Takes events and queues the copies that the rules want for them.

    Args:
        rules: map a pushed image to its destinations.
        queue: takes the copies.
        auth: decides whose events are accepted.
        delivered: called for every delivery, with the event's type (None if it was not read) and how it ended.
        trace: returns the current ``traceparent`` for the queued jobs; None without traces.
        heard: called for every event of a project with its Harbor, its name, and its id if the event says it.
    """

    def __init__(
        self,
        rules: Rules,
        queue: Queue,
        auth: WebhookAuth,
        delivered: Callable[[str | None, Fate], None],
        trace: Callable[[], str | None] = lambda: None,
        heard: Callable[[str, str, int | None], None] = lambda *_: None,
    ) -> None:
        self._queue = queue
        self._heard = heard
        self._trace = trace
        self._delivered = delivered
        self.renew(rules, auth)

    def renew(self, rules: Rules, auth: WebhookAuth) -> None:
        """Use other rules and tokens from the next request on."""
        self._rules = rules
        self._auth = auth
        # The rules may spell one Harbor in several ways, such as with and without its port.
        spellings: dict[str, dict[str, None]] = {}
        for source in rules.sources():
            spellings.setdefault(canonical(source.registry), {})[source.registry] = None
        self._sources = {host: tuple(names) for host, names in spellings.items()}

    async def receive(self, request: Request) -> Response:
        """Answer one delivery."""
        client = client_of(request)
        if not self._auth.allows_address(client):
            _refused.warning(client, reason="address not in REPLICATOR_WEBHOOK_SOURCES")
            self._delivered(None, Fate.UNAUTHORIZED)
            return _error(403, "this address may not send webhooks")
        token = self._auth.matching_token(request.headers.get("Authorization", ""))
        if token is None:
            _refused.warning(client, reason="wrong Authorization", do=_REGISTER_AGAIN)
            self._delivered(None, Fate.UNAUTHORIZED)
            return _error(401, "the Authorization header is not the configured webhook token")
        if not self._auth.is_open:
            trust(request)
        kind = None
        try:
            event = parse_event(await read_body(request, MAX_BODY))
            # Harbor's older format has no event id; the request's takes its place in the logs.
            event, kind = replace(event, id=event.id or request.state.request_id), event.type
            self._note_projects(event, _registry(request))
            answer, queued = await self._enqueue(event, _registry(request))
        except HTTPException:
            self._delivered(kind, Fate.MALFORMED)
            raise
        except MalformedEvent as error:
            log.warning("webhook refused", reason=error, client=client)
            self._delivered(kind, Fate.MALFORMED)
            return _error(400, str(error))
        except QueueError as error:
            log.error("webhook not queued", error=error)  # noqa: TRY400 - Redis is down; no traceback needed
            self._delivered(kind, Fate.UNAVAILABLE)
            return _error(503, "the queue is unavailable; deliver it again", {"Retry-After": _RETRY_AFTER})
        # During a change of the token the log shows which Harbor still sends the old one.
        former = {"token": "former", "client": client} if token == "former" else {}  # noqa: S105 - a word
        log.info("webhook taken", type=event.type, event_id=event.id, **answer, **former)
        self._delivered(kind, Fate.QUEUED if queued else Fate.IGNORED)
        return JSONResponse(answer, 202 if queued else 200)

    async def _enqueue(self, event: Event, registry: str | None) -> tuple[dict[str, Any], bool]:
        """Queue the copies for an event; return the answer, and whether there were any.

        Raises:
            MalformedEvent: the webhook's URL names a registry that is not a source.
            QueueError: nothing is durably queued.
        """
        if event.type == SCANNED:
            return await self._hasten(event, registry)
        if event.type != PUSH:
            return {"ignored": f"{event.type} is not a push"}, False
        if registry is not None and canonical(registry) not in self._sources:
            raise MalformedEvent(f"the webhook's URL names {registry[:100]!r}, which is not a source of any rule")
        requests: dict[CopyRequest, None] = {}
        ignored: list[str] = []
        for push in event.pushes:
            found, reason = self._requests(push, registry)
            requests |= dict.fromkeys(found)
            ignored += [reason] if reason else []
        if not requests:
            return {"ignored": "; ".join(dict.fromkeys(ignored))}, False
        pushed, trace = _credible(event.occurred), self._trace()
        rules, id_ = self._rules.digest, event.id
        jobs = [job_for(request, event_id=id_, pushed=pushed, trace=trace, rules=rules) for request in requests]
        await self._queue.enqueue(jobs, Lane.EVENTS)
        queued = [{"source": str(request.source), "destination": str(request.destination)} for request in requests]
        return {"queued": queued, **({"ignored": "; ".join(ignored)} if ignored else {})}, True

    def _note_projects(self, event: Event, registry: str | None) -> None:
        """Note which projects an event is of, whether or not a rule names them."""
        images = (*event.pushes, *event.scanned)
        for host, project in dict.fromkeys(
            (self._source_host(each, registry) or each.host or "", each.repository.partition("/")[0]) for each in images
        ):
            self._heard(host, project, event.project)

    async def _hasten(self, event: Event, registry: str | None) -> tuple[dict[str, Any], bool]:
        """Start the copies of scanned images at once that wait because Harbor withheld them; see `_enqueue`."""
        reasons: dict[str, float] = {}
        for scan in event.scanned:
            # An artifact may have more tags than the event names, so its digest counts too.
            reasons |= {f'"{scan.digest}"': 0.0} if scan.digest else {}
            host = self._source_host(scan, registry)
            for name in self._sources.get(host or "", ()):
                image = Reference(Repository(name, scan.repository), scan.tag, None if scan.tag else scan.digest)
                reasons[f'"{image}"'] = 0.0
                if scan.tag is None:
                    # It may be a part of any index there.
                    reasons[f'"{image.repository}:'] = _PART_SECONDS
        destinations = await hasten(self._queue, ErrorClass.NOT_YET, reasons) if reasons else []
        if not destinations:
            return {"ignored": f"{event.type}: no copy is waiting for it"}, False
        return {"hastened": destinations[:_SHOWN], "number": len(destinations)}, True

    def _requests(self, push: Push, registry: str | None) -> tuple[Iterable[CopyRequest], str]:
        """Apply the rules to a push; return what to copy, or nothing and the reason."""
        image = f"{push.repository}:{push.tag}" if push.tag else f"{push.repository}@{push.digest}"
        host = self._source_host(push, registry)
        if host is None:
            # Harbor calls itself otherwise than the rules do. Rules of one Harbor alone may ask for the image.
            matching = [host for host in self._sources if any(map(self._rules.destinations, self._images(push, host)))]
            if len(matching) != 1:
                where = push.host or "a Harbor that the event does not name"
                several = (
                    "; rules of several Harbors match, so add the Harbor's name to the webhook's URL"
                    if matching
                    else ""
                )
                return (), f"{image} is at {where}, which is not a source of any rule{several}"
            (host,) = matching
        references = self._images(push, host)
        found = [request for reference in references for request in self._rules.destinations(reference)]
        if found:
            # The job resolves the tag again; the announced digest only saves a request if it still matches.
            announced = push.digest if push.tag else None
            return tuple(replace(request, announced=announced) for request in found), ""
        reference = references[0]
        unfit = [reason for each in references for reason in self._rules.route(each.repository).unfit]
        if push.tag and unfit:
            return (), f"{reference}: {'; '.join(unfit)}"
        # Children of an index, signatures and cached images come by digest; each is copied with the tag that needs it.
        return (), f"no rule matches {reference}" if push.tag else f"{image} was pushed by digest only"

    def _images(self, push: Push, host: str) -> list[Reference]:
        """Return the pushed image at a host in each of the rules' spellings of the host."""
        digest = None if push.tag else push.digest
        return [Reference(Repository(name, push.repository), push.tag, digest) for name in self._sources[host]]

    def _source_host(self, push: Push, registry: str | None) -> str | None:
        """Return the Harbor that a push came from, as `canonical` spells it; None if no rule has it as its source.

        The webhook's URL decides, then the name in the event. If the rules have only one source registry it must be
        that one, independent of Harbor's name for itself: behind a proxy that is often another.
        """
        if registry is not None:
            return canonical(registry)
        if push.host is not None and canonical(push.host) in self._sources:
            return canonical(push.host)
        return next(iter(self._sources)) if len(self._sources) == 1 else None


class Readiness:
    """Whether events can be queued: Redis is asked at most once a second.

    Args:
        queue: must accept writes.
        problems: other reasons against readiness.
    """

    def __init__(self, queue: Queue, problems: Problems) -> None:
        self._queue = queue
        self._problems = problems
        self._asked: float | None = None
        self._asking = Shared(self._ask)
        self._trouble = ""

    async def problems(self) -> list[str]:
        """Return why this process is not ready, one sentence each, without an address: anyone may read it."""
        if self._asked is None or time.monotonic() - self._asked >= _READY_SECONDS:
            await self._asking.result()
        return [*self._problems(), *([self._trouble] if self._trouble else [])]

    async def _ask(self) -> None:
        trouble = ""
        try:
            await self._queue.ping()
        except QueueError as error:
            # A fault of the state directory names it after a semicolon; every other one may name an address.
            fault, _, _ = self._queue.fault().partition(";")
            trouble = fault or f"the queue can't accept or hand out work ({type(error.__cause__ or error).__name__})"
            trouble += "; see the log"
            if trouble != self._trouble:
                log.warning("not ready", reason=error)
        self._asked, self._trouble = time.monotonic(), trouble


def create_app(
    webhook: Webhook,
    readiness: Readiness,
    *,
    metrics: Expose | None,
    access_log: bool = False,
    more: Iterable[BaseRoute] = (),
) -> ASGIApp:
    """Build the ASGI application of ``serve``.

    Args:
        webhook: takes the events.
        readiness: answers ``/readyz``.
        metrics: exposes the metrics; None if they have an address of their own.
        access_log: log a line for every request.
        more: further routes: the status page's and the API's.
    """
    paths = [f"{path}{end}" for path in (PATH, PATH + "/{registry}") for end in ("", "/")]
    hooks = [Route(path, webhook.receive, methods=["POST"]) for path in paths]
    return _application([*hooks, *_probes(readiness, metrics), *more], access_log=access_log)


def create_probes_app(readiness: Readiness, *, metrics: Expose, access_log: bool = False) -> ASGIApp:
    """Build the ASGI application of probes and metrics at an address of their own; the arguments are as above."""
    return _application(_probes(readiness, metrics), access_log=access_log)


def _application(routes: list[BaseRoute], *, access_log: bool) -> ASGIApp:
    misdirected = _Misdirected()

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for no other
        if request.method == "POST" and error.status_code in (404, 405):
            misdirected.note(request)
        if request.scope["path"].startswith("/api/"):
            # A path that no route matches, such as one with a line feed.
            return ApiError(
                error.status_code, ErrorText("the API has no such request"), headers=error.headers
            ).response()
        return _error(error.status_code, error.detail, error.headers)

    app = Starlette(routes=routes, exception_handlers={HTTPException: http_error})
    app.router.redirect_slashes = False
    return RequestIdMiddleware(app, access_log=access_log)


def _probes(readiness: Readiness, expose: Expose | None) -> list[BaseRoute]:
    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        problems = await readiness.problems()
        if problems:
            return JSONResponse({"status": "not ready", "problems": problems}, 503)
        return JSONResponse({"status": "ready"})

    routes: list[BaseRoute] = [Route("/healthz", health), Route("/readyz", ready)]
    if expose is None:
        return routes

    async def metrics(request: Request) -> Response:
        text, content_type = await expose(request.headers.get("Accept", ""))
        return Response(text, headers={"Content-Type": content_type})

    return [*routes, Route("/metrics", metrics)]


class _Misdirected:
    """Logs POST requests to any other path: a webhook policy with a wrong URL, or anyone. One line a minute at most."""

    def __init__(self) -> None:
        self._logged: float | None = None
        self._more = 0

    def note(self, request: Request) -> None:
        now = time.monotonic()
        if self._logged is not None and now - self._logged < _MISDIRECTED_SECONDS:
            self._more += 1
            return
        more = {"more": self._more} if self._more else {}
        path = printable(request.scope["path"])[:MAX_PATH]
        log.warning("webhook not found", path=path, client=client_of(request), expected=PATH, **more)
        self._logged, self._more = now, 0


def _error(status: int, reason: str, headers: Any = None) -> Response:
    return JSONResponse({"error": reason}, status, headers)


def _credible(occurred: datetime | None) -> datetime | None:
    """Return an event's time; None if it has none, or one so far off that Harbor's clock must be wrong."""
    if occurred is None or abs(datetime.now(UTC) - occurred) > _CLOCK_TOLERANCE:
        return None
    return occurred


def _registry(request: Request) -> str | None:
    """Return the registry that the webhook's URL names, at the end of its path or in its query."""
    named = request.path_params.get("registry") or request.query_params.get("registry")
    return None if named is None else str(named)
