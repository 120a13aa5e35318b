"""Status of the installation: signs of life of its processes, and the queue at one moment for a report.

There is one heartbeat, used twice: a process shows itself and its configuration under ``processes``, a worker itself
and its load under ``workers`` (`replicator.queue.worker`). A process that stops says so; one that was killed expires.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Self
from uuid import uuid4

import structlog
from redis.exceptions import RedisError

from replicator.console import iso
from replicator.errors import AGAIN, ErrorText, class_word, error_fields
from replicator.queue.client import FAULTS
from replicator.queue.configurations import Differing, KnownConfig, ProcessInfo
from replicator.queue.history import logging_actions
from replicator.queue.job import ALIVE_MS
from replicator.queue.leaders import SweepState
from replicator.queue.memory import list_public_copies
from replicator.queue.observations import ClockSetBack
from replicator.queue.reconciles import ReconcileState
from replicator.queue.records import decode, encode, moment
from replicator.queue.waits import list_pauses, list_waits
from replicator.tasks import cancel_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arq.connections import ArqRedis

    from replicator.queue.client import Queue
    from replicator.queue.configurations import InForce
    from replicator.queue.job import Counts, Lane, RunningJob, WaitingJob, WorkerInfo
    from replicator.queue.memory import PublicCopy
    from replicator.queue.waits import KeySilence, Pause

log = structlog.get_logger("replicator.queue")

_BEAT_SECONDS = 5.0
_GOODBYE_SECONDS = 1.0
_MOST_CHARACTERS = 2000
_MOST_OUT = 20
"""Names of rules files that are not in force, in a process's sign of life."""


@contextlib.asynccontextmanager
async def heartbeat(
    queue: Queue,
    kind: Literal["processes", "workers"],
    name: str,
    record: Callable[[], bytes],
    in_force: InForce | None = None,
) -> AsyncIterator[None]:
    """Show signs of life for as long as the context lasts. Redis away is no error: the others see them later.

    Args:
        queue: over whose processes.
        kind: what shows itself.
        name: its name among those of its kind.
        record: returns its present record (JSON); the script adds the time as ``seen``.
        in_force: its configuration, if it shows one.
    """

    async def beat() -> None:
        configured = () if in_force is None else in_force.arguments()
        reply = await queue.run_script("heartbeat", kind, name, record(), ALIVE_MS, *configured)
        if in_force is None:
            set_back = reply
        else:
            set_back, *heard = reply
            in_force.heard(str(configured[0]), heard)
        if set_back:
            log.warning("queue clock set back", seconds=round(set_back / 1000), redis=queue.where)

    async def beat_on(*, begin: bool) -> None:
        while True:
            if begin:
                with contextlib.suppress(*FAULTS):
                    await beat()
            begin = True
            if in_force is None:
                await asyncio.sleep(_BEAT_SECONDS)
                continue
            # Another configuration is shown at once: jobs are left to those that have it.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_BEAT_SECONDS):
                    await in_force.changed.wait()
            in_force.changed.clear()

    async def goodbye() -> None:
        with contextlib.suppress(*FAULTS):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await queue.run_script("heartbeat", kind, name, "", 0)

    shown = False
    if in_force is not None:
        # The others are to know of a configuration before it queues anything.
        with contextlib.suppress(*FAULTS):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await beat()
                shown = True
    beating = asyncio.create_task(beat_on(begin=not shown))
    try:
        yield
    finally:
        await cancel_all({beating})
        # In a task of its own: up to Python 3.11.2, a timeout in a task that was cancelled ends as a cancellation too,
        # and redis-py looks for unread bytes with one.
        await asyncio.create_task(goodbye())


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """The configuration that a process runs with.

    Attributes:
        loaded: since when, in seconds since 1970.
        problem: why the present content of the files was not loaded; None if it was.
        since: since when there is that problem, in seconds since 1970.
        out: names of rules files of which no version is in force.
    """

    loaded: float
    problem: str | None
    since: float | None = None
    out: Sequence[str] = ()


