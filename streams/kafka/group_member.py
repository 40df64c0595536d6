"""One consumer's life as a member of the group. It reads nothing.

librdkafka would fetch what is assigned to it, and would pause all of that at each rebalance. So the
callbacks answer with an empty list: the group counts the partitions as this member's, and
librdkafka has nothing to fetch. `tests/unit/streams/test_group_member.py` and
`tests/integration/group/` pin what this relies on:

- confluent-kafka unassigns by itself after a callback that has neither assigned nor unassigned. So
  at a revocation we call `incremental_assign([])`, which changes nothing: the release stays
  pending, heartbeats go on, and `incremental_unassign([])` lets go later.
- While a release is pending, librdkafka assigns nothing, and does not report a loss. The member ID
  does change if the group has expelled it: the classic protocol then gives it another one.
- librdkafka's main thread, which sends the heartbeats, may sleep for a second. A call wakes it, so
  that the next heartbeat, by which a member hears of a rebalance, is on time. With the protocol
  `consumer` the brokers choose the interval (5 s); there `subscribe` sends a heartbeat at once.
- `close` serves rebalances that are still queued. If there are two, confluent-kafka's call in the
  second one waits for a librdkafka that has already ended, and holds the interpreter's lock for
  ever. So a member first unsubscribes, and polls until nothing is queued. A consumer that is
  dropped without being closed runs no callback and does not leave.
- The classic protocol joins at most once per second. If a release comes within a second after the
  revocation, the partitions have no owner for the rest of that second.

All methods are called by the group's thread. Callbacks run inside `poll` and must not wait.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Set
from typing import Any, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from ..config import CLASSIC, Settings
from .group_consumer import Committed
from .group_consumer import TopicPartition as Place

log = logging.getLogger(__name__)

CLIENT_ID = "read-states-group"  # by which `strangers.py` knows a worker
HEARTBEAT_MS = 200  # classic: how late a member may hear of a rebalance
WOKEN_S, EXPEDITED_S = 0.1, 0.3  # how often `is_expelled` is to be called: see the module
METADATA_MS = 30_000  # how late a change of the topic is noticed
SOCKET_TIMEOUT_MS = 10_000
RECONNECT_MAX_MS = 1_000
REBALANCE_TIMEOUT_MIN_S = 10.0
LOG_LEVEL = 2  # only librdkafka's critical lines: it would log each attempt to connect
SETTLE_S = 1.0  # the limit for polling until nothing is queued; it usually takes a millisecond
CLOSE_NAME = "group-close"


def rebalance_timeout_s(settings: Settings) -> float:
    """How long the group waits for a member to let go of what was revoked."""
    return max(REBALANCE_TIMEOUT_MIN_S, settings.session_timeout_s)


class Listener(Protocol):
    """Who hears what happens to a member: `group.Group`, in the group's thread."""

    def on_assigned(self, numbers: Set[int]) -> None: ...
    def on_revoked(self, numbers: Set[int]) -> None: ...
    def on_lost(self, why: str) -> None: ...
    def on_commit(self, errors: list[KafkaError]) -> None: ...
    def on_connection_error(self, error: KafkaError) -> None: ...


