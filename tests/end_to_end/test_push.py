"""From a push to Harbor to the tag at ACR, against real servers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.running import TOKEN, running
from tests.standins.faults import Delay, Fault, Hold
from tests.standins.images import Image, Index, image, index, multi_arch, push, verify_tree
from tests.standins.layouts import write_directory, write_layout
from tests.standins.logins import ACR_USER, HARBOR_ROBOT
from tests.standins.skopeo import inspect_raw, skopeo

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import House

EVERYTHING = {"HARBOR/library/**": "ACR/image-syncer/{name}"}


def pushable(directory: Path, root: Image | Index) -> str:
    """Write an image where skopeo can push it from."""
    directory.mkdir()
    if "docker" in root.media_type:
        write_directory(directory, root)
        return f"dir:{directory}"
    write_layout(directory, root)
    return f"oci:{directory}:latest"


@pytest.mark.parametrize("payload_format", ["Default", "CloudEvents"])
@pytest.mark.parametrize("docker", [False, True], ids=["oci", "docker"])
async def test_what_skopeo_pushes_arrives_equal_to_the_byte(house: House, docker: bool, payload_format: str) -> None:
    roots: dict[str, Image | Index] = {"single": image(1, docker=docker), "multi": multi_arch(2, docker=docker)}
    if not docker:
        roots["nested"] = index([multi_arch(3), image(4)])
    async with running("serve", "--config", house.rules(EVERYTHING), cwd=house.directory) as serving:
        house.harbor.add_policy(
            "library", f"{serving.url}/webhooks/harbor", auth_header=f"Bearer {TOKEN}", payload_format=payload_format
        )
        for tag, root in roots.items():
            if tag == "nested":  # skopeo does not push it
                await push(house.harbor.host, "library/app", tag, root, HARBOR_ROBOT)
                continue
            await skopeo(
                "copy",
                "--all",
                "--preserve-digests",
                "--dest-tls-verify=false",
                f"--dest-creds={':'.join(HARBOR_ROBOT)}",
                pushable(house.directory / tag, root),
                f"docker://{house.harbor.host}/library/app:{tag}",
            )
        await serving.until("copy done", count=len(roots))
        await house.harbor.deliveries_settled()
        assert await serving.stop() == 0
    for tag, root in roots.items():
        at_harbor = await inspect_raw(f"{house.harbor.host}/library/app:{tag}", HARBOR_ROBOT)
        at_acr = await inspect_raw(f"{house.acr.host}/image-syncer/app:{tag}", ACR_USER)
        assert at_harbor == at_acr == root.content
        await verify_tree(house.behind_acr, "image-syncer/app", tag, root)
    assert all(delivery.attempt == 1 and delivery.succeeded for delivery in house.harbor.deliveries)
    assert house.harbor.leaks == []
    assert house.acr.leaks == []


async def test_an_event_whose_digest_is_there_already_sends_nothing(house: House) -> None:
    root = multi_arch()
    async with running("serve", "--config", house.rules(EVERYTHING), cwd=house.directory) as serving:
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        await push(house.harbor.host, "library/app", "v1", root, HARBOR_ROBOT)
        await serving.until("copy done")
        house.acr.faults.log.clear()
        await push(house.harbor.host, "library/app", "v1", root, HARBOR_ROBOT)
        (line,) = await serving.until("copy done", result="up to date")
    assert line["digest"] == root.digest
    # The first copy was followed by the question whether anyone may pull, which carries no login.
    log = [entry for entry in house.acr.faults.log if "Authorization" in entry.headers]
    assert [entry.method for entry in log] == ["HEAD"]


async def test_a_push_while_its_tag_is_being_copied_is_copied_too(house: House) -> None:
    """The last pushed bytes win, from the first day."""
    first, second = image(1), image(2)
    async with running("serve", "--config", house.rules(EVERYTHING), cwd=house.directory) as serving:
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        slow = house.acr.faults.add(Fault(held := Hold(), method="POST", times=1))
        await push(house.harbor.host, "library/app", "v1", first, HARBOR_ROBOT)
        async with asyncio.timeout(30):
            while not slow.hits:
                await asyncio.sleep(0.01)
        await push(house.harbor.host, "library/app", "v1", second, HARBOR_ROBOT)
        await serving.until("webhook taken", count=2)
        held.released.set()
        await serving.until("copy done", digest=second.digest)
    await verify_tree(house.behind_acr, "image-syncer/app", "v1", second)


async def test_a_worker_of_its_own_copies_what_a_webhook_took(house: House) -> None:
    rules = house.rules(EVERYTHING)
    async with running("serve", "--no-worker", "--config", rules, cwd=house.directory) as serving:
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
        await house.harbor.deliveries_settled()
        await serving.until("webhook taken")
        async with running("worker", "--config", rules, cwd=house.directory, ready="worker started") as worker:
            await worker.until("copy done", result="copied")
            assert await worker.stop() == 0
        assert serving.said("copy done") == []
        assert await serving.stop() == 0
    await verify_tree(house.behind_acr, "image-syncer/app", "v1", image())


async def test_sigterm_lets_a_running_copy_end_and_takes_events_until_then(house: House) -> None:
    root = image()
    async with running("serve", "--config", house.rules(EVERYTHING), cwd=house.directory) as serving:
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        slow = house.acr.faults.add(Fault(Delay(2.0), method="PUT", path="/manifests/"))
        await push(house.harbor.host, "library/app", "v1", root, HARBOR_ROBOT)
        async with asyncio.timeout(30):
            while not slow.hits:
                await asyncio.sleep(0.01)
        serving.process.terminate()
        await serving.until("worker stopping")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{serving.url}/readyz") as answer:
                assert answer.status == 503
                assert "stopping" in await answer.text()
            event = house.harbor.deliveries[0].event
            async with session.post(
                f"{serving.url}/webhooks/harbor", json=event, headers={"Authorization": TOKEN}
            ) as answer:
                assert answer.status == 202
        assert await serving.process.wait() == 0
    await verify_tree(house.behind_acr, "image-syncer/app", "v1", root)
    # What was taken at the last moment is durable: the next process copies it.
    house.acr.faults.log.clear()
    async with running("serve", "--config", house.rules(EVERYTHING), cwd=house.directory) as serving:
        await serving.until("copy done", result="up to date")


@pytest.mark.parametrize(("payload_format", "tag"), [("Default", "v1"), ("CloudEvents", None)], ids=["tag", "part"])
async def test_a_copy_that_waits_for_a_scan_starts_when_harbor_tells_of_its_end(
    house: House, payload_format: str, tag: str | None
) -> None:
    """A part of an index is scanned by itself; its event has no tag."""
    house.harbor.gated.add("library/app")
    root = multi_arch()
    async with running("serve", "--config", house.rules(EVERYTHING), cwd=house.directory) as serving:
        house.harbor.add_policy(
            "library",
            f"{serving.url}/webhooks/harbor",
            auth_header=TOKEN,
            payload_format=payload_format,
            event_types=("PUSH_ARTIFACT", "SCANNING_COMPLETED"),
        )
        await push(house.harbor.host, "library/app", "v1", root, HARBOR_ROBOT)
        (line,) = await serving.until("copy failed", error_class="not_yet")
        assert "current image without vulnerability scanning" in line["error"]
        house.harbor.gated.clear()
        scanned = root if tag else root.children[0]
        events = 0
        while True:  # The line of a failure comes before its job waits.
            house.harbor.deliver("SCANNING_COMPLETED", "library/app", tag, scanned.digest)
            events += 1
            *_, taken = await serving.until("webhook taken", type="SCANNING_COMPLETED", count=events)
            if "hastened" in taken:
                break
        assert taken["hastened"] == [f"{house.acr.host}/image-syncer/app:v1"]
        if tag is not None:
            await serving.until("copy done", result="copied")
