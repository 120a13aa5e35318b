"""The status page as an HTTP endpoint.

| request | answers |
|---|---|
| ``GET /`` | the page; 401 without the password, 404 where there is none, 503 when the queue does not answer |
| ``POST /`` | 303 after a failure was queued again or dropped; 400, 403 not from a form of ours, 413, 503 |

All its links are relative and name no path, so that it works under any path that a proxy puts it at.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import structlog
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from replicator.queue import DeadLetterPage, QueueUnavailable
from replicator.server.auth import from_elsewhere
from replicator.server.page.facts import PageCache
from replicator.server.page.rendering import PageData, PageRenderer
from replicator.server.page.view import View
from replicator.server.requests import read_body

if TYPE_CHECKING:
    from starlette.requests import Request

    from replicator.queue import Queue
    from replicator.rules import Rules
    from replicator.server.auth import PageAuth

log = structlog.get_logger("replicator.page")

_MOST_FORM = 16 * 1024


class StatusPage:
    """Shows the installation, and takes what a person wants done about a failure.

    Args:
        queue: what is shown.
        rules: those in force.
        door: who may see it.
    """

    def __init__(self, queue: Queue, rules: Rules, door: PageAuth) -> None:
        self._queue = queue
        self._lookout = PageCache(queue)
        self._page = PageRenderer()
        self.renew(rules, door)

    def renew(self, rules: Rules, door: PageAuth) -> None:
        """Have other rules, and another password, from the next request on."""
        self._rules = rules
        self._door = door

    def routes(self) -> list[Route]:
        """Return where it is."""
        return [Route("/", self.show), Route("/", self.act, methods=["POST"])]

    async def show(self, request: Request) -> Response:
        """Answer with the page."""
        self._admit(request)
        view = View.of(request.query_params)
        fragment = "fragment" in request.query_params
        try:
            sight = PageData(await self._lookout.look(), await DeadLetterPage.read(self._queue, view.part))
        except QueueUnavailable as error:
            return self._answer(self._page.render_outage(str(error), fragment=fragment), 503)
        form_token = self._door.form_token(time.time())
        return self._answer(self._page.render(sight, self._rules, view, form_token, fragment=fragment))

    async def act(self, request: Request) -> Response:
        """Do what a form asks for, and lead back to the page."""
        self._admit(request)
        if from_elsewhere(request.headers):
            raise HTTPException(403, "the form comes from another site, or a proxy does not pass on the Host header")
        form = _form(await read_body(request, _MOST_FORM))
        if not self._door.takes(form.get("token", ""), time.time()):
            raise HTTPException(403, "the form is not this page's, or is too old: load the page anew")
        view = View.of(request.query_params)
        try:
            told = await self._do(form, request.client.host if request.client is not None else None)
        except QueueUnavailable as error:
            return self._answer(self._page.render_outage(str(error), fragment=False), 503)
        self._lookout.forget()
        address = view.link()
        return Response(status_code=303, headers={"Location": f"{address}{'&' if address != '?' else ''}told={told}"})

    async def _do(self, form: dict[str, str], client: str | None) -> str:
        """Do what a form asks for; return the word for it.

        Raises:
            HTTPException: it asks for nothing that there is.
            QueueUnavailable: Redis is away; it may be done in part.
        """
        match form.get("do"), form.get("id"):
            case "retry", str(letter):
                done, told = await self._queue.retry_dead([letter]), "retried"
            case "drop", str(letter):
                done, told = await self._queue.drop_dead([letter]), "dropped"
            case "retry all", None:
                done, told = await self._queue.retry_dead(), "retried"
            case _:
                raise HTTPException(400, "the form asks for nothing that can be done here")
        log.info("failures dealt with", how=told, number=len(done), destinations=done[:10], client=client)
        return told if done else "absent"

    def _admit(self, request: Request) -> None:
        """Let a request in.

        Raises:
            HTTPException: there is no page, or it has not the password.
        """
        if self._door.token is None:
            raise HTTPException(404)
        authorization = request.headers.get("Authorization", "")
        if self._door.matches_password(authorization):
            return
        if authorization:  # a browser sends none before it is asked to
            client = request.client.host if request.client is not None else None
            log.warning("status page refused", reason="wrong Authorization", client=client)
        challenge = {"WWW-Authenticate": 'Basic realm="replicator", charset="UTF-8"'}
        raise HTTPException(401, "any user name, and REPLICATOR_STATUS_TOKEN as the password", challenge)

    def _answer(self, html: str, status: int = 200) -> Response:
        return HTMLResponse(
            html,
            status,
            {
                "Content-Security-Policy": self._page.policy,
                "X-Content-Type-Options": "nosniff",
                "X-Frame-Options": "DENY",
                "Referrer-Policy": "same-origin",
                "Cache-Control": "no-store",
            },
        )


def _form(body: bytes) -> dict[str, str]:
    """Read a form as browsers send it.

    Raises:
        HTTPException: it is none.
    """
    try:
        return {name: values[0] for name, values in parse_qs(body.decode(), max_num_fields=10).items()}
    except ValueError:
        raise HTTPException(400, "this is no form") from None
