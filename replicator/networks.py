"""Addresses: networks and servers in settings, internal ones; TLS certificates."""

from __future__ import annotations

import re
import socket
import ssl
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any

from yarl import URL

from replicator.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SEPARATOR = re.compile(r"[\s,]+")
_METADATA_SERVICES = frozenset({"100.100.100.200", "fd00:ec2::254"})
"""Instance metadata of Alibaba Cloud and AWS outside of the link-local range; they hand out credentials."""
_MAPPED_BITS = 96
"""Length of the prefix ``::ffff:`` of an IPv4-mapped IPv6 address (RFC 4291, section 2.5.5.2)."""

_EMBEDDING = tuple(map(IPv6Network, ("64:ff9b::/96", "::/96")))
"""Networks whose last 32 bits are an IPv4 address: NAT64 (RFC 6052), IPv4-compatible (RFC 4291, section 2.5.5.1)."""
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")
"""NAT64 within a network (RFC 8215), whose operator may choose any of the lengths of `_NAT64_BYTES`."""
_NAT64_BYTES = ((6, 7, 9, 10), (7, 9, 10, 11), (9, 10, 11, 12), (12, 13, 14, 15))
"""Where the IPv4 address stands behind a prefix of 48, 56, 64 or 96 bits (RFC 6052, section 2.2)."""


class Networks:
    """A set of networks that addresses can be looked up in.

    Args:
        text: addresses (``192.0.2.7``) and networks (``10.0.0.0/8``, ``fd00::/8``), separated by commas or spaces.

    Raises:
        ValueError: there is none, or one of them is invalid.
    """

    def __init__(self, text: str) -> None:
        items = [item for item in _SEPARATOR.split(text) if item]
        if not items:
            raise ValueError("name at least one address or network, e.g. 10.0.0.0/8")
        self._networks = tuple(_network(item) for item in items)

    def __contains__(self, address: object) -> bool:
        """Tell whether an address, as a socket reports it, is in one of the networks. Any other value is not."""
        try:
            found = ip_address(plain_address(str(address)))
        except ValueError:
            return False
        return any(found in network for network in self._networks)

    def __str__(self) -> str:
        return ", ".join(map(str, self._networks))


def plain_address(address: str) -> str:
    """Return the IPv4 address that an IPv6 socket reports as ``::ffff:…``; any other text unchanged."""
    try:
        mapped = IPv6Address(address).ipv4_mapped
    except ValueError:
        return address
    return str(mapped) if mapped is not None else address


def is_internal(address: str) -> bool:
    """Tell whether an address is this machine, its link, or a cloud's metadata service.

    An IPv6 address that a gateway translates into an IPv4 address (NAT64, 6to4, Teredo) counts as that one too.
    Services there often trust everyone who can reach them, so a registry must not redirect us to them.

    Args:
        address: as a socket takes it, with or without a ``%zone``. Any other text is not internal.
    """
    try:
        found = ip_address(plain_address(address.partition("%")[0]))
    except ValueError:
        return False
    return any(map(_is_internal, (found, *_translated(found))))


_OWN_NAMES = frozenset(
    {"localhost", "localhost.localdomain", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback"}
)
"""Names that /etc/hosts of the common systems has for the machine itself."""
_NUMBERS = re.compile(r"[0-9][0-9a-fx.]*")


def is_loopback(host: str) -> bool:
    """Tell whether a host of a URL means the machine that uses it, e.g. ``localhost``, ``::1``, ``127.1``, ``0``."""
    name = host.rstrip(".").lower()
    if name in _OWN_NAMES or name.endswith(".localhost"):
        return True
    found = _literal(name)
    return found is not None and (found.is_loopback or found.is_unspecified)


def is_unspecified(host: str) -> bool:
    """Tell whether a host stands for every address of a machine, where a server listens but no client connects."""
    found = _literal(host.rstrip("."))
    return found is not None and found.is_unspecified


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    """Return the address that a host spells, also in the short forms that resolvers take (``0``, ``127.1``)."""
    plain = plain_address(host)
    try:
        return ip_address(plain)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(plain)) if _NUMBERS.fullmatch(plain) else None
    except OSError:
        return None


