"""What the watch makes of what it finds: it confirms, remembers, shows and decides."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from readstates.streams import metrics
from readstates.streams.cassandra.epochs import Log
from readstates.streams.config import Settings
from readstates.streams.deviations import DEVIATIONS, Decision, Found
from readstates.streams.errors import DeviationError, SchemaMissingError, StoreError, TopicError
from readstates.streams.worker import watch as module
from readstates.streams.worker.watch import Watch

BEGAN = Log(8, UUID(int=1), 4, (0,) * 4, 1_000, UUID(int=2))
TOPIC = "read-states.updates"


class World:
    """A watch, and what Kafka and Cassandra say to it."""

    def __init__(self) -> None:
        self.found: list[Found] | Exception = []
        self.anew: list[str] = []
        self.logs: dict[str, Log] | Exception = {TOPIC: BEGAN}
        self.refused: list[Exception] = []
        self.begun_anew: list[int] = []
        self.made_anew: list[str] = []
        self.open_s = 0.0
        self.replication = {"dc1": "3"}
        self.store: Any = SimpleNamespace(
            is_doubted=False,
            logs=self._logs,
            replication={"dc1": "3"},
            replication_now=lambda: self.replication,
        )
        self.reading: Any = SimpleNamespace(
            begin_anew=self.begun_anew.append,
            missing="",
            open_transaction_s=lambda _number: self.open_s,
            end=lambda _number: 7,
        )
        topics: Any = SimpleNamespace(look=self._look)
        owned: Any = {3: None}
        store: Any = self.store
        self.watch = Watch(
            Settings(),
            topics,
            store,
            BEGAN,
            {TOPIC: self.reading, Settings().queries_topic: self.reading},
            owned,
            self.refused.append,
            self.made_anew.append,
        )

    def _look(self) -> tuple[list[Found], list[str]]:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found, self.anew

    def _logs(self) -> dict[str, Log]:
        if isinstance(self.logs, Exception):
            raise self.logs
        return self.logs

    async def step(self) -> set[str]:
        """Look once; what is shown then."""
        await self.watch.step()
        (family,) = metrics.DEVIATION.collect()
        return {sample.labels["name"] for sample in family.samples if sample.value}


@pytest.mark.parametrize(
    "name", [name for name, one in DEVIATIONS.items() if one.decision is Decision.STOP]
)
async def test_what_stops_the_worker_is_found_twice(name: str) -> None:
    world = World()
    world.found = [Found(name, "here")]
    assert await world.step() == {name}
    world.found = []
    assert await world.step() == set()
    for _ in range(2):
        assert world.refused == []
        world.found = [Found(name, "here")]
        await world.step()
    if name == "updates_missing":  # the reader stops the worker, unless it is to go on
        assert world.refused == []
        return
    (error,) = world.refused
    assert isinstance(error, DeviationError)
    assert str(error) == f"deviation {name}: here"


async def test_who_does_not_answer_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.found = [Found("retention", "here")]
    world.logs = {}
    assert await world.step() == {"retention", "database_replaced"}
    assert world.store.is_doubted
    world.found, world.logs = TopicError("away"), StoreError("away")
    assert await world.step() == {"retention", "database_replaced"}
    assert world.store.is_doubted
    monkeypatch.setattr(module, "NOT_CHECKED_S", -1.0)
    assert await world.step() == {"retention", "database_replaced", "not_checked"}


async def test_one_that_hangs_does_not_hold_up_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that waits for Kafka for ever: the database is looked at, and that is said."""
    world, goes_on = World(), threading.Event()
    world.watch._looks[module.KAFKA] = lambda: ([Found("retention", "")] * (not goes_on.wait()), [])
    monkeypatch.setattr(module, "LOOK_WAIT_S", 0.05)
    try:
        assert await asyncio.wait_for(world.step(), 5) == set()
        monkeypatch.setattr(module, "NOT_CHECKED_S", -1.0)
        world.logs = SchemaMissingError("no keyspace")
        assert await world.step() == {"database_missing", "not_checked"}
    finally:
        goes_on.set()
    monkeypatch.setattr(module, "NOT_CHECKED_S", 60.0)
    world.logs = {TOPIC: BEGAN}
    assert await world.step() == set()


