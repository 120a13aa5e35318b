"""BuildKit's attestations, some of which ACR refuses: from the push to the log line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from replicator.registry.manifest import digest_of
from tests.end_to_end.conftest import PUBLIC_NAME
from tests.running import TOKEN, replicator, running
from tests.standins.images import Index, attestation, fetch_raw, image, index, push, verify_tree
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House

AMD64, ARM64 = image(1), image(2, architecture="arm64")
KEPT, REFUSED = attestation(AMD64, 1), attestation(ARM64, 2, empty_config=True)
BUILT = index([AMD64, ARM64, KEPT, REFUSED])
LEFT = "1 attestation left out, which the registry refuses"


def without_the_refused() -> Index:
    """The index as it is to arrive: every other word of it as BuildKit wrote it."""
    document = json.loads(BUILT.content)
    document["manifests"] = [row for row in document["manifests"] if row["digest"] != REFUSED.digest]
    return Index(BUILT.media_type, json.dumps(document, separators=(",", ":")).encode(), (AMD64, ARM64, KEPT))


async def status(house: House) -> dict[str, Any]:
    """Return what the queue says of itself."""
    ended = await replicator("status", "--json", cwd=house.directory)
    assert ended.code == 0, ended.said
    found: dict[str, Any] = json.loads(ended.out)
    return found


async def test_a_pushed_image_arrives_without_the_attestation_that_acr_refuses_and_the_log_says_so(
    house: House,
) -> None:
    rules = house.rules({"HARBOR/library/**": "ALIYUN/image-syncer/{name}"})
    expected = without_the_refused()
    async with running("serve", "--config", rules, cwd=house.directory) as serving:
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        await push(house.harbor.host, "library/app", "v1", BUILT, HARBOR_ROBOT)
        (line,) = await serving.until("copy done")
        await house.harbor.deliveries_settled()
        assert (line["result"], line["note"], line["digest"]) == ("copied", LEFT, expected.digest)
        assert line["destination"] == f"{PUBLIC_NAME}/image-syncer/app:v1"
        await verify_tree(house.behind_acr, "image-syncer/app", "v1", expected)
        # Harbor sends an event for each child too, by its digest: these lead to no copies of their own.
        assert len(serving.said("webhook taken")) == 5
        assert len(serving.said("copy done")) == 1
        assert serving.said("copy failed") == serving.said("job dead") == []

        # The line comes a moment before the queue hears of the end; what has not ended is merged with what follows.
        while any((await status(house))["lanes"]["events"].values()):
            pass
        house.harbor.faults.log.clear()
        house.acr.faults.log.clear()
        house.acr.token_faults.log.clear()
        house.harbor.deliver("PUSH_ARTIFACT", "library/app", "v1", BUILT.digest)
        (line,) = await serving.until("copy done", result="up to date")
        assert (line["note"], line["digest"]) == (LEFT, expected.digest)
    (entry,) = house.acr.faults.log
    assert (entry.method, entry.path, entry.status) == ("HEAD", "/v2/image-syncer/app/manifests/v1", 200)
    assert [(entry.method, entry.path, entry.query, entry.status) for entry in house.harbor.faults.log] == []
    assert [(entry.method, entry.path, entry.query, entry.status) for entry in house.acr.token_faults.log] == []
    assert house.acr.leaks == house.harbor.leaks == []


async def test_another_process_that_never_saw_the_image_finds_it_up_to_date_and_sends_nothing(house: House) -> None:
    rules = house.rules({"HARBOR/library/app": "ALIYUN/image-syncer/app"})
    await push(house.harbor.host, "library/app", "v1", BUILT, HARBOR_ROBOT)
    ended = await replicator("backfill", "--config", rules, "--report=r.json", cwd=house.directory)
    assert ended.code == 0, ended.said
    (row,) = json.loads((house.directory / "r.json").read_text())
    assert (row["outcome"], row["note"], row["digest"]) == ("copied", LEFT, without_the_refused().digest)
    house.acr.faults.log.clear()
    again = await replicator("backfill", "--config", rules, "--report=r.json", cwd=house.directory)
    assert again.code == 0, again.said
    (row,) = json.loads((house.directory / "r.json").read_text())
    assert (row["outcome"], row["note"], row["digest"]) == ("up to date", LEFT, without_the_refused().digest)
    assert {entry.method for entry in house.acr.faults.log.select(path="/v2/.")} == {"HEAD"}


async def test_an_image_with_attestations_is_given_up_at_once_where_the_rule_wants_none(house: House) -> None:
    rules = house.rules({"HARBOR/library/**": {"to": "ALIYUN/image-syncer/{name}", "attestations": "fail"}})
    async with running("serve", "--config", rules, cwd=house.directory) as serving:
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        await push(house.harbor.host, "library/app", "v1", BUILT, HARBOR_ROBOT)
        await serving.until("job dead")
        (failed,) = serving.said("copy failed")
        assert (failed["tries"], failed["error_class"]) == (1, "permanent")
        listed = await replicator("failures", "--json", cwd=house.directory)
        assert listed.code == 0, listed.said
        (failure,) = json.loads(listed.out)
        assert failure["destination"] == f"{PUBLIC_NAME}/image-syncer/app:v1"
        assert (failure["error_class"], failure["tries"]) == ("permanent", 1)
        assert failure["message"] == failed["error"]
        assert "the image has attestations" in failure["message"]
        assert "--provenance=false --sbom=false" in failure["message"]
        out = (await replicator("failures", "--list", cwd=house.directory)).out
        told = [f"{part}: {failure[part]}" for part in ("what", "why", "do") if failure[part]]
        assert set(told) <= set(out.splitlines())
        assert house.acr.faults.log.count("PUT") == house.acr.faults.log.count("POST") == 0

        # Built without them, as the message says, the failure is over.
        await push(house.harbor.host, "library/app", "v1", plain := index([AMD64, ARM64]), HARBOR_ROBOT)
        await serving.until("copy done", result="copied", digest=plain.digest)
        assert json.loads((await replicator("failures", "--json", cwd=house.directory)).out) == []
    await verify_tree(house.behind_acr, "image-syncer/app", "v1", plain)


@pytest.mark.parametrize("words", [{"attestations": "strip"}, {"attestations": "keep"}], ids=str)
async def test_what_a_rule_says_of_attestations_wins_over_what_acr_would_take(
    house: House, words: dict[str, str]
) -> None:
    root = index([AMD64, ARM64, KEPT])
    await push(house.harbor.host, "library/app", "v1", root, HARBOR_ROBOT)
    rules = house.rules({"HARBOR/library/app": {"to": "ALIYUN/image-syncer/app", **words}})
    ended = await replicator("backfill", "--config", rules, "--report=r.json", cwd=house.directory)
    assert ended.code == 0, ended.said
    (row,) = json.loads((house.directory / "r.json").read_text())
    content, _ = await fetch_raw(house.behind_acr, "image-syncer/app", "v1")
    assert digest_of(content) == row["digest"]
    left = [child["digest"] for child in json.loads(content)["manifests"]]
    if words["attestations"] == "keep":
        assert (content, row["note"]) == (root.content, "")
    else:
        assert (left, row["note"]) == ([AMD64.digest, ARM64.digest], "1 attestation left out")
