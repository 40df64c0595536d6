"""The reader's fetches: sends them to the leaders of the partitions, and handles the responses.

The thread of `reader.py` calls all methods. A partition has at most one fetch under way. A response
is ignored if its partition was stopped in the meantime. It is also ignored if the leader has moved
and the worker has asked another broker.
"""

from __future__ import annotations

import contextlib
import logging
import math
import selectors
import threading
import time
from collections.abc import Callable
from functools import partial

from ..errors import GroupError, ReadStatesError
from . import protocol
from .broker import Connection, connect
from .broker import ask as question
from .cluster import Cluster
from .fetch_link import BrokerLinks, Link
from .leaders import Leaders
from .login import Login
from .outside_log import lost_updates
from .protocol import Broker, Fetched, FetchedPartition, TopicMetadata, Wanted
from .reading import Limits, Reading
from .record_batches import FetchedBatches
from .unpack import Unpacker

log = logging.getLogger(__name__)

HELD_BACK_S = 0.01  # time until the next call of `room`
BUSY_S = 1.0  # how long `Limits.busy` applies to fetches after records have arrived
ERROR_LOG_S = 60.0  # minimum time between two log lines about failures of the same kind
RETRY_S = 0.2  # pause after an error that a broker reports
OUT_OF_RANGE_TRIES = 3  # attempts, because a former leader may report this error wrongly
UNKNOWN_WAIT_S = 1.0  # longest wait if nothing is scheduled


