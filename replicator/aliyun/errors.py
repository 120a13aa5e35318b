"""The errors of Alibaba Cloud's OpenAPI, by what its refusals mean.

    replicator.registry.errors.LoginRefused
    └── AccountRefused              the account may not do this, or there is none               credentials
    replicator.registry.errors.Refused
    ├── AlreadyThere                the repository or namespace exists already                  permanent
    └── NamespaceMissing            the namespace does not exist and may not be created         permanent

All other refusals are errors of `replicator.registry.errors`.
"""

from __future__ import annotations

import re

from replicator.aliyun.acr import is_of_quantity
from replicator.aliyun.operations import GET_AUTHORIZATION_TOKEN
from replicator.registry.errors import (
    ConnectionFailed,
    Denied,
    LoginRefused,
    Refused,
    RegistryError,
    ServerFailed,
    TooManyRequests,
)

_OF_ACCOUNT = re.compile(
    r"NoPermission|NoPrivilege|Forbidden|Unauthorized|AccessKey|Signature|SecurityToken|USER_NOT_EXIST", re.IGNORECASE
)
"""Codes that are about who asks, whatever the status; RAM's and those of signing."""
_THERE = re.compile(r"(?<!NOT_)(?<!NOT)EXIST", re.IGNORECASE)
"""Codes that say that something is there already; which they are is not documented."""


class AccountRefused(LoginRefused):
    """The OpenAPI refuses this account, or there is no account to ask on behalf of."""


class AlreadyThere(Refused):
    """What was to be created is there."""


class NamespaceMissing(Refused):
    """The namespace is not there, and nobody said that it may be created."""


def from_openapi(registry: str, action: str, error: Exception, secrets: tuple[str, ...]) -> RegistryError:
    """Return what an exception of Alibaba Cloud's libraries means.

    Args:
        registry: the host the rules name.
        action: the operation that was asked for.
        error: what was raised; its ``code``, ``message`` and ``status_code`` count.
        secrets: what must not be quoted: a refused signature is answered with all that was signed.
    """
    code = str(getattr(error, "code", None) or "")
    status = getattr(error, "status_code", None) or getattr(error, "statusCode", None)
    words = str(getattr(error, "message", None) or error)
    for secret in filter(None, secrets):
        words = words.replace(secret, "…")
    retry_after = getattr(error, "retry_after", None)
    # Of x-acs-retry-after, in milliseconds.
    wait = retry_after / 1000 if isinstance(retry_after, int) else None
    if isinstance(status, int) or code.startswith("Throttling"):
        return refusal(registry, action, code, words, status=status, retry_after=wait)
    if type(error).__name__ == "CredentialException":
        return AccountRefused(f"no account at Alibaba Cloud was found: {words}").at(registry, action)
    return ConnectionFailed(f"no answer from the OpenAPI: {words}").at(registry, action)


def refusal(
    registry: str,
    action: str,
    code: str,
    words: str,
    *,
    status: int | None = None,
    retry_after: float | None = None,
) -> RegistryError:
    """Return what a refusal means.

    Args:
        registry: the host the rules name.
        action: the operation that was asked for.
        code: what the OpenAPI calls it.
        words: what it says of it.
        status: the HTTP status; None for a refusal under 200.
        retry_after: seconds that it wants peace for.
    """
    detail = f"the OpenAPI says: {code}: {words}" if code and words else f"the OpenAPI says: {code or words}"
    if code.startswith("Throttling") or status == 429:
        return TooManyRequests(detail, retry_after=retry_after).at(registry, action)
    if status is not None and status >= 500:
        return ServerFailed(detail).at(registry, action)
    if action == GET_AUTHORIZATION_TOKEN or _OF_ACCOUNT.search(code):
        return AccountRefused(detail).at(registry, action)
    if _THERE.search(code) or status == 409:
        return AlreadyThere(detail).at(registry, action)
    if is_of_quantity(detail):
        return Denied(detail).at(registry, action)
    return (AccountRefused if status in (401, 403) else Refused)(detail).at(registry, action)
