"""The ACR stand-in accepts, names and refuses images as ACR does, for real clients too."""

from __future__ import annotations

import json
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import aiohttp
import pytest
import trustme

from tests.standins.acr import AcrStandIn
from tests.standins.distribution import reused_distribution
from tests.standins.faults import Answer, Fault
from tests.standins.images import Image, Index, attestation, image, multi_arch, push, put_manifest, verify_tree
from tests.standins.layouts import write_directory
from tests.standins.logins import ACR_USER, HARBOR_ROBOT, basic
from tests.standins.skopeo import SkopeoError, inspect_raw, push_directory, skopeo
from tests.standins.tokens import READ, Account

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytest_plugins = ["tests.standins.fixtures"]

DENIED = "requested access to the resource is denied"


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as client:
        yield client


@asynccontextmanager
async def acr_with(upstream: str, **settings: Any) -> AsyncIterator[AcrStandIn]:
    defaults: dict[str, Any] = {"users": dict([ACR_USER]), "namespaces": {"cache": True}}
    async with AcrStandIn(upstream, **{**defaults, **settings}) as stand_in:
        yield stand_in


async def bearer(
    client: aiohttp.ClientSession, acr: AcrStandIn, *scopes: str, account: tuple[str, str] = ACR_USER
) -> dict[str, str]:
    """Log in and return the headers of a request that may do what ``scopes`` allow."""
    query = [("service", acr.service), *(("scope", scope) for scope in scopes)]
    async with client.get(f"http://{acr.token_host}/auth", params=query, headers=basic(account)) as answer:
        assert answer.status == 200, await answer.text()
        return {"Authorization": f"Bearer {(await answer.json())['token']}"}


async def start(
    client: aiohttp.ClientSession, acr: AcrStandIn, name: str, query: str = "", *also: str
) -> tuple[int, str, str]:
    """Begin an upload and return status, challenge and error message."""
    headers = await bearer(client, acr, f"repository:{name}:pull,push", *also)
    async with client.post(f"{acr.url}/v2/{name}/blobs/uploads/{query}", headers=headers) as answer:
        body = await answer.text()
        message = json.loads(body)["errors"][0]["message"] if body else ""
        return answer.status, answer.headers.get("WWW-Authenticate", ""), message


# --- real clients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pushed",
    [image(1), image(2, docker=True), multi_arch(3), multi_arch(4, docker=True)],
    ids=["oci", "docker", "oci index", "docker list"],
)
async def test_skopeo_pushes_to_it_and_pulls_the_same_bytes(
    acr: AcrStandIn, acr_upstream: str, tmp_path: Path, pushed: Image | Index
) -> None:
    acr.denies_missing = False
    write_directory(tmp_path, pushed)
    reference = f"{acr.host}/image-syncer/nginx:1"
    await push_directory(str(tmp_path), reference, ACR_USER)
    assert await inspect_raw(reference, ACR_USER) == pushed.content
    await verify_tree(acr_upstream, "image-syncer/nginx", "1", pushed)
    # Skopeo sent its password to the token service, and nowhere else.
    assert acr.leaks == []
    assert acr.token_faults.log.count("GET", "^/auth$", 200) > 0
    assert not [entry for entry in acr.faults.log if entry.headers.get("Authorization", "").startswith("Basic")]


