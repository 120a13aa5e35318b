"""The status page that ``replicator serve`` has at ``/``: the queue, its history and its dead letters.

| request | answers |
|---|---|
| ``GET /`` | the page, with ``?copy=`` that of one destination; 401 for a wrong password, 404 and what to set, 503 |
| ``POST /`` | 303 after the form was carried out; 400, 403 a form that is not ours, 413, 503 |

All links are relative and name no path, so that the page works under any path that a proxy puts it at.
"""

from __future__ import annotations

import time
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import structlog
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from replicator.errors import ErrorText
from replicator.logs import LogLimit
from replicator.queue import (
    DeadLetters,
    Lane,
    QueueUnavailable,
    ReconcileState,
    TooManyPauses,
    approve,
    cancel,
    letters_of,
    list_jobs,
    list_pauses,
    named,
    note_action,
    pause,
    request_reconcile,
    resume,
)
from replicator.queue.records import milliseconds
from replicator.replication.enqueue import job_for
from replicator.server.auth import is_cross_site, user_of
from replicator.server.connections import trust
from replicator.server.http import client_of, read_body
from replicator.server.page.copies import MAX_REFERENCE, CopyFacts, explain
from replicator.server.page.facts import PENDING, CauseLetters, PageCache, PageData, PendingCopies, View, selection_of
from replicator.server.page.language import COOKIE, choose_language, messages

if TYPE_CHECKING:
    from starlette.requests import Request

    from replicator.queue import Queue
    from replicator.rules import Rules
    from replicator.server.auth import PageAuth
    from replicator.server.page.language import Messages
    from replicator.server.page.rendering import PageRenderer

log = structlog.get_logger("replicator.page")
_refused = LogLimit("replicator.page", "status page refused")

