"""GetAuthorizationToken, in both versions of the OpenAPI.

The generated clients are not used: that of version 2016-06-07 throws the answer's body away. What they are made of
signs and sends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from replicator.aliyun.account import INSTALL
from replicator.aliyun.errors import REQUEST, AccountRefused, from_openapi
from replicator.registry.access import Login
from replicator.registry.errors import RegistryError, ServerFailed

if TYPE_CHECKING:
    from replicator.aliyun.account import Account

_READ_MILLISECONDS = 10_000
_CONNECT_MILLISECONDS = 5_000


@dataclass(frozen=True, slots=True)
class Temporary:
    """A login and when it ends, in seconds since the epoch."""

    login: Login
    expires: float


class OpenApi:
    """Asks on behalf of one account; the account's own credentials are kept and renewed by the library."""

    def __init__(self, registry: str, account: Account) -> None:
        self._registry = registry
        self._account = account
        self._credential: Any = None

    async def authorization_token(self, region: str, instance_id: str) -> Temporary:
        """Ask for a login, once.

        Args:
            region: e.g. ``cn-beijing``.
            instance_id: ``cri-…`` of an Enterprise instance; empty for the Personal Edition.

        Raises:
            AccountRefused: the libraries, the account or a permission is missing.
            RegistryError: the OpenAPI can't be reached, is busy, or makes no sense.
        """
        secrets: tuple[str, ...] = (self._account.access_key_secret, self._account.security_token)
        try:
            model = await self._find_credential().get_credential_async()
            secrets += (model.access_key_secret, model.security_token)
            answer = await self._call(region, instance_id)
        except ImportError as error:
            raise AccountRefused(self._registry, REQUEST, f"aliyun under auth needs: {INSTALL}") from error
        except RegistryError:
            raise
        except Exception as error:  # noqa: BLE001 - the libraries raise what they like, bare Exception among it
            # Without its cause: that holds the request with its signature.
            raise from_openapi(self._registry, error, secrets) from None
        return self._read(answer, personal=not instance_id)

    def _find_credential(self) -> Any:
        if self._credential is None:
            # Optional, and half a second of work: imported only where it is used.
            from alibabacloud_credentials.client import Client
            from alibabacloud_credentials.models import Config

            account = self._account
            config = None
            if account.access_key_id:
                config = Config(
                    type="sts" if account.security_token else "access_key",
                    access_key_id=account.access_key_id,
                    access_key_secret=account.access_key_secret,
                    security_token=account.security_token or None,
                )
            self._credential = Client(config)
        return self._credential

    async def _call(self, region: str, instance_id: str) -> Any:
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
        params = Params(
            action=REQUEST,
            version="2018-12-01" if instance_id else "2016-06-07",
            protocol="HTTPS",
            pathname="/" if instance_id else "/tokens",
            method="POST" if instance_id else "GET",
            auth_type="AK",
            style="RPC" if instance_id else "ROA",
            req_body_type="formData" if instance_id else "json",
            body_type="json",
        )
        request = OpenApiRequest(query={"InstanceId": instance_id} if instance_id else {})
        return (await Client(config).call_api_async(params, request, RuntimeOptions()))["body"]

    def _read(self, answer: Any, *, personal: bool) -> Temporary:
        names = ("tempUserName", "authorizationToken", "expireDate")
        if not personal:
            names = ("TempUsername", "AuthorizationToken", "ExpireTime")
        body = answer.get("data") if personal and isinstance(answer, dict) else answer
        fields = [body.get(name) for name in names] if isinstance(body, dict) else [None, None, None]
        username, token, expires = fields
        if not (isinstance(username, str) and isinstance(token, str) and username and token):
            code = answer.get("Code") if isinstance(answer, dict) else None
            if code:
                raise AccountRefused(self._registry, REQUEST, f"the OpenAPI says: {code}")
            raise ServerFailed(self._registry, REQUEST, "the OpenAPI's answer holds no login")
        if not isinstance(expires, int) or not 0 < expires < 10**15:
            raise ServerFailed(self._registry, REQUEST, "the OpenAPI's answer does not say when the login ends")
        return Temporary(Login(username, token), expires / 1000)
