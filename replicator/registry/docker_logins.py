"""Docker's logins: its ``config.json``, and the credential helpers that it names.

A helper is a program that is asked for a login. The protocol is that of docker-credential-helpers:
``docker-credential-NAME get``, the server on stdin, and JSON with ``Username`` and ``Secret`` on stdout. Helpers are
programs of the machine's owner and run with this process's environment. Their stderr, and their output when they fail,
is never shown: it can hold anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from replicator.errors import ConfigError, Problem
from replicator.registry.credentials import Access, Login
from replicator.registry.docker_config import DockerConfig, HelperLogin, StoredLogin, login_problem, parse_config
from replicator.registry.errors import LoginMissing, LoginUnavailable, request_context

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["OFF", "DockerLogins", "config_file", "docker_logins"]

PROGRAM = "docker-credential-"
"""Prefix of every helper's program."""
SECONDS = 20.0
"""How long a helper may take."""
_MAX_OUTPUT = 64 * 1024
_NOT_FOUND = b"credentials not found in native keychain"
"""Output of a helper for a server that it does not know."""


@dataclass(frozen=True, slots=True)
class Helper:
    """A credential helper for one registry; a `replicator.registry.credentials.Logins`.

    Attributes:
        registry: the host the rules name; in every error.
        name: of the program, without its prefix.
        server: the helper's name for the registry.
        seconds: how long it may take.
    """

    registry: str
    name: str
    server: str
    seconds: float = SECONDS

    async def login(self, service: str | None) -> Login:
        """Run the helper and return its login.

        Args:
            service: makes no difference to it.

        Raises:
            LoginMissing: it does not have the login, does not exist, or its answer is invalid.
            LoginUnavailable: it failed or took too long, and may work the next time.
        """
        del service
        command = f"{PROGRAM}{self.name} get"
        with request_context(self.registry, command):
            by_hand = f"try it by hand: echo {self.server} | {command}"
            try:
                async with asyncio.timeout(self.seconds):
                    output = await self._run(by_hand)
            except TimeoutError:
                raise LoginUnavailable(f"it has not answered in {self.seconds:g} s", by_hand) from None
            if len(output) > _MAX_OUTPUT:
                raise LoginMissing(f"its answer is larger than {_MAX_OUTPUT // 1024} KiB")
            try:
                answer = json.loads(output)
                username, password = answer["Username"], answer["Secret"]
            except (ValueError, KeyError, TypeError, RecursionError):
                username = password = None
            if not isinstance(username, str) or not isinstance(password, str):
                raise LoginMissing("its answer is not JSON with Username and Secret", by_hand)
            problem = login_problem(username, password)
            if problem is not None:
                raise LoginMissing(f"its answer {problem}")
            return Login(username, password)

    async def _run(self, by_hand: str) -> bytes:
        """Return the helper's output, slightly more than the limit if it is too long."""
        program = shutil.which(f"{PROGRAM}{self.name}")
        if program is None:
            raise LoginMissing("there is no such program on PATH")
        try:
            output, code = await _output_of(program, self.server)
        except OSError as error:
            raise LoginMissing(f"it can't be run: {error.strerror or 'not a program'}") from None
        if code == 0:
            return output
        if _NOT_FOUND in output:
            raise LoginMissing(f"it has no login for {self.server}", "docker login stores one")
        raise LoginUnavailable(f"it failed with exit code {code}", by_hand)

    def refused(self, login: Login) -> bool:
        """Return False: a helper caches nothing here, so the next login may be the same."""
        del login
        return False


async def _output_of(program: str, text: str) -> tuple[bytes, int]:
    """Run ``program get`` with ``text`` on stdin and return its output and its exit code.

    The output is read up to slightly more than the limit. A program that does not end by itself is killed, together
    with its children.
    """
    process = await asyncio.create_subprocess_exec(
        program,
        "get",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        # A process group of its own: helpers are often shell scripts, whose children must end with them.
        start_new_session=True,
    )
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    assert process.stdout is not None  # noqa: S101 - the same
    ended = False
    try:
        # A helper may answer without reading; uvloop then reports the closed pipe as a RuntimeError.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, RuntimeError):
            process.stdin.write(text.encode())
            await process.stdin.drain()
        process.stdin.close()
        output = bytearray()
        while len(output) <= _MAX_OUTPUT and (chunk := await process.stdout.read(_MAX_OUTPUT)):
            output += chunk
        if len(output) > _MAX_OUTPUT:
            return bytes(output), 0
        code = await process.wait()
        ended = True
        return bytes(output), code
    finally:
        if not ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


