"""The account where the rules name none: each source of the library's default chain of credentials.

The library reads the environment once, when it is imported, so each case is a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from typing import TYPE_CHECKING

import pytest
import trustme

from replicator.aliyun import Account, TemporaryLogins
from replicator.aliyun.operations import AccountRefused
from tests.running import PROGRAM, environment, replicator
from tests.standins.chain import Metadata, sts, tunnel
from tests.standins.openapi import OpenApiStandIn
from tests.standins.server import serve

if TYPE_CHECKING:
    from pathlib import Path

_ASKING = """
import asyncio, sys
from replicator.aliyun import Account, TemporaryLogins
from replicator.errors import ReplicatorError
account = Account(region="cn-beijing", openapi_endpoint=sys.argv[1])
try:
    print(asyncio.run(TemporaryLogins("registry.cn-beijing.aliyuncs.com", account).login(None)).password)
except ReplicatorError as error:
    print(error)
"""
_ASKING_AGAIN = """
import asyncio, sys, threading
from replicator.aliyun import Account, TemporaryLogins
async def main():
    # As after each reload of the rules: a new value for the same account.
    for number in range(4):
        account = Account(region="cn-beijing", openapi_endpoint=sys.argv[1])
        await TemporaryLogins("registry.cn-beijing.aliyuncs.com", account).login(None)
    print(sum("APScheduler" in thread.name for thread in threading.enumerate()))
asyncio.run(main())
"""
NOBODY = {"ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true"}


async def asked(openapi: str, home: Path, program: str = _ASKING, **variables: str) -> str:
    """Ask for a login in a process whose environment has nothing of Alibaba Cloud's but this."""
    # Alibaba's libraries use what Python deprecates from 3.12 on.
    libraries = ("alibabacloud_tea_openapi.utils", "alibabacloud_credentials.utils.parameter_helper")
    quiet = ",".join(["default", *(f"ignore::DeprecationWarning:{library}" for library in libraries)])
    inherited = environment(HOME=str(home), no_proxy="", PYTHONWARNINGS=quiet)
    clean = {name: value for name, value in inherited.items() if "PROXY" not in name.upper()}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        f"http://{openapi}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**clean, **variables},
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    return out.decode().strip()


@pytest.fixture
def openapi() -> OpenApiStandIn:
    stand_in = OpenApiStandIn()
    stand_in.keys = {"env-key", "file-key", "ecs-key", "oidc-key"}
    return stand_in


@pytest.mark.parametrize("token", ["", "token-of-env"])
async def test_a_key_in_the_environment_is_used_with_its_token(
    openapi: OpenApiStandIn, tmp_path: Path, token: str
) -> None:
    variables = {"ALIBABA_CLOUD_ACCESS_KEY_ID": "env-key", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "s"}
    async with serve(openapi.faults) as host:
        assert await asked(host, tmp_path, **variables, ALIBABA_CLOUD_SECURITY_TOKEN=token) == "temporary-1"
    assert openapi.tokens == [token]


async def test_a_profile_in_the_home_directory_is_used(openapi: OpenApiStandIn, tmp_path: Path) -> None:
    profile = tmp_path / ".alibabacloud" / "credentials.ini"
    profile.parent.mkdir()
    profile.write_text("[default]\ntype = access_key\naccess_key_id = file-key\naccess_key_secret = s\n")
    async with serve(openapi.faults) as host:
        assert await asked(host, tmp_path, **NOBODY) == "temporary-1"


async def test_a_profile_that_a_variable_names_is_used(openapi: OpenApiStandIn, tmp_path: Path) -> None:
    profile = tmp_path / "keys.ini"
    profile.write_text("[acr]\ntype = access_key\naccess_key_id = file-key\naccess_key_secret = s\n")
    named = {"ALIBABA_CLOUD_CREDENTIALS_FILE": str(profile), "ALIBABA_CLOUD_PROFILE": "acr"}
    async with serve(openapi.faults) as host:
        assert await asked(host, tmp_path, **NOBODY, **named) == "temporary-1"


async def test_the_role_of_an_ecs_is_used(openapi: OpenApiStandIn, tmp_path: Path) -> None:
    # Its address is fixed in the library; a proxy for plain HTTP is the way to be it.
    async with serve(Metadata(openapi.faults)) as host:
        assert await asked(host, tmp_path, HTTP_PROXY=f"http://{host}") == "temporary-1"
    assert openapi.tokens == ["token-of-ecs-key"]


async def test_reloading_the_rules_leaks_no_threads(openapi: OpenApiStandIn, tmp_path: Path) -> None:
    async with serve(Metadata(openapi.faults)) as host:
        assert await asked(host, tmp_path, _ASKING_AGAIN, HTTP_PROXY=f"http://{host}") == "1"


async def test_the_role_of_a_pod_is_used(openapi: OpenApiStandIn, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("sts.aliyuncs.com").configure_cert(tls)
    (tmp_path / "token").write_text("token-of-the-pod")
    pod = {
        "ALIBABA_CLOUD_ROLE_ARN": "acs:ram::1:role/r",
        "ALIBABA_CLOUD_OIDC_PROVIDER_ARN": "acs:ram::1:oidc-provider/p",
        "ALIBABA_CLOUD_OIDC_TOKEN_FILE": str(tmp_path / "token"),
        "SSL_CERT_FILE": str(tmp_path / "ca.pem"),
    }
    async with serve(openapi.faults) as host, serve(sts, tls=tls) as secured, tunnel(secured) as (proxy, hosts):
        assert await asked(host, tmp_path, **pod, HTTPS_PROXY=f"http://{proxy}") == "temporary-1"
    assert hosts == ["sts.aliyuncs.com:443"]
    assert openapi.tokens == ["token-of-oidc-key"]


async def test_a_missing_account_is_reported(openapi: OpenApiStandIn, tmp_path: Path) -> None:
    async with serve(openapi.faults) as host:
        assert "no account at Alibaba Cloud was found" in await asked(host, tmp_path, **NOBODY)


async def test_missing_libraries_are_reported_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['alibabacloud_credentials'] = None\n")
    acr = "registry.cn-beijing.aliyuncs.com"
    auth = {"harbor.example.com": {"anonymous": True}, acr: {"aliyun": {}}}
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps({"auth": auth, "images": {"harbor.example.com/a/b": f"{acr}/a/b"}}))
    path = {"PYTHONPATH": f"{tmp_path}:{environment()['PYTHONPATH']}"}
    ended = await replicator(
        "explain", "harbor.example.com/a/b:1", "--config", rules, cwd=tmp_path, settings=path, program=PROGRAM
    )
    assert ended.code == 2, ended.said
    assert f"auth[\"{acr}\"].aliyun: needs additional libraries: in a checkout, pip install '.[aliyun]'" in ended.said
    assert "Traceback" not in ended.said


async def test_libraries_that_are_removed_later_are_reported_too(
    openapi: OpenApiStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "alibabacloud_tea_openapi.client", None)
    async with serve(openapi.faults) as host:
        account = Account("env-key", "s", region="cn-beijing", openapi_endpoint=f"http://{host}")
        with pytest.raises(AccountRefused, match=r"pip install '\.\[aliyun\]'"):
            await TemporaryLogins("registry.cn-beijing.aliyuncs.com", account).login(None)
