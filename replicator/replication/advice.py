"""Advice for operators: the likely cause of a refusal, the first step, and how to make a repository private."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from replicator.aliyun import acr
from replicator.aliyun.operations import AccountIncomplete, AccountRefused, NamespaceMissing, ram_action
from replicator.errors import ErrorText
from replicator.reference import Reference
from replicator.registry.errors import (
    AskedLoginOnHold,
    AskedLoginRefused,
    CertificateExpired,
    ConnectionFailed,
    Denied,
    DigestMismatch,
    LoginOnHold,
    LoginRefused,
    NotFound,
    NotYet,
    ProxyFailed,
    RegistryError,
    TooManyRequests,
    Unauthorized,
    WrongAddress,
    is_of_quantity,
    refuses_kind,
)

if TYPE_CHECKING:
    from replicator.errors import ReplicatorError
    from replicator.queue import Running
    from replicator.reference import Repository
    from replicator.rules import CopyRequest

_NO_PROJECT = "; or the project does not exist"
_NOT_SHOWN = "this account lacks repository:list, repository:pull or artifact:list; or the project does not exist"
_GATED = "the project's Configuration at Harbor withholds it; copies in the queue are tried again, at once after a scan"
_ACR_LOGIN = (
    "check the username and password under auth: ACR's are on its Access Credential page (user@account-id), "
    "not those of the console"
)


def public_copies(number: int) -> str:
    """Say that so many private images are public at their destination."""
    images = "1 image is" if number == 1 else f"{number:,} images are"
    return f"{images} private at the source, and anyone may pull {'it' if number == 1 else 'them'} at the destination"


def close_to_anyone(destination: str) -> str:
    """Say how a reference's repository becomes private that anyone may pull from, in the words of its console."""
    try:
        repository = Reference.parse(destination).repository
    except ValueError:  # the text is from Redis
        return "make it private"
    namespace, _, name = repository.name.partition("/")
    if not acr.is_acr(repository.registry):
        private = f"make {repository.name}, or its project, private at {repository.registry}"
    else:
        private = (
            f"in ACR's console set the type (仓库类型) of the repository {name} to private (私有), "
            f"and likewise the default type (默认仓库类型) of the namespace {namespace}, which new ones get"
        )
    return f"{private}; if everybody may have it, write public: allow in the rule"


def explained(error: ReplicatorError, destination: Reference | None = None) -> ErrorText:
    """Return the text of an error, with advice where there is any.

    Args:
        error: the error.
        destination: the destination of the copy that failed; a refusal by its registry is one of a push.
    """
    text = ErrorText.of(error)
    advice = _advice(error, destination) if isinstance(error, RegistryError) else ""
    return replace(text, do="; ".join(filter(None, (advice, text.do))))


def is_about(error: RegistryError, repository: Repository) -> bool:
    """Tell whether a request to a repository failed so."""
    return error.registry == repository.registry and f"/v2/{repository.name}/" in error.request


def may_lack_repository(error: RegistryError, repository: Repository) -> bool:
    """Tell whether a refused push may mean that ``repository`` does not exist.

    ACR answers "denied" to a push into a missing repository, and to many other pushes. So True is only a hint that
    creating the repository is worth an attempt.
    """
    if not is_about(error, repository) or error.written:
        return False
    if isinstance(error, NotFound):
        return "NAME_UNKNOWN" in error.codes
    refused = isinstance(error, Denied | Unauthorized) and not isinstance(error, LoginRefused)
    return refused and not refuses_kind(error) and not is_of_quantity(error.why)


