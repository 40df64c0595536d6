"""The load, all the time: updates, queries, and a look at the lag each second. Plain Kafka clients.

Updates come from the demo's traffic: all types of events, 1 % of them bad. Every fifth user's go
out through a producer that retries without idempotence, so the log may hold a record twice.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import threading
import time
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

from readstates.schemas.partitioner import partition_of
from readstates.streams.config import Settings

from ..proof.oracle import Seen
from ..proof.steady import Steady
from ..proof.traffic import Traffic
from . import kafka
from .history import Asked
from .proof import NUMBER

TICK_S = 0.02
DEADLINE_S = 5.0
REPLY_TOPIC = "read-states.replies.chaos"
WITHOUT_IDEMPOTENCE = 5  # one user in so many
UPDATES_MAX = 10**8
FLUSH_S = 120.0
LOOK_S = 1.0
LAG_TIMEOUT_S = 5.0
FIELDS = (
    "last_message_id",
    "last_mention_id",
    "mention_count",
    "last_pin_timestamp",
    "flags",
    "last_viewed",
    "version",
)


class Ticking(Steady):
    """At most a second's work at once: after a stall the rate stays."""

    def __init__(self, per_second: float) -> None:
        super().__init__(per_second, TICK_S, due_max=max(1, int(per_second)))


class Updates(Ticking):
    """Produces updates at a steady rate; each has its number in a header."""

    def __init__(self, settings: Settings, traffic: Traffic, per_second: float) -> None:
        super().__init__(per_second)
        self._topic = settings.updates_topic
        self._records = traffic.updates(UPDATES_MAX)
        common = {"partitioner": "murmur2_random", "acks": "all", "linger.ms": 50, "log_level": 2}
        self._safe = Producer(settings.librdkafka(**common, **{"enable.idempotence": True}))
        self._retrying = Producer(
            settings.librdkafka(
                **common,
                **{
                    "enable.idempotence": False,
                    "retries": 1000,
                    "request.timeout.ms": 1500,  # a slow broker gets it twice
                    "socket.timeout.ms": 2000,
                },
            )
        )
        self._acknowledged = bytearray()
        self.sent = 0
        self.failed = 0
        self.offsets: dict[int, int] = {}  # of a user's last acknowledged update

    def acknowledged(self, number: int) -> bool:
        return bool(self._acknowledged[number])

    def tick(self, due: int) -> None:
        for record in itertools.islice(self._records, due):
            number, key = self.sent, record.key or b""
            user = int(key)
            producer = self._retrying if user % WITHOUT_IDEMPOTENCE == 0 else self._safe
            self._acknowledged.append(0)
            self.sent += 1
            while True:
                try:
                    producer.produce(
                        self._topic,
                        record.value,
                        key,
                        headers={NUMBER: str(number)},
                        on_delivery=partial(self._delivered, number, user),
                    )
                    break
                except BufferError:
                    producer.poll(0.1)
        self._safe.poll(0)
        self._retrying.poll(0)

    def _delivered(self, number: int, user: int, error: object, message: Message) -> None:
        if error is not None:
            self.failed += 1
            return
        self._acknowledged[number] = 1
        offset = message.offset()
        if offset is not None and offset >= 0:
            self.offsets[user] = offset

    def finish(self) -> None:
        super().finish()
        for producer in (self._safe, self._retrying):
            self.failed += producer.flush(FLUSH_S)


