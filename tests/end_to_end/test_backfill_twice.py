"""A tag that moves while Harbor's list is read appears in it twice."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from replicator.replication.report import RowOutcome
from tests.end_to_end.unattended import unattended
from tests.standins.faults import Answer, Fault
from tests.standins.images import image, push, verify_tree

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House


def page(*rows: dict[str, Any]) -> Answer:
    headers = {"X-Total-Count": "101", "Content-Type": "application/json"}
    return Answer(200, headers=headers, body=json.dumps(rows).encode())


def row(number: int, digest: str, *tags: str) -> dict[str, Any]:
    return {"id": number, "repository_name": "team/app", "digest": digest, "tags": [{"name": tag} for tag in tags]}


async def test_it_counts_once_and_what_it_names_is_copied(house: House) -> None:
    await push(house.behind_harbor, "team/app", "v1", image(2))
    others = [row(number, f"sha256:{number:064x}") for number in range(2, 101)]
    pages = (page(row(1, image(1).digest, "v1"), *others), page(row(101, image(2).digest, "v1")))
    for number, answer in enumerate(pages, 1):
        house.harbor.faults.add(Fault(answer, "GET", "/artifacts", query=f"page={number}&", times=None))
    async with unattended(house.rules({"HARBOR/team/app": "ACR/image-syncer/app"})) as alone:
        async with asyncio.timeout(30):
            # The second is listed before the list is complete.
            while not alone.backfill.report.complete or alone.backfill.report.listed != 1:
                await asyncio.sleep(0.01)
        assert await alone.queued() == 1
        report = await alone.finish()
    assert report.counts == {RowOutcome.COPIED: 1}
    await verify_tree(house.behind_acr, "image-syncer/app", "v1", image(2))
