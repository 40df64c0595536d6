"""When a change is due to be written out: a partition behind its producers, and one that is not."""

from __future__ import annotations

from typing import Any

from readstates.streams.partition.batch import Batch
from readstates.streams.partition.write_out import EARLY_DIVISOR
from tests.support.small_world import World, event

DELAY_MS = 30_000
HOUR_MS = 3_600_000


def world() -> World:
    """A partition with user 1 resident and clean, at offset 1."""
    made = World()
    made.now_ms = HOUR_MS - 1
    made.feed(ack(0, HOUR_MS))
    made.load_next()
    assert made.write_all() == 1
    made.now_ms = HOUR_MS
    return made


def ack(offset: int, made_ms: int) -> Any:
    """An update that the broker took at that time."""
    record = event(offset, 1, channel_id=7, message_id=offset + 1)
    record.timestamp = made_ms
    return record


def test_a_fresh_change_waits_the_delay_at_the_logs_end_too() -> None:
    made = world()
    made.feed(ack(1, HOUR_MS), last=True)
    made.now_ms += DELAY_MS - 1
    assert made.write_all(DELAY_MS) == 0
    made.now_ms += 1
    assert made.write_all(DELAY_MS) == 1


def test_a_backlog_is_coalesced_while_it_lasts_and_written_when_the_log_ends() -> None:
    made = world()
    made.feed(ack(1, HOUR_MS - DELAY_MS))
    assert made.write_all(DELAY_MS) == 0
    made.now_ms += 1000
    made.feed(ack(2, HOUR_MS - DELAY_MS + 1), last=True)
    assert made.write_all(DELAY_MS) == 1


def test_a_backlog_is_written_when_the_partition_has_caught_up() -> None:
    made = world()
    made.feed(ack(1, HOUR_MS - DELAY_MS))
    assert made.write_all(DELAY_MS) == 0
    made.now_ms += 1000
    made.feed(ack(2, made.now_ms - 5))  # the log goes on
    assert made.write_all(DELAY_MS) == 1
    made.feed(ack(3, made.now_ms), last=True)
    assert made.write_all(DELAY_MS) == 0, "what came since is not late"


def test_a_partition_behind_for_longer_than_the_delay_writes_what_waited_that_long() -> None:
    made = world()
    made.feed(ack(1, HOUR_MS - 10 * DELAY_MS))
    made.now_ms += DELAY_MS
    made.feed(ack(2, HOUR_MS - 9 * DELAY_MS))
    assert made.write_all(DELAY_MS) == 1


def test_what_waits_in_the_inbox_keeps_the_log_from_having_ended() -> None:
    made = world()
    made.feed(ack(1, HOUR_MS - DELAY_MS), last=True)
    made.partition.take(Batch(2, [ack(2, HOUR_MS - DELAY_MS)], 3))
    assert made.write_all(DELAY_MS) == 0


def test_what_is_nearly_due_goes_along_with_what_is() -> None:
    made = World()
    users = (1, 2, 3)
    early_ms = DELAY_MS // EARLY_DIVISOR
    made.now_ms = HOUR_MS
    made.feed(*[event(user - 1, user, channel_id=7, message_id=5) for user in users])
    for _ in users:
        made.load_next()
    made.write_all()
    for offset, user, since_ms in ((3, 1, 0), (4, 2, early_ms - 1), (5, 3, 1)):
        made.now_ms += since_ms
        made.feed(event(offset, user, channel_id=7, message_id=6))
    made.now_ms = HOUR_MS + DELAY_MS - 1
    assert made.write_all(DELAY_MS) == 0, "none is due"
    made.now_ms += 1
    assert made.write_all(DELAY_MS) == 3, "the first is due, the last is due early_ms later"
    made.now_ms += 1
    made.feed(event(6, 1, channel_id=7, message_id=7))
    made.now_ms += early_ms + 1
    made.feed(event(7, 2, channel_id=7, message_id=7))
    made.now_ms += DELAY_MS - early_ms - 1
    assert made.write_all(DELAY_MS) == 1, "the second waits for over early_ms less"
