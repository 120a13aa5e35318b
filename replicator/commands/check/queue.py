"""Probes of the queue: Redis with its permissions, durability and clock, or the embedded queue's directory."""

from __future__ import annotations

import asyncio
import contextlib
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

from redis.exceptions import RedisError, ResponseError
from rich.filesize import decimal

from replicator.commands.check.findings import MAX_QUOTED, Finding, FindingState, clock_problem, redis_words
from replicator.errors import ConfigError, ErrorText, ReplicatorError
from replicator.queue import Differing, KnownConfig, Pause, ProcessInfo, Queue, ReconcileState, list_pauses, processes
from replicator.queue.connection import open_redis
from replicator.queue.embedded import LOG, server_program
from replicator.queue.job import ALIVE_MS, Job, Lane, QueueError, encode_job
from replicator.queue.move import left_behind
from replicator.queue.observations import MOST_DESTINATIONS, ClockSetBack, short_name
from replicator.queue.records import decode
from replicator.queue.scripts import NotReplicated, Replicas, Scripts
from replicator.queue.state_directory import SOCKET, Use, fault_of, find_damage, room, short_path, use_of, version_of
from replicator.queue.status import server_version

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from replicator.queue.connection import QueueClient, RedisHandle
    from replicator.rules import Rules
    from replicator.settings import Settings

_PREFIX, _STATE = "REPLICATOR_REDIS_PREFIX", "REPLICATOR_STATE_DIR"
_IN_FORCE = "rules"
"""The name of the finding about the rules in force."""
SETTINGS = "redis settings"
"""The name of the finding about Redis's settings."""
_MAX_NAMED = 3
_REPLICA_SECONDS = 1.0
_ALIYUN = ".aliyuncs.com"
_UNSAFE = "REPLICATOR_REDIS_REPLICAS=0"
_KEYS = ("{prefix}:check", "arq:job:{prefix}:check")
"""A key under each pattern that an ACL must allow, see docs/deployment.md."""
_TRY = """
for _, key in ipairs(KEYS) do redis.call('SET', key, '', 'PX', 60000) redis.call('DEL', key) end
return 1
"""
"""One script, so that no key is visible to others or left behind if the connection breaks."""


async def try_redis(url: str, prefix: str, replicas: int | None = None) -> list[Finding]:
    """Check that Redis answers, runs the queue's steps and keeps what they write, and has the right time.

    Args:
        url: the setting.
        prefix: of the installation.
        replicas: how many must hold an event; None for one where there are replicas.

    Raises:
        ConfigError: the URL is malformed.
    """
    handle = open_redis(url)
    try:
        where, redis = handle.where, handle.redis
        await redis.register_script(_TRY)(keys=[key.format(prefix=prefix) for key in _KEYS])
        held = await _run_a_job(handle, prefix, replicas)
        version = await server_version(redis)
        message = f"answers, runs scripts and accepts writes{version and f' ({version})'}"
        found = [Finding("redis", where, FindingState.OK, message), *held]
        return [*found, *await _kept(redis, where), await _time(redis, where, prefix)]
    except (RedisError, OSError) as error:
        return [Finding("redis", handle.where, FindingState.FAILED, redis_words(error))]
    finally:
        await handle.close()


async def look_for_left_work(directory: Path, prefix: str, program: Path | None) -> list[Finding]:
    """Look for jobs in the state directory of an installation whose queue is in Redis.

    Args:
        directory: the state directory; it need not exist.
        prefix: of the installation.
        program: the server that the settings name, which is started for a moment if there are data.
    """
    left = await left_behind(directory, prefix, program)
    return [] if left is None else [Finding("queue", str(directory), FindingState.FAILED, left.sentence)]


async def compare_rules(url: str, prefix: str, rules: Rules, origin: str = "", own: str = _PREFIX) -> list[Finding]:
    """Compare the rules with those that the processes on the queue have in force; say what waits for a person.

    Args:
        url: of the queue.
        prefix: of the installation.
        rules: those of the command.
        origin: see `replicator.server.runtime.origin_of`.
        own: the setting that gives an installation a queue of its own.

    Raises:
        ConfigError: the URL or the prefix is wrong.
    """
    found: list[ProcessInfo] = []
    known: Mapping[str, KnownConfig] = {}
    pauses: list[Pause] = []
    reconcile: ReconcileState | None = None
    async with Queue(open_redis(url), prefix=prefix, replicas=0) as queue:
        # A queue that does not answer has a line of its own.
        with contextlib.suppress(QueueError):
            found, known = await processes(queue), await KnownConfig.read(queue)
            pauses, reconcile = await list_pauses(queue), await ReconcileState.read(queue)
    waiting = [f"{each.sentence}: to resume, run replicator queue resume {each.selection.options}" for each in pauses]
    if reconcile is not None and reconcile.last is not None and reconcile.awaits_approval:
        waiting.append(f"{reconcile.last.findings.shortfall}: replicator status shows them")
    findings = [Finding("operator", queue.where, FindingState.WARNING, each) for each in waiting]
    return findings + _compare(rules, origin, found, known, queue.where, own)


