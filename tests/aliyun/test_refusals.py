"""Every refusal of ACR is classified, quotes ACR's own words, and says what to do."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import pytest

from replicator.copy import Copier
from replicator.copy.options import Attestations, CopyOptions
from replicator.errors import ErrorClass
from replicator.reference import Reference, Repository
from replicator.registry import Access, Registries, RegistryError
from replicator.registry.credentials import Login
from replicator.registry.errors import (
    AskedLoginRefused,
    ConnectionFailed,
    Denied,
    LoginRefused,
    TooManyRequests,
)
from replicator.replication.advice import explained
from tests.copy.conftest import QUICK, Registry, a_registry
from tests.standins.acr import AcrStandIn
from tests.standins.faults import Answer, Cut, Fault
from tests.standins.images import Image, Index, artifact, attestation, image, index
from tests.standins.logins import ACR_USER
from tests.standins.tokens import READ, Account

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytest_plugins = ["tests.standins.fixtures"]

PERSONAL = "registry.cn-beijing.aliyuncs.com"
ENTERPRISE = "corp-registry.cn-beijing.cr.aliyuncs.com"
LOGIN = Access(*ACR_USER)
WRONG = replace(LOGIN, password="mistaken-secret")


class Given:
    """A source of logins like Alibaba Cloud's OpenAPI; the registry accepts its login or not."""

    def __init__(self, password: str) -> None:
        self._password = password

    async def login(self, _: str | None) -> Login:
        return Login(ACR_USER[0], self._password)

    def refused(self, _: Login) -> bool:
        return False


def not_taken(config: str, *advice: str, strict: bool = False) -> Row:
    says = (f"unknown manifest class for {config}", *advice)
    acr = {"only_images": strict}
    return Row(Denied, ErrorClass.PERMANENT, says, ("in this order",), acr=acr, pushed=artifact(config))


@dataclass(frozen=True)
class Row:
    """One refusal of ACR.

    Attributes:
        says: parts of the message, in this order: ACR's words first, then the causes from the most likely on.
        hides: parts that the message must not have.
        name: the repository of the push.
        acr: settings of the stand-in.
        fault: a fault of the registry.
        token_fault: a fault of the token service.
        pushed: the image.
        host: the name of the ACR.
    """

    kind: type[RegistryError]
    error_class: ErrorClass
    says: tuple[str, ...]
    hides: tuple[str, ...] = ()
    name: str = "cache/app"
    acr: dict[str, Any] = field(default_factory=dict)
    login: Access = LOGIN
    fault: Fault | None = None
    token_fault: Fault | None = None
    pushed: Image | Index = field(default_factory=lambda: image(1))
    host: str = PERSONAL


DENIED = "requested access to the resource is denied"
CAUSES = ("permission to push", "namespace", "Automatically Create Repository", "quota", "300 repositories")
ROWS = {
    "wrong password": Row(
        LoginRefused, ErrorClass.CREDENTIALS, ("USERNAME_OR_PASSWORD_ERROR", "Access Credential"), login=WRONG
    ),
    "never set up": Row(
        LoginRefused,
        ErrorClass.CREDENTIALS,
        ("USER_NOT_EXIST", "never set up Container Registry"),
        token_fault=Fault(Answer(401, "UNAUTHORIZED", "USER_NOT_EXIST"), times=None),
    ),
    "never set up, under aliyun": Row(
        AskedLoginRefused,
        ErrorClass.CREDENTIALS,
        ("USER_NOT_EXIST", "account under aliyun", "never set up Container Registry", "region and instance_id"),
        ("username under auth",),
        login=Access(logins=Given(ACR_USER[1])),
        token_fault=Fault(Answer(401, "UNAUTHORIZED", "USER_NOT_EXIST"), times=None),
    ),
    "a login of another account, under aliyun": Row(
        AskedLoginRefused,
        ErrorClass.CREDENTIALS,
        ("USERNAME_OR_PASSWORD_ERROR", "account under aliyun", "region and instance_id"),
        ("check the username and password",),
        login=Access(logins=Given("mistaken-secret")),
    ),
    "no login": Row(
        LoginRefused,
        ErrorClass.CREDENTIALS,
        ("authentication required", "check the username and password"),
        login=Access(),
    ),
    "dropped by the token host": Row(
        ConnectionFailed, ErrorClass.TRANSIENT, ("connection",), ("denied",), token_fault=Fault(Cut(), times=None)
    ),
    "the token host fails": Row(
        RegistryError,
        ErrorClass.TRANSIENT,
        ("502", "denied"),
        ("in this order",),
        token_fault=Fault(Answer(502, "DENIED", "denied"), times=None),
    ),
    "no namespace": Row(Denied, ErrorClass.PERMANENT, CAUSES, name="absent/app"),
    "no namespace, 403": Row(
        Denied,
        ErrorClass.PERMANENT,
        (DENIED, *CAUSES),
        name="absent/app",
        acr={"denied_status": 403, "denies_missing": False},
        fault=Fault(Answer(404), "HEAD", times=None),
    ),
    "not created by a push": Row(Denied, ErrorClass.PERMANENT, CAUSES, name="manual/app"),
    "may only pull": Row(
        Denied, ErrorClass.PERMANENT, CAUSES, acr={"users": {ACR_USER[0]: Account(ACR_USER[1], READ)}}
    ),
    "denied at the first HEAD": Row(
        Denied, ErrorClass.PERMANENT, CAUSES, name="absent/app", acr={"denied_status": 403}
    ),
    "a nested name": Row(
        Denied,
        ErrorClass.PERMANENT,
        ("exactly namespace/name, not 3 segments", "{flat}"),
        ("in this order",),
        name="cache/team/app",
    ),
    "Enterprise": Row(
        Denied,
        ErrorClass.PERMANENT,
        CAUSES[:4],
        ("300",),
        name="absent/app",
        acr={"personal": False},
        host=ENTERPRISE,
    ),
    "a quota": Row(
        Denied,
        ErrorClass.PERMANENT,
        ("REPO_EXCEED_QUOTA", "300 repositories", "make room"),
        ("in this order",),
        fault=Fault(Answer(403, "DENIED", "REPO_EXCEED_QUOTA"), "POST", times=None),
    ),
    "an attestation": Row(
        Denied,
        ErrorClass.PERMANENT,
        ("unknown manifest class for", "attestations: strip"),
        ("in this order", "types: [image]"),
        pushed=index([image(4), attestation(image(4), empty_config=True)]),
    ),
    "a chart in the index of an image": Row(
        Denied,
        ErrorClass.PERMANENT,
        ("unknown manifest class for", "attestations: strip"),
        ("in this order", "types: [image]"),
        acr={"only_images": True},
        pushed=index([image(4), artifact("application/vnd.cncf.helm.config.v1+json")]),
    ),
    "a SOCI index in the index of an image": Row(
        Denied,
        ErrorClass.PERMANENT,
        ("unknown manifest class for", "only speeds up", "attestations: strip"),
        ("in this order", "types: [image]"),
        pushed=index([image(4), artifact("application/vnd.amazon.soci.index.v2+json")]),
    ),
    "an attestation that a tag names": not_taken("application/vnd.in-toto+json", "no artifacts", "types: [image]"),
    "a chart": not_taken(
        "application/vnd.cncf.helm.config.v1+json", "documents say that it takes charts", "types: [image]", strict=True
    ),
    "a cache": not_taken(
        "application/vnd.buildkit.cacheconfig.v0", "only builds use a BuildKit cache", "types: [image]"
    ),
    "a model": not_taken("application/vnd.cncf.model.config.v1+json", "takes no models", "serve them from Harbor"),
    "a SOCI index": not_taken("application/vnd.amazon.soci.index.v2+json", "only speeds up", "types: [image]"),
    "a signature": not_taken("application/vnd.cncf.notary.signature", "without this signature", "signatures: auto"),
    "a list of packages": not_taken("application/vnd.syft+json", "this list of packages", "signatures: auto"),
    "an artifact": not_taken("application/vnd.example.config.v1+json", "no artifacts of this kind", "types: [image]"),
    "too many requests": Row(
        TooManyRequests,
        ErrorClass.TRANSIENT,
        ("slow down", "REPLICATOR_CONCURRENCY"),
        fault=Fault(Answer(429, "TOOMANYREQUESTS", "slow down", {"Retry-After": "0"}), "POST", times=None),
    ),
}


