"""Credential helpers, run as real programs."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from replicator.registry.credentials import IDENTITY_TOKEN
from replicator.registry.docker_logins import Helper
from replicator.registry.errors import LoginMissing, LoginUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Make = Callable[[str, str], Path]

HOST = "h.example.com"
ANSWER = 'print(\'{"ServerURL": "h.example.com", "Username": "alice", "Secret": "s3cret"}\')'


async def ask(name: str = "test", seconds: float = 30.0) -> tuple[str, str]:
    login = await Helper(HOST, name, HOST, seconds).login(None)
    return login.username, login.password


async def test_a_helper_is_asked_as_docker_does(helper: Make, tmp_path: Path) -> None:
    note = tmp_path / "note"
    code = f"import sys, json\njson.dump([sys.argv[1:], sys.stdin.read()], open({str(note)!r}, 'w'))\n{ANSWER}"
    helper("test", code)
    assert await ask() == ("alice", "s3cret")
    assert note.read_text() == '[["get"], "h.example.com"]'


async def test_a_helper_may_answer_without_having_read(helper: Make) -> None:
    helper("test", f"import os\nos.close(0)\n{ANSWER}")
    assert await ask() == ("alice", "s3cret")


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_helper_may_have_ended_before_it_is_told_what_to_look_for(
    helper: Make, monkeypatch: pytest.MonkeyPatch, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    helper("test", ANSWER)
    create = asyncio.create_subprocess_exec

    async def slowly(*arguments: Any, **options: Any) -> asyncio.subprocess.Process:
        process = await create(*arguments, **options)
        async with asyncio.timeout(30):
            while process.returncode is None:
                await asyncio.sleep(0.01)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", slowly)
    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(ask()) == ("alice", "s3cret")


async def test_a_helper_may_give_an_identity_token(helper: Make) -> None:
    helper("test", 'print(\'{"Username": "<token>", "Secret": "refresh"}\')')
    assert await ask() == (IDENTITY_TOKEN, "refresh")


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (
            "print('credentials not found in native keychain'); raise SystemExit(1)",
            LoginMissing,
            "it has no login for h.example.com",
        ),
        (
            "print('s3cret'); raise SystemExit(3)",
            LoginUnavailable,
            "it failed with exit code 3; try it by hand: echo h.example.com",
        ),
        ("import sys; sys.stderr.write('s3cret'); raise SystemExit(1)", LoginUnavailable, "exit code 1"),
        ("import os; os.kill(os.getpid(), 9)", LoginUnavailable, "exit code -9"),
        ("print('s3cret')", LoginMissing, "not JSON"),
        ("", LoginMissing, "not JSON"),
        ("print('[' * 60000)", LoginMissing, "not JSON"),
        ("print('[]')", LoginMissing, "not JSON"),
        ("""print('{"Username": "alice"}')""", LoginMissing, "not JSON with Username and Secret"),
        ("""print('{"Username": 7, "Secret": "s3cret"}')""", LoginMissing, "not JSON with Username and Secret"),
        ("""print('{"Username": "", "Secret": "s3cret"}')""", LoginMissing, "no username"),
        ("""print('{"Username": "a:b", "Secret": "s3cret"}')""", LoginMissing, "a colon"),
        ("""print('{"Username": "a", "Secret": "s3cret\\\\n"}')""", LoginMissing, "control character"),
        ("import sys; sys.stdout.buffer.write(b'\\xff\\xfe')", LoginMissing, "not JSON"),
        ("while True: print('s3cret' * 1000)", LoginMissing, "larger than 64 KiB"),
    ],
)
async def test_what_a_helper_does_wrong_is_told_without_what_it_said(
    helper: Make, code: str, kind: type[LoginUnavailable], words: str
) -> None:
    helper("test", code)
    with pytest.raises(LoginUnavailable, match="docker-credential-test get") as caught:
        await ask()
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_a_helper_that_hangs_is_ended_with_all_that_it_started(helper: Make, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # The helper and its child hold the pipe open until both have ended.
    code = f"import os, time\nos.open({str(pipe)!r}, os.O_WRONLY)\nos.fork()\ntime.sleep(600)"
    helper("test", code)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(LoginUnavailable, match="it has not answered in 1 s"):
            await ask(seconds=1)
        os.set_blocking(reader, True)
        assert await asyncio.to_thread(os.read, reader, 1) == b""
    finally:
        os.close(reader)


async def test_a_helper_ends_when_its_caller_is_cancelled(helper: Make, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    helper("test", f"import os, time\nos.write(os.open({str(pipe)!r}, os.O_WRONLY), b'x')\ntime.sleep(600)")
    task = asyncio.create_task(ask())
    reader = await asyncio.to_thread(os.open, pipe, os.O_RDONLY)
    try:
        assert await asyncio.to_thread(os.read, reader, 1) == b"x"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(os.read, reader, 1) == b""
    finally:
        os.close(reader)


async def test_a_helper_that_is_not_there_is_said_to_be_missing(helper: Make) -> None:
    with pytest.raises(LoginMissing, match="no such program on PATH"):
        await ask("nowhere")
    program = helper("test", "")
    program.write_text("#!/nonexistent\n")
    with pytest.raises(LoginMissing, match="it can't be run"):
        await ask()