class Member:
    """See the module. `listener` hears nothing more after `retire`.

    `instance_id`: the member's name; empty if it has none.
    `is_expelled` is to be called every `look_s`.
    """

    def __init__(self, settings: Settings, instance_id: str, listener: Listener) -> None:
        self._listener: Listener | None = listener
        self._topic = settings.updates_topic
        self._expedites = settings.group_protocol != CLASSIC
        self._is_static = bool(instance_id) and settings.group_protocol == CLASSIC
        self._stays = self._is_static and not settings.leaves_group
        self.look_s = EXPEDITED_S if self._expedites else WOKEN_S
        self._callbacks = 0  # that have run
        self._id = ""
        self._consumer = Consumer(self._config(settings, instance_id), logger=log)
        self._subscribe()

    def _config(self, settings: Settings, instance_id: str) -> dict[str, Any]:
        timeout_ms = int(rebalance_timeout_s(settings) * 1000)
        config: dict[str, Any] = {
            "client.id": CLIENT_ID,
            "group.id": settings.kafka_group,
            "group.protocol": settings.group_protocol,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "max.poll.interval.ms": timeout_ms,
            "topic.metadata.refresh.interval.ms": METADATA_MS,
            "socket.timeout.ms": SOCKET_TIMEOUT_MS,
            "reconnect.backoff.max.ms": RECONNECT_MAX_MS,
            "on_commit": self._on_commit,
            "error_cb": self._on_error,
            "log_level": LOG_LEVEL,
        }
        if instance_id:
            config["group.instance.id"] = instance_id
        if settings.group_protocol == CLASSIC:  # librdkafka refuses these with `consumer`
            config["partition.assignment.strategy"] = "cooperative-sticky"
            config["session.timeout.ms"] = int(settings.session_timeout_s * 1000)
            config["heartbeat.interval.ms"] = HEARTBEAT_MS
        return settings.librdkafka(**config)

    def _subscribe(self) -> None:
        self._consumer.subscribe(
            [self._topic],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )

    def poll(self, timeout_s: float) -> KafkaError | None:
        """Run callbacks that are due. Returns an error of the group, if there is one."""
        message = self._consumer.poll(timeout_s)
        return None if message is None else message.error()

    def is_expelled(self) -> bool:
        """Wake librdkafka; True if the group has expelled this member since the last call."""
        if self._expedites:
            try:
                self._subscribe()
            except KafkaException as exc:  # a fatal error, which `poll` will return
                log.debug("group_subscribe error=%s", exc)
        before, self._id = self._id, self._consumer.memberid() or ""
        return bool(before) and before != self._id

    def let_go(self) -> None:
        """Let go of what was revoked."""
        self._consumer.incremental_unassign([])

    def commit(self, offsets: Mapping[Place, Committed]) -> None:
        """Send a commit; `Listener.on_commit` gets the answer. Raises KafkaException."""
        places = [
            TopicPartition(topic, number, offset, metadata)
            for (topic, number), (offset, metadata) in offsets.items()
        ]
        self._consumer.commit(offsets=places, asynchronous=True)

    def close(self) -> None:
        """Leave the group, unless the member is to keep its place in it. This may block.

        Only a static member of the classic protocol can keep it: one whose INSTANCE_ID was given.
        """
        self._listener = None
        if not self._stays:
            self._leave(self._consumer)
        del self._consumer  # its last reference: confluent-kafka ends what is not closed

    def _leave(self, consumer: Consumer) -> None:
        """Leave in an order in which `close` runs no callback, see the module."""
        try:
            consumer.incremental_unassign([])  # a release may be pending
            consumer.unsubscribe()
        except KafkaException as exc:  # a fatal error, after which there are no callbacks
            log.debug("group_unsubscribe error=%s", exc)
        end = time.monotonic() + SETTLE_S
        while time.monotonic() < end:
            before = self._callbacks
            if consumer.poll(0) is None and self._callbacks == before:
                break
        consumer.close()

    def retire(self) -> None:
        """Close without waiting: another consumer takes this one's place, under its name."""
        self._listener = None
        self._stays = self._is_static
        threading.Thread(target=self._close_quietly, name=CLOSE_NAME, daemon=True).start()

    def _close_quietly(self) -> None:
        try:
            self.close()
        except KafkaException as exc:  # nobody needs this consumer any more
            log.warning("group_close_failed error=%s", exc)

    # -- inside `poll` and `close` ---------------------------------------------------------------

    def _on_assign(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self._callbacks += 1
        consumer.incremental_assign([])
        if self._listener:
            self._listener.on_assigned(self._numbers(places))

    def _on_revoke(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self._callbacks += 1
        if self._listener:
            consumer.incremental_assign([])  # see the module: keeps the release pending
            self._listener.on_revoked(self._numbers(places))
        else:
            consumer.incremental_unassign([])

    def _on_lost(self, consumer: Consumer, _places: list[TopicPartition]) -> None:
        self._callbacks += 1
        if self._listener:
            consumer.incremental_assign([])  # so that this consumer does not join again
            self._listener.on_lost("librdkafka reports it")
        else:
            consumer.incremental_unassign([])

    def _on_commit(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        if self._listener:
            errors = [error, *(place.error for place in places)]
            self._listener.on_commit([each for each in errors if each is not None])

    def _on_error(self, error: KafkaError) -> None:
        """A connection failed: librdkafka tries again. The group's errors come from `poll`."""
        if self._listener:
            self._listener.on_connection_error(error)

    def _numbers(self, places: list[TopicPartition]) -> Set[int]:
        """The partitions of our topic; a leader of another kind may assign anything."""
        return frozenset(place.partition for place in places if place.topic == self._topic)
