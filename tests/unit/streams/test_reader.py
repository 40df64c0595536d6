"""The reader against brokers that fail when they are told to."""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from readstates.streams import metrics
from readstates.streams.config import Settings
from readstates.streams.errors import DataLossError, GroupError
from readstates.streams.kafka import broker, fetch_link, fetches, leaders, reader, reading
from readstates.streams.kafka.protocol import Broker
from readstates.streams.kafka.reader import Poll, Reader
from readstates.streams.kafka.reading import QUERIES, UPDATES, Gather, Limits, Reading
from readstates.streams.partition.batch import Batch, UnreadBatch
from tests.support import raw_batches as raw
from tests.support.fake_broker import Asked, FakeCluster

WAIT_S = 20.0
LONG = Gather(60_000, 1)
NOT_LEADER, UNKNOWN_TOPIC, NOT_ALLOWED, STORAGE = 6, 3, 29, 56


class World:
    """A cluster, a reader of its topic, and what it delivered."""

    def __init__(self, limits: Limits = UPDATES, partitions: int = 1, brokers: int = 1) -> None:
        self.cluster = FakeCluster(partitions, brokers)
        self.broker = self.cluster.brokers[0]
        settings = Settings(kafka_bootstrap=self.cluster.bootstrap)
        self.room: dict[int, int] = {}
        self.polls: list[Poll] = []
        self.refused: list[Exception] = []
        self.reader = Reader(settings, "t", limits, self.put, self.refused.append, self.wants)

    def put(self, poll: Poll) -> None:
        self.polls.append(poll)
        for number, _token, batch in poll:
            if number in self.room:
                self.room[number] -= batch.size_bytes

    def wants(self, number: int) -> int:
        return self.room.get(number, 1 << 30)

    def batches(self, number: int = 0, token: int | None = None) -> list[Batch]:
        found = [
            batch
            for poll in self.polls
            for at, its, batch in poll
            if at == number and token in (None, its)
        ]
        for before, after in itertools.pairwise(found):
            if token is not None:
                assert before.end == after.start  # F1
        return found

    def offsets(self, number: int = 0, token: int | None = None) -> list[int]:
        return [r.offset for batch in self.batches(number, token) for r in batch.records]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():  # noqa: ASYNC110 (another thread changes it)
                await asyncio.sleep(0.002)

    async def read(self, number: int, end: int, token: int | None = None) -> list[int]:
        """The offsets of what was read, once the partition was read up to `end`."""
        await self.until(lambda: any(b.end >= end for b in self.batches(number, token)))
        return self.offsets(number, token)

    async def asked(self, condition: Callable[[Asked], bool], since: int = 0) -> Asked:
        """The first fetch of that kind."""
        await self.until(lambda: any(map(condition, self.broker.asked[since:])))
        return next(filter(condition, self.broker.asked[since:]))

    def close(self) -> None:
        self.reader.close()
        self.cluster.close()


@pytest.fixture
def worlds() -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(*args: object, **kwargs: object) -> World:
        made.append(World(*args, **kwargs))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetches, "RETRY_S", 0.01)
    monkeypatch.setattr(reader, "DAMAGED_PAUSE_S", 0.005)
    monkeypatch.setattr(leaders, "PAUSE_MIN_S", 0.01)
    monkeypatch.setattr(leaders, "PAUSE_MAX_S", 0.05)
    monkeypatch.setattr(fetch_link, "PAUSE_MAX_S", 0.05)


def waiting(limits: Limits = UPDATES) -> Limits:
    """Fetches wait a minute at the broker: whoever waits for one fails its test."""
    return limits._replace(idle=LONG, busy=LONG)


def waiting_bytes(partition: Reading) -> int:
    batches = partition.batches
    return 0 if batches is None else batches.size_bytes


