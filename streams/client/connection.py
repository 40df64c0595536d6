"""A client's connection to Kafka: producers, a consumer of replies, and the pending queries.

A producer for updates, one for queries, and a consumer, which reads the reply topic from its end,
without a group. A query is pending until its reply comes or its deadline passes; late and repeated
replies are ignored. At most PENDING_MAX queries are pending at once.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from readstates.schemas.headers import HEADER_CORRELATION_ID, headers_of, query_headers
from readstates.schemas.queries import Get, encode_query
from readstates.schemas.replies import OVERLOADED, ErrorReply, Reply, decode_reply
from readstates.schemas.wire import key_bytes

PENDING_MAX = 10_000  # queries
START_TIMEOUT_S = 15.0  # of each request to the brokers at the start
DELIVERY_TIMEOUT_S = 30.0
POLL_S = 0.1
DRAIN_MESSAGES = 500  # the most replies that are taken at once
REPLY_RETENTION_MS = 600_000  # of a reply topic that the client creates
NOT_SHOWN_YET = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.LEADER_NOT_AVAILABLE}


class QueryError(Exception):
    """The service answered with an error; `code` says which, and what to do about it.

    After `invalid_query`, correct the query. After `store_unavailable` or `not_caught_up`, ask
    again. After `overloaded`, ask again after a pause. After `reply_too_large`, ask for `limit`
    read states at once, if the service names one, or for fewer than before (`Client.get` without a
    limit does so by itself).
    """

    def __init__(self, code: str, message: str, limit: int | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.limit = limit


class Connection:
    """One client's producers and consumer; `Client` says what the arguments are."""

    def __init__(
        self,
        bootstrap: str,
        reply_topic: str,
        topic_prefix: str,
        create_reply_topic: bool,
        config: dict[str, Any],
    ) -> None:
        self._failures: list[KafkaError] = []
        self._config = {
            "bootstrap.servers": bootstrap,
            "log_level": 0,  # errors are raised and not printed
            "error_cb": self._failures.append,
            **config,
        }
        self._reply_topic = reply_topic
        self._updates, self._queries = f"{topic_prefix}.updates", f"{topic_prefix}.queries"
        self._create = create_reply_topic
        self._pending: dict[bytes, asyncio.Future[Reply | ErrorReply]] = {}
        self._prefix, self._numbers = os.urandom(8), itertools.count()  # of correlation IDs
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._published: set[asyncio.Future[int]] = set()  # not yet acknowledged
        self._broken = ""  # why a thread has ended

    async def start(self) -> None:
        """Connect to the brokers, and start the threads.

        Raises ConnectionError, which says what is missing, within a few times START_TIMEOUT_S.
        """
        self._loop = asyncio.get_running_loop()
        config = {
            "partitioner": "murmur2_random",
            "allow.auto.create.topics": False,
            "message.timeout.ms": int(DELIVERY_TIMEOUT_S * 1000),  # then the producer gives up
        }
        more = {"enable.idempotence": True, "linger.ms": 1}, {"linger.ms": 0}
        # A query is sent at once, and may arrive twice: its second reply is ignored.
        self._producer, self._asking = (Producer(config | one | self._config) for one in more)
        await asyncio.to_thread(self._connect)
        for target in (self._deliver, self._read):
            self._threads.append(threading.Thread(target=self._run, args=(target,), daemon=True))
            self._threads[-1].start()

    def _connect(self) -> None:
        if self._create:
            try:
                create_reply_topic(AdminClient(self._config), self._reply_topic)
            except (KafkaException, TimeoutError) as exc:
                raise self._no_answer(exc) from None
        config = {
            "group.id": f"read-states-client-{self._prefix.hex()}",  # never joined
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 100,
        }
        self._consumer = Consumer({**config, **self._config})
        partitions = self._partitions(self._reply_topic, "create it, or set create_reply_topic")
        for topic in (self._updates, self._queries):
            self._partitions(topic, "check topic_prefix, or create the topics: readstates init")
        places = [TopicPartition(self._reply_topic, number) for number in partitions]
        for place in places:
            _, place.offset = self._consumer.get_watermark_offsets(place, timeout=START_TIMEOUT_S)
        self._consumer.assign(places)

    def _partitions(self, name: str, remedy: str) -> list[int]:
        """The numbers of a topic's partitions."""
        try:
            topic = self._consumer.list_topics(name, timeout=START_TIMEOUT_S).topics[name]
        except KafkaException as exc:
            raise self._no_answer(exc) from None
        if topic.error is not None:
            raise ConnectionError(f"topic {name}: {topic.error.str()}; {remedy}")
        return list(topic.partitions)

    def _no_answer(self, exc: Exception) -> ConnectionError:
        causes = [f.str() for f in self._failures if f.code() != KafkaError._ALL_BROKERS_DOWN]
        return ConnectionError(
            f"no Kafka answers at {self._config['bootstrap.servers']}: {(causes or [exc])[0]}. "
            "Check the address; to start one here: readstates stack up"
        )

    async def close(self) -> None:
        """Send what is queued, within DELIVERY_TIMEOUT_S; pending queries raise TimeoutError."""
        self._stopping.set()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        await asyncio.to_thread(self._asking.flush, DELIVERY_TIMEOUT_S)
        await asyncio.to_thread(self._producer.flush, DELIVERY_TIMEOUT_S)
        self._consumer.close()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(TimeoutError("the client was closed"))
        self._pending.clear()

    # -- threads ------------------------------------------------------------------------------

    def _run(self, target: Callable[[], None]) -> None:
        """Run a thread's work; if it fails, nobody waits in vain for what it would have brought."""
        try:
            target()
        except Exception as exc:  # noqa: BLE001 (whatever it is, the thread is gone)
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
            self._asking.poll(0)  # for its errors

    def _read(self) -> None:
        while not self._stopping.is_set():
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

    # -- queries and updates ------------------------------------------------------------------

    async def ask(self, get: Get, deadline_s: float) -> Reply:
        """One query and its reply; raises what `Client.get` says."""
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
            raise TimeoutError(
                f"no reply within {deadline_s} s: is a worker for {self._queries} running, and "
                f"does its REPLY_TOPICS allow {self._reply_topic}?"
            ) from None
        finally:
            self._pending.pop(correlation_id, None)
        if isinstance(reply, ErrorReply):
            raise QueryError(reply.code, reply.message, reply.limit)
        return reply

    async def publish(self, key: bytes, value: bytes) -> int:
        """The offset of a record of `updates`; raises what `Client.publish` says."""
        if self._broken:
            raise ConnectionError(self._broken)
        future: asyncio.Future[int] = self._loop.create_future()

        def delivered(error: KafkaError | None, message: Message) -> None:
            self._loop.call_soon_threadsafe(_resolve, future, error, message.offset())

        self._producer.produce(self._updates, value, key, on_delivery=delivered)
        self._published.add(future)
        try:
            return await future  # the producer's own timeout ends the wait
        finally:
            self._published.discard(future)


def create_reply_topic(admin: AdminClient, name: str) -> None:
    """Create a reply topic with one partition if it is missing, and wait until the brokers show it.

    Raises ConnectionError if the brokers refuse it, and TimeoutError or KafkaException if they do
    not answer within START_TIMEOUT_S.
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
    """(correlation ID, body) of a reply; None for anything else."""
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
