"""Alibaba Cloud Container Registry (ACR) as a registry: its endpoints, its editions and the names it takes.

Hosts: ``registry[-vpc|-internal|-intl].<region>.aliyuncs.com`` (Personal), since 2024-09-09
``crpi-<id>[-vpc].<region>.personal.cr.aliyuncs.com``, and ``<name>-registry[-vpc].<region>.cr.aliyuncs.com``
(Enterprise). An Enterprise instance can have a domain of its own as well; the ``service`` of the token challenge names
the edition for any host. So the edition may be known only after the first answer: `EDITIONS` remembers it.
"""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from replicator.copy.options import Attestations
from replicator.errors import ErrorClass, ReplicatorError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from replicator.copy import SelectionStore
    from replicator.reference import Repository

NAME_SEGMENTS = 2
"""Segments of a repository's name at ACR, in both editions: namespace and repository, never more."""

_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_REGION = rf"(?P<region>{_LABEL})"
_HOSTS = (
    rf"registry(?:-(?P<network>vpc|internal|intl))?\.{_REGION}\.aliyuncs\.com",
    rf"(?P<personal>crpi-[a-z0-9]+)(?:-(?P<network>vpc))?\.{_REGION}\.personal\.cr\.aliyuncs\.com",
    rf"(?P<enterprise>{_LABEL})-registry(?:-(?P<network>vpc))?\.{_REGION}\.cr\.aliyuncs\.com",
)
_ENDPOINTS = tuple(re.compile(host) for host in _HOSTS)
# The region becomes part of the OpenAPI's host name, so nothing but one label of a name may match.
_SERVICE = re.compile(
    rf"registry\.aliyuncs\.com:{_REGION}:(?:[0-9]+|[a-z0-9-]+:(?P<instance>cri-[a-z0-9]+))", re.IGNORECASE | re.ASCII
)
_MAX_HOST = 253
OTHER_NAME = "choose another name for the destination"
"""What to do about a `name_problem`."""
MAX_KNOWN = 1000
"""Hosts whose challenge is remembered."""
_MAX_SERVICE = 300
"""Characters of the service of a challenge; those of ACR have less than 100."""
_NOT_ACR = "-"
"""Takes the place of the service in the memory of a host that is no ACR any more."""


_Asked = TypeVar("_Asked")
_Result = TypeVar("_Result")


class Edition(StrEnum):
    """An edition of ACR; editions differ in quotas and in the version of the OpenAPI."""

    PERSONAL = "Personal"
    """3 namespaces, 300 repositories, no service level."""
    ENTERPRISE = "Enterprise"
    """A dedicated instance, with an id ``cri-…``."""


class Network(StrEnum):
    """The network from which an endpoint can be reached."""

    PUBLIC = "public"
    VPC = "vpc"
    INTERNAL = "internal"
    INTERNATIONAL = "intl"


@dataclass(frozen=True, slots=True)
class AcrEndpoint:
    """What the host name of a registry tells about it.

    Attributes:
        region: e.g. ``cn-beijing``.
        instance: ``crpi-…``, or the name chosen for an Enterprise instance; empty for a host shared by a whole region.
    """

    edition: Edition
    region: str
    network: Network = Network.PUBLIC
    instance: str = ""


@dataclass(frozen=True, slots=True)
class Service:
    """A registry as the ``service`` of its token challenge describes it.

    Attributes:
        region: e.g. ``cn-beijing``.
        instance_id: ``cri-…`` of an Enterprise instance, as the OpenAPI takes it; empty for the Personal Edition.
    """

    edition: Edition
    region: str
    instance_id: str = ""


@lru_cache(maxsize=MAX_KNOWN)
def endpoint_of(registry: str) -> AcrEndpoint | None:
    """Read the host name of a registry (``host[:port]``); None for a name in none of the known forms."""
    host = _host(registry)
    if len(host) > _MAX_HOST:
        return None
    for pattern in _ENDPOINTS:
        if match := pattern.fullmatch(host):
            found = match.groupdict()
            edition = Edition.ENTERPRISE if "enterprise" in found else Edition.PERSONAL
            instance = found.get("personal") or found.get("enterprise") or ""
            return AcrEndpoint(edition, found["region"], Network(found["network"] or "public"), instance)
    return None


