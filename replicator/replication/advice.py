"""What a registry's refusal most likely means, and what to do about it, in words for an operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replicator.aliyun import acr
from replicator.aliyun.errors import AccountRefused, NamespaceMissing
from replicator.aliyun.operations import ram_action
from replicator.registry.errors import (
    AskedLoginRefused,
    Denied,
    LoginRefused,
    NotFound,
    RegistryError,
    TooManyRequests,
    Unauthorized,
)

if TYPE_CHECKING:
    from replicator.errors import ReplicatorError
    from replicator.reference import Reference, Repository

_NOT_AN_IMAGE = "unknown manifest class"
"""What ACR, and a distribution registry that takes images only, says of a manifest that is none of an image."""


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


def may_lack_repository(error: RegistryError, repository: Repository) -> bool:
    """Tell whether a refusal may mean that ``repository`` is not there to be pushed to; it can mean much else."""
    if error.registry != repository.registry or f"/v2/{repository.name}/" not in error.request:
        return False
    if isinstance(error, NotFound):
        return "NAME_UNKNOWN" in error.codes
    refused = isinstance(error, Denied | Unauthorized) and not isinstance(error, LoginRefused)
    return refused and _NOT_AN_IMAGE not in error.why and not acr.is_of_quantity(error.why)


def _advice(error: RegistryError, destination: Reference | None) -> str:
    if isinstance(error, LoginRefused):
        return _login_advice(error)
    if isinstance(error, NamespaceMissing):
        return "create the namespace at ACR, or allow it with namespaces: true beside repositories under create"
    if isinstance(error, TooManyRequests) and "OpenAPI" in error.why:
        return "it takes about 15 requests a second; other programs with this account count too"
    if isinstance(error, TooManyRequests):
        return "fewer copies at once (REPLICATOR_CONCURRENCY, --proc) may help"
    if not isinstance(error, Denied | Unauthorized):
        return ""
    if _NOT_AN_IMAGE in error.why:
        return (
            "it takes only images: a manifest with any other config (an attestation, a signature, a chart) is refused "
            "for good; attestations: strip in the rule (--attestations strip) leaves attestations out"
        )
    if destination is not None and error.registry == destination.registry:
        return _push_advice(error, destination)
    return (
        f"check username and password of {error.registry} under auth, whether its robot account has expired, and "
        "whether it may pull and list here"
    )


def _login_advice(error: LoginRefused) -> str:
    asked = isinstance(error, AccountRefused | AskedLoginRefused)
    if "USER_NOT_EXIST" in error.why and asked:
        return (
            "the RAM user or role of the account under aliyun has never set up Container Registry: open its console "
            "once as this user, in the registry's region; then check region and instance_id"
        )
    if "USER_NOT_EXIST" in error.why:
        return (
            "this RAM user has never set up Container Registry: open its console once as this user, in the registry's "
            "region, and set a password on the Access Credential page; then check that the username under auth is "
            "user@account-id"
        )
    if isinstance(error, AccountRefused):
        return (
            "check the account under aliyun: its access key or role, whether its RAM policy allows "
            f"{ram_action(error.request)}, and region and instance_id"
        )
    if isinstance(error, AskedLoginRefused):
        if not acr.is_acr(error.registry):
            return f"check the login of {error.registry} where it is asked for: in Docker's helper or file"
        return (
            "the login was asked for and is refused all the same: check that the account under aliyun is the one that "
            "the registry belongs to, and region and instance_id; or the login in Docker's helper, if it is from there"
        )
    hint = acr.LOGIN_HINT if acr.is_acr(error.registry) else ""
    return f"check username and password of {error.registry} under auth{hint}"


def _push_advice(error: RegistryError, destination: Reference) -> str:
    namespace = destination.repository.name.partition("/")[0]
    segments = destination.repository.name.count("/") + 1
    at_acr = acr.is_acr(error.registry)
    if at_acr and segments != acr.NAME_SEGMENTS:
        return (
            f"a repository at ACR is exactly namespace/name, not {segments} segment{'s' if segments > 1 else ''}; "
            "{flat} in the rule's destination makes one segment of a nested name"
        )
    endpoint = acr.endpoint_of(error.registry) if at_acr else None
    quota = "a quota is used up"
    if endpoint is not None and endpoint.edition is acr.Edition.PERSONAL:
        quota += " (the Personal Edition has 3 namespaces and 300 repositories)"
    if acr.is_of_quantity(error.why):
        return f"{quota}: delete what is not needed, or have the quota raised"
    missing = (
        "the repository does not exist and the namespace does not create repositories by itself (Automatically Create "
        f"Repository{'; or create under aliyun in the rules' if at_acr else ''})"
    )
    causes = [
        "the login may not push here",
        f"the namespace {namespace!r} does not exist",
        missing,
        *([] if at_acr else ["the name has more segments than namespace/repository"]),
        quota,
    ]
    return f"for a push this can mean: {'; '.join(causes)}"
