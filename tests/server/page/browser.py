"""A headless Chromium, driven by its DevTools protocol: it clicks and types like a person."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import subprocess
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import aiohttp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PROGRAM = "chromium"
"""Installed by ``make system``."""


class Tab:
    """A tab that logs in wherever it is asked to.

    Attributes:
        trouble: what the browser complained of: exceptions, what a policy forbade, what could not be loaded.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, password: str) -> None:
        self.trouble: list[str] = []
        self._socket = socket
        self._password = password
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._number = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    async def listen(self) -> None:
        """Take in what the browser says until it ends."""
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" in said:
                answer = self._answers.pop(said["id"], None)
                if answer is not None and not answer.done():
                    answer.set_result(said)
            else:
                self._hear(said["method"], said.get("params", {}))

    def _hear(self, event: str, about: dict[str, Any]) -> None:
        if event == "Fetch.requestPaused":
            self._later("Fetch.continueRequest", requestId=about["requestId"])
        elif event == "Fetch.authRequired":
            login = {"response": "ProvideCredentials", "username": "anyone", "password": self._password}
            self._later("Fetch.continueWithAuth", requestId=about["requestId"], authChallengeResponse=login)
        elif event == "Runtime.exceptionThrown":
            self.trouble.append(json.dumps(about["exceptionDetails"]))
        elif event == "Log.entryAdded":
            self.trouble.append(json.dumps(about["entry"]))

    def _later(self, method: str, **parameters: Any) -> None:
        task = asyncio.create_task(self.call(method, **parameters))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(30):
            answer = await self._answers[number]
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    async def value(self, expression: str) -> Any:
        """What a JavaScript expression is in the page."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, expression: str, timeout: float = 30) -> Any:
        """Wait until an expression is true, over any change of page; return what it is."""
        async with asyncio.timeout(timeout):
            while True:
                with contextlib.suppress(AssertionError):  # the page is just being changed
                    if found := await self.value(expression):
                        return found
                await asyncio.sleep(0.05)

    async def go(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.until(f"document.readyState === 'complete' && location.href.startsWith({json.dumps(url)})")

    async def click(self, selector: str) -> None:
        """Click in the middle of the first thing that fits, as soon as there is one, with the mouse."""
        found = json.dumps(selector)
        # The page replaces parts of itself.
        await self.until(f"document.querySelector({found}) !== null")
        place = await self.value(
            f"(() => {{ const e = document.querySelector({found}); e.scrollIntoView({{block: 'center'}});"
            " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    async def write(self, text: str) -> None:
        """Type into what has the focus."""
        await self.call("Input.insertText", text=text)

    async def press(self, key: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    async def look(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Be a screen of a size, and of a person who likes it dark or light."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def picture(self, file: Path) -> None:
        """Draw what the screen shows into a PNG file."""
        answer = await self.call("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(answer["data"]))


class Browser:
    """A running browser; each test has a tab of its own."""

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [
                PROGRAM,
                "--headless=new",
                "--no-sandbox",  # as root it has none; it loads nothing but our page
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--no-first-run",
                "--remote-debugging-port=0",
                f"--user-data-dir={self._directory.name}",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._port = _port(Path(self._directory.name) / "DevToolsActivePort")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._directory.cleanup()

    @asynccontextmanager
    async def tab(self, password: str, *, scripts: bool = True) -> AsyncIterator[Tab]:
        """Open a tab of its own.

        Args:
            password: what the tab logs in with.
            scripts: whether pages may run JavaScript of their own.
        """
        base = f"http://127.0.0.1:{self._port}/json"
        async with aiohttp.ClientSession() as session:
            async with session.put(f"{base}/new?about:blank") as answer:
                opened = await answer.json(content_type=None)
            async with session.ws_connect(opened["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                tab = Tab(socket, password)
                listening = asyncio.create_task(tab.listen())
                for domain in ("Page", "Runtime", "Log"):
                    await tab.call(f"{domain}.enable")
                await tab.call("Fetch.enable", handleAuthRequests=True)
                await tab.call("Emulation.setScriptExecutionDisabled", value=not scripts)
                yield tab
                await socket.close()
                await asyncio.wait({listening})
            async with session.get(f"{base}/close/{opened['id']}"):
                pass


def _port(file: Path) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError, IndexError, ValueError):
            return int(file.read_text().splitlines()[0])
        time.sleep(0.05)
    raise TimeoutError("the browser did not start")
