"""``aliyun`` instead of a login: accepted in full, with all mistakes reported at once and no secret shown."""

from __future__ import annotations

from typing import Any

import pytest

from replicator.aliyun import Creates, MissingRepositories, TemporaryLogins, Visibility
from replicator.reference import Repository
from tests.rules.building import ACR, AUTH, HARBOR, problems_of, rules_of

IMAGES = {f"{HARBOR}/library/nginx": ""}


def auth(**fields: Any) -> dict[str, Any]:
    return AUTH | {ACR: fields}


@pytest.mark.parametrize(
    "account", [{}, {"access_key_id": "id", "access_key_secret": "hunter2", "region": "cn-beijing"}]
)
def test_an_account_replaces_a_login(account: dict[str, str]) -> None:
    access = rules_of(IMAGES, auth=auth(aliyun=account)).credentials(Repository(ACR, "mirror/nginx"))
    assert access is not None
    assert isinstance(access.logins, TemporaryLogins)
    assert access.username is None
    assert "hunter2" not in repr(access)


def test_every_mistake_is_reported_at_once_and_without_a_secret() -> None:
    wrong = {
        "access_key_secret": "hunter2",
        "region": "Beijing!",
        "instance_id": "x",
        "openapi_endpoint": "a/b",
        "k": "1",
    }
    problems = problems_of(IMAGES, auth=auth(aliyun=wrong, username="someone"))
    told = "\n".join(str(problem) for problem in problems)
    for part in ("unknown key", "region's id", "cri-…", "host:port", "must be set together", "replaces username"):
        assert part in told
    assert "hunter2" not in told


def test_an_account_beside_anonymous_and_a_token_without_a_key_are_mistakes() -> None:
    told = "\n".join(map(str, problems_of(IMAGES, auth=auth(aliyun={"security_token": "hunter2"}, anonymous=True))))
    assert "remove these or aliyun" in told
    assert "needs its access_key_id" in told
    assert "hunter2" not in told


@pytest.mark.parametrize(
    ("create", "creates"),
    [
        ({"repositories": "private"}, Creates(Visibility.PRIVATE)),
        ({"repositories": "public", "namespaces": False}, Creates(Visibility.PUBLIC)),
        ({"repositories": "private", "namespaces": True}, Creates(Visibility.PRIVATE, namespaces=True)),
    ],
)
def test_what_is_missing_is_created_as_the_rules_say(create: dict[str, Any], creates: Creates) -> None:
    access = rules_of(IMAGES, auth=auth(aliyun={"create": create})).credentials(Repository(ACR, "mirror/nginx"))
    assert access is not None
    assert isinstance(access.creator, MissingRepositories)
    assert access.creator.creates == creates


def test_nothing_is_created_unless_the_rules_say_so() -> None:
    access = rules_of(IMAGES, auth=auth(aliyun={})).credentials(Repository(ACR, "mirror/nginx"))
    assert access is not None
    assert access.creator is None


@pytest.mark.parametrize(
    ("create", "told"),
    [
        ({"namespaces": True}, '"repositories" is missing: private or public'),
        ({}, '"repositories" is missing'),
        ({"repositories": "privat"}, "did you mean private?"),
        ({"repositories": True}, "must be one of private, public"),
        ({"repositories": "private", "namespaces": "yes"}, "must be true or false"),
        ({"repositories": "private", "repositorys": "x"}, "unknown key; did you mean repositories?"),
        (True, "must be a mapping"),
    ],
)
def test_a_mistake_under_create_is_reported_at_its_path(create: Any, told: str) -> None:
    (problem,) = problems_of(IMAGES, auth=auth(aliyun={"create": create}))
    assert problem.path.startswith(f'auth["{ACR}"].aliyun.create')
    assert told in problem.message