def _compare(
    rules: Rules, origin: str, found: list[ProcessInfo], known: Mapping[str, KnownConfig], where: str, own: str
) -> list[Finding]:
    running = [each for each in found if each.rules and each.stays]
    others = [each for each in running if each.rules != rules.digest]
    if not running:
        return []
    if not others:
        noun = "process has" if len(running) == 1 else "processes have"
        return [Finding(_IN_FORCE, where, FindingState.OK, f"{len(running)} {noun} these rules")]
    names = ", ".join(f"{each.command} {each.host}:{each.pid}" for each in others[:_MAX_NAMED])
    parts = frozenset((*rules.parts, *filter(None, [origin])))
    if not any(parts & known[each.rules].parts for each in others if each.rules in known):
        cure = f"restart it with this file, or give this one its own {own}"
        message = f"a replicator with other rules uses this queue ({names}): {cure}"
        # In a state directory, perhaps the file is only tried out.
        return [Finding(_IN_FORCE, where, FindingState.WARNING if own == _STATE else FindingState.FAILED, message)]
    differing = Differing.among(found)
    if differing is not None and differing.is_old:
        return [Finding(_IN_FORCE, where, FindingState.FAILED, differing.sentence)]
    message = f"other processes use other rules ({names}): reload them (SIGHUP), or restart"
    return [Finding(_IN_FORCE, where, FindingState.NOT_TRIED, message)]


async def compare_rules_in(directory: Path, prefix: str, rules: Rules, origin: str) -> list[Finding]:
    """Do the same as `compare_rules` for the embedded queue; nothing while its server does not run."""
    with contextlib.suppress(OSError):
        if await use_of(directory) is Use.SERVER:
            with short_path(directory) as reachable:
                return await compare_rules(f"unix://{(reachable / SOCKET).absolute()}", prefix, rules, origin, _STATE)
    return []


async def _run_a_job(handle: RedisHandle, prefix: str, wanted: int | None) -> list[Finding]:
    """Queue a job, begin and end it as a worker does, under a prefix of its own; say whether replicas hold it.

    Raises:
        redis.exceptions.RedisError: a step does not run.
    """
    redis, trial, job_id = handle.redis, f"{prefix}:check-{uuid4().hex[:8]}", "check.example/job:1"
    replicas = Replicas(redis, wanted=wanted, deadline=_REPLICA_SECONDS, expected=bool(handle.sentinels))
    await replicas.look()
    needed, lane, lease = await replicas.needed(), Lane.EVENTS, 10_000
    late = ""
    try:
        for attempt in (replicas, Replicas(redis, wanted=0, deadline=_REPLICA_SECONDS, expected=False)):
            scripts = Scripts(redis, trial, attempt, handle.where)
            try:
                await scripts.run("enqueue", lane, "check", job_id, encode_job(Job(job_id, {})), "", 0, "")
                break
            except NotReplicated as error:
                late = str(error)
        token = uuid4().hex
        _, job = await scripts.run("claim", lane, 1, token, "check", lease, 0, 0)
        facts = (job_id, f"{token}:{job_id}")
        await scripts.run("confirm", lease, *facts, "", short_name(job_id), MOST_DESTINATIONS, lease, 0)
        await scripts.run("finish", *facts, job[2], lane, "done", 0, 0, "ended", "", "", "")
        if not await redis.xread({f"{trial}:finished:check": "0"}):
            raise ResponseError(
                f"CROSSSLOT: the data that a script wrote is not found at its key {trial}:finished:check"
            )
    finally:
        names = ("seq", "gen", "running", "merged", "checks:new", "clock", "finished:check")
        left = (*names, f"queue:{lane}", f"waiters:{job_id}")
        jobs = (f"arq:{kind}:{trial}:{job_id}" for kind in ("job", "in-progress", "retry"))
        await redis.delete(*(f"{trial}:{name}" for name in left), *jobs)
    return _held(handle, replicas, needed, late)


