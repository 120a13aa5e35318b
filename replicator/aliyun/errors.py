"""Refusals of Alibaba Cloud's OpenAPI.

    replicator.registry.errors.LoginRefused
    └── AccountRefused              there is no account, it is wrong or lacks a permission      credentials
        └── AccountIncomplete       libraries, region or instance id are missing here           credentials
    replicator.registry.errors.Refused
    ├── AlreadyThere                the repository or namespace to create exists                permanent
    └── NamespaceMissing            the namespace does not exist and may not be created         permanent

All other refusals are errors of `replicator.registry.errors`, and callers treat them like those of a registry. The
codes of the OpenAPI are documented only in part. So `refusal` recognises them by pattern, and falls back to the HTTP
status.
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

_ABOUT_ACCOUNT = re.compile(
    r"NoPermission|NoPrivilege|Forbidden|Unauthorized|AccessKey|Signature|SecurityToken|USER_NOT_EXIST", re.IGNORECASE
)
"""Codes about the account, whatever the status: those of RAM and of the signature."""
_EXISTS = re.compile(r"(?<!NOT_)(?<!NOT)EXIST", re.IGNORECASE)
"""Codes for something that exists already; which ones there are is not documented."""


class AccountRefused(LoginRefused):
    """The OpenAPI refuses the account, or no account was found."""


class AccountIncomplete(AccountRefused):
    """Without the libraries, a region and, for an Enterprise instance, its id there can be no request.

    The message says what to add.
    """


class AlreadyThere(Refused):
    """The repository or namespace to create exists."""


class NamespaceMissing(Refused):
    """The namespace does not exist, and the rules do not allow creating it."""


def from_openapi(registry: str, action: str, error: Exception, secrets: tuple[str, ...]) -> RegistryError:
    """Translate an exception of Alibaba Cloud's libraries.

    Args:
        registry: the host the rules name.
        action: the operation, e.g. ``CreateRepo``.
        error: anything the libraries raise; its ``code``, ``message``, ``status_code`` and ``retry_after`` are read.
        secrets: values to blank out: the answer to a wrong signature quotes everything that was signed.
    """
    code = str(getattr(error, "code", None) or "")
    status = getattr(error, "status_code", None) or getattr(error, "statusCode", None)
    words = str(getattr(error, "message", None) or error)
    for secret in filter(None, secrets):
        words = words.replace(secret, "…")
    milliseconds = getattr(error, "retry_after", None)  # the header x-acs-retry-after
    retry_after = milliseconds / 1000 if isinstance(milliseconds, int) else None
    if isinstance(status, int) or code.startswith("Throttling"):
        return refusal(registry, action, code, words, status=status, retry_after=retry_after)
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
    """Build the error for a refusal.

    Args:
        registry: the host the rules name.
        action: the operation, e.g. ``CreateRepo``.
        code: the OpenAPI's code, e.g. ``NAMESPACE_NOT_EXIST``; may be empty.
        words: its message.
        status: the HTTP status; None for a refusal in an answer of status 200.
        retry_after: seconds.
    """
    why = f"the OpenAPI says: {code}: {words}" if code and words else f"the OpenAPI says: {code or words}"
    if code.startswith("Throttling") or status == 429:
        return TooManyRequests(why, retry_after=retry_after).at(registry, action)
    if status is not None and status >= 500:
        return ServerFailed(why).at(registry, action)
    # Nothing but the account can be wrong about a request for a login: it has no other parameter of ours.
    if action == GET_AUTHORIZATION_TOKEN or _ABOUT_ACCOUNT.search(code):
        return AccountRefused(why).at(registry, action)
    if _EXISTS.search(code) or status == 409:
        return AlreadyThere(why).at(registry, action)
    if is_of_quantity(why):
        return Denied(why).at(registry, action)
    return (AccountRefused if status in (401, 403) else Refused)(why).at(registry, action)
