"""Brokers in this process, which speak as much of Kafka's protocol as readers and bundles need.

A test makes their faults: an error for a partition, a connection that ends, an answer that does not
come. What they answer otherwise is what Kafka answers; the integration tests compare with Kafka.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import deque
from typing import NamedTuple

from tests.support import raw_batches as raw

METADATA, FETCH, LIST_OFFSETS, PRODUCE = 3, 1, 2, 0
HUGE = 1 << 40


class Asked(NamedTuple):
    """A fetch as a broker got it."""

    connection: int
    wait_ms: int
    bytes_min: int
    positions: dict[int, int]
    order: list[int]


class FakeLog:
    """A partition's batches. `stable`: where open transactions begin; None: there are none."""

    def __init__(self) -> None:
        self.batches: list[bytes] = []
        self.start, self.end = 0, 0
        self.stable: int | None = None
        self.aborted: list[tuple[int, int]] = []

    def append(self, batch: bytes, last_delta: int | None = None) -> int:
        """Put a batch at the end; returns its first offset."""
        first = self.end
        (delta,) = struct.unpack_from(">i", batch, 23)
        self.batches.append(raw.at(first, batch))
        self.end = first + (delta if last_delta is None else last_delta) + 1
        return first

    def read(self, position: int, most: int) -> bytes:
        found: list[bytes] = []
        size = 0
        for number, batch in enumerate(self.batches):
            (first,) = struct.unpack_from(">q", batch)
            after = self.batches[number + 1 :]
            end = struct.unpack_from(">q", after[0])[0] if after else self.end
            if end <= position or first >= (self.end if self.stable is None else self.stable):
                continue
            if found and size + len(batch) > most:
                break
            found.append(batch)
            size += len(batch)
        return b"".join(found)


class FakeCluster:
    """Brokers that share the logs of one topic. `leaders`: partition → broker."""

    def __init__(self, partitions: int = 1, brokers: int = 1) -> None:
        self.changed = threading.Condition()
        self.topic_error = 0
        self.logs = [FakeLog() for _ in range(partitions)]
        self.brokers = [FakeBroker(self, number) for number in range(brokers)]
        self.leaders = dict.fromkeys(range(partitions), 0)
        self.metadata_requests = 0

    @property
    def bootstrap(self) -> str:
        return ",".join(f"127.0.0.1:{broker.port}" for broker in self.brokers)

    def append(self, number: int, *values: bytes, codec: int = raw.NONE) -> int:
        """Write a batch of these values; returns its first offset."""
        return self.append_batch(number, raw.batch_of(codec, [raw.Record(b"1", v) for v in values]))

    def append_batch(self, number: int, batch: bytes) -> int:
        with self.changed:
            first = self.logs[number].append(batch)
            self.changed.notify_all()
            return first

    def close(self) -> None:
        for broker in self.brokers:
            broker.close()


