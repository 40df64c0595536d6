"""A client's Kafka connection: two producers, a consumer of replies, and the pending queries.

One producer sends updates and the other sends queries. The consumer reads the reply topic from its
end, without a group. A query is pending until its reply arrives or its deadline passes. The client
ignores late and repeated replies.

librdkafka has a bug (issue 4898): after a topic was deleted and recreated, a producer or consumer
may keep asking the leaders of the deleted topic forever. So after a missing reply or a failed
update, a thread checks the IDs of the topics, at most once per LOOK_S. If a topic was recreated,
the thread replaces the producer or consumer of that topic. The client does not resend failed
updates or queries. The caller can do that.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic

from readstates.schemas.headers import HEADER_CORRELATION_ID, headers_of, query_headers
from readstates.schemas.queries import Get, encode_query
from readstates.schemas.replies import OVERLOADED, ErrorReply, Reply, decode_reply
from readstates.schemas.wire import key_bytes

from .topic_ids import TopicIds

log = logging.getLogger(__name__)

PENDING_MAX = 10_000  # most pending queries at a time
START_TIMEOUT_S = 15.0  # for each request to the brokers in `start`
DELIVERY_TIMEOUT_S = 30.0
POLL_S = 0.1
LOOK_S = 10.0  # minimum time between two checks of the topic IDs
PURGE_S = 1.0  # how long to wait for the last delivery reports of a replaced producer
DRAIN_MESSAGES = 500  # most replies per turn
REPLY_RETENTION_MS = 600_000  # retention of a reply topic that the client creates
SENDING = {
    "partitioner": "murmur2_random",
    "allow.auto.create.topics": False,
    "message.timeout.ms": int(DELIVERY_TIMEOUT_S * 1000),
}
NOT_SHOWN_YET = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.LEADER_NOT_AVAILABLE}


class QueryError(Exception):
    """The service replied with an error. `code` says which error.

    - `invalid_query`: correct the query.
    - `store_unavailable` or `not_caught_up`: send the query again.
    - `overloaded`: send the query again after a pause.
    - `reply_too_large`: request `limit` read states at once, or fewer than before if `limit` is
      None. `Client.get` without a limit handles this error itself.
    """

    def __init__(self, code: str, message: str, limit: int | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.limit = limit


class Connection:
    """The producers and consumer of one client; `Client` describes the arguments."""

    def __init__(
        self,
        bootstrap: str,
        reply_topic: str,
        topic_prefix: str,
        create_reply_topic: bool,
        config: dict[str, Any],
    ) -> None:
        self._failures: list[KafkaError] = []
        self.config = {
            "bootstrap.servers": bootstrap,
            "log_level": 0,  # do not print errors; methods raise them
            "error_cb": self._failures.append,
            **config,
        }
        self._reply_topic = reply_topic
        self._updates, self._queries = f"{topic_prefix}.updates", f"{topic_prefix}.queries"
        self.changes_topic = f"{topic_prefix}.changes"
        self._create = create_reply_topic
        self._pending: dict[bytes, asyncio.Future[Reply | ErrorReply]] = {}
        self._prefix, self._numbers = os.urandom(8), itertools.count()  # for correlation IDs
        names = self._updates, self._queries, self._reply_topic
        self._topic_ids = TopicIds(self.config, names)
        self._suspected = threading.Event()  # set if a topic may have been recreated
        self._next_consumer: Consumer | None = None  # `_read` switches to it
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._published: set[asyncio.Future[int]] = set()  # updates without an acknowledgment
        self._broken = ""  # why a thread died

    async def start(self) -> None:
        """Connect to the brokers and start the threads; see `Client.start`."""
        self._loop = asyncio.get_running_loop()
        self._producer, self._asking = self._make_producer(), self._make_asking()
        await asyncio.to_thread(self._connect)
        for target in (self._deliver, self._read):
            self._threads.append(threading.Thread(target=self._run, args=(target,), daemon=True))
            self._threads[-1].start()
        threading.Thread(target=self._look, daemon=True).start()  # `close` does not join it

    def _make_producer(self) -> Producer:
        """Return a producer of updates."""
        return Producer({**SENDING, "enable.idempotence": True, "linger.ms": 1, **self.config})

    def _make_asking(self) -> Producer:
        """Return a producer of queries. It sends without delay, and may send a query twice."""
        return Producer({**SENDING, "linger.ms": 0, **self.config})

    def _connect(self) -> None:
        if self._create:
            try:
                create_reply_topic(AdminClient(self.config), self._reply_topic)
            except (KafkaException, TimeoutError) as exc:
                raise self._no_answer(exc) from None
        self._consumer = self._make_consumer()
        partitions = self._partitions(self._reply_topic, "create it, or set create_reply_topic")
        for topic in (self._updates, self._queries):
            self._partitions(topic, "check topic_prefix, or create the topics: readstates init")
        places = [TopicPartition(self._reply_topic, number) for number in partitions]
        for place in places:
            _, place.offset = self._consumer.get_watermark_offsets(place, timeout=START_TIMEOUT_S)
        self._consumer.assign(places)
        self._topic_ids.look()

    def _make_consumer(self) -> Consumer:
        config = {
            "group.id": f"read-states-client-{self._prefix.hex()}",  # the consumer never joins it
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 100,
        }
        return Consumer({**config, **self.config})

    def _partitions(self, name: str, remedy: str) -> list[int]:
        """Return the numbers of a topic's partitions."""
        try:
            topic = self._consumer.list_topics(name, timeout=START_TIMEOUT_S).topics[name]
        except KafkaException as exc:
            raise self._no_answer(exc) from None
        if topic.error is not None:
            raise ConnectionError(f"topic {name}: {topic.error.str()}; {remedy}")
        return list(topic.partitions)

    def _no_answer(self, exc: Exception) -> ConnectionError:
        known = [f for f in self._failures if f.code() != KafkaError._ALL_BROKERS_DOWN]
        causes = [f.str() or f.name() for f in known]
        return ConnectionError(
            f"no Kafka answers at {self.config['bootstrap.servers']}: {(causes or [exc])[0]}. "
            "Check the address. To start a local Kafka: readstates stack up"
        )

    async def close(self) -> None:
        """Send queued updates and stop the threads; see `Client.close`."""
        self._stopping.set()
        self._suspected.set()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        await asyncio.to_thread(self._asking.flush, DELIVERY_TIMEOUT_S)
        await asyncio.to_thread(self._producer.flush, DELIVERY_TIMEOUT_S)
        for consumer in (self._consumer, self._next_consumer):
            if consumer is not None:
                consumer.close()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(TimeoutError("the client was closed"))
        self._pending.clear()

    # -- threads ------------------------------------------------------------------------------

    def _run(self, target: Callable[[], None]) -> None:
        """Run a thread. If the thread fails, all waiting callers get a ConnectionError."""
        try:
            target()
        except Exception as exc:  # noqa: BLE001 (any error ends the thread)
            self._loop.call_soon_threadsafe(self._end, f"a thread of the client died: {exc!r}")

    def _end(self, why: str) -> None:
        self._broken = why
        waiting: list[asyncio.Future[Any]] = [*self._pending.values(), *self._published]
        for future in waiting:
            if not future.done():
                future.set_exception(ConnectionError(why))

    def _deliver(self) -> None:
        while not self._stopping.is_set():
            self._producer.poll(POLL_S)
            self._asking.poll(0)  # reports errors

    def _read(self) -> None:
        while not self._stopping.is_set():
            if self._next_consumer is not None:
                self._consumer.close()
                self._consumer, self._next_consumer = self._next_consumer, None
            message = self._consumer.poll(POLL_S)
            if message is None:
                continue
            messages = [message, *self._consumer.consume(DRAIN_MESSAGES, 0)]
            replies = [reply for message in messages if (reply := _reply_of(message)) is not None]
            if replies:
                self._loop.call_soon_threadsafe(self._arrived, replies)

    def _arrived(self, replies: list[tuple[bytes, bytes]]) -> None:
        for correlation_id, body in replies:
            future = self._pending.pop(correlation_id, None)
            if future is None or future.done():
                continue
            try:
                future.set_result(decode_reply(body))
            except ValueError as exc:
                future.set_exception(exc)

    def _look(self) -> None:
        """After a failure, replace the clients of recreated topics."""
        anew = set[str]()
        while self._suspected.wait() and not self._stopping.is_set():
            self._suspected.clear()
            anew |= self._topic_ids.look()
            if self._stopping.is_set():
                break
            anew -= {topic for topic in anew if self._renew(topic)}
            self._stopping.wait(LOOK_S)

    def _renew(self, topic: str) -> bool:
        """Replace the producer or consumer of a topic. Return False if that fails for now."""
        try:
            if topic == self._reply_topic:
                self._renew_consumer()
            elif topic == self._updates:
                self._renew_producer("_producer", self._make_producer())
            else:
                self._renew_producer("_asking", self._make_asking())
        except KafkaException as exc:
            log.warning("client_not_renewed topic=%s error=%s", topic, exc)
            return False
        log.warning(
            "client_renewed topic=%s: the topic was deleted and recreated, so this client uses a "
            "new connection for the topic",
            topic,
        )
        return True

    def _renew_producer(self, name: str, renewed: Producer) -> None:
        """Replace a producer. The old producer reports its pending records as failed."""
        old: Producer = getattr(self, name)
        is_replaced = threading.Event()

        def replace() -> None:  # on the loop, so that no `produce` runs at the same time
            setattr(self, name, renewed)
            is_replaced.set()

        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(replace)
            is_replaced.wait(START_TIMEOUT_S)
        old.purge()
        old.flush(PURGE_S)

    def _renew_consumer(self) -> None:
        """Read the reply topic from its beginning, to find replies to pending queries."""
        consumer = self._make_consumer()
        found = consumer.list_topics(self._reply_topic, timeout=START_TIMEOUT_S)
        topic = found.topics[self._reply_topic]
        if topic.error is not None:
            raise KafkaException(topic.error)
        places = [TopicPartition(self._reply_topic, n, OFFSET_BEGINNING) for n in topic.partitions]
        consumer.assign(places)
        self._next_consumer = consumer

    # -- queries and updates ------------------------------------------------------------------

    async def ask(self, get: Get, deadline_s: float) -> Reply:
        """Send a query and return its reply. Raises the same errors as `Client.get`."""
        if self._broken:
            raise ConnectionError(self._broken)
        if len(self._pending) >= PENDING_MAX:
            raise QueryError(OVERLOADED, f"{PENDING_MAX} queries are pending in this client")
        correlation_id = self._prefix + next(self._numbers).to_bytes(8, "big")
        future: asyncio.Future[Reply | ErrorReply] = self._loop.create_future()
        self._pending[correlation_id] = future
        deadline_ms = int((time.time() + deadline_s) * 1000)
        headers = query_headers(self._reply_topic, correlation_id, deadline_ms)
        value, key = encode_query(get), key_bytes(get.user_id)
        try:
            self._asking.produce(self._queries, value, key, headers=headers)
            reply = await asyncio.wait_for(future, deadline_s)
        except TimeoutError:
            self._suspected.set()
            raise TimeoutError(
                f"no reply within {deadline_s} s: is a worker for {self._queries} running, and "
                f"does its REPLY_TOPICS allow {self._reply_topic}? If the brokers require a login: "
                f"may this login write to {self._queries} and read {self._reply_topic}?"
            ) from None
        finally:
            self._pending.pop(correlation_id, None)
        if isinstance(reply, ErrorReply):
            raise QueryError(reply.code, reply.message, reply.limit)
        return reply

    async def publish(self, key: bytes, value: bytes) -> int:
        """Publish a record and return its offset. Raises the same errors as `Client.publish`."""
        if self._broken:
            raise ConnectionError(self._broken)
        future: asyncio.Future[int] = self._loop.create_future()

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self._suspected.set()
            self._loop.call_soon_threadsafe(_resolve, future, error, message.offset())

        self._producer.produce(self._updates, value, key, on_delivery=delivered)
        self._published.add(future)
        try:
            return await future  # the producer's own timeout ends the wait
        finally:
            self._published.discard(future)


