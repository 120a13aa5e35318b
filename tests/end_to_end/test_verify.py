"""``replicator verify``, as run from a shell."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from replicator.replication.attestation import Compared, State
from tests.running import replicator
from tests.standins.faults import Answer, Fault
from tests.standins.images import Image, Index, blobs_of, cosign_tag, image, multi_arch, push
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import House


def attested(file: Path) -> dict[str, Compared]:
    """The rows of an attestation by the destination's tag."""
    rows = [Compared.parse(line) for line in file.read_text().splitlines()[:-1]]
    return {row.destination.rpartition(":")[2]: row for row in rows}


async def test_what_a_backfill_left_behind_and_what_is_there_later_is_proven(house: House) -> None:
    for tag in ("v1", "v2", "v3"):
        await push(house.harbor.host, "team/app", tag, image(int(tag[1])), HARBOR_ROBOT)
    rules, where = house.rules({"HARBOR/team/*": "ACR/cache/{name}"}), house.directory
    signed = ("--attest", "proof.jsonl", "--key", "replicator.key")
    ended = await replicator("backfill", "--config", rules, *signed, cwd=where)
    assert (ended.code, "created a new key" in ended.err) == (0, True), ended.said
    rows = attested(where / "proof.jsonl")
    assert {(tag, row.state) for tag, row in rows.items()} == {(f"v{n}", State.EQUAL) for n in (1, 2, 3)}
    assert all(
        row.source_digest == row.destination_digest == row.wanted == image(int(tag[1])).digest
        for tag, row in rows.items()
    )
    checked = await replicator("verify", "--check", "proof.jsonl", "--key", "replicator.pub", cwd=where)
    assert (checked.code, "is genuine: 3 rows" in checked.out) == (0, True), checked.said

    await push(house.harbor.host, "team/app", "v2", image(20), HARBOR_ROBOT)
    await push(house.harbor.host, "team/app", "v4", image(4), HARBOR_ROBOT)
    house.harbor.faults.log.clear()
    house.acr.faults.log.clear()
    ended = await replicator("verify", "--config", rules, *signed, "--json", cwd=where)
    assert ended.code == 1, ended.said
    said = json.loads(ended.out)
    assert (said["equal"], said["counts"]) == (False, {"equal": 2, "different": 1, "missing": 1})
    rows = attested(where / "proof.jsonl")
    assert {tag: row.state for tag, row in rows.items()} == {
        "v1": State.EQUAL,
        "v2": State.DIFFERENT,
        "v3": State.EQUAL,
        "v4": State.MISSING,
    }
    assert (rows["v2"].source_digest, rows["v2"].destination_digest) == (image(20).digest, image(2).digest)
    assert house.harbor.faults.log.count("GET", "/manifests/") == 0
    assert house.acr.faults.log.count("PUT") == house.acr.faults.log.count("POST") == 0
    checked = await replicator("verify", "--check", "proof.jsonl", "--key", "replicator.pub", cwd=where)
    assert (checked.code, "is genuine: 4 rows" in checked.out) == (1, True), checked.said
    proof = where / "proof.jsonl"
    proof.write_text(proof.read_text().replace('"state":"missing"', '"state":"equal"'))
    checked = await replicator("verify", "--check", "proof.jsonl", "--key", "replicator.pub", cwd=where)
    assert (checked.code, "not the signed rows" in checked.err) == (1, True), checked.said


