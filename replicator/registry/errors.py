"""The errors of a registry client, by the answer that came instead of the requested one.

    RegistryError                   base: registry, request, the registry's own words           permanent
    ├── ConnectionFailed            no answer: DNS, refused, reset, closed, too slow            transient
    │   ├── HostSilent              not asked: it has not answered for a while                  transient
    │   ├── WrongAddress            no such host, or no TLS with it                         transient
    │   ├── CertificateExpired      the server's certificate has expired                        transient
    │   ├── NoTls                   the server does not speak TLS                               permanent
    │   └── ProxyFailed             the proxy refuses, or can't be reached                      transient
    ├── CertificateRefused          the server's certificate is not trusted                     permanent
    ├── ServerFailed                5xx, 408                                                    transient
    ├── StorageRefused              401 or 403 of the storage that the registry redirects to    transient
    ├── TooManyRequests             429                                                         transient
    ├── Unauthorized                401 with a fresh login                                      credentials
    │   └── LoginRefused            the token endpoint refused the login                        credentials
    │       └── AskedLoginRefused   the same, for a login from a credential helper or an API    credentials
    ├── LoginOnHold                 a refused login, until it is sent again                     transient
    │   └── AskedLoginOnHold        the same, for a login from a credential helper or an API    transient
    ├── LoginUnavailable            the source of the login failed                              transient
    │   └── LoginMissing            the source of the login does not have it                    credentials
    ├── Denied                      403, and 401 to a login that is known                       permanent
    ├── ReadOnlyMode                403: the registry takes no writes for now                   transient
    ├── ForeignAnswer               a page or a text of something in front of the registry          transient
    ├── NotFound                    404: repository, manifest or blob                           permanent
    ├── NotYet                      412 to a read: a policy does not release the image yet      not yet
    ├── ManifestIncomplete          the destination lacks something that a manifest names       transient
    ├── UploadLost                  the upload session is gone or out of step                   transient
    ├── Refused                     any other 4xx                                               permanent
    │   └── TagImmutable            the tag names another image, and can't be moved             permanent
    ├── ProtocolViolated            an answer that the specification does not allow             permanent
    ├── DigestMismatch              bytes that do not hash to the digest they were requested by permanent
    └── UnsupportedManifest         a manifest of a type that is not copied                     permanent

Error codes are those of the OCI distribution specification 1.1, "Error Codes".

A body that no registry writes is a `ForeignAnswer`: it comes from a proxy or firewall, so it decides nothing for good.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

from replicator.errors import LONG_SECRET, SENT_LOGINS, ErrorClass, ReplicatorError, bounded_line

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType

_MAX_WORDS = 1000


@dataclass(frozen=True, slots=True)
class Cut:
    """How far an upload came until it was cut off: bytes sent, and seconds since it began."""

    sent: int
    seconds: float


class RegistryError(ReplicatorError):
    """A registry refused, failed or broke the protocol.

    Where it happened is filled in by `request_context`, or by `at`.

    Attributes:
        registry: the host the rules name.
        request: method and path, e.g. ``HEAD /v2/library/nginx/manifests/1.27``; never with a query.
        status: the HTTP status, if there was an answer.
        codes: the error codes in the answer, e.g. ``("MANIFEST_UNKNOWN",)``.
        cut: how far the upload came that the error ended; None if it ended none.
        kind: the kind of the manifest that was refused, if it was refused for that (`refuses_kind`); else empty.
        is_part: whether that manifest is a part of an index that is copied, and not what the tag names.
        written: whether the repository had taken a part of the same image before, so it exists and the login may push.
    """

    def __init__(
        self,
        why: str,
        do: str = "",
        *,
        status: int | None = None,
        codes: tuple[str, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(why=one_line(why, _MAX_WORDS), do=one_line(do, _MAX_WORDS))
        self.registry = ""
        self.request = ""
        self.status = status
        self.codes = codes
        self.retry_after = retry_after
        self.cut: Cut | None = None
        self.kind = ""
        self.is_part = False
        self.written = False

    def at(self, registry: str = "", request: str = "") -> Self:
        """Fill in the registry and the request, unless they are known already, and return the error itself."""
        self.registry = self.registry or registry
        # A path may come from a Location, so it is no more trusted than a body.
        self.request = self.request or one_line(request, _MAX_WORDS)
        self.what = ": ".join(filter(None, (self.registry, self.request)))
        return self

    def recast(self, kind: type[_Kind], also: str = "") -> _Kind:
        """Return an error of another class with the same facts.

        Args:
            kind: the other class.
            also: is appended to ``why``.
        """
        error = kind(self.why + also, self.do, status=self.status, codes=self.codes, retry_after=self.retry_after)
        error.cut, error.written = self.cut, self.written
        error.kind, error.is_part = self.kind, self.is_part
        error.wait, error.login, error.costly = self.wait, self.login, self.costly
        return error.at(self.registry, self.request)

    def again(self, also: str = "") -> Self:
        """Return a copy to raise for another caller, whose traceback is not that of the first; see `recast`."""
        return self.recast(type(self), also)


_Kind = TypeVar("_Kind", bound=RegistryError)


class _RequestContext:
    """See `request_context`; a class, as each request takes a few, and a generator costs three times as much."""

    __slots__ = ("_registry", "_request")

    def __init__(self, registry: str, request: object) -> None:
        self._registry = registry
        self._request = request

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, RegistryError):
            error.at(self._registry, str(self._request))


def request_context(registry: str, request: object) -> AbstractContextManager[None]:
    """Fill in where a `RegistryError` that is raised in this block happened; the innermost block wins.

    Args:
        registry: the host the rules name.
        request: as text it is method and path, without the query, which may hold a signature. Only a failure needs the
            text.
    """
    return _RequestContext(registry, request)


class ConnectionFailed(RegistryError):
    """No answer, or half of one: name not resolved, refused, reset, closed early, or too slow.

    Attributes:
        silent: there was no sign of life: no connection, or no byte in time.
        refused: the connection was refused, which counts as silence, but costs no time.
    """

    error_class: ErrorClass = ErrorClass.TRANSIENT
    silent: bool = False
    refused: bool = False


def may_land_late(error: RegistryError) -> bool:
    """Tell whether a request that ended so may still be carried out: no answer came, or only that of a gateway."""
    if isinstance(error, ServerFailed):
        return error.status not in (500, 501, 503)
    return isinstance(error, ConnectionFailed) and not isinstance(error, HostSilent)


class HostSilent(ConnectionFailed):
    """The host has not answered for a while, so it was not asked; see `replicator.registry.circuit`."""


class WrongAddress(ConnectionFailed):
    """The host's name can't be resolved, or TLS with it fails: a passing fault, or a mistake in the address."""


class CertificateExpired(ConnectionFailed):
    """The server's TLS certificate has expired. It counts as silence: no request succeeds there until it is renewed."""

    silent: bool = True
    refused: bool = True