def shown_url(url: URL, path: str) -> str:
    """Return the URL of a path where a server listens, for people; ``HOST`` stands for every address."""
    origin = f"{url.scheme}://HOST:{url.port}" if is_unspecified(url.host or "") else url.origin()
    return f"{origin}{path}"


def _is_internal(found: IPv4Address | IPv6Address) -> bool:
    return (
        found.is_loopback
        or found.is_link_local
        or found.is_unspecified
        or found.is_multicast
        or str(found) in _METADATA_SERVICES
    )


def _translated(address: IPv4Address | IPv6Address) -> Iterator[IPv4Address]:
    """Yield the IPv4 addresses that an IPv6 address stands for."""
    if isinstance(address, IPv6Address):
        if any(address in network for network in _EMBEDDING):
            yield IPv4Address(int(address) & 0xFFFFFFFF)
        if address in _LOCAL_NAT64:
            found = (IPv4Address(bytes(address.packed[place] for place in places)) for places in _NAT64_BYTES)
            # Behind a long prefix the places of a short one are zero, and that says nothing.
            yield from filter(int, found)
        if address.sixtofour is not None:
            yield address.sixtofour
        if address.teredo is not None:
            yield from address.teredo


def _network(item: str) -> IPv4Network | IPv6Network:
    try:
        return _plain(ip_network(item))
    except ValueError:
        pass
    try:
        near = ip_network(item, strict=False)
    except ValueError:
        raise ValueError(f"{item[:60]!r} is not an address or a network; write 192.0.2.7 or 10.0.0.0/8") from None
    # Writing 10.0.0.1/8 is ambiguous: the host, or the whole network?
    raise ValueError(f"{item} is an address in {near}; write {near}, or {item.partition('/')[0]} for that address only")


def _plain(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """Return the IPv4 network of an IPv4-mapped one (``::ffff:…``); any other unchanged."""
    if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network


class Certificate:
    """The server's TLS certificate, which can be renewed while the server runs.

    Args:
        certificate: PEM file with the certificate and its chain.
        key: PEM file with the key, without a password; None if it is in the same file.

    Raises:
        ConfigError: the files can't be used.
    """

    def __init__(self, certificate: Path, key: Path | None) -> None:
        self._files = (certificate, key)
        # Python's own choice of versions and ciphers for a server: TLS 1.2 and later.
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._load(self.context)

    def check(self) -> None:
        """Try what the files contain now, without using it.

        Raises:
            ConfigError: they can't be used.
        """
        self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))

    def renew(self) -> None:
        """Use what the files contain now for new connections.

        Raises:
            ConfigError: they can't be used; the previous certificate stays in use.
        """
        # Loading replaces the certificate before it checks the key, so a bad pair would break the context in use.
        self.check()
        self._load(self.context)

    def _load(self, context: ssl.SSLContext) -> None:
        certificate, key = self._files
        try:
            # Without a password given, OpenSSL would ask the terminal for that of an encrypted key.
            context.load_cert_chain(certificate, key, password="")
        except OSError as error:
            if isinstance(error, ssl.SSLError):
                message = f"{certificate} and {key or 'its key'} must be a matching PEM certificate and key"
                message += f", the key without a password ({error.reason or error})"
            else:
                missing = certificate if not certificate.exists() else key or certificate
                message = f"{missing} can't be read: {error.strerror or error}"
            raise ConfigError("settings", [Problem("REPLICATOR_TLS_CERTIFICATE", message)]) from None


def trusting(ca_file: Path) -> ssl.SSLContext:
    """Return a context for connections to servers of a named authority; the system's authorities are trusted too.

    Args:
        ca_file: a PEM file with certificates.

    Raises:
        OSError, ValueError: the file can't be read, or has no certificates.
    """
    context = ssl.create_default_context()
    context.load_verify_locations(cafile=ca_file)
    return lenient(context)


