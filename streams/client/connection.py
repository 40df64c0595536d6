"""A client's connection to Kafka: producers, a consumer of replies, and the pending queries.

A producer for updates, one for queries, and a consumer, which reads the reply topic from its end,
without a group. A query is pending until its reply comes or its deadline passes; late and repeated
replies are ignored. At most PENDING_MAX queries are pending at once.

After a topic was deleted and made anew, a producer or consumer may go on asking the leaders of the
old one for ever (librdkafka issue 4898). So if a query gets no reply, or the brokers do not take an
update, a thread looks whether one of the topics was made anew, at most once in LOOK_S. If so, what
uses that topic is made anew as well. Nothing is sent again: whoever got the error may do so.
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

PENDING_MAX = 10_000  # queries
START_TIMEOUT_S = 15.0  # of each request to the brokers at the start
DELIVERY_TIMEOUT_S = 30.0
POLL_S = 0.1
LOOK_S = 10.0  # between two looks whether a topic was made anew
PURGE_S = 1.0  # for the reports of a producer that is given up
DRAIN_MESSAGES = 500  # the most replies that are taken at once
REPLY_RETENTION_MS = 600_000  # of a reply topic that the client creates
SENDING = {
    "partitioner": "murmur2_random",
    "allow.auto.create.topics": False,
    "message.timeout.ms": int(DELIVERY_TIMEOUT_S * 1000),  # then the producer gives up
}
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
        self.config = {
            "bootstrap.servers": bootstrap,
            "log_level": 0,  # errors are raised and not printed
            "error_cb": self._failures.append,
            **config,
        }
        self._reply_topic = reply_topic
        self._updates, self._queries = f"{topic_prefix}.updates", f"{topic_prefix}.queries"
        self.changes_topic = f"{topic_prefix}.changes"
        self._create = create_reply_topic
        self._pending: dict[bytes, asyncio.Future[Reply | ErrorReply]] = {}
        self._prefix, self._numbers = os.urandom(8), itertools.count()  # of correlation IDs
        names = self._updates, self._queries, self._reply_topic
        self._topic_ids = TopicIds(self.config, names)
        self._suspected = threading.Event()  # something was not delivered, or not answered
        self._next_consumer: Consumer | None = None  # the thread uses it from its next turn on
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._published: set[asyncio.Future[int]] = set()  # not yet acknowledged
        self._broken = ""  # why a thread has ended

    async def start(self) -> None:
        """Connect to the brokers, and start the threads.

        Raises ConnectionError, which says what is missing, within a few times START_TIMEOUT_S.
        """
        self._loop = asyncio.get_running_loop()
        self._producer, self._asking = self._make_producer(), self._make_asking()
        await asyncio.to_thread(self._connect)
        for target in (self._deliver, self._read):
            self._threads.append(threading.Thread(target=self._run, args=(target,), daemon=True))
            self._threads[-1].start()
        threading.Thread(target=self._look, daemon=True).start()  # nobody waits for its end

    def _make_producer(self) -> Producer:
        """The producer of updates."""
        return Producer({**SENDING, "enable.idempotence": True, "linger.ms": 1, **self.config})

    def _make_asking(self) -> Producer:
        """The producer of queries. A query is sent at once, and may arrive twice: its second reply
        is ignored.
        """
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
            "group.id": f"read-states-client-{self._prefix.hex()}",  # never joined
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 100,
        }
        return Consumer({**config, **self.config})

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
            f"no Kafka answers at {self.config['bootstrap.servers']}: {(causes or [exc])[0]}. "
            "Check the address; to start one here: readstates stack up"
        )

    async def close(self) -> None:
        """Send what is queued, within DELIVERY_TIMEOUT_S; pending queries raise TimeoutError."""
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
        """Run a thread's work. If it fails, end every wait for what it would have brought."""
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
        """Make anew what uses a topic that was made anew, if something has failed."""
        anew = set[str]()
        while self._suspected.wait() and not self._stopping.is_set():
            self._suspected.clear()
            anew |= self._topic_ids.look()
            if self._stopping.is_set():
                break
            anew -= {topic for topic in anew if self._renew(topic)}
            self._stopping.wait(LOOK_S)

    def _renew(self, topic: str) -> bool:
        """Use another producer or consumer for a topic; False if that is not possible yet."""
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
            "client_renewed topic=%s: the topic was deleted and made anew, so this client uses a "
            "new connection for it",
            topic,
        )
        return True

    def _renew_producer(self, name: str, renewed: Producer) -> None:
        """Use another producer; what the old one has not delivered is reported as failed."""
        old: Producer = getattr(self, name)
        is_replaced = threading.Event()

        def replace() -> None:  # on the loop, like `produce`: nothing comes to the old one later
            setattr(self, name, renewed)
            is_replaced.set()

        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(replace)
            is_replaced.wait(START_TIMEOUT_S)
        old.purge()
        old.flush(PURGE_S)

    def _renew_consumer(self) -> None:
        """Read the reply topic from its beginning: it may have replies to what is pending."""
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
            self._suspected.set()
            raise TimeoutError(
                f"no reply within {deadline_s} s: is a worker for {self._queries} running, and "
                f"does its REPLY_TOPICS allow {self._reply_topic}? If the brokers want a login: "
                f"may this one write to {self._queries} and read {self._reply_topic}?"
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
