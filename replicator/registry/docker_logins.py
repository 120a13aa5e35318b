"""Docker's logins as a source of credentials for registries that have none elsewhere.

Docker's credential helpers: programs that are asked for a login.

The protocol is that of docker-credential-helpers: ``docker-credential-NAME get``, the server on stdin, and JSON with
``Username`` and ``Secret`` on stdout. Helpers are programs of the machine's owner and run with this process's
environment; what they write on stderr, and what they write when they fail, is not shown, as it can hold anything.

Docker's own logins: its ``config.json``, and the credential helpers that it names.
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
from replicator.registry.errors import LoginMissing, LoginUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["OFF", "DockerLogins", "config_file", "docker_logins"]

PROGRAM = "docker-credential-"
"""What the name of every helper's program begins with."""
SECONDS = 20.0
"""How long a helper may take."""
_MAX_OUTPUT = 64 * 1024
_NOT_FOUND = b"credentials not found in native keychain"
"""What a helper says of a server that it does not know."""


@dataclass(frozen=True, slots=True)
class Helper:
    """A helper, asked for one registry; a `replicator.registry.credentials.Logins`.

    Attributes:
        registry: whom the login is for; in every error.
        name: the program's, behind ``docker-credential-``.
        server: what it is asked for.
        seconds: how long it may take.
    """

    registry: str
    name: str
    server: str
    seconds: float = SECONDS

    async def login(self, service: str | None) -> Login:
        """Run the helper and return what it says.

        Args:
            service: makes no difference to it.

        Raises:
            LoginMissing: it does not have the login, is not there, or makes no sense.
            LoginUnavailable: it failed, or took too long; it may work the next time.
        """
        del service
        request = f"{PROGRAM}{self.name} get"
        program = shutil.which(f"{PROGRAM}{self.name}")
        if program is None:
            raise LoginMissing(self.registry, request, "there is no such program on PATH")
        by_hand = f"try it by hand: echo {self.server} | {request}"
        try:
            async with asyncio.timeout(self.seconds):
                output, code = await _output_of(program, self.server)
        except TimeoutError:
            detail = f"it has not answered in {self.seconds:g} s; {by_hand}"
            raise LoginUnavailable(self.registry, request, detail) from None
        except OSError as error:
            detail = f"it can't be run: {error.strerror or 'not a program'}"
            raise LoginMissing(self.registry, request, detail) from None
        if code != 0:
            if _NOT_FOUND in output:
                raise LoginMissing(
                    self.registry, request, f"it has no login for {self.server}: docker login leaves one"
                )
            raise LoginUnavailable(self.registry, request, f"it failed with exit code {code}; {by_hand}")
        if len(output) > _MAX_OUTPUT:
            raise LoginMissing(self.registry, request, f"it said more than {_MAX_OUTPUT // 1024} KiB")
        try:
            answer = json.loads(output)
            username, password = answer["Username"], answer["Secret"]
        except (ValueError, KeyError, TypeError, RecursionError):
            username = password = None
        if not isinstance(username, str) or not isinstance(password, str):
            raise LoginMissing(self.registry, request, f"its answer is not JSON with Username and Secret; {by_hand}")
        problem = login_problem(username, password)
        if problem is not None:
            raise LoginMissing(self.registry, request, f"its answer {problem}")
        return Login(username, password)

    def refused(self, login: Login) -> bool:
        """Tell that a helper keeps no login here, so that nothing is known of the next."""
        del login
        return False


async def _output_of(program: str, text: str) -> tuple[bytes, int]:
    """Run ``program get`` and return what it says, little more than the most that is allowed, and its exit code.

    One that does not end by itself is killed, with all that it has started.
    """
    process = await asyncio.create_subprocess_exec(
        program,
        "get",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    assert process.stdout is not None  # noqa: S101 - the same
    ended = False
    try:
        # A helper may answer without having read; uvloop then says that its pipe is closed as a RuntimeError.
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
"""What stands in a file's place where Docker's logins are not wanted."""
_MAX_BYTES = 1024 * 1024


class DockerLogins:
    """The logins of one file. A file that can't be used is an error only for who needs it.

    Args:
        file: the file; None for no logins at all.
        required: whether it is a mistake that the file is missing.

    Attributes:
        problem: what is wrong with the file as a whole.
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
        """Return the login for a registry or a part of it, and where it is from, in words; None if there is none.

        Args:
            path: ``host``, ``host/project`` or ``host/repository``, the host in lower case.

        Raises:
            ConfigError: the file, or what it says of this login, can't be used.
        """
        if self.problem is not None:
            raise ConfigError(self.problem.path, [Problem("", self.problem.message)])
        found = self._config.find(path)
        if found is None:
            return None
        key, login = found
        registry = path.partition("/")[0]
        if (registry, key) not in self._found:
            self._found[registry, key] = self._opened(registry, key, login)
        return self._found[registry, key]

    def _opened(self, registry: str, key: str, login: StoredLogin | HelperLogin | Problem) -> tuple[Access, str]:
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
    """Open the file that the setting names, else Docker's usual one.

    Args:
        setting: a path; `OFF` for no logins; None for ``config.json`` in ``$DOCKER_CONFIG``, else in ``~/.docker``.
        environ: the environment.
    """
    file = config_file(setting, environ)
    return DockerLogins(file, required=setting not in (None, OFF))


def config_file(setting: str | None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the file that the setting names, else Docker's usual one, whether it exists or not; None for no logins.

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
        # A user the machine has no name for, as containers have them.
        return None
    return home / "config.json"


def _read(file: Path) -> str:
    with file.open("rb") as opened:
        data = opened.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"it is larger than {_MAX_BYTES // 1024} KiB")
    return data.decode("utf-8-sig")
