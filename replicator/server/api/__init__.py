"""The HTTP API under ``/api/v1``, for programs.

| request | scope | answers |
|---|---|---|
| ``GET /images/{reference}`` | read | the state of an image at each destination |
| ``GET /failures`` | read | copies that failed for good, by pages |
| ``POST /failures/retry``, ``/failures/drop`` | operate | those that were retried or dropped |
| ``POST /copies`` | operate | 202 and what was queued |
| ``GET /copies`` | read | copies that ended lately, by pages and filters |
| ``POST /reconcile`` | operate | 202: a reconcile begins within seconds, or after the one that runs |
| ``GET /openapi.json`` | none | the OpenAPI document, from the models |

Every error is a problem (RFC 9457): 400, 401, 403, 404 (no token is set), 422 (no rule names it), 429, 502 and 504 (a
registry does not answer), 503 (Redis does not).
"""

from __future__ import annotations

import json
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from replicator.errors import AGAIN, ErrorText
from replicator.logs import LogLimit
from replicator.queue import (
    DeadLetters,
    EndedFilter,
    Lane,
    QueueUnavailable,
    named,
    note_action,
    read_ended,
    request_reconcile,
)
from replicator.reference import Reference, full_name
from replicator.replication.enqueue import job_for
from replicator.server.api.errors import ApiError
from replicator.server.api.images import Images, class_word, ended_copy, letter_names
from replicator.server.api.models import (
    MAX_NAMES,
    Copies,
    CopiesQuery,
    CopyNow,
    DeadCopy,
    Done,
    Failures,
    FailuresQuery,
    ImageQuery,
    Queued,
    QueuedCopy,
    Reconcile,
    RunningReconcile,
    Selected,
    to_json,
)
from replicator.server.api.openapi import ENDPOINTS, document
from replicator.server.auth import Scope, is_cross_site, user_of
from replicator.server.connections import trust
from replicator.server.http import client_of, read_body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from replicator.queue import Queue
    from replicator.rules import Rules
    from replicator.server.api.models import Answer
    from replicator.server.api.openapi import Endpoint
    from replicator.server.auth import ApiAuth

    Handler = Callable[[Request, Any, Any], Awaitable[Answer]]

ROOT = "/api/v1"
MAX_BODY = 2 * 1024 * 1024
"""Bytes of a request's body: 1,000 destinations."""
MOST_AT_ONCE = 32
"""Requests that a process answers at a time."""
RATE, BURST = 100.0, 500.0
"""Requests a second for which a process has time, and how many may come at once after a pause."""
_refused = LogLimit("replicator.api", "API request refused")
_NO_TOKEN = ErrorText(
    "the API is off",
    "no token is set",
    "set REPLICATOR_API_TOKENS to read:TOKEN or operate:TOKEN, each with a long random text",
)
_WRONG_TOKEN = ErrorText(
    "no valid token",
    "the Authorization header is missing, or not Bearer and one of REPLICATOR_API_TOKENS",
    "send Authorization: Bearer TOKEN",
)


