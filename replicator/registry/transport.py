"""HTTP requests to one registry under one login: address, TLS, login, redirects, deadlines and retries.

This module knows nothing of blobs and manifests; `replicator.registry.client.RemoteRepository` does.
"""

from __future__ import annotations

import asyncio
import io
import ssl
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import aiohttp
import structlog
from yarl import URL

from replicator.registry.auth import Authorizer, lacks_scope
from replicator.registry.connection import (
    AddressGuard,
    Reply,
    Request,
    connection_error,
    explicit_base,
    follow,
    names_registry,
    read_body,
    resolve,
    tls_of,
)
from replicator.registry.errors import (
    ConnectionFailed,
    LoginRefused,
    ManifestIncomplete,
    NoTls,
    ProtocolViolated,
    StorageRefused,
    TooManyRequests,
    UploadLost,
    from_answer,
    request_context,
)
from replicator.registry.limits import Abilities
from replicator.retry import is_transient, parse_retry_after, retrying

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable
    from contextlib import AbstractContextManager

    from replicator.registry.credentials import Access
    from replicator.registry.errors import RegistryError
    from replicator.registry.limits import HostLimits, RequestObserver, Timing

_log = structlog.get_logger("replicator.registry")

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
_MAX_ERROR_BODY = 16 * 1024
_MAX_TOKEN_ANSWER = 64 * 1024
_THROTTLE_DEFAULT = 1.0
"""Seconds that a host is left alone after a 429 without a Retry-After."""