async def test_records_with_their_positions(worlds: Callable[..., World]) -> None:
    world = worlds()
    for _ in range(3):
        world.cluster.append(0, b"a", b"b")
    world.reader.start(0, 3, token=7)
    assert await world.read(0, 6, token=7) == [3, 4, 5]
    first, last = world.batches()[0], world.batches()[-1]
    assert (first.start, last.end, last.last) == (3, 6, True)
    assert [r.value for b in world.batches() for r in b.records] == [b"b", b"a", b"b"]
    assert sum(b.size_bytes for b in world.batches()) == 3 * len(
        next(raw.pieces([raw.Record(b"1", b"a")])) + b"a\0"
    )
    assert world.reader.end(0) == world.reader.high_watermark(0) == 6
    assert world.reader.end(1) is None
    world.reader.stop(0)
    assert world.reader.end(0) is None


async def test_the_end_is_known_at_once(worlds: Callable[..., World]) -> None:
    """Also if there is nothing to read: with open transactions and without."""
    world = worlds(waiting())
    world.cluster.append(0, b"a")
    world.cluster.append(0, b"b", b"c")
    world.cluster.logs[0].stable = 1
    world.reader.start(0, 1, token=1)
    await world.until(lambda: world.reader.end(0) is not None)
    assert (world.reader.end(0), world.reader.high_watermark(0)) == (1, 3)
    assert world.polls == []


async def test_start_takes_effect_while_a_fetch_waits(worlds: Callable[..., World]) -> None:
    world = worlds(waiting(), partitions=3)
    world.cluster.append(1, b"a")
    world.reader.start(0, 0, token=1)
    await world.asked(lambda asked: asked.wait_ms > 0)
    world.reader.start(1, 0, token=2)
    assert await world.read(1, 1) == [0]
    later = [asked for asked in world.broker.asked if 1 in asked.positions]
    assert {asked.connection for asked in later}.isdisjoint(
        {asked.connection for asked in world.broker.asked if 0 in asked.positions}
    )
    world.cluster.append(0, b"b")  # the fetch that waits is still good
    assert await world.read(0, 1) == [0]


async def test_both_connections_end_their_fetches_together(worlds: Callable[..., World]) -> None:
    """So that the next fetch is of all partitions again."""
    gather = Gather(400, 1)
    world = worlds(UPDATES._replace(idle=gather, busy=gather), partitions=2)
    world.reader.start(0, 0, token=1)
    first = await world.asked(lambda asked: asked.wait_ms > 0)
    world.reader.start(1, 0, token=2)
    side = await world.asked(lambda asked: asked.wait_ms > 0 and 1 in asked.positions)
    assert side.connection != first.connection
    assert side.wait_ms <= first.wait_ms
    await world.asked(lambda asked: len(asked.positions) == 2)


async def test_the_same_while_records_keep_coming(worlds: Callable[..., World]) -> None:
    world = worlds(waiting(), partitions=2)
    world.reader.start(0, 0, token=1)
    await world.asked(lambda asked: asked.wait_ms > 0)
    world.reader.start(1, 0, token=2)
    await world.asked(lambda asked: asked.wait_ms > 0 and 1 in asked.positions)
    count = 0
    while not any(len(asked.positions) == 2 for asked in world.broker.asked):
        count += 1
        for number in range(2):
            world.cluster.append(number, b"v")
            assert await world.read(number, count) == list(range(count))


async def test_stop_and_start_again(worlds: Callable[..., World]) -> None:
    world = worlds(waiting())
    world.cluster.append(0, b"a", b"b", b"c")
    world.reader.start(0, 0, token=1)
    await world.read(0, 3)
    world.reader.stop(0)
    world.reader.start(0, 1, token=2)
    assert await world.read(0, 3, token=2) == [1, 2]
    world.reader.start(0, 2, token=3)  # without a stop
    assert await world.read(0, 3, token=3) == [2]
    assert world.offsets(token=1) == [0, 1, 2]


async def test_nothing_arrives_after_stop(worlds: Callable[..., World]) -> None:
    """Not even what the thread has handed to the loop already."""
    world = worlds(waiting())
    world.cluster.append(0, b"a")
    world.reader.start(0, 0, token=1)
    while not world.reader._polls:  # the loop is not given a turn
        pass
    world.reader.stop(0)
    world.reader.start(0, 0, token=2)
    await world.read(0, 1, token=2)
    assert world.offsets(token=1) == []


