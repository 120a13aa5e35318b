"""Requests to Alibaba Cloud's OpenAPI: signed, paced and retried, in either version.

The generated clients are not used, because the one of version 2016-06-07 drops the body of the answer. The libraries
they are built on sign and send.
"""

from __future__ import annotations

import asyncio
import os
from functools import cache
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from yarl import URL

from replicator.aliyun.acr import Edition, endpoint_of, service_of
from replicator.aliyun.operations import INSTALL, AccountIncomplete, from_openapi, refusal
from replicator.registry.errors import ConnectionFailed, RegistryError, ServerFailed, TooManyRequests
from replicator.retry import is_transient, retrying

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from replicator.aliyun.operations import Account, Operation


_T = TypeVar("_T")

DEADLINE = 30.0
"""Seconds for all attempts of one request."""
_ATTEMPTS = 3
_THROTTLED_BASE = 1.0
"""Seconds the back-off starts with after a throttled request: the OpenAPI counts requests by the second."""
_READ_MILLISECONDS = 10_000
_CONNECT_MILLISECONDS = 5_000


class RateLimiter:
    """Spaces requests evenly, first come, first served, and tells a caller at once that the queue is too long.

    aiolimiter does neither: it lets a burst through, and its waiters can't learn how long they will wait. It is bound
    to an event loop as well, while this one is shared by a whole process.

    Args:
        rate: requests a second.
        max_wait: the most seconds that a request waits.
    """

    def __init__(self, rate: float, max_wait: float) -> None:
        self._interval = 1 / rate
        self._max_wait = max_wait
        self._next = 0.0

    async def acquire(self) -> float | None:
        """Wait until one request may be sent.

        Returns:
            None when it may be sent; otherwise, without waiting, the seconds after which to ask again.
        """
        now = monotonic()
        wait = max(self._next - now, 0.0)
        if wait > self._max_wait:
            return wait
        # Reserved before the wait, so that no other caller gets the same slot meanwhile.
        self._next = now + wait + self._interval
        await asyncio.sleep(wait)
        return None


OPENAPI = RateLimiter(12.0, 20.0)
"""Shared by the process. Below the documented 15 a second: requests bunch up in the network, others use the account."""


class OpenApi:
    """A client for one account; the libraries hold the account's credentials and renew them."""

    def __init__(self, registry: str, account: Account) -> None:
        self._registry = registry
        self._account = account
        self._credential: Any = None

    async def ask(self, operation: Operation, region: str) -> dict[str, Any]:
        """Send one request to a region (e.g. ``cn-beijing``) as soon as the rate limit permits; return its JSON.

        Raises:
            AccountIncomplete: the libraries are missing.
            AccountRefused: there is no account, it is wrong or it lacks a permission.
            RegistryError: the OpenAPI refuses, is unreachable or busy, or its answer makes no sense.
        """
        action = operation.action
        account = self._account
        secrets: tuple[str, ...] = (account.access_key_secret, account.security_token, *account.proxies.secrets)
        try:
            model = await self._find_credential().get_credential_async()
            secrets += (model.access_key_secret, model.security_token)
            await self._pace(action)
            answer = await self._call(operation, region)
        except ImportError as error:
            raise AccountIncomplete(f"aliyun under auth needs: {INSTALL}").at(self._registry, action) from error
        except RegistryError:
            raise
        except Exception as error:  # noqa: BLE001 - the libraries raise any class, even a bare Exception
            # Not chained: the original holds the request with its signature.
            raise from_openapi(self._registry, action, error, secrets) from None
        if not isinstance(answer, dict):
            raise ServerFailed("the OpenAPI's answer is invalid").at(self._registry, action)
        # Some refusals come with status 200.
        if answer.get("IsSuccess") is False:
            raise refusal(self._registry, action, str(answer.get("Code") or ""), str(answer.get("Message") or ""))
        return answer

    async def _pace(self, action: str) -> None:
        if (wait := await OPENAPI.acquire()) is not None:
            busy = "too many requests to the OpenAPI are waiting in this process"
            raise TooManyRequests(busy, retry_after=wait).at(self._registry, action)

    def _find_credential(self) -> Any:
        account = self._account
        if not account.access_key_id:
            self._credential = _default_chain()
        elif self._credential is None:
            # Imported late: the library is optional, and takes half a second to import.
            from alibabacloud_credentials.client import Client
            from alibabacloud_credentials.models import Config

            config = Config(
                type="sts" if account.security_token else "access_key",
                access_key_id=account.access_key_id,
                access_key_secret=account.access_key_secret,
                security_token=account.security_token or None,
            )
            self._credential = Client(config)
        return self._credential

    async def _call(self, operation: Operation, region: str) -> Any:
        import darabonba.core
        from alibabacloud_tea_openapi.client import Client
        from alibabacloud_tea_openapi.utils_models import Config, OpenApiRequest, Params
        from darabonba.runtime import RuntimeOptions

        if getattr(darabonba.core, "os", None) not in (os, _NO_ENVIRONMENT):
            # It might take a proxy from the environment against NO_PROXY, and show it the account.
            unknown = "this version of darabonba-core can't ignore the environment's proxy variables"
            raise AccountIncomplete(f"{unknown}; install one that fits: {INSTALL}").at(self._registry, operation.action)
        setattr(darabonba.core, "os", _NO_ENVIRONMENT)  # noqa: B010 - the library exports no such name
        scheme, separator, address = self._account.openapi_endpoint.partition("://")
        if not separator:
            scheme, address = "https", scheme
        # Even a region from a challenge is a single label (see `service_of`), so the host is Alibaba Cloud's.
        address = address or f"cr.{region}.aliyuncs.com"
        proxy = self._account.proxies.find(URL(f"{scheme}://{address}"))
        config = Config(
            credential=self._credential,
            protocol=scheme.upper(),
            endpoint=address,
            http_proxy=proxy.url_with_login if proxy is not None else None,
            https_proxy=proxy.url_with_login if proxy is not None else None,
            region_id=region,
            connect_timeout=_CONNECT_MILLISECONDS,
            read_timeout=_READ_MILLISECONDS,
        )
        enterprise = bool(operation.instance_id)
        params = Params(
            action=operation.action,
            version="2018-12-01" if enterprise else "2016-06-07",
            protocol="HTTPS",
            pathname=operation.path,
            method=operation.method,
            auth_type="AK",
            style="RPC" if enterprise else "ROA",
            req_body_type="formData" if enterprise else "json",
            body_type="json",
        )
        request = OpenApiRequest(query=dict(operation.query), body=operation.body)
        return (await Client(config).call_api_async(params, request, RuntimeOptions()))["body"]


