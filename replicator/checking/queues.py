"""Probes of what is on this side: the queue's Redis or state directory, and the webhook's settings."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from redis.exceptions import NoPermissionError, RedisError

from replicator.checking.clocks import clock_complaint
from replicator.checking.findings import Finding, State
from replicator.errors import ConfigError
from replicator.queue.connection import RedisHandle, open_redis
from replicator.queue.embedded import server_program
from replicator.webhooks.registering import registration_problems

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from replicator.settings import Settings


async def try_redis(url: str, prefix: str) -> list[Finding]:
    """Look at a Redis: whether it answers, keeps what it is given, and takes a key, which is deleted again.

    Args:
        url: where it is.
        prefix: what its keys begin with.

    Raises:
        ConfigError: the URL is of no known form.
    """
    handle = open_redis(url)
    try:
        return await _redis(handle, prefix)
    except (RedisError, OSError) as error:
        message = f"can't be used ({type(error).__name__}): check REPLICATOR_REDIS_URL, its password, and that it runs"
        return [Finding("redis", handle.where, State.FAILED, message)]
    finally:
        await handle.close()


async def _redis(handle: RedisHandle, prefix: str) -> list[Finding]:
    key = f"{prefix}:check"
    await handle.redis.set(key, "", ex=60)
    await handle.redis.delete(key)
    found = [Finding("redis", handle.where, State.OK, "answers, and can be written to")]
    try:
        info: Mapping[str, Any] = await handle.redis.info()
        seconds, microseconds = await handle.redis.time()
    except NoPermissionError:
        message = "this user may not ask for it (INFO, TIME): see docs/deployment.md for what Redis needs"
        return [*found, Finding("redis settings", handle.where, State.NOT_TRIED, message)]
    complaints = redis_complaints(info)
    moment = datetime.fromtimestamp(seconds + microseconds / 1_000_000, UTC)
    complaints += [complaint] if (complaint := clock_complaint(moment, datetime.now(UTC), "Redis")) else []
    return found + [Finding("redis settings", handle.where, State.FAILED, complaint) for complaint in complaints]


def redis_complaints(info: Mapping[str, Any]) -> list[str]:
    """Say what in the answer to Redis's INFO would lose jobs."""
    complaints = []
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        complaints.append(f"may evict jobs: set maxmemory-policy noeviction (it is {policy})")
    if info.get("aof_enabled") == 0:
        complaints.append("forgets jobs when it restarts: set appendonly yes")
    if info.get("cluster_enabled"):
        complaints.append("is a Redis Cluster, which is not supported: give the URL of a single server")
    return complaints


async def try_state_directory(directory: Path) -> list[Finding]:
    """Tell whether the embedded queue can keep its data; nothing is made or started."""
    subject = str(directory)
    try:
        server_program()
    except ConfigError as error:
        return [Finding("queue", subject, State.FAILED, "; ".join(map(str, error.problems)))]
    place = directory
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        message = f"{place} is no directory that this user may write to: set REPLICATOR_STATE_DIR to one that is"
        return [Finding("queue", subject, State.FAILED, message)]
    message = "can be used" if place == directory else "is made at the first start"
    return [Finding("queue", subject, State.OK, message)]


async def judge_webhook(settings: Settings) -> list[Finding]:
    """Tell whether ``serve`` has a token to know Harbor by, and what reconciles need to make Harbor's policies."""
    problems = registration_problems(settings)
    if problems:
        return [Finding("webhook", settings.listen, State.FAILED, str(problem)) for problem in problems]
    if settings.webhook_token is not None and settings.webhook_token.get_secret_value():
        return [Finding("webhook", settings.listen, State.OK, "has a token")]
    if settings.webhook_anonymous:
        return [Finding("webhook", settings.listen, State.OK, "takes events from anyone, as the settings say")]
    message = "has no token, so serve does not start: set REPLICATOR_WEBHOOK_TOKEN (openssl rand -hex 32)"
    return [Finding("webhook", settings.listen, State.FAILED, message)]