def public_host(registry: str) -> str | None:
    """Return the host name on the internet for a name that answers in Alibaba Cloud only; None for any other."""
    endpoint = endpoint_of(registry)
    if endpoint is None or endpoint.network not in (Network.VPC, Network.INTERNAL):
        return None
    return _host(registry).replace(f"-{endpoint.network}.", ".", 1)


def service_of(service: str) -> Service | None:
    """Read the ``service`` of a token challenge; None if it is not one of ACR.

    ``registry.aliyuncs.com:<region>:26842`` is Personal, ``registry.aliyuncs.com:<region>:china:cri-…`` Enterprise.
    """
    match = _SERVICE.fullmatch(service) if len(service) <= _MAX_HOST else None
    if match is None:
        return None
    instance_id = (match["instance"] or "").lower()
    return Service(Edition.ENTERPRISE if instance_id else Edition.PERSONAL, match["region"].lower(), instance_id)


@dataclass(frozen=True, slots=True)
class KnownEdition:
    """What is known of a registry of ACR.

    Attributes:
        edition: None if it is ACR and its edition is not known yet.
        by: what tells it, e.g. ``its host name``.
    """

    edition: Edition | None
    by: str

    def __str__(self) -> str:
        named = f"ACR, {self.edition} Edition" if self.edition is not None else "ACR"
        return f"{named}, recognized by {self.by}"


class Editions:
    """The editions of registries, told by a host's name or by the registry's token challenge.

    A challenge is the registry's own word, so it wins over the name. It costs no request of its own: each process gets
    one with its first request to a registry. Decisions before that use the answers that other processes got.
    """

    def __init__(self) -> None:
        self._challenged: dict[str, KnownEdition] = {}
        self._store: SelectionStore | None = None

    def learn(self, registry: str, service: str) -> None:
        """Note the ``service`` of a registry's token challenge; one that names none says nothing."""
        place, former = _place(registry), self._challenged.get(_place(registry))
        known = _told(service)
        if known == former or not service:
            return
        self._challenged.pop(place, None)
        if known is not None:
            if len(self._challenged) >= MAX_KNOWN:
                del self._challenged[next(iter(self._challenged))]
            self._challenged[place] = known
        if self._store is not None:
            self._store.note(_memory_key(place), service if known is not None else _NOT_ACR)

    @asynccontextmanager
    async def shared(self, store: SelectionStore, registries: Iterable[str]) -> AsyncIterator[None]:
        """Take over the editions of ``registries`` that other processes know, and share those that are learned."""
        places = sorted({_place(registry) for registry in registries})
        for place, service in zip(places, await store.recall([_memory_key(place) for place in places]), strict=True):
            known = _told(service or "")
            if known is not None:
                self._challenged.setdefault(place, known)
        self._store = store
        try:
            yield
        finally:
            self._store = None

    def find(self, registry: str) -> KnownEdition | None:
        """Return the knowledge of ``host[:port]``; None if neither its name nor a challenge shows that it is ACR."""
        if (challenged := self._challenged.get(_place(registry))) is not None:
            return challenged
        if not is_acr_host(registry):
            return None
        endpoint = endpoint_of(registry)
        return KnownEdition(endpoint.edition if endpoint is not None else None, "its host name")

    def clear(self) -> None:
        """Forget everything that was learned."""
        self._challenged.clear()


def _told(service: str) -> KnownEdition | None:
    found = service_of(service) if len(service) <= _MAX_SERVICE else None
    if found is None:
        return None
    return KnownEdition(found.edition, f"its token challenge{f' for {found.instance_id}' if found.instance_id else ''}")


def _memory_key(place: str) -> str:
    return f"edition {place}"


EDITIONS = Editions()
"""Those that this process knows."""


def edition_of(registry: str) -> Edition | None:
    """Return the edition of ``host[:port]`` as far as it is known by now; None for other registries, and if unknown."""
    known = EDITIONS.find(registry)
    return known.edition if known is not None else None


