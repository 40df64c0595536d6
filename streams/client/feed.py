"""The change feed as a client reads it: an asynchronous iterator over a consumer in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from readstates.schemas.changes import Change, decode_change
from readstates.schemas.headers import headers_of

START_TIMEOUT_S = 15.0  # of each request to the brokers at the start
POLL_S = 0.1
TAKEN_MAX = 500  # records that are taken from the consumer at once
RESETS = {"end": "latest", "start": "earliest"}  # where a group without a position begins
WAITING_MAX = 2_000  # records that wait for their reader; then the thread takes no more

From = Literal["end", "start"] | Mapping[int, int]
Item = Change | Exception


class FeedGapError(Exception):
    """Records of the change feed are gone before they were read: ask for all read states again.

    They were in `partition`, from `offset` on. Records are kept for an hour by default.
    """

    def __init__(self, partition: int, offset: int, text: str) -> None:
        super().__init__(
            f"the change feed has a gap: partition {partition} cannot be read from offset {offset} "
            f"on ({text}). Ask for the read states again, and then read the feed from its end"
        )
        self.partition, self.offset = partition, offset


class ChangeFeed:
    """`async for change in feed`; `Client.changes` makes it and says what its arguments are.

    `positions` has the next offset of each partition, as of the last change that was handed out.
    It is what `from_` takes to go on later.
    """

    def __init__(
        self,
        config: dict[str, Any],
        topic: str,
        from_: From,
        group: str | None,
        wanted: Callable[[int], bool] | None,
    ) -> None:
        if group is not None and not isinstance(from_, str):
            raise ValueError("a group keeps its own positions: give either positions or a group")
        self._topic, self._from, self._group = topic, from_, group
        self._wanted = wanted
        own = {
            "group.id": group
            or f"read-states-feed-{uuid.uuid4()}",  # without a group: never joined
            "enable.auto.commit": group is not None,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error" if group is None else RESETS[str(from_)],
            "fetch.wait.max.ms": 100,
            "allow.auto.create.topics": False,
        }
        self._config = {**own, **config}
        self.positions: dict[int, int] = {}
        self._consumer: Consumer | None = None
        self._queue: asyncio.Queue[list[tuple[int, int, Item]]] = asyncio.Queue()
        self._ready: list[tuple[int, int, Item]] = []
        self._dealt_with: dict[int, int] = {}  # positions for the group; the thread takes them
        self._waiting = 0  # records in the queue; only the loop adds and takes
        self._room = threading.Event()
        self._room.set()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    async def start(self) -> Self:
        """Find the place from which to read; changes from this moment on are not missed.

        The first `async for` step does this, too. Raises ConnectionError.
        """
        if self._thread is None and not self._stopping.is_set():
            self._loop = asyncio.get_running_loop()
            await asyncio.to_thread(self._connect)
            self._thread = threading.Thread(target=self._read, daemon=True)
            self._thread.start()
        return self

    async def close(self) -> None:
        """Stop reading. A group's position is committed."""
        self._stopping.set()
        self._room.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        self._queue.put_nowait([])

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        await self.start()
        while not self._ready:
            if self._stopping.is_set() and self._queue.empty():
                raise StopAsyncIteration
            batch = await self._queue.get()
            self._ready = batch[::-1]
            self._waiting -= len(batch)
            if self._waiting < WAITING_MAX:
                self._room.set()
        partition, following, item = self._ready.pop()
        if isinstance(item, Exception):
            raise item
        self._note(partition)
        self.positions[partition] = following
        return item

    def _note(self, partition: int) -> None:
        """The change before this one has been dealt with: a group may commit it."""
        if self._group is not None and partition in self.positions:
            self._dealt_with[partition] = self.positions[partition]

    # -- threads ------------------------------------------------------------------------------

    def _connect(self) -> None:
        consumer = Consumer(self._config)
        try:
            topic = consumer.list_topics(self._topic, timeout=START_TIMEOUT_S).topics[self._topic]
            if topic.error is not None:
                raise ConnectionError(
                    f"topic {self._topic}: {topic.error.str()}; workers write it with CHANGES=on, "
                    "and `readstates init --changes on` makes it"
                )
            if self._group is not None:
                consumer.subscribe([self._topic])
            else:
                places = [TopicPartition(self._topic, number) for number in topic.partitions]
                for place in places:
                    place.offset = self._begin(consumer, place)
                    self.positions[place.partition] = place.offset
                consumer.assign(places)
        except KafkaException as exc:
            consumer.close()
            raise ConnectionError(f"the change feed cannot be read: {exc}") from None
        except ConnectionError:
            consumer.close()
            raise
        self._consumer = consumer

    def _begin(self, consumer: Consumer, place: TopicPartition) -> int:
        low, high = consumer.get_watermark_offsets(place, timeout=START_TIMEOUT_S)
        if isinstance(self._from, Mapping):
            return self._from.get(place.partition, high)
        return int(high if self._from == "end" else low)

    def _read(self) -> None:
        consumer = self._consumer
        assert consumer is not None
        while not self._stopping.is_set():
            self._store(consumer)
            if not self._room.wait(POLL_S):
                continue
            message = consumer.poll(POLL_S)
            if message is None:
                continue
            messages = [message, *consumer.consume(TAKEN_MAX, 0)]
            items = [item for message in messages if (item := self._item(message)) is not None]
            if items:
                self._loop.call_soon_threadsafe(self._arrived, items)
        self._store(consumer)
        consumer.close()

    def _store(self, consumer: Consumer) -> None:
        """Store a group's positions, to be committed. A consumer may be used by one thread only."""
        while self._dealt_with:
            partition, position = self._dealt_with.popitem()
            with contextlib.suppress(KafkaException):  # the partition has another owner now
                consumer.store_offsets(offsets=[TopicPartition(self._topic, partition, position)])

    def _arrived(self, items: list[tuple[int, int, Item]]) -> None:
        self._waiting += len(items)
        if self._waiting >= WAITING_MAX:
            self._room.clear()
        self._queue.put_nowait(items)

    def _item(self, message: Message) -> tuple[int, int, Item] | None:
        """A change, or the error that ends the reading; None for what its reader does not want."""
        partition, offset = message.partition() or 0, message.offset() or 0
        error = message.error()
        if error is not None:
            if error.code() in GONE:
                at = self.positions.get(partition, offset)
                return partition, at, FeedGapError(partition, at, error.str())
            return None if error.retriable() else (partition, offset, KafkaException(error))
        key = message.key()
        try:
            if self._wanted is not None and not (key and self._wanted(int(key))):
                return None
            return partition, offset + 1, decode_change(message.value(), headers_of(message))
        except ValueError:  # whoever wrote it, it is no change
            return None


GONE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}
