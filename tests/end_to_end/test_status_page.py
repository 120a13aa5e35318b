"""The status page shows real copies between a Harbor and an ACR."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from tests.running import TOKEN, running
from tests.server.page.conftest import PASSWORD, ask
from tests.server.page.reading import Document
from tests.standins.faults import Fault, Hold
from tests.standins.images import image, push
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.end_to_end.conftest import House
    from tests.running import Serving

EVERYTHING = {"HARBOR/library/**": "ACR/image-syncer/{name}"}
# The namespace "manual" creates no repository by itself: a push to a new one is denied.
DENIED = {"HARBOR/library/**": "ACR/manual/{name}"}
SETTINGS = {"REPLICATOR_STATUS_TOKEN": PASSWORD}


async def seen(serving: Serving, until: Callable[[Document], bool] = lambda _: True) -> Document:
    """The page, once it shows something."""
    async with asyncio.timeout(60):
        while True:
            answer = await ask(f"{serving.url}/", password=PASSWORD)
            assert answer.status == 200, answer.text
            if until(page := Document(answer.text)):
                assert page.unclosed == []
                return page
            await asyncio.sleep(0.05)


async def test_a_push_is_seen_while_it_is_copied_and_when_it_has_arrived(house: House) -> None:
    slow = house.acr.faults.add(Fault(Hold(), method="PUT", path="/manifests/"))
    assert isinstance(slow.action, Hold)
    async with running("serve", "--config", house.rules(EVERYTHING), cwd=house.directory, settings=SETTINGS) as serving:
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        await push(house.harbor.host, "library/app", "v1", image(1, (50_000,)), HARBOR_ROBOT)
        page = await seen(serving, lambda page: "100 %" in page.texts["running"])
        assert f"{house.acr.host}/image-syncer/app:v1 events" in page.texts["running"]
        assert "1 copying, 0 queued" in page.texts["head"]
        slow.action.released.set()
        page = await seen(
            serving, lambda page: "app:v1" in page.texts["copies"] and "Last webhook" in page.texts["webhooks"]
        )
        assert f"From {house.harbor.host} to {house.acr.host}" in page.texts["copies"]
        assert "library/app:v1 to image-syncer/app:v1 copied 5" in page.texts["copies"]
        assert f"{house.harbor.host}/library" in page.texts["webhooks"]
        assert "1 copied and 0 failed in the last 24 hours." in page.texts["lag"]
        assert re.search(r"copied [\d.]+ kB [\d.]+ s \d+(\.\d)? (s|min) ", page.texts["copies"]), "its lag is told"
        assert f"{house.harbor.host}/library/** 1 0 0" in page.texts["rules"]
        assert "1 push replicated in the last 24 hours" in page.texts["lag"]
        assert "All is well: the queue is empty." in page.texts["head"]


async def test_what_was_given_up_is_copied_by_its_button_once_the_cause_is_gone(house: House) -> None:
    async with running("serve", "--config", house.rules(DENIED), cwd=house.directory, settings=SETTINGS) as serving:
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        await push(house.harbor.host, "library/app", "v1", image(1), HARBOR_ROBOT)
        await serving.until("job dead")
        page = await seen(serving, lambda page: bool(page.causes))
        assert "1 copy failed and is not retried automatically." in page.texts["head"]
        assert "Automatically Create Repository" in page.texts["failures"]
        assert "failed, " in page.texts["copies"]
        assert "No push was replicated" in page.texts["lag"]
        # Somebody creates the repository.
        await push(house.behind_acr, "manual/app", "other", image(2))
        told = await ask(f"{serving.url}/", password=PASSWORD, form=page.causes[0].pressed("retry cause"))
        assert told.status == 303
        await serving.until("copy done")
        page = await seen(serving, lambda page: "copied" in page.texts["copies"])
        assert page.causes == []


async def test_what_a_reconcile_finds_right_does_not_push_out_what_happened(house: House) -> None:
    for tag in ("v1", "v2", "v3"):
        await push(house.behind_harbor, "library/app", tag, image(1))
    await push(house.behind_acr, "image-syncer/app", "v1", image(1))
    settings = {**SETTINGS, "REPLICATOR_RECONCILE": "2s"}
    async with running("serve", "--config", house.rules(EVERYTHING), cwd=house.directory, settings=settings) as serving:
        await serving.until("reconcile done", pending=2)
        await serving.until("reconcile done", up_to_date=3)
        page = await seen(serving, lambda page: "2 of the last 2" in page.texts["copies"])
        assert "up to date" not in page.texts["copies"].partition("not listed")[2]
        assert "3 1 0 2 0" in page.texts["reconciles"]
        assert "3 3 0 0 0" in page.texts["reconciles"]
        assert "No push was replicated" in page.texts["lag"], "nobody waited for these"