def is_acr(registry: str) -> bool:
    """Tell whether ``host[:port]`` is known to be ACR by now: by its name, or by its token challenge."""
    return EDITIONS.find(registry) is not None


async def with_edition(asked: Callable[[], _Asked], attempt: Callable[[_Asked], Awaitable[_Result]]) -> _Result:
    """Make an attempt; and another one if the edition learned from the failure changes the request.

    ACR under another host name shows its edition with its first answer, and the parts to copy may depend on it.

    Args:
        asked: returns the request, by the present knowledge of the registry.
        attempt: carries it out.

    Raises:
        ReplicatorError: as of ``attempt``.
    """
    first = asked()
    try:
        return await attempt(first)
    except ReplicatorError as error:
        again = asked()
        if again == first or error.error_class is not ErrorClass.PERMANENT:
            raise
    return await attempt(again)


def is_acr_host(registry: str) -> bool:
    """Tell whether ``host[:port]`` is a name of ACR, in a form that `endpoint_of` knows or a newer one.

    A rules file is read by this alone, so that it means the same in all processes.
    """
    return _host(registry).endswith(".aliyuncs.com")


def automatic_attestations(registry: str) -> Attestations:
    """Return what ``attestations: auto`` means at ``registry``, as far as it is known by now.

    ACR refuses some attestations for good, and an image must not fail because of them; elsewhere everything is copied.
    """
    return Attestations.STRIP_REFUSED if is_acr(registry) else Attestations.KEEP


def _host(registry: str) -> str:
    return (registry.rpartition(":")[0] if ":" in registry else registry).lower()


def _place(registry: str) -> str:
    """Return ``host[:port]`` in its one form: another port may be another registry."""
    return registry.lower().removesuffix(":443")


_KINDS = ("namespace", "repository")
_SHORTEST = 2
_LONGEST = {Edition.PERSONAL: (30, 64), Edition.ENTERPRISE: (120, 120)}
"""Characters of a namespace and of a repository, as documented for the console, the OpenAPI and Terraform."""
_SHOWN = 25
"""Characters that are shown of a name that is too long."""


def name_problem(repository: Repository) -> str | None:
    """Return why ACR can't hold a destination, as documented for its edition; None if it may, and at other registries.

    Where the edition is not known by now, it is a problem only if no edition holds the name; see `name_doubt`.
    """
    found = _refusals(repository)
    return f"ACR can't hold this destination: {found[-1]}" if found and all(found) else None


def name_doubt(repository: Repository) -> str | None:
    """Return why ACR may not hold a destination that has no `name_problem`; None if nothing speaks against it.

    Its edition is not known and only one holds the name; or the name is shorter than documented, and no
    edition was seen to refuse such a name.
    """
    found = _refusals(repository)
    if not found or all(found):
        return None
    for kind, text in zip(_KINDS, repository.name.split("/"), strict=True):
        if len(text) < _SHORTEST:
            return f"ACR may refuse the {kind} {text}: its documents say that a name has at least 2 characters"
    reasons = [reason for reason in found if reason is not None]
    return f"ACR may refuse this destination: {reasons[0]}" if reasons else None


def _refusals(repository: Repository) -> list[str | None]:
    """Return for each edition that a registry may be of why it can't hold a name, or None if it can."""
    parts = repository.name.split("/")
    if len(parts) != NAME_SEGMENTS or not is_acr(repository.registry):
        return []
    namespace, name = parts
    edition = edition_of(repository.registry)
    return [_refusal(namespace, name, each) for each in Edition if edition in (None, each)]


def _refusal(namespace: str, name: str, edition: Edition) -> str | None:
    """Return why an edition can't hold a name. The grammar of names excludes the rest of what none takes."""
    for kind, text, longest in zip(_KINDS, (namespace, name), _LONGEST[edition], strict=True):
        if len(text) > longest:
            takes = f"the {edition} Edition takes {_SHORTEST} to {longest}"
            return f"the {kind} {text[:_SHOWN]}… has {len(text)} characters, and {takes}"
    if edition is Edition.PERSONAL and "." in namespace:
        return f"the namespace {namespace} has a dot, which the {edition} Edition does not take"
    return None