class Transport:
    """Requests to one registry under one login.

    Args:
        registry: the host the rules name; in every error.
        access: address, TLS and login.
        session: an open client session that neither decompresses nor follows redirects by itself.
        limits: shared by all transports of this host.
        timing: deadlines and attempts.
        observer: sees every request.
    """

    def __init__(
        self,
        registry: str,
        access: Access,
        session: aiohttp.ClientSession,
        limits: HostLimits,
        timing: Timing,
        observer: RequestObserver,
    ) -> None:
        self.registry = registry
        self.limits = limits
        self.timing = timing
        self.observer = observer
        # Not shared with other logins: the registry may allow another what it refuses to this one.
        self.abilities = Abilities()
        self.authorizer = Authorizer(access, self)
        self._access = access
        self._session = session
        self._ssl = tls_of(access)
        self._guard = AddressGuard(registry)
        self._base = explicit_base(registry, access)
        self._base_lock = asyncio.Lock()

    async def url(self, path: str) -> URL:
        """Return the URL of ``path`` (already percent-encoded, from ``/v2/`` on) at this registry.

        Raises:
            RegistryError: the registry can't be reached to find out its scheme.
        """
        if self._base is None:
            async with self._base_lock:
                self._base = self._base or await self._discover()
        return URL(f"{self._base}{path}", encoded=True)

    def context(self, request: Request) -> AbstractContextManager[None]:
        """Name this registry and ``request`` in every error that is raised in this block."""
        return request_context(self.registry, str(request))

    async def call(
        self,
        request: Request,
        *,
        expect: Collection[int],
        max_body: int = _MAX_ERROR_BODY,
        attempts: int | None = None,
    ) -> Reply:
        """Send a short request, again after transient faults, and return an expected answer.

        Args:
            request: its body is not a stream.
            expect: the statuses that are answers; all others are errors.
            max_body: bytes of the answer that are read.
            attempts: how many there are in all, instead of ``timing.attempts``.

        Raises:
            RegistryError: what the answer meant, or that there was none.
        """

        async def attempt() -> Reply:
            async with self.limits.slot():
                with self.context(request):
                    return await self._call_once(request, expect, max_body)

        return await retrying(
            attempt, attempts=attempts or self.timing.attempts, retryable=_is_retryable, on_retry=_log_retry
        )

    async def _call_once(self, request: Request, expect: Collection[int], max_body: int) -> Reply:
        try:
            # For the whole of it: a server that sends a byte now and then never meets the limit of a single read.
            async with asyncio.timeout(self.timing.commit), self.exchange(request) as response:
                if response.status not in expect:
                    raise await self.failure(response)
                body = b"" if request.method == "HEAD" else await self._read(response, max_body + 1)
                if len(body) > max_body:
                    raise ProtocolViolated(f"the answer is larger than {max_body} bytes")
                self.limits.answered()
                return Reply(response.status, response.headers, body, response.url)
        except TimeoutError as error:
            raise ConnectionFailed(f"not answered in {self.timing.commit:g} s") from error

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
        refusals = 0
        with self.context(request):
            while True:
                authorization = await self.authorizer.header(request.scopes, long=request.streams, basic=request.basic)
                async with self._follow(request, authorization) as response:
                    if response.status != 401:
                        if authorization is not None:
                            denied = response.status == 403
                            self.authorizer.accepted(request.scopes, upload=request.streams, denied=denied)
                        yield response
                        return
                    refusals += authorization is not None
                    await self._meet_challenge(request, response, authorization, last=refusals > 1)

    async def _meet_challenge(
        self, request: Request, response: aiohttp.ClientResponse, authorization: str | None, *, last: bool
    ) -> None:
        """Learn from a 401; return if another attempt may succeed, and raise what the 401 means if not."""
        error = await self.failure(response)
        if isinstance(error, StorageRefused):
            # The login is not for the host of the redirect, so its challenge names no realm to trust.
            raise error
        challenges = response.headers.getall("WWW-Authenticate", [])
        again = self.authorizer.challenged(challenges, request.scopes, authorization, basic=request.basic)
        if request.streams and not self.authorizer.upload_refused(request.scopes, authorization):
            # The stream is consumed: only its owner can start it again.
            raise error.recast(UploadLost)
        if request.streams or last or not again:
            if lacks_scope(challenges):
                raise error.again(f": the login does not allow {' '.join(sorted(request.scopes))}")
            raise error

    @asynccontextmanager
    async def _follow(self, request: Request, authorization: str | None) -> AsyncIterator[aiohttp.ClientResponse]:
        home = (await self.url("/")).origin()
        here = request.url
        for _ in range(_MAX_REDIRECTS + 1):
            headers = dict(request.headers)
            if here.origin() != home:
                # Login and agent name are for this registry, not for the storage that it redirects to.
                headers.pop("User-Agent", None)
            elif authorization is not None:
                headers["Authorization"] = authorization
            hop = replace(request, url=here, headers=headers)
            with self.context(hop):
                response = await self._send(hop)
                try:
                    location = response.headers.get("Location")
                    redirects = response.status in _REDIRECTS and request.method in ("GET", "HEAD")
                    if not redirects or location is None:
                        yield response
                        return
                    target = resolve(here, location)
                    if here.scheme == "https" and target.scheme == "http" and not self._access.insecure:
                        raise ProtocolViolated(f"redirected from HTTPS to plain HTTP at {target.host}: refused")
                finally:
                    response.release()
            here = target
        raise ProtocolViolated(f"more than {_MAX_REDIRECTS} redirects")

    def follow(self, reply: Reply, target: str) -> URL:
        """Return the URL that an answer points to for the next request, its query kept.

        Args:
            reply: the answer.
            target: its Location, or the target of its Link; absolute or relative.

        Raises:
            ProtocolViolated: it is not at this registry.
        """
        return follow(reply, target, registry=self.registry, access=self._access)

    async def failure(self, response: aiohttp.ClientResponse) -> RegistryError:
        """Return the error that an unwanted answer means; a 429 or 503 that asks for it slows the whole host."""
        error = await self._read_failure(response)
        if response.status in (401, 403) and response.url.origin() != (await self.url("/")).origin():
            return error.recast(StorageRefused, f" (answer of {response.url.host}, which the registry redirects to)")
        return error

    async def _read_failure(self, response: aiohttp.ClientResponse) -> RegistryError:
        body = b""
        # A 416 of distribution 2.8 announces a length that it does not send: waiting for its body would end in a
        # timeout.
        if response.method != "HEAD" and response.status != 416:
            body = await self._read(response, _MAX_ERROR_BODY, within=self.timing.read, partial=True)
        retry_after = parse_retry_after(response.headers.get("Retry-After"))
        error = from_answer(response.status, body, retry_after=retry_after)
        if isinstance(error, TooManyRequests) or (response.status == 503 and retry_after is not None):
            self.observer.throttled(self.registry)
            self.limits.throttle(retry_after if retry_after is not None else _THROTTLE_DEFAULT)
        elif response.status < 500:
            self.limits.answered()
        return error

    async def fetch_token(
        self, realm: URL, query: Iterable[tuple[str, str]], authorization: str | None, form: bytes | None = None
    ) -> bytes:
        """GET or POST a token endpoint and return its 200's body; see `replicator.registry.auth.TokenSource`."""
        method = "GET" if form is None else "POST"
        headers = {"Authorization": authorization} if authorization is not None else {}
        headers |= {"Content-Type": "application/x-www-form-urlencoded"} if form is not None else {}
        # With the host: it is often another than the registry's.
        label = f"{method} {realm.host}{realm.path} (token)"
        with request_context(self.registry, label):
            url = await self._token_url(realm, secret=bool(authorization or form))
            request = Request(method, url.extend_query(list(query)), headers=headers, body=form)

        async def attempt() -> bytes:
            with request_context(self.registry, label):
                return await self._fetch_token_once(request)

        return await retrying(attempt, attempts=self.timing.attempts, on_retry=_log_retry)

    async def _token_url(self, realm: URL, *, secret: bool) -> URL:
        """Return where a realm is reached; a registry with an endpoint of its own names its public address."""
        if realm.scheme not in ("http", "https") or not realm.host:
            raise ProtocolViolated(f"the challenge's realm {str(realm)!r} is not an HTTP URL")
        home = await self.url("/")
        if self._access.endpoint is not None and names_registry(realm, self.registry):
            realm = realm.with_scheme(home.scheme).with_host(home.host or "").with_port(home.port)
        if secret and realm.scheme == "http" and home.scheme == "https":
            raise ProtocolViolated("the challenge asks for the password over plain HTTP: refused")
        return realm

    async def _fetch_token_once(self, request: Request) -> bytes:
        response = await self._send(request)
        try:
            if response.status == 200:
                # Every request for this scope waits for the token, so a dripping answer has the time of one read.
                return await self._read(response, _MAX_TOKEN_ANSWER, within=self.timing.read)
            error = await self._read_failure(response)
        finally:
            response.release()
        form = request.body is not None
        # An endpoint without refresh tokens, such as Harbor's, has no POST.
        if response.status in (400, 401, 403) or (form and response.status in (404, 405)):
            secret = "identity token" if form else "login"
            raise LoginRefused(f"the {secret} was refused: {error.why}", error.do, status=response.status)
        raise error

    async def _send(self, request: Request) -> aiohttp.ClientResponse:
        timing, url, body = self.timing, request.url, request.body
        sock_read = timing.commit if body is not None else timing.read
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=timing.connect, sock_read=sock_read)
        # Interim answers and dripping headers never meet the limit of a read. A stream has limits of its own.
        within = None if request.streams else timing.commit
        began, status = time.monotonic(), None
        try:
            async with asyncio.timeout(within), self._guard.towards(url, self._base):
                response = await self._session.request(
                    request.method,
                    url,
                    headers={"Accept-Encoding": "identity", **request.headers},
                    # As a file: aiohttp warns about large bytes, which it writes in one go.
                    data=io.BytesIO(body) if isinstance(body, bytes) else body,
                    allow_redirects=False,
                    timeout=timeout,
                    ssl=self._guard.tls_at(url, self._ssl, self._base),
                )
        except (aiohttp.ClientError, OSError, ssl.SSLError, ValueError) as error:
            raise connection_error(url, error) from error
        else:
            status = response.status
            if isinstance(body, bytes):
                self.observer.sent(self.registry, len(body))
            return response
        finally:
            self.observer.answered(self.registry, request.method, status, time.monotonic() - began)

    async def _read(
        self, response: aiohttp.ClientResponse, limit: int, *, within: float | None = None, partial: bool = False
    ) -> bytes:
        def count(size: int) -> None:
            self.observer.received(self.registry, size)

        return await read_body(response, limit, count, within=within, partial=partial)

    async def _discover(self) -> URL:
        """Find out whether a registry marked insecure speaks HTTPS or plain HTTP: HTTPS is tried first."""
        address = self._access.endpoint or self.registry
        failures = []
        for base in (URL(f"https://{address}"), URL(f"http://{address}")):
            request = Request("GET", base / "v2/")
            try:
                with self.context(request):
                    response = await self._send(request)
            except ConnectionFailed as error:
                failures.append(error)
                continue
            if response.status == 401:
                # The challenge saves the first real request a refusal.
                self.authorizer.challenged(response.headers.getall("WWW-Authenticate", []), frozenset(), None)
            response.release()
            return base
        # Both failed. "No TLS" is permanent, but plain HTTP may have failed for a moment only: that error wins.
        raise next((failure for failure in failures if not isinstance(failure, NoTls)), failures[0])


def _is_retryable(error: Exception) -> bool:
    # What a manifest misses must be pushed first: the same PUT can't succeed.
    return is_transient(error) and not isinstance(error, ManifestIncomplete)


def _log_retry(error: Exception, attempt: int, pause: float) -> None:
    _log.debug("request repeated", error=str(error), attempt=attempt, wait=round(pause, 2))
