"""The steps of the queue as Lua scripts, and the replicas of Redis that must hold what a step has written.

A script is a named section of a file in ``lua/``. Each is given one key, by which a proxy or a cluster finds the shard;
its other keys are made from the prefix, and share that shard if the prefix is in braces (a hash tag).
"""

from __future__ import annotations

import re
import time
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from replicator.queue.connection import closed_is_away, is_demoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replicator.queue.connection import QueueClient

log = structlog.get_logger("replicator.queue")

_FILES = ("jobs", "control", "dead_letters", "looks", "processes", "leaders", "blob_locks", "memory", "move", "outbox")
_SECTION = re.compile(r"^-- (\w+)(?: with ([\w ]+))? --\n", re.MULTILINE)
"""The head of a section: ``-- name --``, or ``-- name with others --`` where other sections are put in front of it."""
_REPLICATED = frozenset(
    {"enqueue", "claim", "confirm", "dead_letter_retry", "move_jobs_in", "move_letters_in", "move_owned_in"}
)
"""The steps that a failover must not undo: accepted work, and the owner of a job while its tag is written. The end
of an attempt may get lost: the job runs again."""
_REPLICA = re.compile(r"slave\d+")
_REPEATS = 3
"""Times that one step is sent: again after its script was loaded, or to another node of a cluster."""

ABSENT_SECONDS = 60.0
"""After looks for so long that found no replica none is waited for, unless their number was set by hand."""
_LOOK_SECONDS = 5.0
_PROBE_SECONDS = 60.0
_PROBE_MS = 100
"""For WAIT where INFO does not say whether there are replicas."""


_ADVICE = (
    (
        ("using the KEYS array", "must be a single literal string", "bad lua script"),
        "set the instance's parameter script_check_enable to 0 (ApsaraDB, Tair), as scripts make keys from the prefix",
    ),
    (
        ("CROSSSLOT", "same slot", "non local key"),
        "all keys must share a slot: put REPLICATOR_REDIS_PREFIX in braces, as {replicator}, and run a backfill",
    ),
    (("MOVED ",), "is a Redis Cluster: begin REPLICATOR_REDIS_URL with redis+cluster:// or rediss+cluster://"),
    (
        ("eval not support", "unknown command 'eval", "unknown command `eval", "unknown command 'EVAL"),
        "the queue needs Lua scripts, but the service runs none: upgrade its minor version, or use another Redis",
    ),
    (("READONLY",), "is a replica: set REPLICATOR_REDIS_URL to the master, or to the sentinels"),
)
"""What to do about answers of clusters, and of the proxies of managed services."""


def advice(answer: Exception | str) -> str:
    """Return what to do about an answer of Redis or of a proxy before it; empty where nothing is known."""
    # Of some answers redis-py keeps the class and not the first word.
    said = f"MOVED {answer}" if isinstance(answer, MovedError) else str(answer)
    return next((advised for words, advised in _ADVICE if any(word in said for word in words)), "")


@cache
def sections() -> dict[str, str]:
    """Return every section by name, complete: ``keys.lua``, then the sections it names, then itself."""
    folder = files(__package__) / "lua"
    keys = (folder / "keys.lua").read_text()
    texts: dict[str, str] = {}
    needed: dict[str, list[str]] = {}
    for name in _FILES:
        _, *parts = _SECTION.split((folder / f"{name}.lua").read_text())
        for section, others, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            texts[section] = text
            needed[section] = (others or "").split()
    return {name: "".join([keys, *(texts[other] for other in needed[name]), text]) for name, text in texts.items()}


class NotReplicated(RedisError):
    """Too few replicas confirmed the write in time. It may still take effect."""


