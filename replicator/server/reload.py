"""Reloading changed rules, logins, tokens, certificates and limits of bandwidth while the program runs.

A change is applied as a whole or not at all. If it can't be used, every problem is logged and the previous
configuration stays in use. Copies in progress finish under the one they started with.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from replicator.errors import ConfigError
from replicator.queue import LoadedConfig
from replicator.registry.docker_logins import config_file
from replicator.settings import secrets_directory
from replicator.tasks import cancel_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from replicator.rules import Rules
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
    }
)
"""Settings that a reload applies; all others need a restart."""

Marks = tuple[tuple[str, tuple[int, ...]], ...]
"""Path and device, inode, size and mtime (ns) of each file; compares equal if no file was replaced or written."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings and rules that were loaded together.

    Attributes:
        settings: the settings.
        rules: the rules.
        marks: the `marks` of the `watched_files`, taken before they were read, so that a later change shows.
    """

    settings: Settings
    rules: Rules
    marks: Marks


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
        self._load = load
        self._apply = apply
        self._requested = asyncio.Event()
        # The marks of the first reading, not of now: an embedded queue may take long to start, and the files may
        # have changed meanwhile.
        self._marks = first.marks

    def status(self) -> LoadedConfig:
        """Return when the configuration in use was loaded, and why a newer one is not in use."""
        return LoadedConfig(self._loaded, self._problem)

    def request(self) -> None:
        """Reload as soon as possible, whether a file has changed or not."""
        self._requested.set()

    @contextlib.asynccontextmanager
    async def beside(self) -> AsyncIterator[None]:
        """Reload at SIGHUP, and when a watched file changes if the settings ask for that, while the context lasts."""
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
                self._problem = "internal error while reloading, see the log"
                await asyncio.sleep(_POLL_SECONDS)

    async def reload(self) -> None:
        """Load everything again, and apply it or log why not."""
        try:
            found = await asyncio.to_thread(self._load)
            self._apply(found)
        except ConfigError as error:
            self._problem = str(error)
            problems = [str(problem) for problem in error.problems]
            log.error("configuration refused", source=error.source, problems=problems)  # noqa: TRY400 - the user's
            return
        changed = _changed(self.current.settings, found.settings)
        if ignored := [f"REPLICATOR_{name.upper()}" for name in changed if name not in _RELOADABLE]:
            log.warning("setting needs a restart", names=", ".join(ignored))
        self.current, self._marks = found, found.marks
        self._loaded, self._problem = time.time(), None
        log.info("configuration loaded", sources=len(found.rules.sources()))


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
