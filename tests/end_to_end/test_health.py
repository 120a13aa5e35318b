"""``replicator health`` tells a process that serves from one that does not, by that process's own settings."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from typing import TYPE_CHECKING

import aiohttp
import pytest
import trustme
from aiohttp import web

from replicator.commands.health import asked_at
from tests.queue.servers import RedisServer
from tests.running import replicator, running
from tests.standins.server import serve

if TYPE_CHECKING:
    from pathlib import Path

RULES = {
    "auth": {"harbor.example.com": {"anonymous": True}},
    "images": {"harbor.example.com/team/app": "harbor.example.com/copy/app"},
}


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    file = tmp_path / "rules.json"
    file.write_text(json.dumps(RULES))
    return file


async def health(directory: Path, *arguments: str, **settings: str) -> int:
    ended = await replicator("health", *arguments, cwd=directory, settings=settings)
    assert ("a replicator is alive" in ended.err) == (ended.code == 0)
    return ended.code


async def test_a_webhook_that_serves_is_healthy_and_one_that_ended_is_not(rules: Path, tmp_path: Path) -> None:
    async with running("serve", "--no-worker", "--config", rules, cwd=tmp_path) as serving:
        port = serving.address.rpartition(":")[2]
        for host in ("127.0.0.1", "0.0.0.0", ""):
            assert await health(tmp_path, REPLICATOR_LISTEN=f"{host}:{port}") == 0
        assert await health(tmp_path, "--listen", serving.address, REPLICATOR_LISTEN="127.0.0.1:1") == 0
    assert await health(tmp_path, REPLICATOR_LISTEN=serving.address) == 1


async def test_a_state_directory_that_is_deleted_makes_it_not_ready_and_says_so(rules: Path, tmp_path: Path) -> None:
    state = tmp_path / "own state"
    options = ("--config", rules, "--state-dir", state)
    async with running("serve", "--no-worker", *options, cwd=tmp_path) as serving, aiohttp.ClientSession() as session:
        shutil.rmtree(state)
        async with asyncio.timeout(30):
            while True:
                async with session.get(f"http://{serving.address}/readyz") as answer:
                    if answer.status == 503:
                        told = await answer.text()
                        break
        assert "STATE_DIR was deleted" in told
        assert await health(tmp_path, REPLICATOR_LISTEN=serving.address) == 0


async def test_a_webhook_with_a_certificate_is_asked_by_https_whoever_issued_it(rules: Path, tmp_path: Path) -> None:
    file = tmp_path / "tls.pem"
    trustme.CA().issue_cert("replicator.example.com").private_key_and_cert_chain_pem.write_to_path(file)
    settings = {"REPLICATOR_TLS_CERTIFICATE": str(file)}
    async with running("serve", "--no-worker", "--config", rules, cwd=tmp_path, settings=settings) as serving:
        assert await health(tmp_path, REPLICATOR_LISTEN=serving.address, **settings) == 0
        assert await health(tmp_path, REPLICATOR_LISTEN=serving.address) == 1


async def test_a_worker_is_asked_where_its_metrics_are_which_is_never_https(rules: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        own = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {"REPLICATOR_METRICS_LISTEN": own, "REPLICATOR_TLS_CERTIFICATE": "unused.pem"}
    ready = "listening for probes"
    async with running("worker", "--config", rules, cwd=tmp_path, settings=settings, ready=ready):
        assert await health(tmp_path, REPLICATOR_LISTEN="127.0.0.1:1", **settings) == 0
    assert await health(tmp_path, REPLICATOR_LISTEN="127.0.0.1:1", **settings) == 1


async def test_a_replicator_whose_redis_is_away_is_healthy_as_a_restart_does_not_bring_that_back(
    rules: Path, tmp_path: Path
) -> None:
    with RedisServer(tmp_path / "r") as server:
        settings = {"REPLICATOR_REDIS_URL": server.url}
        async with running("serve", "--config", rules, cwd=tmp_path, settings=settings) as serving:
            server.kill()
            assert await health(tmp_path, REPLICATOR_LISTEN=serving.address) == 0
            server.start()


async def test_another_program_at_the_address_is_no_healthy_replicator(tmp_path: Path) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="ok")

    async with serve(answer) as address:
        assert await health(tmp_path, REPLICATOR_LISTEN=address) == 1


def test_an_address_for_all_is_asked_at_the_loopback_address() -> None:
    assert str(asked_at(":8080", tls=False)) == "http://127.0.0.1:8080"
    assert str(asked_at("0.0.0.0:8080", tls=True)) == "https://127.0.0.1:8080"
    assert str(asked_at("[::]:8080", tls=False)) == "http://[::1]:8080"
    assert str(asked_at("192.0.2.7:443", tls=True)) == "https://192.0.2.7"
