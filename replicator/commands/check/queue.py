"""Probes of a Redis: whether a run may use it, whether it keeps what it is given, and what time it has.

The probe of the embedded queue's state directory.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from redis.exceptions import (
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from replicator.commands.check.findings import Finding, FindingState, clock_complaint
from replicator.errors import ConfigError
from replicator.queue.connection import open_redis
from replicator.queue.embedded import Use, server_program, use_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from arq.connections import ArqRedis

SETTINGS = "redis settings"
"""What its settings are judged under."""
_MAX_QUOTED = 200
_LOGIN_WORDS = ("invalid username-password", "without any password configured", "Authentication required")
_KEYS = ("{prefix}:check", "arq:job:{prefix}:check")
"""Under these patterns are all keys of a run."""
_TRY = """
for _, key in ipairs(KEYS) do redis.call('SET', key, '', 'PX', 60000) redis.call('DEL', key) end
return 1
"""
"""One step, so that nobody sees the keys, and none is left whenever the connection ends."""


async def try_redis(url: str, prefix: str) -> list[Finding]:
    """Look at a Redis: whether it answers and can be written to, keeps what it is given, and has the right time.

    Args:
        url: where it is.
        prefix: what its keys begin with.

    Raises:
        ConfigError: the URL is of no known form.
    """
    handle = open_redis(url)
    try:
        where, redis = handle.where, handle.redis
        await redis.register_script(_TRY)(keys=[key.format(prefix=prefix) for key in _KEYS])
        found = [Finding("redis", where, FindingState.OK, "answers, runs scripts, and can be written to")]
        return [*found, *await _kept(redis, where), await _time(redis, where)]
    except (RedisError, OSError) as error:
        return [Finding("redis", handle.where, FindingState.FAILED, redis_words(error))]
    finally:
        await handle.close()


def redis_words(error: RedisError | OSError) -> str:
    """Say what Redis's refusal or silence means, and what to do about it."""
    said = str(error)[:_MAX_QUOTED] or type(error).__name__
    if any(words in said for words in _LOGIN_WORDS):
        return "refuses this login: check user and password in REPLICATOR_REDIS_URL, where both are percent-encoded"
    if isinstance(error, NoPermissionError) or "ACL failure" in said:
        return f"this user may not do what a run needs: give it the ACL of docs/deployment.md ({said})"
    if isinstance(error, ReadOnlyError):
        return "is a replica, which takes nothing: set REPLICATOR_REDIS_URL to its master, or to its sentinels"
    if isinstance(error, OutOfMemoryError):
        return "its memory is full: raise its maxmemory, or find out who else fills it"
    if isinstance(error, BusyLoadingError):
        return "still loads its data: try again"
    if isinstance(error, ResponseError):
        return f"refuses: {said}"
    return f"does not answer: check REPLICATOR_REDIS_URL, and that it runs and is reachable from here ({said})"


async def _kept(redis: ArqRedis, where: str) -> list[Finding]:
    """Look at what would lose jobs: a memory that evicts, a disk that is not written to."""
    try:
        info: Mapping[str, Any] = await redis.info()
    except ResponseError as error:
        message = f"what it keeps is not known, as it may not be asked for that (INFO, {str(error)[:_MAX_QUOTED]})"
        return [
            Finding(
                SETTINGS, where, FindingState.NOT_TRIED, f"{message}: see for appendonly and maxmemory-policy yourself"
            )
        ]
    asked = _Asked(redis, info)
    findings = [
        judge_file(await asked.value("appendonly", "aof_enabled"), await asked.value("appendfsync"), info),
        judge_memory(await asked.value("maxmemory-policy", "maxmemory_policy")),
    ]
    if info.get("cluster_enabled"):
        message = "is a Redis Cluster, which is not supported: give the URL of a single server"
        findings.append((FindingState.FAILED, message))
    return [Finding(SETTINGS, where, state, message) for state, message in findings]


