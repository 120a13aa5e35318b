"""Requests to Alibaba Cloud's OpenAPI as values, and the account that makes them.

Both versions of the API are covered: 2016-06-07 for the Personal Edition, 2018-12-01 for the Enterprise Edition.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from replicator.registry.proxies import Proxies

if TYPE_CHECKING:
    from collections.abc import Mapping

INSTALL = "pip install 'replicator[aliyun]'"
"""Installs the libraries."""
GET_AUTHORIZATION_TOKEN = "GetAuthorizationToken"  # noqa: S105 - the name of an operation
_SUMMARY = "Created by replicator"
"""Both versions require a summary of a new repository."""
_RAM_NAMES = {"CreateRepo": "CreateRepository", "GetRepo": "GetRepository"}


class Visibility(StrEnum):
    """Who may pull from a created repository; the words of the rules file."""

    PRIVATE = "private"
    PUBLIC = "public"


@dataclass(frozen=True, slots=True)
class Creates:
    """What may be created when a push needs it.

    Attributes:
        repositories: the visibility of a created repository.
        namespaces: whether a missing namespace may be created too.
    """

    repositories: Visibility
    namespaces: bool = False


@dataclass(frozen=True, slots=True)
class Account:
    """An identity at Alibaba Cloud, and the ACR instance it is used for.

    Attributes:
        access_key_id: of a RAM user; empty for the default chain (environment, OIDC, profile, ECS RAM role).
        access_key_secret: never shown.
        security_token: with a key issued by STS; never shown.
        region: of the registry; empty to take it from its host or its challenge.
        instance_id: ``cri-…`` of an Enterprise instance; empty to take it from the challenge.
        openapi_endpoint: ``host[:port]`` or ``http(s)://host[:port]``; empty for ``cr.<region>.aliyuncs.com``.
        creates: what may be created when a push needs it; None for nothing.
        proxies: how the OpenAPI is reached.
    """

    access_key_id: str = ""
    access_key_secret: str = field(default="", repr=False)
    security_token: str = field(default="", repr=False)
    region: str = ""
    instance_id: str = ""
    openapi_endpoint: str = ""
    creates: Creates | None = None
    proxies: Proxies = field(default_factory=Proxies)


@dataclass(frozen=True, slots=True)
class Operation:
    """One request.

    Attributes:
        action: the operation's name in the version of the API that is called.
        instance_id: ``cri-…`` of an Enterprise instance; empty for the Personal Edition. It selects the version.
        body: sent as JSON; None for no body.
    """

    action: str
    instance_id: str
    method: str = "POST"
    path: str = "/"
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None


def ram_action(action: str) -> str:
    """Return the permission that a RAM policy needs for an operation, e.g. ``cr:CreateRepository``."""
    return f"cr:{_RAM_NAMES.get(action, action)}"


def get_authorization_token(instance_id: str) -> Operation:
    """Request a temporary login."""
    if instance_id:
        return Operation(GET_AUTHORIZATION_TOKEN, instance_id, query={"InstanceId": instance_id})
    return Operation(GET_AUTHORIZATION_TOKEN, "", "GET", "/tokens")


def create_repository(instance_id: str, namespace: str, name: str, visibility: Visibility) -> Operation:
    """Create a repository; one that exists is left unchanged, and the answer is an error."""
    fields = {"RepoName": name, "RepoType": visibility.upper(), "Summary": _SUMMARY}
    if instance_id:
        query = {"InstanceId": instance_id, "RepoNamespaceName": namespace, **fields}
        return Operation("CreateRepository", instance_id, query=query)
    return Operation("CreateRepo", "", "PUT", "/repos", body={"Repo": {"RepoNamespace": namespace, **fields}})


def get_repository(instance_id: str, namespace: str, name: str) -> Operation:
    """Look up a repository; the answer for a missing one is an error."""
    if instance_id:
        query = {"InstanceId": instance_id, "RepoNamespaceName": namespace, "RepoName": name}
        return Operation("GetRepository", instance_id, query=query)
    return Operation("GetRepo", "", "GET", f"/repos/{namespace}/{name}")


def create_namespace(instance_id: str, namespace: str, visibility: Visibility) -> Operation:
    """Create a namespace that creates repositories on push.

    In the Enterprise Edition these repositories get the same visibility. The Personal Edition takes nothing but the
    name, and makes them private.
    """
    if instance_id:
        query = {"InstanceId": instance_id, "NamespaceName": namespace}
        query |= {"AutoCreateRepo": "true", "DefaultRepoType": visibility.upper()}
        return Operation("CreateNamespace", instance_id, query=query)
    return Operation("CreateNamespace", "", "PUT", "/namespace", body={"Namespace": {"Namespace": namespace}})


def is_installed() -> bool:
    """Tell whether Alibaba Cloud's libraries are installed, without importing them."""
    return all(find_spec(name) is not None for name in ("alibabacloud_tea_openapi", "alibabacloud_credentials"))
