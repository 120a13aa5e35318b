"""What a registry can answer instead of what was asked for.

    RegistryError                   base: which registry, which request, its own words
    ├── ConnectionFailed            no answer: DNS, refused, reset, closed, too slow            transient
    │   └── NoTls                   who answers does not speak TLS                              permanent
    ├── CertificateRefused          the server's certificate is not trusted                     permanent
    ├── ServerFailed                5xx                                                         transient
    ├── TooManyRequests             429                                                         transient
    ├── Unauthorized                401 although freshly logged in                              credentials
    │   └── LoginRefused            the token endpoint refused name and password                credentials
    │       └── AskedLoginRefused   the same, of a login that was asked for                     credentials
    ├── LoginUnavailable            who was asked for the login does not answer                 transient
    │   └── LoginMissing            who was asked for the login does not have it                credentials
    ├── Denied                      403                                                         permanent
    ├── NotFound                    404: repository, manifest or blob                           permanent
    ├── NotYet                      412: a policy of the source does not let the image go yet   not yet
    ├── ManifestIncomplete          a manifest was refused because something it names is missing  transient
    ├── UploadLost                  the upload session is gone or out of step                   transient
    ├── Refused                     any other 4xx                                               permanent
    ├── ProtocolViolated            an answer that the specification does not allow             permanent
    ├── DigestMismatch              bytes that do not hash to the digest they were asked by     permanent
    └── UnsupportedManifest         a manifest of a type that is not copied                     permanent

Error codes are those of the OCI distribution specification 1.1, "Error Codes".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from replicator.errors import ErrorClass, ReplicatorError

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_QUOTED = 300
_MAX_WORDS = 1000


class RegistryError(ReplicatorError):
    """A registry refused, failed or lied.

    Attributes:
        registry: the host the rules name.
        request: method and path, e.g. ``HEAD /v2/library/nginx/manifests/1.27``; never with a query.
        detail: what happened, with the registry's own words quoted.
        status: the HTTP status, if there was an answer.
        codes: the error codes in the answer, e.g. ``("MANIFEST_UNKNOWN",)``.
    """

    def __init__(
        self,
        registry: str,
        request: str,
        detail: str,
        *,
        status: int | None = None,
        codes: tuple[str, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        self.registry = registry
        # Both may hold what came in a header or a Location.
        self.request = _one_line(request, _MAX_WORDS)
        self.detail = _one_line(detail, _MAX_WORDS)
        self.status = status
        self.codes = codes
        self.retry_after = retry_after
        super().__init__(f"{registry}: {self.request}", self.detail)

    def again(self, also: str = "") -> Self:
        """Return the same error, for one more who meets it.

        Args:
            also: what is added to its detail.
        """
        return type(self)(
            self.registry,
            self.request,
            self.detail + also,
            status=self.status,
            codes=self.codes,
            retry_after=self.retry_after,
        )


class ConnectionFailed(RegistryError):
    """No answer, or half of one: name not resolved, refused, reset, closed early, or too slow."""

    error_class: ErrorClass = ErrorClass.TRANSIENT


class NoTls(ConnectionFailed):
    """Who answers does not speak TLS, and plain HTTP is not allowed: it is the same the next time."""

    error_class: ErrorClass = ErrorClass.PERMANENT


class CertificateRefused(RegistryError):
    """The server's TLS certificate is not trusted for this host."""


class ServerFailed(RegistryError):
    """The registry answered 5xx."""

    error_class: ErrorClass = ErrorClass.TRANSIENT


class StorageRefused(RegistryError):
    """Whoever the registry redirects to refused the link, 401 or 403: it has run out, or its clock is wrong.

    The login has no part in it, and each try gets a link of its own.
    """

    error_class: ErrorClass = ErrorClass.TRANSIENT


class TooManyRequests(RegistryError):
    """The registry answered 429; ``retry_after`` says how long it wants peace."""

    error_class: ErrorClass = ErrorClass.TRANSIENT


class Unauthorized(RegistryError):
    """A fresh login is not enough for what was asked."""

    error_class: ErrorClass = ErrorClass.CREDENTIALS


class LoginRefused(Unauthorized):
    """The token endpoint refused the name and the password."""