class Fetches:
    """See the module.

    `room` returns how many bytes of a partition may be delivered now. `command` runs a function in
    the reader's thread; any thread may call it. `refuse` ends the worker with an error. `go_on`
    moves a partition's position to the first offset of its log.
    """

    def __init__(
        self,
        topic: str,
        bootstrap: str,
        login: Login | None,
        cluster: Cluster,
        limits: Limits,
        selector: selectors.BaseSelector,
        room: Callable[[Reading], int],
        command: Callable[[Callable[[], None]], None],
        refuse: Callable[[Exception], None],
        go_on: Callable[[Reading, int], None],
    ) -> None:
        self._topic, self._login, self._limits, self._go_on = topic, login, limits, go_on
        self._selector, self._room, self._command, self._refuse = selector, room, command, refuse
        self._unpacker = Unpacker(limits.unpacked_bytes_max)
        self._readings: dict[int, Reading] = {}  # in the order of their last records
        self.full: dict[int, Reading] = {}  # by partition, if fetched records are left
        self._links: dict[int, BrokerLinks[Reading]] = {}  # by broker ID
        self._leader_of: dict[int, int] = {}  # broker ID by partition
        self._busy_until = 0.0
        self._logged_at: dict[str, float] = {}
        self.leaders = Leaders(
            topic,
            bootstrap,
            login,
            cluster,
            lambda metadata: command(partial(self._note_leaders, metadata)),
            lambda place, exc: command(partial(self._note_unknown, place, exc)),
        )

    def begin(self, reading: Reading) -> None:
        """Start to fetch a partition."""
        self._readings[reading.number] = reading

    def end(self, reading: Reading) -> None:
        """Stop fetching a partition, and drop what was fetched."""
        if self._readings.get(reading.number) is reading:
            del self._readings[reading.number]
        if self.full.get(reading.number) is reading:
            del self.full[reading.number]
        reading.batches = reading.link = None

    def close(self) -> None:
        for links in self._links.values():
            for link in links:
                self._unregister(link)
                link.close(0.0)

    def send(self, now: float) -> float:
        """Send all possible fetches. Returns the time of the next call (`time.monotonic()`)."""
        next_at, by_leader = now + UNKNOWN_WAIT_S, dict[int, list[Reading]]()
        for number, reading in self._readings.items():
            if reading.link is not None or reading.batches is not None:
                continue
            leader = self._leader_of.get(number)
            if leader is None:
                self.leaders.ask()
            elif reading.retry_at > now:
                next_at = min(next_at, reading.retry_at)
            elif reading.seeks_start:
                self._seek_start(reading, self._links[leader].place)
            elif self._room(reading) <= 0:
                next_at = min(next_at, now + HELD_BACK_S)
            else:
                by_leader.setdefault(leader, []).append(reading)
        for leader, wanted in by_leader.items():
            next_at = min(next_at, self._send(self._links[leader], wanted, now))
        for links in self._links.values():
            for link in links:
                if link.asked is not None:
                    next_at = min(next_at, link.deadline)
        return next_at

    def _send(self, links: BrokerLinks[Reading], wanted: list[Reading], now: float) -> float:
        """Send a fetch of these partitions if possible. Returns the time of the next attempt."""
        link = links.free(now)
        if link is None:
            return now + UNKNOWN_WAIT_S
        if link.connection is None:
            link.open(now, lambda *result: self._command(partial(self._note_opened, *result)))
            return max(link.retry_at, now) if link.retry_at > now else now + UNKNOWN_WAIT_S
        limits, gather = self._limits, self._limits.idle
        if now < self._busy_until:
            gather = limits.busy
        wait_s = links.wait_s(link, now, gather.wait_ms / 1000)
        if any(reading.last_stable is None for reading in wanted):
            wait_s = 0.0  # so that the broker reports the ends of the logs at once
        places = [Wanted(r.number, r.position, limits.partition_bytes_max) for r in wanted]
        body = protocol.fetch_body(
            self._topic,
            places,
            wait_ms=int(wait_s * 1000),
            bytes_min=gather.bytes_min,
            bytes_max=limits.fetch_bytes_max,
        )
        try:
            link.send(body, wanted, now, wait_s)
        except OSError as exc:
            self._lose(link, exc)
            return now
        for reading in wanted:
            reading.link = link
        return now + UNKNOWN_WAIT_S

    def receive(self, link: Link[Reading]) -> None:
        """Receive from a broker, and handle a complete response."""
        if link.connection is None:
            return
        try:
            response = link.connection.receive()
            if response is None:
                link.goes_on(time.monotonic())
                return
            if link.asked is None:
                raise protocol.ProtocolError("the broker sent a response without a request")
            fetched = protocol.read_fetch(response)
        except (OSError, ReadStatesError) as exc:
            self._lose(link, exc)
            return
        self._note_fetched(link, fetched)

    def _note_fetched(self, link: Link[Reading], fetched: Fetched) -> None:
        asked = {r.number: r for r in link.answered(fetched.throttle_ms) if r.link is link}
        now = time.monotonic()
        for reading in asked.values():
            reading.link = None
        if fetched.error:
            self._log_failure("fetch", f"{_name(link.place)}: {_error(fetched.error)}")
            for reading in asked.values():
                reading.retry_at = now + RETRY_S
        for found in fetched.partitions:
            if found.number in asked:
                self._take(asked[found.number], found, link.place, now)

    def _take(self, reading: Reading, found: FetchedPartition, place: Broker, now: float) -> None:
        if found.error:
            self._note_error(reading, found.error, place, now)
            return
        reading.note_end(found.last_stable, found.high_watermark, now)
        reading.out_of_range = 0
        if found.records:
            self._busy_until = now + BUSY_S
            reading.batches = FetchedBatches(
                found.records,
                found.aborted,
                reading.position,
                found.last_stable,
                self._unpacker,
                keep_unread=self._limits.keep_unread,
                distrust=reading.is_distrusted,
                trusts_gaps=reading.has_gaps,
            )
            self.full[reading.number] = reading
            self._readings[reading.number] = self._readings.pop(reading.number)  # to the end

    def _note_error(self, reading: Reading, code: int, place: Broker, now: float) -> None:
        where = f"{self._topic} partition {reading.number}"
        reading.retry_at = now + RETRY_S
        if code == protocol.TOPIC_AUTHORIZATION_FAILED:
            self._refuse(not_allowed(self._topic))
        elif code == protocol.OFFSET_OUT_OF_RANGE:
            reading.out_of_range += 1
            if reading.out_of_range >= OUT_OF_RANGE_TRIES:
                if self._limits.keep_unread:
                    self._refuse(lost_updates(where))
                    reading.retry_at = math.inf
                reading.seeks_start = not self._limits.keep_unread
        else:
            self._log_failure(
                _error(code), f"{where} offset {reading.position} at {_name(place)}: {_error(code)}"
            )
        self.leaders.ask()
        if code == protocol.NOT_LEADER_OR_FOLLOWER:
            self._leader_of.pop(reading.number, None)  # until the brokers name the new leader
            reading.retry_at = now

    def begin_anew(self, reading: Reading) -> None:
        """Continue at the beginning of the log, and drop what was fetched or is under way."""
        if self._readings.get(reading.number) is reading:
            self.end(reading)
            self.begin(reading)
            reading.seeks_start, reading.retry_at = True, 0.0
            self.leaders.ask()

    def _seek_start(self, reading: Reading, place: Broker) -> None:
        """Ask the leader for the first offset, in a thread because connecting blocks."""
        reading.retry_at = math.inf

        def ask() -> None:
            body = protocol.first_offset_body(self._topic, reading.number)
            try:
                with contextlib.closing(connect(place, self._login)) as sock:
                    start = protocol.read_first_offset(question(sock, protocol.LIST_OFFSETS, body))
            except (OSError, ReadStatesError) as exc:
                self._command(partial(self._not_found, reading, place, exc))
            else:
                self._command(partial(self._found_start, reading, start))

        threading.Thread(target=ask, name=f"start-{self._topic}", daemon=True).start()

    def _not_found(self, reading: Reading, place: Broker, exc: Exception) -> None:
        self._log_failure("start", f"{_name(place)}: {exc!r}")
        reading.retry_at = time.monotonic() + RETRY_S
        self._leader_of.pop(reading.number, None)  # the leader may have moved

    def _found_start(self, reading: Reading, start: int) -> None:
        if self._readings.get(reading.number) is reading:
            reading.seeks_start, reading.out_of_range, reading.retry_at = False, 0, 0.0
            self._go_on(reading, start)

    def check_deadlines(self, now: float) -> None:
        """Drop each connection on which a response is late."""
        for links in self._links.values():
            for link in links:
                if link.asked is not None and now > link.deadline:
                    self._lose(link, TimeoutError("the broker did not respond in time"))

    def _lose(self, link: Link[Reading], exc: Exception) -> None:
        """Drop a connection that failed. Its unanswered fetches are sent again."""
        self._unregister(link)
        asked = link.failed(time.monotonic())
        for reading in asked:
            if reading.link is link:
                reading.link = None
        if asked or not isinstance(exc, ConnectionResetError):  # brokers close idle connections
            self._log_failure("connection", f"{_name(link.place)}: {exc!r}")
            self.leaders.ask(suspect=link.place)

    def _unregister(self, link: Link[Reading]) -> None:
        if link.connection is not None:
            self._selector.unregister(link.connection)

    def _note_opened(self, link: Link[Reading], result: Connection | Exception) -> None:
        if isinstance(result, Exception):
            self._lose(link, result)
        elif link.opened(result):
            self._selector.register(result, selectors.EVENT_READ, link)

    def _note_unknown(self, place: Broker, exc: Exception) -> None:
        self._log_failure("metadata", f"{_name(place)}: {exc!r}")

    def _note_leaders(self, metadata: TopicMetadata) -> None:
        if metadata.error == protocol.TOPIC_AUTHORIZATION_FAILED:
            self._refuse(not_allowed(self._topic))
            return
        if metadata.error:
            self._log_failure("topic", f"{self._topic}: {_error(metadata.error)}")
        now = time.monotonic()
        for number, place in metadata.brokers.items():
            links = self._links.get(number)
            if links is None or links.place != place:
                self._close_links(number, now)
                self._links[number] = BrokerLinks(place, self._login)
        for number in self._links.keys() - metadata.brokers.keys():
            self._close_links(number, now)
            del self._links[number]
        self._leader_of = metadata.leaders
        for reading in self._readings.values():
            links = self._links.get(metadata.leaders.get(reading.number, -1))
            if reading.link is not None and (links is None or reading.link not in [*links]):
                reading.link = None  # the old leader may never respond: ask the new leader
        self._log_leaderless(metadata)

    def _log_leaderless(self, metadata: TopicMetadata) -> None:
        without = sorted(self._readings.keys() - metadata.leaders.keys())
        if without and not metadata.error:
            self._log_failure("leader", f"{self._topic} partitions {without}: there is no leader")

    def _close_links(self, number: int, now: float) -> None:
        links = self._links.get(number)
        for link in links or ():
            self._unregister(link)
            for reading in link.close(now):
                if reading.link is link:
                    reading.link = None

    def _log_failure(self, kind: str, text: str) -> None:
        now = time.monotonic()
        if now - self._logged_at.get(kind, -ERROR_LOG_S) >= ERROR_LOG_S:
            self._logged_at[kind] = now
            log.warning("not_read topic=%s: %s; the worker will retry", self._topic, text)


def not_allowed(topic: str) -> GroupError:
    """Return the error for a topic that the brokers do not allow this worker to read."""
    return GroupError(
        f"{topic}: this worker is not allowed to read it; SECURITY.md lists the rights that a "
        "worker needs"
    )


def _error(code: int) -> str:
    return protocol.error_name(code)


def _name(place: Broker) -> str:
    return f"{place.host}:{place.port}"
