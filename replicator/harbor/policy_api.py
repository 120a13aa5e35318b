"""A client for the webhook policies of one Harbor project."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from replicator.harbor.api import HarborApi
from replicator.harbor.policy import policy_of
from replicator.registry.errors import NotFound, RegistryError

if TYPE_CHECKING:
    from replicator.harbor.policy import Policy
    from replicator.registry.transport import Transport

_MAX_DELIVERIES = 10
_MAX_SHOWN = 300
"""Characters of Harbor's own words that are shown."""


class NoHarbor(RegistryError):
    """The host is not a Harbor."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """An attempt of Harbor to deliver an event.

    Attributes:
        status: Harbor's word, e.g. ``Success`` or ``Error``.
        started: RFC 3339; empty if Harbor does not say.
        detail: the last line of Harbor's log of a delivery that failed; else empty.
    """

    status: str
    started: str
    detail: str


class WebhookApi:
    """A client for the webhook policies of one project.

    Every method raises `RegistryError` if Harbor refuses or does not answer.

    Args:
        registry: the Harbor's host, as the rules name it.
        transport: with the login of a project administrator, or of a robot account with all permissions of
            ``notification-policy``.
    """

    def __init__(self, registry: str, project: str, transport: Transport) -> None:
        self.project = project
        self._registry = registry
        self._api = HarborApi(registry, transport)
        self._path = f"/projects/{project}/webhook/policies"

    async def version(self) -> str | None:
        """Return Harbor's version (``GET /systeminfo``); None if Harbor does not tell it to this login.

        Raises:
            NoHarbor: the host is not a Harbor.
            RegistryError: there was no answer.
        """
        try:
            found = await self._api.json("/systeminfo")
        except RegistryError as error:
            # A Harbor answers this request to everybody, unless it is overloaded or broken.
            if error.status is None or error.status >= 429:
                raise
            raise error.recast(NoHarbor) from error
        if not isinstance(found, dict) or "auth_mode" not in found:
            raise NoHarbor("the answer is not one of Harbor's").at(self._registry, "GET /api/v2.0/systeminfo")
        version = found.get("harbor_version")
        return version if isinstance(version, str) else None

    async def policies(self) -> list[Policy]:
        """List all policies of the project."""
        found = []
        async for page in self._api.pages(self._path):
            found += [policy for row in page if (policy := policy_of(row)) is not None]
        return found

    async def create(self, policy: Policy) -> None:
        """Create a policy."""
        await self._api.call("POST", self._path, expect={201}, body=policy.to_json())

    async def update(self, policy: Policy) -> None:
        """Change an existing policy."""
        await self._api.call("PUT", f"{self._path}/{policy.id}", body=policy.to_json())

    async def delete(self, policy: Policy) -> None:
        """Delete a policy; it is no error if it does not exist any more."""
        await self._api.call("DELETE", f"{self._path}/{policy.id}", expect={200, 404})

    async def deliveries(self, policy: Policy, count: int = 5) -> list[Delivery] | None:
        """List the last deliveries of a policy, the newest first and 10 at the most.

        Returns:
            The deliveries; None from a Harbor before 2.8, which has no list of them.
        """
        path = f"{self._path}/{policy.id}/executions"
        count = min(count, _MAX_DELIVERIES)
        try:
            rows = await self._api.json(f"{path}?page=1&page_size={count}&sort=-id")
        except NotFound:
            return None
        found: list[Delivery] = []
        for row in _rows(rows)[:count]:
            status = _line(row.get("status"))
            failed = status in ("Error", "Stopped")
            # A reason takes two requests, and earlier failures most likely have the same one.
            explained = any(each.detail for each in found)
            detail = await self._reason(f"{path}/{row.get('id')}", policy) if failed and not explained else ""
            found.append(Delivery(status, _line(row.get("start_time")), detail))
        return found

    async def _reason(self, execution: str, policy: Policy) -> str:
        """Return the last line of the log of a failed delivery; empty if there is none."""
        try:
            tasks = _rows(await self._api.json(f"{execution}/tasks?page=1&page_size=1&sort=-id"))
            if not tasks:
                return ""
            reply = await self._api.call("GET", f"{execution}/tasks/{tasks[0].get('id')}/log")
        except RegistryError:
            return ""
        lines = [line for line in reply.body.decode("utf-8", "replace").splitlines() if line.strip()]
        words = lines[-1] if lines else ""
        # The log may quote the request with its Authorization header.
        for target in policy.targets:
            secret = target.auth_header.removeprefix("Bearer ")
            words = words.replace(secret, "***") if secret else words
        return _line(words)


def _rows(value: Any) -> list[dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _line(value: Any) -> str:
    """Return Harbor's words as one printable line."""
    text = value if isinstance(value, str) else ""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:_MAX_SHOWN]