def create_reply_topic(admin: AdminClient, name: str) -> None:
    """Create a reply topic with one partition if it is missing. Wait until it is visible.

    Raises ConnectionError if the brokers do not create the topic. Raises TimeoutError or
    KafkaException if they do not answer within START_TIMEOUT_S.
    """
    topic = NewTopic(name, 1, -1, config={"retention.ms": str(REPLY_RETENTION_MS)})
    (future,) = admin.create_topics([topic]).values()
    try:
        future.result(timeout=START_TIMEOUT_S)
    except KafkaException as exc:
        if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise ConnectionError(f"cannot create topic {name}: {exc}") from exc
    end = time.monotonic() + START_TIMEOUT_S
    while error := admin.list_topics(name, timeout=START_TIMEOUT_S).topics[name].error:
        if error.code() not in NOT_SHOWN_YET or time.monotonic() > end:
            raise ConnectionError(f"topic {name} was created but is not visible: {error.str()}")
        time.sleep(POLL_S)


def _reply_of(message: Message) -> tuple[bytes, bytes] | None:
    """Return (correlation ID, body) of a reply, or None for any other message."""
    if message.error() is not None:
        return None
    correlation_id = dict(headers_of(message)).get(HEADER_CORRELATION_ID)
    body = message.value()
    if not isinstance(correlation_id, bytes) or not isinstance(body, bytes):
        return None
    return correlation_id, body


def _resolve(future: asyncio.Future[int], error: KafkaError | None, offset: int | None) -> None:
    if error is None and not future.done():
        future.set_result(offset or 0)
    elif not future.done():
        future.set_exception(KafkaException(error))
