"""Several Harbors at once, each at an address other than its public name."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.running import TOKEN, Ended, replicator, running
from tests.standins.distribution import reused_distribution
from tests.standins.fixtures import PATIENCE, QUICK_BACKOFF
from tests.standins.harbor import HarborStandIn
from tests.standins.images import image, multi_arch, push, verify_tree
from tests.standins.logins import ACR_USER
from tests.standins.tokens import Account, Credentials

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.standins.acr import AcrStandIn
    from tests.standins.faults import RequestLog
    from tests.standins.images import Image, Index

# No such names are ever asked for: who would contact one, contacts none of the stand-ins.
NAMES = ("harbor-a.example.com", "harbor-b.example.com")


@dataclass(frozen=True)
class Site:
    """A Harbor by its public name, and a robot account of its own that may do all."""

    name: str
    harbor: HarborStandIn
    behind: str
    login: tuple[str, str]


@dataclass(frozen=True)
class Sites:
    """Two Harbors with a project of the same name, an ACR, and a directory with a rules file between them."""

    sites: tuple[Site, Site]
    acr: AcrStandIn
    behind_acr: str
    directory: Path

    def rules(self, **passwords: str) -> Path:
        """Write rules for the same project at both; ``passwords`` replaces that of an account."""
        auth: dict[str, Any] = {
            site.name: {
                "username": site.login[0],
                "password": passwords.get(site.name.partition(".")[0].replace("-", "_"), site.login[1]),
                "endpoint": f"http://{site.harbor.host}",
            }
            for site in self.sites
        }
        auth[self.acr.host] = {"username": ACR_USER[0], "password": ACR_USER[1], "insecure": True}
        images = {
            f"{site.name}/team/**": f"{self.acr.host}/image-syncer/{letter}-{{name}}"
            for site, letter in zip(self.sites, "ab", strict=True)
        }
        file = self.directory / "rules.json"
        file.write_text(json.dumps({"auth": auth, "images": images}))
        return file

    async def called(self, *arguments: str | Path) -> Ended:
        settings = {"REPLICATOR_WEBHOOK_TOKEN": TOKEN}
        return await replicator(*arguments, "--config", self.rules(), cwd=self.directory, settings=settings)


def users(log: RequestLog) -> set[str]:
    """Whose passwords came in."""
    found = (Credentials.of(entry) for entry in log)  # type: ignore[arg-type]  # only its headers are looked at
    return {each.username for each in found if each.scheme == "basic"}


@pytest.fixture
async def two(acr: AcrStandIn, acr_upstream: str, tmp_path: Path) -> AsyncIterator[Sites]:
    async with AsyncExitStack() as stack:
        sites = []
        for name in NAMES:
            upstream = await stack.enter_async_context(reused_distribution())
            login = (f"robot${name.partition('.')[0]}", f"secret-of-{name}")
            harbor = HarborStandIn(
                upstream,
                users={login[0]: Account(login[1])},
                projects={"team": False},
                name=name,
                webhook_timeout=PATIENCE,
                webhook_backoff=QUICK_BACKOFF,
            )
            sites.append(Site(name, await stack.enter_async_context(harbor), upstream, login))
        yield Sites((sites[0], sites[1]), acr, acr_upstream, tmp_path)
        for site in sites:
            assert site.harbor.leaks == []
            assert users(site.harbor.faults.log) <= {site.login[0]}
        assert acr.leaks == []
        assert users(acr.faults.log) <= {ACR_USER[0]}


async def test_pushes_at_both_go_through_one_webhook_each_under_its_public_name(two: Sites) -> None:
    pushed: tuple[Image | Index, ...] = (image(1), multi_arch(2))
    async with running("serve", "--config", two.rules(), cwd=two.directory) as serving:
        registered = await two.called(
            "webhook", "register", "--sidecar", "--json", "--url", f"{serving.url}/webhooks/harbor"
        )
        assert registered.code == 0, registered.said
        assert [(row["registry"], row["change"]) for row in json.loads(registered.out)] == [
            (name, "created") for name in NAMES
        ]
        for site, root in zip(two.sites, pushed, strict=True):
            (policy,) = site.harbor.webhooks.of("team")
            assert policy.body["targets"][0]["address"] == f"{serving.url}/webhooks/harbor/{site.name}"
            # The same name and tag at both.
            await push(site.harbor.host, "team/app", "v1", root, site.login)
        for site, root, letter in zip(two.sites, pushed, "ab", strict=True):
            destination = f"{two.acr.host}/image-syncer/{letter}-app:v1"
            (line,) = await serving.until("copy done", destination=destination)
            assert line["source"] == f"{site.name}/team/app:v1"
            await verify_tree(two.behind_acr, f"image-syncer/{letter}-app", "v1", root)
            assert site.harbor.faults.log.count("GET", "^/service/token$", 200)
        again = await two.called(
            "webhook", "register", "--sidecar", "--json", "--url", f"{serving.url}/webhooks/harbor"
        )
        assert {row["change"] for row in json.loads(again.out)} == {"unchanged"}
        listed = await two.called("webhook", "list", "--json", "--url", f"{serving.url}/webhooks/harbor")
        assert [row["registry"] for row in json.loads(listed.out)["policies"]] == list(NAMES)


@pytest.mark.parametrize("form", ["/", "?registry="])
async def test_an_address_that_names_one_of_them_is_given_to_the_other_under_its_own_name(
    two: Sites, form: str
) -> None:
    url = f"https://replicator.example.com/webhooks/harbor{form}{NAMES[0]}"
    assert (await two.called("webhook", "register", "--url", url)).code == 0
    for site in two.sites:
        (policy,) = site.harbor.webhooks.of("team")
        assert policy.body["targets"][0]["address"].endswith(f"/webhooks/harbor/{site.name}")


async def test_an_address_of_a_proxys_own_names_the_harbor_in_its_query_as_nobody_knows_more_of_its_path(
    two: Sites,
) -> None:
    assert (await two.called("webhook", "register", "--url", "https://proxy.example.com/hook")).code == 0
    for site in two.sites:
        (policy,) = site.harbor.webhooks.of("team")
        assert policy.body["targets"][0]["address"] == f"https://proxy.example.com/hook?registry={site.name}"


async def test_a_policy_whose_address_names_its_harbor_in_the_older_form_is_recognised_and_corrected(
    two: Sites,
) -> None:
    url = "https://replicator.example.com/webhooks/harbor"
    for site in two.sites:
        site.harbor.add_policy("team", f"{url}?registry={site.name}", name="by-hand", auth_header=TOKEN)
    ended = await two.called("webhook", "register", "--json", "--url", url)
    assert {row["change"] for row in json.loads(ended.out)} == {"updated"}
    for site in two.sites:
        (policy,) = site.harbor.webhooks.of("team")
        assert policy.body["targets"][0]["address"] == f"{url}/{site.name}"
        assert policy.body["name"] == "by-hand"


async def test_a_backfill_lists_and_copies_from_both(two: Sites) -> None:
    for number, site in enumerate(two.sites):
        for tag in ("v1", "v2"):
            await push(site.behind, "team/app", tag, image(number))
    ended = await two.called("backfill", "--report", "report.json")
    assert ended.code == 0, ended.said
    rows = json.loads((two.directory / "report.json").read_text())
    assert sorted((row["source"], row["outcome"]) for row in rows) == [
        (f"{name}/team/app:{tag}", "copied") for name in NAMES for tag in ("v1", "v2")
    ]
    for number, (site, letter) in enumerate(zip(two.sites, "ab", strict=True)):
        await verify_tree(two.behind_acr, f"image-syncer/{letter}-app", "v1", image(number))
        # By Harbor's own list, not by names alone.
        assert site.harbor.faults.log.count("GET", "/projects/team/artifacts$", 200)


async def test_a_check_tries_both_at_their_addresses_and_names_them_by_their_names(two: Sites) -> None:
    for number, site in enumerate(two.sites):
        await push(site.behind, "team/app", "v1", image(number))
        address = f"https://replicator.example.com/webhooks/harbor/{site.name}"
        site.harbor.add_policy("team", address, auth_header=TOKEN)
    ended = await two.called("check", "--json")
    assert ended.code == 0, ended.said
    lines = json.loads(ended.out)
    assert {line["subject"] for line in lines if line["name"] == "policy"} == {f"{name}/team" for name in NAMES}
    assert {line["subject"] for line in lines if line["name"] == "pull"} == {f"{name}/team/app:v1" for name in NAMES}
    assert set(NAMES) <= {line["subject"] for line in lines if line["name"] == "login"}


async def test_the_wrong_password_of_one_is_told_under_its_name_and_the_other_goes_on(two: Sites) -> None:
    for number, site in enumerate(two.sites):
        await push(site.behind, "team/app", "v1", image(number))
    rules = two.rules(harbor_a="wrong-of-a")
    ended = await replicator("backfill", "--config", rules, cwd=two.directory)
    assert ended.code == 1
    assert "harbor-a.example.com" in ended.said
    assert "wrong-of-a" not in ended.said
    await verify_tree(two.behind_acr, "image-syncer/b-app", "v1", image(1))


async def test_an_event_without_a_registry_in_its_url_is_known_by_what_the_harbor_calls_itself(two: Sites) -> None:
    async with running("serve", "--config", two.rules(), cwd=two.directory) as serving:
        for number, site in enumerate(two.sites):
            site.harbor.add_policy("team", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
            await push(site.harbor.host, "team/app", "v1", image(number), site.login)
        for letter, site in zip("ab", two.sites, strict=True):
            destination = f"{two.acr.host}/image-syncer/{letter}-app:v1"
            (line,) = await serving.until("copy done", destination=destination)
            assert line["source"] == f"{site.name}/team/app:v1"


async def test_reconciles_make_the_policies_of_both(two: Sites) -> None:
    settings = {
        "REPLICATOR_RECONCILE": "20s",
        "REPLICATOR_WEBHOOK_REGISTER": "true",
        "REPLICATOR_WEBHOOK_URL": "https://replicator.example.com/webhooks/harbor",
    }
    async with running("serve", "--config", two.rules(), cwd=two.directory, settings=settings) as serving:
        await serving.until("webhook registered", count=2)
    for site in two.sites:
        (policy,) = site.harbor.webhooks.of("team")
        assert policy.body["targets"][0]["address"].endswith(f"/webhooks/harbor/{site.name}")


async def test_a_harbor_that_calls_itself_otherwise_is_told_with_what_to_do(two: Sites) -> None:
    one, other = two.sites
    for site in two.sites:
        await push(site.behind, "team/app", "v1", image(1))
    url = "https://replicator.example.com/webhooks/harbor"

    async def findings(name: str) -> dict[str, str]:
        checked = await two.called("check", "--json")
        rows = [row for row in json.loads(checked.out) if row["name"] == name]
        return {row["subject"].partition("/")[0]: f"{row['state']} {row['message']}" for row in rows}

    for site in two.sites:
        site.harbor.add_policy("team", url, auth_header=TOKEN)
    assert all("calls itself" not in message for message in (await findings("harbor")).values())
    assert all(message.startswith("ok") for message in (await findings("policy")).values())
    one.harbor.api.external_url = "https://harbor.internal"
    told = await findings("harbor")
    assert told[one.name].startswith("ok")
    assert "calls itself harbor.internal" in told[one.name]
    assert f"/webhooks/harbor/{one.name}" in told[one.name]
    assert "calls itself" not in told[other.name]
    told = await findings("policy")
    assert told[one.name].startswith("failed")
    assert "does not send the Harbor's name, and Harbor calls itself 'harbor.internal'" in told[one.name]
    assert "register corrects it" in told[one.name]
    assert told[other.name].startswith("ok")
    assert (await two.called("webhook", "register", "--url", url)).code == 0
    assert (await findings("policy"))[one.name].startswith("ok")
