"""A producer that is made anew if it no longer reaches a topic that has leaders.

After a topic was deleted and made anew, librdkafka may go on asking the leaders of the old one: it
takes what the brokers say for outdated, because a new topic's leader epochs begin at 0 (librdkafka
issue 4898). Such a producer never reaches that topic again. Another one does at once. An idempotent
producer may also end with a fatal error.

How it works.
1. A record was not delivered, with an error that such a producer reports (`note_failure`).
2. The brokers are asked who leads its partition. If nobody does, or they do not answer, then
   another producer could not deliver it either.
3. Otherwise, all later records go to a new producer. The old one may still deliver to other topics,
   so it is kept for RETIRED_S. What it has not delivered then is reported as failed.
4. That happens at most once in RENEW_MIN_S. If it does not help, the pause doubles, to at most
   RENEW_MAX_S.

If the watch has seen that one of the producer's topics was made anew, step 3 follows at once.

`poll` is called by one thread. `now` is read, and `note_failure` is called, by any thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Set

from confluent_kafka import KafkaError, KafkaException, Producer

from .. import metrics

log = logging.getLogger(__name__)

RENEW_MIN_S, RENEW_MAX_S = 30.0, 600.0  # between two new producers
RETIRED_S = 35.0  # a producer gives up a record after 30 s
ASK_S = 5.0  # between two questions who leads a partition
ASK_TIMEOUT_S = 2.0  # nothing is polled meanwhile
FLUSH_S = 1.0  # for the reports of a producer that is given up
MAY_BE_STUCK = {
    KafkaError._MSG_TIMED_OUT,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._FATAL,
}


class LastingProducer:
    """See the module. `name`: in logs and metrics. `topics`: those of the service that it uses.

    `now` is the producer for the next record.
    """

    def __init__(self, name: str, topics: Set[str], make: Callable[[], Producer]) -> None:
        self.now = make()
        self._name, self._topics, self._make = name, topics, make
        self._old: list[tuple[float, Producer]] = []  # and until when it is kept
        self._polls_old = False
        self._suspected: tuple[KafkaError, str, int] | None = None
        self._made_anew = ""  # a topic
        self._pause_s, self._next_at, self._ask_at = RENEW_MIN_S, 0.0, 0.0
        self._renewed = metrics.CLIENTS_RENEWED.labels(name)

    def note_failure(self, error: KafkaError, topic: str, partition: int | None) -> None:
        """A record was not delivered. The partition may be below 0, or None, if it is not known."""
        if error.code() in MAY_BE_STUCK and not self._polls_old:
            self._suspected = error, topic, -1 if partition is None else partition

    def topic_made_anew(self, topic: str) -> None:
        """Some topic was deleted and made anew."""
        if topic in self._topics:
            self._made_anew = topic

    def poll(self, timeout_s: float) -> None:
        """Run the delivery reports that are due, then steps 2 and 3 if need be."""
        self._polls_old = True
        for _, old in self._old:
            old.poll(0)
        self._polls_old = False
        self.now.poll(timeout_s)
        self._step(time.monotonic())

    def flush(self, timeout_s: float) -> None:
        """Send what is queued."""
        self.now.flush(timeout_s)
        for _, old in self._old:
            old.flush(0)

    # -- in the thread that polls -----------------------------------------------------------------

    def _step(self, now: float) -> None:
        if self._old and now >= self._old[0][0]:
            self._give_up(self._old.pop(0)[1])
        suspected, self._suspected = self._suspected, None
        if now < self._next_at:
            return
        if self._made_anew:
            self._renew(now, f"topic {self._made_anew} was deleted and made anew")
        elif suspected is not None:
            error, topic, partition = suspected
            is_fatal = error.code() == KafkaError._FATAL
            if is_fatal or self._is_led(now, topic, partition):
                self._renew(now, f"topic {topic}: {error.str()}")

    def _is_led(self, now: float, topic: str, partition: int) -> bool:
        """True if the brokers say that the partition has a leader."""
        if now < self._ask_at:
            return False
        try:
            found = self.now.list_topics(topic, timeout=ASK_TIMEOUT_S).topics[topic]
        except KafkaException:
            return False
        finally:
            self._ask_at = time.monotonic() + ASK_S
        places = found.partitions
        leaders = [one.leader for n, one in places.items() if partition < 0 or n == partition]
        return found.error is None and bool(leaders) and min(leaders) >= 0

    def _renew(self, now: float, why: str) -> None:
        try:
            renewed = self._make()
        except KafkaException as exc:  # such as too many threads
            self._next_at = now + self._pause_s
            log.warning("client_not_renewed client=%s error=%s", self._name, exc)
            return
        since_s = now - self._next_at
        self._pause_s = (
            min(2 * self._pause_s, RENEW_MAX_S) if since_s < self._pause_s else RENEW_MIN_S
        )
        self._next_at, self._made_anew = now + self._pause_s, ""
        self._old.append((now + RETIRED_S, self.now))
        self.now = renewed
        self._renewed.inc()
        log.warning(
            "client_renewed client=%s why=%r: librdkafka may go on asking the leaders of a topic "
            "that was deleted and made anew, so the worker uses a new producer. Nothing needs to "
            "be done, unless this goes on",
            self._name,
            why,
        )

    def _give_up(self, old: Producer) -> None:
        """Report what it has not delivered as failed."""
        self._polls_old = True
        old.purge()
        old.flush(FLUSH_S)
        self._polls_old = False