async def test_a_late_answer_to_an_earlier_start(worlds: Callable[..., World]) -> None:
    """It counts for nothing, also while records of the present start wait for room."""
    world = worlds(waiting())
    world.cluster.append(0, *[b"v" * 100] * 10)
    world.reader.start(0, 10, token=1)
    await world.asked(lambda asked: asked.wait_ms > 0)
    world.room[0] = 1
    world.reader.start(0, 0, token=2)
    await world.until(lambda: world.offsets(token=2))
    world.cluster.append(0, b"late")
    await asyncio.sleep(0.05)
    world.room[0] = 1 << 30
    world.reader.look()
    assert await world.read(0, 11, token=2) == list(range(11))
    assert world.offsets(token=1) == []


async def test_back_pressure(worlds: Callable[..., World]) -> None:
    world = worlds(waiting(), partitions=2)
    for _ in range(50):
        world.cluster.append(0, *[b"v" * 100] * 10)
    world.room[0] = 0
    world.reader.start(0, 0, token=1)
    world.reader.start(1, 0, token=1)
    await world.asked(lambda asked: asked.wait_ms > 0 and 1 in asked.positions)
    assert not any(0 in asked.positions for asked in world.broker.asked)
    assert world.polls == []
    world.room[0] = 1000
    world.reader.look()
    await world.until(lambda: world.room[0] <= 0)
    await asyncio.sleep(0.05)
    delivered = sum(batch.size_bytes for batch in world.batches())
    assert 1000 <= delivered < 1000 + 200  # the record that reaches it is the last
    world.room[0] = 1 << 30
    world.reader.look()
    assert await world.read(0, 500) == list(range(500))


async def test_room_is_noticed_without_being_told(worlds: Callable[..., World]) -> None:
    world = worlds(waiting())
    world.cluster.append(0, b"a")
    world.room[0] = 0
    world.reader.start(0, 0, token=1)
    await asyncio.sleep(0.05)
    world.room[0] = 100
    assert await world.read(0, 1) == [0]


async def test_what_is_on_its_way_counts(worlds: Callable[..., World]) -> None:
    """`wants` does not know of it yet: the loop is busy."""
    world = worlds(UPDATES._replace(records_max=1))
    for _ in range(50):
        world.cluster.append(0, b"v" * 100)
    world.room[0] = 250
    world.reader.start(0, 0, token=1)
    await world.until(lambda: world.polls)
    world.polls.clear()
    world.room[0] = 250
    world.reader.look()
    stop = asyncio.get_running_loop().time() + 0.1
    while asyncio.get_running_loop().time() < stop:
        pass  # nothing else gets a turn
    assert sum(len(poll) for poll in world.reader._polls) <= 3
    await world.until(lambda: world.room[0] <= 0)
    await asyncio.sleep(0.03)
    assert len(world.offsets()) in (2, 3)


async def test_no_poll_is_made_for_a_loop_that_does_not_come(worlds: Callable[..., World]) -> None:
    world = worlds(UPDATES._replace(records_max=1))
    world.cluster.append(0, *[b"v"] * 50)
    world.reader.start(0, 0, token=1)
    while len(world.reader._polls) < reader.POLLS_AHEAD:
        pass
    stop = asyncio.get_running_loop().time() + 0.05
    while asyncio.get_running_loop().time() < stop:
        pass
    assert len(world.reader._polls) == reader.POLLS_AHEAD
    assert await world.read(0, 50) == list(range(50))