class NoTls(ConnectionFailed):
    """The server does not speak TLS, and plain HTTP is not allowed."""

    error_class: ErrorClass = ErrorClass.PERMANENT


class ProxyFailed(ConnectionFailed):
    """The proxy on the way to the registry refuses (407, 403, 502), can't be reached or is not trusted.

    It says nothing about the registry or the login there, so it is an outage until the proxy lets requests pass.
    """


class CertificateRefused(RegistryError):
    """The server's TLS certificate is not trusted for this host."""


class ServerFailed(RegistryError):
    """The registry answered 5xx, or 408."""

    error_class: ErrorClass = ErrorClass.TRANSIENT


class StorageRefused(RegistryError):
    """The storage that the registry redirects to refused the link, 401 or 403: it has expired, or a clock is wrong.

    The login has no part in it, and each attempt gets a link of its own.
    """

    error_class: ErrorClass = ErrorClass.TRANSIENT


class TooManyRequests(RegistryError):
    """The registry answered 429; ``retry_after`` says how long to wait."""

    error_class: ErrorClass = ErrorClass.TRANSIENT


class Unauthorized(RegistryError):
    """A fresh login is not enough for the request. ``challenged``: the answer named a way to log in, as it has to."""

    error_class: ErrorClass = ErrorClass.CREDENTIALS
    challenged: bool = True


class LoginRefused(Unauthorized):
    """The token endpoint refused the name and the password."""


class AskedLoginRefused(LoginRefused):
    """The token endpoint refused a login that came from `Access.logins` on demand."""


class LoginOnHold(RegistryError):
    """The login was refused and may be accepted later; until then it is not sent. See `LoginLadder`."""

    error_class: ErrorClass = ErrorClass.TRANSIENT


