"""In any sequence of pushes, attempts, pauses and cancellations nothing runs twice at once, is lost or is stuck."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from replicator.queue import DeadLetters, Job, JsonValue, Lane, Queue, Selection, cancel, pause, resume
from replicator.queue.connection import open_redis
from replicator.queue.destinations import pending_by_host
from replicator.queue.job import decode_job
from replicator.queue.move import move_queue
from tests.queue.conftest import command
from tests.queue.servers import RedisServer

if TYPE_CHECKING:
    from pathlib import Path

WALKS, STEPS, LEASE_MS, DAY_MS = 16, 60, 30_000, 86_400_000
IDS = ["r.example/a:1", "r2.example/b:1", "r.example/c:1"]
SOURCES = {"one": "h1.example/one/x:1", "two": "h2.example/two/x:1", "three": "h1.example/three/x:1"}
HOSTS = ["h1.example", "h2.example", "r2.example", "login:h1.example"]
RULES = ["x" * 32, "y" * 32]
SELECTIONS = [
    Selection(),
    *(Selection(rule=team) for team in SOURCES),
    Selection(destination=IDS[0]),
    Selection(host="h2.example"),
]
TIME_PASSES = """
for _, lane in ipairs({':queue:events', ':queue:backfill'}) do
  for _, job in ipairs(redis.call('ZRANGE', ARGV[1] .. lane, 0, -1)) do
    if redis.call('EXISTS', 'arq:in-progress:' .. job) == 0 then redis.call('ZADD', ARGV[1] .. lane, 1, job) end
  end
end
for _, writes in ipairs({':writing', ':unanswered'}) do
  for _, id in ipairs(redis.call('HKEYS', ARGV[1] .. writes)) do redis.call('HSET', ARGV[1] .. writes, id, '1 2 x') end
