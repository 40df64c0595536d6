"""The gateway: devices connect by WebSocket, and a mirror says what has changed for their users.

To the device: `{"version", "mentions", "read_states": […], "gone": […], "all"?: true}`. Values are
absolute, and with `all` the device has no read states but these. From the device, either
`{"type": "ack", "channel_id", "message_id"}` or, to try things out, `{"type": "mention",
"channel_id"}`. IDs are decimal strings, because a browser loses integers over 2^53.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from readstates.streams.client import Client, Mirror, QueryError

FOLLOWED_AT_ONCE = 100  # users whose read states are asked for at the same time
RETRY_S = 1.0  # after the service or Kafka did not answer
MESSAGE_BYTES_MAX = 1024  # of what a device sends
SEND_TIMEOUT_S = 30.0  # a device that takes nothing for so long is disconnected
HEARTBEAT_S = 30.0  # a device that is gone without a word is noticed within twice this time
PAGE = Path(__file__).with_name("page.html")
FAILURES = (QueryError, OSError, BufferError)  # what a further attempt may mend

Key = tuple[int, int]  # read_state_type, channel_id


class Session:
    """One device of a user.

    What waits for a slow device is a set of keys; the values are those of the moment when it takes
    them. So a device gets fewer messages if it is slow, but never an old value after a newer one.
    """

    def __init__(self, user_id: int, socket: web.WebSocketResponse) -> None:
        self.user_id, self.socket = user_id, socket
        self._news: set[Key] = set()
        self._is_woken = asyncio.Event()

    def note(self, keys: Iterable[Key]) -> None:
        """These read states have changed, or are gone."""
        self._news.update(keys)
        self._is_woken.set()

    async def tell(self, mirror: Mirror) -> None:
        """Send all read states, and then what changes, until the device is gone."""
        is_first = True
        self.note(mirror.read_states(self.user_id))
        while True:
            await self._is_woken.wait()
            self._is_woken.clear()
            keys, self._news = sorted(self._news), set()
            states = mirror.read_states(self.user_id)
            message = {
                "version": str(mirror.version(self.user_id)),
                "mentions": mirror.totals(self.user_id).mentions,
                "read_states": [_shown(states[key]) for key in keys if key in states],
                "gone": [_name(key) for key in keys if key not in states],
            }
            if is_first:
                message["all"], is_first = True, False
            await asyncio.wait_for(self.socket.send_json(message), SEND_TIMEOUT_S)


class Gateway:
    """See the module. Run `run` beside the web application that has `page` and `connect`.

    `client` and `mirror` must be open: what changes before the mirror reads the feed is not seen.
    """

    def __init__(self, client: Client, mirror: Mirror) -> None:
        self._client, self._mirror = client, mirror
        self._sessions: dict[int, set[Session]] = {}
        self._may_follow = asyncio.Semaphore(FOLLOWED_AT_ONCE)
        self._last_id = 0

    async def run(self) -> None:
        """Tell the devices what changes, until the mirror is closed. Raises what does not mend."""
        while True:
            try:
                async for changed in self._mirror:
                    keys = [(s.read_state_type, s.channel_id) for s in changed.read_states]
                    for session in self._sessions.get(changed.user_id, ()):
                        session.note(keys + changed.deleted)
            except FAILURES as exc:  # the mirror goes on from there
                logging.warning("the mirror waits: %r", exc)
                await asyncio.sleep(RETRY_S)
            else:
                return  # the mirror is closed

    async def close(self, _app: web.Application) -> None:
        """Disconnect all devices."""
        sessions = [session for all_of in self._sessions.values() for session in all_of]
        away = (session.socket.close(code=WSCloseCode.GOING_AWAY) for session in sessions)
        await asyncio.gather(*away)

    async def page(self, _request: web.Request) -> web.StreamResponse:
        """The page of a device, `/?user=42`."""
        return web.Response(text=PAGE.read_text("utf-8"), content_type="text/html")

    async def connect(self, request: web.Request) -> web.StreamResponse:
        """A device's connection, from its beginning to its end."""
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, max_msg_size=MESSAGE_BYTES_MAX)
        session = Session(user_of(request), socket)
        await socket.prepare(request)
        others = self._sessions.setdefault(session.user_id, set())
        others.add(session)
        telling = asyncio.create_task(self._tell(session))
        try:
            async for message in socket:
                if message.type is not WSMsgType.TEXT or not await self._hear(session, message):
                    await socket.close(code=WSCloseCode.UNSUPPORTED_DATA)
        finally:
            telling.cancel()
            others.discard(session)
            if not others:
                self._sessions.pop(session.user_id, None)
                self._mirror.forget(session.user_id)
        return socket

    async def _tell(self, session: Session) -> None:
        try:
            await self._follow(session.user_id)
            await session.tell(self._mirror)
        except (ConnectionError, TimeoutError):
            pass  # the device is gone, or takes nothing
        finally:
            await session.socket.close()

    async def _follow(self, user_id: int) -> None:
        """Returns once the mirror has the user's read states, however long that takes."""
        while True:
            try:
                async with self._may_follow:
                    await self._mirror.follow(user_id)
            except FAILURES as exc:
                logging.warning("user %d cannot be followed yet: %r", user_id, exc)
            else:
                return
            await asyncio.sleep(RETRY_S)

    async def _hear(self, session: Session, message: Any) -> bool:
        """Do what the device says. Returns False if that makes no sense.

        If Kafka does not take an update, the error ends the connection: the device connects again,
        sees what is so, and its user may try again.
        """
        try:
            said = json.loads(message.data)
            kind, channel_id = said["type"], int(said["channel_id"])
            if kind == "ack":
                await self._client.ack(session.user_id, channel_id, int(said["message_id"]))
            elif kind == "mention":
                await self._client.mention(session.user_id, channel_id, self._new_message())
            else:
                return False
        except (ValueError, TypeError, KeyError):
            return False
        return True

    def _new_message(self) -> int:
        """A message ID as a chat application makes one: it grows with time."""
        self._last_id = max(self._last_id + 1, time.time_ns() // 1_000_000 << 20)
        return self._last_id


def user_of(request: web.Request) -> int:
    """Who is at the device. Ask your login here: this example believes the address."""
    try:
        user_id = int(request.query["user"])
    except (KeyError, ValueError):
        user_id = 0
    if not 0 < user_id < 1 << 63:
        raise web.HTTPBadRequest(text="whose read states? Add ?user=42 to the address")
    return user_id


def _shown(state: Any) -> dict[str, Any]:
    """What a device needs of a read state."""
    return {
        **_name((state.read_state_type, state.channel_id)),
        "last_message_id": str(state.last_message_id),
        "mention_count": state.mention_count,
        "last_mention_id": str(state.last_mention_id),
    }


def _name(key: Key) -> dict[str, Any]:
    return {"read_state_type": key[0], "channel_id": str(key[1])}