def _advice(error: RegistryError, destination: Reference | None) -> str:
    if isinstance(error, LoginRefused | LoginOnHold):
        return _login_advice(error)
    if isinstance(error, ConnectionFailed):
        return _network_advice(error)
    if isinstance(error, NamespaceMissing):
        return "create the namespace in ACR's console, or set namespaces: true next to repositories under create"
    if isinstance(error, TooManyRequests) and "OpenAPI" in error.why:
        return "the OpenAPI allows about 15 requests a second for an account, shared by all programs that use it"
    if isinstance(error, TooManyRequests):
        return "if this happens often, run fewer copies at once (REPLICATOR_CONCURRENCY, --proc)"
    here = destination is not None and error.registry == destination.registry
    if isinstance(error, NotYet):
        return "" if here else _GATED
    if isinstance(error, NotFound) and not here and "/blobs/" not in error.request and not acr.is_acr(error.registry):
        return _missing_advice(error)
    if refuses_kind(error):
        return _kind_advice(error)
    if not isinstance(error, Denied | Unauthorized):
        return ""
    if acr.is_acr(error.registry) and (found := _ACCESS.search(error.why)):
        return _BILLS if found["bills"] else _ADDRESS
    if destination is not None and here:
        return _push_advice(error, destination)
    return _pull_advice(error)


def _pull_advice(error: Denied | Unauthorized) -> str:
    at_acr = acr.is_acr(error.registry)
    if isinstance(error, Denied) and not at_acr:
        return _NOT_SHOWN  # the login was accepted
    return (
        f"check the username and password under auth, and that it may pull and list here{'' if at_acr else _NO_PROJECT}"
    )


def _missing_advice(error: NotFound) -> str:
    if error.request.endswith(" /v2/"):
        return "no registry answers at this address: check the host, its port, and endpoint under auth"
    return "" if error.do else f"check the name, and that the login may see it{_NO_PROJECT}"


_ACCESS = re.compile(r"(?P<bills>overdue|arrear|欠费)|white ?list|source ip|access control list|白名单", re.IGNORECASE)
_BILLS = "pay the overdue bills of the Alibaba Cloud account"
_ADDRESS = "add this machine's public address to the access control of the instance's public endpoint, in ACR's console"
_LEAVE_OUT = "leave it out with types: [image] in the rule"
_KIND_ADVICE = {
    "signature": "the image is there without this signature; signatures: auto leaves out signatures that are refused",
    "sbom": "the image is there without this list of packages; signatures: auto leaves it out",
    "cache": f"only builds use a BuildKit cache, and near their registry: {_LEAVE_OUT}",
    "model": "it takes no models: leave them out with types: [image] in the rule, and serve them from Harbor",
    "soci": f"a SOCI index only speeds up the first start: {_LEAVE_OUT}",
}
_STRIP = "leave it out with attestations: strip, and no types: all, in the rule"
_PART_ADVICE = {
    "attestation": "leave them out with attestations: strip in the rule; or build with --provenance=false --sbom=false",
    "soci": f"a SOCI index only speeds up the first start: {_STRIP}",
}
"""Advice on a kind in the index of an image, which the rule's types don't leave out."""
_CHARTS = {
    True: "ACR's documents say that it takes charts: ask its support; or leave them out with types: [image]",
    False: "it takes no Helm charts: leave them out with types: [image] in the rule, and serve them from Harbor",
}


def _kind_advice(error: RegistryError) -> str:
    """Advise on a kind of artifact that a registry refuses; only ACR's refusals are known in advance."""
    if error.is_part:
        return _PART_ADVICE.get(error.kind, f"it does not take this part of the image's index: {_STRIP}")
    if error.kind == "chart":
        return _CHARTS[acr.is_acr(error.registry)]
    return _KIND_ADVICE.get(error.kind, f"it takes no artifacts of this kind: {_LEAVE_OUT}")


