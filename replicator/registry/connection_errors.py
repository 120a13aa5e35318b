"""Words and classes for failures: a connection that failed, at either end, and an answer that is not the registry's."""

from __future__ import annotations

import codecs
import errno
import html
import http
import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

import aiohttp

from replicator.errors import SENT_LOGINS, SHORT_SECRET, bounded_line
from replicator.registry.errors import (
    CertificateExpired,
    CertificateRefused,
    ConnectionFailed,
    Denied,
    ForeignAnswer,
    ManifestIncomplete,
    NotFound,
    NoTls,
    NotYet,
    ProtocolViolated,
    ProxyFailed,
    ReadOnlyMode,
    Refused,
    RegistryError,
    ServerFailed,
    StorageRefused,
    TooManyRequests,
    Unauthorized,
    WrongAddress,
    one_line,
)
from replicator.retry import NEEDS_LONGER

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from yarl import URL

    from replicator.registry.proxies import Proxy

_Failed = TypeVar("_Failed", bound=ConnectionFailed)

_UNREACHABLE = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN})
"""The system's words for a host that does not answer; after some of them it has waited for seconds."""
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"})
"""OpenSSL's reasons for an answer that is not TLS, such as one of plain HTTP."""

_PLAIN = "if the registry speaks plain HTTP, write insecure: true in its entry under auth"
_WRONG_NAME = "use a name that the certificate contains (subjectAltName), or issue a certificate for this name"
_TOO_WEAK = "reissue it with RSA of 2048 bits or more, and SHA-256"
_STRICT = "Python 3.13 and later check its form strictly; set ca_file to its authority to accept it"
_EXPIRED = 10  # OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED
_RENEW = "renew it there, and the copies continue automatically; if it is still valid, this machine's clock is ahead"
_CERTIFICATE_ADVICE = {
    9: "check this machine's clock; if it is right, the certificate was installed too early",
    26: "reissue it with extendedKeyUsage serverAuth",
    62: _WRONG_NAME,
    64: _WRONG_NAME,
    **dict.fromkeys((66, 67, 68), _TOO_WEAK),
    79: "its issuer is not an authority (CA): reissue that certificate with basicConstraints CA:TRUE",
    **dict.fromkeys(range(80, 94), _STRICT),
}
"""Advice about a certificate, by OpenSSL's ``X509_V_ERR_…``; an unknown authority has many numbers."""


class AddressRefused(OSError):
    """A connection would lead to an internal address that it must not lead to."""

    def __init__(self) -> None:
        super().__init__(errno.EACCES, "an address of this machine or of its cloud's metadata: refused")


class ProxyNotVerified(aiohttp.ClientError):
    """This version of aiohttp can't verify an https:// proxy; its password was not sent."""


def connection_error(
    url: URL,
    error: Exception,
    *,
    proxy: Proxy | None = None,
    led_by: str | None = None,
    ca_file: Path | None = None,
    slow: bool = False,
) -> RegistryError:
    """Return the error for a missing answer, or for half of one.

    Args:
        url: the target of the request.
        error: the exception of the client library.
        proxy: the proxy that the request took.
        led_by: the registry that the rules name, if the target is another host that it leads to.
        ca_file: the authorities that the rules name for the registry.
        slow: the answer had more time than that of a read.
    """
    if proxy is not None and (failed := proxy_error(url, error, proxy)) is not None:
        return failed
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, AddressRefused):
        return led_to(url, error.os_error)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        if getattr(error.certificate_error, "verify_code", 0) == _EXPIRED:
            return CertificateExpired(f"the TLS certificate of {url.host}:{url.port} has expired", _RENEW)
        return CertificateRefused(*certificate_words(url, error, led_by, ca_file))
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        reason = getattr(error.os_error, "reason", None) or error.os_error
        kind = NoTls if reason in _NO_TLS else WrongAddress
        advice = f"{_PLAIN}; if its endpoint says https://, write http://"
        if led_by is not None:
            advice = f"if it speaks plain HTTP, correct the address that {led_by} names"
        return kind(f"no TLS with {url.host}:{url.port} ({reason})", advice)
    advice = _silence_advice(error, slow=slow)
    if led_by is not None:
        advice = f"{led_by} leads there, so it must be reachable from here too"
    through = f" (through the proxy {proxy})" if proxy is not None else ""
    cause = WrongAddress if isinstance(error, aiohttp.ClientConnectorDNSError) else ConnectionFailed
    return _noted(cause(connection_words(url, error) + through, advice), error)


