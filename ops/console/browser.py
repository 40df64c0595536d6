"""A headless Chromium, driven by its DevTools protocol: what a person would see of a page.

Everything it starts ends with it; what it keeps is in its folder, and it asks nobody but the page
it is sent to. `requests`, `complaints`: each URL it asked for, each error it logged.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import shutil
import signal
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
START_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 60.0
MESSAGE_MAX_BYTES = 64 * 2**20  # a screenshot comes as one
FLAGS = (
    "--headless",
    "--no-sandbox",  # as root there is none; it visits our own page only
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


class BrowserError(Exception):
    """Chromium is missing, did not start, or refused a command."""


def find() -> str | None:
    """Where Chromium is; None where it is not."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """`async with Browser(folder) as browser: await browser.open(url)`. The folder is its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def __aenter__(self) -> Browser:
        binary = find()
        if binary is None:
            raise BrowserError("no Chromium: apt-get install chromium")
        self._folder.mkdir(mode=0o700)
        self._process = await asyncio.create_subprocess_exec(
            binary,
            *FLAGS,
            f"--user-data-dir={self._folder}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        self._session = aiohttp.ClientSession()
        try:
            await self._connect()
        except BaseException:
            await self._end()
            raise
        return self

    async def _connect(self) -> None:
        port = await self._port()
        async with self._session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            page = next(one for one in await answer.json() if one["type"] == "page")
        self._socket = await self._session.ws_connect(
            page["webSocketDebuggerUrl"], max_msg_size=MESSAGE_MAX_BYTES
        )
        self._reader = asyncio.create_task(self._read())
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.call(f"{domain}.enable")

    async def _port(self) -> int:
        """It writes the port that it took into its folder."""
        said = self._folder / "DevToolsActivePort"
        async with asyncio.timeout(START_TIMEOUT_S):
            while not (said.exists() and said.read_text().strip()):
                if self._process.returncode is not None:
                    raise BrowserError(f"Chromium ended with {self._process.returncode}")
                await asyncio.sleep(0.05)
        return int(said.read_text().split()[0])

    async def _read(self) -> None:
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            else:
                self._note(said["method"], said["params"])

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    async def call(self, method: str, **params: Any) -> Any:
        """One command of the protocol, and its result. Raises BrowserError."""
        number = next(self._numbers)
        answer = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        await self._socket.send_json({"id": number, "method": method, "params": params})
        said = await asyncio.wait_for(answer, ANSWER_TIMEOUT_S)
        if "error" in said:
            raise BrowserError(f"{method}: {said['error']['message']}")
        return said["result"]

    async def look(self, width: int, height: int, *, dark: bool = False, scale: float = 1) -> None:
        """The window's size in CSS pixels, and whether its user likes it dark."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def open(self, url: str) -> None:
        """Goes there; does not wait for what the page does then."""
        await self.call("Page.navigate", url=url)

    async def write(self, text: str) -> None:
        """Shows this HTML in the place of the page that is open."""
        frame = (await self.call("Page.getFrameTree"))["frameTree"]["frame"]
        await self.call("Page.setDocumentContent", frameId=frame["id"], html=text)

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page. Raises BrowserError if it throws."""
        done = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in done:
            raise BrowserError(str(done["exceptionDetails"]))
        return done["result"].get("value")

    async def picture(self) -> bytes:
        """A PNG of the whole page."""
        shot = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        with contextlib.suppress(BrowserError, TimeoutError, ConnectionError):
            await asyncio.wait_for(self.call("Browser.close"), 10)
        await self._end()

    async def _end(self) -> None:
        await self._session.close()
        try:
            await asyncio.wait_for(self._process.wait(), 10)
        except TimeoutError:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
