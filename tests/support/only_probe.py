"""A worker in which the probe is the only check: what else would notice a fault is switched off.

CLOCK_AHEAD_S shifts its clock, as in `ops/drills/wrong_clock.py`. NAMES_FILE has the addresses of
names, as in `named_hosts.py`. With KEEPS_LEADERS=1 it reads topics as a client with librdkafka's
issue 4898: a topic that was made anew begins with a lower leader epoch, and such a client takes
what the brokers say of it for older news.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections import defaultdict

from readstates.streams.cassandra.addresses import Addresses
from readstates.streams.cli import main
from readstates.streams.kafka import protocol
from readstates.streams.kafka.broker_clocks import BrokerClocks
from readstates.streams.worker.watch import Watch

AHEAD_NS = int(float(os.environ.get("CLOCK_AHEAD_S", "0")) * 1e9)
_true_ns = time.time_ns
_true_metadata = protocol.read_metadata
_known: dict[bytes, dict[int, tuple[int, int]]] = defaultdict(dict)  # by topic and partition


def _wrong_ns() -> int:
    return _true_ns() + AHEAD_NS


def _not_corrected(self: BrokerClocks, number: int) -> int:
    return 0


async def _does_not_look(self: object) -> None:
    await asyncio.Event().wait()


def _old_metadata(data: memoryview) -> protocol.TopicMetadata:
    """The metadata, but of each partition what had the highest leader epoch so far."""
    found = _true_metadata(data)
    topic, told = _epochs(bytes(data), found)
    known = _known[topic]
    for number, (epoch, leader) in told.items():
        if epoch >= known.get(number, (-1, -1))[0]:
            known[number] = epoch, leader
    leaders = {n: leader for n, (_, leader) in known.items() if leader in found.brokers}
    return found._replace(leaders=leaders)


def _epochs(data: bytes, found: protocol.TopicMetadata) -> tuple[bytes, dict[int, tuple[int, int]]]:
    """The topic's name; by partition its leader epoch and its leader."""
    at = 8  # after the throttle time and the number of brokers
    for _ in found.brokers:
        at = _after_text(data, _after_text(data, at + 4) + 4)  # number, host, port, rack
    at = _after_text(data, at) + 4 + 4 + 2  # cluster, controller, number of topics, error
    end = _after_text(data, at)
    topic = data[at:end]
    (count,) = struct.unpack_from(">i", data, end + 1)
    at, told = end + 5, {}
    for _ in range(count):
        _code, number, leader, epoch = struct.unpack_from(">hiii", data, at)
        told[number] = epoch, leader
        at += 14
        for _ in range(3):  # replicas, those in sync, those offline
            at += 4 + 4 * struct.unpack_from(">i", data, at)[0]
    return topic, told


def _after_text(data: bytes, at: int) -> int:
    return at + 2 + int(max(struct.unpack_from(">h", data, at)[0], 0))


if __name__ == "__main__":
    vars(time).update(time_ns=_wrong_ns, time=lambda: _wrong_ns() / 1e9)
    BrokerClocks.ahead_ms = _not_corrected  # type: ignore[method-assign]
    Watch.run = _does_not_look  # type: ignore[method-assign]
    Addresses.follow = _does_not_look  # type: ignore[method-assign]
    if os.environ.get("KEEPS_LEADERS"):
        vars(protocol).update(read_metadata=_old_metadata)
    if os.environ.get("NAMES_FILE"):
        from .named_hosts import choose_addresses

        choose_addresses()
    main()