def _silence_advice(error: Exception, *, slow: bool) -> str:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "is it reachable from here? If it is only slow, raise REPLICATOR_CONNECT_TIMEOUT"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "check the spelling, and the DNS of this machine"
    return NEEDS_LONGER if isinstance(error, TimeoutError) and not slow else ""


def _noted(failed: _Failed, error: Exception) -> _Failed:
    """Note whether the other side was silent, or refused the connection."""
    number = error.os_error.errno if isinstance(error, aiohttp.ClientConnectorError) else None
    failed.refused = number == errno.ECONNREFUSED
    failed.silent = isinstance(error, TimeoutError) or failed.refused or number in _UNREACHABLE
    return failed


def proxy_error(url: URL, error: Exception, proxy: Proxy) -> ProxyFailed | None:
    """Return the error for a connection that failed at the proxy; None if the proxy has no part in it.

    Args:
        url: the target of the request.
        error: the exception of the client library.
        proxy: the proxy that the request took.
    """
    advice = f"check {proxy.setting}, and that the proxy runs"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return proxy.refusal(url, error.status)
    if isinstance(error, ProxyNotVerified):
        what = f"the TLS certificate of the proxy {proxy} can't be verified with aiohttp {aiohttp.__version__}"
        return ProxyFailed(what, "install the version that requirements.lock names")
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        what = f"no connection to {url.host}:{url.port} through the proxy {proxy} in time"
        return _noted(ProxyFailed(what, advice), error)
    if not isinstance(error, aiohttp.ClientConnectorError | aiohttp.ClientConnectorCertificateError):
        return None
    if (error.host, error.port) != (proxy.url.host, proxy.url.port):
        return None
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return ProxyFailed(f"the name of the proxy {proxy} can't be resolved", advice)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = getattr(error.certificate_error, "verify_message", "") or type(error.certificate_error).__name__
        advice = "SSL_CERT_FILE can name its authority"
        return ProxyFailed(f"the TLS certificate of the proxy {proxy} is not trusted ({reason})", advice)
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return ProxyFailed(
            f"no TLS with the proxy {proxy}", f"if it speaks plain HTTP, write http:// in {proxy.setting}"
        )
    return _noted(ProxyFailed(f"no connection to the proxy {proxy}: {_system_words(error.os_error)}", advice), error)


def led_to(url: URL, refused: AddressRefused) -> ProtocolViolated:
    """Return the error for an internal address that a registry led to."""
    return ProtocolViolated(f"led to {url.host}:{url.port}, {refused.strerror}")


def connection_words(url: URL, error: Exception) -> str:
    """Say why a connection failed, for a person."""
    where = f"{url.host}:{url.port}"
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection to {where} in time"
    if isinstance(error, TimeoutError):
        return f"{where} stopped answering"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the name {url.host} can't be resolved"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"can't connect to {where}: {_system_words(error.os_error)}"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"the answer of {where} is not HTTP"
    # The client library's own words may quote the whole URL, and its query can hold a signature.
    words = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return f"the connection to {where} broke: {words if words and '?' not in words else type(error).__name__}"


def _system_words(error: OSError) -> str:
    # Where several addresses were tried, asyncio's own words take the place of the system's.
    return (os.strerror(error.errno) if error.errno else error.strerror) or str(error) or type(error).__name__


