"""Real registries that are reused from test to test: starting one costs more than most tests."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from replicator.queue import pdeathsig
from tests.standins.distribution import PROGRAM, _configuration, _listening_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_MEMORY = Path("/dev/shm")


class _Kept:
    """A docker-registry process, with all its state in one directory."""

    def __init__(self, *, images_only: bool) -> None:
        in_memory = _MEMORY if os.access(_MEMORY, os.W_OK) else None
        self._directory = Path(tempfile.mkdtemp(prefix="distribution-", dir=in_memory))
        self._storage = self._directory / "storage"
        configuration = self._directory / "config.json"
        configuration.write_text(json.dumps(_configuration(self._storage, images_only=images_only)))
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", pdeathsig.__file__, str(os.getpid()), PROGRAM, "serve", str(configuration)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"OTEL_TRACES_EXPORTER": "none"},
        )
        self.host = ""
        atexit.register(self._end)

    async def empty(self) -> None:
        """Delete its content."""
        shutil.rmtree(self._storage, ignore_errors=True)
        if not self.host:
            self.host = f"127.0.0.1:{await _listening_port(self.process)}"

    def _end(self) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)


_idle: dict[bool, list[_Kept]] = {False: [], True: []}


@asynccontextmanager
async def an_empty_distribution(*, images_only: bool = False) -> AsyncIterator[str]:
    """Provide an empty registry for exclusive use.

    Args:
        images_only: it refuses manifests whose config is no image's, as ACR does.

    Yields:
        ``127.0.0.1:PORT``, over plain HTTP.
    """
    idle = _idle[images_only]
    kept = idle.pop() if idle else _Kept(images_only=images_only)
    try:
        await kept.empty()
        yield kept.host
    finally:
        if kept.process.poll() is None:
            # First in, first out: by its next use nothing of its last test is still in progress.
            idle.insert(0, kept)
