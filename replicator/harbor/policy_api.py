"""Questions about the webhook policies of one Harbor's project, and their changes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from replicator.harbor.api import HarborApi
from replicator.harbor.policy import policy_of
from replicator.registry.connection import Request
from replicator.registry.errors import NotFound, ProtocolViolated, RegistryError

if TYPE_CHECKING:
    from replicator.harbor.policy import Policy
    from replicator.registry.transport import Transport

_MAX_BODY = 1024 * 1024
_MAX_DELIVERIES = 10
_MAX_SHOWN = 300
_HEADERS = {"Accept": "application/json", "X-Is-Resource-Name": "true"}


class NoHarbor(RegistryError):
    """Who answers is no Harbor."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event that Harbor sent, or gave up.

    Attributes:
        status: Harbor's word, e.g. ``Success`` or ``Error``.
        started: when, RFC 3339; empty where Harbor does not say.
        detail: what the last line of its log says, for one that failed; else empty.
    """

    status: str
    started: str
    detail: str


class WebhookApi:
    """The webhook policies of one project.

    Args:
        registry: the Harbor's host, as the rules name it.
        project: the project's name.
        transport: the way there, with a login that may manage them: a project administrator, or a robot account
            with all of ``notification-policy``.

    Attributes:
        project: the project's name.
    """

    def __init__(self, registry: str, project: str, transport: Transport) -> None:
        self.project = project
        self._registry = registry
        self._transport = transport
        self._api = HarborApi(registry, transport)
        self._path = f"/projects/{project}/webhook/policies"

    async def version(self) -> str | None:
        """Return Harbor's version (``GET /systeminfo``); None where it does not tell this login.

        Raises:
            NoHarbor: who answers is none.
            RegistryError: there was no answer.
        """
        try:
            found = await self._json("/systeminfo")
        except RegistryError as error:
            if error.status is None or error.status >= 429:
                raise
            raise error.recast(NoHarbor) from error
        if not isinstance(found, dict) or "auth_mode" not in found:
            raise NoHarbor("the answer is not Harbor's").at(self._registry, "GET /api/v2.0/systeminfo")
        version = found.get("harbor_version")
        return version if isinstance(version, str) else None

    async def policies(self) -> list[Policy]:
        """List all policies.

        Raises:
            RegistryError: Harbor refuses, or does not answer.
        """
        found = []
        async for page in self._api.pages(self._path):
            found += [policy for row in page if (policy := policy_of(row)) is not None]
        return found

    async def create(self, policy: Policy) -> None:
        """Create a policy.

        Raises:
            RegistryError: Harbor refuses, or does not answer.
        """
        await self._send("POST", self._path, {201}, policy.to_json())

    async def update(self, policy: Policy) -> None:
        """Change a policy that is there.

        Raises:
            RegistryError: Harbor refuses, or does not answer.
        """
        await self._send("PUT", f"{self._path}/{policy.id}", {200}, policy.to_json())

    async def delete(self, policy: Policy) -> None:
        """Delete a policy; one that is gone is no error.

        Raises:
            RegistryError: Harbor refuses, or does not answer.
        """
        await self._send("DELETE", f"{self._path}/{policy.id}", {200, 404}, None)

    async def deliveries(self, policy: Policy, count: int = 5) -> list[Delivery] | None:
        """List what was sent lately, the newest first.

        Args:
            policy: whose.
            count: how many at the most, up to 10.

        Returns:
            None where Harbor does not tell: it is older than 2.8.

        Raises:
            RegistryError: Harbor refuses, or does not answer.
        """
        path = f"{self._path}/{policy.id}/executions"
        wanted = min(count, _MAX_DELIVERIES)
        try:
            rows = await self._json(f"{path}?page=1&page_size={wanted}&sort=-id")
        except NotFound:
            return None
        found: list[Delivery] = []
        for row in _rows(rows)[:wanted]:
            status = _line(row.get("status"))
            failed = status in ("Error", "Stopped")
            # One reason is enough: those before it are most likely the same.
            told = any(each.detail for each in found)
            detail = await self._reason(f"{path}/{row.get('id')}", policy) if failed and not told else ""
            found.append(Delivery(status, _line(row.get("start_time")), detail))
        return found

    async def _reason(self, execution: str, policy: Policy) -> str:
        """Return the last line of the log of a delivery that failed; nothing where there is none."""
        try:
            tasks = _rows(await self._json(f"{execution}/tasks?page=1&page_size=1&sort=-id"))
            if not tasks:
                return ""
            url = await self._transport.url(f"/api/v2.0{execution}/tasks/{tasks[0].get('id')}/log")
            request = Request("GET", url, headers=_HEADERS, basic=True)
            reply = await self._transport.call(request, expect={200}, max_body=_MAX_BODY)
        except RegistryError:
            return ""
        lines = [line for line in reply.body.decode("utf-8", "replace").splitlines() if line.strip()]
        words = lines[-1] if lines else ""
        for target in policy.targets:
            secret = target.auth_header.removeprefix("Bearer ")
            words = words.replace(secret, "***") if secret else words
        return _line(words)

    async def _json(self, path: str) -> Any:
        request = Request("GET", await self._transport.url(f"/api/v2.0{path}"), headers=_HEADERS, basic=True)
        with self._transport.context(request):
            reply = await self._transport.call(request, expect={200}, max_body=_MAX_BODY)
            try:
                return json.loads(reply.body)
            except (ValueError, RecursionError):
                raise ProtocolViolated("the answer is not JSON", status=reply.status) from None

    async def _send(self, method: str, path: str, expect: set[int], body: dict[str, Any] | None) -> None:
        url = await self._transport.url(f"/api/v2.0{path}")
        request = Request(
            method,
            url,
            headers={**_HEADERS, "Content-Type": "application/json"},
            body=None if body is None else json.dumps(body).encode(),
            basic=True,
        )
        await self._transport.call(request, expect=expect)


def _rows(value: Any) -> list[dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _line(value: Any) -> str:
    """What Harbor says, as it may stand in a line for a person."""
    text = value if isinstance(value, str) else ""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:_MAX_SHOWN]
