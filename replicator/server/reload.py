"""Reloading rules, logins, tokens, certificates, limits and Redis's URL at a change; and copies after a change.

If a setting can't be used, every problem is logged and the previous configuration stays in use. If a rules file can't,
its last accepted version stays in use, beside the other files as they are now. Copies in progress finish under the
configuration they started with.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from replicator.console import iso
from replicator.env_file import secrets_directory
from replicator.errors import ConfigError, ErrorClass, ErrorText
from replicator.queue import DeadLetters, LoadedConfig, QueueUnavailable, list_waits, login_of
from replicator.registry.docker_logins import config_file
from replicator.registry.ladder import fingerprint
from replicator.rules import CopyRequest
from replicator.tasks import cancel_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from replicator.queue import DeadLetter, Queue
    from replicator.reference import Repository
    from replicator.rules import Rules
    from replicator.rules.loading import Refusal
    from replicator.settings import Settings

log = structlog.get_logger("replicator.reload")

_POLL_SECONDS = 1.0
_RELOADABLE = frozenset(
    {
        "config",
        "auth",
        "images",
        "docker_config",
        "bandwidth",
        "requests_per_second",
        "webhook_token",
        "webhook_former_tokens",
        "webhook_sources",
        "webhook_anonymous",
        "status_token",
        "redis_url",
    }
)
"""Settings that a reload applies; all others need a restart."""

_UNDER_WAY_SECONDS = 30.0
"""After a change of a login: copies that began with the old one may fail until then."""
_OFFLINE_SECONDS = 5.0

Marks = tuple[tuple[str, tuple[int, ...]], ...]
"""Path and device, inode, size and mtime (ns) of each file; compares equal if no file was replaced or written."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings and rules that were loaded together.

    Attributes:
        settings: the settings.
        rules: the rules.
        marks: the `marks` of the `watched_files`, taken before they were read, so that a later change shows.
        refused: the rules files that can't be used as they are now, by their paths.
        is_former: whether none of the rules files can be used as it is now.
        accept: notes that this configuration is in use.
    """

    settings: Settings
    rules: Rules
    marks: Marks
    refused: Mapping[str, Refusal] = field(default_factory=dict)
    is_former: bool = False
    accept: Callable[[], None] = lambda: None


class Reloader:
    """Holds the configuration in use, and replaces it when its files change.

    Args:
        first: the configuration at the start.
        load: reads everything again, in a thread; raises `ConfigError` for what can't be used.
        apply: puts a new configuration into use, all at once; may raise `ConfigError` before it changes anything.
    """

    def __init__(
        self,
        first: Configuration,
        load: Callable[[], Configuration],
        apply: Callable[[Configuration], None],
    ) -> None:
        self.current = first
        self._loaded = time.time()
        self._problem: str | None = None
        self._since: float | None = None
        self._load = load
        self._apply = apply
        self._requested = asyncio.Event()
        # The marks of the first reading, not of now: an embedded queue may take long to start, and the files may
        # have changed meanwhile.
        self._marks = first.marks
        self._told: set[str] = set()
        self._tell_refused()

    def status(self) -> LoadedConfig:
        """Return when the configuration in use was loaded, and why a newer one is not in use."""
        return LoadedConfig(self._loaded, self._problem, self._since, self.current.rules.out)

    def request(self) -> None:
        """Reload as soon as possible, whether a file has changed or not."""
        self._requested.set()

    @contextlib.asynccontextmanager
    async def beside(self) -> AsyncIterator[None]:
        """Reload at SIGHUP, and when a watched file changes if the settings ask for that, while the context lasts."""
        await asyncio.to_thread(self.current.accept)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self.request)
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            # Python restores the default action, which would kill the process before it has closed its queue.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            await cancel_all({task})

    async def _run(self) -> None:
        watch = self.current.settings.watch
        previous = self._marks
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS if watch else None):
                    await self._requested.wait()
            try:
                now = await asyncio.to_thread(lambda: marks(watched_files(self.current.settings)))
                # Two polls must agree: editors write a file in several steps.
                if self._requested.is_set() or (now != self._marks and now == previous):
                    self._requested.clear()
                    self._marks = now
                    await self.reload()
                    # The new settings may name other files.
                    now = self._marks
                previous = now
            except Exception:
                # A bug here must not stop the replication.
                log.exception("reload broken")
                self._has("internal error while reloading, see the log")
                await asyncio.sleep(_POLL_SECONDS)

    async def reload(self) -> None:
        """Load everything again, and apply it or log why not."""
        try:
            found = await asyncio.to_thread(self._load)
            self._apply(found)
        except ConfigError as error:
            self._has(str(error))
            problems = [str(problem) for problem in error.problems]
            log.error("configuration refused", source=error.source, problems=problems, error=error)  # noqa: TRY400 - the user's
            return
        former = self.current.settings
        changed = _changed(former, found.settings)
        # Another Redis is taken over; but not one in place of the embedded queue, or the reverse.
        fixed = {"redis_url"} if (former.redis_url is None) != (found.settings.redis_url is None) else set()
        if ignored := [f"REPLICATOR_{name.upper()}" for name in changed if name not in _RELOADABLE - fixed]:
            log.warning("setting needs a restart", names=", ".join(ignored))
        self.current, self._marks = found, found.marks
        self._tell_refused()
        await asyncio.to_thread(found.accept)
        if not found.is_former:
            self._loaded = time.time()
            refused = {"refused": list(found.refused)} if found.refused else {}
            log.info("configuration loaded", sources=len(found.rules.sources()), **refused)

    def _tell_refused(self) -> None:
        """Log why rules files are not in use as they are now, each of them once, and make it the present problem."""
        texts: list[str] = []
        for path, refusal in self.current.refused.items():
            in_force = "none of its rules is in force"
            if refusal.accepted is not None:
                in_force = f"its version of {iso(datetime.fromtimestamp(refusal.accepted, UTC))} is in force"
            problems = [str(problem) for problem in refusal.problems]
            texts.append(f"{path} ({in_force}): {'; '.join(problems)}")
            if texts[-1] not in self._told:
                text = ErrorText(f"{path}: {len(problems)} problem(s)", "; ".join(problems), f"correct it: {in_force}")
                log.error("configuration refused", source=path, problems=problems, in_force=in_force, error=text.stored)
        self._told = set(texts)
        self._has("\n".join(texts) or None)

    def _has(self, problem: str | None) -> None:
        if problem != self._problem:
            self._problem, self._since = problem, None if problem is None else time.time()


def watched_files(settings: Settings) -> list[Path]:
    """List the files that make up the configuration; a directory stands for the files in it."""
    rules = (settings.config, settings.auth, settings.images, config_file(settings.docker_config))
    named = (*rules, settings.tls_certificate, settings.tls_key)
    return [Path(".env"), secrets_directory(), *(file for file in named if file is not None)]


def marks(files: Iterable[Path]) -> Marks:
    """Take the marks of files; a missing one has none.

    Symbolic links are followed: Kubernetes updates a mounted file by pointing a link at another directory.
    """
    found: list[tuple[str, tuple[int, ...]]] = []
    for path in files:
        with contextlib.suppress(OSError):
            inside = sorted(path.iterdir()) if path.is_dir() else [path]
            for file in inside:
                with contextlib.suppress(OSError):
                    stat = file.stat()
                    found.append((str(file), (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)))
    return tuple(found)


def _changed(before: Settings, after: Settings) -> list[str]:
    return [name for name in type(before).model_fields if getattr(before, name) != getattr(after, name)]


class RefusedLogins:
    """Queues dead letters again that died of a login, as soon as there is another login or theirs works again.

    Args:
        queue: has the dead letters, and the jobs that wait for a login.
        rules: with the logins in force.
    """

    def __init__(self, queue: Queue, rules: Rules) -> None:
        self._queue = queue
        self._rules = rules
        self._before = rules
        self._task: asyncio.Task[None] | None = None
        self._others: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Compare the logins with those of the dead letters: another may have come with this start."""
        self._also(lambda letter: _died_of_another(letter, self._rules), _UNDER_WAY_SECONDS)

    def recovered(self, login: str) -> None:
        """Queue what died of a login that works again (`LoginPatience.recovered`)."""
        self._also(lambda letter: letter.login == login)

    def renew(self, rules: Rules) -> None:
        """Compare the logins with those of other rules, and queue the affected copies in the background."""
        if self._task is None or self._task.done():
            self._before = self._rules
        else:
            # The changes of both reloads count.
            self._task.cancel()
        self._rules, before = rules, self._before
        work = self._run(lambda letter: _has_new_login(letter, before, rules), 0.0, _UNDER_WAY_SECONDS)
        self._task = asyncio.create_task(work)

    async def aclose(self) -> None:
        """End the tasks that are under way."""
        await cancel_all(self._others | ({self._task} if self._task is not None else set()))

    def _also(self, is_meant: Callable[[DeadLetter], bool], *later: float) -> None:
        task = asyncio.create_task(self._run(is_meant, 0.0, *later))
        self._others.add(task)
        task.add_done_callback(self._others.discard)

    async def _run(self, is_meant: Callable[[DeadLetter], bool], *pauses: float) -> None:
        for pause in pauses:
            await asyncio.sleep(pause)
            while True:
                try:
                    await self._retry(is_meant)
                    break
                except QueueUnavailable:
                    await asyncio.sleep(_OFFLINE_SECONDS)
                except Exception:
                    log.exception("renewed logins broken")
                    return

    async def _retry(self, is_meant: Callable[[DeadLetter], bool]) -> None:
        # Each of them asks again whether its login may be sent, or has another one.
        for silence in await list_waits(self._queue):
            if login_of(silence.key) is not None:
                await self._queue.ask("wait_end", silence.key)
        letters, ids, cursor = DeadLetters(self._queue), list[str](), 0
        while True:
            page = await letters.page(cursor)
            refused = [letter for letter in page.letters if letter.error_class is ErrorClass.CREDENTIALS]
            # In a thread: a fingerprint takes its time.
            ids += [letter.id for letter in await asyncio.to_thread(list, filter(is_meant, refused))]
            cursor = page.following
            if not cursor:
                break
        if ids and (queued := await letters.retry(dict.fromkeys(ids))):
            log.info("failures queued again", number=len(queued), destinations=queued[:10], reason="login changed")


def _ends(letter: DeadLetter) -> list[Repository]:
    """Return source and destination of a dead letter; none if it can't be read."""
    try:
        request = CopyRequest.from_json(letter.payload or {})
    except (ValueError, KeyError, TypeError):
        return []
    return [request.source.repository, request.destination.repository]


def _has_new_login(letter: DeadLetter, before: Rules, after: Rules) -> bool:
    """Tell whether a registry refused a login that has changed since."""
    ends = _ends(letter)
    # The message names the registry that refused; without it, it may have been either of them.
    ends = [end for end in ends if end.registry in letter.message] or ends
    return any(_login(before, end) != _login(after, end) for end in ends)


def _died_of_another(letter: DeadLetter, rules: Rules) -> bool:
    """Tell whether the login that was refused is another one now."""
    registry = letter.login.partition(" ")[0]
    for end in _ends(letter):
        if end.registry == registry:
            with contextlib.suppress(ConfigError):
                access = rules.credentials(end)
                return access is not None and fingerprint(registry, access) != letter.login
    return False


def _login(rules: Rules, repository: Repository) -> tuple[Any, ...] | None:
    try:
        access = rules.credentials(repository)
    except ConfigError:
        return None
    return None if access is None else (access.username, access.password, access.logins)