def lenient(context: ssl.SSLContext) -> ssl.SSLContext:
    """Have a context take the certificates of a named authority that curl and Go take, and return it.

    From Python 3.13 on the default context checks the form strictly (RFC 5280). That refuses certificates made as
    Harbor's documentation tells, and adds no protection once the authority is given. A certificate in the file is
    trusted even where it is not self-signed, which older versions of Python refuse.

    Args:
        context: of `ssl.create_default_context`.
    """
    context.verify_flags = context.verify_flags & ~ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def check_address(value: Any) -> Any:
    """Check the setting of an address to listen on, ``host:port``; an empty host means every address.

    Raises:
        ValueError: it is none.
    """
    host, colon, port = str(value).rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ValueError("write it as host:port, e.g. 0.0.0.0:8080 or [::]:8080")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("write an IPv6 address in brackets, e.g. [::]:8080")
    return value


def split_address(address: str) -> tuple[str, int]:
    """Split ``host:port``: the host without brackets, empty for every address; port 0 lets the system choose."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def check_webhook_url(value: Any) -> Any:
    """Check the setting of the webhook's URL, and return it without a slash at its end.

    It goes to Harbor as it is, which shows it to others.

    Raises:
        ValueError: it is no such URL.
    """
    example = (
        "write the URL under which Harbor reaches the webhook, e.g. https://replicator.example.com/webhooks/harbor"
    )
    try:
        url = URL(str(value))
        host, user, port = url.host, url.user or url.password, url.port
    except ValueError:
        raise ValueError(example) from None
    if url.scheme not in ("http", "https") or not host or not port or url.fragment or not str(value).isprintable():
        raise ValueError(example)
    if user:
        raise ValueError("must not contain a user name or password: the token is REPLICATOR_WEBHOOK_TOKEN")
    if url.path in ("", "/"):
        raise ValueError("has no path: the webhook's path is /webhooks/harbor")
    # A slash at the end is a typing error there; a proxy's own path may need it.
    return str(url.with_path(url.path.rstrip("/")).with_query(url.query)) if _ends_in_webhook(url) else value


def check_reachable(url: str, *, sidecar: bool) -> None:
    """Check that a URL can mean the replicator where Harbor uses it.

    Args:
        url: the webhook's.
        sidecar: whether Harbor is in the same network namespace.

    Raises:
        ConfigError: the host is a placeholder, every address, or the loopback address without ``sidecar``.
    """
    host = URL(url).host or ""
    if host == "host":
        problem = "HOST is a placeholder"
    elif is_unspecified(host):
        problem = f"Harbor can't connect to {host}: it means every address of this machine"
    elif is_loopback(host) and not sidecar:
        problem = f"Harbor can't reach the replicator at {host}: for Harbor that is its own machine or container"
    else:
        return
    error = ConfigError("command line", [Problem("--url", problem)])
    error.add_note("give the host under which Harbor reaches it; with both in one pod, 127.0.0.1 and --sidecar")
    raise error


def reach_warning(url: str) -> str:
    """Return why Harbor may not reach the replicator at a URL that this machine reaches; empty if nothing says so."""
    host = URL(url).host or ""
    if is_loopback(host):
        return f"for Harbor, {host} is Harbor's own machine, not this one: use another URL there"
    first, _, rest = host.rstrip(".").lower().partition(".")
    # What container engines call their machine, e.g. host.docker.internal.
    if first in ("host", "gateway", "kubernetes") and rest.count(".") == 1 and rest.endswith(".internal"):
        return f"{host} exists only in containers that define it: Harbor's jobservice must know it"
    return ""


def check_networks(value: Any) -> Any:
    """Check a setting that lists addresses and networks.

    Raises:
        ValueError: it is no such list.
    """
    Networks(str(value))
    return value


def check_api_url(value: Any) -> Any:
    """Check the setting of the address of a ``serve``.

    Raises:
        ValueError: it is none.
    """
    try:
        url = URL(str(value))
        is_right = url.scheme in ("http", "https") and bool(url.host and url.port)
    except ValueError:
        is_right = False
    if not is_right or url.query_string or url.fragment or not str(value).isprintable():
        raise ValueError("write the address of replicator serve, e.g. https://replicator.example.com")
    if url.user or url.password:
        raise ValueError("must not contain a user name or password: the token is REPLICATOR_API_TOKEN")
    return value


def _ends_in_webhook(url: URL) -> bool:
    return url.path.endswith("/") and re.search(r"/webhooks/harbor(/[^/]*)?/+\Z", url.path) is not None
