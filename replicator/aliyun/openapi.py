"""One request to the OpenAPI, in either version, signed and sent.

The generated clients are not used: that of version 2016-06-07 throws the answer's body away. What they are made of
signs and sends.

How fast the OpenAPI is asked: it takes about 15 requests a second.

How patiently the OpenAPI is asked.

Which region and which instance the OpenAPI is asked about.
"""

from __future__ import annotations

import asyncio
from functools import cache
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from replicator.aliyun.acr import endpoint_of, service_of
from replicator.aliyun.errors import AccountRefused, from_openapi, refusal
from replicator.aliyun.operations import INSTALL
from replicator.errors import ErrorClass
from replicator.registry.errors import ConnectionFailed, RegistryError, ServerFailed, TooManyRequests
from replicator.retry import backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from replicator.aliyun.operations import Account, Operation


class RateLimiter:
    """Lets one request after the other go, evenly spaced, in the order they come.

    It belongs to no event loop, so that all of a process can share one.

    Args:
        rate: requests a second.
        most: seconds that a request waits at the most.
    """

    def __init__(self, rate: float, most: float) -> None:
        self._interval = 1 / rate
        self._most = most
        self._next = 0.0

    async def turn(self) -> float | None:
        """Wait for the turn of one request.

        Returns:
            None when it may go; else, without a wait, after how many seconds it is worth asking again.
        """
        now = monotonic()
        wait = max(self._next - now, 0.0)
        if wait > self._most:
            return wait
        self._next = now + wait + self._interval
        await asyncio.sleep(wait)
        return None


OPENAPI = RateLimiter(12.0, 20.0)
"""Shared by all of a process. Below the limit: requests may bunch up on their way, and others use the account too."""

_READ_MILLISECONDS = 10_000
_CONNECT_MILLISECONDS = 5_000


class OpenApi:
    """Asks on behalf of one account; the account's own credentials are kept and renewed by the library."""

    def __init__(self, registry: str, account: Account) -> None:
        self._registry = registry
        self._account = account
        self._credential: Any = None

    async def ask(self, operation: Operation, region: str) -> dict[str, Any]:
        """Ask once, when it is this request's turn.

        Args:
            operation: what for.
            region: e.g. ``cn-beijing``.

        Returns:
            The answer's JSON.

        Raises:
            AccountRefused: the libraries, the account or a permission is missing.
            RegistryError: the OpenAPI refuses, can't be reached, is busy, or makes no sense.
        """
        action = operation.action
        secrets: tuple[str, ...] = (self._account.access_key_secret, self._account.security_token)
        try:
            model = await self._find_credential().get_credential_async()
            secrets += (model.access_key_secret, model.security_token)
            await self._turn(action)
            answer = await self._call(operation, region)
        except ImportError as error:
            raise AccountRefused(f"aliyun under auth needs: {INSTALL}").at(self._registry, action) from error
        except RegistryError:
            raise
        except Exception as error:  # noqa: BLE001 - the libraries raise what they like, bare Exception among it
            # Without its cause: that holds the request with its signature.
            raise from_openapi(self._registry, action, error, secrets) from None
        if not isinstance(answer, dict):
            raise ServerFailed("the OpenAPI's answer makes no sense").at(self._registry, action)
        if answer.get("IsSuccess") is False:
            raise refusal(self._registry, action, str(answer.get("Code") or ""), str(answer.get("Message") or ""))
        return answer

    async def _turn(self, action: str) -> None:
        if (wait := await OPENAPI.turn()) is not None:
            busy = "too many requests to the OpenAPI wait here already"
            raise TooManyRequests(busy, retry_after=wait).at(self._registry, action)

    def _find_credential(self) -> Any:
        account = self._account
        if not account.access_key_id:
            self._credential = _default_chain()
        elif self._credential is None:
            # Optional, and half a second of work: imported only where it is used.
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
        from alibabacloud_tea_openapi.client import Client
        from alibabacloud_tea_openapi.utils_models import Config, OpenApiRequest, Params
        from darabonba.runtime import RuntimeOptions

        scheme, separator, address = self._account.openapi_endpoint.partition("://")
        if not separator:
            scheme, address = "https", scheme
        config = Config(
            credential=self._credential,
            protocol=scheme.upper(),
            # The region may come from a challenge: it is one label of a name, so this host is Alibaba Cloud's.
            endpoint=address or f"cr.{region}.aliyuncs.com",
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


@cache
def _default_chain() -> Any:
    """The account of the process itself; one for all, as each keeps a thread until the process ends."""
    from alibabacloud_credentials.client import Client

    return Client()


T = TypeVar("T")

DEADLINE = 30.0
"""Seconds that all tries of one request have."""
_TRIES = 3
_THROTTLED = 1.0
"""Seconds to begin with after a request that was one too many: its limit is one a second."""


async def with_retries(once: Callable[[], Awaitable[T]], registry: str, action: str, deadline: float) -> T:
    """Ask until there is an answer: three times at the most, and while it is throttled, for as long as there is time.

    Args:
        once: asks.
        registry: the host the rules name, for the error.
        action: the operation, for the error.
        deadline: seconds that all of it has.

    Raises:
        RegistryError: what ``once`` raised last; or there was no answer in time.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline
    attempt = 0
    try:
        async with asyncio.timeout_at(end):
            while True:
                attempt += 1
                try:
                    return await once()
                except RegistryError as error:
                    throttled = isinstance(error, TooManyRequests)
                    wait = max(backoff(attempt, base=_THROTTLED if throttled else 0.2), error.retry_after or 0.0)
                    tried = attempt >= _TRIES and not throttled
                    # Who has no time left for another try says why, rather than that there was no answer.
                    if error.error_class is not ErrorClass.TRANSIENT or tried or loop.time() + wait >= end:
                        raise
                    await asyncio.sleep(wait)
    except TimeoutError as error:
        raise ConnectionFailed(f"the OpenAPI did not answer in {deadline:g} s").at(registry, action) from error


def find_region_and_instance(registry: str, account: Account, service: str | None, action: str) -> tuple[str, str]:
    """Return region and instance id: what the rules say, else the challenge, else the host.

    Args:
        registry: the host the rules name.
        account: what the rules say.
        service: the ``service`` of the registry's token challenge, if it named one.
        action: the operation, for the error.

    Raises:
        AccountRefused: one of them is needed and nobody says it.
    """
    said, host = service_of(service or ""), endpoint_of(registry)
    region = account.region or (said.region if said else "") or (host.region if host else "")
    if not region:
        unknown = "the registry does not tell its region: name it under aliyun"
        raise AccountRefused(unknown).at(registry, action)
    instance_id = account.instance_id or (said.instance_id if said else "")
    if not instance_id and said is None and host is not None and host.edition == "Enterprise":
        missing = "the registry does not tell its instance id: name instance_id (cri-…) under aliyun"
        raise AccountRefused(missing).at(registry, action)
    return region, instance_id
