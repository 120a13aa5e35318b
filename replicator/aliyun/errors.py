"""What the OpenAPI's refusals mean."""

from __future__ import annotations

from replicator.registry.errors import ConnectionFailed, LoginRefused, RegistryError, ServerFailed, TooManyRequests

REQUEST = "GetAuthorizationToken"


class AccountRefused(LoginRefused):
    """The OpenAPI gives this account no login, or there is no account to ask on behalf of."""


def from_openapi(registry: str, error: Exception, secrets: tuple[str, ...]) -> RegistryError:
    """Return what an exception of Alibaba Cloud's libraries means.

    Args:
        registry: the host the rules name.
        error: what was raised; its ``code``, ``message`` and ``status_code`` count.
        secrets: what must not be quoted: a refused signature is answered with all that was signed.
    """
    code = str(getattr(error, "code", None) or "")
    status = getattr(error, "status_code", None) or getattr(error, "statusCode", None)
    words = str(getattr(error, "message", None) or error)
    for secret in filter(None, secrets):
        words = words.replace(secret, "…")
    said = f"{code}: {words}" if code else words
    detail = f"the OpenAPI says: {said}"
    retry_after = getattr(error, "retry_after", None)
    # Of x-acs-retry-after, in milliseconds.
    wait = retry_after / 1000 if isinstance(retry_after, int) else None
    if code.startswith("Throttling") or status == 429:
        return TooManyRequests(registry, REQUEST, detail, retry_after=wait)
    if isinstance(status, int):
        return ServerFailed(registry, REQUEST, detail) if status >= 500 else AccountRefused(registry, REQUEST, detail)
    if type(error).__name__ == "CredentialException":
        return AccountRefused(registry, REQUEST, f"no account at Alibaba Cloud was found: {words}")
    return ConnectionFailed(registry, REQUEST, f"no answer from the OpenAPI: {words}")