async def test_a_worker_that_stops_in_the_middle_of_a_look() -> None:
    """It has ended the threads, and the task of the watch goes on for a moment."""
    world = World()

    def look() -> tuple[list[Found], list[str]]:
        world.watch.close()
        return [], []

    world.watch._looks[module.KAFKA] = look
    for _ in range(2):
        assert await world.step() == set()


async def test_only_a_look_confirms(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that has just started knows no topic, and then it does not answer for a while."""
    world = World()
    world.found = [Found("updates_deleted", "here")]
    await world.step()
    world.found = TopicError("away")
    assert await world.step() == {"updates_deleted"}
    assert world.refused == []
    world.found = [Found("updates_deleted", "here")]
    await world.step()
    assert len(world.refused) == 1


async def test_a_database_that_is_doubted_is_not_believed_before_a_look() -> None:
    world = World()
    world.store.is_doubted, world.logs = True, StoreError("away")
    await world.step()
    assert world.store.is_doubted
    world.logs = {TOPIC: BEGAN}
    await world.step()
    assert not world.store.is_doubted


async def test_a_database_that_is_missing_refuses_queries() -> None:
    world = World()
    assert world.watch.ready()[0]
    world.logs = SchemaMissingError("no keyspace")
    for _ in range(3):
        assert await world.step() == {"database_missing"}
    assert world.watch.ready() == (False, "deviation: database_missing")
    assert world.refused == []
    world.logs = {TOPIC: BEGAN}
    assert await world.step() == set()
    assert world.watch.ready()[0]


@pytest.mark.parametrize(
    "present",
    [
        {},
        {TOPIC: BEGAN._replace(database_id=UUID(int=3))},
        {TOPIC: BEGAN._replace(database_id=None)},
        {TOPIC: BEGAN._replace(epoch=9)},
        {TOPIC: BEGAN, "other.updates": BEGAN._replace(epoch=9)},
    ],
    ids=["empty", "made anew", "made anew by an earlier version", "another epoch", "another topic"],
)
async def test_another_database(present: dict[str, Log]) -> None:
    world = World()
    world.logs = present
    assert await world.step() == {"database_replaced"}


async def test_replicas_that_may_not_have_the_rows() -> None:
    world = World()
    await world.step()
    assert not world.store.is_doubted
    world.replication = {"dc1": "5"}
    for _ in range(3):
        assert await world.step() == {"replication"}
        assert world.store.is_doubted
    assert world.watch.ready() == (False, "deviation: replication")
    assert world.refused == []
    world.replication = {"dc1": "3"}
    assert await world.step() == set()
    assert not world.store.is_doubted


async def test_the_same_database_at_another_write_time() -> None:
    world = World()
    world.logs = {TOPIC: BEGAN._replace(began_us=2_000)}
    assert await world.step() == set()


async def test_what_the_readers_know(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.open_s = module.OPEN_TRANSACTION_S + 1
    assert await world.step() == {"open_transaction"}
    assert f"{TOPIC} partition 3 cannot be read beyond offset 7" in caplog.text
    await world.step()
    assert caplog.text.count("deviation name=") == 1
    world.open_s = module.OPEN_TRANSACTION_S - 1
    assert await world.step() == set()
    assert "deviation_over name=open_transaction" in caplog.text
    world.reading.missing = "updates 1 … 2 are gone"
    assert await world.step() == {"updates_missing"}


async def test_queries_made_anew_are_read_from_the_beginning() -> None:
    world = World()
    world.anew = ["read-states.dead-letters", "read-states.queries"]
    await world.step()
    assert world.begun_anew == [3]
    assert world.made_anew == world.anew, "the clients hear of it"
