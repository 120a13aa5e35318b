"""The reports of ``replicator backfill``."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import yaml

from tests.running import replicator
from tests.standins.faults import Answer, Fault
from tests.standins.images import image, push
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House


async def test_reports_are_written_in_the_form_that_is_asked_for(house: House) -> None:
    root = image()
    await push(house.harbor.host, "library/app", "v1", root, HARBOR_ROBOT)
    rules = house.rules({"HARBOR/library/app": "ACR/image-syncer/app"})
    for options, outcome in (["--report=r.csv"], "copied"), (["--report=r", "--report-format=jsonl"], "up to date"):
        ended = await replicator("backfill", "--config", rules, *options, cwd=house.directory)
        assert ended.code == 0, ended.said
        text = (house.directory / options[0].partition("=")[2]).read_text()
        (row,) = csv.DictReader(text.splitlines()) if "csv" in options[0] else map(json.loads, text.splitlines())
        assert (row["outcome"], row["digest"]) == (outcome, root.digest)


async def test_the_lists_of_image_syncer_are_written_and_what_failed_can_be_tried_again(house: House) -> None:
    for tag in ("v1", "v2", "v3"):
        await push(house.harbor.host, "library/app", tag, image(int(tag[1])), HARBOR_ROBOT)
    refused = house.acr.faults.add(Fault(Answer(403, "DENIED"), "PUT", "/manifests/v2", times=None))
    rules = house.rules({"HARBOR/library/app": ["ACR/image-syncer/app", "ACR/cache/app"]})
    lists = ["--output-success-images=good", "--output-failed-images=bad"]
    ended = await replicator(
        "backfill", "--config", rules, "--retries=0", *lists, "--output-images-format=json", cwd=house.directory
    )
    assert ended.code == 1, ended.said
    source = f"{house.harbor.host}/library/app"
    places = [f"{house.acr.host}/cache/app", f"{house.acr.host}/image-syncer/app"]
    wanted = {f"{source}:{tag}": [f"{place}:{tag}" for place in places] for tag in ("v1", "v2", "v3")}
    failed = {f"{source}:v2": wanted.pop(f"{source}:v2")}
    assert json.loads((house.directory / "good").read_text()) == wanted
    assert json.loads((house.directory / "bad").read_text()) == failed

    refused.times = 0
    (house.directory / "auth.json").write_text(json.dumps(house.auth()))
    again = ["--auth=auth.json", "--images=bad", "--output-success-images=good"]
    ended = await replicator("backfill", *again, cwd=house.directory)
    assert ended.code == 0, ended.said
    assert yaml.safe_load((house.directory / "good").read_text()) == failed


async def test_a_file_that_can_not_be_written_is_told_before_anything_is_started(house: House) -> None:
    rules = house.rules({"HARBOR/library/app": "ACR/image-syncer/app"})
    for option in ("--output-success-images=absent/x", "--output-failed-images=absent/x", "--report-format=csv"):
        ended = await replicator("backfill", "--config", rules, option, cwd=house.directory)
        assert ended.code == 2, ended.said
        assert option.partition("=")[0] in ended.err
    assert not (house.directory / "state").exists()


async def test_a_dry_run_says_of_each_tag_what_would_be_done_and_why(house: House) -> None:
    roots = {tag: image(number) for number, tag in enumerate(("v1", "v2", "v3"))}
    for tag, root in roots.items():
        await push(house.harbor.host, "library/app", tag, root, HARBOR_ROBOT)
    for tag, root in (("v1", roots["v1"]), ("v2", roots["v1"])):
        await push(house.behind_acr, "image-syncer/app", tag, root)
    house.acr.faults.log.clear()
    rules = house.rules({"HARBOR/library/app:v1,v2,v3,absent": "ACR/image-syncer/app"})
    ended = await replicator("backfill", "--config", rules, "--dry-run", "--report=r.json", cwd=house.directory)
    assert ended.code == 1, ended.said
    lines = {line.split()[0].rpartition(":")[2]: line for line in ended.out.splitlines() if "/library/app:" in line}
    expected = {
        "v1": ("skip", "up to date"),
        "v2": ("copy", f"{roots['v1'].digest[:19]} is there"),
        "v3": ("copy", "it is not there yet"),
    }
    rows = {row["source"].rpartition(":")[2]: row for row in json.loads((house.directory / "r.json").read_text())}
    for tag, (what, why) in expected.items():
        source, destination, told, digest, reason = lines[tag].split(maxsplit=4)
        assert (source, destination) == (rows[tag]["source"], rows[tag]["destination"])
        assert (told, digest, reason) == (what, roots[tag].digest[:19], why)
        assert rows[tag]["digest"] == roots[tag].digest
    assert rows["v2"]["note"] == expected["v2"][1]
    assert {tag: row["outcome"] for tag, row in rows.items()} == {
        "v1": "up to date",
        "v2": "would copy",
        "v3": "would copy",
        "absent": "failed",
    }
    assert house.acr.faults.log.count("PUT") == 0
