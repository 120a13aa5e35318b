"""Debian's docker-registry, run as a process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from replicator.queue import pdeathsig
from tests.standins.storage import Storage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

PROGRAM = "/usr/bin/docker-registry"
_START_SECONDS = 60.0
_MEMORY = Path("/dev/shm")
_ROOM = 1 << 30
"""Bytes that have to be free there, for a registry to keep its content in a directory that can be emptied."""


_FRUGAL = MappingProxyType({"GOGC": "400", "GOMAXPROCS": "1"})
"""For Go's runtime: it collects garbage when 40 MiB more are used, not 10, and no second thread looks for work. That
takes two fifths off the CPU time of a registry that gets small images."""


@dataclass(frozen=True)
class _Registry:
    """One that runs.

    Attributes:
        process: its process.
        scratch: a directory that is removed with it.
        host: where it listens.
    """

    process: subprocess.Popen[bytes]
    scratch: Path
    host: str

    @property
    def content(self) -> Path:
        """Where it keeps what it is sent, if that is to be emptied."""
        return self.scratch / "content"

    def empty(self) -> bool:
        """Remove what it holds; tell whether that is all that will ever come of its former users."""
        if self.process.poll() is not None or self._is_connected():
            return False
        # A new directory at once, whatever is still in the old one.
        former = self.scratch / "former"
        self.content.rename(former)
        self.content.mkdir()
        shutil.rmtree(former)
        return True

    def _is_connected(self) -> bool:
        """Tell whether anyone has a connection to it."""
        # Its own descriptors are read in no time, the kernel's table of all sockets in five milliseconds; but a socket
        # that a client has closed is among the former for a moment more.
        return len(_inodes(self.process.pid)) > 1 and _has_established(int(self.host.rpartition(":")[2]))

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.scratch)


_SOCKETS = Path("/proc/net/tcp")

_idle: dict[bool, list[_Registry]] = {True: [], False: []}
"""Registries that nobody uses now, by whether they take images alone."""

_storages: dict[tuple[str, bool], Storage] = {}
"""The storage of each running registry, by host and whether it takes images alone."""


behind: dict[str, str] = {}
"""The hosts of registries by those of the stand-ins before them, where a blob may be put past the stand-in."""


def storage_of(host: str, *, to_write: bool = False) -> Storage | None:
    """Return what a registry of `reused_distribution` holds; ``to_write`` not that of one which refuses some images."""
    return _storages.get((host, False)) or (None if to_write else _storages.get((host, True)))


@asynccontextmanager
async def distribution(
    directory: Path | None = None,
    *,
    images_only: bool = False,
    foreign_layers: bool = True,
    certificate: Path | None = None,
) -> AsyncIterator[str]:
    """Have a real registry run for as long as the context lasts; it dies with this process too.

    Args:
        directory: where it keeps what it is sent; None keeps it in memory.
        images_only: it refuses manifests whose config is no image's ("unknown manifest class"), as ACR does.
        foreign_layers: it takes manifests with foreign layers, which it does not do by default.
        certificate: a PEM file with the key and the certificate to speak HTTPS with; None for plain HTTP.

    Yields:
        ``127.0.0.1:PORT``.
    """
    registry = await _start(
        lambda _: directory, images_only=images_only, foreign_layers=foreign_layers, certificate=certificate
    )
    try:
        yield registry.host
    finally:
        registry.end()


@asynccontextmanager
async def reused_distribution(*, images_only: bool = False) -> AsyncIterator[str]:
    """Have an empty registry: one that an earlier user left, or else a new one. `end_idle` ends what is left over.

    It keeps its content in memory, as files: so it can be emptied, and read and written without a request, see
    `storage_of`. Where memory has no room for files they are on a disk, and it is not used again: to empty a directory
    there costs more than a new registry.

    Args:
        images_only: as for `distribution`.

    Yields:
        ``127.0.0.1:PORT``, over plain HTTP.
    """
    inside = _MEMORY if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ROOM else None
    idle = _idle[images_only]
    registry = idle.pop() if idle else await _start(_content, images_only=images_only, inside=inside, runtime=_FRUGAL)
    _storages[registry.host, images_only] = Storage(registry.content)
    try:
        yield registry.host
    finally:
        del _storages[registry.host, images_only]
        if registry.scratch.is_relative_to(_MEMORY) and registry.empty():
            idle.append(registry)
        else:
            registry.end()


def end_idle() -> None:
    """End the registries that wait for another user."""
    for idle in _idle.values():
        while idle:
            idle.pop().end()


def _content(scratch: Path) -> Path:
    content = scratch / "content"
    content.mkdir()
    return content


async def _start(
    directory: Callable[[Path], Path | None],
    *,
    images_only: bool,
    foreign_layers: bool = True,
    certificate: Path | None = None,
    inside: Path | None = None,
    runtime: Mapping[str, str] = MappingProxyType({}),
) -> _Registry:
    scratch = Path(tempfile.mkdtemp(prefix="distribution-", dir=inside))
    configuration = scratch / "config.json"
    # JSON is YAML.
    settings = _configuration(directory(scratch), images_only=images_only, foreign_layers=foreign_layers)
    if certificate is not None:
        settings["http"]["tls"] = {"certificate": str(certificate), "key": str(certificate)}
    configuration.write_text(json.dumps(settings))
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", pdeathsig.__file__, str(os.getpid()), PROGRAM, "serve", str(configuration)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"OTEL_TRACES_EXPORTER": "none", **runtime},
    )
    try:
        return _Registry(process, scratch, f"127.0.0.1:{await _listening_port(process)}")
    except BaseException:
        _Registry(process, scratch, "").end()
        raise


def _configuration(directory: Path | None, *, images_only: bool, foreign_layers: bool) -> dict[str, Any]:
    storage = {"filesystem": {"rootdirectory": str(directory)}} if directory is not None else {"inmemory": {}}
    configuration: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {**storage, "delete": {"enabled": True}, "maintenance": {"uploadpurging": {"enabled": False}}},
        # Port 0: no two registries can ever want the same one.
        "http": {"addr": "127.0.0.1:0", "secret": "stand-in"},
    }
    if foreign_layers:
        configuration["validation"] = {"manifests": {"urls": {"allow": ["^https?://"]}}}
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
    if not (inodes := _inodes(pid)):
        return None
    return next((port for port, state, inode in _sockets() if state == "0A" and inode in inodes), None)


def _inodes(pid: int) -> set[str]:
    """Return the inodes of a process's sockets: at the least the one that it listens on, once it does."""
    inodes = set()
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if match := re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink())):
                    inodes.add(match[1])
    return inodes


def _has_established(port: int) -> bool:
    """Tell whether anyone has a connection to a port (ESTABLISHED, state 01)."""
    # One search of the whole text: a machine on which tests run has thousands of sockets in TIME_WAIT.
    return re.search(rf":{port:04X} [0-9A-F]+:[0-9A-F]+ 01 ", _SOCKETS.read_text()) is not None


def _sockets() -> Iterator[tuple[int, str, str]]:
    """Read every TCP socket's port, state and inode."""
    for line in _SOCKETS.read_text().splitlines()[1:]:
        fields = line.split()
        yield int(fields[1].rpartition(":")[2], 16), fields[3], fields[9]