class AskedLoginOnHold(LoginOnHold):
    """The refused login came from `Access.logins` on demand."""


class LoginUnavailable(RegistryError):
    """The source of the login, e.g. a credential helper, failed or did not answer."""

    error_class: ErrorClass = ErrorClass.TRANSIENT


class LoginMissing(LoginUnavailable):
    """The source of the login does not have it, and will not have it at the next attempt either."""

    error_class: ErrorClass = ErrorClass.CREDENTIALS


class Denied(RegistryError):
    """The login is known and not allowed to do this: 403, or 401 with the code DENIED or a scope that is too small."""

    reason: str = "denied"


class ReadOnlyMode(RegistryError):
    """The registry is in read-only mode, as an administrator of a Harbor sets it, e.g. for a migration."""

    error_class: ErrorClass = ErrorClass.TRANSIENT
    repeatable: bool = False


class ForeignAnswer(RegistryError):
    """Something in front of the registry answered in its place: a firewall, a login page, an ingress without a backend.

    Attributes:
        is_page: it is a page of HTML; any other text may be the own word of a path that is no registry's.
        said: the title of the page, or the start of the text.
    """

    error_class: ErrorClass = ErrorClass.TRANSIENT
    repeatable: bool = False
    is_page: bool = False
    said: str = ""


class NotFound(RegistryError):
    """The registry answered 404: there is no such repository, manifest or blob."""


class NotYet(RegistryError):
    """The registry answered 412 to a read: Harbor's scan or signature gate is still closed."""

    error_class: ErrorClass = ErrorClass.NOT_YET


class ManifestIncomplete(RegistryError):
    """The registry refused a manifest because the repository lacks a blob or manifest that it names."""

    error_class: ErrorClass = ErrorClass.TRANSIENT
    repeatable: bool = False


class UploadLost(RegistryError):
    """An upload session is gone (404) or out of step (416): a new one is needed."""

    error_class: ErrorClass = ErrorClass.TRANSIENT


class Refused(RegistryError):
    """Any other 4xx: the request itself is not accepted."""


class TagImmutable(Refused):
    """The destination's tag names another image, and the registry does not let it be moved."""

    reason: str = "immutable"


class ProtocolViolated(RegistryError):
    """An answer that breaks the specification: no Location, a redirect of a write, a wrong digest."""


class DigestMismatch(RegistryError):
    """Bytes that do not have the digest or the size of their descriptor."""


class UnsupportedManifest(RegistryError):
    """A manifest of a media type that can't be copied faithfully, e.g. Docker schema 1."""


_QUANTITY = re.compile(r"quota|exceed|limit", re.IGNORECASE)


def is_of_quantity(words: str) -> bool:
    """Tell whether the text of a refusal is about a quota."""
    return _QUANTITY.search(words) is not None


_CLASS = re.compile(
    r"unknown manifest class|does not allow \w+ manifest|not authorized for \w+ manifest", re.IGNORECASE
)
_NO = r"\b(?:unknown|unsupported|disallowed|invalid|not (?:supported|allowed|accepted))\b"
_TYPE = r"\b(?:media|artifact|config) ?types?\b"
_REFUSED_TYPE = re.compile(rf"{_NO}.{{0,80}}{_TYPE}|{_TYPE}.{{0,200}}{_NO}", re.IGNORECASE)
_UNSUPPORTED_TYPE = 415


def refuses_kind(error: BaseException | None) -> bool:
    """Tell whether a registry refuses a manifest because of its kind, independent of permissions and quotas.

    ACR, and a distribution registry that takes only images, answer "unknown manifest class for …" before they look at
    anything else in a manifest; others name the media type that they do not support.
    """
    if isinstance(error, LoginRefused) or not isinstance(error, Denied | Refused | Unauthorized):
        return False
    if error.status == _UNSUPPORTED_TYPE or _CLASS.search(error.why) is not None:
        return True
    return isinstance(error, Refused) and _REFUSED_TYPE.search(error.why) is not None


def one_line(text: str, limit: int, *, least: int = LONG_SECRET) -> str:
    """Return one printable line of bounded length: an answer must not be able to forge a log or drive a terminal.

    A login of ours that it quotes back is cut out, if it has at least ``least`` characters: see `SentLogins`.
    """
    return bounded_line(SENT_LOGINS.cut(text, least), limit)
