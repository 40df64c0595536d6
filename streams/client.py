"""A client for producers and readers: asyncio first, `BlockingClient` a thin face on it.

    async with Client("127.0.0.1:9092", "read-states.replies.gateway-7") as client:
        offset = await client.ack(user_id=1, channel_id=2, message_id=3)
        reply = await client.get(1, after_offset=offset)

One confluent-kafka producer and one consumer; the consumer reads the reply topic's partitions from
their end, without a group. A pending query is popped by its reply or its deadline; late and double
replies are ignored. At most PENDING_MAX queries are pending.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic

from readstates.schemas.events import (
    Ack,
    BulkAck,
    Delete,
    DeleteUser,
    MarkUnread,
    Mention,
    PinsAck,
    RetractMention,
    Update,
)
from readstates.schemas.headers import HEADER_CORRELATION_ID, HEADER_DEADLINE, HEADER_REPLY_TOPIC
from readstates.schemas.queries import Get, encode_query
from readstates.schemas.replies import ErrorReply, Reply, decode_reply
from readstates.schemas.wire import decode_update, encode_update, key_bytes

P = ParamSpec("P")
T = TypeVar("T")

PENDING_MAX = 10_000
DEADLINE_S = 5.0
START_TIMEOUT_S = 15.0
DELIVERY_TIMEOUT_S = 30.0
POLL_S = 0.1
DRAIN_MESSAGES = 500


class QueryError(Exception):
    """The service answered with an error; `code` says which."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Client:
    """See the module. Not tied to a user; one a process is enough.

    `bootstrap`: brokers, host:port,…; `reply_topic`: must exist and match the service's
    REPLY_TOPICS, or is created with one partition if `create_reply_topic`; `config`: more
    librdkafka settings (SASL, TLS).
    """

    def __init__(
        self,
        bootstrap: str,
        reply_topic: str,
        *,
        topic_prefix: str = "read-states",
        create_reply_topic: bool = False,
        config: dict[str, Any] | None = None,
    ) -> None:
        self._failures: list[KafkaError] = []
        self._config = {
            "bootstrap.servers": bootstrap,
            "log_level": 0,  # what goes wrong is raised, not printed
            "error_cb": self._failures.append,
            **(config or {}),
        }
        self._reply_topic = reply_topic
        self._updates = f"{topic_prefix}.updates"
        self._queries = f"{topic_prefix}.queries"
        self._create = create_reply_topic
        self._pending: dict[bytes, asyncio.Future[Reply | ErrorReply]] = {}
        self._numbers = itertools.count()
        self._prefix = os.urandom(8)
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    async def __aenter__(self) -> Client:
        await self.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Connect. Raises ConnectionError, which says what is missing and what to do."""
        self._loop = asyncio.get_running_loop()
        self._producer = Producer(
            {
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "linger.ms": 1,
                "allow.auto.create.topics": False,
                "message.timeout.ms": int(DELIVERY_TIMEOUT_S * 1000),  # not delivered later either
                **self._config,
            }
        )
        await asyncio.to_thread(self._connect)
        for target in (self._deliver, self._read):
            thread = threading.Thread(target=target, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _connect(self) -> None:
        if self._create:
            self._create_topic()
        self._consumer = Consumer(
            {
                "group.id": f"read-states-client-{self._prefix.hex()}",  # never joined
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 100,
                **self._config,
            }
        )
        partitions = self._partitions(self._reply_topic, "create it, or set create_reply_topic")
        for topic in (self._updates, self._queries):
            self._partitions(topic, "check topic_prefix, or make it: readstates init")
        places = []
        for number in partitions:
            place = TopicPartition(self._reply_topic, number)
            _low, high = self._consumer.get_watermark_offsets(place, timeout=START_TIMEOUT_S)
            places.append(TopicPartition(self._reply_topic, number, high))
        self._consumer.assign(places)

    def _partitions(self, name: str, remedy: str) -> list[int]:
        """Numbers of a topic's partitions."""
        try:
            topic = self._consumer.list_topics(name, timeout=START_TIMEOUT_S).topics[name]
        except KafkaException as exc:
            raise self._silence(exc) from None
        if topic.error is not None:
            raise ConnectionError(f"topic {name}: {topic.error.str()}; {remedy}")
        return list(topic.partitions)

    def _silence(self, exc: Exception) -> ConnectionError:
        told = [one.str() for one in self._failures if one.code() != KafkaError._ALL_BROKERS_DOWN]
        return ConnectionError(
            f"no Kafka answers at {self._config['bootstrap.servers']}: {(told or [exc])[0]}. Check "
            "the address; to start one here: readstates stack up"
        )

    def _create_topic(self) -> None:
        new = NewTopic(self._reply_topic, 1, -1, config={"retention.ms": "600000"})
        admin = AdminClient(self._config)  # kept: it takes its futures with it
        (future,) = admin.create_topics([new]).values()
        try:
            future.result(timeout=START_TIMEOUT_S)
        except KafkaException as exc:
            if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise ConnectionError(f"cannot create topic {self._reply_topic}: {exc}") from exc
        except TimeoutError as exc:
            raise self._silence(exc) from None

    async def close(self) -> None:
        """Send what is queued and stop; pending queries raise TimeoutError."""
        self._stopping.set()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        await asyncio.to_thread(self._producer.flush, DELIVERY_TIMEOUT_S)
        self._consumer.close()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(TimeoutError("the client was closed"))
        self._pending.clear()

    # -- threads ------------------------------------------------------------------------------

    def _deliver(self) -> None:
        while not self._stopping.is_set():
            self._producer.poll(POLL_S)

    def _read(self) -> None:
        while not self._stopping.is_set():
            message = self._consumer.poll(POLL_S)
            messages = [] if message is None else [message]
            if messages:
                messages += self._consumer.consume(DRAIN_MESSAGES, 0)
            found = [reply for one in messages if (reply := _reply_of(one)) is not None]
            if found:
                self._loop.call_soon_threadsafe(self._arrived, found)

    def _arrived(self, found: list[tuple[bytes, bytes]]) -> None:
        for correlation_id, body in found:
            future = self._pending.pop(correlation_id, None)
            if future is None or future.done():
                continue
            try:
                future.set_result(decode_reply(body))
            except ValueError as exc:
                future.set_exception(exc)

    # -- queries ------------------------------------------------------------------------------

    async def get(
        self,
        user_id: int,
        channel_ids: Iterable[int] | None = None,
        *,
        read_state_type: int | None = None,
        since_version: int | None = None,
        after_offset: int | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> Reply:
        """A user's read states.

        Raises QueryError (the service's), TimeoutError (no reply), BufferError (the producer's
        queue is full: ask less at once).
        """
        if len(self._pending) >= PENDING_MAX:
            raise QueryError("overloaded", f"{PENDING_MAX} queries are pending in this client")
        channels = None if channel_ids is None else tuple(channel_ids)
        query = Get(user_id, channels, read_state_type, since_version, after_offset)
        correlation_id = self._prefix + next(self._numbers).to_bytes(8, "big")
        future: asyncio.Future[Reply | ErrorReply] = self._loop.create_future()
        self._pending[correlation_id] = future
        deadline_ms = int((time.time() + deadline_s) * 1000)
        headers: list[tuple[str, str | bytes | None]] = [
            (HEADER_REPLY_TOPIC, self._reply_topic.encode()),
            (HEADER_CORRELATION_ID, correlation_id),
            (HEADER_DEADLINE, str(deadline_ms).encode()),
        ]
        try:
            self._producer.produce(
                self._queries, encode_query(query), key_bytes(user_id), headers=headers
            )
            reply = await asyncio.wait_for(future, deadline_s)
        except TimeoutError:
            raise TimeoutError(
                f"no reply within {deadline_s} s: is a worker of {self._queries} running, and "
                f"does its REPLY_TOPICS allow {self._reply_topic}?"
            ) from None
        finally:
            self._pending.pop(correlation_id, None)
        if isinstance(reply, ErrorReply):
            raise QueryError(reply.code, reply.message)
        return reply

    # -- updates ------------------------------------------------------------------------------

    async def publish(self, event: Update) -> int:
        """Publish any event; returns its offset in `updates`, for `get(after_offset=…)`.

        Raises ValueError for what the service would refuse, KafkaException where the brokers did
        not take it within DELIVERY_TIMEOUT_S, BufferError where the producer's queue is full.
        """
        value = encode_update(event)
        decode_update(value)
        future: asyncio.Future[int] = self._loop.create_future()

        def delivered(error: KafkaError | None, message: Message) -> None:
            self._loop.call_soon_threadsafe(_settle, future, error, message.offset())

        self._producer.produce(
            self._updates, value, key_bytes(event.user_id), on_delivery=delivered
        )
        return await future  # the producer's own timeout ends it

    async def ack(self, /, user_id: int, channel_id: int, message_id: int, **more: int) -> int:
        """The user has read up to `message_id`; `more`: read_state_type, flags, last_viewed."""
        return await self.publish(Ack(user_id, channel_id, message_id, **more))

    async def mark_unread(
        self, user_id: int, channel_id: int, message_id: int, mention_count: int = 0
    ) -> int:
        """Set the last read message and the count as given, also backwards."""
        return await self.publish(MarkUnread(user_id, channel_id, message_id, mention_count))

    async def bulk_ack(self, user_id: int, acks: Iterable[tuple[int, int]]) -> int:
        """Many channels at once, `(channel_id, message_id)` each, 1–1000: all or none."""
        entries = tuple((0, channel, message) for channel, message in acks)
        return await self.publish(BulkAck(user_id, entries))

    async def mention(self, user_id: int, channel_id: int, message_id: int) -> int:
        """The user was mentioned in a message."""
        return await self.publish(Mention(user_id, channel_id, message_id))

    async def retract_mention(self, user_id: int, channel_id: int, message_id: int) -> int:
        """A message that mentioned the user was deleted."""
        return await self.publish(RetractMention(user_id, channel_id, message_id))

    async def pins_ack(self, user_id: int, channel_id: int, timestamp: int) -> int:
        """The user has seen pins up to `timestamp` (ms since the epoch)."""
        return await self.publish(PinsAck(user_id, channel_id, timestamp))

    async def delete(self, user_id: int, channel_id: int) -> int:
        """The read state is gone (the user left the channel)."""
        return await self.publish(Delete(user_id, channel_id))

    async def delete_user(self, user_id: int) -> int:
        """All of the user's read states are gone."""
        return await self.publish(DeleteUser(user_id))


def _blocking(
    method: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[BlockingClient, P], T]:
    """The same method, waiting for its result."""

    @wraps(method)
    def call(self: BlockingClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._wait(method(self._client, *args, **kwargs))

    return call


class BlockingClient:
    """`Client` for code without asyncio: the same methods, each waits for its result."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client = Client(*args, **kwargs)

    def __enter__(self) -> BlockingClient:
        try:
            self._wait(self._client.start())
        except BaseException:
            self._end_loop()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        try:
            self._wait(self._client.close())
        finally:
            self._end_loop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    get = _blocking(Client.get)
    publish = _blocking(Client.publish)
    ack = _blocking(Client.ack)
    mark_unread = _blocking(Client.mark_unread)
    bulk_ack = _blocking(Client.bulk_ack)
    mention = _blocking(Client.mention)
    retract_mention = _blocking(Client.retract_mention)
    pins_ack = _blocking(Client.pins_ack)
    delete = _blocking(Client.delete)
    delete_user = _blocking(Client.delete_user)


def _reply_of(message: Message) -> tuple[bytes, bytes] | None:
    """(correlation ID, body) of a reply; None for anything else."""
    if message.error() is not None:
        return None
    found = dict(message.headers() or ())
    correlation_id, body = found.get(HEADER_CORRELATION_ID), message.value()
    if not isinstance(correlation_id, bytes) or not isinstance(body, bytes):
        return None
    return correlation_id, body


def _settle(future: asyncio.Future[int], error: KafkaError | None, offset: int | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(KafkaException(error))
    else:
        future.set_result(offset or 0)
