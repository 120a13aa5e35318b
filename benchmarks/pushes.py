"""From a webhook to the tag at the destination: a running ``serve``, beside programs that start for each copy."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from benchmarks import programs
from benchmarks.contest import Contender, Route
from benchmarks.measuring import Measurement, RunFailed
from replicator.registry.manifest import ACCEPT
from tests.harbor.test_events import default
from tests.running import PROGRAM, TOKEN, Serving, running

if TYPE_CHECKING:
    from benchmarks.contest import Content

NOTE = (
    "Median of one push. CPU is its share of the whole process. replicator already runs when the event arrives. The "
    "other programs start then."
)
_LOOK = 0.002
"""Seconds between two looks at the destination."""
_PATIENCE = 60.0


def contenders(content: Content) -> list[Contender]:
    """``serve`` of every tree with a push of each tag in turn, and everyone else with a copy of each."""
    return [
        *(_serve(tree, content) for tree in programs.TREES),
        *(_each(one) for one in programs.copies(*programs.TREES)),
    ]


def _serve(tree: str, content: Content) -> Contender:
    async def run(route: Route) -> Measurement:
        path = programs.TREES[tree]
        settings = {} if path is None else {"PYTHONPATH": str(path)}
        rules = programs.replicator_rules(route)
        waits = []
        async with (
            running("serve", "--config", rules, cwd=route.scratch, settings=settings, program=PROGRAM) as serving,
            aiohttp.ClientSession() as session,
        ):
            before = cpu_seconds(serving.process.pid)
            for repository, tags in route.tags.items():
                for tag in tags:
                    digest = content[repository][tag].digest
                    began = time.monotonic()
                    await tell(serving, route.source, repository, tag, digest)
                    await _arrived(session, route, repository, tag, digest)
                    waits.append(time.monotonic() - began)
            cpu = (cpu_seconds(serving.process.pid) - before) / len(waits)
            peak = max(_peak(process) for process in _family(serving.process.pid))
        return Measurement(statistics.median(waits), cpu, peak)

    return Contender(tree, run)


def _each(one: Contender) -> Contender:
    async def run(route: Route) -> Measurement:
        tags = [(name, tag) for name, tags in route.tags.items() for tag in tags]
        took = [await one.run(replace(route, tags={name: [tag]})) for name, tag in tags]
        return Measurement(
            statistics.median(run.seconds for run in took),
            statistics.median(run.cpu for run in took),
            max(run.peak for run in took),
        )

    return Contender(one.name, run)


async def tell(serving: Serving, source: str, repository: str, tag: str, digest: str) -> bool:
    """Post an event as Harbor does after a push; tell whether it was taken."""
    event: dict[str, Any] = default(tag=tag, digest=digest, resource_url=f"{source}/{repository}:{tag}")
    namespace, _, name = repository.partition("/")
    event["event_data"]["repository"] |= {"repo_full_name": repository, "namespace": namespace, "name": name}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.request("POST", f"{serving.url}/webhooks/harbor", json=event, headers=headers) as answer:
        assert answer.status in (202, 503), await answer.text()
        return answer.status == 202


async def _arrived(session: aiohttp.ClientSession, route: Route, repository: str, tag: str, digest: str) -> None:
    url = f"{route.registry}/v2/{route.targets[repository]}/manifests/{tag}"
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        async with session.head(url, headers={"Accept": ACCEPT}) as answer:
            if answer.headers.get("Docker-Content-Digest") == digest:
                return
        await asyncio.sleep(_LOOK)
    raise RunFailed(f"{repository}:{tag} did not arrive within {_PATIENCE:.0f} s")


def _family(process: int) -> list[int]:
    """A process and all below it (proc(5))."""
    found = [process]
    for one in found:
        for thread in Path(f"/proc/{one}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


def cpu_seconds(process: int) -> float:
    """Seconds of processor time of a process and all below it."""
    threads = [thread for one in _family(process) for thread in Path(f"/proc/{one}/task").iterdir()]
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def _peak(process: int) -> int:
    """Bytes of resident memory at the peak."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
