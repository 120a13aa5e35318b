"""Refusals of the OpenAPI are classified by code and status, and quote no secret."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from replicator.aliyun.on_demand import TemporaryLogins
from replicator.aliyun.openapi import find_region_and_instance
from replicator.aliyun.operations import Account, AccountIncomplete, AccountRefused, AlreadyThere, from_openapi, refusal
from replicator.errors import ErrorClass
from replicator.registry.errors import Denied, Refused, RegistryError, ServerFailed, TooManyRequests
from replicator.replication.advice import explained
from tests.aliyun.test_logins import PERSONAL, REGISTRY
from tests.standins.faults import Answer, Fault
from tests.standins.openapi import OpenApiStandIn
from tests.standins.server import serve

CREATES = ("CreateRepo", "CreateRepository", "CreateNamespace")


@pytest.mark.parametrize("action", CREATES)
@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "REPO_ALREADY_EXIST", AlreadyThere),
        (400, "REPO_EXIST", AlreadyThere),
        (400, "RepositoryAlreadyExists", AlreadyThere),
        (409, "Conflict", AlreadyThere),
        (404, "NAMESPACE_NOT_EXIST", Refused),
        (404, "InstanceNotExist", Refused),
        (400, "REPO_NAME_INVALID", Refused),
        (403, "NoPermission", AccountRefused),
        (403, "NoPrivilege", AccountRefused),
        (400, "Forbidden.RAM", AccountRefused),
        (400, "SignatureDoesNotMatch", AccountRefused),
        (400, "InvalidSecurityToken.Expired", AccountRefused),
        (404, "USER_NOT_EXIST", AccountRefused),
        (401, "", AccountRefused),
        (403, "REPO_QUOTA_EXCEEDED", Denied),
        (400, "Throttling.User", TooManyRequests),
        (429, "", TooManyRequests),
        (503, "ServiceUnavailable", ServerFailed),
    ],
)
def test_a_refusal_is_classified_by_code_and_status(
    action: str, status: int, code: str, kind: type[RegistryError]
) -> None:
    error = refusal(REGISTRY, action, code, "its words", status=status)
    assert type(error) is kind
    assert "its words" in error.why
    assert error.request == action


@pytest.mark.parametrize(
    ("registry", "missing"),
    [
        ("acr.example.com", "set region under aliyun"),
        ("corp-registry.cn-beijing.cr.aliyuncs.com", "set instance_id (cri-…) under aliyun"),
    ],
)
def test_a_missing_value_is_named_without_any_other_advice(registry: str, missing: str) -> None:
    with pytest.raises(AccountIncomplete) as caught:
        find_region_and_instance(registry, Account(), None, "GetAuthorizationToken")
    assert str(explained(caught.value)).endswith(missing)


class Raised(Exception):
    """An exception of Alibaba Cloud's libraries, with the attributes that are read."""

    def __init__(self, message: str, code: str, status: int | None) -> None:
        super().__init__(message)
        self.message, self.code, self.status_code = message, code, status


@given(
    st.text(min_size=6),
    st.text(),
    st.text(),
    st.sampled_from([None, 200, 400, 403, 404, 409, 429, 500]),
    st.sampled_from([*CREATES, "GetAuthorizationToken"]),
)
def test_no_refusal_quotes_a_secret(secret: str, before: str, after: str, status: int | None, action: str) -> None:
    assume(secret not in f"{REGISTRY}: {action}: the OpenAPI says: no answer from the OpenAPI: Code: …")
    error = from_openapi(REGISTRY, action, Raised(before + secret + after, "Code", status), (secret, ""))
    assume(secret not in (before + "…" + after))
    assert secret not in str(error)
    assert isinstance(error.error_class, ErrorClass)


async def test_a_pause_that_the_openapi_asks_for_is_honoured_or_reported() -> None:
    stand_in = OpenApiStandIn()
    busy = Answer(400, headers={"x-acs-retry-after": "90000"}, body=b'{"Code": "Throttling.Api", "Message": "slow"}')
    throttled = stand_in.faults.add(Fault(busy, times=None))
    async with serve(stand_in.faults) as host:
        account = Account("key-id", "key-secret", openapi_endpoint=f"http://{host}")
        with pytest.raises(TooManyRequests) as caught:
            await TemporaryLogins(REGISTRY, account).login(PERSONAL)
    assert caught.value.retry_after == 90
    assert throttled.hits == 1, "there is no time for another try within the deadline"