def _login_advice(error: LoginRefused | LoginOnHold) -> str:
    if isinstance(error, AccountIncomplete):
        return ""  # it says itself what to add
    # An account or a credential helper supplied this login: there is no password under auth that could be wrong.
    supplied = isinstance(error, AccountRefused | AskedLoginRefused | AskedLoginOnHold)
    if "USER_NOT_EXIST" in error.why and supplied:
        opens = "open its console once as the account under aliyun: this account has never set up Container Registry"
        return f"{opens}; or correct region and instance_id"
    if "USER_NOT_EXIST" in error.why:
        return "open the console once as this RAM user, who has never set up Container Registry, and set a password"
    if isinstance(error, AccountRefused):
        allowed = ram_action(error.request)
        return f"check the account under aliyun: its access key or role, RAM policy ({allowed}), region and instance_id"
    if supplied:
        if not acr.is_acr(error.registry):
            return f"check the login of {error.registry} in Docker's credential helper or config file"
        return "check the account under aliyun, region and instance_id; or the login in Docker's credential helper"
    if acr.is_acr(error.registry):
        return _ACR_LOGIN
    return "check the username and password under auth, and that a robot account has not expired"


def _network_advice(error: ConnectionFailed) -> str:
    """Name the public address of an ACR whose address in its VPC can't be resolved or does not answer."""
    unreachable = isinstance(error, WrongAddress) or (
        error.silent and not isinstance(error, CertificateExpired | ProxyFailed)
    )
    public = acr.public_host(error.registry) if unreachable else None
    # A token server or storage that the registry leads to has another name.
    if public is None or error.registry.partition(":")[0] not in error.why:
        return ""
    enterprise = acr.edition_of(error.registry) is acr.Edition.ENTERPRISE
    enabled = ", and enable access over the internet (公网访问) there" if enterprise else ""
    return f"this address answers inside Alibaba Cloud only: from elsewhere use {public}{enabled}"


def _push_advice(error: RegistryError, destination: Reference) -> str:
    namespace = destination.repository.name.partition("/")[0]
    segments = destination.repository.name.count("/") + 1
    at_acr = acr.is_acr(error.registry)
    if error.written and not is_of_quantity(error.why):
        return "it accepted the rest of the image, so login and repository are right: look for a rule about tags there"
    if at_acr and segments != acr.NAME_SEGMENTS:
        wrong = f"ACR's names are exactly namespace/name, not {segments} segment{'s' if segments > 1 else ''}"
        if segments < acr.NAME_SEGMENTS:
            return f"{wrong}: put a namespace in front of it in the rule's destination"
        return f"{wrong}: use {{flat}} in the rule's destination"
    if problem := acr.name_problem(destination.repository):
        return f"{problem}: choose another name"
    personal = acr.edition_of(error.registry) is acr.Edition.PERSONAL
    if is_of_quantity(error.why):
        quota = " (Personal Edition: 3 namespaces, 300 repositories)" if personal else ""
        return f"a quota is used up{quota}: make room, or raise the quota"
    # The registry says "denied" for all of these, and docs/operations.md more. The most frequent cause comes first.
    unknown = isinstance(error, Unauthorized) and not at_acr
    checks = [
        *(["the login"] if unknown else []),
        "permission to push",
        f"{'namespace' if at_acr else 'project or namespace'} {namespace!r}",
        "Automatically Create Repository",
        *([f"names of {segments} segments"] if segments > acr.NAME_SEGMENTS else []),
        f"quota{' (300 repositories)' if personal else ''}",
    ]
    return f"check in this order: {', '.join(checks)}"


SETTLING_SECONDS = 600.0
"""Age of a push up to which a layer that its source lacks, or serves with other bytes, may still be on its way."""


def settling(request: CopyRequest, running: Running, cause: BaseException | None) -> float | None:
    """Return the age of a push whose image its source does not serve whole yet; None for any other failure.

    Harbor's caches may have a layer as empty or missing for seconds after its push.
    """
    # Imported here: a copy by hand needs no queue.
    from replicator.queue import Lane

    source = request.source.repository
    if not isinstance(cause, NotFound | DigestMismatch) or cause.registry != source.registry:
        return None
    pushed = running.pushed or (running.enqueued_at if running.lane is Lane.EVENTS else None)
    if pushed is None or f"/v2/{source.name}/" not in cause.request:
        return None
    # Harbor's clock may be ahead of this one.
    age = max(0.0, (datetime.now(UTC) - pushed).total_seconds())
    return age if age < SETTLING_SECONDS else None
