"""Queries for a part: mentions, totals, pages, and what has changed since a version."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.pages import pages_of
from tests.support.read_states import ack, places, user_of_three_types
from tests.support.service import Service
from tests.support.waiting import until
from tests.support.wire import Wire, new_user

# -- mentions, totals, pages ----------------------------------------------------------------------


def mention(wire: Wire, user: int, channel: int, message: int, kind: int = 0) -> int:
    event = {"type": "mention", "channel_id": str(channel), "message_id": str(message)}
    return wire.produce_update(user, {**event, "read_state_type": kind})


@pytest.fixture(scope="module")
def mentioned_user(wire: Wire) -> int:
    """Of channels 1 to 6 every third has mentions; one of them of another type as well."""
    user = new_user()
    for channel in range(1, 7):
        ack(wire, user, channel, 100)
        for message in range(101, 101 + channel * (channel % 3 == 0)):
            mention(wire, user, channel, message)
    ack(wire, user, 2, 100, kind=1)
    offset = mention(wire, user, 6, 200, kind=1)
    wire.get(user, after_offset=offset)
    return user


def test_mentions(wire: Wire, mentioned_user: int) -> None:
    found = wire.get(mentioned_user, mentions=True).states
    assert [state["mentions"] for state in found] == [
        *([], [], ["101", "102", "103"], [], [], [str(n) for n in range(101, 107)]),
        *([], ["200"]),
    ]
    assert "mentions" not in wire.get(mentioned_user).states[0]
    (one,) = wire.get(mentioned_user, mentions=True, channel_ids=[3]).states
    assert one["mentions"] == ["101", "102", "103"]


def test_mentioned(wire: Wire, mentioned_user: int) -> None:
    def asked(**body: Any) -> list[tuple[int, int]]:
        return places(wire.get(mentioned_user, mentioned=True, **body))

    assert asked() == [(0, 3), (0, 6), (1, 6)]
    assert asked(read_state_type=1) == [(1, 6)]
    assert asked(channel_ids=[1, 2, 3]) == [(0, 3)]
    assert asked(limit=1) == [(0, 3)]
    assert asked(limit=1, after={"read_state_type": 0, "channel_id": "3"}) == [(0, 6)]


def test_a_delta_of_the_mentioned_ones_is_complete(wire: Wire) -> None:
    """What has no mention any more is not in the list; a client must see that it is gone."""
    user = new_user()
    mention(wire, user, 1, 5)
    offset = mention(wire, user, 2, 5)
    version = wire.get(user, mentioned=True, after_offset=offset).value["version"]
    offset = ack(wire, user, 1, 5)
    reply = wire.get(user, mentioned=True, since_version=version, after_offset=offset)
    assert (reply.value["full"], places(reply)) == (True, [(0, 2)])


def test_totals(wire: Wire, mentioned_user: int) -> None:
    everything = {"read_states": 8, "mentioned": 3, "mentions": 10}
    for body in ({}, {"limit": 1}, {"channel_ids": [1]}, {"mentioned": True}):
        assert wire.get(mentioned_user, totals=True, **body).value["totals"] == everything
    alone = wire.get(mentioned_user, totals=True, channel_ids=[])
    assert (alone.states, alone.value["totals"]) == ([], everything)
    one = wire.get(mentioned_user, totals=True, channel_ids=[], read_state_type=1)
    assert one.value["totals"] == {"read_states": 2, "mentioned": 1, "mentions": 1}
    assert "totals" not in wire.get(mentioned_user).value
    nobody = wire.get(new_user(), totals=True).value["totals"]
    assert nobody == {"read_states": 0, "mentioned": 0, "mentions": 0}


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 9])
def test_pages(wire: Wire, mentioned_user: int, limit: int) -> None:
    whole = wire.get(mentioned_user).states
    pages = pages_of(wire, mentioned_user, limit)
    assert [state for page in pages for state in page.states] == whole
    assert [len(page.states) for page in pages[:-1]] == [limit] * (len(pages) - 1)
    assert pages[-1].states, "the page before it said that more follow"


def test_pages_of_a_delta(wire: Wire) -> None:
    user = new_user()
    for channel in range(1, 10):
        offset = ack(wire, user, channel, 5)
    version = wire.get(user, after_offset=offset).value["version"]
    for channel in (9, 2, 5, 3):
        offset = ack(wire, user, channel, 6)
    pages = pages_of(wire, user, 2, since_version=version, after_offset=offset)
    assert [places(page) for page in pages] == [[(0, 2), (0, 3)], [(0, 5), (0, 9)]]
    assert not any(page.value["full"] for page in pages)
    ids = [1, 2, 9]
    pages = pages_of(wire, user, 1, since_version=version, channel_ids=ids)
    assert [places(page) for page in pages] == [[(0, 2)], [(0, 9)]]


# -- since_version --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known_user(wire: Wire) -> int:
    return user_of_three_types(wire)


def test_deltas(wire: Wire) -> None:
    user = new_user()
    for channel in (1, 2, 3):
        offset = ack(wire, user, channel, 5)
    first = wire.get(user, after_offset=offset)
    version = first.value["version"]

    none = wire.get(user, since_version=version)
    assert (none.value["full"], none.states) == (False, [])

    ack(wire, user, 2, 5)  # changes nothing
    offset = ack(wire, user, 3, 6)
    delta = wire.get(user, since_version=version, after_offset=offset)
    assert (delta.value["full"], places(delta)) == (False, [(0, 3)])
    assert int(delta.states[0]["version"]) > int(version)

    offset = ack(wire, user, 4, 1, kind=1)
    body: dict[str, Any] = {"since_version": int(version), "after_offset": offset}
    assert places(wire.get(user, **body)) == [(0, 3), (1, 4)]
    assert places(wire.get(user, **body, channel_ids=[1, 3])) == [(0, 3)]
    assert places(wire.get(user, **body, read_state_type=1)) == [(1, 4)]
    assert places(wire.get(user, **{**body, "since_version": delta.value["version"]})) == [(1, 4)]


def test_a_delta_over_a_deletion_is_complete(wire: Wire) -> None:
    user = new_user()
    for channel in (1, 2, 3):
        offset = ack(wire, user, channel, 5)
    old = wire.get(user, after_offset=offset).value["version"]
    offset = wire.produce_update(user, {"type": "delete", "channel_id": "2"})
    reply = wire.get(user, since_version=old, after_offset=offset)
    assert (reply.value["full"], places(reply)) == (True, [(0, 1), (0, 3)])

    between = reply.value["version"]
    offset = ack(wire, user, 1, 6)
    reply = wire.get(user, since_version=between, after_offset=offset)
    assert (reply.value["full"], places(reply)) == (False, [(0, 1)])

    offset = wire.produce_update(user, {"type": "delete_user"})
    reply = wire.get(user, since_version=between, after_offset=offset)
    assert (reply.value["full"], places(reply)) == (True, [])


def test_a_version_that_cannot_be_trusted_gets_all(wire: Wire, known_user: int) -> None:
    now = int(wire.get(known_user).value["version"])
    for since in (0, 1, "0", now + 1_000_000, str(2**63 - 1)):
        reply = wire.get(known_user, since_version=since)
        assert (reply.value["full"], len(reply.states)) == (True, 6)


def test_a_user_brought_back_gets_all(service: Service, wire: Wire) -> None:
    """A delta from before the user was evicted, with a change that memory did not see."""
    user = new_user(partition=2)
    offset = ack(wire, user, 1, 5)
    version = wire.get(user, after_offset=offset).value["version"]
    offset = ack(wire, user, 2, 5)
    before = service.metric("read_states_evictions_total")
    acks = [{"channel_id": channel, "message_id": 5} for channel in range(1, 51)]
    for _ in range(40):
        other = new_user(partition=2)
        offset = wire.produce_update(other, {"type": "bulk_ack", "acks": acks})
    wire.get(other, after_offset=offset)
    until(lambda: service.metric("read_states_evictions_total") > before, "evictions")
    reply = wire.get(user, since_version=version)
    assert (0, 2) in places(reply)
    if reply.value["full"]:
        assert places(reply) == [(0, 1), (0, 2)]
