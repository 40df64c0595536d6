"""The plan that a seed decides beforehand: small limits, the traffic and the faults.

The limits are far below any real setting, so that all of them are reached: tables of a few dozen
slots, a handful of parked updates, batches of two rows. Only USER_STATES_MAX is out of reach
(ARCHITECTURE, "Known limits").
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from readstates.schemas.partitioner import partition_of
from readstates.streams.config import CANDIDATE, IDS_UNCHECKED, ON, Settings
from readstates.streams.partition.plausible_ids import AHEAD_MAX_MS
from tests.support.events import MARKS_MAX, anything

PARTITIONS = 2
USER_STATES_MAX = 1000  # nobody has so many, nor so many slots for marks
BUSY_STATES_MIN = 200  # a table in which a few users may have more marks than are kept
TRAFFIC_S = 4.0
WORKERS_MAX = 3


class Send(NamedTuple):
    """A producer's record, or a client's query if `value` is a dict."""

    at_s: float
    partition: int
    key: bytes | None
    value: Any
    query: bool


class Fault(NamedTuple):
    """`kind` is a method of `world.World`."""

    at_s: float
    kind: str
    args: tuple[Any, ...]


@dataclass
class Plan:
    """See the module."""

    seed: int
    settings: Settings
    sends: list[Send]
    faults: list[Fault]
    poll_records: int
    gap_max: int  # offsets without a record between two
    slow_s: float
    load_fails: float
    late_answers: float
    write_fails: float
    commit_fails: float
    live_fails: float  # the same of an owner's commits while it is at work
    letter_fails: float
    late_topic_s: float
    wall_ms: int
    let_go_after_s: float
    static: bool  # the workers have INSTANCE_IDs
    earlier: int  # records of an earlier epoch at the beginning of each partition of updates
    change_fails: float = 0.0
    live_pace: float = 0.0  # with a candidate: how much of their backlog the live workers fold


def make(seed: int) -> Plan:
    """The plan of a seed."""
    rand = random.Random(seed)
    calm = rand.random() < 0.15
    states = rand.choice((10, 10, 20, 200, 200))
    wall_ms = (400 << 32) - rand.randint(0, 6000)  # the clock of the table wraps in some
    id_epoch_ms = IDS_UNCHECKED
    if (
        rand.random() < 0.3
    ):  # an ID is implausible until a moment of the traffic; the next ones, never
        id_epoch_ms = wall_ms + AHEAD_MAX_MS + rand.randint(0, int(TRAFFIC_S * 1000))

    def often(most: float) -> float:
        return 0.0 if calm or rand.random() < 0.3 else rand.random() * most

    plan = Plan(
        seed=seed,
        settings=Settings(
            cache_states=states,
            user_states_max=USER_STATES_MAX,
            id_epoch_ms=id_epoch_ms,
            cassandra_timeout_s=rand.choice((0.4, 1.5)),
            flush_delay_s=rand.choice((0.02, 0.2, 1.0)),
            dirty_share_max=rand.choice((0.2, 0.5, 0.9)),
            writes_in_flight_max=rand.choice((1, 2, 4, 32)),
            write_batch_rows=rand.choice((1, 2, 5, 30)),
            write_retry_s=0.05,
            loads_in_flight_max=rand.choice((1, 2, 16)),
            load_batch_users=rand.choice((1, 3, 16)),
            load_retry_s=0.05,
            parked_max=rand.choice((1, 5, 20, 100)),
            parked_bytes_max=rand.choice((1, 500, 1 << 20)),
            inbox_max=rand.choice((1, 10, 100)),
            inbox_bytes_max=rand.choice((1, 1000, 1 << 20)),
            queries_waiting_max=rand.choice((2, 1000)),
            slice_updates=rand.choice((1, 3, 20)),
            commit_interval_s=rand.choice((0.05, 0.3, 2.0)),
            handover_timeout_s=rand.choice((0.1, 0.3, 0.6)),
        ),
        sends=_sends(rand, states),
        faults=_faults(rand),
        poll_records=rand.choice((1, 5, 30)),
        gap_max=rand.choice((0, 2, 300, 300)),
        slow_s=rand.choice((0.005, 0.05, 0.3)),
        load_fails=often(0.3),
        late_answers=often(0.4),
        write_fails=0.9 if rand.random() < 0.1 else often(0.4),  # or hardly any comes through
        commit_fails=often(0.3),
        live_fails=0.8 if rand.random() < 0.2 else often(0.3),
        letter_fails=often(0.6),
        late_topic_s=rand.random() * TRAFFIC_S,
        wall_ms=wall_ms,
        let_go_after_s=rand.choice((0.0, 0.1, 0.5, 1.0)),
        static=rand.random() < 0.4,
        earlier=seed % 4,
    )
    return _with_feed(_long_replay(plan, rand) if rand.random() < 0.1 else plan, rand)


def _with_feed(plan: Plan, rand: random.Random) -> Plan:
    """The same with the change feed. A fifth of the seeds have none; half of these, a candidate."""
    if plan.seed % 5 == 0:
        return _as_candidate(plan, rand) if plan.seed % 2 else plan
    settings = replace(
        plan.settings,
        changes=ON,
        changes_delay_ms=rand.choice((0, 20, 200, 1000)),
        changes_waiting_max=rand.choice((5, 20, 100, 100)),
    )
    faults, sends = list(plan.faults), plan.sends
    if rand.random() < 0.3:  # users leave the table before they are told of
        settings = replace(
            settings, flush_delay_s=0.02, changes_delay_ms=300, changes_waiting_max=100
        )
        for _ in range(40):
            faults.append(Fault(rand.random() * TRAFFIC_S, "evict", (rand.randrange(WORKERS_MAX),)))
        sends = sorted([*sends, *_deletions(rand, sends)], key=lambda send: send.at_s)
    if rand.random() < 0.3:
        faults.append(Fault(rand.random() * TRAFFIC_S, "feed_down", (rand.choice((0.3, 2.0)),)))
    fails = 0.0 if rand.random() < 0.4 else rand.random() * 0.4
    return replace(plan, settings=settings, sends=sends, faults=sorted(faults), change_fails=fails)


def _as_candidate(plan: Plan, rand: random.Random) -> Plan:
    """The workers are those of a candidate, and the live ones are somewhere else in the log."""
    settings = replace(plan.settings, role=CANDIDATE)
    return replace(plan, settings=settings, live_pace=rand.choice((0.0, 0.02, 0.1, 0.5, 1.0)))


def _deletions(rand: random.Random, sends: list[Send]) -> list[Send]:
    """Deletions of read states that were told of, a while after some of the acks."""
    found = []
    for send in sends:
        if send.query or b', "type": "ack"' not in (send.value or b"") or rand.random() > 0.3:
            continue
        event = json.loads(send.value)
        event = {"user_id": event["user_id"], "channel_id": event["channel_id"], "type": "delete"}
        found.append(send._replace(at_s=send.at_s + 1.0, value=json.dumps(event).encode()))
    return found


def _long_replay(plan: Plan, rand: random.Random) -> Plan:
    """The database far ahead of what is committed, and the table gone: everything is read again.

    In half of them the owner that got so far could not say that it was at work.
    """
    quick = replace(
        plan.settings,
        cache_states=200,  # nobody is evicted and loaded again later on
        flush_delay_s=0.02,
        commit_interval_s=rand.choice((0.3, 2.0)),
    )
    handed_over = Fault(rand.random(), "rebalance", (rand.randrange(PARTITIONS),))
    crashes = [
        Fault(at, "crash", (member, rand.randrange(50), "lost"))
        for member, at in enumerate((1.0 + rand.random(), 1.5 + rand.random()))
    ]
    return replace(
        plan,
        settings=quick,
        faults=sorted([handed_over, *crashes]),
        commit_fails=0.0,
        live_fails=rand.choice((0.0, 0.9)),
        load_fails=0.0,
        write_fails=0.0,
    )


def _faults(rand: random.Random) -> list[Fault]:
    faults = []
    for _ in range(rand.choice((0, 1, 2, 3, 4, 6, 9))):
        at = rand.random() * rand.choice((1.0, TRAFFIC_S + 0.5))
        long = rand.choice((0.05, 0.3, 1.0, 2.0))
        member, more = rand.randrange(WORKERS_MAX), rand.randrange(200)
        table = rand.choice(("kept", "kept", "kept", "lost"))
        faults.append(
            rand.choice(
                (
                    Fault(at, "crash", (member, more, table)),
                    Fault(at, "crash", (member, more, table)),
                    Fault(at, "crash_in_effect", (member, more % 20, table)),
                    Fault(at, "crash_in_effect", (member, more % 20, table)),
                    Fault(at, "reboot", (rand.random(),)),
                    Fault(at, "freeze", (member, long)),
                    Fault(at, "cut_off", (member, 2 * long)),
                    Fault(at, "cut_off", (member, 2 * long)),
                    Fault(at, "stop_worker", (member,)),
                    Fault(at, "start_worker", ()),
                    Fault(at, "rebalance", (more % PARTITIONS,)),
                    Fault(at, "rebalance", (more % PARTITIONS,)),
                    Fault(at, "waver", (more % PARTITIONS, rand.random())),
                    Fault(at, "waver", (more % PARTITIONS, rand.random())),
                    Fault(at, "twin", (member,)),
                    Fault(at, "twin", (member,)),
                    Fault(at, "coordinator_away", (long,)),
                    Fault(at, "database_down", (long,)),
                    Fault(at, "writes_down", (2 * long,)),
                    Fault(at, "writes_down", (2 * long,)),
                    Fault(at, "retention", (rand.random(),)),
                )
            )
        )
    return sorted(faults)


class Shape(NamedTuple):
    """What the events of a seed are about; see `_shape`."""

    users: list[int]
    channels: list[int]
    messages: int  # so many different ones in a channel, at most


def _shape(rand: random.Random, states: int) -> Shape:
    """Few enough channels and messages that a user with all of them fits into a table.

    A tenth of the seeds has more messages than a read state keeps marks.
    """
    users = rand.sample(range(1, 10**6), rand.choice((3, 10, 40, 100)))
    if states >= BUSY_STATES_MIN and rand.random() < 0.2:
        return Shape(users[:3], rand.sample(range(1, 10**6), 2), 100)
    channels = rand.sample(range(1, 10**6), rand.randint(2, min(8, states // 4)))
    return Shape(users, channels, 12 if states < BUSY_STATES_MIN else 30)


def _sends(rand: random.Random, states: int) -> list[Send]:
    shape = _shape(rand, states)
    users, channels = shape.users, shape.channels
    count, hot = rand.randint(120, 300), rand.choice((1, 2))
    all_in_s = rand.choice((1.0, TRAFFIC_S, TRAFFIC_S))
    times = sorted(rand.random() * all_in_s for _ in range(count))
    if rand.random() < 0.3:  # in bursts
        times = [at - at % 0.8 for at in times]
    queries = rand.choice((0.1, 0.3, 0.5))
    sends: list[Send] = []
    gone: set[int] = set()  # users whose deletion was final
    for number, at in enumerate(times):
        user_id = users[int(rand.random() ** hot * len(users))]
        key = b"%d" % user_id
        partition = partition_of(key, PARTITIONS)
        if rand.random() < queries:
            sends.append(Send(at, partition, key, _query(rand, user_id, channels), True))
            continue
        dice = rand.random()
        event = _event(rand, user_id, shape, 1 + shape.messages * number // count)
        value = json.dumps(event).encode()
        if dice < 0.03:
            sends.append(Send(at, partition, *_bad(rand, user_id), False))
        elif dice < 0.04:  # a producer with another partitioner
            sends.append(Send(at, 1 - partition, key, value, False))
        elif dice < 0.08:  # a producer without idempotence: what is in the log, once more
            old = [send for send in sends[-60:] if send.key == key and not send.query]
            sends += [send._replace(at_s=at) for send in old[-1:] if user_id not in gone]
        else:
            sends.append(Send(at, partition, key, value, False))
            if event["type"] == "restore_user":
                gone.discard(user_id)
            elif event.get("final"):
                gone.add(user_id)
    return sends


def _event(rand: random.Random, user_id: int, shape: Shape, message: int) -> dict[str, Any]:
    """Anything, about a message that is sent about now; in some seeds few are ever read."""
    low, high = max(1, message - 4), message + 4
    event: dict[str, Any] = {"user_id": rand.choice((user_id, str(user_id)))}
    event.update(anything(rand, (low, high), shape.channels, reads=shape.messages < MARKS_MAX))
    if rand.random() < 0.1 and "channel_id" in event:
        event["read_state_type"] = 1
    return event


def _bad(rand: random.Random, user_id: int) -> tuple[bytes | None, bytes | None]:
    key = b"%d" % user_id
    choices: list[tuple[bytes | None, bytes | None]] = [
        (key, b'{"type": "ack"'),
        (key, b'{"type": "read", "user_id": %d}' % user_id),
        (key, b'{"type": "ack", "user_id": %d, "channel_id": 0, "message_id": 1}' % user_id),
        (key, b'{"type": "bulk_ack", "user_id": %d, "acks": []}' % user_id),
        (None, b'{"type": "delete_user", "user_id": %d}' % user_id),
        (b"%d" % (user_id + 1), b'{"type": "delete_user", "user_id": %d}' % user_id),
        (key, None),
        (key, b" " * (256 * 1024 + 1)),
    ]
    return rand.choice(choices)


def _query(rand: random.Random, user_id: int, channels: list[int]) -> dict[str, Any]:
    """What is asked; `since` and `after_update` become numbers when it is sent."""
    query: dict[str, Any] = {"user_id": user_id, "topic": rand.choice("aaaaal?")}
    query["since"] = rand.choice((None, None, "last", "last", "last", "past", "future"))
    query["after_update"] = rand.choice((None, None, None, "own", "own", "future"))
    query["left_ms"] = rand.choice((100, 100, 1000, 2000, 3000))
    if rand.random() < 0.2:
        query["channel_ids"] = rand.sample(channels, rand.randint(0, len(channels)))
    if rand.random() < 0.1:
        query["read_state_type"] = rand.randint(0, 1)
    for name in ("mentions", "mentioned", "totals"):
        if rand.random() < 0.2:
            query[name] = True
    if rand.random() < 0.2:
        query["limit"] = rand.randint(1, 4)
    if rand.random() < 0.1:
        query["after"] = (rand.randint(0, 1), rand.choice(channels))
    if rand.random() < 0.03:
        query["bad"] = True
    return query