class _Asked:
    """A Redis's settings, from INFO where that has them, else by CONFIG GET, which managed services refuse."""

    def __init__(self, redis: ArqRedis, info: Mapping[str, Any]) -> None:
        self._redis = redis
        self._info = info

    async def value(self, name: str, field: str | None = None) -> str | None:
        """Return a setting; None where it is not told."""
        if field is not None and field in self._info:
            return str(self._info[field])
        try:
            answer = await self._redis.config_get(name)
        except ResponseError:
            return None
        return str(answer[name]) if name in answer else None


def judge_file(appendonly: str | None, appendfsync: str | None, info: Mapping[str, Any]) -> tuple[FindingState, str]:
    """Judge whether a Redis still has its jobs after it was restarted.

    Args:
        appendonly: whether it keeps an append-only file, ``yes`` or ``1``; None where it does not say.
        appendfsync: how often that is brought to disk; None where it does not say.
        info: its answer to INFO.
    """
    if appendonly is None:
        return (
            FindingState.NOT_TRIED,
            "does not say whether it keeps an append-only file (no CONFIG GET): see for appendonly",
        )
    if appendonly not in ("yes", "1"):
        return (
            FindingState.FAILED,
            "forgets jobs when it restarts, as it keeps snapshots at the most: set appendonly yes",
        )
    if str(info.get("aof_last_write_status", "ok")) != "ok":
        return FindingState.FAILED, "can't write its append-only file: is its disk full? Its log says more"
    if appendfsync is None:
        return (
            FindingState.OK,
            "keeps an append-only file; how often that is written to disk it does not say (no CONFIG GET)",
        )
    late = "" if appendfsync == "always" else ": a power cut takes what came last; appendfsync always takes nothing"
    return FindingState.OK, f"keeps an append-only file (appendfsync {appendfsync[:_MAX_QUOTED]}){late}"


def judge_memory(policy: str | None) -> tuple[FindingState, str]:
    """Judge whether a Redis may throw jobs away when its memory is full.

    Args:
        policy: its ``maxmemory-policy``; None where it does not say.
    """
    if policy is None:
        message = "does not say whether it evicts (no CONFIG GET): see for maxmemory-policy, which must be noeviction"
        return FindingState.NOT_TRIED, message
    if policy != "noeviction":
        return FindingState.FAILED, f"may evict jobs: set maxmemory-policy noeviction (it is {policy[:_MAX_QUOTED]})"
    return FindingState.OK, "evicts nothing (maxmemory-policy noeviction)"


async def _time(redis: ArqRedis, where: str) -> Finding:
    # Every script of a run asks for it too: who may not ask can't run.
    seconds, microseconds = await redis.time()
    theirs = datetime.fromtimestamp(seconds + microseconds / 1_000_000, UTC)
    # The queue goes by Redis's clock alone: these are what people compare it with.
    hurts = "reconciles at an hour come at another one, and ages in replicator status are wrong"
    complaint = clock_complaint(theirs, datetime.now(UTC), "Redis", hurts)
    if complaint is None:
        return Finding("clock", where, FindingState.OK, "agrees with this machine's")
    return Finding("clock", where, FindingState.FAILED, complaint)


async def try_state_directory(directory: Path) -> list[Finding]:
    """Tell whether the embedded queue can keep its data; nothing is made or started."""
    subject = str(directory)
    try:
        server_program()
    except ConfigError as error:
        return [Finding("queue", subject, FindingState.FAILED, "; ".join(map(str, error.problems)))]
    place = directory
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        message = f"{place} is no directory that this user may write to: set REPLICATOR_STATE_DIR to one that is"
        return [Finding("queue", subject, FindingState.FAILED, message)]
    try:
        use = await use_of(directory)
    except OSError as error:
        message = f"its lock can't be read ({error.strerror}): run this as the user of the service"
        return [Finding("queue", subject, FindingState.FAILED, message)]
    if use is Use.SERVER:
        return [Finding("queue", subject, FindingState.OK, "in use by the running replicator")]
    if use is Use.LOCKED:
        message = "locked by another replicator whose queue does not answer: end that process, or set "
        return [Finding("queue", subject, FindingState.FAILED, f"{message}REPLICATOR_STATE_DIR to another directory")]
    message = "can be used" if place == directory else "is made at the first start"
    return [Finding("queue", subject, FindingState.OK, message)]
