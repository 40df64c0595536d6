"""The client's side of the change feed: the iterator, the mirror, and `readstates watch`."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from confluent_kafka import TopicPartition

from readstates.ops.local.stack import Stack
from readstates.schemas.read_state import ReadState
from readstates.schemas.replies import Totals
from readstates.streams.client import BlockingClient, ChangeFeed, Client, FeedGapError, Mirror
from tests.integration.test_client import client_of
from tests.integration.test_workers import event_of
from tests.support.service import Service
from tests.support.waiting import WAIT_S, until
from tests.support.wire import PARTITIONS, new_user

T = TypeVar("T")


def asyncio_client(service: Service) -> Client:
    return Client(
        service.env["READ_STATES_KAFKA_BOOTSTRAP"],
        f"{service.env['READ_STATES_TOPIC_PREFIX']}.replies.client",
        topic_prefix=service.env["READ_STATES_TOPIC_PREFIX"],
        create_reply_topic=True,
    )


async def within(work: Awaitable[T]) -> T:
    return await asyncio.wait_for(work, WAIT_S)


async def read_all(changes: ChangeFeed) -> None:
    async for _ in changes:
        pass


async def test_changes_from_the_end_and_from_a_position(service: Service) -> None:
    user = new_user()
    async with asyncio_client(service) as client:
        async with client.changes(wanted={user}.__contains__) as changes:
            await client.ack(user, 7, 100)
            first = await within(anext(changes))
            assert (first.user_id, first.causes) == (user, ("ack",))
            assert [state.last_message_id for state in first.read_states] == [100]
            await client.mention(user, 7, 105)
            positions = dict(changes.positions)
            second = await within(anext(changes))
            assert second.totals == Totals(1, 1, 1)
            assert second.version > first.version
        again = client.changes(positions, wanted={user}.__contains__)
        assert await within(anext(again)) == second
        await again.close()
        with pytest.raises(StopAsyncIteration):
            await anext(again)
        async with client.changes("start", wanted={user}.__contains__) as old:
            assert await within(anext(old)) == first


async def test_a_group_goes_on_where_it_was(service: Service) -> None:
    user, group = new_user(), "it-feed-group"
    async with asyncio_client(service) as client:
        offsets = [await client.ack(user, channel, 5) for channel in (1, 2)]
        assert offsets
        async with client.changes("start", group=group, wanted={user}.__contains__) as changes:
            found = [await within(anext(changes))]
            while sum(len(one.read_states) for one in found) < 2:
                found.append(await within(anext(changes)))
            await client.ack(user, 3, 5)
            await within(anext(changes))  # so those before it are dealt with
        async with client.changes("start", group=group, wanted={user}.__contains__) as changes:
            seen: set[int] = set()
            while 3 not in seen:  # at least once
                seen |= {s.channel_id for s in (await within(anext(changes))).read_states}
            assert seen == {3}
        with pytest.raises(ValueError, match="positions"):
            client.changes({0: 0}, group=group)


async def test_a_mirror_is_what_a_query_says(service: Service) -> None:
    """Any events of some users, while the mirror begins to follow them, one after the other."""
    users, rng = [new_user() for _ in range(5)], random.Random(5)
    last = (0, 99)  # a channel that each of them gets at the end

    async def produce(client: Client) -> None:
        for clock in range(400):
            event = event_of(rng, rng.randint(1, 6), 10_000 + clock)
            await asyncio.to_thread(service.wire.produce_update, rng.choice(users), event)
        for user in users:
            await client.restore_user(user)
            await client.ack(user, last[1], 1)

    async def follow(mirror: Mirror) -> dict[int, dict[tuple[int, int], ReadState]]:
        """What a follower holds who takes what the mirror says."""
        seen = {}
        for user in users:
            seen[user] = dict(await within(mirror.follow(user)))
        while not all(last in states for states in seen.values()):
            changed = await within(anext(mirror))
            for key in changed.deleted:
                del seen[changed.user_id][key]
            for state in changed.read_states:
                seen[changed.user_id][state.read_state_type, state.channel_id] = state
        return seen

    async with asyncio_client(service) as client, client.mirror() as mirror:
        producing = asyncio.create_task(produce(client))
        await asyncio.sleep(0.1)
        seen = await follow(mirror)
        await producing
        for user in users:
            reply = await client.get(user, mentions=True, totals=True)
            states = {(one.read_state_type, one.channel_id): one for one in reply.read_states}
            assert dict(mirror.read_states(user)) == seen[user] == states
            assert mirror.totals(user) == reply.totals
        assert mirror.gaps == 0
        mirror.forget(users[0])
        with pytest.raises(KeyError):
            mirror.read_states(users[0])


@pytest.fixture
def own(stack: Stack, folder: Path) -> Iterator[Service]:
    """A service whose feed may be harmed."""
    made = Service(stack.env(), folder, "ownfeed", changes="on")
    try:
        made.start().wait_ready()
        yield made
    finally:
        made.close()


async def test_a_mirror_asks_again_after_a_gap(own: Service) -> None:
    """Records are deleted before they were read: the mirror notices, and says what is different."""
    user, topic = new_user(), f"{own.wire.prefix}.changes"
    async with asyncio_client(own) as client:
        await client.ack(user, 1, 5)
        until(lambda: sum(own.wire.ends(topic)), "it is told")
        start = dict.fromkeys(range(PARTITIONS), 0)
        async with client.mirror() as mirror:
            assert (await mirror.follow(user)).keys() == {(0, 1)}
            feed = mirror._feed  # the only way to be late is to read from before
            assert feed is not None
            await client.ack(user, 2, 5)
            until(lambda: sum(own.wire.ends(topic)) >= 2, "it is told")
            await client.delete(user, 1)
            until(lambda: sum(own.wire.ends(topic)) >= 3, "it is told")
            ends = [
                TopicPartition(topic, number, offset)
                for number, offset in enumerate(own.wire.ends(topic))
                if offset
            ]
            for future in own.wire.admin.delete_records(ends).values():
                future.result(WAIT_S)
            await feed.close()
            mirror._feed = client.changes(start)
            changed = await within(anext(mirror))
            assert mirror.gaps == 1
            assert changed.deleted == [(0, 1)]
            assert [state.channel_id for state in changed.read_states] == [2]
            assert mirror.read_states(user).keys() == {(0, 2)}
            await client.ack(user, 3, 5)
            assert [s.channel_id for s in (await within(anext(mirror))).read_states] == [3]
        late = client.changes(start)
        with pytest.raises(FeedGapError, match="gap"):
            await within(read_all(late))
        await late.close()


def test_the_blocking_faces(service: Service) -> None:
    user = new_user()
    client: BlockingClient
    with client_of(service) as client:
        with client.changes(wanted={user}.__contains__) as changes:
            client.ack(user, 7, 100)
            assert next(changes).totals == Totals(1, 0, 0)
        with client.mirror() as mirror:
            assert mirror.follow(user).keys() == {(0, 7)}
            client.mention(user, 7, 105)
            assert next(mirror).totals == mirror.totals(user) == Totals(1, 1, 1)
            assert mirror.read_states(user)[0, 7].mentions == (105,)
            mirror.forget(user)


def test_a_feed_that_is_not_there(stack: Stack, folder: Path) -> None:
    service = Service(stack.env(), folder, "nofeed")
    try:
        with client_of(service) as client, pytest.raises(ConnectionError, match="CHANGES=on"):
            client.changes().__enter__()
        said = service.cli("watch")
        assert said.returncode == 1
        assert "readstates init --changes on" in said.stderr
        assert "Traceback" not in said.stderr
    finally:
        service.close()


@pytest.mark.parametrize("as_json", [False, True])
def test_watch(service: Service, as_json: bool) -> None:
    user = new_user()
    more = ["--json", "--changes-max", "2"] if as_json else []
    watching = subprocess.Popen(
        [sys.executable, "-m", "readstates.streams.cli", "watch", str(user), *more],
        env={**os.environ, **service.env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert watching.stderr is not None
        assert watching.stderr.readline() == "watching\n"
        service.wire.produce_update(user, {"type": "mention", "channel_id": "7", "message_id": "5"})
        assert watching.stdout is not None
        first = watching.stdout.readline()
        second = "" if as_json else watching.stdout.readline()
        service.wire.produce_update(user, {"type": "delete_user"})
        if not as_json:  # it goes on until SIGINT
            watching.stdout.readline()
            third = watching.stdout.readline()
            watching.send_signal(signal.SIGINT)
        out, err = watching.communicate(timeout=WAIT_S)
    finally:
        watching.kill()
    assert (watching.returncode, err) == (0, "")
    if as_json:
        told, gone = json.loads(first), json.loads(out)
        assert (told["user_id"], told["causes"]) == (str(user), ["mention"])
        assert told["read_states"][0]["mentions"] == ["5"]
        assert told["totals"] == {"read_states": 1, "mentioned": 1, "mentions": 1}
        assert gone["all_deleted"] is True
    else:
        assert first.startswith(f"user {user}, version ")
        assert first.endswith(", mention: 1 mentions in 1 of 1 read states\n")
        assert second == "  0:7 read up to 0, 1 mentions\n"
        assert (third, out) == ("  all are deleted\n", "")
