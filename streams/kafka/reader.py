"""Reads partitions of one topic from Kafka, in a separate thread.

The thread waits for all brokers at the same time (`fetches.py`, `fetch_link.py`). Fetched bytes
stay encoded until their partition has room for the records. Then `record_batches.py` decodes the
records, and the reader delivers them to `put`. When a partition has no fetched bytes left, the
thread fetches it again. The reader keeps these rules:

- B1. A partition's batches arrive in order and skip no offset. The first batch begins at the
  position given to `start`, and each later batch begins where the previous batch ended. A fetch
  response counts only if the fetch asked for the partition's next offset.
- B2. After `stop` or a new `start`, `put` receives nothing from the earlier reading.
- B3. Delivery is bounded. A partition gets at most as many bytes as `wants` returns, minus those on
  their way to `put`. The batches delivered together are a *poll*. A poll holds at most
  TAKEN_BYTES_MAX. Only the last record of a delivery may exceed one of these limits.
- B4. Fetched data is bounded. If more than BUFFERED_BYTES_MAX waits for room, the reader drops the
  excess and fetches it again later. At most UNPACKED_BATCHES_MAX decompressed batches wait.
- B5. A failing broker does not stop the reader, and a slow broker does not delay the others. The
  reader stops only if the next record is no longer in the log, or if the worker has no permission
  to read the topic.

`start`, `stop` and `look` take effect at once, even while a fetch waits at the broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from .. import metrics
from ..config import COUNT, Settings
from ..partition.batch import Batch, UnreadBatch
from .cluster import Cluster
from .fetches import Fetches
from .login import login as kafka_login
from .outside_log import missing_updates, stop_before
from .pulse import Pulse
from .reading import DAMAGED_TRIES, Limits, Reading
from .record_batches import FetchedBatches

log = logging.getLogger(__name__)

TAKEN_BYTES_MAX = 4 << 20  # bytes of records in one poll (see B3)
POLLS_AHEAD = 4  # how many polls may wait for the event loop
BUFFERED_BYTES_MAX = 64 << 20  # fetched bytes that have not been delivered yet
UNPACKED_BATCHES_MAX = 2  # how many decompressed batches of the largest size may wait
DAMAGED_PAUSE_S = 0.05  # pause before a damaged batch is fetched again; it grows each time
DAMAGED_PAUSE_MAX_S = 5.0
HELD_BACK_S = 0.01  # time until the next call of `wants`, if nobody calls `look`
CLOSE_TIMEOUT_S = 2.0
SILENT_MAX_S = 60.0  # A thread is stuck if an iteration takes this long; usually it takes 1 s.

Poll = list[tuple[int, int, Batch]]  # (partition, token, batch) of each delivered batch


class Reader:
    """See the module docstring. Call the public methods on the event loop.

    The reader calls `put` on the event loop with each poll, and `refuse` with an error that ends
    the worker. It calls `wants` in the thread, to learn how many bytes of a partition may be
    delivered now. `wants` accounts for everything that `put` has received; the reader subtracts
    the bytes on their way to `put`. The reader also calls `first` in the thread, with each batch;
    `first` returns the part of the batch that goes to `put`, or None.
    """

    def __init__(
        self,
        settings: Settings,
        topic: str,
        limits: Limits,
        put: Callable[[Poll], None],
        refuse: Callable[[Exception], None],
        wants: Callable[[int], int],
        first: Callable[[int, int, Batch], Batch | None] = lambda _number, _token, batch: batch,
        cluster: Cluster | None = None,
    ) -> None:
        self._topic, self._limits = topic, limits
        self._put, self._wants, self._first = put, wants, first
        self._counts_missing = settings.missing_updates == COUNT
        self.missing = ""  # see `group_consumer.Reading`
        self._started: dict[int, Reading] = {}  # only the loop uses it
        self._commands: deque[Callable[[], None]] = deque()  # for the thread
        self._polls: deque[list[tuple[Reading, Batch]]] = deque()  # for the loop
        self._is_put_scheduled = self._is_loop_awaited = self._is_woken = self._closing = False
        self._wakes, self._waker = socket.socketpair()
        self._wakes.setblocking(False)
        self._waker.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakes, selectors.EVENT_READ)
        self._thread: threading.Thread | None = None
        self.pulse = Pulse(f"read-{topic}", SILENT_MAX_S, is_vital=True)
        self._refuse = partial(self._call, refuse)
        self._fetches = Fetches(
            topic,
            settings.kafka_bootstrap,
            kafka_login(settings),
            cluster or Cluster(),
            limits,
            self._selector,
            self._room,
            self._command,
            self._refuse,
            self._go_on,
        )

    # -- on the event loop ----------------------------------------------------------------------

    def start(self, number: int, position: int, token: int) -> None:
        """Read a partition from `position` on. Each of its batches carries `token`."""
        self.stop(number)
        reading = self._started[number] = Reading(number, position, token)
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._run, name=self.pulse.name, daemon=True)
            self._thread.start()
            self._fetches.leaders.start()
        self._command(partial(self._fetches.begin, reading))

    def stop(self, number: int) -> None:
        """Stop reading a partition. `put` receives no more of its batches."""
        reading = self._started.pop(number, None)
        if reading is not None:
            reading.is_stopped = True
            self._command(partial(self._fetches.end, reading))

    def end(self, number: int) -> int | None:
        """Return the last stable offset, where readable records end; None while it is unknown."""
        reading = self._started.get(number)
        return None if reading is None else reading.last_stable

    def high_watermark(self, number: int) -> int | None:
        """Return the end of the log, including open transactions; None while it is unknown."""
        reading = self._started.get(number)
        return None if reading is None else reading.high_watermark

    def open_transaction_s(self, number: int) -> float:
        """Return how long an open transaction has blocked the partition; 0 if none blocks it."""
        reading = self._started.get(number)
        if reading is None or reading.open_since is None or reading.last_stable is None:
            return 0.0
        is_there = reading.position >= reading.last_stable
        return time.monotonic() - reading.open_since if is_there else 0.0

    def begin_anew(self, number: int) -> None:
        """Read a recreated topic's partition from the beginning of its log."""
        reading = self._started.get(number)
        if reading is not None:
            self._command(partial(self._fetches.begin_anew, reading))

    @property
    def pulses(self) -> tuple[Pulse, Pulse]:
        """The signs of life (`Pulse`) of the reading thread and the thread that finds leaders."""
        return self.pulse, self._fetches.leaders.pulse

    def look(self) -> None:
        """Call `wants` now, because a partition has room again."""
        self._wake()

    def close(self) -> None:
        """Stop reading permanently."""
        for number in list(self._started):
            self.stop(number)
        self._closing = True
        self._fetches.leaders.close()
        self._wake()
        if self._thread is None:
            self._close()
        else:
            self._thread.join(CLOSE_TIMEOUT_S)

    def _put_all(self) -> None:
        """Call `put` with each waiting poll."""
        self._is_put_scheduled = False  # reset first: a later poll needs a new call
        while self._polls:
            poll = self._polls.popleft()
            wanted = [(r.number, r.token, batch) for r, batch in poll if not r.is_stopped]  # B2
            try:
                if wanted:
                    self._put(wanted)
            finally:  # only after `put`, so that `wants` already accounts for these bytes
                for reading, batch in poll:
                    reading.arrived_bytes += batch.size_bytes
        if self._is_loop_awaited:
            self._wake()

    def _command(self, command: Callable[[], None]) -> None:
        """Call `command` in the reader's thread. Any thread may call this method."""
        self._commands.append(command)
        self._wake()

    def _wake(self) -> None:
        """Wake the reader's thread. Any thread may call this method."""
        if not self._is_woken:
            self._is_woken = True
            with contextlib.suppress(OSError):  # the socket is closed
                self._waker.send(b"\0")

    # -- in the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing:
                self.pulse.beat()
                while self._commands:
                    self._commands.popleft()()
                again_at = self._deliver()
                now = time.monotonic()
                again_at = min(again_at, self._fetches.send(now))
                for key, _events in self._selector.select(max(again_at - now, 0.0)):
                    if key.data is not None:
                        self._fetches.receive(key.data)
                        continue
                    with contextlib.suppress(BlockingIOError):
                        self._wakes.recv(64)
                    self._is_woken = False  # reset first: a later command needs a new wake-up
                self._fetches.check_deadlines(time.monotonic())
        except Exception as exc:  # noqa: BLE001 (a bug: without this thread, nothing is read)
            self._refuse(exc)
        finally:
            self._close()

    def _close(self) -> None:
        self._fetches.close()
        self._selector.close()
        self._wakes.close()
        self._waker.close()

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        """Call a function on the event loop, unless the loop has ended."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def _room(self, reading: Reading) -> int:
        """Return how many bytes of a partition may be delivered now (B3)."""
        return self._wants(reading.number) - (reading.sent_bytes - reading.arrived_bytes)

    def _deliver(self) -> float:
        """Pass a poll to the event loop, if any records are ready.

        Partitions take turns: a partition with records left goes to the end of the line. Returns
        the time of the next call (`time.monotonic()`).
        """
        now, full = time.monotonic(), self._fetches.full
        self._is_loop_awaited = True  # set first: the loop may take a poll at any time
        if len(self._polls) >= POLLS_AHEAD:
            return now + 1
        self._is_loop_awaited = False
        poll: list[tuple[Reading, Batch]] = []
        records_left, bytes_left, again_at = self._limits.records_max, TAKEN_BYTES_MAX, now + 1
        for reading in list(full.values()):
            if records_left <= 0 or bytes_left <= 0:
                again_at = now
                break
            room = self._room(reading)
            if room <= 0:
                again_at = min(again_at, now + HELD_BACK_S)
                continue
            batch = self._take(reading, records_left, min(room, bytes_left))
            if batch is not None:
                records_left -= len(batch.records)
                bytes_left -= batch.size_bytes
                batch = self._first(reading.number, reading.token, batch)
            if batch is not None:
                poll.append((reading, batch))
                reading.sent_bytes += batch.size_bytes
            if reading.batches is not None:
                again_at = now
                full[reading.number] = full.pop(reading.number)
        if poll:
            self._hand_over(poll)
        if full:
            self._bound()
        return again_at

    def _hand_over(self, poll: list[tuple[Reading, Batch]]) -> None:
        self._polls.append(poll)
        if not self._is_put_scheduled:
            self._is_put_scheduled = True
            self._call(self._put_all)

    def _go_on(self, reading: Reading, start: int) -> None:
        """Move the position to the beginning of the log, and deliver an empty batch (B1)."""
        position, reading.position = reading.position, start
        metrics.QUERIES_GONE.inc(max(0, start - position))
        log.warning(
            "queries_gone topic=%s partition=%d offset=%d goes_on_at=%d: the next query is no "
            "longer in the log. Queries expired unread or were deleted, or the topic was "
            "recreated. The clients get no reply to these queries; no update is lost",
            self._topic,
            reading.number,
            position,
            start,
        )
        self._hand_over([(reading, Batch(position, [], start, time.perf_counter_ns(), False, 0))])

    def _take(self, reading: Reading, records_max: int, bytes_max: int) -> Batch | None:
        """Take fetched records as a batch. Return None if the position did not move."""
        batches, start = reading.batches, reading.position
        assert batches is not None
        taken = batches.take(records_max, bytes_max)
        reading.position = batches.position
        if batches.done:
            self._empty(reading)
            if batches.is_damaged:
                self._note_damage(reading)
        if batches.gaps and not self._may_go_on(reading, batches):
            reading.position = start
            return None
        if taken.unread and not self._limits.keep_unread:
            self._note_skipped(reading.number, taken.unread)
        if reading.position == start:
            return None
        is_last = reading.position >= batches.last_stable
        taken_ns = time.perf_counter_ns()
        return Batch(start, taken.records, reading.position, taken_ns, is_last, taken.size_bytes)

    def _empty(self, reading: Reading) -> None:
        reading.batches = None
        self._fetches.full.pop(reading.number, None)

    def _bound(self) -> None:
        """Drop waiting data that exceeds the limits (B4)."""
        unpacked_max = UNPACKED_BATCHES_MAX * self._limits.unpacked_bytes_max
        full: list[tuple[Reading, FetchedBatches]] = [
            (r, r.batches) for r in self._fetches.full.values() if r.batches is not None
        ]
        unpacked = sum(batches.unpacked_bytes for _, batches in full)
        size = sum(batches.size_bytes for _, batches in full)
        for reading, batches in full:
            if unpacked > unpacked_max:
                unpacked -= batches.unpacked_bytes
                size -= batches.unpacked_bytes
                batches.forget_unpacked()
            if size > BUFFERED_BYTES_MAX and self._room(reading) <= 0:
                size -= batches.size_bytes
                self._empty(reading)

    def _note_damage(self, reading: Reading) -> None:
        times = reading.note_damage()
        reading.retry_at = time.monotonic() + min(times * DAMAGED_PAUSE_S, DAMAGED_PAUSE_MAX_S)
        if times <= DAMAGED_TRIES:
            log.warning(
                "batch_damaged topic=%s partition=%d offset=%d: the batch has a wrong checksum or "
                "begins after this offset. The worker fetches it again (%d of %d)",
                self._topic,
                reading.number,
                reading.position,
                times,
                DAMAGED_TRIES,
            )

    def _may_go_on(self, reading: Reading, batches: FetchedBatches) -> bool:
        """Count the missing updates and return True, or stop the worker and return False."""
        first, end = batches.gaps[0]
        text = missing_updates(f"{self._topic} partition {reading.number}", first, end)
        if not self._counts_missing:
            self._refuse(stop_before(text))
            self._empty(reading)
            reading.retry_at = math.inf
            return False
        reading.has_gaps = True
        self.missing = self.missing or f"{text}. See read_states_updates_missing_total"
        for first, end in batches.gaps:
            metrics.UPDATES_MISSING.inc(max(0, end - max(first, reading.gaps_to)))
            reading.gaps_to = max(end, reading.gaps_to)
        batches.gaps.clear()
        return True

    def _note_skipped(self, number: int, unread: list[UnreadBatch]) -> None:
        metrics.QUERY_BATCHES_SKIPPED.inc(len(unread))
        log.warning(
            "query_batch_skipped topic=%s partition=%d offset=%d last_offset=%d batches=%d: %s. "
            "The queries in these batches get no reply. Their producer puts too much data into "
            "one batch, or does not compress as Kafka's clients do",
            self._topic,
            number,
            unread[0].first,
            unread[-1].offset,
            len(unread),
            unread[0].text,
        )