@contextlib.asynccontextmanager
async def announced(
    queue: Queue,
    command: str,
    version: str,
    in_force: Callable[[], LoadedConfig],
    limits: Callable[[], str] = lambda: "",
    rules: InForce | None = None,
) -> AsyncIterator[None]:
    """Show this process to the others, and log what people do with commands, for as long as the context lasts.

    Args:
        queue: over whose processes.
        command: the command it was started as.
        version: of the program.
        in_force: returns the configuration it runs with.
        limits: says which limits of bandwidth and requests are in force, in a line.
        rules: those in force.
    """
    started = datetime.now(UTC)

    def record() -> bytes:
        now = in_force()
        problem = None if now.problem is None else now.problem[:_MOST_CHARACTERS].encode(errors="replace").decode()
        loaded, host, limited = moment(now.loaded * 1000), socket.gethostname(), limits()[:_MOST_CHARACTERS]
        since = None if now.since is None else moment(now.since * 1000)
        digest = "" if rules is None else rules.digest
        # The name of a file may hold bytes that are no text.
        out = tuple(name[:_MOST_CHARACTERS].encode(errors="replace").decode() for name in now.out[:_MOST_OUT])
        info = ProcessInfo(
            command, version, host, os.getpid(), started, loaded, problem, limited, digest, problem_since=since, out=out
        )
        empty = {name for name in ("limits", "rules", "problem_since", "out") if not getattr(info, name)}
        return encode(info, without={"rules_since", "seen", *empty})

    async with heartbeat(queue, "processes", uuid4().hex, record, rules), logging_actions(queue):
        yield