class _NoEnvironment:
    """The module ``os`` with an empty environment.

    The library that sends takes ``HTTPS_PROXY`` from the environment if it is given no proxy, against ``NO_PROXY``.
    There is no other way to tell it to connect directly.
    """

    environ: Mapping[str, str] = MappingProxyType({})

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


_NO_ENVIRONMENT = _NoEnvironment()


@cache
def _default_chain() -> Any:
    """The default chain of credentials; one for the process, as each keeps a thread until the process ends."""
    from alibabacloud_credentials.client import Client

    return Client()


async def with_retries(request: Callable[[], Awaitable[_T]], registry: str, action: str, deadline: float) -> _T:
    """Send a request, with up to three attempts, and as many as the deadline permits while it is throttled.

    Args:
        request: one attempt.
        registry: the host the rules name, for the error.
        action: the operation, for the error.
        deadline: seconds for all attempts.

    Raises:
        RegistryError: the error of the last attempt; or there was no answer before the deadline.
    """
    end = asyncio.get_running_loop().time() + deadline
    failures = 0

    def is_retryable(error: Exception) -> bool:
        nonlocal failures
        failures += 1
        return isinstance(error, TooManyRequests) or (is_transient(error) and failures < _ATTEMPTS)

    async def attempt() -> _T:
        try:
            return await request()
        except TooManyRequests as error:
            # The OpenAPI counts requests by the second or the minute and says nothing of how long to wait.
            error.retry_after = error.retry_after or min(_THROTTLED_BASE * 2.0**failures, 10.0)
            raise

    try:
        async with asyncio.timeout_at(end):
            # Without time for another attempt, the last refusal says more than "no answer in time".
            return await retrying(attempt, attempts=None, retryable=is_retryable, until=end)
    except TimeoutError as error:
        raise ConnectionFailed(f"the OpenAPI did not answer in {deadline:g} s").at(registry, action) from error


def find_region_and_instance(registry: str, account: Account, service: str | None, action: str) -> tuple[str, str]:
    """Return region and instance id, from the rules, else from the token challenge, else from the host.

    Args:
        registry: the host the rules name.
        account: its part of the rules.
        service: the ``service`` of the registry's token challenge, if it sent one.
        action: the operation, for the error.

    Returns:
        The region, and ``cri-…`` or an empty string for the Personal Edition.

    Raises:
        AccountIncomplete: a value that is needed is nowhere to be found.
    """
    challenge, host = service_of(service or ""), endpoint_of(registry)
    region = account.region or (challenge.region if challenge else "") or (host.region if host else "")
    if not region:
        missing = "the region of the registry is not known: set region under aliyun"
        raise AccountIncomplete(missing).at(registry, action)
    instance_id = account.instance_id or (challenge.instance_id if challenge else "")
    # A challenge without an instance id is one of the Personal Edition; a host name alone can't tell the id.
    if not instance_id and challenge is None and host is not None and host.edition is Edition.ENTERPRISE:
        missing = "the instance id of the registry is not known: set instance_id (cri-…) under aliyun"
        raise AccountIncomplete(missing).at(registry, action)
    return region, instance_id
