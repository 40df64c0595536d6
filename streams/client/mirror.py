"""Keeps the read states of a set of users current: one query for each, and the change feed.

The mirror begins to read the feed, and then asks for a user's read states; what the feed said of
the user meanwhile waits, and is applied to the reply. If the feed has a gap, the mirror asks for
all users again and says what is different.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Self

from readstates.schemas.changes import Change
from readstates.schemas.read_state import ReadState
from readstates.schemas.replies import Totals

from .feed import ChangeFeed, FeedGapError

if TYPE_CHECKING:
    from .client import Client

ASKED_AT_ONCE = 100  # users whose read states are asked for at the same time, after a gap
WAITING_MAX = 1_000  # changes of a user that wait for its first reply

Key = tuple[int, int]  # read_state_type, channel_id
NOTHING = Totals(0, 0, 0)


class Changed(NamedTuple):
    """What has become different for one user. `read_states` are those that changed, as they are."""

    user_id: int
    version: int
    read_states: list[ReadState]
    deleted: list[Key]
    totals: Totals


@dataclass
class Held:
    """What the mirror knows of a user; `version` is -1 until the first reply."""

    version: int = -1
    states: dict[Key, ReadState] = field(default_factory=dict)
    totals: Totals = NOTHING
    waiting: list[Change] = field(default_factory=list)  # for the reply, or for their last part
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)  # one query at a time


class Mirror:
    """See the module. `Client.mirror` makes it; use it as an asynchronous context manager.

    `async for changed in mirror` says what has become different, for users that are followed, and
    keeps the mirror current: it stands still while nobody asks for the next change.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._held: dict[int, Held] = {}
        self._found: deque[Changed] = deque()
        self._feed: ChangeFeed | None = None
        self._has_gap = False  # the feed is to be read from its end again
        self._stale: dict[int, None] = {}  # users to be asked for again, after a gap
        self.gaps = 0  # how often the feed had a gap

    async def __aenter__(self) -> Self:
        self._feed = await self._open()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._feed is not None:
            await self._feed.close()

    async def _open(self) -> ChangeFeed:
        return await self._client.changes("end", wanted=self._held.__contains__).start()

    # -- users --------------------------------------------------------------------------------

    async def follow(self, user_id: int) -> Mapping[Key, ReadState]:
        """Follow a user; returns the read states, by type and channel. Raises as `Client.get`.

        Several callers may follow the same user at the same time; one of them asks.
        """
        assert self._feed is not None, "use the mirror as a context manager"
        while True:
            held = self._held.setdefault(user_id, Held())
            async with held.asking:
                if self._held.get(user_id) is not held:
                    continue  # the caller before this one got no reply, or has forgotten the user
                try:
                    if held.version < 0:
                        await self._ask(user_id, held)
                except BaseException:
                    if self._held.get(user_id) is held:
                        del self._held[user_id]
                    raise
                return held.states

    def forget(self, user_id: int) -> None:
        """Follow a user no longer."""
        self._held.pop(user_id, None)

    def read_states(self, user_id: int) -> Mapping[Key, ReadState]:
        """A followed user's read states, by type and channel. Raises KeyError for others."""
        return self._held[user_id].states

    def totals(self, user_id: int) -> Totals:
        """A followed user's totals. Raises KeyError for others."""
        return self._held[user_id].totals

    def version(self, user_id: int) -> int:
        """The version that the mirror has of a followed user. Raises KeyError for others."""
        return self._held[user_id].version

    # -- changes ------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Changed:
        assert self._feed is not None, "use the mirror as a context manager"
        while not self._found:
            if self._has_gap:
                await self._read_from_the_end()
            if self._stale:
                await self._ask_again()
                continue
            try:
                change = await anext(self._feed)
            except FeedGapError:
                self.gaps += 1
                self._has_gap = True
                continue
            held = self._held.get(change.user_id)
            if held is not None:
                self._take(held, change)
        return self._found.popleft()

    async def _read_from_the_end(self) -> None:
        """After a gap: read on, and only then ask. Raises ConnectionError; then call it again."""
        assert self._feed is not None
        await self._feed.close()
        self._feed = await self._open()
        self._has_gap, self._stale = False, dict.fromkeys(self._held)

    def _take(self, held: Held, change: Change) -> None:
        if len(held.waiting) >= WAITING_MAX:
            raise OverflowError(f"{WAITING_MAX} changes of user {change.user_id} wait for a reply")
        held.waiting.append(change)
        if held.version >= 0:
            self._found.extend(_apply(held))

    async def _ask_again(self) -> None:
        """After a gap: ask for users whose read states may be old; some at a time.

        Raises the first error once all have been asked; whoever got no reply is asked again later.
        """
        users = {user: self._held.get(user) for user in list(self._stale)[:ASKED_AT_ONCE]}
        asked = {user: self._ask_one_again(user, held) for user, held in users.items() if held}
        results = await asyncio.gather(*asked.values(), return_exceptions=True)
        found = dict(zip(asked, results, strict=True))
        errors = []
        for user, held in users.items():
            del self._stale[user]
            result = found.get(user, [])
            if self._held.get(user) is not held:
                continue  # nobody follows the user any more
            if isinstance(result, BaseException):
                self._stale[user] = None  # behind the others
                errors.append(result)
            else:
                self._found.extend(result)
        if errors:
            raise errors[0]

    async def _ask_one_again(self, user_id: int, held: Held) -> list[Changed]:
        async with held.asking:
            return await self._ask(user_id, held)

    async def _ask(self, user_id: int, held: Held) -> list[Changed]:
        """Take a reply for what the user has, and then the changes that waited for it."""
        reply = await self._client.get(user_id, mentions=True, totals=True)
        before, known = held.states, held.version
        if reply.version < known:  # a worker made it that has lost the partition unnoticed
            raise TimeoutError(f"user {user_id}: no reply that is as new as what is known already")
        held.states = {(s.read_state_type, s.channel_id): s for s in reply.read_states}
        held.version, held.totals = reply.version, reply.totals or NOTHING
        changes = _apply(held)
        if known < 0:
            return changes
        different = _difference(user_id, held, before, {*before, *held.states})
        return [one for one in (different, *changes) if one is not None]