def _held(handle: RedisHandle, replicas: Replicas, needed: int, late: str) -> list[Finding]:
    """Say whether events survive a failover; nothing for a Redis that has never had a replica."""
    where = handle.where
    if late:
        message = f"{late}, so events get 503: repair the replica, or accept that a failover can lose events: {_UNSAFE}"
        return [Finding("redis replicas", where, FindingState.FAILED, message)]
    if replicas.awaited:
        noun = "replica holds" if needed == 1 else "replicas hold"
        message = f"an event is accepted after {needed} {noun} it"
        return [Finding("redis replicas", where, FindingState.OK, message)]
    if replicas.problem:
        message = f"not waited for, because {replicas.problem}: a failover can lose the latest events"
        return [Finding("redis replicas", where, FindingState.NOT_TRIED, f"{message}; a sweep finds them again")]
    return []


async def _kept(redis: QueueClient, where: str) -> list[Finding]:
    """Check for settings that lose jobs: eviction, and no append-only file."""
    try:
        info: Mapping[str, Any] = await redis.info()
    except ResponseError as error:
        message = f"unknown, as INFO is refused ({str(error)[:MAX_QUOTED]}): check appendonly and maxmemory-policy"
        return [Finding(SETTINGS, where, FindingState.NOT_TRIED, message)]
    settings = _RedisSettings(redis, info)
    findings = [
        judge_file(
            await settings.value("appendonly", "aof_enabled"),
            await settings.value("appendfsync"),
            info,
            aliyun=where.partition("://")[2].partition(":")[0].endswith(_ALIYUN),
        ),
        judge_memory(await settings.value("maxmemory-policy", "maxmemory_policy")),
    ]
    return [Finding(SETTINGS, where, state, message) for state, message in findings]


class _RedisSettings:
    """Redis's settings, from INFO if possible, else from CONFIG GET, which managed services refuse."""

    def __init__(self, redis: QueueClient, info: Mapping[str, Any]) -> None:
        self._redis = redis
        self._info = info

    async def value(self, name: str, field: str | None = None) -> str | None:
        """Return a setting; None if Redis does not tell it."""
        if field is not None and field in self._info:
            return str(self._info[field])
        try:
            answer = await self._redis.config_get(name)
        except ResponseError:
            return None
        return str(answer[name]) if name in answer else None


def judge_file(
    appendonly: str | None, appendfsync: str | None, info: Mapping[str, Any], *, aliyun: bool = False
) -> tuple[FindingState, str]:
    """Judge whether Redis still has its jobs after a restart.

    Args:
        appendonly: ``yes`` or ``1`` if there is an append-only file; None if unknown.
        appendfsync: when that file is flushed to disk; None if unknown.
        info: the answer to INFO.
        aliyun: whether it is ApsaraDB or Tair, whose file is flushed once a second and never at each write.
    """
    if appendonly is None:
        return (
            FindingState.NOT_TRIED,
            "does not show whether it has an append-only file (no CONFIG GET): check appendonly",
        )
    if appendonly not in ("yes", "1"):
        return (
            FindingState.FAILED,
            "loses all jobs at a restart, because it has no append-only file: set appendonly yes",
        )
    if str(info.get("aof_last_write_status", "ok")) != "ok":
        return FindingState.FAILED, "can't write its append-only file: check its disk space and its log"
    if appendfsync is None:
        return (
            FindingState.OK,
            "has an append-only file; does not show how often it is flushed to disk (no CONFIG GET)",
        )
    late = ""
    if appendfsync != "always":
        late = ": a power cut can lose the last second"
        late += ", if it also hits the replicas" if aliyun else "; set appendfsync always to lose nothing"
    return FindingState.OK, f"has an append-only file (appendfsync {appendfsync[:MAX_QUOTED]}){late}"


def judge_memory(policy: str | None) -> tuple[FindingState, str]:
    """Judge whether Redis may evict jobs when its memory is full.

    Args:
        policy: the ``maxmemory-policy``; None if unknown.
    """
    if policy is None:
        message = "does not show whether it evicts jobs (no CONFIG GET): maxmemory-policy must be noeviction"
        return FindingState.NOT_TRIED, message
    if policy != "noeviction":
        return FindingState.FAILED, f"can evict jobs: set maxmemory-policy noeviction (now {policy[:MAX_QUOTED]})"
    return FindingState.OK, "evicts nothing (maxmemory-policy noeviction)"