async def test_skopeo_works_over_tls(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    write_directory(tmp_path, multi_arch(1))
    async with reused_distribution() as upstream, acr_with(upstream, tls=context, denies_missing=False) as acr:
        await push_directory(str(tmp_path), f"{acr.host}/cache/nginx:1", ACR_USER)
        await verify_tree(upstream, "cache/nginx", "1", multi_arch(1))


async def test_skopeo_is_told_of_a_wrong_password(acr: AcrStandIn, tmp_path: Path) -> None:
    write_directory(tmp_path, image(1))
    with pytest.raises(SkopeoError, match=r"authentication required|invalid username/password"):
        await push_directory(str(tmp_path), f"{acr.host}/cache/nginx:1", (ACR_USER[0], "wrong"))
    assert acr.leaks == []


async def test_skopeo_is_denied_what_it_can_not_push(acr: AcrStandIn, tmp_path: Path) -> None:
    write_directory(tmp_path, image(1))
    for name in ("missing/nginx", "cache/team/nginx", "manual/nginx", f"cache/{'x' * 65}"):
        with pytest.raises(SkopeoError, match=DENIED):
            await push_directory(str(tmp_path), f"{acr.host}/{name}:1", ACR_USER)


async def test_skopeo_gives_up_where_a_missing_repository_is_denied(acr: AcrStandIn, tmp_path: Path) -> None:
    write_directory(tmp_path, image(1))
    reference = f"{acr.host}/cache/nginx:1"
    with pytest.raises(SkopeoError, match=DENIED):
        await push_directory(str(tmp_path), reference, ACR_USER)
    acr.create_repository("cache/nginx")
    await push_directory(str(tmp_path), reference, ACR_USER)


async def test_there_is_no_anonymous_pull(acr: AcrStandIn, acr_upstream: str) -> None:
    await push(acr_upstream, "cache/nginx", "1", image(1))
    with pytest.raises(SkopeoError, match=r"authentication required|unauthorized"):
        await skopeo("inspect", "--raw", "--tls-verify=false", "--no-creds", f"docker://{acr.host}/cache/nginx:1")


# --- logging in -----------------------------------------------------------------------------------------------------


async def test_the_challenge_names_another_host_and_the_edition(
    acr: AcrStandIn, acr_upstream: str, session: aiohttp.ClientSession
) -> None:
    async with session.get(f"{acr.url}/v2/") as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == (
            f'Bearer realm="http://{acr.token_host}/auth",service="registry.aliyuncs.com:cn-beijing:26842"'
        )
    assert acr.token_host != acr.host
    async with acr_with(acr_upstream, personal=False) as enterprise, session.get(f"{enterprise.url}/v2/") as answer:
        assert "registry.aliyuncs.com:cn-beijing:china:cri-" in answer.headers["WWW-Authenticate"]


async def test_a_wrong_password_is_refused_by_the_token_service(
    acr: AcrStandIn, session: aiohttp.ClientSession
) -> None:
    url = f"http://{acr.token_host}/auth?service={acr.service}"
    for headers in (basic((ACR_USER[0], "wrong")), {}):
        async with session.get(url, headers=headers) as answer:
            assert answer.status == 401
            assert (await answer.json())["errors"][0]["message"] == "authentication required"


async def test_tokens_end(acr: AcrStandIn, session: aiohttp.ClientSession) -> None:
    headers = await bearer(session, acr)
    async with session.get(f"{acr.url}/v2/", headers=headers) as answer:
        assert answer.status == 200
    acr.tokens.revoke_all()
    async with session.get(f"{acr.url}/v2/", headers=headers) as answer:
        assert answer.status == 401
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
    assert acr.leaks == []


async def test_credentials_meant_for_others_are_noted(acr: AcrStandIn, session: aiohttp.ClientSession) -> None:
    for base, headers in (
        (acr.url, basic(ACR_USER)),
        (acr.url, {"Authorization": "Bearer harbors"}),
        (f"http://{acr.token_host}", basic(HARBOR_ROBOT)),
    ):
        async with session.get(f"{base}/v2/", headers=headers) as answer:
            assert answer.status >= 400
    assert [(leak.scheme, leak.username) for leak in acr.leaks] == [
        ("basic", ACR_USER[0]),
        ("bearer", ""),
        ("basic", HARBOR_ROBOT[0]),
    ]
    assert HARBOR_ROBOT[1] not in repr(acr.leaks)


async def test_both_ports_have_their_faults(acr: AcrStandIn, session: aiohttp.ClientSession) -> None:
    acr.faults.add(Fault(Answer(429, "TOOMANYREQUESTS", headers={"Retry-After": "1"})))
    acr.token_faults.add(Fault(Answer(502)))
    async with session.get(f"{acr.url}/v2/") as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
    async with session.get(f"http://{acr.token_host}/auth") as answer:
        assert answer.status == 502


# --- names, namespaces, quota ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(
    "name",
    ["missing/nginx", "nginx", "cache/team/nginx", "manual/nginx"],
    ids=["no namespace", "one segment", "three segments", "auto-create off"],
)
async def test_a_push_is_denied_where_no_repository_can_be(
    acr: AcrStandIn, session: aiohttp.ClientSession, name: str, status: Literal[401, 403]
) -> None:
    acr.denied_status = status
    answered, challenge, message = await start(session, acr, name)
    assert (answered, message) == (status, DENIED)
    assert ('error="insufficient_scope"' in challenge) == (status == 401)


