"""What is done to workers and servers. Each fault returns, in words, what it did.

A fault ends when the hand is off the system again; being well again comes later. Waits are drawn
from the campaign's seed. What a fault expects of the system it checks itself, by `Unexpected`.
"""

from __future__ import annotations

import fcntl
import random
import time
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka import KafkaException

from readstates.cache.tablefile import table_size_bytes
from readstates.streams.config import Settings

from ..local.worker import WorkerProcess
from .proxy import BLACK_HOLE, RESET
from .world import (
    BEHIND_PROXY,
    BROKERS,
    CACHE_STATES,
    GUEST,
    NODES,
    SESSION_TIMEOUT_S,
    WORKERS,
    World,
)

END_TIMEOUT_S = 60.0
ASK_TIMEOUT_S = 15.0  # for one answer of a broker; then a new client asks
DAMAGED_BYTES = 200  # a file; a slot hit twice could keep its 16-bit checksum
ALL_GONE_S = 60.0


class Unexpected(Exception):
    """The system did something else than a fault expects of it."""


def kill_worker(world: World, rng: random.Random) -> str:
    name, pause_s = rng.choice(WORKERS), rng.uniform(0, 3)
    world.workers[name].kill()
    world.rest(pause_s)
    world.start_worker(name)
    return f"{name} kill -9, started {pause_s:.1f} s later"


def damage_tables(world: World, rng: random.Random) -> str:
    """Random bytes into the table files that a worker leaves behind, clean or not."""
    name, clean = rng.choice(WORKERS), rng.random() < 0.5
    worker = world.workers[name]
    how = "SIGTERM" if clean else "kill -9"
    if clean:
        worker.stop()
    else:
        worker.kill()
    damaged = sum(_damage(path, rng) for path in sorted(world.cache_dir.glob("*.table")))
    world.start_worker(name)
    return f"{name} {how}, {damaged} table files damaged, started"


def _damage(path: Path, rng: random.Random) -> bool:
    """False where another worker has the file: a mapped file is memory, which nobody damages."""
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        size = path.stat().st_size
        for _ in range(DAMAGED_BYTES if size else 0):
            file.seek(rng.randrange(size))
            file.write(bytes([rng.randrange(256)]))
    return size > 0


def zombie(world: World, rng: random.Random) -> str:
    """Stopped until the group has given its partitions away, then it goes on, not knowing."""
    name, pause_s = rng.choice(WORKERS), SESSION_TIMEOUT_S + rng.uniform(2, 5)
    _frozen(world, world.workers[name].pid, pause_s)
    return f"{name} SIGSTOP for {pause_s:.1f} s (session timeout {SESSION_TIMEOUT_S:g} s)"


def rolling_restart(world: World, rng: random.Random) -> str:
    for name in WORKERS:
        status = world.workers[name].stop()
        if status != 0:
            raise Unexpected(f"{name} ended with {status} on SIGTERM")
        ready(world, name, world.start_worker(name))
    return "each worker in turn: SIGTERM, started, ready"


def guest(world: World, rng: random.Random) -> str:
    """A fourth worker joins and leaves: partitions move there and back."""
    worker = world.start_worker(GUEST)
    ready(world, GUEST, worker)
    stay_s = rng.uniform(1, 4)
    world.rest(stay_s)
    status = worker.stop()
    world.forget(GUEST)
    if status != 0:
        raise Unexpected(f"{GUEST} ended with {status} on SIGTERM")
    return f"{GUEST} joined, stayed {stay_s:.1f} s, left"


