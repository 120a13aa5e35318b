"""What only Alibaba Cloud Container Registry (ACR) has: its hosts, and what its refusals can mean.

Endpoints: ``registry[-vpc|-internal|-intl].<region>.aliyuncs.com`` (Personal), since 2024-09-09
``crpi-<id>[-vpc].<region>.personal.cr.aliyuncs.com``, and ``<name>-registry[-vpc].<region>.cr.aliyuncs.com``
(Enterprise).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replicator.registry.errors import Denied, LoginRefused, RegistryError, TooManyRequests, Unauthorized

if TYPE_CHECKING:
    from replicator.reference import Reference


def is_acr(registry: str) -> bool:
    """Tell whether ``host[:port]`` is an ACR endpoint."""
    host = registry.rpartition(":")[0] if ":" in registry else registry
    return host.lower().endswith(".aliyuncs.com")


def advice(error: RegistryError, destination: Reference) -> str:
    """Say what a refusal by the destination most likely means and what to do, the likeliest cause first.

    The words fit any registry; what only ACR does is said of ACR only.

    Args:
        error: what went wrong in a copy.
        destination: where it went.

    Returns:
        A sentence or two to follow the error's own words; empty where they say it all or the source refused.
    """
    if error.registry != destination.registry:
        return ""
    namespace = destination.repository.name.partition("/")[0]
    if "unknown manifest class" in error.detail:
        return (
            "it takes only images: a manifest with any other config (an attestation, a signature, a chart) is refused "
            "for good"
        )
    if isinstance(error, LoginRefused):
        hint = (
            "; for ACR they are those of the Access Credential page, a RAM user's name has the form "
            "user@account-id, and the RAM user must have set a password there"
            if is_acr(destination.registry)
            else ""
        )
        return f"check username and password of {destination.registry} under auth{hint}"
    if isinstance(error, Denied | Unauthorized):
        return (
            f"for a push this can mean: the login may not push here; the namespace {namespace!r} does not exist; the "
            "repository does not exist and the namespace does not create repositories by itself (Automatically Create "
            "Repository); the name has more segments than namespace/repository; a quota is used up"
        )
    if isinstance(error, TooManyRequests):
        return "fewer copies at once (REPLICATOR_CONCURRENCY) may help"
    return ""
