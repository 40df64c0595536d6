"""Looks, while a worker runs, for what its start checked: the table is `streams/deviations.py`.

How it works. Every LOOK_S one thread asks Kafka for the topics and their settings, and another one
asks Cassandra for the row of the epoch. The event loop adds what the readers know: open
transactions, and updates that are missing. What is found is exported, logged and decided. A
deviation that ends the worker must be found twice, because a broker that has just started may not
know a topic yet. If Kafka or Cassandra does not answer, or its thread hangs, what was known of it
stays; if that lasts, it is a deviation by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor

from .. import metrics
from ..cassandra.epochs import Log, judge_log
from ..cassandra.store import Store
from ..config import Settings
from ..deviations import (
    DATABASE_MISSING,
    DEVIATIONS,
    NOT_CHECKED,
    OPEN_TRANSACTION,
    REPLICATION,
    UPDATES_MISSING,
    Decision,
    Found,
)
from ..errors import DeviationError, ReadStatesError, SchemaMissingError
from ..kafka.group_consumer import Reading
from ..kafka.pulse import Pulse
from ..kafka.topic_check import Topics
from .owned import OwnedPartition

log = logging.getLogger(__name__)

LOOK_S = 10.0  # an operator hears of a change within a minute; a look costs about ten requests
CONFIRM_S = 2.0  # until the look that confirms a deviation which ends the worker
OPEN_TRANSACTION_S = 15.0  # producers that keep transactions open for so long are none of ours
NOT_CHECKED_S = 60.0  # brokers and nodes restart within a minute; other alerts say if they do not
LOG_AGAIN_S = 600.0  # between two log lines about a deviation that stays
LOOK_WAIT_S = 20.0  # for the answers to a look; later ones count when they come
SILENT_MAX_S = 120.0  # of `run`: two waits, and the pause between them
KAFKA, CASSANDRA = "Kafka", "Cassandra"

Look = tuple[list[Found], list[str]]  # what is wrong; the topics that were made anew


class Watch:
    """See the module. All methods but `_look_at_cassandra` run on the event loop.

    `readings`: of updates and queries, by topic. `refuse` is called with the error that ends the
    worker, and `made_anew` with the name of a topic that was deleted and made anew. `probed` says
    what the probe has found.
    """

    def __init__(
        self,
        settings: Settings,
        topics: Topics,
        store: Store,
        began: Log,
        readings: Mapping[str, Reading],
        owned: Mapping[int, OwnedPartition],
        refuse: Callable[[Exception], None],
        made_anew: Callable[[str], None],
        probed: Callable[[], list[Found]] = list,
    ) -> None:
        self._settings, self._topics, self._store, self._began = settings, topics, store, began
        self._readings, self._owned = readings, owned
        self._refuse, self._made_anew, self._probed = refuse, made_anew, probed
        self._looks: dict[str, Callable[[], Look]] = {
            KAFKA: topics.look,
            CASSANDRA: self._look_at_cassandra,
        }
        # A thread each, so that one that hangs does not hold up the other.
        self._threads = {
            part: ThreadPoolExecutor(1, thread_name_prefix=f"watch-{part}") for part in self._looks
        }
        self._under_way: dict[str, asyncio.Future[Look]] = {}
        self._closing = False
        self.pulse = Pulse("watch", SILENT_MAX_S)
        self._now = asyncio.Event()  # look at once
        self._parts: dict[str, list[Found]] = {part: [] for part in self._looks}
        self._answered = dict.fromkeys(self._parts, time.monotonic())
        self._shown: dict[str, float] = {}  # by name of a deviation: when it was logged last
        self._suspected: set[str] = set()  # found once, of those that end the worker
        store.doubted = self._now.set

    async def run(self) -> None:
        """Look for ever."""
        while True:
            self.pulse.beat()
            await self.step()
            wait_s = CONFIRM_S if self._suspected else LOOK_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._now.wait(), wait_s)
            self._now.clear()

    def ready(self) -> tuple[bool, str]:
        """False while a deviation refuses queries; with its name."""
        refusing = [n for n in self._shown if DEVIATIONS[n].decision is Decision.REFUSE_QUERIES]
        return not refusing, f"deviation: {', '.join(refusing)}"

    def close(self) -> None:
        """End the threads when their looks are over."""
        self._closing = True
        for thread in self._threads.values():
            thread.shutdown(wait=False)

    async def step(self) -> None:
        """Look once, and do what is decided."""
        looked = set()
        for part in self._looks:
            answer = await self._answer_of(part)
            if answer is None:
                continue
            looked.add(part)
            found, anew = answer
            self._parts[part], self._answered[part] = found, time.monotonic()
            if part == CASSANDRA:
                self._store.is_doubted = bool(found)
            for name in anew:
                self._made_anew(name)
            if self._settings.queries_topic in anew:
                for number in self._owned:
                    self._readings[self._settings.queries_topic].begin_anew(number)
        found = [*self._not_checked(), *self._read(), *self._probed()]
        for known in self._parts.values():
            found += known
        self._decide(found, {one.name for part in looked for one in self._parts[part]})

    # -- looking ----------------------------------------------------------------------------------

    async def _answer_of(self, part: str) -> Look | None:
        """What a part says now; None if it does not say, or not within LOOK_WAIT_S."""
        if self._closing:
            return None
        look = self._under_way.get(part)
        if look is None:
            loop = asyncio.get_running_loop()
            look = loop.run_in_executor(self._threads[part], self._looks[part])
            self._under_way[part] = look
        await asyncio.wait({look}, timeout=LOOK_WAIT_S)
        if not look.done():
            return None
        del self._under_way[part]
        try:
            return look.result()
        except ReadStatesError as exc:
            log.debug("not_checked part=%s error=%s", part, exc)
            return None

    def _look_at_cassandra(self) -> Look:
        settings = self._settings
        try:
            logs = self._store.logs()
        except SchemaMissingError as exc:
            return [Found(DATABASE_MISSING, f"{exc}. Until then, nothing is loaded")], []
        name, keyspace = settings.updates_topic, settings.cassandra_keyspace
        found = list(judge_log(logs, self._began, name, keyspace))
        return found or self._replication(), []

    def _replication(self) -> list[Found]:
        """What is wrong if the keyspace has other replicas than when the worker started."""
        now, before = self._store.replication_now(), self._store.replication
        if now == before:
            return []
        text = (
            f"the replication of {self._settings.cassandra_keyspace} was {before} and is {now}. "
            "Nodes that have become replicas do not have the rows yet, so users would seem to have "
            "no read states. Until the worker is restarted, nothing is loaded. Run nodetool repair "
            "--full on every node, and restart the workers when it is done"
        )
        return [Found(REPLICATION, text)]

    def _not_checked(self) -> Iterator[Found]:
        for part, answered in self._answered.items():
            silent_s = time.monotonic() - answered
            if silent_s > NOT_CHECKED_S:
                yield Found(
                    NOT_CHECKED,
                    f"{part} has not said for {silent_s:.0f} s what a start checks. If the worker "
                    "serves, it lacks a right: see SECURITY.md",
                )

    def _read(self) -> Iterator[Found]:
        """What the readers know."""
        for topic, reading in self._readings.items():
            for number in self._owned:
                open_s = reading.open_transaction_s(number)
                if open_s > OPEN_TRANSACTION_S:
                    yield Found(
                        OPEN_TRANSACTION,
                        f"{topic} partition {number} cannot be read beyond offset "
                        f"{reading.end(number)}: a transaction has been open there for "
                        f"{open_s:.0f} s. Find its producer with kafka-transactions.sh "
                        "find-hanging, and end it, or the transaction",
                    )
            if reading.missing:
                yield Found(UPDATES_MISSING, reading.missing)

    # -- deciding ---------------------------------------------------------------------------------

    def _decide(self, found: list[Found], confirmed: Set[str]) -> None:
        """Show all that is known; `confirmed` are the deviations that this look has found."""
        texts: dict[str, list[str]] = {}
        for one in found:
            texts.setdefault(one.name, []).append(one.text)
        self._show({name: "; ".join(some) for name, some in texts.items()})
        stopping = {n for n in texts if DEVIATIONS[n].decision is Decision.STOP}
        stopping.discard(UPDATES_MISSING)  # MISSING_UPDATES lets it go on, or the reader stopped it
        for name in sorted(stopping & self._suspected & confirmed):
            self._refuse(DeviationError(f"deviation {name}: {texts[name][0]}"))
        self._suspected = stopping

    def _show(self, texts: Mapping[str, str]) -> None:
        """Export and log what is found, and what is no more."""
        now = time.monotonic()
        for name in DEVIATIONS:
            metrics.DEVIATION.labels(name).set(name in texts)
        for name in self._shown.keys() - texts.keys():
            del self._shown[name]
            log.warning("deviation_over name=%s", name)
        for name, text in texts.items():
            if now - self._shown.get(name, now - LOG_AGAIN_S) >= LOG_AGAIN_S:
                self._shown[name] = now
                decision = DEVIATIONS[name].decision.value
                log.warning("deviation name=%s decision=%r: %s", name, decision, text)