def full_cache(world: World, rng: random.Random) -> str:
    """A fourth worker whose CACHE_DIR has room for one table and a half: it must say so and end."""
    try:
        folder = world.mount_small(table_size_bytes(CACHE_STATES) * 3 // 2)
    except OSError as exc:
        return f"not done: a small file system cannot be mounted here ({exc})"
    worker = world.start_worker(GUEST, READ_STATES_CACHE_DIR=str(folder))
    try:
        refuses(world, GUEST, worker, "no room for a table")
    finally:
        world.forget(GUEST)
        worker.kill()
        world.unmount(folder)
    return f"{GUEST} with a full CACHE_DIR refused, saying what to do"


def offsets_deleted(world: World, rng: random.Random) -> str:
    """The group's offsets are gone: everything is folded again, from the log's beginning."""
    how = rng.choice(("SIGTERM", "kill -9"))
    for name in WORKERS:
        if how == "SIGTERM":
            world.workers[name].stop()
        else:
            world.workers[name].kill()
    try:
        _delete_group(world)
    finally:
        for name in WORKERS:
            world.start_worker(name)
    return f"all workers {how}, the group's offsets deleted, all started"


def _delete_group(world: World) -> None:
    """With its offsets. While it has members it stays: their sessions must end first."""
    group, end = Settings.load(world.env).kafka_group, time.monotonic() + END_TIMEOUT_S
    while True:
        try:
            admin = world.connect_admin()
            admin.delete_consumer_groups([group])[group].result(ASK_TIMEOUT_S)
        except (KafkaException, TimeoutError) as exc:
            if time.monotonic() > end:
                raise Unexpected(f"group {group} could not be deleted: {exc!r}") from exc
            world.rest(0.5)
        else:
            return


def kill_one(servers: Sequence[str], world: World, rng: random.Random) -> str:
    return _kill_servers(world, [rng.choice(servers)], rng.uniform(1, 5))


def kill_coordinator(world: World, rng: random.Random) -> str:
    """The broker that coordinates the workers' group: another one takes the group over."""
    group = Settings.load(world.env).kafka_group
    admin = world.connect_admin()
    described = admin.describe_consumer_groups([group])[group].result(END_TIMEOUT_S)
    return _kill_servers(world, [BROKERS[described.coordinator.id - 1]], rng.uniform(1, 5))


def pause_one(servers: Sequence[str], most_s: float, world: World, rng: random.Random) -> str:
    name, pause_s = rng.choice(servers), rng.uniform(2, most_s)
    _frozen(world, world.server(name).pid, pause_s)
    return f"{name} SIGSTOP for {pause_s:.1f} s"


def no_cassandra(world: World, rng: random.Random) -> str:
    """Every node gone for a minute: nothing can be loaded, nothing written."""
    return _kill_servers(world, list(NODES), ALL_GONE_S)


def cut_off(world: World, rng: random.Random) -> str:
    """One worker loses its way to all nodes; the others keep theirs."""
    mode, pause_s = rng.choice((BLACK_HOLE, RESET)), rng.uniform(4, 15)
    world.proxy.cut(mode)
    try:
        world.rest(pause_s)
    finally:
        world.proxy.mend()
    return f"{BEHIND_PROXY} cut off from Cassandra for {pause_s:.1f} s ({mode})"


# -- hands --------------------------------------------------------------------------------------


def _kill_servers(world: World, names: list[str], pause_s: float) -> str:
    for name in names:
        world.kill_server(name)
    world.rest(pause_s)
    world.start_servers()
    return f"{', '.join(names)} kill -9, started {pause_s:.1f} s later"


def _frozen(world: World, pid: int, pause_s: float) -> None:
    world.freeze(pid)
    try:
        world.rest(pause_s)
    finally:
        world.thaw(pid)


def ready(world: World, name: str, worker: WorkerProcess) -> None:
    """The worker must become ready."""
    end = time.monotonic() + END_TIMEOUT_S
    while worker.get("/readyz")[0] != 200:
        if worker.returncode is not None or time.monotonic() > end:
            raise Unexpected(f"{name} did not become ready: status {worker.returncode}")
        world.rest(0.2)


def refuses(world: World, name: str, worker: WorkerProcess, text: str) -> None:
    """The worker must end by itself, with status 1 and a line that says what to do."""
    end = time.monotonic() + END_TIMEOUT_S
    while worker.returncode is None:
        if time.monotonic() > end:
            raise Unexpected(f"{name} did not refuse within {END_TIMEOUT_S:.0f} s")
        world.rest(0.2)
    if worker.returncode != 1 or text not in worker.output():
        raise Unexpected(
            f"{name} ended with {worker.returncode}; it should be 1, and say '{text}'. The end of "
            f"what it said:\n{worker.output()[-1500:]}"
        )