async def processes(queue: Queue) -> list[ProcessInfo]:
    """List the processes that are alive, the oldest first.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    records = await queue.ask("alive", "processes", ALIVE_MS)
    return sorted((decode(ProcessInfo, record) for record in records), key=lambda process: process.started)


async def server_version(redis: ArqRedis) -> str:
    """Return name and version of a server, e.g. ``valkey 9.1.2``; empty if it does not answer, or not this (INFO)."""
    try:
        info = await redis.info("server")
    except (RedisError, OSError):
        return ""
    if (version := info.get("valkey_version")) is not None:
        return f"valkey {str(version)[:40]}"
    return f"redis {str(info['redis_version'])[:40]}" if "redis_version" in info else ""


@dataclass(frozen=True, slots=True)
class Status:
    """The queue at one moment. Its parts are asked for one after the other, so they may differ by a job or two.

    Attributes:
        taken: when it was asked for (UTC).
        where: address of the queue, without its password.
        counts: jobs by state.
        running: running jobs, the oldest first.
        waiting: jobs that wait for a retry, the next one first; a thousand at most.
        workers: worker processes that are alive.
        reconcile: the scheduled reconcile that runs, and how the last one ended.
        sweep: the findings of sweeps.
        limits: the limits of bandwidth and requests in force; more than one where processes have different settings.
        silent: the registries that do not answer, the longest silence first.
        pauses: the pauses by people, the oldest first.
        server: name and version of the queue's server; empty if it does not tell.
        clock: the last step of Redis's clock into the past; None without one in the last day.
        differing: processes that have different rules; None if they agree.
        ownerless: copies that wait for a process with the rules that queued them, while none has these.
        refusing: the processes that do not use their files as they are now.
        public: images that are private at their source and public at their destination.
    """

    taken: datetime
    where: str
    counts: Counts
    running: Sequence[RunningJob]
    waiting: Sequence[WaitingJob]
    workers: Sequence[WorkerInfo]
    reconcile: ReconcileState
    sweep: SweepState
    limits: Sequence[str] = ()
    silent: Sequence[KeySilence] = ()
    pauses: Sequence[Pause] = ()
    server: str = ""
    clock: ClockSetBack | None = None
    differing: Differing | None = None
    ownerless: int = 0
    refusing: Sequence[ProcessInfo] = ()
    public: Sequence[PublicCopy] = ()

    @classmethod
    async def read(cls, queue: Queue) -> Self:
        """Ask the queue.

        Raises:
            QueueUnavailable: it does not answer.
        """
        alive, known = await processes(queue), await KnownConfig.read(queue)
        return cls(
            taken=datetime.now(UTC),
            where=queue.where,
            counts=await queue.counts(),
            running=await queue.running(),
            waiting=await queue.waiting(),
            workers=await queue.workers(),
            reconcile=await ReconcileState.read(queue),
            sweep=await SweepState.read(queue),
            limits=sorted({process.limits for process in alive} - {""}),
            silent=await list_waits(queue),
            pauses=await list_pauses(queue),
            server=await server_version(queue.redis),
            clock=ClockSetBack.read(*await queue.ask("clock_show")),
            differing=Differing.among(alive),
            ownerless=sum(each.jobs for each in known.values() if not each.commands),
            refusing=[process for process in alive if process.problem],
            public=await list_public_copies(queue),
        )

    @property
    def waiting_at_registries(self) -> dict[Lane, int]:
        """Requests and bodies of all workers that wait for their turn at registries, by lane; without lanes of none."""
        numbers = {lane: sum(worker.waiting.get(lane, 0) for worker in self.workers) for lane in self.counts.lanes}
        return {lane: number for lane, number in numbers.items() if number}

    @property
    def unserved(self) -> list[Lane]:
        """Lanes whose queued jobs no worker starts."""
        lanes = self.counts.lanes.items()
        return [lane for lane, count in lanes if count.queued and not any(each.serves(lane) for each in self.workers)]

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON values; times are RFC 3339 in UTC, ``bytes`` is what was read from the source so far."""
        return {
            "taken": iso(self.taken),
            "queue": self.where,
            **({"server": self.server} if self.server else {}),
            "lanes": {
                str(lane): {
                    "queued": count.queued,
                    "running": count.running,
                    "waiting": count.waiting,
                    **({"paused": count.paused} if count.paused else {}),
                }
                for lane, count in self.counts.lanes.items()
            },
            "dead": self.counts.dead,
            "running": [job.to_json() for job in self.running],
            "waiting": [
                {
                    "destination": job.id,
                    "lane": str(job.lane),
                    "error_class": class_word(job.error_class),
                    "message": str(ErrorText.parse(job.message)),
                    **error_fields(job.message),
                    "tries": job.tries,
                    "first": iso(job.first),
                    "next": iso(job.due),
                }
                for job in self.waiting
            ],
            "workers": [
                {
                    "id": worker.id,
                    "host": worker.host,
                    "pid": worker.pid,
                    "started": iso(worker.started),
                    "seen": iso(worker.seen),
                    "running": {str(lane): number for lane, number in worker.running.items()},
                    "concurrency": {str(lane): number for lane, number in worker.concurrency.items()},
                    "stopping": worker.stopping,
                    "waiting": {str(lane): number for lane, number in worker.waiting.items()},
                }
                for worker in self.workers
            ],
            **({"limits": list(self.limits)} if self.limits else {}),
            **({"rules_differ": self.differing.to_json()} if self.differing else {}),
            **({"without_rules": self.ownerless} if self.ownerless else {}),
            **({"pauses": [each.to_json() for each in self.pauses]} if self.pauses else {}),
            **self._silent_json(),
            **self._refusing_json(),
            **self._public_json(),
            **({"clock": {"set_back": iso(self.clock.at), "seconds": self.clock.seconds}} if self.clock else {}),
            **self._reconcile_json(),
            **self._sweep_json(),
        }

    def _silent_json(self) -> dict[str, Any]:
        """Return the registries that do not answer; nothing if all do."""
        silent = [
            {
                "registry": each.registry,
                "since": iso(each.since),
                "message": each.why,
                **ErrorText(each.sentence, said.cause, said.do or AGAIN).to_json(),
                "waiting": each.total,
            }
            for each in self.silent
            for said in (ErrorText.parse(each.why),)
        ]
        return {"silent": silent} if silent else {}

    def _refusing_json(self) -> dict[str, Any]:
        """Return the processes that do not use their current files; nothing if all do."""
        told = [each.problem_json() for each in self.refusing]
        return {"configuration": told} if told else {}

    def _public_json(self) -> dict[str, Any]:
        """Give the private images that are public at their destination; nothing without any."""
        copies = [
            {"source": each.source, "destination": each.destination, "since": iso(each.since)} for each in self.public
        ]
        return {"public": copies} if copies else {}

    def _sweep_json(self) -> dict[str, Any]:
        """Give the sweeps; nothing when there never was one."""
        if self.sweep.ended is None:
            return {}
        problem = self.sweep.problem or None
        told = {"ended": iso(self.sweep.ended), "replaced": self.sweep.replaced, "problem": problem}
        told |= error_fields(problem)
        off = {"switched_off": self.sweep.switched_off} if self.sweep.switched_off else {}
        return {"sweep": told | off}

    def _reconcile_json(self) -> dict[str, Any]:
        """Give the reconciles; nothing when there never was one."""
        running, last = self.reconcile.running, self.reconcile.last
        if running is None and last is None:
            return {}
        now = (
            {
                "since": iso(running.since),
                "host": running.host,
                "pid": running.pid,
                "listed": running.progress.listed,
                "done": running.progress.done,
            }
            if running is not None
            else None
        )
        return {"reconcile": {"running": now, "last": last.to_json() if last is not None else None}}