class AskedLoginRefused(LoginRefused):
    """The token endpoint refused a login that was asked for when it was needed (`Access.logins`)."""


class LoginUnavailable(RegistryError):
    """Who was asked for name and password, e.g. a credential helper, failed or did not answer."""

    error_class: ErrorClass = ErrorClass.TRANSIENT


class LoginMissing(LoginUnavailable):
    """Who was asked for name and password does not have them: it is the same the next time."""

    error_class: ErrorClass = ErrorClass.CREDENTIALS


class Denied(RegistryError):
    """The registry answered 403: it knows who asks and says no."""


class NotFound(RegistryError):
    """The registry answered 404: the repository, the manifest or the blob is not there."""


class NotYet(RegistryError):
    """The registry answered 412: Harbor's scan or signature gate has not been passed yet."""

    error_class: ErrorClass = ErrorClass.NOT_YET


class ManifestIncomplete(RegistryError):
    """A manifest was not taken because a blob or manifest it names is missing in the repository."""

    error_class: ErrorClass = ErrorClass.TRANSIENT


class UploadLost(RegistryError):
    """An upload session is gone (404) or out of step (416): a new one is needed."""

    error_class: ErrorClass = ErrorClass.TRANSIENT


class Refused(RegistryError):
    """Any other 4xx: the request itself is not accepted."""


class ProtocolViolated(RegistryError):
    """An answer that breaks the specification: no Location, a redirect of a write, a wrong digest."""


class DigestMismatch(RegistryError):
    """Bytes that do not hash to, or are not as long as, the descriptor they were asked by."""


class UnsupportedManifest(RegistryError):
    """A manifest of a media type that can't be copied faithfully, e.g. Docker schema 1."""


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """What an error answer says of itself."""

    codes: tuple[str, ...]
    message: str

    MISSING: ClassVar[frozenset[str]] = frozenset({"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN"})


def said(body: bytes) -> ErrorBody:
    """Read an error body (specification, "Error Codes"); anything else is quoted, shortened, as text."""
    try:
        errors = json.loads(body)["errors"]
        codes = tuple(str(error.get("code", "")) for error in errors)
        words = "; ".join(filter(None, (_words(error) for error in errors)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ErrorBody((), _one_line(body.decode("utf-8", "replace"), _MAX_QUOTED))
    return ErrorBody(codes, _one_line(words, _MAX_QUOTED))


def _words(error: Mapping[str, object]) -> str:
    code, message, detail = error.get("code", ""), error.get("message", ""), error.get("detail")
    text = f"{code}: {message}" if message else str(code)
    return f"{text} ({json.dumps(detail)})" if detail else text


def _one_line(text: str, limit: int) -> str:
    """One printable line of bounded length: an answer must not be able to write into a log or a terminal."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def from_answer(
    registry: str,
    request: str,
    status: int,
    body: bytes,
    *,
    retry_after: float | None = None,
) -> RegistryError:
    """Build the error that an unwanted answer means.

    Args:
        registry: the host the rules name.
        request: method and path.
        status: the HTTP status.
        body: the start of the answer's body.
        retry_after: seconds from the answer's Retry-After.
    """
    what = said(body)
    detail = f"{status}" + (f", the registry says: {what.message}" if what.message else "")
    if status == 413:
        detail += ": larger than the registry, or a proxy in front of it, takes; only its limit can be raised"
    kind: type[RegistryError]
    if status == 401:
        kind = Unauthorized
    elif status == 403:
        kind = Denied
    elif status == 412:
        kind = NotYet
    elif status == 429 or "TOOMANYREQUESTS" in what.codes:
        kind = TooManyRequests
    elif "MANIFEST_BLOB_UNKNOWN" in what.codes or (status == 400 and ErrorBody.MISSING.intersection(what.codes)):
        kind = ManifestIncomplete
    elif status == 404:
        kind = NotFound
    elif status >= 500 or status == 408:
        kind = ServerFailed
    elif status < 400:
        kind = ProtocolViolated
    else:
        kind = Refused
    return kind(registry, request, detail, status=status, codes=what.codes, retry_after=retry_after)