OFF = "off"
"""Value of the setting that disables Docker's logins."""
_MAX_BYTES = 1024 * 1024


class DockerLogins:
    """The logins of one file; an invalid file is an error only once a login is looked up.

    Args:
        file: the file; None for no logins at all.
        required: whether a missing file is a mistake.

    Attributes:
        problem: the mistake in the file as a whole, if there is one.
    """

    def __init__(self, file: Path | None, *, required: bool) -> None:
        self._file = file
        self._config = DockerConfig({})
        self._found: dict[tuple[str, str], tuple[Access, str]] = {}
        self.problem: Problem | None = None
        if file is None:
            return
        try:
            text = _read(file)
            self._config = parse_config(text)
        except FileNotFoundError:
            if required:
                self.problem = Problem(str(file), "there is no such file; see REPLICATOR_DOCKER_CONFIG")
        except OSError as error:
            self.problem = Problem(str(file), f"it can't be read: {error.strerror or 'not a file'}")
        except UnicodeDecodeError:
            self.problem = Problem(str(file), "it is not UTF-8 text")
        except ValueError as error:
            self.problem = Problem(str(file), str(error))

    def find(self, path: str) -> tuple[Access, str] | None:
        """Return the login for a registry or a part of it, and its origin in words; None if there is none.

        Args:
            path: ``host``, ``host/project`` or ``host/repository``, the host in lower case.

        Raises:
            ConfigError: the file, or this login in it, is invalid.
        """
        if self.problem is not None:
            raise ConfigError(self.problem.path, [Problem("", self.problem.message)])
        found = self._config.find(path)
        if found is None:
            return None
        key, login = found
        registry = path.partition("/")[0]
        if (registry, key) not in self._found:
            self._found[registry, key] = self._open(registry, key, login)
        return self._found[registry, key]

    def _open(self, registry: str, key: str, login: StoredLogin | HelperLogin | Problem) -> tuple[Access, str]:
        if isinstance(login, Problem):
            raise ConfigError(str(self._file), [login])
        if not isinstance(login, HelperLogin):
            return Access(login.username, login.password), str(self._file)
        program = f"{PROGRAM}{login.helper}"
        if shutil.which(program) is None:
            message = f"its helper {program} is not on PATH"
            raise ConfigError(str(self._file), [Problem(key, message)])
        return Access(logins=Helper(registry, login.helper, login.server)), f"{program} ({self._file})"


def docker_logins(setting: str | None, environ: Mapping[str, str] = os.environ) -> DockerLogins:
    """Open the file that the setting names, or else Docker's default file.

    Args:
        setting: a path; `OFF` for no logins; None for ``config.json`` in ``$DOCKER_CONFIG``, else in ``~/.docker``.
        environ: the environment.
    """
    file = config_file(setting, environ)
    return DockerLogins(file, required=setting not in (None, OFF))


def config_file(setting: str | None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the file that the setting names, or else Docker's default file, existing or not; None for no logins.

    Args:
        setting: as for `docker_logins`.
        environ: the environment.
    """
    if setting == OFF:
        return None
    if setting is not None:
        return Path(setting)
    directory = environ.get("DOCKER_CONFIG")
    try:
        home = Path(directory) if directory else Path.home() / ".docker"
    except RuntimeError:
        # Containers often run under a user ID that has no entry in /etc/passwd, and so no home directory.
        return None
    return home / "config.json"


def _read(file: Path) -> str:
    with file.open("rb") as opened:
        data = opened.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"it is larger than {_MAX_BYTES // 1024} KiB")
    return data.decode("utf-8-sig")
