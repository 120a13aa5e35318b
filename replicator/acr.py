"""What only Alibaba Cloud Container Registry (ACR) has.

Endpoints: ``registry[-vpc|-internal|-intl].<region>.aliyuncs.com`` (Personal), since 2024-09-09
``crpi-<id>[-vpc].<region>.personal.cr.aliyuncs.com``, and ``<name>-registry[-vpc].<region>.cr.aliyuncs.com``
(Enterprise).
"""

from __future__ import annotations

from replicator.options import Attestations

NAME_SEGMENTS = 2
"""Segments of a repository's name at ACR: namespace and repository, never more."""

LOGIN_HINT = (
    "; for ACR they are those of the Access Credential page, a RAM user's name has the form user@account-id, and the "
    "RAM user must have set a password there"
)
"""What an operator should know about ACR's logins."""


def is_acr(registry: str) -> bool:
    """Tell whether ``host[:port]`` is an ACR endpoint."""
    host = registry.rpartition(":")[0] if ":" in registry else registry
    return host.lower().endswith(".aliyuncs.com")


def automatic_attestations(registry: str) -> Attestations:
    """Return what becomes of attestations at ``registry`` where nobody says more than ``auto``.

    ACR refuses some for good, and an image must not be held up by them; elsewhere all is copied as it is.
    """
    return Attestations.STRIP_REFUSED if is_acr(registry) else Attestations.KEEP