async def test_a_repository_made_by_hand_takes_pushes(acr: AcrStandIn, session: aiohttp.ClientSession) -> None:
    acr.create_repository("manual/nginx")
    assert (await start(session, acr, "manual/nginx"))[0] == 202
    acr.namespaces["manual"] = True
    assert (await start(session, acr, "manual/other"))[0] == 202


async def test_the_personal_edition_has_its_quotas(acr_upstream: str, session: aiohttp.ClientSession) -> None:
    with pytest.raises(ValueError, match="3 namespaces"):
        AcrStandIn(acr_upstream, users={}, namespaces=dict.fromkeys("abcd", True))
    async with acr_with(acr_upstream) as acr:
        for number in range(300):
            acr.create_repository(f"cache/r{number}")
        assert (await start(session, acr, "cache/r0"))[0] == 202
        assert (await start(session, acr, "cache/one-more"))[0] == 401


async def test_an_account_that_may_only_pull_is_denied_a_push(
    acr_upstream: str, session: aiohttp.ClientSession
) -> None:
    await push(acr_upstream, "cache/nginx", "1", image(1))
    async with acr_with(acr_upstream, users={ACR_USER[0]: Account(ACR_USER[1], READ)}) as acr:
        assert (await start(session, acr, "cache/nginx"))[0] == 401
        assert await inspect_raw(f"{acr.host}/cache/nginx:1", ACR_USER) == image(1).content


async def test_a_missing_repository_is_denied_or_unknown_by_what_is_asked(
    acr: AcrStandIn, session: aiohttp.ClientSession
) -> None:
    headers = await bearer(session, acr, "repository:cache/nginx:pull")
    for path in ("manifests/1", f"blobs/{image(1).blobs[0].digest}"):
        async with session.head(f"{acr.url}/v2/cache/nginx/{path}", headers=headers) as answer:
            assert answer.status == 401
            assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]
    async with session.get(f"{acr.url}/v2/cache/nginx/tags/list", headers=headers) as answer:
        assert answer.status == 404
        assert (await answer.json())["errors"][0]["code"] == "NAME_UNKNOWN"
    # Once the first push has made it, what is missing is just missing.
    await start(session, acr, "cache/nginx")
    async with session.head(f"{acr.url}/v2/cache/nginx/manifests/1", headers=headers) as answer:
        assert answer.status == 404


async def test_there_is_no_catalog(acr: AcrStandIn, session: aiohttp.ClientSession) -> None:
    async with session.get(f"{acr.url}/v2/_catalog", headers=await bearer(session, acr)) as answer:
        assert answer.status == 404


async def test_tags_are_listed(acr: AcrStandIn, acr_upstream: str, session: aiohttp.ClientSession) -> None:
    await push(acr_upstream, "cache/nginx", "1", image(1))
    await put_manifest(acr_upstream, "cache/nginx", "2", image(1))
    headers = await bearer(session, acr, "repository:cache/nginx:pull")
    async with session.get(f"{acr.url}/v2/cache/nginx/tags/list", headers=headers) as answer:
        assert sorted((await answer.json())["tags"]) == ["1", "2"]


# --- what it refuses ------------------------------------------------------------------------------------------------


