"""What somebody else changes while workers run: topics, their settings, transactions, clocks.

Nothing of the service fails in these faults. So each waits until the workers say what has changed,
undoes it, and waits until they say that it is over; `Unexpected` if they do not.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable
from itertools import islice

from confluent_kafka import Producer
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from readstates.schemas.partitioner import partition_of
from readstates.streams.config import Settings
from readstates.streams.deviations import (
    CLEANUP_POLICY,
    MIN_ISR,
    OPEN_TRANSACTION,
    QUERIES_DELETED,
    QUERIES_REPLACED,
    TIMESTAMP_TYPE,
    UNCLEAN_ELECTION,
)

from ..local.worker import WorkerProcess
from .faults import END_TIMEOUT_S, Unexpected, ready
from .history import Gone
from .kafka import TIMEOUT_S
from .world import BEHIND_PROXY, PARTITIONS, WORKERS, World

LOOK_S = 0.5
TRANSACTION_TIMEOUT_MS = 300_000  # the brokers do not end it before we do
FOREIGN_USERS = 10**16  # users of the foreign producer are below this, those of the load above
FOREIGN_UPDATES = 20
WRONG_CLOCK = "readstates.ops.drills.wrong_clock"
CLOCKS_AHEAD_S = (8, -8, 30 * 86_400)
WRONG_SETTINGS = (  # topic, setting, value, deviation
    ("updates", "cleanup.policy", "compact", CLEANUP_POLICY),
    ("updates", "message.timestamp.type", "CreateTime", TIMESTAMP_TYPE),
    ("updates", "min.insync.replicas", "1", MIN_ISR),
    ("updates", "unclean.leader.election.enable", "true", UNCLEAN_ELECTION),
    ("queries", "message.timestamp.type", "CreateTime", TIMESTAMP_TYPE),
)


def queries_made_anew(world: World, rng: random.Random) -> str:
    """The queries topic is deleted, and made anew: at once, or only after the workers said so.

    The queries that only the deleted topic had are lost. The load's client is made anew, because
    librdkafka may keep for ever what it knew of the deleted topic (its issue 4898).
    """
    topic, is_at_once = Settings.load(world.env).queries_topic, rng.random() < 0.5
    begin_s = time.monotonic()
    admin = world.connect_admin()
    admin.delete_topics([topic])[topic].result(TIMEOUT_S)
    try:
        if not is_at_once:
            _wait_shown(world, QUERIES_DELETED)
    finally:
        world.init()
        world.gone.append(Gone(begin_s, time.monotonic()))
        world.renew_client()
    _wait_shown(world, QUERIES_REPLACED)
    _wait_over(world, QUERIES_DELETED, QUERIES_REPLACED)
    when = "made anew at once" if is_at_once else "made anew when all workers had missed it"
    return f"{topic} deleted, {when}"


def open_transaction(world: World, rng: random.Random) -> str:
    """A foreign producer leaves a transaction with good updates open in one partition."""
    settings, number = Settings.load(world.env), rng.randrange(PARTITIONS)
    config = {"transactional.id": "foreign", "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS}
    producer = Producer(settings.librdkafka(**config, partitioner="murmur2_random", log_level=2))
    producer.init_transactions(TIMEOUT_S)
    producer.begin_transaction()
    drawn = (rng.randrange(1, FOREIGN_USERS) for _ in iter(int, 1))
    users = (user for user in drawn if partition_of(b"%d" % user, PARTITIONS) == number)
    for user in islice(users, FOREIGN_UPDATES):
        event = {"type": "mention", "user_id": user, "channel_id": 1, "message_id": 1}
        producer.produce(settings.updates_topic, json.dumps(event), b"%d" % user)
    producer.flush(TIMEOUT_S)
    began_s, commits = time.monotonic(), rng.random() < 0.5
    try:
        _wait_until(
            world,
            f"a worker says that partition {number} waits for a transaction",
            lambda: any(_waits(one, settings.updates_topic, number) for one in _running(world)),
        )
        held_s = time.monotonic() - began_s
    finally:
        if commits:
            producer.commit_transaction(TIMEOUT_S)
        else:
            producer.abort_transaction(TIMEOUT_S)
    _wait_over(world, OPEN_TRANSACTION)
    end = "committed" if commits else "aborted"
    return f"a transaction on partition {number} of updates open for {held_s:.1f} s, then {end}"


def _waits(worker: WorkerProcess, topic: str, number: int) -> bool:
    """True if a worker shows an open transaction in its lag, a deviation, and its readiness."""
    found, (status, text) = worker.metrics(), worker.get("/readyz")
    place = f"{{partition={number},topic={topic}}}"
    return (
        found.get(f"read_states_processing_lag_records{place}", 0) >= FOREIGN_UPDATES
        and found.get(f"read_states_open_transaction_seconds{place}", 0) > 0
        and found.get(_series(OPEN_TRANSACTION)) == 1
        and status == 503
        and re.search(rf"probes fail, partitions [^;]*\b{number}\b", text) is not None
    )


def topic_settings(world: World, rng: random.Random) -> str:
    """A setting of a topic is changed to what a start refuses; `readstates init` sets it back."""
    kind, setting, value, deviation = rng.choice(WRONG_SETTINGS)
    settings = Settings.load(world.env)
    topic = settings.updates_topic if kind == "updates" else settings.queries_topic
    entry = ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = world.connect_admin()
    (future,) = admin.incremental_alter_configs([resource]).values()
    future.result(TIMEOUT_S)
    try:
        _wait_shown(world, deviation)
    finally:
        said = world.init()
    if f"set {topic}: {setting}=" not in said:
        raise Unexpected(f"readstates init did not set {setting} of {topic}: {said}")
    _wait_over(world, deviation)
    return f"{setting}={value} on {topic}, reported by all workers, set back"


def clock_jumps(world: World, rng: random.Random) -> str:
    """The clock of a worker jumps, and jumps back; meanwhile it answers as the others do."""
    name = rng.choice([name for name in WORKERS if name != BEHIND_PROXY])
    ahead_s, file = rng.choice(CLOCKS_AHEAD_S), world.folder / "clock"
    file.write_text("0", "utf-8")
    status = world.workers[name].stop()
    if status != 0:
        raise Unexpected(f"{name} ended with {status} on SIGTERM")
    worker = world.start_worker(name, WRONG_CLOCK, CLOCK_FILE=str(file))
    ready(world, name, worker)
    file.write_text(str(ahead_s), "utf-8")
    try:
        _wait_until(
            world,
            f"{name} shows that its clock is wrong by {ahead_s} s",
            lambda: abs(_largest_offset_s(worker) - ahead_s) < 1,
        )
        before = {outcome: _ended(worker, outcome) for outcome in ("expired", "hit")}
        world.rest(rng.uniform(3, 6))
        if _ended(worker, "expired") > before["expired"]:
            raise Unexpected(f"{name}, whose clock is wrong by {ahead_s} s, drops queries")
        if _ended(worker, "hit") == before["hit"]:
            raise Unexpected(f"{name}, whose clock is wrong by {ahead_s} s, answers nothing")
    finally:
        file.write_text("0", "utf-8")
    _wait_until(world, f"{name} shows a right clock", lambda: _largest_offset_s(worker) == 0)
    return f"the clock of {name} jumped {ahead_s:+,} s, and back"


def _largest_offset_s(worker: WorkerProcess) -> float:
    offsets = [
        value
        for name, value in worker.metrics().items()
        if name.startswith("read_states_clock_offset_seconds{")
    ]
    return max(offsets, key=abs, default=0.0)


def _ended(worker: WorkerProcess, outcome: str) -> float:
    return worker.metrics().get(f"read_states_queries_total{{outcome={outcome}}}", 0)


# -- what the workers say -------------------------------------------------------------------------


def _running(world: World) -> list[WorkerProcess]:
    return [worker for worker in world.workers.values() if worker.returncode is None]


def _series(deviation: str) -> str:
    return f"read_states_deviation{{name={deviation}}}"


def _wait_shown(world: World, deviation: str) -> None:
    """Until each worker has shown the deviation; some of them may stop showing it before others."""
    waiting = set(world.workers)

    def all_showed() -> bool:
        for name in list(waiting):
            if world.workers[name].metrics().get(_series(deviation)) == 1:
                waiting.discard(name)
        return not waiting

    _wait_until(world, f"each worker shows the deviation {deviation}", all_showed)


def _wait_over(world: World, *deviations: str) -> None:
    def nobody_shows() -> bool:
        pages = [worker.metrics() for worker in _running(world)]
        return all(page.get(_series(one)) == 0 for page in pages for one in deviations)

    _wait_until(world, f"no worker shows {' or '.join(deviations)}", nobody_shows)


def _wait_until(world: World, what: str, look: Callable[[], bool]) -> None:
    end = time.monotonic() + END_TIMEOUT_S
    while not look():
        if time.monotonic() > end:
            raise Unexpected(f"not within {END_TIMEOUT_S:.0f} s: {what}")
        world.rest(LOOK_S)
