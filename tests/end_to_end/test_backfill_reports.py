"""What ``replicator backfill`` leaves behind for programs to read."""

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
