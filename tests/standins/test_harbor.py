"""The Harbor stand-in behaves as Harbor does, to real clients too."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trustme
from yarl import URL

from tests.standins.distribution import reused_distribution
from tests.standins.faults import Answer, Fault
from tests.standins.harbor import HarborStandIn
from tests.standins.images import (
    Image,
    Index,
    attestation,
    fetch_raw,
    image,
    multi_arch,
    push,
    put_manifest,
    verify_tree,
)
from tests.standins.layouts import write_directory
from tests.standins.logins import HARBOR_ROBOT, basic
from tests.standins.skopeo import SkopeoError, inspect_raw, push_directory, skopeo
from tests.standins.tokens import READ, Account

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytest_plugins = ["tests.standins.fixtures"]

ACCEPT_INDEX = {"Accept": "application/vnd.oci.image.index.v1+json"}


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as client:
        yield client


async def token(client: aiohttp.ClientSession, harbor: HarborStandIn, scope: str, account: Any = HARBOR_ROBOT) -> str:
    query = {"service": "harbor-registry", "scope": scope}
    headers = basic(account) if account else {}
    async with client.get(f"{harbor.url}/service/token", params=query, headers=headers) as answer:
        assert answer.status == 200
        document = await answer.json()
        assert document["expires_in"] > 0
        assert document["issued_at"].endswith("Z")
        return str(document["token"])


# --- real clients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pushed",
    [image(1), image(2, docker=True), multi_arch(3), multi_arch(4, docker=True)],
    ids=["oci", "docker", "oci index", "docker list"],
)
async def test_skopeo_pushes_to_it_and_pulls_the_same_bytes(
    harbor: HarborStandIn, harbor_upstream: str, tmp_path: Path, pushed: Image | Index
) -> None:
    write_directory(tmp_path, pushed)
    reference = f"{harbor.host}/team/app/api:v1"
    await push_directory(str(tmp_path), reference, HARBOR_ROBOT)
    assert await inspect_raw(reference, HARBOR_ROBOT) == pushed.content
    await verify_tree(harbor_upstream, "team/app/api", "v1", pushed)
    await skopeo(
        "copy",
        "--all",
        "--quiet",
        "--src-tls-verify=false",
        "--src-creds",
        ":".join(HARBOR_ROBOT),
        f"docker://{reference}",
        f"dir:{tmp_path / 'pulled'}",
    )
    assert (tmp_path / "pulled" / "manifest.json").read_bytes() == pushed.content
    assert harbor.leaks == []


async def test_skopeo_pulls_a_public_project_anonymously_and_no_private_one(
    harbor: HarborStandIn, harbor_upstream: str
) -> None:
    pushed = image(1)
    await push(harbor_upstream, "library/nginx", "1", pushed)
    await push(harbor_upstream, "team/app", "1", pushed)
    options = ("inspect", "--raw", "--tls-verify=false", "--no-creds")
    assert await skopeo(*options, f"docker://{harbor.host}/library/nginx:1") == pushed.content
    with pytest.raises(SkopeoError, match="unauthorized"):
        await skopeo(*options, f"docker://{harbor.host}/team/app:1")


async def test_skopeo_works_over_tls() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    pushed = multi_arch(1)
    async with (
        reused_distribution() as upstream,
        HarborStandIn(upstream, users=dict([HARBOR_ROBOT]), projects={"team": False}, tls=context) as harbor,
    ):
        await push(upstream, "team/app", "1", pushed)
        assert await inspect_raw(f"{harbor.host}/team/app:1", HARBOR_ROBOT) == pushed.content
        # The upload's Location must be HTTPS as well.
        await skopeo(
            "copy",
            "--quiet",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            "--src-creds",
            ":".join(HARBOR_ROBOT),
            "--dest-creds",
            ":".join(HARBOR_ROBOT),
            "--all",
            f"docker://{harbor.host}/team/app:1",
            f"docker://{harbor.host}/team/copy:1",
        )
        await verify_tree(upstream, "team/copy", "1", pushed)


async def test_basic_works_straight_on_the_registry(harbor: HarborStandIn) -> None:
    pushed = image(1)
    await push(harbor.host, "team/app", "1", pushed, HARBOR_ROBOT)
    assert (await fetch_raw(harbor.host, "team/app", "1", HARBOR_ROBOT))[0] == pushed.content


# --- logging in -----------------------------------------------------------------------------------------------------


async def test_anonymous_requests_are_challenged_in_public_projects_too(
    harbor: HarborStandIn, session: aiohttp.ClientSession
) -> None:
    async with session.head(f"{harbor.url}/v2/library/nginx/manifests/1") as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == (
            f'Bearer realm="{harbor.url}/service/token",service="harbor-registry",scope="repository:library/nginx:pull"'
        )
    async with session.post(f"{harbor.url}/v2/library/nginx/blobs/uploads/") as answer:
        assert 'scope="repository:library/nginx:pull,push"' in answer.headers["WWW-Authenticate"]


async def test_a_rejected_bearer_is_challenged_with_basic(
    harbor: HarborStandIn, session: aiohttp.ClientSession
) -> None:
    good = await token(session, harbor, "repository:library/nginx:pull")
    harbor.tokens.revoke_all()
    for value in (good, "nonsense"):
        headers = {"Authorization": f"Bearer {value}"}
        async with session.get(f"{harbor.url}/v2/team/app/tags/list", headers=headers) as answer:
            assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, 'Basic realm="harbor"')
        # What is public is open to any credentials.
        async with session.get(f"{harbor.url}/v2/library/nginx/tags/list", headers=headers) as answer:
            assert answer.status == 404
    assert [leak.why for leak in harbor.leaks] == ["a token that was not given out here"] * 2


async def test_the_token_service_takes_get_only(harbor: HarborStandIn, session: aiohttp.ClientSession) -> None:
    async with session.post(f"{harbor.url}/service/token") as answer:
        assert answer.status == 405


async def test_a_token_without_permission_is_given_and_refused_later(
    harbor: HarborStandIn, session: aiohttp.ClientSession
) -> None:
    for account in (None, ("admin", "wrong")):
        value = await token(session, harbor, "repository:team/app:pull", account)
        headers = {"Authorization": f"Bearer {value}"}
        async with session.get(f"{harbor.url}/v2/team/app/tags/list", headers=headers) as answer:
            assert answer.status == 401
    # A wrong password under a known name is no leak.
    assert harbor.leaks == []


async def test_a_token_serves_only_its_repositories(harbor: HarborStandIn, session: aiohttp.ClientSession) -> None:
    await push(harbor.host, "team/app", "1", image(1), HARBOR_ROBOT)
    headers = {"Authorization": f"Bearer {await token(session, harbor, 'repository:team/app:pull')}"}
    async with session.get(f"{harbor.url}/v2/team/app/tags/list", headers=headers) as answer:
        assert answer.status == 200
    async with session.get(f"{harbor.url}/v2/team/other/tags/list", headers=headers) as answer:
        assert answer.status == 401


async def test_a_robot_is_bound_to_its_project_and_its_rights(
    harbor_upstream: str, session: aiohttp.ClientSession
) -> None:
    await push(harbor_upstream, "team/app", "1", image(1))
    robots: dict[str, str | Account] = {
        "robot$team+ci": "a",
        "robot$team+reader": Account("b", READ, administers=False),
    }
    async with HarborStandIn(harbor_upstream, users=robots, projects={"team": False, "other": False}) as harbor:
        upload = f"{harbor.url}/v2/team/app/blobs/uploads/"
        async with session.post(upload, headers=basic(("robot$team+ci", "a"))) as answer:
            assert answer.status == 202
        async with session.post(upload, headers=basic(("robot$team+reader", "b"))) as answer:
            assert answer.status == 401
        other = f"{harbor.url}/v2/other/app/blobs/uploads/"
        async with session.post(other, headers=basic(("robot$team+ci", "a"))) as answer:
            assert answer.status == 401
        policies = f"{harbor.url}/api/v2.0/projects/team/webhook/policies"
        async with session.get(policies, headers=basic(("robot$team+ci", "a"))) as answer:
            assert answer.status == 403


async def test_a_mount_needs_the_right_to_pull_from_where_it_comes(
    harbor: HarborStandIn, session: aiohttp.ClientSession
) -> None:
    pushed = image(1)
    await push(harbor.host, "team/app", "1", pushed, HARBOR_ROBOT)
    url = f"{harbor.url}/v2/team/copy/blobs/uploads/?mount={pushed.blobs[0].digest}&from=team/app"
    one = await token(session, harbor, "repository:team/copy:pull,push")
    async with session.post(url, headers={"Authorization": f"Bearer {one}"}) as answer:
        assert answer.status == 401
    both = await token(session, harbor, "repository:team/copy:pull,push repository:team/app:pull")
    async with session.post(url, headers={"Authorization": f"Bearer {both}"}) as answer:
        assert answer.status == 201


# --- the registry ---------------------------------------------------------------------------------------------------


async def test_tag_lists_are_paged(harbor: HarborStandIn, session: aiohttp.ClientSession) -> None:
    pushed = image(1)
    await push(harbor.host, "team/app", "a", pushed, HARBOR_ROBOT)
    for tag in "bcde":
        await put_manifest(harbor.host, "team/app", tag, pushed, HARBOR_ROBOT)
    url: URL | None = URL(f"{harbor.url}/v2/team/app/tags/list?n=2")
    pages = []
    while url is not None:
        async with session.get(url, headers=basic(HARBOR_ROBOT)) as answer:
            pages.append((await answer.json())["tags"])
            url = answer.links["next"]["url"] if "next" in answer.links else None  # type: ignore[assignment]  # a URL
    assert pages == [["a", "b"], ["c", "d"], ["e"]]
    async with session.get(f"{harbor.url}/v2/team/none/tags/list", headers=basic(HARBOR_ROBOT)) as answer:
        assert answer.status == 404


async def test_the_vulnerability_gate_holds_manifests_back(
    harbor: HarborStandIn, session: aiohttp.ClientSession
) -> None:
    await push(harbor.host, "team/app", "1", image(1), HARBOR_ROBOT)
    harbor.gated.add("team/app")
    url = f"{harbor.url}/v2/team/app/manifests/1"
    async with session.get(url, headers=basic(HARBOR_ROBOT)) as answer:
        assert answer.status == 412
        assert (await answer.json())["errors"][0]["code"] == "PROJECTPOLICYVIOLATION"
    harbor.gated.clear()
    assert (await fetch_raw(harbor.host, "team/app", "1", HARBOR_ROBOT))[0] == image(1).content


async def test_only_a_get_of_others_than_harbor_counts_as_a_pull(
    harbor: HarborStandIn, session: aiohttp.ClientSession
) -> None:
    await push(harbor.host, "team/app", "1", multi_arch(1), HARBOR_ROBOT)
    url, headers = f"{harbor.url}/v2/team/app/manifests/1", {**basic(HARBOR_ROBOT), **ACCEPT_INDEX}
    async with session.head(url, headers=headers) as answer:
        assert answer.headers["Docker-Content-Digest"] == multi_arch(1).digest
    async with session.get(url, headers={**headers, "User-Agent": "harbor-registry-client"}) as answer:
        assert answer.status == 200
    assert harbor.pulls == []
    async with session.get(url, headers=headers) as answer:
        assert answer.status == 200
    assert harbor.pulls == ["team/app:1"]


async def test_referrers_are_listed(harbor: HarborStandIn, session: aiohttp.ClientSession) -> None:
    pushed = image(1)
    await push(harbor.host, "team/app", "1", pushed, HARBOR_ROBOT)
    content = (
        attestation(pushed).content[:-1]
        + (
            f',"subject":{{"mediaType":"{pushed.media_type}","digest":"{pushed.digest}","size":{len(pushed.content)}}}}}'
        ).encode()
    )
    signature = Image(pushed.media_type, content, attestation(pushed).blobs)
    await push(harbor.host, "team/app", signature.digest, signature, HARBOR_ROBOT)
    url = f"{harbor.url}/v2/team/app/referrers/{pushed.digest}"
    async with session.get(url, headers=basic(HARBOR_ROBOT)) as answer:
        assert answer.content_type == "application/vnd.oci.image.index.v1+json"
        document = await answer.json(content_type=None)
    assert [entry["digest"] for entry in document["manifests"]] == [signature.digest]
    rows = f"{harbor.url}/api/v2.0/projects/team/repositories/app/artifacts"
    async with session.get(rows, headers=basic(HARBOR_ROBOT)) as answer:
        assert [row["digest"] for row in await answer.json()] == [pushed.digest]


async def test_the_fault_layer_is_in_front_of_everything(harbor: HarborStandIn, session: aiohttp.ClientSession) -> None:
    fault = harbor.faults.add(Fault(Answer(503, "UNAVAILABLE"), path="/service/token"))
    async with session.get(f"{harbor.url}/service/token") as answer:
        assert answer.status == 503
    assert fault.hits == harbor.faults.log.count("GET", "/service/token", 503) == 1