async def _time(redis: QueueClient, where: str, prefix: str) -> Finding:
    # Every script of the queue uses TIME, so the ACL must allow it anyway.
    seconds, microseconds = await redis.time()
    theirs = datetime.fromtimestamp(seconds + microseconds / 1_000_000, UTC)
    # The queue uses Redis's clock alone, so a difference only harms what is compared with the time of day.
    effect = "scheduled reconciles run at the wrong time, and ages in replicator status are wrong"
    problem = clock_problem(theirs, datetime.now(UTC), "Redis", effect)
    back, by = await redis.execute_command("HMGET", f"{prefix}:clock", "back", "by")
    step = ClockSetBack.read(theirs.timestamp() * 1000, back, by)
    if problem is None and step is not None:
        return Finding("clock", where, FindingState.NOT_TRIED, f"{step.sentence}: synchronize it by NTP")
    if problem is None:
        return Finding("clock", where, FindingState.OK, "agrees with this machine's")
    return Finding("clock", where, FindingState.FAILED, problem)


async def try_state_directory(directory: Path, server: Path | None = None) -> list[Finding]:
    """Check that the embedded queue can keep its data; nothing is created or started.

    Args:
        directory: the state directory.
        server: the server's program, if the settings name one.
    """
    subject = str(directory)
    try:
        program = server_program(server)
    except ConfigError as error:
        return [Finding("queue", subject, FindingState.FAILED, "; ".join(map(str, error.problems)))]
    place = directory
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        message = (
            f"{place} is not a directory that this user can write to: set REPLICATOR_STATE_DIR to another directory"
        )
        return [Finding("queue", subject, FindingState.FAILED, message)]
    try:
        use = await use_of(directory)
    except OSError as error:
        message = f"its lock can't be read ({error.strerror}): run this as the user of the service"
        return [Finding("queue", subject, FindingState.FAILED, message)]
    if fault := fault_of(place):
        return [Finding("queue", subject, FindingState.FAILED, fault)]
    if trouble := await _trouble(directory, use, program):
        return [Finding("queue", subject, FindingState.FAILED, trouble)]
    state = "can be used" if place == directory else "will be created at the first start"
    message = "in use by the running replicator" if use is Use.SERVER else state
    free, size = room(place)
    about = f"{decimal(free)} of {decimal(size)} free"
    version = await asyncio.to_thread(version_of, program)
    return [Finding("queue", subject, FindingState.OK, f"{message} ({', '.join(filter(None, (version, about)))})")]


async def look_at_processes(settings: Settings) -> list[Finding]:
    """Report each running process that does not use its current files; nothing if all do, or none runs."""
    try:
        with contextlib.ExitStack() as stack:
            if settings.redis_url is not None:
                url = settings.redis_url.get_secret_value()
            elif await use_of(settings.state_dir) is Use.SERVER:
                url = f"unix://{stack.enter_context(short_path(settings.state_dir)) / SOCKET}"
            else:
                return []
            # Not as a client of the queue, which leaves a sign of itself there.
            handle = open_redis(url)
            try:
                replicas = Replicas(handle.redis, wanted=0, deadline=_REPLICA_SECONDS, expected=False)
                scripts = Scripts(handle.redis, settings.redis_prefix, replicas, handle.where)
                records = await scripts.run("alive", "processes", ALIVE_MS)
            finally:
                await handle.close()
        found = sorted((decode(ProcessInfo, record) for record in records), key=lambda process: process.started)
        return [
            Finding("configuration", f"{each.host}:{each.pid}", FindingState.FAILED, each.problem_text.stored)
            for each in found
            if each.problem
        ]
    except (ReplicatorError, RedisError, OSError):
        return []  # the check of the queue says so


async def _trouble(directory: Path, use: Use, program: str) -> str:
    """Say what is wrong with the server or the data of a state directory; empty if nothing is."""
    if use is Use.SERVER:
        return ""
    if use is Use.SILENT:
        return (
            "its queue server is running, but does not answer: it is stopped, or waits for its disk; see "
            f"{directory / LOG}"
        )
    if use is Use.LOCKED:
        return (
            "in use by another replicator whose queue server is not running: see the log of that replicator; or set "
            "REPLICATOR_STATE_DIR to another directory"
        )
    try:
        damage = await asyncio.to_thread(find_damage, directory, program)
    except QueueError as error:
        return ErrorText.of(error).stored
    if damage is None:
        return ""
    return (
        f"the last {damage.bad} bytes of {damage.file} are damaged: the next start saves a copy of them, uses the "
        "data before them, and starts a full reconcile"
    )
