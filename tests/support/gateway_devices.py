"""Devices that are connected to the example of a gateway, and what they show."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import aiohttp

from readstates.ops.proof.oracle import Oracle

CONNECTING_MAX = 100  # devices that connect at the same time
AGAIN_S = 0.2  # after a device was disconnected
Key = tuple[int, int]
Shown = tuple[int, int, int]  # last_message_id, mention_count, last_mention_id


class Device:
    """A device of a user, which connects again whenever it is disconnected."""

    def __init__(self, user: int) -> None:
        self.user = user
        self.shown: dict[Key, Shown] = {}
        self.mentions = self.messages = self.connections = 0
        self.is_current = False  # it has had a message since it connected
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    async def run(self, http: aiohttp.ClientSession, url: str, may: asyncio.Semaphore) -> None:
        address = f"{url}/devices?user={self.user}"
        while True:
            async with may:
                self._socket = await http.ws_connect(address)
            self.connections += 1
            version = 0
            async for message in self._socket:
                said = message.json()
                assert int(said["version"]) >= version, "an old value after a newer one"
                assert said.get("all", False) == (version == 0)
                version = int(said["version"])
                self._take(said)
            self.is_current = False
            await asyncio.sleep(AGAIN_S)

    def _take(self, said: dict[str, Any]) -> None:
        if said.get("all"):
            self.shown.clear()
        for name in said["gone"]:
            self.shown.pop((name["read_state_type"], int(name["channel_id"])), None)
        for state in said["read_states"]:
            key = state["read_state_type"], int(state["channel_id"])
            last, mention = int(state["last_message_id"]), int(state["last_mention_id"])
            self.shown[key] = last, state["mention_count"], mention
        self.mentions = said["mentions"]
        self.messages += 1
        self.is_current = True

    async def ack(self, channel: int, message: int) -> None:
        assert self._socket is not None
        said = {"type": "ack", "channel_id": str(channel), "message_id": str(message)}
        with contextlib.suppress(ConnectionError):  # it is connecting again
            await self._socket.send_str(json.dumps(said))

    async def disconnect(self) -> None:
        assert self._socket is not None
        self.is_current = False
        await self._socket.close()

    def is_right(self, oracle: Oracle) -> bool:
        """True if it shows what the fold of the log says."""
        rows = oracle.seen(self.user)
        should = {row[:2]: (row[2], row[4], row[3]) for row in rows}
        mentions = sum(row[4] for row in rows)
        return self.is_current and (self.shown, self.mentions) == (should, mentions)


class Devices:
    """`async with Devices(url, users) as devices`: a device of each; a user may come twice."""

    def __init__(self, url: str, users: Sequence[int]) -> None:
        self._url = url
        self.all = [Device(user) for user in users]

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        may = asyncio.Semaphore(CONNECTING_MAX)
        self._running = [
            asyncio.create_task(device.run(self._http, self._url, may)) for device in self.all
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        for task in self._running:
            task.cancel()
        ended = await asyncio.gather(*self._running, return_exceptions=True)
        await self._http.close()
        failed = [one for one in ended if not isinstance(one, asyncio.CancelledError)]
        assert not failed, failed[:3]

    @property
    def messages(self) -> int:
        return sum(device.messages for device in self.all)