end
"""
PENDING = """
local found = {}
for _, id in ipairs(redis.call('HKEYS', ARGV[1] .. ':gen')) do
  local lane = redis.call('ZSCORE', ARGV[1] .. ':queue:events', ARGV[1] .. ':' .. id) and 'events' or 'backfill'
  found[#found + 1] = {id, lane, redis.call('GET', 'arq:job:' .. ARGV[1] .. ':' .. id)}
end
return found
"""
MINUTE = 60.0
KEPT = {"seq", "ping", "clock", "waits", "pauses", "unanswered"}
"""What an empty queue may have besides its history and memories; a late write is remembered for the next job."""


@dataclass
class Attempt:
    id: str
    token: str
    generation: int
    lane: Lane
    source: str
    seen: set[int]
    known: bool


class Walk:
    """A random sequence of steps, and what must come of it.

    Attributes:
        owed: numbers of the pushes that must still be served, by id and source.
        running: attempts with a lease, by id.
        dead: attempts whose worker seems to have died.
        letters: sources of the dead letters, by id.
        awaited: sources that a run waits for, by run and id.
    """

    def __init__(self, queue: Queue, seed: int) -> None:
        self.queue, self.random, self.number = queue, random.Random(seed), 0
        self.owed: dict[tuple[str, str], set[int]] = defaultdict(set)
        self.running: dict[str, Attempt] = {}
        self.dead: list[Attempt] = []
        self.letters: dict[str, str] = {}
        self.awaited: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.paused: set[Selection] = set()
        self.began = time.time() - 10_000 * MINUTE

    async def step(self) -> None:
        steps = {
            self.push: 8,
            self.claim: 9,
            self.end: 8,
            self.die: 2,
            self.wake_up: 1,
            self.pause: 1,
            self.resume: 1,
            self.cancel: 0.6,
            self.hear_of_host: 1,
            self.letter: 1,
            self.move: 0.1,
            self.pass_time: 1,
        }
        await self.random.choices(list(steps), list(steps.values()))[0]()

    async def push(self) -> None:
        id_, (team, source) = self.random.choice(IDS), self.random.choice(list(SOURCES.items()))
        run, retries = self.random.choice([None, None, "r1", "r2"]), self.random.choice([None, None, 2])
        self.number += 1
        # A minute apart, so that what waits tells which of them waits.
        pushed = datetime.fromtimestamp(self.began + self.number * MINUTE, UTC)
        payload: dict[str, JsonValue] = {
            "source": source,
            "rule": team,
            "n": self.number,
            "rules": self.random.choice(RULES),
        }
        await self.queue.enqueue([Job(id_, payload, retries, pushed)], self.random.choice(list(Lane)), run=run)
        self.owed[id_, source].add(self.number)
        if run is not None:
            self.awaited[run, id_].add(source)
        if self.letters.get(id_) == source:
            del self.letters[id_]

    async def claim(self, rules: str | None = None) -> None:
        for lane in [self.random.choice(list(Lane))] if rules is None else Lane:
            self.number += 1
            arguments = (lane, 3, f"t{self.number}", self.random.choice("vw"), LEASE_MS, 1)
            own = rules or self.random.choice(RULES)
            _, *replies = await self.queue.run_script("claim", *arguments, 0, DAY_MS, own)
            for reply in replies:
                id_, payload = reply[0].decode(), decode_job(reply[1]).payload
                assert id_ not in self.running, "it runs twice at once"
                assert not any(meant(each, id_, payload["source"], lane) for each in self.paused)
                seen = set(self.owed[id_, payload["source"]])
                assert payload["n"] >= max(seen, default=0), "the newest content runs"
                known, token = payload["rules"] == own, f"t{self.number}:{id_}"
                self.running[id_] = Attempt(id_, token, reply[2], lane, payload["source"], seen, known)

    async def end(self) -> None:
        if (attempt := self._take()) is None:
            return
        unanswered = ""
        if self.random.random() < 0.4:
            reply = await self._confirm(attempt)
            if reply[1:]:
                await self.finish(attempt, {b"cancel": "cancel", b"pause": "release"}[reply[1][0]])
                return
            unanswered = self.random.choice(["", "1"])
        hows = ["done", "done", "retry", "wait", "dead", "release", "cancel"] if attempt.known else ["foreign"]
        await self.finish(attempt, self.random.choice(hows), unanswered)

    async def finish(self, attempt: Attempt, how: str, unanswered: str = "") -> None:
        now = int(time.time() * 1000)
        note = {"id": attempt.id, "error_class": "permanent", "message": "no", "tries": 1, "first": now, "last": now}
        note |= {"lane": attempt.lane, "payload": {"source": attempt.source}} if how == "dead" else {}
        record = {"id": attempt.id, "outcome": attempt.source}
        more: list[str | int] = []
        if how == "wait":
            more = [self.random.choice(HOSTS), now - 100, 60_000, DAY_MS, "silent", 0]
        elif how == "foreign":
            more = [f"{RULES[0]} {RULES[1]}" if self.random.random() < 0.5 else f"{RULES[1]} {RULES[0]}"]
        reply = await self.queue.run_script(
            "finish",
            attempt.id,
            attempt.token,
            attempt.generation,
            attempt.lane,
            how,
            self.random.choice([0, 5000]),
            1,
            json.dumps(record),
            json.dumps(note),
            "{}",
            "",
            unanswered,
            *more,
        )
        if reply == b"dead":
            self.letters[attempt.id] = attempt.source
        if reply == b"dead" or (how == "done" and reply != b"lost"):
            self.owed[attempt.id, attempt.source] -= attempt.seen

    async def die(self) -> None:
        if (attempt := self._take()) is None:
            return
        if self.random.random() < 0.5:
            await self._confirm(attempt)
        self.dead.append(attempt)
        job = f"{self.queue.prefix}:{attempt.id}"
        await self.queue.redis.delete(f"arq:in-progress:{job}")
        await self.queue.redis.zadd(self.queue.lane_queue(attempt.lane), {job: 1}, xx=True)

    async def wake_up(self) -> None:
        if not self.dead:
            return
        attempt = self.dead.pop(0)
        if self.random.random() < 0.5:
            await self.finish(attempt, "done")
        elif b"".join(await self.queue.run_script("renew", LEASE_MS, attempt.id, attempt.token, "")) == b"":
            assert attempt.id not in self.running, "it runs twice at once"
            self.running[attempt.id] = attempt

    async def pause(self) -> None:
        meant = self.random.choice([*SELECTIONS, Selection(lane=Lane.EVENTS)])
        await pause(self.queue, [meant], by="me", now=self.random.random() < 0.4)
        self.paused.add(meant)

    async def resume(self, *, all_of_them: bool = False) -> None:
        paused = sorted(self.paused, key=lambda each: each.name)
        chosen = paused if all_of_them or not paused else [self.random.choice(paused)]
        assert await resume(self.queue, chosen) == {each.name for each in chosen}
        self.paused -= set(chosen)

    async def cancel(self) -> None:
        selection = self.random.choice(SELECTIONS)
        assert await cancel(self.queue, [selection], dry_run=True) == await cancel(self.queue, [selection])
        for (id_, source), numbers in self.owed.items():
            if meant(selection, id_, source):
                numbers.clear()

    async def hear_of_host(self) -> None:
        host, now = self.random.choice(HOSTS), int(time.time() * 1000)
        if self.random.random() < 0.5:
            await self.queue.ask("wait_begin", host, now - 50, self.random.choice([0, 3000]), "1", "silent")
        else:
            await self.queue.ask("wait_end", host)

    async def letter(self) -> None:
        if not self.letters:
            return
        id_, source = self.letters.popitem()
        if self.random.random() < 0.5:
            assert await DeadLetters(self.queue).retry([id_]) == [id_]
            self.owed[id_, source].add(0)
        else:
            assert await DeadLetters(self.queue).drop([id_]) == [id_]

    async def move(self) -> None:
        former, handle = self.queue, self.queue._handle
        self.queue = Queue(handle, prefix=f"{former.prefix}-m", deadline=20)
        await move_queue(former, self.queue, batch=2)
        self.running, self.dead, self.awaited = {}, [], defaultdict(set)
        assert not await command(former, "HLEN", f"{former.prefix}:gen")

    async def pass_time(self) -> None:
        await command(self.queue, "EVAL", TIME_PASSES, 0, self.queue.prefix)

    async def check_waits(self) -> None:
        """What each host has pending, and for how long, is what a count over all jobs finds."""
        now, jobs, since = time.time(), Counter[tuple[Lane, str]](), dict[tuple[Lane, str], float]()
        for name, lane, content in await command(self.queue, "EVAL", PENDING, 0, self.queue.prefix):
            id_ = name.decode()
            place, source = (Lane(lane.decode()), id_.split("/")[0]), decode_job(content).payload["source"]
            jobs[place] += 1
            # A retried dead letter has no push: it waits since it was queued again.
            times = [self.began + number * MINUTE if number else now for number in self.owed[id_, str(source)]]
            since[place] = min([*times, since.get(place, math.inf)])
        hosts = sorted({id_.split("/")[0] for id_ in IDS})
        _, pending = await pending_by_host(self.queue, hosts)
        for lane, counts in pending.items():
            for host, each in zip(hosts, counts, strict=True):
                assert each.jobs == jobs[lane, host]
                waited = now - since.get((lane, host), math.inf)
                assert each.oldest == pytest.approx(max(0.0, waited), abs=MINUTE / 2), (lane, host)

    def _take(self) -> Attempt | None:
        return self.running.pop(self.random.choice(sorted(self.running))) if self.running else None

    async def _confirm(self, attempt: Attempt) -> Any:
        arguments = (LEASE_MS, attempt.id, attempt.token, "", attempt.id, 1000, 20_000, 30_000, "")
        return await self.queue.run_script("confirm", *arguments)

    async def drain(self) -> None:
        """Resume everything, and have all end well."""
        await self.resume(all_of_them=True)
        for host in HOSTS:
            await self.queue.ask("wait_end", host)
        for turn in range(100):
            for attempt in list(self.running.values()):
                await self.finish(attempt, "done" if attempt.known else "foreign")
            self.running = {}
            if not await command(self.queue, "HLEN", f"{self.queue.prefix}:gen"):
                break
            if turn % 4 == 3:
                await self.pass_time()
            await self.claim(RULES[turn % 2])
        assert {pair: numbers for pair, numbers in self.owed.items() if numbers} == {}
        assert {each.id: (each.payload or {})["source"] for each in await DeadLetters(self.queue).all()} == self.letters
        await self._hear()
        await DeadLetters(self.queue).drop()
        keys = [key.decode().removeprefix(f"{self.queue.prefix}:") async for key in self.queue.redis.scan_iter()]
        others = ("finished:", "history:", "checks:", "owned:", "t-")
        assert {key for key in keys if not key.startswith(others)} - KEPT == set()

    async def _hear(self) -> None:
        heard = set()
        for run in ("r1", "r2"):
            for _, fields in await self.queue.redis.xrange(f"{self.queue.prefix}:finished:{run}"):
                end = json.loads(fields[b"finished"])
                heard.add((run, end["id"]))
                assert end["outcome"] is None or end["outcome"] in SOURCES.values()
                if self.awaited[run, end["id"]]:
                    assert end["outcome"] is None or end["outcome"] in self.awaited[run, end["id"]]
        assert {each for each, sources in self.awaited.items() if sources} <= heard


def meant(selection: Selection, id_: str, source: str, lane: Lane | None = None) -> bool:
    """Tell whether a selection of this test means a job."""
    given, hosts = selection.to_json(), (id_.split("/")[0], source.split("/")[0])
    of_rule = given.get("rule", "") in source.split("/") if "rule" in given else True
    of_rule = of_rule and selection.lane in (None, lane)
    return of_rule and given.get("destination", id_) == id_ and ("host" not in given or given["host"] in hosts)


@pytest.mark.parametrize("first", range(0, WALKS, 8))
async def test_nothing_is_lost_or_stuck_or_runs_twice_whatever_people_and_workers_do(
    short_dir: Path, first: int
) -> None:
    with RedisServer(short_dir / f"walks-{first}", "--appendonly", "no") as server:
        handle = open_redis(server.url)
        for seed in range(first, first + 8):
            walk = Walk(Queue(handle, prefix=f"t-{seed}", deadline=20), seed)
            async with asyncio.timeout(60):
                for number in range(STEPS):
                    await walk.step()
                    if number % 3 == 0:
                        await walk.check_waits()
                await walk.drain()
            await handle.redis.flushall()
        await handle.close()


async def test_a_pause_does_not_revive_a_running_job_that_was_cancelled(queue: Queue) -> None:
    await queue.enqueue([Job(IDS[0], {"source": SOURCES["one"], "rule": "one"})], Lane.EVENTS)
    await queue.run_script("claim", Lane.EVENTS, 1, "t", "w", LEASE_MS, 1, 0)
    await cancel(queue, [Selection(rule="one")])
    assert await pause(queue, [Selection(rule="one")], by="me", now=True) == 0
    (stop,) = await queue.run_script("renew", LEASE_MS, IDS[0], f"t:{IDS[0]}", "")
    assert stop[0] == b"cancel"
