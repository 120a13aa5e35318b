"""``copy``, ``explain`` and ``serve``, and the mistakes of new users."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from replicator.errors import INTERRUPTED
from tests.running import PROGRAM, TOKEN, begun, replicator, running
from tests.standins.faults import Answer, Delay, Fault
from tests.standins.images import image, multi_arch, push, verify_tree
from tests.standins.logins import ACR_USER, HARBOR_ROBOT

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House

SECRET = "a-secret-that-nobody-may-see"


async def test_copy_copies_one_image_in_the_foreground(house: House) -> None:
    root = multi_arch()
    await push(house.harbor.host, "library/app", "v1", root, HARBOR_ROBOT)
    rules = house.rules({"HARBOR/library/app": "ACR/image-syncer/app"})
    source, destination = f"{house.harbor.host}/library/app:v1", f"{house.acr.host}/cache/other:v2"
    ended = await replicator("copy", source, destination, "--config", rules, cwd=house.directory)
    assert ended.code == 0, ended.said
    assert root.digest in ended.out
    await verify_tree(house.behind_acr, "cache/other", "v2", root)
    again = await replicator("copy", source, destination, "--config", rules, cwd=house.directory)
    assert (again.code, again.out.startswith("up to date")) == (0, True)
    assert not (house.directory / "state").exists()


async def test_copy_needs_only_the_credentials_of_a_rules_file_or_none_at_all(house: House) -> None:
    await push(house.behind_harbor, "library/app", "v1", image())
    ended = await replicator(
        "copy",
        f"{house.behind_harbor}/library/app:v1",
        f"{house.behind_acr}/a/b:v1",
        "--insecure",
        house.behind_harbor,
        "--insecure",
        house.behind_acr,
        cwd=house.directory,
    )
    assert ended.code == 0, ended.said
    auth = house.directory / "auth.json"
    auth.write_text(json.dumps(house.auth()))
    ended = await replicator(
        "copy",
        f"{house.harbor.host}/library/app:v1",
        f"{house.acr.host}/cache/b:v1",
        "--auth",
        auth,
        cwd=house.directory,
    )
    assert ended.code == 0, ended.said


async def test_explain_tells_where_an_image_would_go_without_any_network(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        "auth:\n"
        "  harbor.example.com: {anonymous: true}\n"
        "  registry.cn-beijing.aliyuncs.com: {username: u, password: p}\n"
        "images:\n"
        "  harbor.example.com/team/**: {to: 'registry.cn-beijing.aliyuncs.com/team/{flat}', tags: {include: ['v*']}}\n"
        "  harbor.example.com/library/nginx: registry.cn-beijing.aliyuncs.com/cache/nginx\n"
    )
    ended = await replicator("explain", "harbor.example.com/team/a/b:v1", "--config", rules, cwd=tmp_path)
    assert ended.code == 0, ended.said
    assert "harbor.example.com/team/a/b:v1 -> registry.cn-beijing.aliyuncs.com/team/team-a-b:v1" in ended.out
    assert "no match  harbor.example.com/library/nginx" in ended.out
    assert (
        "note  harbor.example.com/team/a-b:v1 would have the same destination. This is a problem only if both exist"
        in ended.out
    )
    ended = await replicator("explain", "harbor.example.com/team/a/b:dev", "--config", rules, cwd=tmp_path)
    assert ended.code == 1
    assert "would not be copied" in ended.out


async def test_explain_tells_what_of_an_image_is_copied_where_it_is_not_everything(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        "auth: {harbor.example.com: {anonymous: true}, registry.cn-beijing.aliyuncs.com: {anonymous: true},\n"
        "  registry.example.com: {anonymous: true}}\n"
        "images:\n"
        "  harbor.example.com/team/app:\n"
        "    - {to: registry.cn-beijing.aliyuncs.com/team/app, tags: {latest: 3}, signatures: true,\n"
        "       platforms: [linux/arm64/v8, linux/amd64]}\n"
        "    - registry.example.com/app\n"
    )

    async def explained(name: str) -> list[str]:
        ended = await replicator("explain", f"harbor.example.com/team/app{name}", "--config", rules, cwd=tmp_path)
        assert ended.code == 0, ended.said
        return [line.partition(" -> ")[2] for line in ended.out.splitlines() if " -> " in line]

    when = "if the tag is among the latest 3 of the source when the copy starts"
    what = "only linux/amd64, linux/arm64/v8; attestations that the registry refuses are left out; with signatures"
    assert await explained(":v1") == [
        f"registry.cn-beijing.aliyuncs.com/team/app:v1 ({when}; {what})",
        "registry.example.com/app:v1",
    ]
    digest, waits = f"sha256:{'a' * 64}", "(if the image it signs is at the destination when the copy starts)"
    assert await explained(f"@{digest}") == [f"registry.cn-beijing.aliyuncs.com/team/app@{digest} {waits}"]
    tag = f"sha256-{'a' * 64}.sig"
    assert await explained(f":{tag}") == [
        f"registry.cn-beijing.aliyuncs.com/team/app:{tag} {waits}",
        f"registry.example.com/app:{tag} {waits}",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_copy_ends_in_order_at_a_signal(house: House, number: signal.Signals) -> None:
    await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
    slow = house.acr.faults.add(Fault(Delay(30.0), "POST", "/blobs/uploads/", times=None))
    rules = house.rules({"HARBOR/library/app": "ACR/image-syncer/app"})
    copy = begun(
        "copy",
        f"{house.harbor.host}/library/app:v1",
        f"{house.acr.host}/cache/app:v1",
        "--config",
        rules,
        cwd=house.directory,
    )
    async with copy as process, asyncio.timeout(30):
        while not slow.hits:
            await asyncio.sleep(0.01)
        process.send_signal(number)
        said = await process.communicate()
    assert (process.returncode, *said) == (130, b"", b"")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["backfill"], "no rules file: give --config"),
        (["backfill", "--config", "absent.yaml"], "absent.yaml"),
        (["serve", "--config", "typo.yaml"], "line 3"),
        (["backfill", "--config", "unknown.yaml"], "images"),
        (["backfill", "--config", "good.yaml", "--proc", "0"], "--proc"),
        (["backfill", "--config", "good.yaml", "--retries", "many"], "--retries"),
        (["backfill", "--config", "good.yaml", "--report", "absent/r.json"], "--report"),
        (["backfill", "--config", "good.yaml", "--log", "absent/log"], "--log"),
        (["backfill", "--nonsense"], "--nonsense"),
        (["backfill", "--config", "good.yaml", "--os", "linux,,windows"], "--os: '' is not a name"),
        (["backfill", "--config", "good.yaml", "--arch", "linux/amd64"], "--arch: 'linux/amd64' is not a name"),
        (["copy", "h.example.com/a:1", "h.example.com/b:1", "--platform", "amd64"], "--platform: 'amd64' is no"),
        (["copy", "h.example.com/a:1", "h.example.com/b:1", "--attestations", "auto"], "--attestations"),
        (["nonsense"], "nonsense"),
        (["explain", "nginx", "--config", "good.yaml"], "REFERENCE"),
        (["copy", "harbor.example.com/x", "harbor.example.com/y:1"], "SOURCE"),
        (["serve", "--config", "good.yaml", "--listen", "nowhere"], "--listen"),
        (["serve", "--config", "good.yaml", "--redis-url", f"http://u:{SECRET}@h"], "redis://"),
        (["serve", "--config", "good.yaml", "--state-dir", "good.yaml/x"], "state directory"),
    ],
)
async def test_what_is_wrong_with_the_command_line_or_the_files_is_told_clearly(
    tmp_path: Path, arguments: list[str], says: str
) -> None:
    (tmp_path / "typo.yaml").write_text(f"auth:\n  h.example.com: {{username: u, password: {SECRET}}}\n images: {{\n")
    (tmp_path / "unknown.yaml").write_text(
        f"auth:\n  h.example.com: {{username: u, passwort: {SECRET}}}\nimage: {{}}\n"
    )
    login = f"auth:\n  h.example.com: {{username: u, password: {SECRET}}}\n"
    (tmp_path / "good.yaml").write_text(f"{login}images:\n  h.example.com/a/b: h.example.com/c/d\n")
    settings = {"REPLICATOR_WEBHOOK_TOKEN": SECRET, "REPLICATOR_LISTEN": "127.0.0.1:0"}
    ended = await replicator(*arguments, cwd=tmp_path, settings=settings)
    assert ended.code == 2, ended.said
    assert says in ended.said
    assert "Traceback" not in ended.said
    assert SECRET not in ended.said


async def test_serve_needs_a_token(house: House) -> None:
    rules = house.rules({"HARBOR/library/app": "ACR/image-syncer/app"})
    ended = await replicator("serve", "--config", rules, cwd=house.directory)
    assert ended.code == 2
    assert "REPLICATOR_WEBHOOK_TOKEN" in ended.err
    assert "REPLICATOR_WEBHOOK_ANONYMOUS" in ended.err


async def test_an_address_in_use_is_told_before_anything_is_started(house: House) -> None:
    rules = house.rules({"HARBOR/library/app": "ACR/image-syncer/app"})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = await replicator(
            "serve",
            "--config",
            rules,
            "--listen",
            address,
            cwd=house.directory,
            settings={"REPLICATOR_WEBHOOK_TOKEN": TOKEN},
        )
    assert ended.code == 2
    assert address in ended.err
    assert not (house.directory / "state").exists()


@pytest.mark.parametrize("which", ["harbor", "acr"])
async def test_a_wrong_password_is_told_once_a_copy_with_the_host_and_without_the_password(
    house: House, which: str
) -> None:
    # A private project: a public one lets anyone in.
    await push(house.harbor.host, "team/app", "v1", image(), HARBOR_ROBOT)
    rules = house.rules({"HARBOR/team/app": "ACR/image-syncer/app"})
    right, host = (HARBOR_ROBOT[1], house.harbor.host) if which == "harbor" else (ACR_USER[1], house.acr.host)
    rules.write_text(rules.read_text().replace(f'"{right}"', f'"{SECRET}"'))
    ended = await replicator("backfill", "--config", rules, cwd=house.directory)
    assert ended.code == 1, ended.said
    assert host in ended.out
    assert "password" in ended.out
    assert "Traceback" not in ended.said
    assert SECRET not in ended.said
    copied = await replicator(
        "copy",
        f"{house.harbor.host}/team/app:v1",
        f"{house.acr.host}/image-syncer/app:v1",
        "--config",
        rules,
        cwd=house.directory,
    )
    assert copied.code == 1
    assert host in copied.err
    assert "password" in copied.err
    assert "Traceback" not in copied.said
    assert SECRET not in copied.said


async def test_a_host_that_does_not_answer_is_told_and_waited_for_until_ctrl_c(house: House) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{closed.getsockname()[1]}"
    names = (f"{host}/a/b:v1", f"{house.behind_acr}/c/d:v1")
    registries = ("--insecure", host, "--insecure", house.behind_acr)
    async with begun("copy", *names, *registries, cwd=house.directory) as process, asyncio.timeout(60):
        assert process.stderr is not None
        line = (await process.stderr.readline()).decode()
        assert line.startswith(f"Waiting for {host} (can't connect to {host}: ")
        assert line.rstrip().endswith("; retrying for up to 3 min")
        process.send_signal(signal.SIGINT)
        assert await process.wait() == INTERRUPTED
        assert b"Traceback" not in await process.stderr.read()


async def test_a_copy_goes_on_after_an_outage(house: House) -> None:
    await push(house.harbor.host, "library/app", "v1", image(), HARBOR_ROBOT)
    # More than a request is repeated by itself.
    outage = house.acr.faults.add(Fault(Answer(502), "PUT", "/manifests/", times=6))
    names = (f"{house.harbor.host}/library/app:v1", f"{house.acr.host}/image-syncer/app:v1")
    ended = await replicator("copy", *names, "--config", house.rules({}), cwd=house.directory)
    assert ended.code == 0, ended.said
    assert outage.hits == 6
    (line,) = ended.err.splitlines()
    assert line.startswith(f"Waiting for {house.acr.host} (502")
    await verify_tree(house.behind_acr, "image-syncer/app", "v1", image())


async def test_a_name_that_does_not_exist_ends_a_copy_at_once(house: House) -> None:
    ended = await replicator(
        "copy",
        "registry.invalid/a/b:v1",
        f"{house.behind_acr}/c/d:v1",
        "--insecure",
        house.behind_acr,
        cwd=house.directory,
    )
    assert ended.code == 1
    assert "registry.invalid can't be resolved" in ended.err
    assert "Waiting" not in ended.err
    ended = await replicator("copy", f"{house.harbor.host}/a/b:v1", "registry.invalid/c/d:v1", cwd=house.directory)
    assert ended.code == 1
    assert "insecure: true" in ended.err or "can't be resolved" in ended.err
    assert "Traceback" not in ended.said


async def test_an_unknown_tag_is_told(house: House) -> None:
    rules = house.rules({"HARBOR/library/app": "ACR/image-syncer/app"})
    ended = await replicator(
        "copy",
        f"{house.harbor.host}/library/app:absent",
        f"{house.acr.host}/image-syncer/app:v1",
        "--config",
        rules,
        cwd=house.directory,
    )
    assert ended.code == 1
    assert f"{house.harbor.host}/library/app:absent not found" in ended.err
    assert "Traceback" not in ended.said


async def test_secrets_stand_in_no_process_list(house: House) -> None:
    """What the system shows of serve and its queue's server holds no secret."""
    rules = house.rules({"HARBOR/library/app": "ACR/image-syncer/app"})
    settings = {"REPLICATOR_WEBHOOK_TOKEN": SECRET, "REPLICATOR_LOG_LEVEL": "debug"}
    started = running("serve", "--config", rules, cwd=house.directory, settings=settings, program=PROGRAM)
    async with started as serving:
        # Of serve and its children only: other programs of the machine are not this test's.
        (children,) = Path(f"/proc/{serving.process.pid}/task").glob(f"{serving.process.pid}/children")
        family = [str(serving.process.pid), *children.read_text().split()]
        shown = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in family)
        assert await serving.stop() == 0
    assert b"replicator" in shown
    for secret in (SECRET, HARBOR_ROBOT[1], ACR_USER[1]):
        assert secret.encode() not in shown + str(serving.lines).encode()
