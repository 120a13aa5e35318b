"""The queue on a Redis Cluster, and behind the proxy of a managed one: all its keys share a slot."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from redis.crc import key_slot

from replicator.errors import ConfigError
from replicator.queue import Job, Lane, Queue, QueueUnavailable, scripts
from tests.queue.conftest import Recorder, accepted, eventually, idle, working
from tests.queue.servers import RedisServer, ask, eventually_says, free_port
from tests.queue.tair import TairProxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

A, B = "r.example/a:1", "r.example/b:1"
BRACED = "{replicator}"
SLOT = key_slot(BRACED.encode())
assert SLOT > 0


class Node(RedisServer):
    """A node of a cluster."""

    def __init__(self, directory: Path) -> None:
        self.port, self.bus = free_port(), free_port()
        cluster = ("--cluster-enabled", "yes", "--cluster-port", str(self.bus), "--cluster-node-timeout", "2000")
        more = ("--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0", "--bind", "127.0.0.1")
        super().__init__(directory, "--port", str(self.port), *cluster, *more)

    @property
    def id(self) -> str:
        return ask(self, "CLUSTER MYID").split("\r\n")[1]


@pytest.fixture(scope="module")
def one(short_dir: Path) -> Iterator[Node]:
    """A node that has all slots."""
    with Node(short_dir / "one") as node:
        ask(node, "CLUSTER ADDSLOTSRANGE 0 16383")
        eventually_says(node, "CLUSTER INFO", "cluster_state:ok")
        yield node


@pytest.fixture
def three(short_dir: Path, prefix: str) -> Iterator[list[Node]]:
    """Two nodes with slots, and a replica of the one that has the queue's."""
    nodes = [Node(short_dir / f"{prefix}-{i}") for i in range(3)]
    try:
        owner, other, replica = (node.start() for node in nodes)
        ask(owner, "CLUSTER ADDSLOTSRANGE 1 16383")
        ask(other, "CLUSTER ADDSLOTSRANGE 0 0")
        for node in (other, replica):
            ask(node, f"CLUSTER MEET 127.0.0.1 {owner.port} {owner.bus}")
        for node in nodes:
            eventually_says(node, "CLUSTER INFO", "cluster_known_nodes:3")
            eventually_says(node, "CLUSTER INFO", "cluster_slots_assigned:16384")
            eventually_says(node, "CLUSTER INFO", "cluster_state:ok")
        ask(replica, f"CLUSTER REPLICATE {owner.id}")
        eventually_says(replica, "INFO replication", "master_link_status:up")
        yield nodes
    finally:
        for node in nodes:
            node.kill()


async def use(url: str, handler: Recorder) -> None:
    """Do with the queue at ``url`` what everybody does."""
    async with await Queue.connect(url, prefix=BRACED) as queue:
        await queue.ping()
        async with working(queue, handler):
            await queue.enqueue([Job(A, {})], Lane.EVENTS, run="run")
            async with asyncio.timeout(20):
                async for finished in queue.finished("run"):
                    assert finished.outcome is not None
                    break
            await idle(queue)


@pytest.mark.parametrize("scheme", ["redis+cluster", "redis"])
async def test_a_cluster_of_one_node_is_used_by_either_form_of_url(one: Node, scheme: str, handler: Recorder) -> None:
    await use(f"{scheme}://127.0.0.1:{one.port}", handler)


async def test_a_cluster_is_used_through_any_node_and_after_a_failover(
    three: list[Node], handler: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The next master has no replica, and waits a minute for one.
    monkeypatch.setattr(scripts, "ABSENT_SECONDS", 2.0)
    owner, other, replica = three
    url = f"redis+cluster://127.0.0.1:{other.port},127.0.0.1:{free_port()},127.0.0.1:{replica.port}"
    async with await Queue.connect(url, prefix=BRACED) as queue, working(queue, handler):
        await eventually(lambda: accepted(queue, A))
        await handler.started(1)
        await idle(queue)
        assert queue.replicas.awaited == 1
        await asyncio.to_thread(owner.kill)
        ask(replica, "CLUSTER FAILOVER TAKEOVER")
        await eventually(lambda: accepted(queue, B), timeout=30)
        await handler.started(2)
        await idle(queue)


async def test_a_cluster_over_whose_slots_the_prefix_spreads_the_keys_is_refused_at_the_start(one: Node) -> None:
    with pytest.raises(ConfigError, match=r"put REPLICATOR_REDIS_PREFIX in braces, as \{replicator\}"):
        await Queue.connect(f"redis+cluster://127.0.0.1:{one.port}")


async def test_a_url_that_leads_to_another_node_of_a_cluster_is_told_what_to_write(three: list[Node]) -> None:
    async with await Queue.connect(f"redis://127.0.0.1:{three[1].port}", prefix=BRACED) as queue:
        with pytest.raises(QueueUnavailable, match=r"begin REPLICATOR_REDIS_URL with redis\+cluster://"):
            await queue.ping()


async def test_everything_runs_behind_a_proxy_that_checks_no_scripts(short_dir: Path, handler: Recorder) -> None:
    async with TairProxy(short_dir / "tair") as proxy:
        await use(proxy.url, handler)


async def test_behind_a_proxy_that_checks_scripts_the_parameter_to_change_is_told(short_dir: Path) -> None:
    async with (
        TairProxy(short_dir / "tair-checks", script_check=True) as proxy,
        await Queue.connect(proxy.url, prefix=BRACED) as queue,
    ):
        with pytest.raises(QueueUnavailable, match="script_check_enable to 0"):
            await queue.enqueue([Job(A, {})], Lane.EVENTS)


async def test_behind_a_proxy_a_prefix_that_spreads_the_keys_is_refused_at_the_start(short_dir: Path) -> None:
    async with TairProxy(short_dir / "tair-spread") as proxy:
        with pytest.raises(ConfigError, match="put REPLICATOR_REDIS_PREFIX in braces"):
            await Queue.connect(proxy.url)
