"""Badges that cannot be wrong: the scenarios on a real Kafka, a real Cassandra and a real worker.

All scenarios go forward together, each with a user of its own: one step of each or two, then what
the variant does to the worker or to its table, and so on. After each step a user's
whole reply must be right, and so must be what a device has that only reads what changed. At the
end Cassandra must have what the log says.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from readstates.ops.local.stack import Stack
from tests.support.badges import SCENARIOS, Event, Right, Scenario, ack, mention
from tests.support.devices import Device, right_of
from tests.support.load import Log, together
from tests.support.service import USER_STATES_MAX, Service
from tests.support.waiting import until
from tests.support.wire import PARTITIONS, Wire, new_user

LOADED = "read_states_cassandra_loads_total{outcome=loaded}"
EVICTIONS = "read_states_evictions_total"
SMALL_TABLE_STATES = 4 * USER_STATES_MAX
FILLERS = 6  # users of each partition that push all others out of a small table

Course = Iterator[None]  # goes one step forward each time; in between anything may happen


def course(wire: Wire, user: int, name: str, scenario: Scenario) -> Course:
    """One scenario, for a user of its own."""
    device = Device(wire, user)
    versions: dict[tuple[int, str], str] = {}
    place = scenario.kind, scenario.channel
    for number, step in enumerate(scenario.steps, 1):
        known = {} if step.known is None else {"if_version": versions[step.known]}
        for event in step.events:
            offset = wire.produce_update(user, {**scenario.event(event), **known})
        reply = wire.get(user, mentions=True, after_offset=offset)
        assert right_of(reply, *place) == step.right, (name, number)
        assert [s["channel_id"] for s in reply.states] == [str(scenario.channel)][
            : step.right is not None
        ]
        device.look()
        assert list(device.states.values()) == reply.states, (name, number, "by deltas")
        versions[number, "reply"] = reply.value["version"]
        for state in reply.states:
            versions[number, "read_state"] = state["version"]
        yield


def pieces(wire: Wire, user: int) -> Course:
    """Scenario 16: read in pieces, then by deltas, which go on from the first piece's version."""
    device, first, second = Device(wire, user), ["1", "2"], ["3", "4"]
    for channel in (*first, *second):
        offset = wire.produce_update(user, {"channel_id": channel, **ack(100)})
    wire.get(user, after_offset=offset)
    yield
    device.piece(first)
    yield
    offset = wire.produce_update(user, {"channel_id": "1", **mention(105)})
    wire.get(user, after_offset=offset)
    yield
    device.piece(second)
    yield
    device.look()
    whole = wire.get(user, mentions=True)
    assert list(device.states.values()) == whole.states
    assert right_of(whole, 0, 1) == Right(1, [105], 100)
    yield


def courses(wire: Wire) -> dict[int, Course]:
    """All scenarios, each with its user."""
    found = {}
    for name, scenario in SCENARIOS.items():
        user = new_user()
        found[user] = course(wire, user, name, scenario)
    user = new_user()
    return {**found, user: pieces(wire, user)}


# -- what happens between the steps ---------------------------------------------------------------


def nothing(_service: Service) -> None:
    pass


def restarted(service: Service) -> None:
    assert service.workers[-1].stop() == 0
    service.start().wait_ready()


def killed(service: Service) -> None:
    assert service.workers[-1].kill() == -9
    service.start().wait_ready()


def killed_and_tables_lost(service: Service) -> None:
    """The next worker has nothing but the log and what reached Cassandra."""
    assert service.workers[-1].kill() == -9
    shutil.rmtree(service.env["READ_STATES_CACHE_DIR"])
    service.start().wait_ready()


def bulk(channels: range, message: int) -> Event:
    acks = [{"channel_id": str(channel), "message_id": str(message)} for channel in channels]
    return {"type": "bulk_ack", "acks": acks}


def evicted(service: Service) -> None:
    """Other users' traffic fills the tables."""
    wire = service.wire
    until(lambda: service.metric("read_states_dirty_states") == 0, "all written out")
    before = service.metric(EVICTIONS)
    fillers = [new_user(n) for n in range(PARTITIONS) for _ in range(FILLERS)]
    offsets = together(wire, [(user, bulk(range(1, USER_STATES_MAX), 5)) for user in fillers])
    queries = [{"after_offset": offset, "channel_ids": []} for offset in offsets]
    asked = [wire.ask(*each, deadline_s=20) for each in zip(fillers, queries, strict=True)]
    for correlation_id in asked:
        reply = wire.wait(correlation_id)
        assert reply is not None
        assert reply.error is None, reply.value
    until(lambda: service.metric(EVICTIONS) > before, "evictions, which are counted now and then")


class Variant(NamedTuple):
    """What happens after each step, or after each second one, and the settings that it needs."""

    between: Callable[[Service], None]
    settings: dict[str, Any]
    every: int = 1


LATE: dict[str, Any] = {"flush_delay_s": 30}  # so that a death finds changes that were not written
VARIANTS = {
    "plain": Variant(nothing, {}),
    "evicted": Variant(evicted, {"cache_states": SMALL_TABLE_STATES, "flush_delay_s": 0.1}),
    "restarted": Variant(restarted, LATE, every=2),
    "killed": Variant(killed, LATE, every=2),
    "killed_and_tables_lost": Variant(killed_and_tables_lost, {"flush_delay_s": 0.5}, every=2),
}


@pytest.fixture
def variant(request: pytest.FixtureRequest) -> Variant:
    return VARIANTS[request.param]


@pytest.fixture
def served(
    stack: Stack, folder: Path, variant: Variant, request: pytest.FixtureRequest
) -> Iterator[Service]:
    name = f"badges_{request.node.callspec.id}"
    more = {"instance_id": "one", "probe_interval_s": 0, **variant.settings}  # no loads but users'
    made = Service(stack.env(), folder, name, **more)
    try:
        made.start().wait_ready()
        yield made
    finally:
        made.close()


LONG = {"restarted", "killed_and_tables_lost"}
PARAMETERS = [
    pytest.param(name, marks=[pytest.mark.long] if name in LONG else []) for name in VARIANTS
]


@pytest.mark.parametrize("variant", PARAMETERS, indirect=True)
def test_scenarios(served: Service, variant: Variant) -> None:
    wire = served.wire
    by_user = courses(wire)
    under_way, ended, steps = list(by_user.values()), object(), 0
    while under_way:
        loaded = served.metric(LOADED)
        under_way = [each for each in under_way if next(each, ended) is not ended]
        if variant.between is evicted:  # then each user was away, and was loaded again, once
            assert served.metric(LOADED) - loaded == len(under_way)
        steps += 1
        if steps % variant.every == 0 and under_way:
            variant.between(served)
    assert served.workers[-1].stop() == 0
    log = Log(wire, by_user.__contains__)
    try:
        log.read()
        for user in by_user:
            assert wire.rows.with_marks(user) == log.oracle.stored(user)
        assert log.oracle.bad == 0
        assert wire.dead_letters() == []
    finally:
        log.close()