async def test_no_partition_starves(worlds: Callable[..., World]) -> None:
    """A response has room for one of them; those that got nothing are first in the next one."""
    limits = UPDATES._replace(records_max=5, partition_bytes_max=100)
    world = worlds(limits, partitions=3)
    for number in range(3):
        for _ in range(20):
            world.cluster.append(number, *[b"v"] * 5)
    for number in range(3):
        world.room[number] = 0
        world.reader.start(number, 0, token=1)
    await asyncio.sleep(0.02)
    world.room.clear()
    world.reader.look()
    for number in range(3):
        assert await world.read(number, 100) == list(range(100))
        assert max(len(batch.records) for batch in world.batches(number)) == 5
    firsts = [asked.order[0] for asked in world.broker.asked if len(asked.order) == 3]
    assert set(firsts[:3]) == {0, 1, 2} or len(firsts) < 3


async def test_polls_are_bounded_over_all_partitions(
    worlds: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "TAKEN_BYTES_MAX", 5_000)
    world = worlds(partitions=4)
    for number in range(4):
        world.cluster.append(number, *[b"v" * 1000] * 10)
        world.reader.start(number, 0, token=1)
    for number in range(4):
        await world.read(number, 10)
    sizes = [sum(batch.size_bytes for _, _, batch in poll) for poll in world.polls]
    assert max(sizes) < 5_000 + 1_100


