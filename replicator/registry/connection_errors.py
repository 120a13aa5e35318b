"""Words and classes for a connection that failed: at the other side, at a proxy, or because it was refused here."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, TypeVar

import aiohttp

from replicator.registry.errors import (
    CertificateExpired,
    CertificateRefused,
    ConnectionFailed,
    NoTls,
    ProtocolViolated,
    ProxyFailed,
    WrongAddress,
)

if TYPE_CHECKING:
    from pathlib import Path

    from yarl import URL

    from replicator.registry.errors import RegistryError
    from replicator.registry.proxies import Proxy

_Failed = TypeVar("_Failed", bound=ConnectionFailed)

_UNREACHABLE = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN})
"""The system's words for a host that does not answer; after some of them it has waited for seconds."""
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"})
"""OpenSSL's reasons for an answer that is not TLS, such as one of plain HTTP."""

_WRONG_NAME = "use the name that is in the certificate (subjectAltName), or have one issued for this name"
_TOO_WEAK = "have it issued again with RSA of 2048 bits or more, and SHA-256"
_STRICT = "from Python 3.13 on its form is checked strictly; name its authority with ca_file, and it is taken"
_EXPIRED = 10
"""OpenSSL's ``X509_V_ERR_CERT_HAS_EXPIRED``."""
_RENEW = "renew it there, and the copies go on by themselves; if it is valid still, this machine's clock is ahead"
_CERTIFICATE_ADVICE = {
    9: "check this machine's clock; if it is right, the certificate was installed too early",
    26: "have it issued again with extendedKeyUsage serverAuth",
    62: _WRONG_NAME,
    64: _WRONG_NAME,
    **dict.fromkeys((66, 67, 68), _TOO_WEAK),
    79: "its issuer is no authority: have that issued again with basicConstraints CA:TRUE",
    **dict.fromkeys(range(80, 94), _STRICT),
}
"""Advice about a certificate, by OpenSSL's ``X509_V_ERR_…``; an unknown authority has many numbers."""


class AddressRefused(OSError):
    """A connection would lead to an internal address that it must not lead to."""

    def __init__(self) -> None:
        super().__init__(errno.EACCES, "an address of this machine or of its cloud's metadata: refused")


class ProxyNotVerified(aiohttp.ClientError):
    """This version of aiohttp can't be told to verify an https:// proxy; its password was not sent."""


def connection_error(
    url: URL,
    error: Exception,
    *,
    proxy: Proxy | None = None,
    led_by: str | None = None,
    ca_file: Path | None = None,
) -> RegistryError:
    """Return the error for a missing answer, or for half of one.

    Args:
        url: the target of the request.
        error: the exception of the client library.
        proxy: the proxy that the request took.
        led_by: the registry that the rules name, if the target is another host that it leads to.
        ca_file: the authorities that the rules name for the registry.
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
        advice = "if the registry speaks plain HTTP, set insecure: true"
        return kind(f"no TLS with {url.host}:{url.port} ({reason})", advice)
    advice = _silence_advice(error)
    if led_by is not None:
        advice = f"{led_by} leads there, so it has to be reached from here too"
    through = f" (through the proxy {proxy})" if proxy is not None else ""
    cause = WrongAddress if isinstance(error, aiohttp.ClientConnectorDNSError) else ConnectionFailed
    return _noted(cause(connection_words(url, error) + through, advice), error)


def _silence_advice(error: Exception) -> str:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "is it reachable from here? If it only needs longer, raise REPLICATOR_CONNECT_TIMEOUT"
    return "if it only needs longer, raise REPLICATOR_READ_TIMEOUT" if isinstance(error, TimeoutError) else ""


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
    reason = error.os_error.strerror or type(error.os_error).__name__
    return _noted(ProxyFailed(f"no connection to the proxy {proxy}: {reason}", advice), error)


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
        return f"can't connect to {where}: {error.os_error.strerror or error.os_error}"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"the answer of {where} is not HTTP"
    # The client library's own words may quote the whole URL, and its query can hold a signature.
    words = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return f"the connection to {where} broke: {words if words and '?' not in words else type(error).__name__}"


def certificate_words(
    url: URL,
    error: aiohttp.ClientConnectorCertificateError,
    led_by: str | None = None,
    ca_file: Path | None = None,
) -> tuple[str, str]:
    """Return why a certificate is not trusted, and what to do; see `connection_error`."""
    reason = getattr(error.certificate_error, "verify_message", "") or str(error.certificate_error)
    code = getattr(error.certificate_error, "verify_code", 0)
    unknown = "name its authority with ca_file, or turn verification off with insecure: true"
    if ca_file is not None:
        unknown = f"its authority is not in {ca_file}: add it, with the intermediate ones that the server does not send"
    if led_by is not None:
        # A token server gets the password, so insecure does not hold for it.
        holds = f"the ca_file of {led_by} under auth, which holds for all hosts that it leads to"
        unknown = f"add its authority to {holds}; insecure: true there takes any certificate of its storage"
    advice = _CERTIFICATE_ADVICE.get(code, unknown)
    return f"the TLS certificate of {url.host}:{url.port} is not trusted ({reason})", advice
