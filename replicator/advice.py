"""What a registry's refusal most likely means, and what to do about it, in words for an operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replicator import acr
from replicator.registry.errors import Denied, LoginRefused, RegistryError, TooManyRequests, Unauthorized

if TYPE_CHECKING:
    from replicator.errors import ReplicatorError
    from replicator.reference import Reference


def explained(error: ReplicatorError, destination: Reference | None = None) -> str:
    """Return an error's own words, followed by advice where there is any.

    Args:
        error: what went wrong.
        destination: where the copy was to go, if it was one; a refusal there is one of a push.
    """
    if not isinstance(error, RegistryError):
        return str(error)
    advice = _advice(error, destination)
    return f"{error}; {advice}" if advice else str(error)


def _advice(error: RegistryError, destination: Reference | None) -> str:
    if isinstance(error, LoginRefused):
        hint = acr.LOGIN_HINT if acr.is_acr(error.registry) else ""
        return f"check username and password of {error.registry} under auth{hint}"
    if isinstance(error, TooManyRequests):
        return "fewer copies at once (REPLICATOR_CONCURRENCY, --proc) may help"
    if not isinstance(error, Denied | Unauthorized):
        return ""
    if "unknown manifest class" in error.detail:
        return (
            "it takes only images: a manifest with any other config (an attestation, a signature, a chart) is refused "
            "for good; attestations: strip in the rule (--attestations strip) leaves attestations out"
        )
    if destination is not None and error.registry == destination.registry:
        namespace = destination.repository.name.partition("/")[0]
        return (
            f"for a push this can mean: the login may not push here; the namespace {namespace!r} does not exist; the "
            "repository does not exist and the namespace does not create repositories by itself (Automatically Create "
            "Repository); the name has more segments than namespace/repository; a quota is used up"
        )
    return (
        f"check username and password of {error.registry} under auth, whether its robot account has expired, and "
        "whether it may pull and list here"
    )