async def test_what_waits_for_room_is_bounded(
    worlds: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """F4: the bytes are dropped and fetched again."""
    monkeypatch.setattr(reader, "BUFFERED_BYTES_MAX", 8_000)
    world = await with_records_that_wait(worlds)
    full = world.reader._fetches.full
    await world.until(lambda: sum(waiting_bytes(r) for r in [*full.values()]) <= 8_000)
    await all_of_them(world)


async def test_unpacked_batches_that_wait_are_bounded(
    worlds: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """F4: they stay packed, and are unpacked again."""
    monkeypatch.setattr(reader, "UNPACKED_BATCHES_MAX", 0)
    world = await with_records_that_wait(worlds)
    full = world.reader._fetches.full
    await world.until(
        lambda: all(r.batches and not r.batches.unpacked_bytes for r in full.values())
    )
    assert full.keys() == {0, 1, 2}
    await all_of_them(world)


async def with_records_that_wait(worlds: Callable[..., World]) -> World:
    """Of each partition one record was delivered, and the rest of its batches waits for room."""
    world = worlds(partitions=3)
    for number in range(3):
        world.cluster.append(number, *[b"%d" % n * 300 for n in range(10)], codec=raw.GZIP)
        world.cluster.append(number, *[b"v" * 1000] * 5)
        world.room[number] = 1
        world.reader.start(number, 0, token=1)
    for number in range(3):
        await world.until(partial(world.offsets, number))
    return world


async def all_of_them(world: World) -> None:
    for number in range(3):
        world.room[number] = 1 << 30
    world.reader.look()
    for number in range(3):
        assert await world.read(number, 15, token=1) == list(range(15))


async def test_aborted_transactions_are_skipped(worlds: Callable[..., World]) -> None:
    world = worlds()
    one, kind = [raw.Record(b"1", b"v")], raw.TRANSACTIONAL
    world.cluster.append_batch(0, raw.batch_of(raw.NONE, one, attributes=kind, producer=7))
    world.cluster.append_batch(0, raw.marker(0, 7, aborts=True))
    world.cluster.append_batch(0, raw.batch_of(raw.NONE, one, attributes=kind, producer=7))
    world.cluster.append_batch(0, raw.marker(0, 7, aborts=False))
    world.cluster.logs[0].aborted = [(7, 0)]
    world.reader.start(0, 0, token=1)
    assert await world.read(0, 4, token=1) == [2]


async def test_updates_that_cannot_be_read(worlds: Callable[..., World]) -> None:
    world = worlds()
    world.cluster.append(0, b"a")
    bad = raw.batch_of(raw.ZSTD, [raw.Record(b"1", b"v")] * 3, b"garbage!" * 9)
    world.cluster.append_batch(0, bad)
    world.cluster.append(0, b"b")
    world.reader.start(0, 0, token=1)
    assert await world.read(0, 5, token=1) == [0, 3, 4]
    unread = [record for batch in world.batches() for record in batch.records][1]
    assert isinstance(unread, UnreadBatch)
    assert (unread.first, unread.offset, unread.raw) == (1, 3, raw.at(1, bad))


async def test_queries_that_cannot_be_read(
    worlds: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    world, before = worlds(QUERIES), metrics.QUERY_BATCHES_SKIPPED._value.get()
    world.cluster.append(0, b"a")
    for codec in (raw.ZSTD, raw.LZ4):
        world.cluster.append_batch(0, raw.bomb(codec, QUERIES.unpacked_bytes_max + 1, count=2))
    world.cluster.append(0, b"b")
    world.reader.start(0, 0, token=1)
    assert await world.read(0, 6, token=1) == [0, 5]
    assert metrics.QUERY_BATCHES_SKIPPED._value.get() == before + 2
    said = [r.getMessage() for r in caplog.records if "query_batch_skipped" in r.getMessage()]
    assert any("partition=0 offset=1 last_offset=" in line for line in said)
    assert any("last_offset=4 " in line for line in said)


async def test_damage_on_the_way(worlds: Callable[..., World]) -> None:
    """Fetched again, nothing of it is lost or taken twice."""
    world = worlds()
    for _ in range(3):
        world.cluster.append(0, b"a", b"b")
    size = len(world.cluster.logs[0].batches[0])
    world.broker.damages.extend([size + 65, 12])  # in the second batch, then in the first one
    world.reader.start(0, 0, token=1)
    assert await world.read(0, 6, token=1) == list(range(6))
    assert all(not isinstance(r, UnreadBatch) for b in world.batches() for r in b.records)


async def test_damage_that_stays(
    worlds: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    world = worlds()
    damaged = bytearray(raw.batch_of(raw.NONE, [raw.Record(b"1", b"v")] * 2))
    damaged[-3] ^= 1
    world.cluster.append(0, b"a")
    world.cluster.append_batch(0, bytes(damaged))
    world.cluster.append(0, b"b")
    world.reader.start(0, 0, token=1)
    assert await world.read(0, 4, token=1) == [0, 2, 3]
    tries = [asked for asked in world.broker.asked if asked.positions == {0: 1}]
    assert len(tries) >= reading.DAMAGED_TRIES
    assert sum("batch_damaged" in r.getMessage() for r in caplog.records) == reading.DAMAGED_TRIES


async def test_the_leader_moves(worlds: Callable[..., World]) -> None:
    world = worlds(partitions=2, brokers=2)
    for number in range(2):
        world.cluster.append(number, b"a")
        world.reader.start(number, 0, token=1)
        await world.read(number, 1)
    world.cluster.leaders[0] = 1
    world.cluster.append(0, b"b")
    world.cluster.append(1, b"b")
    for number in range(2):
        assert await world.read(number, 2, token=1) == [0, 1]
    assert [asked.positions.keys() for asked in world.cluster.brokers[1].asked][-1] == {0}


async def test_a_leader_that_moves_without_an_answer_of_the_old_one(
    worlds: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaders, "REFRESH_S", 0.05)
    world = worlds(waiting(), partitions=2, brokers=2)
    world.cluster.append(0, b"a")
    world.reader.start(0, 0, token=1)
    await world.read(0, 1)
    world.broker.is_silent = True  # its fetch has a minute before its answer is late
    world.cluster.append(0, b"b")
    world.cluster.leaders[0] = 1
    monkeypatch.setattr(world.reader._fetches.leaders, "_at", None)
    world.reader._fetches.leaders._close_socket()
    assert await world.read(0, 2, token=1) == [0, 1]
    world.broker.is_silent = False  # the late answer counts for nothing
    world.cluster.append(0, b"c")
    assert await world.read(0, 3, token=1) == [0, 1, 2]


async def test_connections_that_end(worlds: Callable[..., World]) -> None:
    world = worlds(waiting(), partitions=2)
    for number in range(2):
        world.reader.start(number, 0, token=1)
    for count in range(1, 6):
        await world.asked(lambda asked: asked.wait_ms > 0, since=len(world.broker.asked) - 1)
        world.broker.cut()
        for number in range(2):
            world.cluster.append(number, b"v")
            assert await world.read(number, count, token=1) == list(range(count))


async def test_a_broker_that_is_away(
    worlds: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    world = worlds(partitions=2, brokers=2)
    world.cluster.leaders[1] = 1
    for number in range(2):
        world.cluster.append(number, b"a")
        world.reader.start(number, 0, token=1)
        await world.read(number, 1)
    world.broker.stop()
    for number in range(2):
        world.cluster.append(number, b"b")
    assert await world.read(1, 2, token=1) == [0, 1]  # the other one serves
    await asyncio.sleep(0.2)
    assert world.offsets(0) == [0]
    world.broker.restart()
    assert await world.read(0, 2, token=1) == [0, 1]
    lines = [r.getMessage() for r in caplog.records if "not_read topic=t" in r.getMessage()]
    assert 1 <= len(lines) <= 3  # once a minute for each kind
    assert f"127.0.0.1:{world.broker.port}" in lines[0]


async def test_a_broker_that_does_not_answer(
    worlds: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_link, "RESPONSE_TIMEOUT_S", 0.2)
    gather = Gather(50, 1)
    world = worlds(UPDATES._replace(idle=gather, busy=gather))
    world.cluster.append(0, b"a")
    world.reader.start(0, 0, token=1)
    await world.read(0, 1)
    world.broker.is_silent = True
    await asyncio.sleep(0.5)
    world.broker.is_silent = False
    world.cluster.append(0, b"b")
    assert await world.read(0, 2, token=1) == [0, 1]
    assert len({asked.connection for asked in world.broker.asked}) > 1


async def test_metadata_of_a_broker_that_does_not_answer(
    worlds: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one is asked first, and the new leader does not wait for it."""
    monkeypatch.setattr(fetch_link, "RESPONSE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(broker, "CONNECT_TIMEOUT_S", 1000.0)
    gather = Gather(50, 1)
    world = worlds(UPDATES._replace(idle=gather, busy=gather), brokers=2)
    asked_first = Broker("127.0.0.1", world.broker.port)
    monkeypatch.setattr(world.reader._fetches.leaders, "_bootstrap", [asked_first])
    world.cluster.append(0, b"a")
    world.reader.start(0, 0, token=1)
    await world.read(0, 1)
    await asyncio.sleep(0.2)  # the question of the start is asked again once
    assert world.reader._fetches.leaders._at == asked_first
    world.broker.is_silent = True
    world.cluster.leaders[0] = 1
    world.cluster.append(0, b"b")
    assert await world.read(0, 2, token=1) == [0, 1]


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        struct.pack(">ii", 4, -5),
        struct.pack(">i", -1),
        struct.pack(">i", 2) + b"xx",
        struct.pack(">i", broker.RESPONSE_BYTES_MAX + 1) + bytes(100),
    ],
    ids=["HTTP", "another answer", "negative", "short", "too large"],
)
async def test_what_is_no_answer(
    worlds: Callable[..., World], response: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    world = worlds()
    world.cluster.append(0, b"a")
    world.reader.start(0, 0, token=1)
    await world.read(0, 1)
    world.broker.response = response
    world.cluster.append(0, b"b")
    assert await world.read(0, 2, token=1) == [0, 1]
    assert any("not_read topic=t" in r.getMessage() for r in caplog.records)
    assert world.refused == []


@pytest.mark.parametrize("code", [UNKNOWN_TOPIC, STORAGE, NOT_LEADER, 2, -1])
async def test_errors_that_pass(worlds: Callable[..., World], code: int) -> None:
    world = worlds()
    world.cluster.append(0, b"a")
    world.broker.fails[0] = deque([code] * 5)
    world.reader.start(0, 0, token=1)
    assert await world.read(0, 1, token=1) == [0]
    assert world.refused == []
    assert world.cluster.metadata_requests > 1


async def test_the_next_record_is_gone(worlds: Callable[..., World]) -> None:
    world = worlds()
    world.cluster.append(0, b"a", b"b")
    world.cluster.logs[0].start = 1
    world.reader.start(0, 0, token=1)
    await world.until(lambda: world.refused)
    (refused,) = world.refused
    assert isinstance(refused, DataLossError)
    assert "t partition 0: the next update to be read is outside the log" in str(refused)
    assert world.offsets() == []


async def test_an_old_leader_that_knows_no_better(worlds: Callable[..., World]) -> None:
    """It says that the offset is out of its range: it is asked again, or the new one is."""
    world = worlds()
    world.cluster.append(0, b"a")
    world.broker.fails[0] = deque([1] * (fetches.OUT_OF_RANGE_TRIES - 1))
    world.reader.start(0, 0, token=1)
    assert await world.read(0, 1, token=1) == [0]
    assert world.refused == []


@pytest.mark.parametrize("of", ["fetch", "topic"])
async def test_a_topic_that_may_not_be_read(worlds: Callable[..., World], of: str) -> None:
    world = worlds()
    if of == "fetch":
        world.broker.fails[0] = deque([NOT_ALLOWED])
    else:
        world.cluster.topic_error = NOT_ALLOWED
    world.reader.start(0, 0, token=1)
    await world.until(lambda: world.refused)
    assert isinstance(world.refused[0], GroupError)
    assert "t: this worker is not allowed to read it" in str(world.refused[0])


async def test_a_topic_that_is_not_there_yet(
    worlds: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    world = worlds()
    world.cluster.append(0, b"a")
    kept, world.cluster.leaders = world.cluster.leaders, {}
    world.cluster.topic_error = UNKNOWN_TOPIC
    world.reader.start(0, 0, token=1)
    await world.until(lambda: "UNKNOWN_TOPIC_OR_PARTITION" in caplog.text)
    world.cluster.topic_error, world.cluster.leaders = 0, kept
    assert await world.read(0, 1, token=1) == [0]


async def test_a_partition_without_leader(
    worlds: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    world = worlds(partitions=2)
    world.cluster.append(0, b"a")
    world.cluster.leaders[0] = -1
    world.reader.start(0, 0, token=1)
    await world.until(lambda: "t partitions [0]: there is no leader" in caplog.text)
    world.cluster.leaders[0] = 0
    assert await world.read(0, 1, token=1) == [0]


async def test_fetches_gather_records_while_they_come(worlds: Callable[..., World]) -> None:
    idle, busy = Gather(2_000, 1), Gather(30, 1 << 20)
    world = worlds(UPDATES._replace(idle=idle, busy=busy))
    world.reader.start(0, 0, token=1)
    first = await world.asked(lambda asked: asked.wait_ms > 0)
    assert (first.wait_ms, first.bytes_min) == idle
    world.cluster.append(0, b"a")
    await world.read(0, 1)
    later = await world.asked(lambda asked: asked.positions == {0: 1})
    assert (later.wait_ms, later.bytes_min) == busy


async def test_a_bug_ends_the_worker(worlds: Callable[..., World]) -> None:
    world = worlds()

    def wants(_number: int) -> int:
        raise ZeroDivisionError

    world.reader._wants = wants
    world.reader.start(0, 0, token=1)
    await world.until(lambda: world.refused)
    assert isinstance(world.refused[0], ZeroDivisionError)


async def test_close(worlds: Callable[..., World]) -> None:
    world = worlds(waiting())
    world.reader.start(0, 0, token=1)
    await world.asked(lambda asked: asked.wait_ms > 0)
    world.reader.close()
    assert world.reader._thread is not None
    assert not world.reader._thread.is_alive()
    never_started = World()
    never_started.close()


def test_addresses() -> None:
    assert leaders.addresses("a:1, b ,[::1]:3,[::2]") == [
        ("a", 1), ("b", 9092), ("::1", 3), ("::2", 9092),
    ]  # fmt: skip