def certificate_words(
    url: URL,
    error: aiohttp.ClientConnectorCertificateError,
    led_by: str | None = None,
    ca_file: Path | None = None,
) -> tuple[str, str]:
    """Return why a certificate is not trusted, and what to do; see `connection_error`."""
    reason = getattr(error.certificate_error, "verify_message", "") or str(error.certificate_error)
    code = getattr(error.certificate_error, "verify_code", 0)
    unknown = "write the file of its CA certificate as ca_file in its entry under auth; insecure: true verifies nothing"
    if ca_file is not None:
        unknown = f"its authority is not in {ca_file}: add it, with the intermediate ones that the server does not send"
    if led_by is not None:
        # A token server gets the password, so insecure does not hold for it.
        holds = f"the ca_file of {led_by} under auth, which holds for all hosts that it leads to"
        unknown = f"add its authority to {holds}; insecure: true there takes any certificate of its storage"
    advice = _CERTIFICATE_ADVICE.get(code, unknown)
    return f"the TLS certificate of {url.host}:{url.port} is not trusted ({reason})", advice


_MAX_QUOTED = 300
_MAX_TITLE = 60


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """The body of an error answer.

    Attributes:
        codes: the error codes.
        message: its words as one short line.
        form: whose it is by its form; ``none`` for an empty body, which says nothing about that.
    """

    codes: tuple[str, ...]
    message: str
    form: Literal["registry", "none", "storage", "page", "text"] = "registry"

    MISSING: ClassVar[frozenset[str]] = frozenset({"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN"})