_MAX_FORM = 16 * 1024
_COOKIE_SECONDS = 365 * 86_400
_MAX_CAUSE = 40
_MAX_USER = 100
"""Characters of a user's name in the history."""
_UNSET = (
    "There is no status page yet: set REPLICATOR_STATUS_TOKEN to a long random text, such as the output of "
    "openssl rand -hex 32. In the .env file of replicator serve it takes effect within seconds; as an environment "
    "variable, after a restart. Then log in here with any user name, and with that text as the password."
)
_UNSET_PAGE = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>replicator</title>
<h1>replicator</h1><p>{_UNSET}</p></html>
"""


class StatusPage:
    """Shows the installation and single copies; retries, drops, steers and begins copies, and steers reconciles.

    Args:
        queue: the queue to show.
        rules: the rules in use.
        auth: decides who may see it.
    """

    def __init__(self, queue: Queue, rules: Rules, auth: PageAuth) -> None:
        self._queue = queue
        self._cache = PageCache(queue)
        self.renew(rules, auth)

    def renew(self, rules: Rules, auth: PageAuth) -> None:
        """Use other rules and another password from the next request on."""
        self._rules = rules
        self._auth = auth
        if auth.token is not None:
            # Made now, not at the first request: importing Jinja there would hold up webhooks.
            _ = self._renderer

    @cached_property
    def _renderer(self) -> PageRenderer:
        # Imported here because Jinja costs time and memory, and an installation may have no page.
        from replicator.server.page.rendering import PageRenderer

        return PageRenderer()

    def routes(self) -> list[Route]:
        """Return the page's routes."""
        return [Route("/", self.show), Route("/", self.act, methods=["POST"])]

    async def show(self, request: Request) -> Response:
        """Answer with the page, or with only the changing parts for a page that is already open."""
        if self._auth.token is None:
            return _unset(request)
        self._authenticate(request)
        view, t = View.of(request.query_params), _messages(request)
        fragment = "fragment" in request.query_params
        try:
            if view.copy:
                return await self._show_copy(view, t, fragment=fragment)
            facts = await self._cache.read()
            data = PageData(facts)
            if not fragment:
                # Not for a page that is open already: to look through a long queue every few seconds is too much.
                data = PageData(facts, await self._letters(view), await self._pending(view))
        except QueueUnavailable as error:
            return self._outage(error, view, t, fragment=fragment)
        form_token = self._auth.form_token(time.time())
        answer = self._answer(self._renderer.render(data, self._rules, view, form_token, t, fragment=fragment), t)
        if request.query_params.get("lang") == t.language:
            # Without a path: the browser takes that of the page, which a proxy may have put anywhere.
            answer.set_cookie(COOKIE, t.language, max_age=_COOKIE_SECONDS, path=None, httponly=True, samesite="lax")
        return answer

    async def _show_copy(self, view: View, t: Messages, *, fragment: bool) -> Response:
        """Answer with the page of one copy; see `show`."""
        facts = await CopyFacts.read(self._queue, view.copy)
        form_token = self._auth.form_token(time.time())
        return self._answer(self._renderer.render_copy(facts, self._rules, view, form_token, t, fragment=fragment), t)

    async def act(self, request: Request) -> Response:
        """Do what a form asks for, and redirect back to the page."""
        self._authenticate(request)
        if is_cross_site(request.headers):
            raise HTTPException(403, "the form was sent by another site, or a proxy does not pass on the Host header")
        form = _form(await read_body(request, _MAX_FORM))
        if not self._auth.accepts_form(form.get("token", ""), time.time()):
            raise HTTPException(403, "the form is not from this page, or is too old: reload the page")
        view = View.of(request.query_params)
        try:
            done = await self._do(form, _who(request))
        except QueueUnavailable as error:
            return self._outage(error, view, _messages(request))
        self._cache.invalidate()
        address = view.link()
        # A redirect, so that reloading the page does not send the form again.
        return Response(status_code=303, headers={"Location": f"{address}{'&' if address != '?' else ''}done={done}"})

    async def _letters(self, view: View) -> CauseLetters | None:
        return await CauseLetters.read(self._queue, view.cause, view.letters) if view.cause else None

    async def _pending(self, view: View) -> PendingCopies | None:
        if (selection := view.selection) is None:
            return None
        return PendingCopies(selection, *await list_jobs(self._queue, [selection], limit=PENDING))

    async def _do(self, form: dict[str, str], by: str) -> str:
        """Do what a form asks for, and note it in the history; return one word for the result, see `rendering`.

        Raises:
            HTTPException: the form asks for something else.
            QueueUnavailable: Redis does not answer; part of it may be done.
        """
        if (form.get("do"), form.get("id", "").isdecimal()) == ("approve", True):
            return await self._approve(form["id"], by)
        letters = DeadLetters(self._queue)
        match form.get("do"), form.get("id"):
            case "retry", str(job_id):
                ids, done, what = await letters.retry([job_id]), "retried", f"dead letter {job_id}"
            case "drop", str(job_id):
                ids, done, what = await letters.drop([job_id]), "dropped", f"dead letter {job_id}"
            case "retry cause", str(cause):
                ids = [letter.id async for some in letters_of(self._queue, cause) for letter in some]
                ids, done = await letters.retry(ids), "retried"
                what = f"{len(ids):,} dead letters of the cause {cause[:_MAX_CAUSE]}"
            case "retry all", None:
                ids, done = await letters.retry(), "retried"
                what = f"all {len(ids):,} dead letters"
            case "reconcile", None:
                return "reconcile" if (await request_reconcile(self._queue, by)).is_new else "reconcile_again"
            case "copy", None:
                return await self._copy(form.get("image", ""), form.get("destination", ""), by)
            case "pause" | "pause now" | "cancel" | "resume" as action, None:
                return await self._control(action, form, by)
            case _:
                raise HTTPException(400, "the form asks for something that this page can't do")
        if not ids:
            return "absent"
        await note_action(self._queue, action="retry" if done == "retried" else "drop", what=what, by=by)
        return done

    async def _control(self, action: str, form: dict[str, str], by: str) -> str:
        """Pause, resume or cancel the copies that a form selects; see `_do`."""
        if action == "resume":
            paused = [each.selection for each in await list_pauses(self._queue)]
            found = [each for each in paused if each.name == form.get("pause")]
            if not found:
                return "absent"
            (selection,) = found
        else:
            try:
                selection = selection_of(form.get("by", ""), form.get("what", ""))
            except ValueError as error:
                raise HTTPException(400, str(error)) from None
        done, number = "resumed", ""
        if action == "cancel":
            forgotten, told = await cancel(self._queue, [selection])
            done, number = "cancelled", f": {forgotten + len(told):,} copies"
        elif action == "resume":
            await resume(self._queue, [selection])
        else:
            try:
                await pause(self._queue, [selection], by=by, now=action == "pause now")
            except TooManyPauses as error:
                raise HTTPException(409, str(error)) from None
            done, number = "paused", ", running copies too" if action == "pause now" else ""
        await note_action(self._queue, action=action.split()[0], what=f"{selection.sentence}{number}", by=by)
        return done

    async def _copy(self, image: str, destination: str, by: str) -> str:
        """Queue the copies that the rules ask for of an image, all or the one to a destination; see `_do`."""
        explained = explain(self._rules, image[:MAX_REFERENCE])
        if explained.problem:
            raise HTTPException(400, f"the form names no image: {explained.problem}")
        copies = explained.to(destination)
        if not copies:
            return "unmatched"
        await self._queue.enqueue([job_for(each, rules=self._rules.digest) for each in copies], Lane.EVENTS)
        what = f"{explained.image} to {named([str(each.destination) for each in copies])}"
        await note_action(self._queue, action="copy", what=what, by=by)
        return "copying"

    async def _approve(self, started: str, by: str) -> str:
        """Approve the replacements of the reconcile that began then (milliseconds), as the form showed them."""
        last = (await ReconcileState.read(self._queue)).last
        if last is None or started != str(milliseconds(last.started)) or not await approve(self._queue, last, by):
            return "changed"
        return "approved"

    def _authenticate(self, request: Request) -> None:
        """Check the password.

        Raises:
            HTTPException: it is missing or wrong, or no page is configured.
        """
        if self._auth.token is None:
            raise HTTPException(404, "no status page: REPLICATOR_STATUS_TOKEN is not set")
        authorization = request.headers.get("Authorization", "")
        if self._auth.matches_password(authorization):
            trust(request)
            return
        if authorization:  # a browser sends none until it is asked to
            _refused.warning(client_of(request), reason="wrong Authorization")
        challenge = {"WWW-Authenticate": 'Basic realm="replicator", charset="UTF-8"'}
        raise HTTPException(401, "log in with any user name, and REPLICATOR_STATUS_TOKEN as the password", challenge)

    def _outage(self, error: QueueUnavailable, view: View, t: Messages, *, fragment: bool = False) -> Response:
        return self._answer(
            self._renderer.render_outage(ErrorText.of(error).stored, view, t, fragment=fragment), t, 503
        )

    def _answer(self, html: str, t: Messages, status: int = 200) -> Response:
        headers = {
            "Content-Language": t.tag,
            "Content-Security-Policy": self._renderer.policy,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "same-origin",
            "Cache-Control": "no-store",
        }
        return HTMLResponse(html, status, headers)


def _messages(request: Request) -> Messages:
    """Return the messages of the language that a browser wants."""
    query, accepted = request.query_params.get("lang", ""), request.headers.get("Accept-Language", "")
    return messages(choose_language(query, request.cookies.get(COOKIE, ""), accepted))


def _unset(request: Request) -> Response:
    """Say how to switch the page on."""
    if "text/html" in request.headers.get("Accept", ""):
        policy = {"Content-Security-Policy": "default-src 'none'", "X-Content-Type-Options": "nosniff"}
        return HTMLResponse(_UNSET_PAGE, 404, policy)
    return PlainTextResponse(f"{_UNSET}\n", 404)


def _who(request: Request) -> str:
    """Return the sender of a form, for the history."""
    user, client = user_of(request.headers.get("Authorization", ""))[:_MAX_USER], client_of(request)
    return f"{user or 'someone'} on the status page{f' from {client}' if client else ''}"


def _form(body: bytes) -> dict[str, str]:
    """Read a form as browsers send it.

    Raises:
        HTTPException: it is not a form.
    """
    try:
        return {name: values[0] for name, values in parse_qs(body.decode(), max_num_fields=10).items()}
    except ValueError:
        raise HTTPException(400, "the body is not a form") from None