class Queries(Ticking):
    """Asks at a steady rate and notes what comes back; most ask for all of a user's."""

    def __init__(
        self,
        settings: Settings,
        partitions: int,
        seed: int,
        traffic: Traffic,
        updates: Updates,
        per_second: float,
    ) -> None:
        super().__init__(per_second)
        self._topic = settings.queries_topic
        self._partitions = partitions
        self._updates = updates
        self._traffic = traffic
        self._random = random.Random(seed)
        self._known: dict[int, tuple[int, list[int]]] = {}  # user: version, channels as last seen
        self._monotonic_s = time.monotonic() - time.time()  # what turns one clock into the other
        self.asked: list[Asked] = []
        self.strangers = 0
        self.last_answer_s = 0.0
        self._settings = settings
        self._producer = self._new_producer()
        self._is_stale = False  # a new one is to be made
        self._consumer = Consumer(
            settings.librdkafka(
                **{
                    "group.id": "chaos-client",
                    "enable.auto.commit": False,
                    "fetch.wait.max.ms": 20,
                    "log_level": 2,
                }
            )
        )
        self._consumer.assign([TopicPartition(REPLY_TOPIC, 0, 0)])
        self._reader = threading.Thread(target=self._read, daemon=True)

    def start(self) -> None:
        self._reader.start()
        super().start()

    def _new_producer(self) -> Producer:
        return Producer(
            self._settings.librdkafka(
                **{
                    "partitioner": "murmur2_random",
                    "enable.idempotence": True,
                    "linger.ms": 5,
                    "message.timeout.ms": int(DEADLINE_S * 1000),
                    "allow.auto.create.topics": False,  # while the topic is deleted
                    "log_level": 2,
                }
            )
        )

    def renew_client(self) -> None:
        """Ask through a new producer from now on; any thread may call this."""
        self._is_stale = True

    def tick(self, due: int) -> None:
        if self._is_stale:
            self._is_stale = False
            self._producer.purge()
            self._producer.flush(DEADLINE_S)
            self._producer = self._new_producer()
        for user_id in self._traffic.users(due):
            self._ask(user_id)
        self._producer.poll(0)

    def _ask(self, user_id: int) -> None:
        body: dict[str, Any] = {"type": "get", "user_id": str(user_id), "mentions": True}
        version, channels = self._known.get(user_id, (None, []))
        sent_s, number = time.monotonic(), len(self.asked)
        key = b"%d" % user_id
        query = Asked(user_id, partition_of(key, self._partitions), sent_s, sent_s + DEADLINE_S)
        dice = self._random.random()
        if dice < 0.2 and channels:
            body["channel_ids"] = [str(channel) for channel in channels[:5]]
            query.channels = frozenset(channels[:5])
        elif dice < 0.4 and version is not None:
            query.since = version
            body["since_version"] = str(version)
        elif dice < 0.5 and user_id in self._updates.offsets:
            query.after_offset = self._updates.offsets[user_id]
            body["after_offset"] = str(query.after_offset)
        self.asked.append(query)
        with contextlib.suppress(KafkaException):  # the topic is deleted: no broker takes it
            self._producer.produce(
                self._topic,
                json.dumps(body),
                key,
                headers={
                    "kafka_replyTopic": REPLY_TOPIC,
                    "kafka_correlationId": str(number),
                    "read-states-deadline": str(int((time.time() + DEADLINE_S) * 1000)),
                },
                on_delivery=partial(self._taken, query),
            )

    @staticmethod
    def _taken(query: Asked, error: object, _message: Message) -> None:
        if error is None:
            query.taken_s = time.monotonic()

    def _read(self) -> None:
        try:
            while not self._finished.is_set() or time.monotonic() < self._read_until_s:
                message = self._consumer.poll(0.1)
                if message is not None and message.error() is None:
                    self._note(message)
        except BaseException as exc:  # noqa: BLE001 - the campaign fails with it, see `finish`
            self.failure = exc
        finally:
            self._consumer.close()

    def _note(self, message: Message) -> None:
        now_s = time.monotonic()
        headers = dict(message.headers() or [])
        number = int(headers["kafka_correlationId"])
        if number >= len(self.asked):
            self.strangers += 1
            return
        query = self.asked[number]
        if query.answered_s is not None:
            query.again_s.append(now_s)
            return
        query.answered_s = self.last_answer_s = now_s
        made_s = message.timestamp()[1] / 1000 + self._monotonic_s
        query.late_s = max(0.0, made_s - query.deadline_s)
        body = json.loads(message.value() or b"")
        if "error" in body:
            query.error = body["error"]["code"]
            return
        rows = [_row(state) for state in body["read_states"]]
        query.version, query.full = int(body["version"]), body["full"]
        query.digest = hash(tuple(rows))
        self._known[query.user_id] = (query.version, [row[1] for row in rows if row[0] == 0])

    def finish(self) -> None:
        """Ask no more; wait for the last deadline."""
        self._read_until_s = time.monotonic() + DEADLINE_S + 2
        super().finish()
        self._producer.flush(DEADLINE_S)
        self._reader.join()
        if self.failure is not None:
            raise self.failure


def _row(state: dict[str, Any]) -> Seen:
    fields = (int(state[name]) for name in FIELDS)
    mentions = tuple(int(message_id) for message_id in state["mentions"])
    return (state["read_state_type"], int(state["channel_id"]), *fields, mentions)


class Lag(Ticking):
    """Records that are not durable yet: the log's ends less the group's committed offsets."""

    def __init__(self, settings: Settings, partitions: int) -> None:
        super().__init__(1 / LOOK_S)
        self._places = [TopicPartition(settings.updates_topic, n) for n in range(partitions)]
        self._topic = settings.updates_topic
        self._consumer = Consumer(
            settings.librdkafka(
                **{
                    "group.id": settings.kafka_group,
                    "isolation.level": "read_uncommitted",  # the ends, with open transactions
                    "log_level": 2,
                }
            )
        )
        self.samples: list[tuple[float, int]] = []  # seconds, records

    def tick(self, due: int) -> None:
        if not due:
            return
        with contextlib.suppress(KafkaException):  # a broker is away: no sample
            self.samples.append((time.monotonic(), self.now()))

    def now(self) -> int:
        """Records. Raises KafkaException."""
        ends = kafka.ends(self._consumer, self._topic, len(self._places), LAG_TIMEOUT_S)
        committed = self._consumer.committed(self._places, timeout=LAG_TIMEOUT_S)
        durable: int = sum(max(0, place.offset) for place in committed)
        return sum(ends) - durable

    def finish(self) -> None:
        super().finish()
        self._consumer.close()
