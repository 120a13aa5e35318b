"""Pushes to ACR, request by request: its peculiarities that a copy copes with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import pytest

from replicator.copy import Copier
from replicator.reference import Reference, Repository
from replicator.registry import Access, Registries
from tests.copy.conftest import QUICK, Registry, a_registry
from tests.standins.images import blobs_of, image, multi_arch, verify_tree
from tests.standins.logins import ACR_USER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.standins.acr import AcrStandIn, Mounts

REGISTRY = "registry.cn-beijing.aliyuncs.com"
ROOT = image(1, (300_000, 500))


@pytest.fixture
async def source() -> AsyncIterator[Registry]:
    async with a_registry() as registry:
        await registry.push("v1", ROOT)
        yield registry


def registries(acr: AcrStandIn) -> Registries:
    def access(repository: Repository) -> Access:
        if repository.registry == REGISTRY:
            return replace(Access(*ACR_USER), endpoint=acr.url)
        return Access(endpoint=f"http://{repository.registry}")

    return Registries(access, timing=QUICK)


def at(name: str) -> Reference:
    return Reference(Repository(REGISTRY, name), tag="v1")


@pytest.mark.parametrize("status", [401, 403])
async def test_denied_before_the_first_push_means_that_the_repository_is_missing(
    source: Registry, acr: AcrStandIn, acr_upstream: str, status: Literal[401, 403]
) -> None:
    acr.denied_status = status
    async with registries(acr) as opened:
        await Copier(opened).copy(source.reference("v1"), at("cache/app"))
    assert acr.faults.log.count("HEAD", "/manifests/v1", status) > 0
    await verify_tree(acr_upstream, "cache/app", "v1", ROOT)


async def test_a_blob_goes_in_one_put_and_no_catalog_is_requested(source: Registry, acr: AcrStandIn) -> None:
    async with registries(acr) as opened:
        await Copier(opened).copy(source.reference("v1"), at("cache/app"))
    log = acr.faults.log
    blobs = len(blobs_of(ROOT))
    assert log.count("PUT", "/blobs/uploads/", 201) == blobs
    assert log.count("PATCH") == 0
    assert log.count(path="_catalog") == 0


async def test_the_password_goes_to_the_token_host_that_the_challenge_names_whatever_its_region(
    source: Registry, acr: AcrStandIn
) -> None:
    async with registries(acr) as opened:
        await Copier(opened).copy(source.reference("v1"), at("cache/app"))
    assert acr.token_host != acr.host
    assert all(entry.headers["Authorization"].startswith("Basic ") for entry in acr.token_faults.log)
    assert acr.leaks == []


@pytest.mark.parametrize("mounts", ["supported", "ignored", "refused"])
@pytest.mark.parametrize("status", [401, 403])
async def test_whatever_becomes_of_a_mount_the_image_arrives_whole(
    source: Registry, acr: AcrStandIn, acr_upstream: str, mounts: Mounts, status: Literal[401, 403]
) -> None:
    acr.mounts, acr.denied_status = mounts, status
    async with registries(acr) as opened:
        copier = Copier(opened)
        for name in ("cache/one", "cache/two", "image-syncer/three"):
            await copier.copy(source.reference("v1"), at(name))
    for name in ("cache/one", "cache/two", "image-syncer/three"):
        await verify_tree(acr_upstream, name, "v1", ROOT)
    assert acr.leaks == []


async def test_a_list_of_images_arrives_with_its_children_before_it(
    source: Registry, acr: AcrStandIn, acr_upstream: str
) -> None:
    root = multi_arch(3)
    await source.push("many", root)
    async with registries(acr) as opened:
        await Copier(opened).copy(source.reference("many"), at("cache/app"))
    puts = [entry.path.rpartition("/")[2] for entry in acr.faults.log.select("PUT", "/manifests/")]
    assert set(puts[:-1]) == {child.digest for child in root.children}
    assert puts[-1] == "v1"
    await verify_tree(acr_upstream, "cache/app", "v1", root)
