"""Webhook policies of Harbor's projects: as values ("WebhookPolicy" of the API), and a client for those of one project.

Harbor shows the ``Authorization`` header that it sends (``auth_header``) to everyone who may list policies. Here it is
only compared, and is never part of a text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from yarl import URL

from replicator.harbor.api import HarborApi, NoHarbor, SystemInfo
from replicator.reference import is_registry
from replicator.registry.errors import NotFound, RegistryError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replicator.registry.transport import Transport

PATH = "/webhooks/harbor"
"""The path of the webhook; it may be followed by the name of the Harbor that sends the events."""
NAME = "replicator"
"""The name of our policies."""
EVENT_TYPES = ("PUSH_ARTIFACT", "SCANNING_COMPLETED")
"""The events that our policies send: pushes, and ends of scans, for which a copy may wait."""
DEFAULT = "Default"
CLOUD_EVENTS = "CloudEvents"

_VERSION = re.compile(r"v?(\d{1,4})\.(\d{1,4})(?!\d)")
_CLOUD_EVENTS_SINCE = (2, 8)
_MAX_SHOWN = 500
_NAMING = re.compile(rf"(?P<bare>.*{PATH})/(?P<registry>[^/]+)/?")


@dataclass(frozen=True, slots=True)
class PolicyTarget:
    """A receiver of a policy's events.

    Attributes:
        address: the URL.
        auth_header: sent as ``Authorization``; empty for none. Never shown.
        payload_format: ``Default`` or ``CloudEvents``.
        skip_cert_verify: whether Harbor accepts any certificate.
        type: ``http`` or ``slack``.
    """

    address: str
    auth_header: str = field(repr=False)
    payload_format: str = DEFAULT
    skip_cert_verify: bool = False
    type: str = "http"

    def to_json(self) -> dict[str, Any]:
        """Return the JSON of the API; a Harbor before 2.8 has no ``payload_format``, so the default is left out."""
        return {
            "type": self.type,
            "address": self.address,
            "auth_header": self.auth_header,
            "skip_cert_verify": self.skip_cert_verify,
            **({} if self.payload_format == DEFAULT else {"payload_format": self.payload_format}),
        }

    @property
    def registry(self) -> str | None:
        """The registry that the address names; None if it names none."""
        return named_registry(self.address)

    def is_at(self, address: str) -> bool:
        """Tell whether it goes to ``address``, whichever registry either of them names."""
        return _bare(self.address) == _bare(address)

    def is_receiver(self, address: str | None) -> bool:
        """Tell whether it goes to ``address``; if that is not known, whether its path is the webhook's."""
        if address is not None:
            return self.is_at(address)
        try:
            return is_webhook_path(URL(self.address).path)
        except ValueError:
            return False

    def sends(self, token: str) -> bool:
        """Tell whether it sends ``token``, with or without ``Bearer``: the webhook accepts both."""
        return _token(self.auth_header) == token


@dataclass(frozen=True, slots=True)
class Policy:
    """A webhook policy of a project.

    Attributes:
        id: None for one that does not exist yet.
        name: unique in its project; empty for one that was made without, by the API.
        event_types: in the Default format's names.
    """

    id: int | None
    name: str
    description: str
    enabled: bool
    event_types: tuple[str, ...]
    targets: tuple[PolicyTarget, ...]

    @property
    def title(self) -> str:
        """What a person is shown: the name or, without one, the number."""
        return self.name or f"(policy {self.id})"

    def to_json(self) -> dict[str, Any]:
        """Return the JSON of the API."""
        return {
            "name": self.name,
            "description": self.description,
            "enabled": self.enabled,
            "event_types": list(self.event_types),
            "targets": [target.to_json() for target in self.targets],
        }

    def is_ours(self, address: str | None) -> bool:
        """Tell whether it is one of ours: it has our name, or sends to ``address`` and nowhere else."""
        # A policy with other receivers is a person's: correcting or removing it would cut those off.
        return self.name == NAME or (len(self.targets) == 1 and self.sends_to(address))

    def sends_to(self, address: str | None) -> bool:
        """Tell whether one of its targets is ``address``, whichever registry either of them names."""
        return address is not None and any(target.is_at(address) for target in self.targets)

    def corrected(self, target: PolicyTarget) -> Policy:
        """Return the policy changed to send pushes to ``target``; its name and description stay."""
        return replace(self, enabled=True, event_types=EVENT_TYPES, targets=(target,))

    def differs(self, target: PolicyTarget) -> bool:
        """Tell whether it must be changed to send pushes to ``target``."""
        # A token without Bearer is no difference: the webhook accepts both, and a person may have typed it.
        have = tuple(replace(each, auth_header=_token(each.auth_header)) for each in self.targets)
        want = (replace(target, auth_header=_token(target.auth_header)),)
        return not self.enabled or set(self.event_types) != set(EVENT_TYPES) or have != want


def new_policy(target: PolicyTarget) -> Policy:
    """Return a policy to create, which sends pushes to ``target``."""
    return Policy(
        None, NAME, "sends pushes to the replicator", enabled=True, event_types=EVENT_TYPES, targets=(target,)
    )