@pytest.fixture
async def source() -> AsyncIterator[Registry]:
    async with a_registry() as registry:
        yield registry


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
async def test_a_refusal_is_classified_and_explained(row: Row, source: Registry, acr_upstream: str) -> None:
    await source.push("v1", row.pushed)
    ways = {"users": dict([ACR_USER]), "namespaces": {"cache": True, "manual": False}, **row.acr}
    async with AcrStandIn(acr_upstream, **ways) as acr:
        acr.faults.faults += [row.fault] if row.fault is not None else []
        acr.token_faults.faults += [row.token_fault] if row.token_fault is not None else []

        def access(repository: Repository) -> Access:
            if repository.registry == row.host:
                return replace(row.login, endpoint=acr.url)
            return Access(endpoint=f"http://{repository.registry}")

        destination = Reference(Repository(row.host, row.name), tag="v1")
        async with Registries(access, timing=QUICK) as registries:
            with pytest.raises(row.kind) as caught:
                await Copier(registries).copy(
                    source.reference("v1"),
                    destination,
                    options=CopyOptions(attestations=Attestations.KEEP, refused="fail"),
                )
        assert acr.leaks == []
    message = str(explained(caught.value, destination))
    assert caught.value.error_class is row.error_class
    at = [message.find(part) for part in row.says]
    assert -1 not in at, message
    assert at == sorted(at), message
    assert not any(part in message for part in (*row.hides, "mistaken-secret", ACR_USER[1])), message


async def test_a_missing_repository_is_reported_as_one(acr: AcrStandIn) -> None:
    access = replace(Access(*ACR_USER), endpoint=acr.url)
    async with Registries(lambda _: access, timing=QUICK) as registries:
        with pytest.raises(RegistryError, match="NAME_UNKNOWN") as caught:
            await anext(aiter(registries.source(Repository(PERSONAL, "cache/absent")).tags()))
    assert caught.value.error_class is ErrorClass.PERMANENT


@pytest.mark.parametrize("status", [401, 403])
async def test_a_permission_that_was_granted_is_seen_by_the_next_attempt(
    source: Registry, acr: AcrStandIn, monkeypatch: pytest.MonkeyPatch, status: Literal[401, 403]
) -> None:
    """A cached token has the permissions of when it was issued, and lives for minutes."""
    acr.denied_status = status
    await source.push("v1", image(1))
    access = replace(LOGIN, endpoint=acr.url)
    destination = Reference(Repository(PERSONAL, "manual/app"), tag="v1")
    here = Access(endpoint=f"http://{source.host}")
    async with Registries(lambda place: access if place.registry == PERSONAL else here, timing=QUICK) as registries:
        with pytest.raises(RegistryError, match=DENIED):
            await Copier(registries).copy(source.reference("v1"), destination)
        acr.create_repository("manual/app")
        later = SimpleNamespace(monotonic=lambda: time.monotonic() + 10)
        monkeypatch.setattr("replicator.registry.auth.time", later)
        await Copier(registries).copy(source.reference("v1"), destination)