def _difference(
    user_id: int, held: Held, before: Mapping[Key, ReadState], keys: Iterable[Key]
) -> Changed | None:
    """What is different from `before` in these read states; None if nothing is."""
    now = held.states
    changed = [now[key] for key in keys if key in now and now[key] != before.get(key)]
    deleted = [key for key in keys if key not in now and key in before]
    if not changed and not deleted:
        return None
    return Changed(user_id, held.version, sorted(changed), sorted(deleted), held.totals)


def _apply(held: Held) -> list[Changed]:
    """Apply the changes that wait; what lacks its last part goes on waiting. O(what they name)."""
    found: list[Changed] = []
    parts: list[Change] = []
    for change in held.waiting:
        if parts and parts[0].version != change.version:
            parts = []  # the last part never came; all of it was told again
        parts.append(change)
        if change.part[0] < change.part[1]:
            continue
        if change.version >= held.version:
            different = _apply_whole(held, parts)
            found += [different] if different is not None else []
        parts = []
    held.waiting = parts
    return found


def _apply_whole(held: Held, parts: list[Change]) -> Changed | None:
    """Apply a change of which all parts are there."""
    last, states = parts[-1], held.states
    named = {(s.read_state_type, s.channel_id): s for part in parts for s in part.read_states}
    all_deleted = any(part.all_deleted for part in parts)
    gone = list(states) if all_deleted else [key for part in parts for key in part.deleted]
    before = {key: states[key] for key in (*named, *gone) if key in states}
    for key in gone:
        if key in states and states[key].version <= last.version:
            del states[key]
    for key, state in named.items():
        if key not in states or states[key].version <= state.version:
            states[key] = state
    held.version, held.totals = last.version, last.totals
    return _difference(last.user_id, held, before, {*named, *gone})
