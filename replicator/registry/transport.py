"""One registry host over HTTP: which address and scheme, TLS, login, deadlines, redirects and repeated tries.

Nothing here knows what a blob or a manifest is; `replicator.registry.repository` does.
"""

from __future__ import annotations

import asyncio
import io
import ssl
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import aiohttp
import structlog
from yarl import URL

from replicator.registry.auth import Authorizer, lacks_scope
from replicator.registry.connection import (
    AddressGuard,
    Reply,
    connection_error,
    describe,
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
    RegistryError,
    StorageRefused,
    TooManyRequests,
    Unauthorized,
    UploadLost,
    from_answer,
)
from replicator.registry.limits import Abilities
from replicator.retry import is_transient, parse_retry_after, retrying

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from replicator.registry.credentials import Access
    from replicator.registry.limits import HostLimits, RequestObserver, Timing

_log = structlog.get_logger("replicator.registry")

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
_MAX_ERROR_BODY = 16 * 1024
_MAX_TOKEN_ANSWER = 64 * 1024
_THROTTLE_UNSAID = 1.0
"""Seconds a host is left alone after a 429 that does not say how long."""


class Transport:
    """Requests to one registry under one login.

    Args:
        registry: the host the rules name; in every error.
        access: address, TLS and login.
        session: an open client session that neither decompresses nor follows redirects by itself.
        limits: shared by all transports of this host.
        timing: deadlines and tries.
        observer: told of every request.
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
        self.timing = timing
        self.observer = observer
        self._access = access
        self._session = session
        self.limits = limits
        # Not shared with other logins: what one of them may not do, the registry still can.
        self.abilities = Abilities()
        self.authorizer = Authorizer(registry, access, self)
        self._ssl = tls_of(access)
        self._reach = AddressGuard(registry)
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

    async def pause(self) -> None:
        """Wait while the host wants peace; for what is sent outside of `call`."""
        await self.limits.pause()

    async def call(
        self,
        method: str,
        url: URL,
        *,
        scopes: frozenset[str],
        expect: Iterable[int],
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        max_body: int = _MAX_ERROR_BODY,
        tries: int | None = None,
        basic: bool = False,
    ) -> Reply:
        """Send a short request, again after passing faults, and return an expected answer.

        Args:
            method: GET, HEAD, POST, PUT or DELETE.
            url: from `url`, or from a Location.
            scopes: what a token must allow.
            expect: the statuses that are answers; all others are errors.
            headers: further headers.
            data: a short body, sent anew with each try.
            max_body: bytes of the answer that are read at the most.
            tries: how often at the most, instead of the transport's own number.
            basic: log in by HTTP Basic without being asked to, as REST APIs beside the registry want it.

        Raises:
            RegistryError: what the answer meant, or that there was none.
        """
        wanted = frozenset(expect)

        async def attempt() -> Reply:
            async with self.limits.slot():
                return await self._call_once(method, url, scopes, wanted, headers, data, max_body, basic=basic)

        return await retrying(
            attempt, attempts=tries or self.timing.tries, retryable=_worth_another, on_retry=_log_retry
        )

    async def _call_once(
        self,
        method: str,
        url: URL,
        scopes: frozenset[str],
        expect: frozenset[int],
        headers: Mapping[str, str] | None,
        data: bytes | None,
        max_body: int,
        *,
        basic: bool,
    ) -> Reply:
        request = describe(method, url)
        try:
            # A side that sends a byte now and then never meets the limit of a read.
            async with (
                asyncio.timeout(self.timing.commit),
                self.exchange(method, url, scopes=scopes, headers=headers, data=data, basic=basic) as response,
            ):
                if response.status not in expect:
                    raise await self.failure(method, response)
                body = b"" if method == "HEAD" else await self._read(response, max_body + 1, request)
                if len(body) > max_body:
                    raise ProtocolViolated(self.registry, request, f"the answer is larger than {max_body} bytes")
                self.limits.answered()
                return Reply(response.status, response.headers, body, response.url)
        except TimeoutError as error:
            raise ConnectionFailed(self.registry, request, f"not answered in {self.timing.commit:g} s") from error

    @asynccontextmanager
    async def exchange(
        self,
        method: str,
        url: URL,
        *,
        scopes: frozenset[str],
        headers: Mapping[str, str] | None = None,
        data: bytes | AsyncIterator[bytes] | None = None,
        basic: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request once, logging in as the registry asks and following redirects; yield any final answer.

        Redirects are followed for GET and HEAD. The login stays with this registry: a redirect to another host
        carries none (specification, "Pulling blobs"), and one from HTTPS to plain HTTP is refused.

        Raises:
            ConnectionFailed, CertificateRefused: there was no answer.
            Unauthorized: the registry's challenge can't be met.
            UploadLost: a streamed body was answered 401 for once; a fresh login is ready for the next upload.
        """
        streamed = data is not None and not isinstance(data, bytes)
        refusals = 0
        while True:
            authorization = await self.authorizer.header(scopes, long=streamed, basic=basic)
            async with self._follow(method, url, headers, data, authorization) as response:
                if response.status != 401:
                    if authorization is not None:
                        self.authorizer.accepted(scopes, upload=streamed, denied=response.status == 403)
                    yield response
                    return
                error = await self.failure(method, response)
                if response.url.origin() != (await self.url("/")).origin():
                    # Where a redirect led to is not who the login is for: its challenge names no realm to trust.
                    raise error
                refusals += authorization is not None
                challenges = response.headers.getall("WWW-Authenticate", [])
                again = self.authorizer.challenged(challenges, scopes, authorization, basic=basic)
                if streamed and not self.authorizer.upload_refused(scopes, authorization):
                    raise UploadLost(self.registry, error.request, error.detail, status=401)
                if streamed or not again or refusals > 1:
                    if lacks_scope(challenges):
                        allowed = f"{error.detail}: the login holds but does not allow {' '.join(sorted(scopes))}"
                        raise Unauthorized(self.registry, error.request, allowed, status=401, codes=error.codes)
                    raise error

    @asynccontextmanager
    async def _follow(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str] | None,
        data: bytes | AsyncIterator[bytes] | None,
        authorization: str | None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        home = await self.url("/")
        here = url
        for _ in range(_MAX_REDIRECTS + 1):
            sent = dict(headers or {})
            if here.origin() != home.origin():
                # The login and another name are for this registry, not for who it redirects to.
                sent.pop("User-Agent", None)
            elif authorization is not None:
                sent["Authorization"] = authorization
            response = await self._send(method, here, sent, data)
            try:
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or method not in ("GET", "HEAD") or location is None:
                    yield response
                    return
                target = resolve(here, location, registry=self.registry, request=describe(method, here))
                if here.scheme == "https" and target.scheme == "http" and not self._access.insecure:
                    refusal = f"redirected from HTTPS to plain HTTP at {target.host}: refused"
                    raise ProtocolViolated(self.registry, describe(method, here), refusal)
            finally:
                response.release()
            here = target
        raise ProtocolViolated(self.registry, describe(method, url), f"more than {_MAX_REDIRECTS} redirects")

    def follow(self, reply: Reply, target: str, request: str) -> URL:
        """Return the URL that an answer points to for the next request, absolute or relative, its query kept.

        Args:
            reply: the answer.
            target: its Location, or the target of its Link.
            request: what was asked, for the error.

        Raises:
            ProtocolViolated: it is not at this registry.
        """
        return follow(reply, target, registry=self.registry, access=self._access, request=request)

    async def failure(self, method: str, response: aiohttp.ClientResponse) -> RegistryError:
        """Read an unwanted answer and return what it means; a 429 or 503 that says so slows the whole host."""
        request = describe(method, response.url)
        # A 416 of distribution 2.8 announces a length it does not send: its body is never waited for.
        body = b"" if method == "HEAD" or response.status == 416 else await self._read(response, _MAX_ERROR_BODY, None)
        retry_after = parse_retry_after(response.headers.get("Retry-After"))
        error = from_answer(self.registry, request, response.status, body, retry_after=retry_after)
        if response.status in (401, 403) and response.url.origin() != (await self.url("/")).origin():
            told = f"{error.detail}: so answered {response.url.host}, which the registry redirects to"
            error = StorageRefused(self.registry, request, told, status=response.status, codes=error.codes)
        if isinstance(error, TooManyRequests) or (response.status == 503 and retry_after is not None):
            self.observer.throttled(self.registry)
            self.limits.throttle(retry_after if retry_after is not None else _THROTTLE_UNSAID)
        elif response.status < 500:
            self.limits.answered()
        return error

    async def fetch_token(
        self, realm: URL, query: Iterable[tuple[str, str]], authorization: str | None, form: bytes | None = None
    ) -> bytes:
        """GET or POST a token endpoint and return its 200's body; see `replicator.registry.auth.TokenSource`."""
        method = "GET" if form is None else "POST"
        request = f"{method} {realm.host}{realm.path} (token)"
        if realm.scheme not in ("http", "https") or not realm.host:
            raise ProtocolViolated(self.registry, request, f"the challenge's realm {str(realm)!r} is not an HTTP URL")
        home = await self.url("/")
        if self._access.endpoint is not None and names_registry(realm, self.registry):
            realm = realm.with_scheme(home.scheme).with_host(home.host or "").with_port(home.port)
        if (authorization or form) and realm.scheme == "http" and home.scheme == "https":
            detail = "the challenge asks for the password over plain HTTP: refused"
            raise ProtocolViolated(self.registry, request, detail)
        url = realm.extend_query(list(query))
        headers = {"Authorization": authorization} if authorization is not None else {}
        headers |= {"Content-Type": "application/x-www-form-urlencoded"} if form is not None else {}

        async def attempt() -> bytes:
            response = await self._send(method, url, headers, form)
            try:
                if response.status == 200:
                    # All who need a token of this scope wait for it; a byte now and then is no progress.
                    return await self._read(response, _MAX_TOKEN_ANSWER, request, within=self.timing.read)
                error = await self.failure(method, response)
            finally:
                response.release()
            # An endpoint that knows no refresh tokens, such as Harbor's, has no POST.
            if response.status in (400, 401, 403) or (form and response.status in (404, 405)):
                detail = f"the {'identity token' if form else 'login'} was refused: {error.detail}"
                raise LoginRefused(self.registry, request, detail, status=response.status)
            raise error

        return await retrying(attempt, attempts=self.timing.tries, on_retry=_log_retry)

    async def _send(
        self, method: str, url: URL, headers: Mapping[str, str], data: bytes | AsyncIterator[bytes] | None
    ) -> aiohttp.ClientResponse:
        timing = self.timing
        sock_read = timing.commit if data is not None else timing.read
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=timing.connect, sock_read=sock_read)
        request = describe(method, url)
        # Interim answers and headers that drip never meet the limit of a read. A streamed body has limits of its own.
        within = timing.commit if data is None or isinstance(data, bytes) else None
        began, status = time.monotonic(), None
        try:
            async with asyncio.timeout(within), self._reach.towards(url, self._base):
                response = await self._session.request(
                    method,
                    url,
                    headers={"Accept-Encoding": "identity", **headers},
                    # As a file: of large bytes aiohttp warns that they are copied in one go.
                    data=io.BytesIO(data) if isinstance(data, bytes) else data,
                    allow_redirects=False,
                    timeout=timeout,
                    ssl=self._reach.tls_at(url, self._ssl, self._base),
                )
        except (aiohttp.ClientError, OSError, ssl.SSLError, ValueError) as error:
            raise connection_error(self.registry, request, url, error) from error
        else:
            status = response.status
            if isinstance(data, bytes):
                self.observer.sent(self.registry, len(data))
            return response
        finally:
            self.observer.answered(self.registry, method, status, time.monotonic() - began)

    async def _read(
        self, response: aiohttp.ClientResponse, limit: int, request: str | None, *, within: float | None = None
    ) -> bytes:
        """Read at most ``limit`` bytes, in ``within`` seconds; with no ``request`` named, what fails is left out."""
        count = partial(self.observer.received, self.registry)
        # What is left out when it fails is not worth more than one read's time, however it drips.
        within = self.timing.read if request is None else within
        return await read_body(response, limit, count, registry=self.registry, request=request, within=within)

    async def _discover(self) -> URL:
        """Find out whether a registry marked insecure speaks HTTPS or plain HTTP: HTTPS is tried first."""
        address = self._access.endpoint or self.registry
        failures = []
        for base in (URL(f"https://{address}"), URL(f"http://{address}")):
            try:
                response = await self._send("GET", base / "v2/", {}, None)
            except ConnectionFailed as error:
                failures.append(error)
                continue
            if response.status == 401:
                # It says how to log in, too: the first request that matters need not be refused to learn that.
                self.authorizer.challenged(response.headers.getall("WWW-Authenticate", []), frozenset(), None)
            response.release()
            return base
        # That it speaks no TLS is no reason any more once plain HTTP has failed in its own way, perhaps for a moment.
        raise next((failure for failure in failures if not isinstance(failure, NoTls)), failures[0])


def _worth_another(error: Exception) -> bool:
    # What a manifest misses must be pushed first: the same PUT can't succeed.
    return is_transient(error) and not isinstance(error, ManifestIncomplete)


def _log_retry(error: Exception, attempt: int, pause: float) -> None:
    _log.debug("request repeated", error=str(error), attempt=attempt, wait=round(pause, 2))
