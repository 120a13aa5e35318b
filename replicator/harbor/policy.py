"""Webhook policies of Harbor's projects, as values ("WebhookPolicy" of the API). No network.

Harbor shows what it sends as ``Authorization`` (``auth_header``) to everyone who may list policies: it is compared
here, and stands in no text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from yarl import URL

from replicator.reference import is_registry

if TYPE_CHECKING:
    from collections.abc import Mapping

PATH = "/webhooks/harbor"
"""Where the webhook is; a registry's name behind it says whose events come."""
NAME = "replicator"
"""What our policies are called."""
EVENT_TYPES = ("PUSH_ARTIFACT",)
"""What our policies are told of."""
DEFAULT = "Default"
CLOUD_EVENTS = "CloudEvents"

_VERSION = re.compile(r"v?(\d{1,4})\.(\d{1,4})(?!\d)")
_CLOUD_EVENTS_SINCE = (2, 8)
_MAX_SHOWN = 500
_NAMING = re.compile(rf"(?P<bare>.*{PATH})/(?P<registry>[^/]+)/?")


@dataclass(frozen=True, slots=True)
class PolicyTarget:
    """Where a policy's events go.

    Attributes:
        address: the URL.
        auth_header: what is sent as ``Authorization``; empty for nothing. Never shown.
        payload_format: ``Default`` or ``CloudEvents``.
        skip_cert_verify: whether Harbor takes any certificate.
        type: ``http``, or ``slack``.
    """

    address: str
    auth_header: str = field(repr=False)
    payload_format: str = DEFAULT
    skip_cert_verify: bool = False
    type: str = "http"

    def to_json(self) -> dict[str, Any]:
        """Return it as the API takes it; a Harbor before 2.8 knows no ``payload_format``."""
        return {
            "type": self.type,
            "address": self.address,
            "auth_header": self.auth_header,
            "skip_cert_verify": self.skip_cert_verify,
            **({} if self.payload_format == DEFAULT else {"payload_format": self.payload_format}),
        }

    @property
    def registry(self) -> str | None:
        """The registry that its address names; None if it names none."""
        return named_registry(self.address)

    def is_at(self, address: str) -> bool:
        """Tell whether it is ``address``, whatever registry either names."""
        return _bare(self.address) == _bare(address)

    def sends(self, token: str) -> bool:
        """Tell whether it sends ``token``, alone or behind ``Bearer``: the webhook takes both."""
        return _token(self.auth_header) == token


@dataclass(frozen=True, slots=True)
class Policy:
    """A webhook policy of a project.

    Attributes:
        id: its number at Harbor; None for one that is not there yet.
        name: unique in its project.
        description: for people.
        enabled: whether it is told anything.
        event_types: Harbor's names of events.
        targets: where they go.
    """

    id: int | None
    name: str
    description: str
    enabled: bool
    event_types: tuple[str, ...]
    targets: tuple[PolicyTarget, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as the API takes it."""
        return {
            "name": self.name,
            "description": self.description,
            "enabled": self.enabled,
            "event_types": list(self.event_types),
            "targets": [target.to_json() for target in self.targets],
        }

    def is_ours(self, address: str | None) -> bool:
        """Tell whether it is one of ours: by its name, or because it does nothing but send to ``address``."""
        return self.name == NAME or (len(self.targets) == 1 and self.sends_to(address))

    def sends_to(self, address: str | None) -> bool:
        """Tell whether one of its targets is ``address``, whatever registry either names."""
        return address is not None and any(target.is_at(address) for target in self.targets)

    def corrected(self, target: PolicyTarget) -> Policy:
        """Return it as it must be to send pushes to ``target``; its name and description stay."""
        return replace(self, enabled=True, event_types=EVENT_TYPES, targets=(target,))

    def differs(self, target: PolicyTarget) -> bool:
        """Tell whether it must be changed to send pushes to ``target``.

        A token alone is as good as one behind ``Bearer``: the webhook takes both.
        """
        have = tuple(replace(each, auth_header=_token(each.auth_header)) for each in self.targets)
        want = (replace(target, auth_header=_token(target.auth_header)),)
        return not self.enabled or self.event_types != EVENT_TYPES or have != want


def new_policy(target: PolicyTarget) -> Policy:
    """Return the policy that sends pushes to ``target``, not yet at any Harbor."""
    return Policy(
        None, NAME, "tells the replicator what was pushed", enabled=True, event_types=EVENT_TYPES, targets=(target,)
    )


def policy_of(row: Mapping[str, Any]) -> Policy | None:
    """Read a row of ``GET /projects/{project}/webhook/policies``; None for what has no number or name."""
    number, name = row.get("id"), row.get("name")
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
    """Return the best format that a Harbor has, by its ``harbor_version``; ``Default`` where that is not known."""
    match = _VERSION.match(version or "")
    return CLOUD_EVENTS if match and (int(match[1]), int(match[2])) >= _CLOUD_EVENTS_SINCE else DEFAULT


def shown_address(address: str) -> str:
    """Write an address without what can be a secret in it: a user, and what the query says of other than a registry."""
    try:
        url = URL(address)
        bare = url.with_user(None) if url.absolute else url
        query = {name: value if name == "registry" else "***" for name, value in url.query.items()}
    except ValueError:
        return "(not a URL)"
    return str(bare.with_query(query).with_fragment(None))[:_MAX_SHOWN]


def for_registry(address: str, registry: str) -> str:
    """Return the webhook's address with the registry it is told from in it, in place of any other that it names.

    It stands in the path, as Harbor means to leave the query out. A path of another name is a proxy's, which may know
    nothing behind it: there the query has to do (``?registry=``).
    """
    url = URL(address)
    bare, _ = _split(url.path)
    if not bare.endswith(PATH):
        return str(url.update_query(registry=registry))
    others = [(name, value) for name, value in url.query.items() if name != "registry"]
    return str(url.with_path(f"{bare}/{registry}").with_query(others or None))


def named_registry(address: str) -> str | None:
    """Return the registry that an address of the webhook names, in its path or its query; None if it names none."""
    try:
        url = URL(address)
        return _split(url.path)[1] or url.query.get("registry")
    except ValueError:
        return None


def names_in_query(address: str) -> bool:
    """Tell whether an address names a registry in its query though its path could."""
    try:
        url = URL(address)
        return is_webhook_path(url.path) and "registry" in url.query
    except ValueError:
        return False


def is_webhook_path(path: str) -> bool:
    """Tell whether a path is that of a webhook, whatever stands before it and whichever registry it names."""
    return _split(path)[0].endswith(PATH)


def canonical(registry: str) -> str:
    """Return one spelling for one host: lower case, without a port that its scheme has anyway."""
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
    """An address without what tells whom it is told from: one spelling for one receiver."""
    try:
        url = URL(address)
        return str(url.with_path(_split(url.path)[0]))
    except ValueError:
        return address


def _split(path: str) -> tuple[str, str | None]:
    """A path without the registry that it names, and that."""
    found = _NAMING.fullmatch(path)
    if found is None or not is_registry(found["registry"]):
        return path.rstrip("/"), None
    return found["bare"], found["registry"]


def _token(header: str) -> str:
    return header.removeprefix("Bearer ")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
