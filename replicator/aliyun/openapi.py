"""One request to the OpenAPI, in either version, signed and sent.

The generated clients are not used: that of version 2016-06-07 throws the answer's body away. What they are made of
signs and sends.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from replicator.aliyun.account import INSTALL
from replicator.aliyun.errors import AccountRefused, from_openapi, refusal
from replicator.aliyun.pace import OPENAPI
from replicator.registry.errors import RegistryError, ServerFailed, TooManyRequests

if TYPE_CHECKING:
    from replicator.aliyun.account import Account
    from replicator.aliyun.operations import Operation

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
            raise AccountRefused(self._registry, action, f"aliyun under auth needs: {INSTALL}") from error
        except RegistryError:
            raise
        except Exception as error:  # noqa: BLE001 - the libraries raise what they like, bare Exception among it
            # Without its cause: that holds the request with its signature.
            raise from_openapi(self._registry, action, error, secrets) from None
        if not isinstance(answer, dict):
            raise ServerFailed(self._registry, action, "the OpenAPI's answer makes no sense")
        if answer.get("IsSuccess") is False:
            raise refusal(self._registry, action, str(answer.get("Code") or ""), str(answer.get("Message") or ""))
        return answer

    async def _turn(self, action: str) -> None:
        if (wait := await OPENAPI.turn()) is not None:
            busy = "too many requests to the OpenAPI wait here already"
            raise TooManyRequests(self._registry, action, busy, retry_after=wait)

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