class Replicas:
    """How many replicas of Redis must hold a step before it counts.

    A master acknowledges what its replicas do not have yet, and a failover loses that.

    Args:
        redis: the client.
        wanted: the number set by hand, which is kept to; None for one where there are replicas.
        deadline: seconds that they get to confirm.
        expected: whether there should be replicas, as behind sentinels.

    Attributes:
        awaited: how many the next step waits for, as known by the last look.
        problem: why none is waited for although there may be some; empty without such a reason.
        wait_ms: their time to confirm.
    """

    def __init__(self, redis: QueueClient, *, wanted: int | None, deadline: float, expected: bool) -> None:
        self.awaited = wanted or 0
        self.problem = ""
        self.wait_ms = max(1, int(deadline * 1000))
        self._redis = redis
        self._wanted = wanted
        self._known = expected
        self._missed: float | None = None
        self._look_at = 0.0
        self._refused = ""

    async def look(self, info: Mapping[str, Any] | None = None) -> None:
        """Find out whether there are replicas, unless their number was set by hand.

        Args:
            info: an answer to INFO, if there is one already.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        if self._wanted is not None:
            return
        if self._refused:
            # It may have been a passing fault of a proxy.
            self._look_at = time.monotonic() + _PROBE_SECONDS
            try:
                await self._redis.execute_command("WAIT", 1, 1)
            except ResponseError:
                return
            self._refused = ""
        self._look_at = time.monotonic() + _LOOK_SECONDS  # set first: steps at the same time need not all look
        if info is None:
            try:
                info = await self._redis.info("replication")
            except ResponseError:
                info = {}  # an ACL may forbid INFO
        if "connected_slaves" in info:
            # The replicas of a replica do not hold the writes of its master.
            found = info.get("role") == "master" and int(info["connected_slaves"]) > 0 and _is_any_online(info)
        else:
            found = await self._probe()
        # Counted from the first check in vain, not from the last success: there may have been no check for hours.
        self._known = self._known or found
        self._missed = None if found else self._missed or time.monotonic()
        self._decide()

    async def needed(self) -> int:
        """Return for how many replicas the next step must wait.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        if time.monotonic() >= self._look_at:
            await self.look()
        return self.awaited

    def judge(self, held: Any, needed: int) -> None:
        """Judge the answer to WAIT.

        Raises:
            NotReplicated: too few replicas hold the step, or the server is no master any more.
            redis.exceptions.ResponseError: it refuses WAIT, and the number of replicas was set by hand.
        """
        if isinstance(held, Exception):
            if is_demoted(held):
                raise NotReplicated(str(held)) from held
            if self._wanted is not None:
                raise ResponseError(f"WAIT is refused ({held}): set REPLICATOR_REDIS_REPLICAS to 0")
            self._refused = f"WAIT is refused: {held}"
            self._decide()
        elif held < needed:
            self._look_at = 0.0
            raise NotReplicated(f"{held} of {needed} replicas confirmed it within {self.wait_ms / 1000:g} s")

    async def _probe(self) -> bool:
        """Tell whether a replica has this connection's writes, if INFO does not show it."""
        self._look_at = time.monotonic() + _PROBE_SECONDS
        try:
            return int(await self._redis.execute_command("WAIT", 1, _PROBE_MS)) > 0
        except ResponseError as error:
            if not is_demoted(error):
                self._refused = f"WAIT is refused: {error}"
            return False

    def _decide(self) -> None:
        missed = self._missed is not None and time.monotonic() - self._missed >= ABSENT_SECONDS
        former = self.awaited, self.problem
        self.awaited = 0 if self._refused or missed or not self._known else 1
        self.problem = self._refused
        if missed and self._known and not self._refused:
            self.problem = f"no replica was connected for {ABSENT_SECONDS:g} s"
        if former == (self.awaited, self.problem):
            return
        if self.awaited:
            log.info("replicas awaited", replicas=self.awaited)
        elif self.problem:
            log.warning("replicas not awaited", reason=self.problem)


def _is_any_online(info: Mapping[str, Any]) -> bool:
    """Tell by an answer to INFO whether a replica has all data and follows: in its first sync it confirms nothing.

    A service may not list its replicas; then those that are connected count.
    """
    listed = [replica for name, replica in info.items() if _REPLICA.fullmatch(name) and isinstance(replica, dict)]
    return not listed or any(replica.get("state") == "online" for replica in listed)


class Scripts:
    """The scripts of one installation.

    Args:
        redis: where they run; each is loaded there at its first use, and again when Redis has forgotten it.
        prefix: of the installation, the first argument of every script.
        replicas: must hold the steps that a failover must not undo.
        where: the address of Redis, for messages.
    """

    def __init__(self, redis: QueueClient, prefix: str, replicas: Replicas, where: str) -> None:
        self._redis = redis
        self._where = where
        self._prefix = prefix
        self._replicas = replicas
        self._scripts: dict[str, Any] = {name: redis.register_script(text) for name, text in sections().items()}

    async def run(self, name: str, *arguments: str | bytes | float) -> Any:
        """Run ``name``; its section says what it takes and gives.

        Raises:
            NotReplicated: too few replicas confirmed it.
            redis.exceptions.RedisError: Redis is away or refuses.
        """
        needed = await self._replicas.needed() if name in _REPLICATED else 0
        script, key = self._scripts[name], f"{self._prefix}:gen"
        if not needed:
            return await script(keys=[key], args=[self._prefix, *arguments])
        for _ in range(_REPEATS):
            # WAIT counts what its own connection wrote, so both go through one, and in one round trip.
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.execute_command("EVALSHA", script.sha, 1, key, self._prefix, *arguments)
                pipe.execute_command("WAIT", needed, self._replicas.wait_ms)
                with closed_is_away():
                    answer, held = await pipe.execute(raise_on_error=False)
            if isinstance(answer, NoScriptError):
                await self._redis.script_load(script.script)
            elif not isinstance(answer, Exception):
                break
            elif not await self._redis.leaves(answer):
                raise answer
        else:
            raise answer
        if isinstance(held, Exception):
            await self._redis.leaves(held)
        self._replicas.judge(held, needed)
        return answer

    async def inspect(self) -> str:
        """Learn what Redis is, and warn of one that evicts; return why it can't keep the queue, or an empty text.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        # Leads to the node of a cluster that has the keys, so that INFO is that node's.
        await self._redis.exists(f"{self._prefix}:gen")
        try:
            info = await self._redis.info()
        except (RedisConnectionError, RedisTimeoutError):
            raise
        except RedisError:
            info = {}  # an ACL may forbid INFO
        await self._replicas.look(info)
        if info.get("cluster_enabled") and not self._prefix.startswith("{"):
            return f"is a Redis Cluster, so {advice('CROSSSLOT')}"
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            log.warning("queue may be evicted", redis=self._where, maxmemory_policy=policy, needed="noeviction")
        return ""
