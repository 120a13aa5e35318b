"""HTTP requests to one registry under one login: address, TLS, login, redirects, deadlines and retries.

This module knows nothing of blobs and manifests; `replicator.registry.client.RemoteRepository` does.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import aiohttp
from yarl import URL

from replicator.errors import SENT_LOGINS
from replicator.registry.addresses import AddressGuard
from replicator.registry.auth import Authorizer
from replicator.registry.circuit import SLOW_STALL, STALL
from replicator.registry.connection import (
    Answered,
    Reply,
    Request,
    explicit_base,
    find_base,
    follow,
    limited_to,
    log_retry,
    read_body,
    resolve,
    same_origin,
    timeout_of,
    tls_of,
)
from replicator.registry.connection_errors import (
    answered_elsewhere,
    connection_error,
    foreign_answer,
    from_answer,
    is_page,
)
from replicator.registry.connector import ShortRequests
from replicator.registry.errors import ConnectionFailed, ProtocolViolated, RegistryError, request_context
from replicator.registry.limits import Abilities
from replicator.registry.proxies import Proxies
from replicator.registry.pump import threaded_tls
from replicator.registry.refusals import Refusals
from replicator.registry.token_endpoint import TokenEndpoint
from replicator.retry import alive, parse_retry_after, retrying
from replicator.tasks import Shared

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection
    from contextlib import AbstractContextManager

    from replicator.registry.circuit import Circuit, Contact
    from replicator.registry.connector import Answer
    from replicator.registry.credentials import Access
    from replicator.registry.ladder import LoginLadder
    from replicator.registry.limits import HostLimits, RequestObserver, Timing

REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
_MAX_ERROR_BODY = 16 * 1024
_Hop = tuple[URL, dict[str, str]]
"""Where a request goes next, and the headers that it has there."""


class Transport:
    """Requests to one registry under one login.

    Args:
        registry: the host the rules name; in every error.
        access: address, TLS, proxies and login.
        session: an open client session that neither decompresses nor follows redirects by itself.
        limits: shared by all transports of this host.
        timing: deadlines and attempts.
        observer: sees every request.
        ladder: of the login.
    """

    def __init__(
        self,
        registry: str,
        access: Access,
        session: aiohttp.ClientSession,
        limits: HostLimits,
        timing: Timing,
        observer: RequestObserver,
        ladder: LoginLadder,
    ) -> None:
        self.registry, self.limits = registry, limits
        self.timing, self.observer = timing, observer
        # Not shared with other logins: the registry may allow another what it refuses to this one.
        self.abilities = Abilities()
        self.authorizer = Authorizer(access, TokenEndpoint(self, access), ladder)
        self._access, self._session = access, session
        self._ssl = tls_of(access)
        self._verified = tls_of(replace(access, insecure=False)) if access.insecure else self._ssl
        self._proxies = access.proxies or Proxies()
        self.is_direct = self._proxies.are_direct
        self._guard = AddressGuard(registry)
        self._base = explicit_base(registry, access)
        self._prefix = str(self._base or "")
        self._short: ShortRequests | None = None
        # All requests wait for one discovery, and get its failure together.
        self._discovery = Shared(self._discover)

    async def url(self, path: str) -> URL:
        """Return the URL of ``path`` (already percent-encoded, from ``/v2/`` on) at this registry.

        Raises:
            RegistryError: the registry can't be reached to find out its scheme.
        """
        if self._base is None:
            try:
                self._base = await self._discovery.result()
                self._prefix = str(self._base)
            except RegistryError as error:
                raise error.again() from error
        return URL(self._prefix + path, encoded=True)

    def context(self, request: Request) -> AbstractContextManager[None]:
        """Name this registry and ``request`` in every error that is raised in this block."""
        return request_context(self.registry, request)

    async def call(
        self,
        request: Request,
        *,
        expect: Collection[int],
        max_body: int = _MAX_ERROR_BODY,
        attempts: int | None = None,
        waited: bool = False,
        patient: bool = False,
    ) -> Reply:
        """Send a short request, again after transient faults, and return an expected answer.

        Args:
            request: its body is not a stream.
            expect: the statuses that are answers; all others are errors.
            max_body: bytes of the answer that are read.
            attempts: how many there are in all, instead of ``timing.attempts``.
            waited: the caller waited for the host's rate (`HostLimits.ready`), as its own deadline runs by now.
            patient: wait for a host that does not answer, see `retrying`; for lists, which no queue takes back.

        Raises:
            RegistryError: the answer was an error, or there was none.
        """

        async def attempt() -> Reply:
            # Before a place is held: a request that waits here must not block others.
            await self.limits.admit(len(request.body) if isinstance(request.body, bytes) else 0, waited=waited)
            async with self.limits.slot():
                with self.context(request):
                    return await self._call_once(request, expect, max_body)

        most = attempts or self.timing.attempts
        return await retrying(attempt, attempts=most, on_retry=log_retry, patient=patient)

    async def _call_once(self, request: Request, expect: Collection[int], max_body: int) -> Reply:
        try:
            # For the whole of it: a server that sends a byte now and then never meets the limit of a single read.
            async with asyncio.timeout(self.timing.commit):
                with Answered(self.registry, await self._answer(request, limited=True)) as response:
                    if response.status not in expect:
                        raise await self.failure(response)
                    empty = request.method == "HEAD" or response.content.at_eof()
                    body = b"" if empty else await self.read(response, max_body + 1)
                    if body and is_page(body):
                        raise foreign_answer(response.status, body, request.method)
                    if len(body) > max_body:
                        raise ProtocolViolated(f"the answer is larger than {max_body} bytes")
                    self.limits.answered()
                    return Reply(response.status, response.headers, body, response.url)
        except TimeoutError as error:
            raise ConnectionFailed(f"no answer within {self.timing.commit:g} s") from error

    @asynccontextmanager
    async def exchange(self, request: Request) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request once, logging in as the registry asks and following redirects; yield any final answer.

        Redirects are followed for GET and HEAD. The login stays with this registry: a redirect to another host
        carries none (specification, "Pulling blobs"), and one from HTTPS to plain HTTP is refused.

        Raises:
            ConnectionFailed, CertificateRefused: there was no answer.
            Unauthorized: the registry's challenge can't be met.
            UploadLost: a stream was answered 401 for the first time; the next upload gets a fresh login.
        """
        with self.context(request), Answered(self.registry, await self._answer(request)) as response:
            # Only an answer within a limit, as in `call`, is a short one.
            yield cast("aiohttp.ClientResponse", response)

    async def _answer(self, request: Request, *, limited: bool = False) -> Answer:
        """Return the final answer for `exchange`, to be released; ``limited`` if its time is limited already."""
        refusals = Refusals(self.authorizer)
        while True:
            authorization = await self.authorizer.header_for(request)
            response = await self._follow(request, authorization, limited=limited)
            try:
                if response.status != 401:
                    await self.authorizer.settle(request, authorization, denied=response.status == 403)
                    return response
                await refusals.meet(await self.failure(response), response.headers, request, authorization)
            except BaseException:
                with Answered(self.registry, response):
                    raise
            response.release()
            await refusals.pause()
            # The repetition goes at once, as a deadline may run; later requests wait for it.
            self.limits.requests.spent(1)

    async def _follow(self, request: Request, authorization: str | None, *, limited: bool) -> Answer:
        base = self._base or (await self.url("/")).origin()
        here = request.url
        for _ in range(_MAX_REDIRECTS + 1):
            headers = dict(request.headers)
            if not same_origin(here, base):
                # Login and agent name are for this registry, not for the storage that it redirects to.
                headers.pop("User-Agent", None)
            elif authorization is not None:
                headers["Authorization"] = authorization
            try:
                response = await self.send(request, (here, headers), limited=limited)
                redirects = response.status in REDIRECTS and request.method in ("GET", "HEAD")
                location = response.headers.get("Location") if redirects and request.follows else None
                if location is None:
                    return response
                response.release()
                target = resolve(here, location)
                if here.scheme == "https" and target.scheme == "http" and not self._access.insecure:
                    why = f"redirected from HTTPS to plain HTTP at {target.host}: refused"
                    raise ProtocolViolated(why, f"insecure: true for {self.registry} under auth allows it")
            except RegistryError as error:
                error.at(self.registry, f"{request.method} {here.path}")
                raise
            here = target
        raise ProtocolViolated(f"more than {_MAX_REDIRECTS} redirects")

    def follow(self, reply: Reply, target: str) -> URL:
        """Return the URL that an answer points to, at this registry: see `replicator.registry.connection.follow`."""
        return follow(reply, target, registry=self.registry, access=self._access)

    async def failure(self, response: Answer) -> RegistryError:
        """Return the error that an unwanted answer means; a 429 or 503 that asks for it slows the whole host."""
        error = self._proxies.attribute(await self.read_failure(response), response.method, response.url)
        elsewhere = response.url.origin() != (await self.url("/")).origin()
        return answered_elsewhere(error, response.url.host) if elsewhere else error

    async def read_failure(self, response: Answer) -> RegistryError:
        """Return the error that an answer of any host means; the host is slowed as for `failure`."""
        body = b""
        # A 416 of distribution 2.8 announces a length that it does not send: waiting for its body would end in a
        # timeout.
        if response.method != "HEAD" and response.status != 416:
            body = await self.read(response, _MAX_ERROR_BODY, within=self.timing.read, partial=True)
        retry_after = parse_retry_after(response.headers.get("Retry-After"))
        challenges = "WWW-Authenticate" in response.headers
        speaker = "the registry" if self._base is None or response.url.origin() == self._base.origin() else "it"
        error = from_answer(
            response.status, body, response.method, challenges=challenges, retry_after=retry_after, speaker=speaker
        )
        if self.limits.overloaded(error):
            self.observer.throttled(self.registry)
        elif response.status < 500:
            self.limits.answered()
        return error

    async def send(
        self, request: Request, hop: _Hop | None = None, *, secret: bool = False, limited: bool = False
    ) -> Answer:
        """Send a request once; no redirects.

        Args:
            request: the request to send.
            hop: the URL and the headers, if they are others than the request's.
            secret: it goes to none but a verified host or the registry itself.
            limited: the caller limits the time until the answer.
        """
        url, headers = hop or (request.url, dict(request.headers))
        circuit = self.circuit(url)
        await circuit.admit()
        await self.limits.turn()
        with circuit.contact(STALL if request.body is None else SLOW_STALL) as contact:
            return await self._send(request, url, headers, contact, secret=secret, limited=limited)

    async def _send(
        self, request: Request, url: URL, headers: dict[str, str], contact: Contact, *, secret: bool, limited: bool
    ) -> Answer:
        """Send one HTTP request, whose answer or silence is the caller's to count."""
        timing, body, slow = self.timing, request.body, request.body is not None
        proxy, own = self._proxies.find(url), self._guard.is_own(url, self._base)
        # Before the caller's own limit, which could not tell the silence of the host from a long login, say.
        sock_read = timing.commit * (0.9 if limited else 1) if slow else timing.read
        if contact.probes:
            sock_read = min(sock_read, self.circuit(url).probe_timeout)
        # A proxy answers CONNECT only when it has connected itself. A stream has no other limit until its body begins.
        connect = timing.connect + timing.read if proxy is not None or request.streams else None
        headers.setdefault("Accept-Encoding", "identity")
        if proxy is not None and url.scheme == "http":
            headers |= proxy.credentials
        for login in (not self._access.is_anonymous and headers.get("Authorization"), proxy and proxy.login):
            if login:  # the token that anyone gets is no secret
                SENT_LOGINS.sent(login)
        began, status = time.monotonic(), None
        try:
            timeout = timeout_of(connect, timing.connect, sock_read)
            if limited and proxy is None and (short := self._short_to(request, url)) is not None:
                content, once = body if isinstance(body, bytes) else None, request.once
                response: Answer = await short.send(request.method, url, headers, timeout, body=content, once=once)
            else:
                # Interim answers and dripping headers never meet the limit of a read. A stream has limits of its own.
                within = None if limited or request.streams else timing.commit
                if request.once and isinstance(body, bytes):
                    headers["Content-Length"] = str(len(body))
                async with limited_to(within), self._guard.towards(url, self._base, self._proxies):
                    sending = self._session.request(
                        request.method,
                        url,
                        headers=headers,
                        data=request.data(contact, direct=self.is_direct(url)),
                        allow_redirects=False,
                        timeout=timeout,
                        ssl=threaded_tls(self._verified if secret and not own else self._ssl, url),
                        proxy=proxy.url if proxy is not None else None,
                        proxy_headers=proxy.credentials if proxy is not None else None,
                    )
                    response = await (sending if body is None or isinstance(body, bytes) else body.sent_by(sending))
        except (aiohttp.ClientError, OSError, ssl.SSLError, ValueError) as error:
            led_by, ca_file = None if own else self.registry, self._access.ca_file
            raise connection_error(url, error, proxy=proxy, led_by=led_by, ca_file=ca_file, slow=slow) from error
        else:
            status = response.status
            alive()
            if isinstance(body, bytes):
                self.observer.sent(self.registry, len(body))
            elif body is not None:
                body.answered()
            if status == 407 and proxy is not None:
                response.release()
                raise proxy.refusal(url, status)
            return response
        finally:
            self.observer.answered(self.registry, request.method, status, time.monotonic() - began)

    def _short_to(self, request: Request, url: URL) -> ShortRequests | None:
        """Return the short way to a URL; None if that is not at the registry's address, or the request is not short."""
        base = self._base
        if base is None or (url.raw_authority, url.scheme) != (base.raw_authority, base.scheme) or not request.is_short:
            return None
        self._short = self._short or ShortRequests(self._session, base, threaded_tls(self._ssl, base))
        return self._short

    def circuit(self, url: URL) -> Circuit:
        """Return the circuit of the host of a URL: the registry's own, or its token server's or storage's."""
        return self.limits.circuit("" if self._guard.is_own(url, self._base) else url.host or "")

    def silent(self, error: ConnectionFailed, waited: float, url: URL | None = None) -> ConnectionFailed:
        """Count ``waited`` seconds without a byte, of the registry or of the host of ``url``, and return the error."""
        return (self.limits.circuit() if url is None else self.circuit(url)).silent(error, waited)

    async def read(self, response: Answer, limit: int, *, within: float | None = None, partial: bool = False) -> bytes:
        """Read at most ``limit`` bytes of an answer; see `replicator.registry.connection.read_body`."""

        def count(size: int) -> None:
            alive()
            self.observer.received(self.registry, size)

        try:
            return await read_body(response, limit, count, within=within, partial=partial)
        except ConnectionFailed as error:
            if error.silent:
                self.silent(error, within or self.timing.read, response.url)
            raise

    async def _discover(self) -> URL:
        """Find out whether a registry marked insecure speaks HTTPS or plain HTTP."""

        async def ask(base: URL) -> list[str]:
            request = Request("GET", base / "v2/")
            with self.context(request):
                response = await self._send(request, request.url, {}, contact, secret=False, limited=False)
                response.release()
                proxy = self._proxies.find(base)
                if proxy is not None and base.scheme == "http" and (response.status == 403 or response.status >= 500):
                    # The proxy's own answer says nothing of the registry's scheme.
                    raise proxy.refusal(base, response.status)
            return response.headers.getall("WWW-Authenticate", []) if response.status == 401 else []

        # One contact: a firewall that drops what goes to port 443 is no silence if port 80 answers.
        with self.limits.circuit().contact() as contact:
            address = self._access.endpoint or self.registry
            at_once = self._proxies.find(URL(f"http://{address}")) is None  # a proxy would have to connect twice
            base, challenges = await find_base(address, ask, at_once=at_once)
        self.authorizer.challenged(challenges, frozenset(), None)  # saves the first real request a refusal
        return base