async def test_deep_asks_the_destination_alone_for_every_manifest_and_blob(house: House) -> None:
    whole, lacks_blob, lacks_child, lacks_all = multi_arch(1), multi_arch(2), multi_arch(3), image(4)
    pushed: Image | Index
    for tag, pushed in (("whole", whole), ("blob", lacks_blob), ("child", lacks_child), ("root", lacks_all)):
        await push(house.harbor.host, "team/app", tag, pushed, HARBOR_ROBOT)
        await push(house.behind_acr, "cache/app", tag, pushed)
    blob, child, root = blobs_of(lacks_blob)[1].digest, lacks_child.children[1].digest, lacks_all.digest
    for method, path in (("HEAD", f"/blobs/{blob}"), ("GET", f"/manifests/{child}"), ("GET", f"/manifests/{root}")):
        house.acr.faults.add(Fault(Answer(404, "MANIFEST_UNKNOWN"), method, path, times=None))
    rules, where = house.rules({"HARBOR/team/*": "ACR/cache/{name}"}), house.directory
    house.harbor.faults.log.clear()
    house.acr.faults.log.clear()
    signed = ("--attest", "proof.jsonl", "--key", "replicator.key")
    ended = await replicator("verify", "--config", rules, "--deep", *signed, cwd=where)
    assert ended.code == 1, ended.said
    rows = attested(where / "proof.jsonl")
    assert {tag: row.note for tag, row in rows.items() if row.state is not State.EQUAL} == {
        "blob": f"the blob {blob} is not there",
        "child": f"the manifest {child} is not there",
        "root": f"the manifest {root} is not there",
    }
    assert {row.state for tag, row in rows.items() if tag != "whole"} == {State.INCOMPLETE}
    assert house.harbor.faults.log.count("GET", "/v2/team/") == 0
    asked = {entry.path.rpartition("/")[2] for entry in house.acr.faults.log if "/blobs/" in entry.path}
    assert asked >= {blob.digest for blob in blobs_of(whole)}


async def test_extra_are_the_tags_that_no_rule_and_no_source_tag_names(house: House) -> None:
    for tag in ("v1", "dev"):
        await push(house.harbor.host, "team/app", tag, image(1), HARBOR_ROBOT)
        await push(house.behind_acr, "cache/app", tag, image(1))
    # Nothing of this one is named; and signatures belong to an image that is there, or was.
    await push(house.harbor.host, "team/other", "dev", image(1), HARBOR_ROBOT)
    await push(house.behind_acr, "cache/other", "dev", image(1))
    await push(house.behind_acr, "cache/app", "gone", image(3))
    for number in (1, 99):
        await push(house.behind_acr, "cache/app", cosign_tag(image(number)), image(50 + number))
    where = house.directory
    rules = house.rules({"HARBOR/team/*": {"to": "ACR/cache/{name}", "tags": {"include": ["v*"]}}})
    command = ("verify", "--config", rules, "--extra", "--list", "extra.txt")
    ended = await replicator(*command, cwd=where)
    assert ended.code == 1, ended.said
    app, other = f"{house.acr.host}/cache/app", f"{house.acr.host}/cache/other"
    extra = [f"{app}:dev", f"{app}:gone", f"{app}:{cosign_tag(image(99))}", other, f"{other}:dev"]
    assert (where / "extra.txt").read_text().splitlines() == sorted(extra)
    assert house.acr.faults.log.count("DELETE") == 0
    # What could not be listed may name them all.
    house.harbor.faults.add(Fault(Answer(403, "FORBIDDEN"), "GET", "/repositories", times=None))
    ended = await replicator(*command, cwd=where)
    assert (ended.code, (where / "extra.txt").read_text()) == (1, ""), ended.said
    assert "extra tags were not searched" in ended.out


async def test_options_that_make_no_sense_together_are_refused(house: House) -> None:
    rules, where = house.rules({"HARBOR/team/*": "ACR/cache/{name}"}), house.directory
    for options in (
        ("--attest", "x"),
        ("--check", "x"),
        ("--key", "k"),
        ("--list", "x"),
        ("--extra", "--only", "team/app"),
        ("--check", "x", "--key", "k", "--deep"),
    ):
        ended = await replicator("verify", "--config", rules, *options, cwd=where)
        assert (ended.code, options[0] in ended.err) == (2, True), ended.said
    for options in (("--attest", "x", "--key", "k", "--fast"), ("--attest", "x", "--key", "k", "--dry-run")):
        ended = await replicator("backfill", "--config", rules, *options, cwd=where)
        assert (ended.code, "--attest" in ended.err) == (2, True), ended.said
