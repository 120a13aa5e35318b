"""Docker's credential helpers: programs that are asked for a login.

The protocol is that of docker-credential-helpers: ``docker-credential-NAME get``, the server on stdin, and JSON with
``Username`` and ``Secret`` on stdout. Helpers are programs of the machine's owner and run with this process's
environment; what they write on stderr, and what they write when they fail, is not shown, as it can hold anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
from dataclasses import dataclass

from replicator.docker.config import login_problem
from replicator.registry.access import Login
from replicator.registry.errors import LoginMissing, LoginUnavailable

PROGRAM = "docker-credential-"
"""What the name of every helper's program begins with."""
SECONDS = 20.0
"""How long a helper may take."""
_MAX_OUTPUT = 64 * 1024
_NOT_FOUND = b"credentials not found in native keychain"
"""What a helper says of a server that it does not know."""


@dataclass(frozen=True, slots=True)
class Helper:
    """A helper, asked for one registry; a `replicator.registry.access.Logins`.

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
