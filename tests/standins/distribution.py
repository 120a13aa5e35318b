"""Debian's docker-registry as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replicator.queue import pdeathsig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PROGRAM = "/usr/bin/docker-registry"
_START_SECONDS = 30.0


@asynccontextmanager
async def distribution(directory: Path | None = None, *, images_only: bool = False) -> AsyncIterator[str]:
    """Have a real registry run for as long as the context lasts; it dies with this process too.

    Args:
        directory: where it keeps what it is sent; None keeps it in memory.
        images_only: it refuses manifests whose config is no image's ("unknown manifest class"), as ACR does.

    Yields:
        ``127.0.0.1:PORT``, over plain HTTP.
    """
    with tempfile.TemporaryDirectory(prefix="distribution-") as scratch:
        configuration = Path(scratch) / "config.json"
        # JSON is YAML.
        configuration.write_text(json.dumps(_configuration(directory, images_only=images_only)))
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", pdeathsig.__file__, str(os.getpid()), PROGRAM, "serve", str(configuration)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"OTEL_TRACES_EXPORTER": "none"},
        )
        try:
            yield f"127.0.0.1:{await _listening_port(process)}"
        finally:
            process.kill()
            process.wait()


def _configuration(directory: Path | None, *, images_only: bool) -> dict[str, Any]:
    storage = {"filesystem": {"rootdirectory": str(directory)}} if directory is not None else {"inmemory": {}}
    configuration: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {**storage, "delete": {"enabled": True}, "maintenance": {"uploadpurging": {"enabled": False}}},
        # Port 0: no two registries can ever want the same one.
        "http": {"addr": "127.0.0.1:0", "secret": "stand-in"},
        # Without it, foreign layers are refused.
        "validation": {"manifests": {"urls": {"allow": ["^https?://"]}}},
    }
    if images_only:
        configuration["policy"] = {"repository": {"classes": ["image"]}}
    return configuration


async def _listening_port(process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"{PROGRAM} ended with {process.returncode}: is Debian's docker-registry installed?")
        if port := _port(process.pid):
            return port
        if time.monotonic() > deadline:
            raise TimeoutError(f"{PROGRAM} did not begin to listen")
        await asyncio.sleep(0.01)


def _port(pid: int) -> int | None:
    """Find the port a process listens on: its sockets' inodes among those in LISTEN (state 0A) of proc(5)."""
    inodes = set()
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if match := re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink())):
                    inodes.add(match[1])
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and fields[9] in inodes:
            return int(fields[1].rpartition(":")[2], 16)
    return None