def policy_of(row: Mapping[str, Any]) -> Policy | None:
    """Read a row of ``GET /projects/{project}/webhook/policies``; None if it has no id."""
    # Harbor takes a policy without a name, and leaves out of a row what is empty.
    number, name = row.get("id"), row.get("name", "")
    if type(number) is not int or number < 0 or not isinstance(name, str):
        return None
    types, targets = row.get("event_types"), row.get("targets")
    return Policy(
        number,
        name,
        _text(row.get("description")),
        row.get("enabled") is True,
        tuple(kind for kind in types if isinstance(kind, str)) if isinstance(types, list) else (),
        tuple(_target(each) for each in targets if isinstance(each, dict)) if isinstance(targets, list) else (),
    )


def payload_format(version: str | None) -> str:
    """Return the best payload format of a Harbor by its ``harbor_version``; ``Default`` if that is not known."""
    # CloudEvents is the better one: its events have an id, which is the same in all attempts to deliver them.
    match = _VERSION.match(version or "")
    return CLOUD_EVENTS if match and (int(match[1]), int(match[2])) >= _CLOUD_EVENTS_SINCE else DEFAULT


def shown_address(address: str) -> str:
    """Return an address without its possible secrets: a user, and any parameter of the query but ``registry``."""
    try:
        url = URL(address)
        bare = url.with_user(None) if url.absolute else url
        query = {name: value if name == "registry" else "***" for name, value in url.query.items()}
    except ValueError:
        return "(not a URL)"
    return str(bare.with_query(query).with_fragment(None))[:_MAX_SHOWN]


def for_registry(address: str, registry: str) -> str:
    """Return the webhook's address with the name of the sending registry in it, in place of any other.

    The name is added to the path, because Harbor intends to drop the query of addresses. A path that is not
    ``/webhooks/harbor`` is a proxy's, which may not forward longer ones: there the query has it (``?registry=``).
    """
    url = URL(address)
    bare, _ = _split(url.path)
    if not bare.endswith(PATH):
        return str(url.update_query(registry=registry))
    others = [(name, value) for name, value in url.query.items() if name != "registry"]
    return str(url.with_path(f"{bare}/{registry}").with_query(others or None))


def named_registry(address: str) -> str | None:
    """Return the registry that an address of the webhook names, in its path or query; None if it names none."""
    try:
        url = URL(address)
        return _split(url.path)[1] or url.query.get("registry")
    except ValueError:
        return None


def names_in_query(address: str) -> bool:
    """Tell whether an address names a registry in its query although its path could."""
    try:
        url = URL(address)
        return is_webhook_path(url.path) and "registry" in url.query
    except ValueError:
        return False


def ends_with_slash(address: str) -> bool:
    """Tell whether the webhook's path has a slash at its end."""
    try:
        path = URL(address).path
    except ValueError:
        return False
    return path.endswith("/") and is_webhook_path(path)


def is_webhook_path(path: str) -> bool:
    """Tell whether a path is the webhook's, with any prefix and any registry."""
    return _split(path)[0].endswith(PATH)


def canonical(registry: str) -> str:
    """Return the canonical spelling of a host: lower case, without a default port."""
    return registry.lower().removesuffix(":443").removesuffix(":80")


def _target(row: Mapping[str, Any]) -> PolicyTarget:
    return PolicyTarget(
        _text(row.get("address")),
        _text(row.get("auth_header")),
        _text(row.get("payload_format")) or DEFAULT,
        row.get("skip_cert_verify") is True,
        _text(row.get("type")),
    )


def _bare(address: str) -> str:
    """Return an address without the registry that it names: one spelling for one receiver."""
    try:
        url = URL(address)
        # This drops the query as well, where the registry is if a proxy's path can't have it.
        return str(url.with_path(_split(url.path)[0]))
    except ValueError:
        return address


def _split(path: str) -> tuple[str, str | None]:
    """Split a path into the part before the registry that it names, and that registry."""
    found = _NAMING.fullmatch(path)
    # Behind a proxy, /webhooks/harbor may be followed by a part of the proxy's own.
    if found is None or not is_registry(found["registry"]):
        return path.rstrip("/"), None
    return found["bare"], found["registry"]


def _token(header: str) -> str:
    return header.removeprefix("Bearer ")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


_MAX_DELIVERIES = 10
_MAX_QUOTED = 300
"""Characters of Harbor's own words that are shown."""


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

    async def system(self) -> SystemInfo:
        """Return Harbor's system information.

        Raises:
            NoHarbor: the host is not a Harbor.
            RegistryError: there was no answer.
        """
        try:
            system = await self._api.system()
        except RegistryError as error:
            # A Harbor answers this request to everybody, unless it is overloaded or broken.
            if error.status is None or error.status >= 429:
                raise
            raise error.recast(NoHarbor) from error
        if system is None:
            raise NoHarbor("the answer is not one of Harbor's").at(self._registry, "GET /api/v2.0/systeminfo")
        return system

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

    async def delete(self, policy: Policy) -> bool:
        """Delete a policy; it is no error if it does not exist any more.

        Returns:
            Whether it is gone. Harbor keeps it until its deliveries have ended: for seconds after each event, and for
            minutes if a delivery waits for its next attempt.
        """
        reply = await self._api.call("DELETE", f"{self._path}/{policy.id}", expect={200, 404, 412})
        return reply.status != 412

    async def deliveries(self, policy: Policy, count: int = 5) -> list[Delivery] | None:
        """List the last deliveries of a policy, at most 10, the newest first.

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
    return "".join(letter if letter.isprintable() else " " for letter in text)[:_MAX_QUOTED]