async def put(
    client: aiohttp.ClientSession, acr: AcrStandIn, name: str, manifest: Image | Index
) -> tuple[int, str, str]:
    headers = await bearer(client, acr, f"repository:{name}:pull,push") | {"Content-Type": manifest.media_type}
    url = f"{acr.url}/v2/{name}/manifests/{manifest.digest}"
    async with client.put(url, data=manifest.content, headers=headers) as answer:
        body = await answer.text()
        error = json.loads(body)["errors"][0] if body else {"code": "", "message": ""}
        return answer.status, error["code"], error["message"]


async def test_a_manifest_that_is_no_images_is_refused_for_good(
    acr: AcrStandIn, acr_upstream: str, session: aiohttp.ClientSession
) -> None:
    odd = attestation(image(1), empty_config=True)
    await push(acr_upstream, "cache/nginx", "odd", odd)
    status, code, message = await put(session, acr, "cache/nginx", odd)
    assert (status, code) == (403, "DENIED")
    assert message == "unknown manifest class for application/vnd.oci.empty.v1+json"
    # With an image's config it passes, whatever it holds.
    plain = attestation(image(1))
    await push(acr_upstream, "cache/nginx", "plain", plain)
    assert (await put(session, acr, "cache/nginx", plain))[0] == 201


async def test_an_index_is_refused_while_a_child_is_missing(
    acr: AcrStandIn, acr_upstream: str, session: aiohttp.ClientSession
) -> None:
    both = multi_arch(1)
    await push(acr_upstream, "cache/nginx", "one", both.children[0])
    status, code, _ = await put(session, acr, "cache/nginx", both)
    assert (status, code) == (400, "MANIFEST_BLOB_UNKNOWN")
    await push(acr_upstream, "cache/nginx", "two", both.children[1])
    assert (await put(session, acr, "cache/nginx", both))[0] == 201


async def test_an_oci_image_is_not_found_by_who_does_not_accept_it(
    acr: AcrStandIn, acr_upstream: str, session: aiohttp.ClientSession
) -> None:
    await push(acr_upstream, "cache/nginx", "1", image(1))
    headers = await bearer(session, acr, "repository:cache/nginx:pull")
    docker = {"Accept": "application/vnd.docker.distribution.manifest.v2+json"}
    async with session.get(f"{acr.url}/v2/cache/nginx/manifests/1", headers=headers | docker) as answer:
        assert answer.status == 404


# --- mounts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mounts", "denied", "status"),
    [("supported", 401, 201), ("ignored", 401, 202), ("refused", 401, 401), ("refused", 403, 403)],
)
async def test_a_mount_ends_as_was_set(
    acr: AcrStandIn, acr_upstream: str, session: aiohttp.ClientSession, mounts: Any, denied: Any, status: int
) -> None:
    await push(acr_upstream, "cache/base", "1", image(1))
    acr.mounts, acr.denied_status = mounts, denied
    query = f"?mount={image(1).blobs[0].digest}&from=cache/base"
    assert (await start(session, acr, "cache/copy", query, "repository:cache/base:pull"))[0] == status
    # The ordinary upload works all the same.
    assert (await start(session, acr, "cache/copy"))[0] == 202


async def test_a_mount_without_the_right_to_pull_opens_an_upload(
    acr: AcrStandIn, acr_upstream: str, session: aiohttp.ClientSession
) -> None:
    await push(acr_upstream, "cache/base", "1", image(1))
    query = f"?mount={image(1).blobs[0].digest}&from=cache/base"
    assert (await start(session, acr, "cache/copy", query))[0] == 202


async def test_an_abandoned_upload_can_be_deleted_by_who_may_push(
    acr: AcrStandIn, session: aiohttp.ClientSession
) -> None:
    headers = await bearer(session, acr, "repository:cache/nginx:pull,push")
    async with session.post(f"{acr.url}/v2/cache/nginx/blobs/uploads/", headers=headers) as answer:
        location = answer.headers["Location"]
    async with session.delete(location, headers=headers) as answer:
        assert answer.status == 204
