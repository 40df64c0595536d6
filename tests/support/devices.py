"""Devices of a user: they read everything once, page by page if need be, and then what changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.support.badges import Right
from tests.support.wire import Reply, Wire, check_form

Place = tuple[int, int]  # type and channel
PAGE_STATES = 10_000  # the largest `limit`
DEADLINE_S = 30
PAGES_MAX = 1000  # a reader that takes more goes round in circles


class Device:
    """What one device of a user knows."""

    def __init__(self, wire: Wire, user: int) -> None:
        self._wire, self.user = wire, user
        self.version: int | None = None  # of the first page: deltas go on from there
        self.states: dict[Place, dict[str, Any]] = {}
        self.limit = PAGE_STATES
        self.full = False  # what the last reply said

    def look(self) -> None:
        """Everything at first, then what changed since."""
        pages = self.pages(since=self.version)
        first = next(pages)
        if first.value["full"]:
            self.states = {}
        self.version = int(first.value["version"])
        self.full = first.value["full"]
        self._take(first)
        for page in pages:
            self._take(page)

    def piece(self, channels: list[str]) -> None:
        """These channels, beside what is known. Deltas go on from the first piece's version."""
        for page in self.pages(channel_ids=channels):
            if self.version is None:
                self.version = int(page.value["version"])
            self._take(page)

    def pages(self, since: int | None = None, **body: Any) -> Iterator[Reply]:
        """The pages of one reading. A limit that is too large becomes the one that is advised."""
        more: dict[str, Any] = {**body, "mentions": True}
        if since is not None:
            more["since_version"] = str(since)
        for _ in range(PAGES_MAX):
            reply = self.ask({**more, "limit": self.limit})
            if reply.error == "reply_too_large":
                self.limit = advised_limit(reply, self.limit)
                continue
            assert reply.error is None, reply.value
            check_form(reply, self.user)
            yield reply
            if "next" not in reply.value:
                return
            assert 0 < len(reply.states) <= self.limit
            more["after"] = reply.value["next"]
            if reply.value["full"]:  # the rest of a complete reading is complete too
                more.pop("since_version", None)
        raise AssertionError(f"more than {PAGES_MAX} pages")

    def ask(self, body: dict[str, Any]) -> Reply:
        """One query, and its reply, which must come before the deadline."""
        reply = self._wire.query(self.user, body, deadline_s=DEADLINE_S, timeout_s=DEADLINE_S)
        assert reply is not None
        return reply

    def _take(self, reply: Reply) -> None:
        for state in reply.states:
            self.states[state["read_state_type"], int(state["channel_id"])] = state


def advised_limit(reply: Reply, limit: int) -> int:
    """The limit that an error `reply_too_large` names; it is smaller than the one that was."""
    found = re.search(r"\blimit\b\D*(\d+)", reply.value["error"]["message"])
    assert found, reply.value
    advised = int(found[1])
    assert reply.value["error"].get("limit", advised) == advised
    assert 1 <= advised < limit, reply.value
    return advised


def right_of(reply: Reply, kind: int, channel: int) -> Right | None:
    """What a reply with mentions says of a read state; None if it has none."""
    for state in reply.states:
        if (state["read_state_type"], int(state["channel_id"])) == (kind, channel):
            return Right(
                state["mention_count"],
                list(map(int, state["mentions"])),
                int(state["last_message_id"]),
                state["flags"],
                state["last_pin_timestamp"],
            )
    return None
