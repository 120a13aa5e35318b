"""``aliyun`` in place of a login: taken in whole, and every mistake told at once without a secret."""

from __future__ import annotations

from typing import Any

import pytest

from replicator.aliyun import TemporaryLogins
from replicator.reference import Repository
from tests.rules.building import ACR, AUTH, HARBOR, problems_of, rules_of

IMAGES = {f"{HARBOR}/library/nginx": ""}


def auth(**fields: Any) -> dict[str, Any]:
    return AUTH | {ACR: fields}


@pytest.mark.parametrize(
    "account", [{}, {"access_key_id": "id", "access_key_secret": "hunter2", "region": "cn-beijing"}]
)
def test_an_account_stands_in_for_a_login(account: dict[str, str]) -> None:
    access = rules_of(IMAGES, auth=auth(aliyun=account)).credentials(Repository(ACR, "mirror/nginx"))
    assert access is not None
    assert isinstance(access.logins, TemporaryLogins)
    assert access.username is None
    assert "hunter2" not in repr(access)


def test_every_mistake_is_told_at_once_and_without_a_secret() -> None:
    wrong = {
        "access_key_secret": "hunter2",
        "region": "Beijing!",
        "instance_id": "x",
        "openapi_endpoint": "a/b",
        "k": "1",
    }
    problems = problems_of(IMAGES, auth=auth(aliyun=wrong, username="someone"))
    told = "\n".join(str(problem) for problem in problems)
    for part in ("unknown key", "region's id", "cri-…", "host:port", "go together", "stands in place of username"):
        assert part in told
    assert "hunter2" not in told


def test_an_account_beside_anonymous_and_a_token_without_a_key_are_mistakes() -> None:
    told = "\n".join(map(str, problems_of(IMAGES, auth=auth(aliyun={"security_token": "hunter2"}, anonymous=True))))
    assert "remove one of them" in told
    assert "without the access key" in told
    assert "hunter2" not in told
