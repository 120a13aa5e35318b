"""Images written straight into a registry's storage are served as if they had been pushed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.standins.distribution import distribution
from tests.standins.images import fetch_raw, image, layer, multi_arch, push, verify_tree, write
from tests.standins.storage import Storage

if TYPE_CHECKING:
    from pathlib import Path


async def listed(host: str, path: str, what: str) -> list[str]:
    """A list of the registry's, sorted: of a directory it comes as it lies there."""
    async with aiohttp.request("GET", f"http://{host}/v2/{path}") as answer:
        assert answer.status == 200
        return sorted(json.loads(await answer.read())[what])


async def test_a_registry_serves_what_was_written(tmp_path: Path) -> None:
    base = [layer(7)]
    first, second, both = image(1, base=base), image(2, base=base, docker=True), multi_arch(3)
    storage = Storage(tmp_path)
    write(storage, "team/app", {"v1": first, "v2": second, "same": first})
    write(storage, "team/group/other", {"v1": both, "shared": first})

    async with distribution(tmp_path) as registry:
        for repository, tag, root in (
            ("team/app", "v1", first),
            ("team/app", "v2", second),
            ("team/app", "same", first),
            ("team/app", first.digest, first),
            ("team/group/other", "v1", both),
            ("team/group/other", both.digest, both),
            ("team/group/other", "shared", first),
        ):
            await verify_tree(registry, repository, tag, root)
        assert await listed(registry, "team/app/tags/list", "tags") == ["same", "v1", "v2"]
        assert await listed(registry, "_catalog", "repositories") == ["team/app", "team/group/other"]
        # What is in one repository only is not served in another.
        with pytest.raises(LookupError):
            await fetch_raw(registry, "team/app", both.digest)


async def test_a_registry_takes_pushes_on_top_of_what_was_written(tmp_path: Path) -> None:
    write(Storage(tmp_path), "team/app", {"v1": image(1), "v2": image(2)})

    async with distribution(tmp_path) as registry:
        await push(registry, "team/app", "v1", image(3))
        await push(registry, "team/new", "v1", image(1))
        await verify_tree(registry, "team/app", "v1", image(3))
        await verify_tree(registry, "team/app", image(1).digest, image(1))
        await verify_tree(registry, "team/app", "v2", image(2))
        await verify_tree(registry, "team/new", "v1", image(1))
        assert await listed(registry, "_catalog", "repositories") == ["team/app", "team/new"]


async def test_a_tag_written_again_names_the_other_image_also_while_the_registry_runs(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    write(storage, "team/app", {"v1": image(1)})

    async with distribution(tmp_path) as registry:
        await verify_tree(registry, "team/app", "v1", image(1))
        write(storage, "team/app", {"v1": image(2)})
        await verify_tree(registry, "team/app", "v1", image(2))
        async with aiohttp.request("DELETE", f"http://{registry}/v2/team/app/manifests/{image(2).digest}") as answer:
            assert answer.status == 202
        with pytest.raises(LookupError):
            await fetch_raw(registry, "team/app", "v1")


async def test_an_image_that_is_written_lies_as_one_that_was_pushed(tmp_path: Path) -> None:
    root, pushed, written = multi_arch(1, attested=True), tmp_path / "pushed", tmp_path / "written"
    async with distribution(pushed) as registry:
        await push(registry, "team/app", "v1", root)
    write(Storage(written), "team/app", {"v1": root})

    def files(directory: Path) -> dict[str, bytes]:
        return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}

    assert files(pushed) == files(written)
    assert Storage(pushed).tags("team/app") == ["v1"]
    assert Storage(pushed).digest("team/app", "v1") == root.digest
    assert Storage(pushed).digest("team/app", "v2") is None
    assert Storage(pushed).tags("team/new") is None