class FakeBroker:
    """One of them. `fails` has the errors that a partition's next requests get, one by one.

    While `is_silent`, it takes requests and answers none. `damages` changes the next responses.
    """

    def __init__(self, cluster: FakeCluster, number: int) -> None:
        self.cluster, self.number = cluster, number
        self.asked: list[Asked] = []
        self.stamp_ms = -1  # of records that are produced
        self.produced: list[list[int]] = []  # the partitions of each produce request
        self.fails: dict[int, deque[int]] = {}
        self.is_silent = False
        self.cluster_id = "cluster"
        self.damages: deque[int] = deque()  # places in the partitions' bytes that change
        self.response: bytes | None = None  # in place of the next one to a fetch
        self._links: list[socket.socket] = []
        self._is_closed = False
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._serve()

    def _serve(self) -> None:
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def _accept(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = server.accept()
                self._links.append(link)
                arguments = (link, len(self._links))
                threading.Thread(target=self._answer, args=arguments, daemon=True).start()

    def cut(self) -> None:
        """End all connections."""
        for link in self._links:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """Be gone: refuse connections."""
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()

    def restart(self) -> None:
        self._server = socket.create_server(("127.0.0.1", self.port))
        self._serve()

    def close(self) -> None:
        self._is_closed = True
        with contextlib.suppress(OSError):
            self.stop()
        with self.cluster.changed:
            self.cluster.changed.notify_all()

    def _answer(self, link: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError, AssertionError), link:
            while True:
                (size,) = struct.unpack(">i", raw.exactly(link, 4))
                request = raw.exactly(link, size)
                kind, _version, correlation, length = struct.unpack_from(">hhih", request)
                body = request[10 + length :]
                if kind == METADATA:
                    answer = self._metadata()
                elif kind == LIST_OFFSETS:
                    answer = self._first_offset(body)
                elif kind == PRODUCE:
                    answer = self._produce(body)
                else:
                    answer = self._fetch(number, body)
                while self.is_silent and not self._is_closed:
                    time.sleep(0.01)
                if self.response is not None and kind == FETCH:
                    whole, self.response = self.response, None
                else:
                    whole = struct.pack(">ii", 4 + len(answer), correlation) + answer
                link.sendall(whole)

    def _metadata(self) -> bytes:
        cluster = self.cluster
        cluster.metadata_requests += 1
        out = struct.pack(">ii", 0, len(cluster.brokers))
        for broker in cluster.brokers:
            out += struct.pack(">i", broker.number) + raw.text("127.0.0.1")
            out += struct.pack(">i", broker.port) + raw.text(None)
        out += raw.text(self.cluster_id) + struct.pack(">ii", 0, 1)
        out += struct.pack(">h", cluster.topic_error) + raw.text("t") + b"\0"
        out += struct.pack(">i", len(cluster.leaders))
        for number, leader in cluster.leaders.items():
            out += struct.pack(">hiii", 0, number, leader, 1)
            out += struct.pack(">iiiii", 1, leader, 1, leader, 0)
        return out

    def _first_offset(self, body: bytes) -> bytes:
        (length,) = struct.unpack_from(">h", body, 9)
        partitions, number, epoch, time_ms = struct.unpack_from(">iiiq", body, 11 + length)
        assert (partitions, epoch, time_ms) == (1, -1, -2)
        out = struct.pack(">ii", 0, 1) + raw.text("t") + struct.pack(">i", 1)
        start = self.cluster.logs[number].start
        return out + struct.pack(">ihqqi", number, 0, -1, start, -1)

    def _produce(self, body: bytes) -> bytes:
        transaction, acks, _timeout, topics = struct.unpack_from(">hhii", body)
        assert (transaction, acks, topics) == (-1, -1, 1)
        (length,) = struct.unpack_from(">h", body, 12)
        (count,) = struct.unpack_from(">i", body, 14 + length)
        at = 18 + length
        out = struct.pack(">i", 1) + raw.text("t") + struct.pack(">i", count)
        self.produced.append([])
        for _ in range(count):
            number, size = struct.unpack_from(">ii", body, at)
            batch = body[at + 8 : at + 8 + size]
            at += 8 + size
            self.produced[-1].append(number)
            log = self.cluster.logs[number]
            error = self._error(number, log.start)
            if self.fails.get(number):
                self.fails[number].popleft()
            first = -1 if error else self.cluster.append_batch(number, batch)
            out += struct.pack(">ihqqq", number, error, first, -1 if error else self.stamp_ms, 0)
        assert at == len(body)
        return out + struct.pack(">i", 0)

    def _fetch(self, connection: int, body: bytes) -> bytes:
        _replica, wait_ms, least, _most, isolation, _, _, topics = struct.unpack_from(
            ">iiiibiii", body
        )
        assert (isolation, topics) == (1, 1)
        (length,) = struct.unpack_from(">h", body, 29)
        (count,) = struct.unpack_from(">i", body, 31 + length)
        fields = struct.Struct(">iiqqi")
        at, positions, most = 35 + length, {}, {}
        for _ in range(count):
            number, epoch, position, _start, size = fields.unpack_from(body, at)
            assert epoch == -1
            positions[number], most[number] = position, size
            at += fields.size
        self.asked.append(Asked(connection, wait_ms, least, positions, list(positions)))
        end = time.monotonic() + wait_ms / 1000
        with self.cluster.changed:
            while not self._has(positions, least) and not self._is_closed:
                left = end - time.monotonic()
                if left <= 0 or not self.cluster.changed.wait(left):
                    break
        out = struct.pack(">ihii", 0, 0, 0, 1) + raw.text("t") + struct.pack(">i", count)
        for number, position in positions.items():
            out += self._partition(number, position, most[number])
        return out

    def _has(self, positions: dict[int, int], least: int) -> bool:
        logs = self.cluster.logs
        size = sum(len(logs[number].read(at, HUGE)) for number, at in positions.items())
        return size >= least or any(self._error(n, at) for n, at in positions.items())

    def _error(self, number: int, position: int) -> int:
        log = self.cluster.logs[number]
        if self.cluster.leaders.get(number) != self.number:
            return 6
        if self.fails.get(number):
            return self.fails[number][0]
        return 0 if log.start <= position <= log.end else 1

    def _partition(self, number: int, position: int, most: int) -> bytes:
        log, error = self.cluster.logs[number], self._error(number, position)
        if self.fails.get(number):
            self.fails[number].popleft()
        if error:
            return struct.pack(">ihqqqiii", number, error, -1, -1, -1, -1, -1, -1)
        stable = log.end if log.stable is None else log.stable
        out = struct.pack(">ihqqqi", number, 0, log.end, stable, log.start, len(log.aborted))
        out += b"".join(struct.pack(">qq", *abort) for abort in log.aborted)
        records = bytearray(log.read(position, most))
        if records and self.damages:
            records[self.damages.popleft()] ^= 0xFF
        return out + struct.pack(">ii", -1, len(records)) + records
