"""Follows the topic of candidates and shares, and tells the producer of replies what to withhold.

A thread reads the topic from its beginning and then goes on. `view.py` has the rules. Without the
topic, as in an installation that has not been upgraded, there is no candidate and nothing to do. If
nothing comes while there is a candidate, the thread asks the broker for the topic's end, so it can
tell silence from a topic that cannot be read.

A worker of a candidate ends by itself once its run is not the candidate's any more: `readstates
rollout finish` or `abort` was run.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from readstates.schemas.rollout import RolloutRecordError, decode_rollout, rollout_topic

from .. import metrics
from ..config import Settings
from ..errors import RolloutError
from ..kafka.pulse import Pulse
from ..kafka.reply_producer import ReplyProducer
from .view import GRACE_S, CandidateShares, LiveShares, View

log = logging.getLogger(__name__)

POLL_S = 0.1
TAKEN_MAX = 1_000  # records at once
CONFIRM_S = 0.25  # of silence, after which the broker is asked for the topic's end
ASK_TIMEOUT_S = 0.5
OPEN_TIMEOUT_S = 5.0
RETRY_S, NO_TOPIC_RETRY_S = 1.0, 10.0
SILENT_MAX_S = 60.0
JOIN_TIMEOUT_S = 2.0
PASSING = {  # librdkafka tries again by itself
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TIMED_OUT,
    KafkaError.GROUP_AUTHORIZATION_FAILED,  # the coordinator of a group that is never joined
}


class Follower:
    """See the module. `run`: of the candidate that this worker is of; empty for a live worker.

    `refuse` is called with the error that ends the worker. The worker goes by every candidate's
    record below the offset `follows`. `changed` is called, in the thread, when it goes by others
    than before.
    """

    def __init__(
        self,
        settings: Settings,
        replies: ReplyProducer,
        refuse: Callable[[Exception], None],
        run: str = "",
    ) -> None:
        self._settings, self._replies, self._refuse, self._run_id = settings, replies, refuse, run
        self._topic = rollout_topic(settings.topic_prefix)
        self._view: View | None = None
        self._alive: dict[str, frozenset[int]] = {}  # a live worker's: see View.answered
        self._own = CandidateShares(settings.kafka_group, run)
        self._live = LiveShares()
        self._ended_at: float | None = None  # when the run was no more
        self.follows = -1
        self._control: int | None = None
        self.changed: Callable[[], None] = lambda: None
        self._warned = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rollout", daemon=True)
        self.pulse = Pulse(self._thread.name, SILENT_MAX_S)
        if run:
            replies.split = self._own.first

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(JOIN_TIMEOUT_S)

    # -- in the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            pause_s = RETRY_S
            consumer = self._consumer()
            try:
                if not self._follow(consumer):
                    pause_s = NO_TOPIC_RETRY_S
            except KafkaException as exc:
                self._warn(exc)
            finally:
                consumer.close()
            until = time.monotonic() + pause_s
            while time.monotonic() < until and not self._stopping.wait(POLL_S):
                self.pulse.beat()
                self._publish(time.monotonic())

    def _consumer(self) -> Consumer:
        return Consumer(
            self._settings.librdkafka(
                **{
                    "client.id": "read-states-rollout",
                    "group.id": self._settings.kafka_group,  # never joined
                    "enable.auto.commit": False,
                    "enable.partition.eof": True,
                    "log_level": 0,
                }
            )
        )

    def _follow(self, consumer: Consumer) -> bool:
        """Read until the worker stops; False if there is no topic. Raises KafkaException."""
        found = consumer.list_topics(self._topic, timeout=OPEN_TIMEOUT_S).topics[self._topic]
        if found.error is not None:
            if found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                return False
            raise KafkaException(found.error)
        place = TopicPartition(self._topic, 0)
        first, end = consumer.get_watermark_offsets(place, timeout=OPEN_TIMEOUT_S)
        place.offset = first
        consumer.assign([place])
        view, opened_at = View(position=first), time.monotonic()
        while not self._stopping.is_set():
            self.pulse.beat()
            message = consumer.poll(POLL_S)
            messages = [] if message is None else [message, *consumer.consume(TAKEN_MAX, 0)]
            for message in messages:
                if message.error() is None:
                    is_old = (message.offset() or 0) < end
                    _note(view, message, None if is_old else time.monotonic())
                else:
                    view.position = max(view.position, _end_in(message))
            if messages:
                view.read_at = time.monotonic()
            elif view.candidates and time.monotonic() - view.read_at > CONFIRM_S:
                self._confirm(consumer, view)
            if view.position >= end and self._view is not view:
                view.read_at = max(view.read_at, opened_at)
                self._view = view
            self._publish(time.monotonic())
        return True

    def _confirm(self, consumer: Consumer, view: View) -> None:
        """Note that nothing is unread, if the broker says so (S3)."""
        asked_at, place = time.monotonic(), TopicPartition(self._topic, 0)
        try:
            _, end = consumer.get_watermark_offsets(place, timeout=ASK_TIMEOUT_S)
        except KafkaException as exc:
            self._warn(exc)
        else:
            if view.position >= end:
                view.read_at = asked_at

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "rollout_not_read topic=%s error=%s: the worker keeps the shares that it knows for "
                "half a minute, and then behaves as if all were 0. It needs Read and Describe on "
                "the topic: see SECURITY.md. This is logged once",
                self._topic,
                error,
            )

    # -- what follows from it -----------------------------------------------------------------

    def _publish(self, now: float) -> None:
        if self._view is None:
            return
        if self._run_id:
            self._publish_candidate(self._view, now)
        else:
            self._publish_live(self._view, now)

    def _publish_live(self, view: View, now: float) -> None:
        """S1: set what is withheld, then send what was withheld for a candidate that is silent."""
        splits = self._live.split(view, now)
        if splits != self._replies.split:
            self._replies.split = splits
        split = splits.splits[0] if splits else None
        shares = [one.share for one in split.shares if split.answered[one.group]] if split else []
        metrics.ROLLOUT_SHARE.set(max(shares, default=0))
        self._replies.withheld.forget_old()
        alive = {} if view.is_unread(now) else view.answered(following=False)
        before, self._alive = self._alive, alive
        for group, partitions in before.items():
            lost = partitions - alive.get(group, frozenset())
            if lost:
                self._replies.withheld.release(group, lost)

    def _publish_candidate(self, view: View, now: float) -> None:
        """Set what is withheld, then let a beat say so; end if the run is over."""
        is_unread, own = view.is_unread(now), view.candidates.get(self._settings.kafka_group)
        split = self._own.split(view, now)
        if split != self._replies.split:
            self._replies.split = split
        metrics.ROLLOUT_SHARE.set(own.share if own and not is_unread else 0)
        self.follows = -1 if is_unread else view.position
        control = None if is_unread else view.control
        if control != self._control:
            self._control = control
            self.changed()
        if own is not None and own.run == self._run_id:
            self._ended_at = None
            return
        self._ended_at = now if self._ended_at is None else self._ended_at
        if now - self._ended_at > GRACE_S:
            self._stopping.set()
            group = self._settings.kafka_group
            self._refuse(
                RolloutError(
                    f"the run {self._run_id} of the candidate {group} has ended: readstates "
                    "rollout finish or abort was run. The live workers answer everybody; this "
                    "worker stops"
                )
            )


def _end_in(message: Message) -> int:
    """Where the topic ends, if the message says that. Raises KafkaException for other errors."""
    error = message.error()
    if error is not None and error.code() not in (*PASSING, KafkaError._PARTITION_EOF):
        raise KafkaException(error)
    is_end = error is not None and error.code() == KafkaError._PARTITION_EOF
    return (message.offset() or 0) if is_end else 0


def _note(view: View, message: Message, at: float | None) -> None:
    """Take a record; one that cannot be read counts as if its key had none."""
    key, value = message.key() or b"", message.value()
    try:
        record = None if value is None else decode_rollout(key, value)
    except RolloutRecordError as exc:
        log.warning("rollout_record_ignored offset=%s error=%s", message.offset(), exc)
        record = None
    view.take(key, record, message.offset() or 0, at)
