"""murmur2 against Kafka's own test vectors."""

from __future__ import annotations

import pytest
from confluent_kafka import Producer

from readstates.schemas.partitioner import murmur2, partition_of

# org.apache.kafka.common.utils.UtilsTest.testMurmur2, as signed 32-bit integers
VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("key", VECTORS)
def test_vectors(key: bytes) -> None:
    assert murmur2(key) == VECTORS[key] & 0xFFFFFFFF


def test_partition_drops_the_sign() -> None:
    assert partition_of(b"21", 7) == (-973932308 & 0x7FFFFFFF) % 7
    assert {partition_of(b"%d" % user, 3) for user in range(1, 100)} == {0, 1, 2}


def test_the_client_library_knows_this_partitioner() -> None:
    Producer({"partitioner": "murmur2_random"})
