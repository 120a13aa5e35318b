"""Requests to Alibaba Cloud's OpenAPI as values, the account that makes them, and refusals of them.

Both versions of the API are covered: 2016-06-07 for the Personal Edition, 2018-12-01 for the Enterprise Edition.

    replicator.registry.errors.LoginRefused
    └── AccountRefused              there is no account, it is wrong or lacks a permission      credentials
        └── AccountIncomplete       libraries, region or instance id are missing here           credentials
    replicator.registry.errors.Refused
    ├── AlreadyThere                the repository or namespace to create exists                permanent
    └── NamespaceMissing            the namespace does not exist and may not be created         permanent

All other refusals are errors of `replicator.registry.errors`, and callers treat them like those of a registry. The
codes of the OpenAPI are documented only in part. So `refusal` recognises them by pattern, and falls back to the HTTP
status.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from replicator.registry.errors import (
    ConnectionFailed,
    Denied,
    LoginRefused,
    Refused,
    RegistryError,
    ServerFailed,
    TooManyRequests,
    is_of_quantity,
)
from replicator.registry.proxies import Proxies

if TYPE_CHECKING:
    from collections.abc import Mapping

INSTALL = "in a checkout, pip install '.[aliyun]'"
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
        creates: the objects that a push may create; None for none.
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


def get_namespace(instance_id: str, namespace: str) -> Operation:
    """Look up a namespace; the answer for a missing one is an error."""
    if instance_id:
        return Operation("GetNamespace", instance_id, query={"InstanceId": instance_id, "NamespaceName": namespace})
    return Operation("GetNamespace", "", "GET", f"/namespace/{namespace}")


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


_ABOUT_ACCOUNT = re.compile(
    r"NoPermission|NoPrivilege|Forbidden|Unauthorized|AccessKey|Signature|SecurityToken|USER_NOT_EXIST", re.IGNORECASE
)
"""Codes about the account, whatever the status: those of RAM and of the signature."""
_EXISTS = re.compile(r"(?<!NOT_)(?<!NOT)EXIST", re.IGNORECASE)
"""Codes for something that exists already; which ones there are is not documented."""


class AccountRefused(LoginRefused):
    """The OpenAPI refuses the account, or no account was found."""


class AccountIncomplete(AccountRefused):
    """Without the libraries, a region and, for an Enterprise instance, its id there can be no request.

    The message says what to add.
    """


class AlreadyThere(Refused):
    """The repository or namespace to create exists."""


class NamespaceMissing(Refused):
    """The namespace does not exist, and the rules do not allow creating it."""


def from_openapi(registry: str, action: str, error: Exception, secrets: tuple[str, ...]) -> RegistryError:
    """Translate an exception of Alibaba Cloud's libraries.

    Args:
        registry: the host the rules name.
        action: the operation, e.g. ``CreateRepo``.
        error: anything the libraries raise; its ``code``, ``message``, ``status_code`` and ``retry_after`` are read.
        secrets: values to blank out: the answer to a wrong signature quotes everything that was signed.
    """
    code = str(getattr(error, "code", None) or "")
    status = getattr(error, "status_code", None) or getattr(error, "statusCode", None)
    words = str(getattr(error, "message", None) or error)
    for secret in filter(None, secrets):
        words = words.replace(secret, "…")
    milliseconds = getattr(error, "retry_after", None)  # the header x-acs-retry-after
    retry_after = milliseconds / 1000 if isinstance(milliseconds, int) else None
    if isinstance(status, int) or code.startswith("Throttling"):
        return refusal(registry, action, code, words, status=status, retry_after=retry_after)
    if type(error).__name__ == "CredentialException":
        return AccountRefused(f"no account at Alibaba Cloud was found: {words}").at(registry, action)
    return ConnectionFailed(f"no answer from the OpenAPI: {words}").at(registry, action)


def refusal(
    registry: str,
    action: str,
    code: str,
    words: str,
    *,
    status: int | None = None,
    retry_after: float | None = None,
) -> RegistryError:
    """Build the error for a refusal.

    Args:
        registry: the host the rules name.
        action: the operation, e.g. ``CreateRepo``.
        code: the OpenAPI's code, e.g. ``NAMESPACE_NOT_EXIST``; may be empty.
        words: its message.
        status: the HTTP status; None for a refusal in an answer of status 200.
        retry_after: seconds.
    """
    why = f"the OpenAPI says: {code}: {words}" if code and words else f"the OpenAPI says: {code or words}"
    if code.startswith("Throttling") or status == 429:
        return TooManyRequests(why, retry_after=retry_after).at(registry, action)
    if status is not None and status >= 500:
        return ServerFailed(why).at(registry, action)
    # Nothing but the account can be wrong about a request for a login: it has no other parameter of ours.
    if action == GET_AUTHORIZATION_TOKEN or _ABOUT_ACCOUNT.search(code):
        return AccountRefused(why).at(registry, action)
    if _EXISTS.search(code) or status == 409:
        return AlreadyThere(why).at(registry, action)
    if is_of_quantity(why):
        return Denied(why).at(registry, action)
    return (AccountRefused if status in (401, 403) else Refused)(why).at(registry, action)
