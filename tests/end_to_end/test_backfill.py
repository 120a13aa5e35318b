"""``replicator backfill``, as run from a shell."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.end_to_end.conftest import report
from tests.running import PROGRAM, begun, replicator, running
from tests.standins.acr import AcrStandIn
from tests.standins.faults import Answer, Delay, Fault
from tests.standins.images import Image, Index, image, layer, multi_arch, push, verify_tree
from tests.standins.logins import ACR_USER, HARBOR_ADMIN, HARBOR_ROBOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import House
    from tests.standins.harbor import HarborStandIn

SEED_FILE = """
{
    "auth": {
        "harbor.myk8s.paas.com:32080": {
            "username": "admin",
            "password": "xxxxxxxxx",
            "insecure": true
        },
        "registry.cn-beijing.aliyuncs.com": {
            "username": "acr_pusher@1938562138124787",
            "password": "xxxxxxxx"
        }
    },
    "images": {
        "harbor.myk8s.paas.com:32080/library/nginx": ""
    }
}
"""
SEED_COMMAND = (
    "--proc=10 --config=./harbor-to-acr.json --registry=registry.cn-beijing.aliyuncs.com --namespace=image-syncer "
    "--retries=10 --log=./log"
)


async def test_the_users_of_image_syncer_bring_their_file_and_their_command_line(
    harbor: HarborStandIn, acr_upstream: str, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    import ssl

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    images: dict[str, Image | Index] = {"1.26": image(1), "1.27": multi_arch(2)}
    for tag, root in images.items():
        await push(harbor.host, "library/nginx", tag, root, HARBOR_ADMIN)
    async with AcrStandIn(acr_upstream, users=dict([ACR_USER]), namespaces={"image-syncer": True}, tls=tls) as acr:
        hosts = {
            "harbor.myk8s.paas.com:32080": harbor.host,
            "registry.cn-beijing.aliyuncs.com": acr.host,
            "xxxxxxxxx": HARBOR_ADMIN[1],
            '"xxxxxxxx"': f'"{ACR_USER[1]}"',
        }
        file, command = SEED_FILE, SEED_COMMAND
        for old, new in hosts.items():
            file, command = file.replace(old, new), command.replace(old, new)
        (tmp_path / "harbor-to-acr.json").write_text(file)
        trusted = {"SSL_CERT_FILE": str(tmp_path / "ca.pem")}
        ended = await replicator("backfill", *shlex.split(command), cwd=tmp_path, settings=trusted, program=PROGRAM)
        assert ended.code == 0, ended.said
        assert acr.leaks == harbor.leaks == []
    for tag, root in images.items():
        await verify_tree(acr_upstream, "image-syncer/nginx", tag, root)
    log = (tmp_path / "log").read_text()
    assert log.count('"event": "copy done"') == 2
    assert HARBOR_ADMIN[1] not in log
    assert ACR_USER[1] not in log


async def test_what_differs_is_copied_and_everything_is_accounted_for(house: House) -> None:
    base = [layer(1, 50_000)]
    images = {f"v{number}": image(10 + number, base=base) for number in range(6)}
    for tag, root in images.items():
        await push(house.harbor.host, "team/app/api", tag, root, HARBOR_ROBOT)
    rules = house.rules({"HARBOR/team/**": "ACR/cache/{flat}"})
    ended = await replicator("backfill", "--config", rules, "--report", "r.json", cwd=house.directory)
    assert ended.code == 0, ended.said
    rows = report(house.directory / "r.json")
    assert {row["outcome"] for row in rows.values()} == {"copied"}
    assert {tag: row["digest"] for tag, row in rows.items()} == {tag: root.digest for tag, root in images.items()}
    assert rows["v3"]["destination"] == f"{house.acr.host}/cache/team-app-api:v3"
    assert all(row["error"] is None and row["seconds"] > 0 for row in rows.values())
    # The shared layer went over once.
    assert sum(row["bytes"] for row in rows.values()) < 2 * 50_000 + 6 * 10_000
    for tag, root in images.items():
        await verify_tree(house.behind_acr, "cache/team-app-api", tag, root)

    house.acr.faults.log.clear()
    again = await replicator("backfill", "--config", rules, "--report", "r.json", cwd=house.directory)
    assert again.code == 0
    assert {row["outcome"] for row in report(house.directory / "r.json").values()} == {"up to date"}
    # But for finding out the scheme: a HEAD a tag, and one more where the token came first.
    asked = house.acr.faults.log.select(path="/v2/.")
    assert {entry.method for entry in asked} == {"HEAD"}
    assert len([entry for entry in asked if entry.status == 200]) == 6
    assert "6  up to date" in again.out
    assert "0  failed" in again.out


async def test_what_is_up_to_date_is_not_written_again_to_look_for_its_signatures(house: House) -> None:
    await push(house.harbor.host, "library/app", "v1", image(1), HARBOR_ROBOT)
    rules = house.rules({"HARBOR/library/app": {"to": "ACR/image-syncer/app", "signatures": True}})
    for outcome in ("copied", "up to date"):
        house.acr.faults.log.clear()
        ended = await replicator("backfill", "--config", rules, "--report", "r.json", cwd=house.directory)
        assert ended.code == 0, ended.said
        assert report(house.directory / "r.json")["v1"]["outcome"] == outcome
    assert house.acr.faults.log.count("PUT") == 0


async def test_a_tag_that_a_rule_names_and_nobody_pushed_is_a_failure_and_not_waited_for(house: House) -> None:
    rules = house.rules({"HARBOR/library/app:absent": "ACR/image-syncer/app"})
    for options in (["--retries=10"], ["--dry-run"]):
        ended = await replicator("backfill", "--config", rules, *options, cwd=house.directory, timeout=10)
        assert ended.code == 1, ended.said
        assert "library/app:absent not found" in ended.out
    assert house.acr.faults.log.count("PUT") == 0


async def test_a_dry_run_changes_nothing(house: House) -> None:
    await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
    rules = house.rules({"HARBOR/library/app": "ACR/image-syncer/app"})
    ended = await replicator("backfill", "--config", rules, "--dry-run", cwd=house.directory)
    assert ended.code == 0, ended.said
    assert "1  would copy" in ended.out
    assert {entry.method for entry in house.acr.faults.log} <= {"HEAD", "GET"}
    assert house.acr.faults.log.count("GET", "/v2/.") == 0
    assert not (house.directory / "state").exists()


async def test_each_failure_is_told_with_its_reason_and_the_rest_is_copied(house: House) -> None:
    for tag in ("good", "bad"):
        await push(house.harbor.host, "library/app", tag, image(len(tag)), HARBOR_ROBOT)
    house.acr.faults.add(
        Fault(Answer(403, "DENIED", "requested access to the resource is denied"), "PUT", "/manifests/bad", times=None)
    )
    rules = house.rules(
        {"HARBOR/library/app": "ACR/image-syncer/app", "HARBOR/library/missing:v9": "ACR/image-syncer/missing"}
    )
    ended = await replicator("backfill", "--config", rules, "--retries=0", "--report=r.json", cwd=house.directory)
    assert ended.code == 1
    rows = report(house.directory / "r.json")
    assert (rows["good"]["outcome"], rows["bad"]["outcome"], rows["v9"]["outcome"]) == ("copied", "failed", "failed")
    assert "requested access to the resource is denied" in rows["bad"]["error"]
    assert "it accepted the rest of the image" in rows["bad"]["do"]
    assert "library/missing:v9 not found" in rows["v9"]["error"]
    assert all(rows["bad"][name] in ended.out for name in ("what", "why", "do"))
    assert "Traceback" not in ended.said


async def test_a_transient_fault_is_outlasted(house: House) -> None:
    await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
    house.acr.faults.add(Fault(Answer(503), "PUT", times=6))
    rules = house.rules({"HARBOR/library/app": "ACR/image-syncer/app"})
    ended = await replicator("backfill", "--config", rules, "--retries=4", cwd=house.directory)
    assert ended.code == 0, ended.said
    await verify_tree(house.behind_acr, "image-syncer/app", "v1", image())


async def test_an_interrupt_ends_with_a_summary_and_what_is_left_stays_queued(house: House) -> None:
    for number in range(4):
        await push(house.harbor.host, "library/app", f"v{number}", image(number + 1), HARBOR_ROBOT)
    slow = house.acr.faults.add(Fault(Delay(1.0), "PUT", "/manifests/", times=None))
    rules = house.rules({"HARBOR/library/app": "ACR/image-syncer/app"})
    backfill = begun("backfill", "--config", rules, "--proc=1", "--report=r.json", cwd=house.directory)
    async with backfill as process, asyncio.timeout(30):
        while not slow.hits:
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert process.returncode == 130, err.decode()
    assert b"Interrupted" in out
    assert b"Traceback" not in out + err
    outcomes = sorted(row["outcome"] for row in report(house.directory / "r.json").values())
    assert outcomes == ["copied", "queued", "queued", "queued"]
    slow.times = 0
    async with running("serve", "--config", rules, cwd=house.directory) as serving:
        await serving.until("copy done", count=3)


async def test_beside_a_running_serve_it_uses_the_same_queue(house: House) -> None:
    for number in range(4):
        await push(house.harbor.host, "library/app", f"v{number}", image(number + 1), HARBOR_ROBOT)
    rules = house.rules({"HARBOR/library/app": "ACR/image-syncer/app"})
    async with running("serve", "--config", rules, cwd=house.directory):
        ended = await replicator("backfill", "--config", rules, "--report=r.json", cwd=house.directory)
    assert ended.code == 0, ended.said
    assert sorted(row["outcome"] for row in report(house.directory / "r.json").values()) == ["copied"] * 4
    # Whoever of the two ran it: each tag was written once.
    assert house.acr.faults.log.count("PUT", "/manifests/v", 201) == 4


async def test_two_sources_for_one_destination_are_told_with_both_names(house: House) -> None:
    for number, repository in enumerate(("team/a/b-c", "team/a-b/c")):
        await push(house.harbor.host, repository, "v1", image(number), HARBOR_ROBOT)
    rules = house.rules({"HARBOR/team/**": "ACR/cache/{flat}"})
    ended = await replicator("backfill", "--config", rules, "--report=r.json", cwd=house.directory)
    assert ended.code == 1
    rows = json.loads((house.directory / "r.json").read_text())
    assert [row["outcome"] for row in rows] == ["failed", "failed"]
    for row in rows:
        assert "team/a/b-c:v1" in row["error"]
        assert "team/a-b/c:v1" in row["error"]
    # Whichever came last would have won: neither is copied.
    assert house.acr.faults.log.count("PUT") == 0


async def test_a_project_that_can_not_be_listed_does_not_hide_the_others(house: House) -> None:
    for repository in ("library/app", "team/app"):
        await push(house.harbor.host, repository, "v1", image(1), HARBOR_ROBOT)
    house.harbor.faults.add(Fault(Answer(403, "FORBIDDEN"), "GET", "/projects/library/repositories", times=None))
    rules = house.rules({"HARBOR/**": "ACR/cache/{flat}"})
    ended = await replicator("backfill", "--config", rules, "--report=r.json", cwd=house.directory)
    assert ended.code == 1, ended.said
    rows = {row["source"]: row for row in json.loads((house.directory / "r.json").read_text())}
    assert rows[f"{house.harbor.host}/team/app:v1"]["outcome"] == "copied"
    assert "can't be listed" in rows[f"{house.harbor.host}/library/"]["error"]


async def test_a_list_whose_page_comes_again_and_again_ends(house: House) -> None:
    page = json.dumps([{"name": f"team/app-{number}"} for number in range(100)]).encode()
    endless = house.harbor.faults.add(Fault(Answer(200, body=page), "GET", "/projects/team/repositories", times=None))
    rules = house.rules({"HARBOR/team/x-*": "ACR/cache/{flat}"})
    ended = await replicator("backfill", "--config", rules, cwd=house.directory)
    assert ended.code == 1, ended.said
    assert "page 2 is page 1 again" in ended.out
    assert endless.hits == 2


async def test_the_report_is_written_when_who_reads_the_summary_has_gone(house: House) -> None:
    await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
    rules = house.rules({"HARBOR/library/app": "ACR/image-syncer/app"})
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write) as unread:
        ended = await replicator(
            "backfill", "--config", rules, "--report", "r.json", cwd=house.directory, stdout=unread.fileno()
        )
    assert report(house.directory / "r.json")["v1"]["outcome"] == "copied"
    assert "Traceback" not in ended.err


async def test_a_report_that_is_lost_is_no_mistake_of_the_command_line(house: House) -> None:
    rules = house.rules({"HARBOR/team/nothing-*": "ACR/cache/{name}"})
    ended = await replicator("backfill", "--config", rules, "--report=/dev/full", cwd=house.directory)
    assert ended.code == 1
    assert "the report is lost: /dev/full: No space left on device" in ended.err
    assert "0  failed" in ended.out


async def test_what_is_shown_are_the_names_and_no_pictures(house: House) -> None:
    await push(house.harbor.host, "library/app", "bug", image(), HARBOR_ROBOT)
    house.harbor.faults.add(Fault(Answer(403, "DENIED", "[/] [bold] :bug:"), "HEAD", "/manifests/", times=None))
    house.acr.faults.add(Fault(Answer(403, "DENIED", "[/] [bold] :bug:"), None, "/manifests/", times=None))
    rules = house.rules({"HARBOR/library/app": "ACR/image-syncer/app"})
    ended = await replicator("backfill", "--config", rules, "--retries=0", cwd=house.directory)
    assert ended.code == 1
    assert "image-syncer/app:bug: " in ended.err
    assert ended.said.isascii()


async def test_a_rule_that_matches_nothing_is_a_warning(house: House) -> None:
    rules = house.rules({"HARBOR/team/nothing-*": "ACR/cache/{name}"})
    ended = await replicator("backfill", "--config", rules, cwd=house.directory)
    assert ended.code == 0, ended.said
    assert "matches nothing" in ended.out


async def test_with_many_tags_the_latest_are_chosen_by_the_rule(house: House) -> None:
    for number in range(5):
        await push(house.harbor.host, "library/app", f"v1.{number}.0", image(number + 1), HARBOR_ROBOT)
    await push(house.harbor.host, "library/app", "v1.4.1-dev", image(9), HARBOR_ROBOT)
    rules = house.rules(
        {"HARBOR/library/app": {"to": "ACR/image-syncer/app", "tags": {"exclude": ["*-dev"], "latest": 2}}}
    )
    ended = await replicator("backfill", "--config", rules, "--report=r.json", cwd=house.directory)
    assert ended.code == 0, ended.said
    assert set(report(house.directory / "r.json")) == {"v1.3.0", "v1.4.0"}


@pytest.mark.scale
async def test_two_backfills_at_once_bring_a_project_of_several_pages_and_write_each_tag_once(house: House) -> None:
    root = image()
    names = [f"app{number:03}" for number in range(105)]
    for name in names:
        await push(house.behind_harbor, f"team/{name}", "v1", root)
    rules = house.rules({"HARBOR/team/*": "ACR/cache/{name}"})
    both = await asyncio.gather(
        *(
            replicator("backfill", "--config", rules, f"--report={number}.json", cwd=house.directory, timeout=100)
            for number in range(2)
        )
    )
    assert [ended.code for ended in both] == [0, 0], both[0].said + both[1].said
    for number in range(2):
        rows = json.loads((house.directory / f"{number}.json").read_text())
        assert sorted(row["destination"] for row in rows) == [f"{house.acr.host}/cache/{name}:v1" for name in names]
        assert {row["outcome"] for row in rows} <= {"copied", "up to date"}
    assert house.acr.faults.log.count("PUT", "/manifests/v1", 201) == len(names)