class Api:
    """Answers the API.

    Args:
        queue: holds the pending copies and the failures.
        images: tells the states of images.
        rules: those in force.
        auth: decides who may ask and operate.
    """

    def __init__(self, queue: Queue, images: Images, rules: Rules, auth: ApiAuth) -> None:
        self._queue = queue
        self._images = images
        self._running = 0
        self._tokens, self._filled = BURST, time.monotonic()
        self._document: dict[str, Any] | None = None
        self.renew(rules, auth)

    def renew(self, rules: Rules, auth: ApiAuth) -> None:
        """Use other rules and tokens from the next request on."""
        self._rules = self._images.rules = rules
        self._auth = auth

    def routes(self) -> list[Mount]:
        """Return the routes of the API."""
        handlers: dict[str, Handler] = {
            "image": self._image,
            "failures": self._failures,
            "retry": self._retry,
            "drop": self._drop,
            "copy": self._copy,
            "copies": self._copies,
            "reconcile": self._reconcile,
        }
        routes = [
            Route(each.route, self._endpoint(each, handlers[each.name]), methods=[each.method]) for each in ENDPOINTS
        ]
        app = Starlette(
            routes=[*routes, Route("/openapi.json", self._openapi)],
            exception_handlers={HTTPException: _http_error, ApiError: _api_error, QueueUnavailable: _away},
        )
        app.router.redirect_slashes = False
        return [Mount(ROOT, app=app)]

    def _endpoint(self, endpoint: Endpoint, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            self._authenticate(request, endpoint.scope)
            self._admit()
            self._running += 1
            try:
                query = _parsed(endpoint.query, _query_of(request)) if endpoint.query is not None else None
                body = _parsed(endpoint.body, await _json_of(request)) if endpoint.body is not None else None
                found = await handler(request, query, body)
            finally:
                self._running -= 1
            return JSONResponse(to_json(found), endpoint.status, {"Cache-Control": "no-store"})

        return answer

    def _authenticate(self, request: Request, scope: Scope) -> None:
        """Check the token.

        Raises:
            ApiError: there is none, it is wrong, or it may only read.
        """
        if not self._auth.is_on:
            raise ApiError(404, _NO_TOKEN)
        authorization = request.headers.get("Authorization", "")
        found = self._auth.scope_of(authorization)
        if found is None:
            if authorization:
                _refused.warning(client_of(request), reason="wrong Authorization")
            raise ApiError(401, _WRONG_TOKEN, headers={"WWW-Authenticate": 'Bearer realm="replicator"'})
        trust(request)
        if scope is Scope.OPERATE and found is not Scope.OPERATE:
            what = "this token may only read"
            raise ApiError(403, ErrorText(what, do="use one that REPLICATOR_API_TOKENS lists as operate:TOKEN"))
        if scope is Scope.OPERATE and is_cross_site(request.headers):
            raise ApiError(403, ErrorText("the request was sent by a page of another site"))

    def _admit(self) -> None:
        """Take a request within the limits.

        Raises:
            ApiError: there are too many.
        """
        now = time.monotonic()
        self._tokens = min(BURST, self._tokens + (now - self._filled) * RATE)
        self._filled = now
        if self._tokens < 1 or self._running >= MOST_AT_ONCE:
            what = f"more than {RATE:g} requests a second, or {MOST_AT_ONCE} at a time"
            raise ApiError(429, ErrorText(what, do="ask again in a second"), retry_after=1)
        self._tokens -= 1

    async def _openapi(self, _: Request) -> Response:
        if self._document is None:
            self._document = document()
        return JSONResponse(self._document)

    async def _image(self, request: Request, query: ImageQuery, _: None) -> Answer:
        source = _reference(request.path_params["reference"])
        return await self._images.tell(source, query.destination, fresh=query.fresh)

    async def _failures(self, _: Request, query: FailuresQuery, __: None) -> Answer:
        page = await DeadLetters(self._queue).page(int(query.cursor or 0), size=query.limit)
        failures = []
        for letter in page.letters:
            source, rule = letter_names(letter)
            failures.append(
                DeadCopy(
                    error_class=class_word(letter.error_class),
                    **ErrorText.parse(letter.message).to_json(),
                    at=letter.last,
                    attempts=max(0, letter.tries),
                    source=source,
                    destination=letter.id,
                    rule=rule,
                    lane=letter.lane.value,
                    first=letter.first,
                )
            )
        return Failures(failures=failures, total=page.total, cursor=str(page.following) if page.following else None)

    async def _retry(self, request: Request, _: None, body: Selected) -> Answer:
        return await self._change(request, body, "retry", DeadLetters(self._queue).retry)

    async def _drop(self, request: Request, _: None, body: Selected) -> Answer:
        return await self._change(request, body, "drop", DeadLetters(self._queue).drop)

    async def _change(
        self,
        request: Request,
        body: Selected,
        action: str,
        change: Callable[[list[str] | None], Awaitable[list[str]]],
    ) -> Answer:
        if body.all == bool(body.destinations):
            raise ApiError(
                400, ErrorText("it is not clear which failures are meant", do="send either destinations, or all: true")
            )
        ids = await change(None if body.all else list(body.destinations))
        if ids:
            what = f"all {len(ids):,} dead letters" if body.all else f"dead letter {named(ids)}"
            await note_action(self._queue, action=action, what=what, by=_who(request))
        return Done(number=len(ids), destinations=ids[:MAX_NAMES])

    async def _copy(self, request: Request, _: None, body: CopyNow) -> Answer:
        source = _reference(body.source)
        requests = self._images.requests(source, body.destination)
        if not requests:
            reason = self._images.reason(source, body.destination)
            raise ApiError(422, ErrorText(f"{source} is not copied", reason, "add a rule that names it"))
        id_ = request.state.request_id if hasattr(request.state, "request_id") else None
        jobs = [job_for(each, event_id=id_, rules=self._rules.digest) for each in requests]
        await self._queue.enqueue(jobs, Lane.EVENTS)
        names = [str(each.destination) for each in requests]
        await note_action(self._queue, action="copy", what=f"{source} to {named(names)}", by=_who(request))
        return Queued(
            queued=[
                QueuedCopy(source=str(each.source), destination=str(each.destination), rule=each.rule)
                for each in requests
            ]
        )

    async def _copies(self, _: Request, query: CopiesQuery, __: None) -> Answer:
        names = {name: value for name, value in query if name not in ("limit", "cursor", "lane")}
        wanted = EndedFilter(lane=None if query.lane is None else Lane(query.lane), **names)
        before = None if query.cursor is None else int(query.cursor)
        page = await read_ended(self._queue, wanted, before=before, most=query.limit)
        cursor = None if page.following is None else str(page.following)
        return Copies(copies=[ended_copy(each) for each in page.jobs], cursor=cursor)

    async def _reconcile(self, request: Request, _: None, __: None) -> Answer:
        found = await request_reconcile(self._queue, _who(request))
        running = None
        if (run := found.running) is not None:
            progress = run.progress
            running = RunningReconcile(since=run.since, host=run.host, listed=progress.listed, done=progress.done)
        return Reconcile(asked=found.is_new, running=running)


def _reference(text: str) -> Reference:
    try:
        return Reference.parse(full_name(text))
    except ValueError as error:
        raise ApiError(400, ErrorText("not a reference", str(error))) from None


def _query_of(request: Request) -> dict[str, str]:
    items = request.query_params.multi_items()
    values = dict(items)
    if len(values) != len(items):
        raise ApiError(400, ErrorText("a parameter of the query is there twice"))
    return values


async def _json_of(request: Request) -> Any:
    body = await read_body(request, MAX_BODY)
    if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, ErrorText("the body is not application/json", do="send Content-Type: application/json"))
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, ErrorText("the body is not JSON")) from None


def _parsed(model: type[BaseModel], values: Any) -> Any:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, each['loc'])) or 'the whole'}: {each['msg']}" for each in error.errors()[:5]]
        raise ApiError(400, ErrorText("the request can't be used", "; ".join(wrong))) from None


def _who(request: Request) -> str:
    client = client_of(request)
    user = user_of(request.headers.get("Authorization", ""))[:100]
    return f"{user or 'a program'} by the API{f' from {client}' if client else ''}"


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for no other
    what = error.detail if error.detail != HTTPStatus(error.status_code).phrase else "the API has no such request"
    do = "see openapi.json" if error.status_code in (404, 405) else ""
    return ApiError(error.status_code, ErrorText(what, do=do), headers=error.headers).response()


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - it is registered for no other
    return error.response()


async def _away(_: Request, error: Exception) -> Response:
    return ApiError(503, ErrorText("the queue is unavailable", type(error).__name__, AGAIN), retry_after=5).response()