def read_error(body: bytes) -> ErrorBody:
    """Read an error body (specification, "Error Codes"); of a page the title is quoted, of any other text the start."""
    try:
        errors = json.loads(body)["errors"]
        codes = tuple(str(error.get("code", "")) for error in errors)
        words = "; ".join(filter(None, (_words(error) for error in errors)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        text = body.decode("utf-8", "replace")
        if is_page(body):
            text = _page_text(body)
            title = _TITLE.search(text)
            return ErrorBody((), bounded_line(_quoted(html.unescape(title[1]) if title else ""), _MAX_TITLE), "page")
        words = _quoted(text)
        # S3 and compatible storage refuse in XML.
        return ErrorBody((), words, "storage" if "<Error>" in text[:500] else "text" if words else "none")
    return ErrorBody(codes, _quoted(words))


def _quoted(text: str) -> str:
    # All of it is the other side's, so even a password that is a word is cut out.
    return one_line(text, _MAX_QUOTED, least=SHORT_SECRET)


_TAGS = rb"html|head|body|title|meta|script|style|link|noscript|center|div|table|form|iframe|pre|p|h[1-6]"
_PAGE = re.compile(rb"(<\?xml[^<>]{0,200}>\s{0,200})?<(!doctype\s+html|!--|(" + _TAGS + rb")\b)", re.IGNORECASE)
_TITLE = re.compile(r"<title[^<>]{0,200}>([^<]{0,500})", re.IGNORECASE)


def is_page(body: bytes) -> bool:
    """Tell whether a body is a page of HTML, by its beginning: its Content-Type may be a framework's default."""
    return _PAGE.match(body[:1000].lstrip(b"\xef\xbb\xbf \t\r\n")) is not None


def _page_text(body: bytes) -> str:
    """Decode the start of a page: firewalls in China often write GBK, even if their headers say something else."""
    try:
        # The last character may be cut off.
        return codecs.getincrementaldecoder("utf-8")().decode(body)
    except UnicodeDecodeError:
        text = body.decode("utf-8", "replace")
        # A login that it quotes in UTF-8 would not be found in GBK, where its letters are others.
        return text if SENT_LOGINS.cut(text, SHORT_SECRET) != text else body.decode("gb18030", "replace")


def foreign_answer(status: int, body: bytes, method: str = "") -> ForeignAnswer:
    """Return the error for an answer that is not the registry's; ``method`` is that of the request."""
    answer = read_error(body)
    error = ForeignAnswer(f"{status}: not the registry's answer: {_described(answer)}, as firewalls and proxies send")
    # Blobs and manifests are put.
    error.status, error.is_page, error.costly = status, answer.form == "page", method == "PUT"
    error.said = answer.message
    error.do = "check what answers there: a firewall, a login page, a proxy without its backend, or another host"
    return error


def _described(answer: ErrorBody) -> str:
    what, title = ("a page of HTML", "title ") if answer.form == "page" else ("text", "")
    return what + (f" ({title}{answer.message!r})" if answer.message else "")


def answered_elsewhere(error: RegistryError, host: str | None) -> RegistryError:
    """Return the error for an answer of another host, such as the storage that the registry redirects to."""
    also = f" (answer of {host}, which the registry redirects to)"
    is_page = isinstance(error, ForeignAnswer) and error.is_page
    if error.status in (401, 403) and not is_page and not isinstance(error, ProxyFailed):
        return error.recast(StorageRefused, also)
    error.why += also
    return error


def _words(error: Mapping[str, object]) -> str:
    code, message, detail = error.get("code", ""), error.get("message", ""), error.get("detail")
    text = f"{code}: {message}" if message else str(code)
    return f"{text} ({json.dumps(detail)})" if detail else text


def _without_words(status: int) -> str:
    try:
        return f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


_TOO_LARGE = "raise the limit of a body at the registry, or at the proxy in front of it (nginx: client_max_body_size)"


def from_answer(
    status: int,
    body: bytes,
    method: str = "",
    *,
    challenges: bool = False,
    retry_after: float | None = None,
    speaker: str = "the registry",
) -> RegistryError:
    """Return the error that an unwanted answer means.

    Args:
        status: the HTTP status.
        body: the start of the answer's body.
        method: of the request.
        challenges: it names a way to log in, as a 401 must (RFC 9110, section 15.5.2), so a page is no outage.
        retry_after: seconds from the answer's Retry-After.
        speaker: whose words they are.
    """
    answer = read_error(body)
    do = _TOO_LARGE if status == http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE else ""
    why = f"{status}, {speaker} says: {answer.message}" if answer.message else _without_words(status)
    kind = _kind(status, answer, method)
    if kind is ReadOnlyMode:
        why, do = (
            f"the registry is in read-only mode ({why})",
            "an administrator must end that mode; until then the registry refuses all changes",
        )
    if kind is Unauthorized and challenges and answer.form == "page":
        why = f"{status}, with {_described(answer)}"
    elif answer.form in ("page", "text"):
        foreign = foreign_answer(status, body, method)
        foreign.do, foreign.retry_after, why = do or foreign.do, retry_after, foreign.why
        if not issubclass(kind, ServerFailed | TooManyRequests) and not (kind is Unauthorized and challenges):
            return foreign
    error = kind(why, do, status=status, codes=answer.codes, retry_after=retry_after)
    if isinstance(error, Unauthorized):
        error.challenged = challenges
    return error


_READ_ONLY = re.compile(r"\bread[- ]?only mode\b", re.IGNORECASE)
"""Harbor's words to every write in that mode (``src/server/middleware/readonly``)."""


def _kind(status: int, answer: ErrorBody, method: str) -> type[RegistryError]:
    if status in (403, 405) and answer.form == "registry" and _READ_ONLY.search(answer.message):
        return ReadOnlyMode
    if status == 403 or (status == 401 and "DENIED" in answer.codes):
        return Denied
    if status == 401:
        return Unauthorized
    if status == 412:
        # Gates are for pulls: to a write, Harbor says so of an immutable tag.
        return Refused if method in ("PUT", "POST", "PATCH") else NotYet
    if status == 429 or "TOOMANYREQUESTS" in answer.codes:
        return TooManyRequests
    if "MANIFEST_BLOB_UNKNOWN" in answer.codes or (status == 400 and ErrorBody.MISSING.intersection(answer.codes)):
        # Registries disagree on the code of a missing part: BLOB_UNKNOWN and MANIFEST_UNKNOWN count at a 400 only,
        # since at a 404 they are about the request's own subject.
        return ManifestIncomplete
    if status == 404:
        return NotFound
    if status >= 500 or status == 408:
        return ServerFailed
    if status < 400:
        return ProtocolViolated
    return Refused
