"""Tells the live workers which partitions this worker of a candidate answers.

A beat goes into the topic every BEAT_S, and at once when the worker follows another record. It is
sent by the event loop, which does the worker's work: a loop that stands still sends none.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Message

from readstates.schemas.rollout import Beat, beat_key, encode_beat, rollout_topic

from ..config import Settings
from ..kafka.delivery import Delivery
from ..kafka.pulse import Pulse
from ..worker.owned import OwnedPartition
from .follower import Follower
from .view import BEAT_S

TIMEOUT_MS = 1_000  # an old beat says nothing
SILENT_MAX_S = 60.0


class Beats:
    """See the module. `worker`: the name of this worker."""

    def __init__(
        self,
        settings: Settings,
        delivery: Delivery,
        follower: Follower,
        owned: Mapping[int, OwnedPartition],
        worker: str,
    ) -> None:
        self._follower, self._owned = follower, owned
        self._group, self._worker = settings.kafka_group, worker
        self._topic = rollout_topic(settings.topic_prefix)
        self.pulse = Pulse("beats", SILENT_MAX_S)
        config = {"linger.ms": 0, "message.timeout.ms": TIMEOUT_MS}
        self._producer = delivery.producer("rollout", config, {self._topic})

    async def run(self) -> None:
        """Send beats for ever."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        self._follower.changed = partial(_set_soon, loop, changed)
        while True:
            self.pulse.beat()
            changed.clear()
            self._produce(*encode_beat(self._beat()))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), BEAT_S)

    def stop(self) -> None:
        """Say that this worker answers nothing any more."""
        self._produce(beat_key(self._group, self._worker), None)

    def _beat(self) -> Beat:
        follows, numbers = self._follower.follows, frozenset[int]()
        if follows >= 0:
            numbers = frozenset(
                number
                for number, owned in self._owned.items()
                if owned.partition.progress.caught_up and not owned.partition.closing
            )
        return Beat(self._group, self._worker, follows, numbers)

    def _produce(self, key: bytes, value: bytes | None) -> None:
        with contextlib.suppress(BufferError):  # then the live workers take over
            try:
                self._producer.now.produce(
                    self._topic, value, key, partition=0, on_delivery=self._delivered
                )
            except KafkaException as exc:
                self._producer.note_failure(exc.args[0], self._topic, 0)

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._producer.note_failure(error, self._topic, 0)


def _set_soon(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    """Set it from another thread."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(event.set)
