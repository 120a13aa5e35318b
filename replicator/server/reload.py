"""Taking changed rules, logins, tokens and certificates over while the program runs.

A change is taken over as a whole or not at all: what can't be used is reported with every problem, and what was in
force stays so. Copies under way end as they began.
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
from replicator.registry.docker_logins import config_file
from replicator.settings import secrets_directory
from replicator.tasks import cancel_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from replicator.rules import Rules
    from replicator.settings import Settings

log = structlog.get_logger("replicator.reload")

_POLL_SECONDS = 1.0
"""Between two looks at the files. A change counts once two looks agree on it: editors write in several steps."""
_RELOADABLE = frozenset(
    {
        "config",
        "auth",
        "images",
        "docker_config",
        "webhook_token",
        "webhook_former_tokens",
        "webhook_sources",
        "webhook_anonymous",
        "status_token",
    }
)
"""Settings that are taken over; all others need a restart."""

Marks = tuple[tuple[str, tuple[int, ...]], ...]
"""What `marks` tells files apart by."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """What is in force together.

    Attributes:
        settings: how the program is set up.
        rules: what is copied where, and as whom.
        seen: the `marks` of the `watched_files` from before they were read: what changed since is not in it.
    """

    settings: Settings
    rules: Rules
    seen: Marks


class Reloader:
    """Holds the configuration in force, and replaces it by what the files say when they change.

    Args:
        first: what is in force from the start.
        load: reads everything anew; called in a thread. It raises `ConfigError` for what can't be used.
        apply: puts a new configuration in force, all at once. It may raise `ConfigError` before it changes anything.

    Attributes:
        current: what is in force.
        loaded: when that was read, in seconds since the epoch.
        problem: why what the files say now is not in force; None when it is.
    """

    def __init__(
        self,
        first: Configuration,
        load: Callable[[], Configuration],
        apply: Callable[[Configuration], None],
    ) -> None:
        self.current = first
        self.loaded = time.time()
        self.problem: str | None = None
        self._load = load
        self._apply = apply
        self._asked = asyncio.Event()
        # Not as they are now: the queue may have taken long to start.
        self._seen = first.seen

    def ask(self) -> None:
        """Have everything read anew at once, whether a file changed or not."""
        self._asked.set()

    @contextlib.asynccontextmanager
    async def beside(self) -> AsyncIterator[None]:
        """Do so at SIGHUP, and watch the files if the settings want that, for as long as the context lasts."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self.ask)
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            # That leaves it to end the process, which has its queue to close yet.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            await cancel_all({task})

    async def _run(self) -> None:
        watch = self.current.settings.watch
        before = self._seen
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS if watch else None):
                    await self._asked.wait()
            try:
                now = await asyncio.to_thread(lambda: marks(watched_files(self.current.settings)))
                if self._asked.is_set() or (now != self._seen and now == before):
                    self._asked.clear()
                    self._seen = now
                    await self.reload()
                    # What is read next may be other files.
                    now = self._seen
                before = now
            except Exception:
                # A fault in this must not end the copying beside it.
                log.exception("reload broken")
                self.problem = "a fault in the program, see the log"
                await asyncio.sleep(_POLL_SECONDS)

    async def reload(self) -> None:
        """Read everything anew, and put it in force or say why not."""
        try:
            found = await asyncio.to_thread(self._load)
            self._apply(found)
        except ConfigError as error:
            self.problem = str(error)
            problems = [str(problem) for problem in error.problems]
            log.error("configuration refused", source=error.source, problems=problems)  # noqa: TRY400 - the user's
            return
        kept = [name for name in _changed(self.current.settings, found.settings) if name not in _RELOADABLE]
        if kept:
            variables = ", ".join(f"REPLICATOR_{name.upper()}" for name in kept)
            log.warning("setting needs a restart", names=variables)
        self.current, self.loaded, self.problem, self._seen = found, time.time(), None, found.seen
        log.info("configuration loaded", sources=len(found.rules.sources()))


def watched_files(settings: Settings) -> list[Path]:
    """Name the files whose change can change the configuration; a directory stands for the files in it."""
    rules = (settings.config, settings.auth, settings.images, config_file(settings.docker_config))
    named = (*rules, settings.tls_certificate, settings.tls_key)
    return [Path(".env"), secrets_directory(), *(file for file in named if file is not None)]


def marks(files: Iterable[Path]) -> Marks:
    """Tell files apart from what they were: by what they are, their size and their time; what is missing has no mark.

    Links are followed, as Kubernetes replaces mounted files by changing a link to their directory.
    """
    found: list[tuple[str, tuple[int, ...]]] = []
    for file in files:
        with contextlib.suppress(OSError):
            inside = sorted(file.iterdir()) if file.is_dir() else [file]
            for each in inside:
                with contextlib.suppress(OSError):
                    about = each.stat()
                    found.append((str(each), (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)))
    return tuple(found)


def _changed(before: Settings, after: Settings) -> list[str]:
    return [name for name in type(before).model_fields if getattr(before, name) != getattr(after, name)]
