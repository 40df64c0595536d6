"""One worker on a fresh stack, with its topics and its schema."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from readstates.streams.cassandra.store import Store
from readstates.streams.config import Settings, env_name
from readstates.streams.kafka import topics

from .stack import Stack
from .worker import WorkerProcess


def one_worker(
    stack: Stack, folder: Path, partitions: int, settings: Mapping[str, object]
) -> tuple[Settings, WorkerProcess]:
    """Its settings, and the worker once it is ready. `settings`: by name, without the prefix."""
    env = {
        **stack.env(),
        **{env_name(name): str(value) for name, value in settings.items()},
        env_name("CACHE_DIR"): str(folder / "tables"),
    }
    loaded = Settings.load(env)
    topics.create(loaded, partitions, 1)
    store = Store(loaded)
    store.create_schema()
    store.close()
    worker = WorkerProcess(env, folder / "worker.log").start()
    worker.wait_ready()
    return loaded, worker
