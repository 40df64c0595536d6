"""What a worker asks Kafka when it opens partitions: commits, and where the logs begin and end.

The member's own consumer cannot ask without keeping its thread from rebalances. So a second
consumer, which never joins, asks in a thread of its own. An admin client asks for the topic's ID.
It cannot also ask for the rest (confluent-kafka 2.16): its `list_consumer_group_offsets` crashes
the process while the brokers have no coordinator, and its `list_offsets` goes on sending the leader
epoch from before a broker's death, which the brokers refuse every time.

A client may keep asking a broker that cannot answer, although others could. So after RENEW_AFTER
questions of one kind in a row without an answer, new clients ask.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from .. import metrics
from ..config import Settings
from ..errors import EpochError, ReadStatesError, TopicError
from .group_consumer import Committed
from .group_consumer import TopicPartition as Place
from .group_errors import TOPIC_GONE, advised

log = logging.getLogger(__name__)

T = TypeVar("T")

QUIET = {"client.id": "read-states-questions", "log_level": 0, "error_cb": lambda _error: None}
TIMEOUT_S = 5.0  # of one question; whoever asked it tries again
RENEW_AFTER = 5  # questions of a kind; some fail at once


class Questions:
    """See the module. Each method raises TimeoutError if no answer comes within TIMEOUT_S.

    Errors that a person must correct go to `refuse` as well. The clients are made when the first
    question is asked.
    """

    def __init__(self, settings: Settings, refuse: Callable[[Exception], None]) -> None:
        self._settings, self._refuse = settings, refuse
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="group-questions")
        self._consumer: Consumer | None = None
        self._admin: AdminClient | None = None
        self._closed = False
        self._unanswered = Counter[str]()  # by kind of question: how many in a row
        self._topic_id: str | None = None  # of updates

    def warm_up(self) -> None:
        """Make the clients and their connections, so that the first question need not wait."""
        self._asking.submit(self._warm_up)

    async def committed(self, places: Iterable[Place]) -> Mapping[Place, Committed]:
        """What the group has committed; partitions without a commit are left out."""
        return await self._answer("commits", self._committed, list(places))

    async def log_ranges(self, places: Iterable[Place]) -> Mapping[Place, tuple[int, int]]:
        """The first offset of each log, and the one after its last record."""
        return await self._answer("log_ranges", self._log_ranges, list(places))

    async def check_topic(self) -> None:
        """Refuse if the topic of updates is gone, or was replaced by another of the same name."""
        await self._answer("topic", lambda _places: self._check_topic(), [])

    def close(self) -> None:
        """End the thread and the connections, as soon as the question under way is answered."""
        if not self._closed:
            self._closed = True
            self._asking.submit(self._close)
            self._asking.shutdown(wait=False)

    async def _answer(self, kind: str, ask: Callable[[list[Place]], T], places: list[Place]) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._asking, self._ask, kind, ask, places)
        except KafkaException as exc:
            error: KafkaError = exc.args[0]
            if (refusal := advised(self._settings, error)) is not None:
                self._refuse(refusal)
            raise TimeoutError(f"Kafka does not say: {error.str()}") from exc
        except ReadStatesError as exc:
            self._refuse(exc)
            raise TimeoutError(str(exc)) from exc

    # -- in the thread -----------------------------------------------------------------------------

    def _ask(self, kind: str, ask: Callable[[list[Place]], T], places: list[Place]) -> T:
        try:
            answer = ask(places)
        except (KafkaException, TimeoutError) as exc:
            self._unanswered[kind] += 1
            if self._unanswered[kind] == RENEW_AFTER:
                self._renew(kind, exc)
            raise
        del self._unanswered[kind]
        return answer

    def _renew(self, kind: str, exc: Exception) -> None:
        self._close()
        self._consumer, self._admin = None, None
        self._unanswered.clear()
        metrics.CLIENTS_RENEWED.labels("questions").inc()
        log.warning(
            "client_renewed client=questions question=%s why=%r: the worker asks Kafka with other "
            "clients what is committed, and where the logs begin and end",
            kind,
            str(exc),
        )

    def _clients(self) -> tuple[Consumer, AdminClient]:
        if self._consumer is None or self._admin is None:
            config = partial(self._settings.librdkafka, **QUIET)
            group = {
                "group.id": self._settings.kafka_group,
                "enable.auto.commit": False,
                "isolation.level": "read_uncommitted",  # the logs' ends, with open transactions
            }
            self._consumer = Consumer(config(**group), logger=log)
            self._admin = AdminClient(config(), logger=log)
        return self._consumer, self._admin

    def _warm_up(self) -> None:
        place = Place(self._settings.updates_topic, 0)
        try:
            self._committed([place])
            self._check_topic()
        except (KafkaException, TimeoutError, ReadStatesError) as exc:
            log.info("group_questions_not_ready error=%s", exc)

    def _committed(self, places: list[Place]) -> dict[Place, Committed]:
        consumer, _ = self._clients()
        asked = [TopicPartition(*place) for place in places]
        found = {}
        for one in consumer.committed(asked, timeout=TIMEOUT_S):
            if one.error is not None:
                raise KafkaException(one.error)
            if one.offset >= 0:
                found[Place(one.topic, one.partition)] = (one.offset, _metadata(one))
        return found

    def _log_ranges(self, places: list[Place]) -> dict[Place, tuple[int, int]]:
        self._check_topic()
        starts, ends = (self._offsets(places, at) for at in (OFFSET_BEGINNING, OFFSET_END))
        return {place: (starts[place], ends[place]) for place in places}

    def _offsets(self, places: list[Place], at: int) -> dict[Place, int]:
        consumer, _ = self._clients()
        asked = [TopicPartition(*place, at) for place in places]
        found = {}
        for one in consumer.offsets_for_times(asked, timeout=TIMEOUT_S):
            if one.error is not None:
                raise KafkaException(one.error)
            found[Place(one.topic, one.partition)] = one.offset
        return found

    def _check_topic(self) -> None:
        """Raises TopicError or EpochError if updates is not the topic that this worker began with.

        The topic of queries may be made anew: the worker then reads the new one.
        """
        _, admin = self._clients()
        name = self._settings.updates_topic
        asked = admin.describe_topics(TopicCollection([name]), request_timeout=TIMEOUT_S)
        try:
            topic_id = str(_result(asked[name]).topic_id)
        except KafkaException as exc:
            if exc.args[0].code() not in TOPIC_GONE:
                raise
            raise TopicError(
                f"topic {name} was deleted while this worker was running. The worker stops; "
                "when started again, it will say what to do"
            ) from exc
        self._topic_id = self._topic_id or topic_id
        if self._topic_id != topic_id:
            raise EpochError(
                f"topic {name} was deleted and created anew while this worker was running. The "
                "worker stops; when started again, it will say what to do"
            )

    def _close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()


def _result(future: Future[Any]) -> Any:
    return future.result(timeout=TIMEOUT_S + 1)


def _metadata(place: TopicPartition) -> str:
    """A commit's metadata. confluent-kafka reads past the end of what other clients wrote."""
    try:
        return place.metadata or ""
    except UnicodeDecodeError:
        return ""
