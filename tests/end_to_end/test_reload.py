"""Rules and logins that change while the program runs."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.queue.servers import RedisServer, ask, free_port
from tests.running import TOKEN, running
from tests.standins.faults import Fault, Hold
from tests.standins.images import image, push, verify_tree
from tests.standins.logins import ACR_USER, HARBOR_ROBOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import House
    from tests.running import Serving

LIBRARY = {"HARBOR/library/**": "ACR/image-syncer/{name}"}
BOTH = LIBRARY | {"HARBOR/team/**": "ACR/image-syncer/{flat}"}


@pytest.fixture(autouse=True)
def team(house: House) -> None:
    house.harbor.add_project("team")


async def pushed(house: House, serving: Serving, repository: str, tag: str, number: int) -> None:
    """Push an image to Harbor, which tells of it."""
    project = repository.partition("/")[0]
    if not house.harbor.webhooks.of(project):
        house.harbor.add_policy(project, f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
    await push(house.harbor.host, repository, tag, image(number), HARBOR_ROBOT)
    await house.harbor.deliveries_settled()


async def test_a_rule_is_added_without_a_restart(house: House) -> None:
    async with running("serve", "--config", house.rules(LIBRARY), cwd=house.directory) as serving:
        await pushed(house, serving, "team/app", "v1", 1)
        assert "no rule matches" in serving.said("webhook taken")[0]["ignored"]
        house.rules(BOTH)
        await serving.until("configuration loaded")
        await pushed(house, serving, "team/app", "v2", 2)
        await serving.until("copy done")
    await verify_tree(house.behind_acr, "image-syncer/team-app", "v2", image(2))


async def test_a_rules_file_that_is_wrong_is_refused_with_every_problem_and_the_old_one_stays(house: House) -> None:
    async with running("serve", "--config", house.rules(LIBRARY), cwd=house.directory) as serving:
        house.rules({"HARBOR/library/**": "ACR/image-syncer/{nonsense}", "HARBOR/team/**": {"to": 3}})
        (refused,) = await serving.until("configuration refused")
        assert refused["level"] == "error"
        assert refused["source"].endswith("rules.json")
        assert ["{nonsense}" in str(refused["problems"]), len(refused["problems"])] == [True, 2]
        await pushed(house, serving, "library/app", "v1", 1)
        await serving.until("copy done")
        # Said once, and not again for the same file.
        house.rules(BOTH)
        await serving.until("configuration loaded")
        assert len(serving.said("configuration refused")) == 1


async def test_a_file_that_is_gone_for_a_moment_changes_nothing(house: House) -> None:
    rules = house.rules(LIBRARY)
    async with running("serve", "--config", rules, cwd=house.directory) as serving:
        rules.unlink()
        await serving.until("configuration refused")
        await pushed(house, serving, "library/app", "v1", 1)
        await serving.until("copy done")
        house.rules(LIBRARY)
        await serving.until("configuration loaded")


@pytest.mark.parametrize("command", ["serve", "worker"])
async def test_sighup_loads_everything_where_nothing_is_watched(house: House, command: str) -> None:
    settings = {"REPLICATOR_WATCH": "false"}
    ready = "listening" if command == "serve" else "worker started"
    config = house.rules(LIBRARY)
    async with running(command, "--config", config, cwd=house.directory, settings=settings, ready=ready) as serving:
        house.rules(BOTH)
        serving.process.send_signal(signal.SIGHUP)
        (loaded,) = await serving.until("configuration loaded")
        assert loaded["sources"] == 2
        serving.process.send_signal(signal.SIGHUP)
        await serving.until("configuration loaded", 2)
        assert await serving.stop() == 0


async def test_a_file_behind_a_link_that_is_changed_is_noticed_as_kubernetes_mounts_them(
    house: House, tmp_path: Path
) -> None:
    mounted, rules = tmp_path / "mounted", house.rules(LIBRARY).read_text()
    for number, content in enumerate((rules, house.rules(BOTH).read_text()), 1):
        (mounted / f"..{number}").mkdir(parents=True)
        (mounted / f"..{number}" / "rules.json").write_text(content)
    (mounted / "..data").symlink_to("..1")
    (mounted / "rules.json").symlink_to("..data/rules.json")
    async with running("serve", "--config", mounted / "rules.json", cwd=house.directory) as serving:
        (mounted / "..next").symlink_to("..2")
        (mounted / "..next").rename(mounted / "..data")
        (loaded,) = await serving.until("configuration loaded")
        assert loaded["sources"] == 2


async def test_a_password_that_is_changed_serves_the_next_copy(house: House, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "ACR_PASSWORD").write_text("wrong")
    config = house.rules(LIBRARY)
    content = json.loads(config.read_text())
    content["auth"][house.acr.host]["password"] = "${ACR_PASSWORD}"
    config.write_text(json.dumps(content))
    settings = {"REPLICATOR_SECRETS_DIR": str(secrets)}
    async with running("serve", "--config", config, cwd=house.directory, settings=settings) as serving:
        await pushed(house, serving, "library/app", "v1", 1)
        (failed, *_) = await serving.until("copy failed")
        assert "the login was refused" in failed["error"]
        (secrets / "ACR_PASSWORD").write_text(ACR_USER[1])
        await serving.until("configuration loaded")
        await pushed(house, serving, "library/app", "v2", 2)
        await serving.until("copy done", destination=f"{house.acr.host}/image-syncer/app:v2")
        assert ACR_USER[1] not in str(serving.lines)


@pytest.mark.parametrize("renewed", ["HARBOR_PASSWORD", "ACR_PASSWORD"])
async def test_what_waits_for_a_login_is_copied_when_that_login_changes_and_not_for_another(
    house: House, tmp_path: Path, renewed: str
) -> None:
    right = {"HARBOR_PASSWORD": HARBOR_ROBOT[1], "ACR_PASSWORD": ACR_USER[1]}
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name, password in right.items():
        (secrets / name).write_text("expired" if name == renewed else password)
    config = house.rules(BOTH)
    content = json.loads(config.read_text())
    for host, name in ((house.harbor.host, "HARBOR_PASSWORD"), (house.acr.host, "ACR_PASSWORD")):
        content["auth"][host]["password"] = f"${{{name}}}"
    config.write_text(json.dumps(content))
    settings = {"REPLICATOR_SECRETS_DIR": str(secrets), "REPLICATOR_RECONCILE": "off"}
    async with running("serve", "--config", config, cwd=house.directory, settings=settings) as serving:
        for number, tag in enumerate(("v1", "v2"), 1):
            await pushed(house, serving, "team/app", tag, number)
        await serving.until("job waits", count=2)
        # Other logins have no part in it, nor has a reload without any change.
        other = next(name for name in right if name != renewed)
        for number in (1, 2):
            (secrets / other).write_text("other" if number == 1 else right[other])
            await serving.until("configuration loaded", count=number)
        (secrets / renewed).write_text(right[renewed])
        await serving.until("copy done", count=2)
        assert serving.said("job dead") == []
        # Another login's change lets them ask once more, and not in circles.
        assert len(serving.said("copy failed")) < 40
        assert right[renewed] not in str(serving.lines)
    for number, tag in enumerate(("v1", "v2"), 1):
        await verify_tree(house.behind_acr, "image-syncer/team-app", tag, image(number))


async def test_a_copy_under_way_ends_as_it_began(house: House) -> None:
    held = house.acr.faults.add(Fault(Hold(), method="PUT", path="/manifests/"))
    assert isinstance(held.action, Hold)
    async with running("serve", "--config", house.rules(LIBRARY), cwd=house.directory) as serving:
        await pushed(house, serving, "library/app", "v1", 1)
        async with asyncio.timeout(30):
            while not held.hits:
                await asyncio.sleep(0.01)
        house.rules({"HARBOR/team/**": "ACR/image-syncer/{flat}"})
        await serving.until("configuration loaded")
        held.action.released.set()
        await serving.until("copy done")
    await verify_tree(house.behind_acr, "image-syncer/app", "v1", image(1))


async def test_a_setting_that_needs_a_restart_is_named(house: House) -> None:
    async with running("serve", "--config", house.rules(LIBRARY), cwd=house.directory) as serving:
        (house.directory / ".env").write_text("REPLICATOR_CONCURRENCY=3\nREPLICATOR_LEASE=60\n")
        (warned,) = await serving.until("setting needs a restart")
        assert warned["names"] == "REPLICATOR_CONCURRENCY, REPLICATOR_LEASE"


async def test_metrics_tell_of_a_refusal_and_of_the_new_hosts_and_rules(house: House) -> None:
    async with running("serve", "--config", house.rules(LIBRARY), cwd=house.directory) as serving:

        async def scraped() -> str:
            async with aiohttp.ClientSession() as session, session.get(f"{serving.url}/metrics") as answer:
                return await answer.text()

        assert "replicator_rules_reload_failed 0.0" in await scraped()
        (house.directory / "rules.json").write_text("{")
        await serving.until("configuration refused")
        assert "replicator_rules_reload_failed 1.0" in await scraped()
        house.rules(BOTH)
        await serving.until("configuration loaded")
        assert "replicator_rules_reload_failed 0.0" in await scraped()
        await pushed(house, serving, "team/app", "v1", 1)
        await serving.until("copy done")
        where, rule = f'destination_host="{house.acr.host}"', f'rule="{house.harbor.host}/team/**"'
        count = f'replicator_copies_total{{{where},lane="events",outcome="copied",{rule}}} 1.0'
        async with asyncio.timeout(30):  # it is counted once the queue has taken its end
            while count not in await scraped():
                await asyncio.sleep(0.05)


async def test_of_what_is_refused_nothing_is_in_force_not_even_the_page_s_password(house: House) -> None:
    file = house.directory / ".env"
    file.write_text(f"REPLICATOR_STATUS_TOKEN=before\nREPLICATOR_WEBHOOK_TOKEN={TOKEN}\n")
    settings = {"REPLICATOR_WEBHOOK_TOKEN": ""}
    config = house.rules(LIBRARY)
    async with running("serve", "--no-worker", "--config", config, cwd=house.directory, settings=settings) as serving:
        # Nothing says any more whose events are taken.
        file.write_text("REPLICATOR_STATUS_TOKEN=after\n")
        (refused,) = await serving.until("configuration refused")
        assert "REPLICATOR_WEBHOOK_TOKEN" in str(refused["problems"])
        async with aiohttp.ClientSession() as session:
            for password, status in (("before", 200), ("after", 401)):
                login = {"Authorization": "Basic " + base64.b64encode(f"anyone:{password}".encode()).decode()}
                async with session.get(serving.url, headers=login) as answer:
                    assert answer.status == status


async def test_another_password_of_redis_is_taken_over_from_its_secret_file(house: House, tmp_path: Path) -> None:
    secrets, port = tmp_path / "secrets", free_port()
    secrets.mkdir()
    url = secrets / "replicator_redis_url"
    url.write_text(f"redis://:one@127.0.0.1:{port}")
    settings = {"REPLICATOR_SECRETS_DIR": str(secrets), "REPLICATOR_SWEEP": "off"}
    options = ("--port", str(port), "--bind", "127.0.0.1", "--requirepass", "one")
    with RedisServer(tmp_path / "redis", *options) as redis:
        config = house.rules(LIBRARY)
        async with running("serve", "--config", config, cwd=house.directory, settings=settings) as serving:
            await pushed(house, serving, "library/app", "v1", 1)
            await serving.until("copy done")
            ask(redis, "AUTH one\r\nCONFIG SET requirepass two\r\nCLIENT KILL TYPE normal")
            url.write_text(f"redis://:two@127.0.0.1:{port}")
            await serving.until("queue reconnects")
            await pushed(house, serving, "library/app", "v2", 2)
            await serving.until("copy done", 2)
            assert serving.said("setting needs a restart") == []
