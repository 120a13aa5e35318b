"""What the OpenAPI is asked for, in both of its versions: 2016-06-07 (Personal) and 2018-12-01 (Enterprise).

On whose behalf, and where, the OpenAPI is asked, and what it may be asked to create.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

GET_AUTHORIZATION_TOKEN = "GetAuthorizationToken"  # noqa: S105 - the name of an operation
_SUMMARY = "Created by replicator"
"""Both versions want a summary of a new repository."""
_RAM_NAMES = {"CreateRepo": "CreateRepository", "GetRepo": "GetRepository"}


@dataclass(frozen=True, slots=True)
class Operation:
    """One request.

    Attributes:
        action: its name in the version that is asked.
        instance_id: ``cri-…`` of an Enterprise instance; empty for the Personal Edition. It decides the version.
        method: of HTTP.
        path: of the URL.
        query: what stands behind the path.
        body: sent as JSON; None for nothing.
    """

    action: str
    instance_id: str
    method: str = "POST"
    path: str = "/"
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None


def ram_action(action: str) -> str:
    """Return what a RAM policy must allow for an operation, e.g. ``cr:CreateRepository``."""
    return f"cr:{_RAM_NAMES.get(action, action)}"


def get_authorization_token(instance_id: str) -> Operation:
    """Ask for a temporary login."""
    if instance_id:
        return Operation(GET_AUTHORIZATION_TOKEN, instance_id, query={"InstanceId": instance_id})
    return Operation(GET_AUTHORIZATION_TOKEN, "", "GET", "/tokens")


def create_repository(instance_id: str, namespace: str, name: str, visibility: Visibility) -> Operation:
    """Create a repository; one that is there stays as it is, and that is an error."""
    fields = {"RepoName": name, "RepoType": visibility.upper(), "Summary": _SUMMARY}
    if instance_id:
        query = {"InstanceId": instance_id, "RepoNamespaceName": namespace, **fields}
        return Operation("CreateRepository", instance_id, query=query)
    return Operation("CreateRepo", "", "PUT", "/repos", body={"Repo": {"RepoNamespace": namespace, **fields}})


def get_repository(instance_id: str, namespace: str, name: str) -> Operation:
    """Ask about a repository; that it is not there is an error."""
    if instance_id:
        query = {"InstanceId": instance_id, "RepoNamespaceName": namespace, "RepoName": name}
        return Operation("GetRepository", instance_id, query=query)
    return Operation("GetRepo", "", "GET", f"/repos/{namespace}/{name}")


def create_namespace(instance_id: str, namespace: str, visibility: Visibility) -> Operation:
    """Create a namespace; in the Enterprise Edition, what a push creates there has the same visibility.

    The Personal Edition takes nothing but the name, and has what a push creates private.
    """
    if instance_id:
        query = {"InstanceId": instance_id, "NamespaceName": namespace}
        query |= {"AutoCreateRepo": "true", "DefaultRepoType": visibility.upper()}
        return Operation("CreateNamespace", instance_id, query=query)
    return Operation("CreateNamespace", "", "PUT", "/namespace", body={"Namespace": {"Namespace": namespace}})


INSTALL = "pip install 'replicator[aliyun]'"
"""What brings the libraries."""


class Visibility(StrEnum):
    """Who may pull from a repository that is created; the words of the rules file."""

    PRIVATE = "private"
    PUBLIC = "public"


@dataclass(frozen=True, slots=True)
class Creates:
    """What is created where a push needs it.

    Attributes:
        repositories: the visibility of the repositories that are created.
        namespaces: whether a namespace is created too.
    """

    repositories: Visibility
    namespaces: bool = False


@dataclass(frozen=True, slots=True)
class Account:
    """An identity at Alibaba Cloud and what it asks for.

    Attributes:
        access_key_id: of a RAM user; empty for the default chain (environment, OIDC, profile, ECS RAM role).
        access_key_secret: belongs to it; never shown.
        security_token: if the key is one of STS; never shown.
        region: of the registry; empty to take it from its host or its challenge.
        instance_id: ``cri-…`` of an Enterprise instance; empty to take it from the challenge.
        openapi_endpoint: ``host[:port]`` or ``http(s)://host[:port]``; empty for ``cr.<region>.aliyuncs.com``.
        creates: what is created where a push needs it; None for nothing.
    """

    access_key_id: str = ""
    access_key_secret: str = field(default="", repr=False)
    security_token: str = field(default="", repr=False)
    region: str = ""
    instance_id: str = ""
    openapi_endpoint: str = ""
    creates: Creates | None = None


def is_installed() -> bool:
    """Tell whether Alibaba Cloud's libraries are here, without importing them."""
    return all(find_spec(name) is not None for name in ("alibabacloud_tea_openapi", "alibabacloud_credentials"))
