"""The client against the real service: every event once, whole reads of any size, totals."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from readstates.ops.local.stack import Stack
from readstates.schemas.read_state import ReadState
from readstates.schemas.replies import Totals
from readstates.streams.client import BlockingClient, QueryError
from readstates.streams.client.client import PAGE_STATES
from tests.support.service import Service
from tests.support.wire import new_user, partition_of

MANY = 2 * PAGE_STATES + 7
BULK_MAX = 1000
CHANNEL = 1_200_000_000_000_000_000
MESSAGE = 1_300_000_000_000_000_000


@pytest.fixture(scope="module")
def roomy(stack: Stack, folder: Path) -> Iterator[Service]:
    """A service for users with many read states, in replies of which one holds some 700."""
    made = Service(
        stack.env(),
        folder,
        "roomy",
        cache_states=100_000,
        user_states_max=20_000,
        reply_bytes_max=200_000,
    )
    try:
        made.start().wait_ready()
        yield made
    finally:
        made.close()


def client_of(service: Service) -> BlockingClient:
    return BlockingClient(
        service.env["READ_STATES_KAFKA_BOOTSTRAP"],
        f"{service.env['READ_STATES_TOPIC_PREFIX']}.replies.client",
        topic_prefix=service.env["READ_STATES_TOPIC_PREFIX"],
        create_reply_topic=True,
    )


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[BlockingClient]:
    with client_of(service) as made:
        yield made


def one(client: BlockingClient, user: int, offset: int) -> ReadState | None:
    reply = client.get(user, after_offset=offset, mentions=True, deadline_s=20)
    assert len(reply.read_states) <= 1
    return reply.read_states[0] if reply.read_states else None


def test_every_event(client: BlockingClient) -> None:
    user = new_user()
    state = one(client, user, client.ack(user, 5, 100, flags=1, last_viewed=2, read_state_type=3))
    assert state is not None
    assert state == (3, 5, 100, 0, 0, 0, 1, 2, state.version, ())

    def after(offset: int) -> tuple[int, int, tuple[int, ...] | None]:
        state = one(client, user, offset)
        assert state is not None
        return state.last_message_id, state.mention_count, state.mentions

    client.mention(user, 5, 105, read_state_type=3)
    assert after(client.mention(user, 5, 110, edit=1, read_state_type=3)) == (100, 2, (105, 110))
    assert after(client.retract_mention(user, 5, 110, edit=0, read_state_type=3)) == (
        100,
        2,
        (105, 110),
    )
    assert after(client.retract_mention(user, 5, 110, edit=1, read_state_type=3)) == (
        100,
        1,
        (105,),
    )
    assert after(client.retract_mention(user, 5, 105, read_state_type=3)) == (100, 0, ())
    known = client.get(user).version
    assert after(client.bulk_ack(user, [(5, 120, 3)])) == (120, 0, ())
    unread = client.mark_unread(user, 5, 90, mention_ids=[95], read_state_type=3)
    assert after(unread) == (90, 1, (95,))
    assert after(client.ack(user, 5, 130, if_version=known, read_state_type=3)) == (90, 1, (95,))
    assert after(client.mark_unread(user, 5, 80, 7, read_state_type=3)) == (80, 7, (95,))
    assert after(client.mark_unread(user, 5, 70, read_state_type=3)) == (70, 1, (95,))
    client.pins_ack(user, 5, 777, read_state_type=3)
    state = one(
        client, user, client.set_options(user, 5, flags=0, last_viewed=9, read_state_type=3)
    )
    assert state is not None
    assert state[5:8] == (777, 0, 9)
    merged = client.merge(
        user,
        5,
        last_message_id=60,
        mention_ids=[65, 75],
        mention_count=9,
        flags=4,
        read_state_type=3,
    )
    assert after(merged) == (70, 2, (75, 95))
    assert one(client, user, client.delete(user, 5, up_to=200, read_state_type=3)) is None
    assert one(client, user, client.mention(user, 5, 200, read_state_type=3)) is None
    assert after(client.mention(user, 5, 201, read_state_type=3)) == (200, 1, (201,))
    assert one(client, user, client.delete(user, 5, read_state_type=3)) is None
    client.ack(user, 5, 300)
    assert one(client, user, client.delete_user(user, final=True)) is None
    assert one(client, user, client.ack(user, 5, 301)) is None
    client.restore_user(user)
    assert after(client.ack(user, 5, 302)) == (302, 0, ())
    assert one(client, user, client.delete_user(user)) is None


def test_totals_and_the_mentioned(client: BlockingClient) -> None:
    user = new_user()
    for channel in range(1, 6):
        client.ack(user, channel, 10)
    client.mention(user, 2, 11)
    client.mention(user, 4, 11, read_state_type=1)
    offset = client.mention(user, 2, 12)
    icon = client.get(user, [], totals=True, after_offset=offset)
    assert (icon.read_states, icon.totals) == ([], Totals(6, 2, 3))
    badges = client.get(user, mentioned=True, mentions=True, totals=True)
    assert [(s.read_state_type, s.channel_id, s.mentions) for s in badges.read_states] == [
        (0, 2, (11, 12)),
        (1, 4, (11,)),
    ]
    assert badges.totals == icon.totals
    typed = client.get(user, read_state_type=1, totals=True)
    assert (len(typed.read_states), typed.totals) == (1, Totals(1, 1, 1))


def test_a_whole_read_of_any_size(roomy: Service) -> None:
    user = new_user()
    with client_of(roomy) as client:
        for first in range(0, MANY, BULK_MAX):
            channels = range(first, min(first + BULK_MAX, MANY))
            offset = client.bulk_ack(user, [(CHANNEL + n, MESSAGE + n, n % 3) for n in channels])
        whole = client.get(user, after_offset=offset, totals=True, deadline_s=20)
        expected = sorted((n % 3, CHANNEL + n, MESSAGE + n) for n in range(MANY))
        assert [state[:3] for state in whole.read_states] == expected
        assert (whole.full, whole.next, whole.totals) == (True, None, Totals(MANY, 0, 0))

        # a caller's own pages, and what they may not be
        page = client.get(user, limit=10)
        assert [state[:3] for state in page.read_states] == expected[:10]
        assert page.next == expected[9][:2]
        page = client.get(user, limit=10, after=page.next)
        assert [state[:3] for state in page.read_states] == expected[10:20]
        with pytest.raises(QueryError) as wrong:
            client.get(user, limit=10_001)
        assert wrong.value.code == "invalid_query"

        # a delta of more than a page, which goes on from the first page's version
        for first in range(0, MANY, BULK_MAX):
            channels = range(first, min(first + BULK_MAX, MANY))
            offset = client.bulk_ack(
                user, [(CHANNEL + n, MESSAGE + MANY + n, n % 3) for n in channels]
            )
        delta = client.get(user, since_version=whole.version, after_offset=offset, deadline_s=20)
        assert not delta.full
        assert [state[:2] for state in delta.read_states] == [place[:2] for place in expected]
        assert {s.last_message_id - s.channel_id for s in delta.read_states} == {
            MESSAGE + MANY - CHANNEL
        }
        offset = client.mention(user, CHANNEL, 2 * MESSAGE)
        last = client.get(user, since_version=delta.version, after_offset=offset)
        assert [(s.channel_id, s.mention_count) for s in last.read_states] == [(CHANNEL, 1)]


def test_channels_whose_read_states_do_not_fit(roomy: Service) -> None:
    user = new_user()
    channels = [CHANNEL + n for n in range(BULK_MAX)]
    with client_of(roomy) as client:
        offset = client.bulk_ack(user, [(channel, MESSAGE) for channel in channels])
        reply = client.get(user, channels, after_offset=offset, deadline_s=20)
        assert [state.channel_id for state in reply.read_states] == channels


def test_the_shell_shows_mentions_totals_and_pages(
    service: Service, client: BlockingClient
) -> None:
    user = new_user()
    client.ack(user, 7, 100)
    client.mention(user, 8, 105)
    offset = client.mention(user, 8, 104)
    more = ("--after-offset", str(offset), "--mentions", "--totals")
    done = service.cli("get", str(user), *more)
    assert done.returncode == 0, done.stderr
    assert "in all: 2 read states, 1 with mentions, 2 mentions" in done.stdout
    assert "mentioned in 104, 105" in done.stdout
    done = service.cli("get", str(user), "--limit", "1", "--json")
    (state,), following = (json.loads(done.stdout)[name] for name in ("read_states", "next"))
    assert (state["channel_id"], following) == ("7", {"read_state_type": 0, "channel_id": "7"})
    done = service.cli("get", str(user), "--after", "0:7", "--mentioned", "--json")
    assert [s["channel_id"] for s in json.loads(done.stdout)["read_states"]] == ["8"]


def test_the_shell_deletes_for_good_and_restores(service: Service, client: BlockingClient) -> None:
    user = new_user()
    client.ack(user, 7, 100)
    done = service.cli("delete-user", str(user), "--final")
    assert re.fullmatch(
        rf"offset \d+ in partition {partition_of(user)} of {service.wire.updates}\n", done.stdout
    ), done.stderr
    assert one(client, user, client.ack(user, 7, 101)) is None
    done = service.cli("restore-user", str(user))
    assert done.stdout.startswith("offset "), done.stderr
    assert one(client, user, client.ack(user, 7, 102)) is not None
