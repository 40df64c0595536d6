"""Which partitioner misrouted records: told from where real clients put their records.

tests/foreign/placements.json holds where clients that need a setting put keys without it, at 8 and
at 6 partitions. `make foreign` writes it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from readstates.schemas.other_partitioners import NOT_BY_KEY, explain
from readstates.schemas.partitioner import partition_of

FILE = Path(__file__).parents[2] / "foreign" / "placements.json"
PLACEMENTS: dict[str, dict[str, list[list[str | int]]]] = json.loads(FILE.read_text("utf-8"))
CHANCE = 0.7  # the greatest share of the users that a wrong partitioner explains
EXPECTED = {
    "confluent-kafka-python (librdkafka)": "crc32",
    "@confluentinc/kafka-javascript, RdKafka API": "crc32",
    "@platformatic/kafka": "murmur2 unsigned",
    "kafka-go": NOT_BY_KEY,
    "sarama": "fnv1a",
}


def misrouted(client: str, partitions: int) -> list[tuple[bytes, int]]:
    """As dead letters hold them: only what is in a wrong partition."""
    placed = [(str(key).encode(), int(where)) for key, where in PLACEMENTS[client][str(partitions)]]
    return [place for place in placed if place[1] != partition_of(place[0], partitions)]


@pytest.mark.parametrize("client", EXPECTED)
def test_real_records(client: str) -> None:
    places = misrouted(client, 6)
    users = len({key for key, _ in places})
    first, *others = explain(places, 6)
    assert (first.users, first.name) == (users, EXPECTED[client])
    assert all(other.users < CHANCE * users for other in others)


def test_a_power_of_two_hides_the_missing_mask() -> None:
    assert misrouted("@platformatic/kafka", 8) == []


def test_a_producer_that_has_not_seen_the_new_partitions() -> None:
    keys = [b"%d" % user for user in range(1, 60)]
    places = [(key, old) for key in keys if (old := partition_of(key, 4)) != partition_of(key, 6)]
    first, *others = explain(places, 6)
    assert (first.users, first.name) == (len(places), "murmur2 of 4 partitions")
    assert all(other.users < CHANCE * len(places) for other in others)


def test_no_records() -> None:
    assert explain([], 8) == []
