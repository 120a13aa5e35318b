"""What it takes to connect to a registry: its address, its TLS, and words for what went wrong."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from replicator.registry.errors import CertificateRefused, ConnectionFailed, NoTls, ProtocolViolated
from replicator.registry.reaching import AddressRefused

if TYPE_CHECKING:
    from replicator.registry.access import Access
    from replicator.registry.errors import RegistryError

_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"})
"""What OpenSSL says of an answer that is none of TLS, such as one of plain HTTP."""

_WRONG_NAME = "name the registry as its certificate does, or have one issued for this name"
_CERTIFICATE_ADVICE = {
    9: "it is too early for it: is this machine's clock behind, or was it put in place too soon",
    10: "it has to be renewed there, unless this machine's clock is ahead",
    62: _WRONG_NAME,
    64: _WRONG_NAME,
}
"""What to do about a certificate, by OpenSSL's ``X509_V_ERR_…``; an authority that is unknown has many numbers."""


def explicit_base(registry: str, access: Access) -> URL | None:
    """Return the address to connect to, ``http(s)://host[:port]``; None when the scheme must be found out."""
    address = access.endpoint or registry
    if "://" in address:
        return URL(address).origin()
    return None if access.insecure else URL(f"https://{address}")


def names_registry(url: URL, registry: str) -> bool:
    """Tell whether a URL is at the registry's public name: the same host, and its port, which may go unsaid."""
    public = URL(f"//{registry}")
    port = public.explicit_port
    return url.host == public.host and (url.is_default_port() if port is None else url.port == port)


def describe(method: str, url: URL) -> str:
    """Name a request in an error: method and path, without the query, which may hold a signature."""
    return f"{method} {url.path}"


def tls_of(access: Access) -> ssl.SSLContext | bool:
    """Return what aiohttp takes as ``ssl``: False for no verification, True for the system's authorities."""
    if access.insecure:
        return False
    if access.ca_file is None:
        return True
    context = ssl.create_default_context()
    context.load_verify_locations(cafile=access.ca_file)
    return context


def connection_error(registry: str, request: str, url: URL, error: Exception) -> RegistryError:
    """Return what it means that there was no answer, or only half of one.

    Args:
        registry: the host the rules name.
        request: method and path.
        url: what was asked for.
        error: what the client library raised.
    """
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, AddressRefused):
        return ProtocolViolated(registry, request, f"led to {url.host}:{url.port}, {error.os_error.strerror}")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return CertificateRefused(registry, request, certificate_words(url, error))
    no_tls = isinstance(error, aiohttp.ClientConnectorSSLError) and getattr(error.os_error, "reason", "") in _NO_TLS
    return (NoTls if no_tls else ConnectionFailed)(registry, request, connection_words(url, error))


def connection_words(url: URL, error: Exception) -> str:
    """Say what became of a connection, for a person."""
    where = f"{url.host}:{url.port}"
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection to {where} in time: is it reachable from here?"
    if isinstance(error, TimeoutError):
        return f"{where} stopped answering"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the name {url.host} can't be resolved"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        reason = getattr(error.os_error, "reason", None) or error.os_error
        return f"no TLS with {where} ({reason}): if it speaks plain HTTP, that needs insecure: true"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"can't connect to {where}: {error.os_error.strerror or error.os_error}"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"what {where} answered is not HTTP"
    # The client library's own words may quote the whole URL, and its query can hold a signature.
    words = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return f"the connection to {where} broke: {words if words and '?' not in words else type(error).__name__}"


def certificate_words(url: URL, error: aiohttp.ClientConnectorCertificateError) -> str:
    """Say why a certificate is not trusted, and what to do."""
    reason = getattr(error.certificate_error, "verify_message", "") or str(error.certificate_error)
    code = getattr(error.certificate_error, "verify_code", 0)
    advice = _CERTIFICATE_ADVICE.get(
        code, "name its authority with ca_file, or turn verification off with insecure: true"
    )
    return f"the TLS certificate of {url.host}:{url.port} is not trusted ({reason}): {advice}"
