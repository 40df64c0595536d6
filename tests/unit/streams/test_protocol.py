"""Requests and responses byte by byte, as Kafka's own message definitions have them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from readstates.streams.kafka import protocol
from readstates.streams.kafka.protocol import (
    Broker,
    Fetched,
    FetchedPartition,
    Produced,
    ProtocolError,
    TopicMetadata,
    Wanted,
)


def hexed(text: str) -> bytes:
    return bytes.fromhex(text.replace("|", " "))


FETCH_BODY = hexed(
    "ffffffff | 000001f4 | 00000001 | 00100000 | 01 | 00000000 | ffffffff"  # … no session
    "| 00000001 | 0002 7071 | 00000002"  # one topic, two partitions
    "| 00000003 | ffffffff | 0000000000000007 | ffffffffffffffff | 00010000"
    "| 00000001 | ffffffff | 0000000100000000 | ffffffffffffffff | 00010000"
    "| 00000000 | 0000"  # nothing forgotten, no rack
)
FETCHED = hexed(
    "00000005 | 0000 | 00000000 | 00000001 | 0002 7071 | 00000002"
    "| 00000003 | 0000 | 0000000000000009 | 0000000000000008 | 0000000000000001"
    "| 00000001 | 0000000000000fff | 0000000000000002 | ffffffff | 00000003 | 616263"
    "| 00000001 | 0006 | ffffffffffffffff | ffffffffffffffff | ffffffffffffffff"
    "| ffffffff | ffffffff | ffffffff"
)
PRODUCE_BODY = hexed(
    "ffff | ffff | 00000bb8 | 00000001 | 0002 7071 | 00000002"  # in no transaction, all replicas
    "| 00000003 | 00000002 | 6162 | 00000001 | 00000001 | 63"
)
PRODUCED = hexed(
    "00000001 | 0002 7071 | 00000003"
    "| 00000003 | 0000 | 0000000000000007 | 0000018bcfe56800 | 0000000000000000"
    "| 00000004 | 0000 | 0000000000000007 | ffffffffffffffff | 0000000000000000"  # no such stamps
    "| 00000001 | 0006 | ffffffffffffffff | ffffffffffffffff | ffffffffffffffff"
    "| 00000005"
)
METADATA = hexed(
    "00000000 | 00000002"
    "| 00000001 | 0001 61 | 00002384 | ffff"
    "| 00000002 | 0001 62 | 00002385 | 0003 313233"
    "| 0002 6363 | 00000001"  # the cluster, its controller
    "| 00000001 | 0000 | 0002 7071 | 00 | 00000003"
    "| 0000 | 00000000 | 00000002 | 00000004 | 00000001 00000002 | 00000001 00000002 | 00000000"
    "| 0005 | 00000001 | ffffffff | 00000004 | 00000000 | 00000000 | 00000000"
    "| 0000 | 00000002 | 00000009 | 00000004 | 00000000 | 00000000 | 00000000"  # an unknown broker
)


def test_a_request() -> None:
    asked = protocol.request(protocol.FETCH, 9, b"body")
    name = b"read-states-reader"
    head = struct.pack(">hhih", 1, 11, 9, len(name)) + name
    assert asked == struct.pack(">i", len(head) + 4) + head + b"body"
    kinds = (protocol.METADATA, protocol.SASL_HANDSHAKE, protocol.SASL_AUTHENTICATE)
    heads = [struct.unpack_from(">hh", protocol.request(kind, 1, b""), 4) for kind in kinds]
    assert heads == [(3, 7), (17, 1), (36, 1)]


def test_the_bodies() -> None:
    wanted = [Wanted(3, 7, 1 << 16), Wanted(1, 1 << 32, 1 << 16)]
    body = protocol.fetch_body("pq", wanted, wait_ms=500, bytes_min=1, bytes_max=1 << 20)
    assert body == FETCH_BODY
    assert protocol.metadata_body("pq") == hexed("00000001 | 0002 7071 | 00")  # creates no topic
    assert protocol.handshake_body("PLAIN") == hexed("0005 504c41494e")
    assert protocol.authenticate_body(b"\0a\0b") == hexed("00000004 00610062")


def test_a_fetch() -> None:
    assert protocol.read_fetch(memoryview(FETCHED)) == Fetched(
        5,
        0,
        [
            FetchedPartition(3, 0, 9, 8, [(4095, 2)], b"abc"),
            FetchedPartition(1, 6, -1, -1, [], b""),
        ],
    )


def test_a_bundle() -> None:
    assert protocol.produce_body("pq", {3: b"ab", 1: b"c"}, 3_000) == PRODUCE_BODY
    assert protocol.read_produced(memoryview(PRODUCED)) == Produced(
        5, {1: 6}, {3: 1_700_000_000_000}
    )


def test_metadata() -> None:
    brokers = {1: Broker("a", 9092), 2: Broker("b", 9093)}
    found = protocol.read_metadata(memoryview(METADATA))
    assert found == TopicMetadata("cc", brokers, 0, {0: 2})


def test_the_login() -> None:
    handshake = hexed("0021 | 00000002 | 0001 61 | 0001 62")
    assert protocol.read_handshake(memoryview(handshake)) == (33, ["a", "b"])
    refused = hexed("003a | 0002 6e6f | 00000000 | 0000000000000000")
    assert protocol.read_authenticate(memoryview(refused)) == (58, "no", b"")
    step = hexed("0000 | ffff | 00000003 616263 | 0000000000000000")
    assert protocol.read_authenticate(memoryview(step)) == (0, "", b"abc")


@pytest.mark.parametrize(
    ("read", "data"),
    [
        (protocol.read_fetch, FETCHED),
        (protocol.read_produced, PRODUCED),
        (protocol.read_metadata, METADATA),
        (protocol.read_handshake, hexed("0021 | 00000002 | 0001 61 | 0001 62")),
    ],
)
def test_what_is_cut_off(read: Callable[[memoryview], Any], data: bytes) -> None:
    for end in range(len(data)):
        with pytest.raises(ProtocolError, match=f"a response of {end} bytes cannot be read"):
            read(memoryview(data[:end]))


def test_what_is_no_text_or_of_another_topic() -> None:
    with pytest.raises(ProtocolError):
        protocol.read_metadata(memoryview(METADATA.replace(b"\0\x01a", b"\0\x01\xff")))
    two = METADATA.replace(
        hexed("00000001 | 0000 | 0002 7071"), hexed("00000002 | 0000 | 0002 7071")
    )
    with pytest.raises(ProtocolError, match="2 topics"):
        protocol.read_metadata(memoryview(two))


def test_names_of_errors() -> None:
    assert protocol.error_name(6) == "NOT_LEADER_OR_FOLLOWER"
    assert protocol.error_name(-1) == "error -1"
