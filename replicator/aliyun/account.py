"""On whose behalf, and where, the OpenAPI is asked, and what it may be asked to create."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from importlib.util import find_spec

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
