"""What only Alibaba Cloud Container Registry (ACR) has: its endpoints and editions, and the names it takes.

Endpoints: ``registry[-vpc|-internal|-intl].<region>.aliyuncs.com`` (Personal), since 2024-09-09
``crpi-<id>[-vpc].<region>.personal.cr.aliyuncs.com``, and ``<name>-registry[-vpc].<region>.cr.aliyuncs.com``
(Enterprise). The ``service`` of its token challenge tells the edition too, whatever name the registry is reached by.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from replicator.copy.options import Attestations

NAME_SEGMENTS = 2
"""Segments of a repository's name at ACR, in both editions: namespace and repository, never more."""

LOGIN_HINT = (
    "; for ACR they are those of the Access Credential page, a RAM user's name has the form user@account-id, and the "
    "RAM user must have set a password there"
)
"""What an operator should know about ACR's logins."""

_QUANTITY = re.compile(r"quota|exceed|limit", re.IGNORECASE)
_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_REGION = rf"(?P<region>{_LABEL})"
_HOSTS = (
    rf"registry(?:-(?P<network>vpc|internal|intl))?\.{_REGION}\.aliyuncs\.com",
    rf"(?P<personal>crpi-[a-z0-9]+)(?:-(?P<network>vpc))?\.{_REGION}\.personal\.cr\.aliyuncs\.com",
    rf"(?P<enterprise>{_LABEL})-registry(?:-(?P<network>vpc))?\.{_REGION}\.cr\.aliyuncs\.com",
)
_ENDPOINTS = tuple(re.compile(host) for host in _HOSTS)
_SERVICE = re.compile(
    rf"registry\.aliyuncs\.com:{_REGION}:(?:[0-9]+|[a-z0-9-]+:(?P<instance>cri-[a-z0-9]+))", re.IGNORECASE | re.ASCII
)
_MAX_HOST = 253


class Edition(StrEnum):
    """What is sold: they differ in quotas and in the version of the OpenAPI."""

    PERSONAL = "Personal"
    """3 namespaces, 300 repositories, no service level."""
    ENTERPRISE = "Enterprise"
    """An instance of one's own, with an id ``cri-…``."""


class Network(StrEnum):
    """From where an endpoint can be reached."""

    PUBLIC = "public"
    VPC = "vpc"
    INTERNAL = "internal"
    INTERNATIONAL = "intl"


@dataclass(frozen=True, slots=True)
class AcrEndpoint:
    """What a host's name says of a registry.

    Attributes:
        edition: of the registry.
        region: e.g. ``cn-beijing``.
        network: from where the host can be reached.
        instance: the instance's name in the host, ``crpi-…`` or the one that was chosen for an Enterprise instance;
            empty for the hosts that a whole region shares.
    """

    edition: Edition
    region: str
    network: Network = Network.PUBLIC
    instance: str = ""


@dataclass(frozen=True, slots=True)
class Service:
    """What the ``service`` of a token challenge says of a registry.

    Attributes:
        edition: of the registry.
        region: e.g. ``cn-beijing``.
        instance_id: ``cri-…`` of an Enterprise instance, as the OpenAPI wants it; empty for the Personal Edition.
    """

    edition: Edition
    region: str
    instance_id: str = ""


def endpoint_of(registry: str) -> AcrEndpoint | None:
    """Return what the name ``host[:port]`` says; None if it has none of the known forms."""
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


def service_of(service: str) -> Service | None:
    """Return what a token challenge's ``service`` says; None if it is not ACR's.

    ``registry.aliyuncs.com:<region>:26842`` is Personal, ``registry.aliyuncs.com:<region>:china:cri-…`` Enterprise.
    """
    match = _SERVICE.fullmatch(service) if len(service) <= _MAX_HOST else None
    if match is None:
        return None
    instance_id = (match["instance"] or "").lower()
    return Service(Edition.ENTERPRISE if instance_id else Edition.PERSONAL, match["region"].lower(), instance_id)


def is_acr(registry: str) -> bool:
    """Tell whether ``host[:port]`` is an ACR endpoint, be its form known to `endpoint_of` or newer."""
    return _host(registry).endswith(".aliyuncs.com")


def is_of_quantity(words: str) -> bool:
    """Tell whether the words of a refusal are about a quota."""
    return _QUANTITY.search(words) is not None


def _host(registry: str) -> str:
    return (registry.rpartition(":")[0] if ":" in registry else registry).lower()


def automatic_attestations(registry: str) -> Attestations:
    """Return what becomes of attestations at ``registry`` where nobody says more than ``auto``.

    ACR refuses some for good, and an image must not be held up by them; elsewhere all is copied as it is.
    """
    return Attestations.STRIP_REFUSED if is_acr(registry) else Attestations.KEEP
