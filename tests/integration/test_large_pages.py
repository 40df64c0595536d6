"""A user at USER_STATES_MAX, whose IDs have 19 digits: every limit is as it is by default."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from readstates.ops.local.stack import Stack
from readstates.streams.config import Settings
from tests.support.pages import limit_of, pages_of, states_of
from tests.support.service import Service
from tests.support.wire import Wire, new_user

DEFAULTS: dict[str, Any] = {setting.name: setting.default for setting in fields(Settings)}
STATES: int = DEFAULTS["user_states_max"]
LARGE_ID = 1_300_000_000_000_000_000
BULK = 1000

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def large(stack: Stack, folder: Path) -> Iterator[tuple[Wire, int]]:
    names = ("user_states_max", "cache_states", "session_timeout_s", "flush_delay_s")
    made = Service(stack.env(), folder, "large", **{name: DEFAULTS[name] for name in names})
    try:
        made.start().wait_ready()
        wire, user = made.wire, new_user()
        for first in range(0, STATES, BULK):
            acks = [
                {"channel_id": LARGE_ID + n, "message_id": LARGE_ID + n, "read_state_type": n % 2}
                for n in range(first, first + BULK)
            ]
            offset = wire.produce_update(user, {"type": "bulk_ack", "acks": acks})
        wire.get(user, channel_ids=[], after_offset=offset)
        yield wire, user
    finally:
        made.close()


def test_the_whole_by_pages_of_the_largest_limit(large: tuple[Wire, int]) -> None:
    """A page of 10,000 would have 2.5 MB; it is cut to what REPLY_BYTES_MAX allows."""
    wire, user = large
    found = states_of(pages_of(wire, user, 10_000))
    assert [(s["read_state_type"], int(s["channel_id"])) for s in found] == [
        (kind, LARGE_ID + n) for kind in range(2) for n in range(kind, STATES, 2)
    ]


@pytest.mark.parametrize("mentions", [False, True])
def test_the_advice_for_a_query_without_a_limit(large: tuple[Wire, int], mentions: bool) -> None:
    wire, user = large
    error = wire.query(user, {"mentions": mentions}, deadline_s=20)
    assert error is not None
    limit = limit_of(error)
    assert 1_000 < limit < 10_000
    pages = pages_of(wire, user, limit, mentions=mentions)
    assert len(states_of(pages)) == STATES
    assert all(len(page.states) == limit for page in pages[:-1])
