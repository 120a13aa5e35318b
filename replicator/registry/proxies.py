"""HTTP proxies: which proxy a request takes, and the meaning of a proxy's refusal.

The environment is read as Go programs read it (golang.org/x/net/http/httpproxy), so that variables that work for crane
or Docker work here: ``HTTPS_PROXY`` for https:// targets, ``HTTP_PROXY`` for http:// targets, ``NO_PROXY`` for
exceptions, each in capitals first and in small letters second. This machine itself is never reached by a proxy.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from yarl import URL

from replicator.errors import ConfigError, Problem
from replicator.networks import plain_address
from replicator.registry.errors import ProxyFailed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    from replicator.registry.errors import RegistryError

_AROUND = " \t\r\n\"'"
"""Spaces and quotation marks around a variable's value: ``docker run --env-file`` keeps those of a line."""
_ACCEPTED = frozenset({"http", "https"})
_HELP = {
    403: "the proxy does not allow it: allow {target} there, or exclude the host with NO_PROXY or proxy: off",
    407: "write the user name and the password of the proxy into {setting}: http://USER:PASSWORD@HOST:PORT",
}
_UNREACHABLE = "the proxy can't reach {target}, or does not allow it: the proxy's own log says why"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy. As text it is ``host:port``; its login is in no representation.

    Attributes:
        url: ``http(s)://host:port``.
        setting: names the variable or the key that it comes from, for messages.
        login: the value of ``Proxy-Authorization``; None without a login.
    """

    url: URL
    setting: str
    login: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str, setting: str) -> Self:
        """Read ``[http(s)://][user:password@]host[:port]``; user and password are percent-decoded.

        Raises:
            ValueError: it is none. The message does not repeat the text, which may hold a password.
        """
        scheme, separator, _ = text.partition("://")
        if separator and scheme.lower().startswith("socks"):
            raise ValueError("SOCKS is not supported; name an HTTP proxy, http://host:port")
        if separator and scheme.lower() not in _ACCEPTED:
            raise ValueError("must begin with http:// or https://")
        malformed = "must be http://[user:password@]host:port; write @, :, /, ? and # in a password as %40, %3A, %2F, …"
        try:
            url = URL(text if separator else f"http://{text}")
            origin = url.origin()
            port = origin.port
        except ValueError:
            raise ValueError(malformed) from None
        if not origin.host or not port or "@" in url.raw_path_qs or url.raw_fragment:
            raise ValueError(malformed)
        login = None
        if url.raw_user is not None or url.raw_password is not None:
            pair = f"{url.user or ''}:{url.password or ''}".encode()
            login = "Basic " + base64.b64encode(pair).decode("ascii")
        return cls(origin, setting, login)

    def __str__(self) -> str:
        return f"{self.url.host_subcomponent}:{self.url.port}"

    @property
    def url_with_login(self) -> str:
        """The URL with the login in it, a secret, for libraries that take it in no other form."""
        if self.login is None:
            return str(self.url)
        user, _, password = base64.b64decode(self.login.removeprefix("Basic ")).decode().partition(":")
        return str(self.url.with_user(user).with_password(password))

    @property
    def credentials(self) -> dict[str, str]:
        """The header with the login; empty without one."""
        return {"Proxy-Authorization": self.login} if self.login is not None else {}

    def refusal(self, target: URL, status: int) -> ProxyFailed:
        """Return the error for a status other than 200 that answers CONNECT, or for a 407."""
        where = f"{target.host_subcomponent}:{target.port}"
        asked = f"CONNECT to {where}" if target.scheme == "https" else f"a request to {where}"
        help_ = _HELP.get(status, _UNREACHABLE).format(target=where, setting=self.setting)
        if status == 407 and self.login is not None:
            help_ = f"the proxy refuses the user name and the password in {self.setting}: correct them"
        return ProxyFailed(f"the proxy {self} refused {asked} ({status})", help_, status=status)


@dataclass(frozen=True, slots=True)
class _Exception:
    """One entry of ``NO_PROXY``; exactly one of ``network``, ``address`` and ``suffix`` is set, or ``everything``."""

    text: str
    network: IPv4Network | IPv6Network | None = None
    address: IPv4Address | IPv6Address | None = None
    suffix: str = ""
    bare: bool = False
    port: str = ""
    everything: bool = False

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read an entry; None for one that means nothing."""
        if text == "*":
            return cls(text, everything=True)
        address, slash, length = text.partition("/")
        if slash and length.isdecimal():
            with suppress(ValueError):
                return cls(text, network=ip_network(f"{address}/{length}", strict=False))
        host, port = _split_port(text)
        if not host:
            return None
        with suppress(ValueError):
            return cls(text, address=ip_address(plain_address(host)), port=port)
        host = host[1:] if host.startswith("*.") else host
        with suppress(UnicodeError):
            host = host if host.isascii() else host.encode("idna").decode("ascii")
        bare = not host.startswith(".")
        return cls(text, suffix=f".{host}" if bare else host, bare=bare, port=port)

    def matches(self, host: str, port: str, address: IPv4Address | IPv6Address | None) -> bool:
        if self.everything:
            return True
        if self.network is not None:
            return address is not None and address.version == self.network.version and address in self.network
        if self.address is not None:
            found = address == self.address
        else:
            # A name excepts no address: 0.0.5 is the end of 10.0.0.5.
            found = address is None and (host.endswith(self.suffix) or (self.bare and host == self.suffix[1:]))
        return found and self.port in ("", port)


def _split_port(text: str) -> tuple[str, str]:
    """Split ``host:port`` or ``[address]:port``; anything else is all host."""
    if text.startswith("["):
        address, bracket, port = text[1:].partition("]:")
        return (address, port) if bracket else (text, "")
    host, colon, port = text.partition(":")
    return (host, port) if colon and ":" not in port else (text, "")


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies of one environment, or of one registry of the rules; without arguments there are none.

    Attributes:
        http: for http:// targets.
        https: for https:// targets.
        exceptions: the entries of ``NO_PROXY``.
        always: neither exceptions nor addresses of this machine count, since the rules name the proxy for this host.
        note: says why there is none, for a person.
    """

    http: Proxy | None = None
    https: Proxy | None = None
    exceptions: tuple[_Exception, ...] = ()
    always: bool = False
    note: str = ""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read ``HTTP_PROXY``, ``HTTPS_PROXY`` and ``NO_PROXY``.

        ``HTTP_PROXY`` does not count in a CGI process (``REQUEST_METHOD``), where a header of a request sets it.

        Raises:
            ConfigError: a proxy can't be used; nothing of its value is in the message.
        """
        problems: list[Problem] = []

        def read(name: str) -> Proxy | None:
            for spelling in (name, name.lower()):
                if text := environ.get(spelling, "").strip(_AROUND):
                    try:
                        return Proxy.parse(text, spelling)
                    except ValueError as error:
                        problems.append(Problem(spelling, str(error)))
                        return None
            return None

        http = read("HTTP_PROXY") if not environ.get("REQUEST_METHOD") else None
        https = read("HTTPS_PROXY")
        if problems:
            raise ConfigError("environment", problems)
        entries = (environ.get("NO_PROXY") or environ.get("no_proxy") or "").strip(_AROUND).split(",")
        parsed = (_Exception.parse(entry) for entry in map(str.lower, map(str.strip, entries)) if entry)
        return cls(http, https, tuple(each for each in parsed if each is not None))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``proxy`` of the rules: the proxy for everything, or ``off``.

        Raises:
            ValueError: it is neither; the message does not repeat the text.
        """
        if text == "off":
            return cls(note="proxy: off in the rules")
        proxy = Proxy.parse(text, "proxy under auth")
        return cls(proxy, proxy, always=True)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every form of a login, to be removed from the error messages of other libraries."""
        logins = [proxy.login for proxy in (self.http, self.https) if proxy is not None and proxy.login is not None]
        pairs = [base64.b64decode(login.removeprefix("Basic ")).decode() for login in logins]
        passwords = [pair.partition(":")[2] for pair in pairs]
        return (*logins, *pairs, *(quote(password, safe="") for password in passwords), *passwords)

    def find(self, url: URL) -> Proxy | None:
        """Return the proxy for a target; None to connect directly."""
        proxy = self.http if url.scheme == "http" else self.https
        return None if proxy is None or self._why_not(url) else proxy

    def are_direct(self, url: URL) -> bool:
        """Tell whether nothing but the target's own TLS lies between a request and its socket: no TLS with a proxy."""
        return (proxy := self.find(url)) is None or proxy.url.scheme == "http"

    def describe(self, url: URL) -> str:
        """Say how a target is reached; empty if nothing names a proxy for it."""
        proxy = self.find(url)
        if proxy is not None:
            return f"through the proxy {proxy} ({proxy.setting})"
        reason = self._why_not(url) if (self.http if url.scheme == "http" else self.https) else self.note
        return f"directly ({reason})" if reason else ""

    def attribute(self, error: RegistryError, method: str, url: URL) -> RegistryError:
        """Return the error for an answer that a proxy may have given itself, in words that name the proxy.

        Over plain HTTP a proxy's own answers look like the registry's, but never have a registry's error codes.
        """
        proxy = self.http if url.scheme == "http" else None
        if proxy is None or self._why_not(url) or error.codes or method == "HEAD":
            return error
        also = f" (through the proxy {proxy})"
        return error.recast(ProxyFailed, also) if error.status == 403 else error.again(also)

    def _why_not(self, url: URL) -> str:
        if self.always:
            return ""
        host = (url.raw_host or "").lower()
        try:
            address = ip_address(plain_address(host))
        except ValueError:
            address = None
        if host == "localhost" or (address is not None and address.is_loopback):
            return "an address of this machine"
        port = str(url.port)
        found = next((each for each in self.exceptions if each.matches(host, port, address)), None)
        return f"NO_PROXY has {found.text}" if found is not None else ""


async def connect(url: URL, proxy: Proxy | None, tls: ssl.SSLContext | None) -> asyncio.StreamWriter:
    """Connect to a target, through a proxy if there is one, and send nothing; plain HTTP ends at the proxy.

    Args:
        url: the target.
        proxy: from `Proxies.find`.
        tls: the context for the target; None for plain HTTP.

    Raises:
        ProxyFailed: the proxy refused, or takes no connection.
        OSError: no connection to the target, or no TLS.
    """
    if proxy is None:
        return (await asyncio.open_connection(url.host, url.port, ssl=tls))[1]
    secured = ssl.create_default_context() if proxy.url.scheme == "https" else None
    try:
        reader, writer = await asyncio.open_connection(proxy.url.host, proxy.url.port, ssl=secured)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ProxyFailed(f"no connection to the proxy {proxy}: {reason}", f"check {proxy.setting}") from error
    try:
        if tls is not None:
            where = f"{url.host_subcomponent}:{url.port}"
            headers = {"Host": where} | proxy.credentials
            lines = [f"CONNECT {where} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
            writer.write("\r\n".join(lines).encode())
            _check(proxy, url, await reader.readuntil(b"\r\n\r\n"))
            await writer.start_tls(tls, server_hostname=url.host)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        writer.transport.abort()
        raise ProxyFailed(f"the answer of the proxy {proxy} is not HTTP", f"check {proxy.setting}") from None
    except BaseException:
        writer.transport.abort()
        raise
    return writer


def _check(proxy: Proxy, url: URL, head: bytes) -> None:
    version, _, rest = head.partition(b" ")
    status = int(rest[:3]) if version.startswith(b"HTTP/1.") and rest[:3].isdigit() else 0
    if status != 200:
        raise proxy.refusal(url, status)
