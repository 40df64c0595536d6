"""What a drill acts on: a stack, one worker at a fixed port, a Prometheus, and the load."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from readstates.schemas.rollout import SHARE_MAX
from readstates.streams.cassandra.store import Store
from readstates.streams.config import Settings
from readstates.streams.kafka import topics
from readstates.streams.rollout import control

from ..local.stack import Stack
from ..local.worker import WorkerProcess
from . import scaled
from .load import Load
from .prometheus import Prometheus, free_port
from .wrong_candidate import WrongCandidate

PARTITIONS = 4
MEMORY_LIMIT_MIB = 320  # in place of the 2 GiB of rules.yml
NUMBERS = {
    "lag_seconds) > 60": f"lag_seconds) > {60 // scaled.SCALE}",
    "+ 300": f"+ {300 // scaled.SCALE}",
    "rate5m * 300": f"rate5m * {300 // scaled.SCALE}",  # more than one in the window, as there
    "vector(2147483648)": f"vector({MEMORY_LIMIT_MIB * 2**20})",
}
SETTINGS = {
    "FLUSH_DELAY_S": 5,
    "CACHE_STATES": 20_000,
    "USER_STATES_MAX": 100,
    "PARKED_MAX": 200,  # so that a partition waits after seconds, not after an hour
    "CASSANDRA_TIMEOUT_S": 2,
    "SESSION_TIMEOUT_S": 6,
    "PROBE_INTERVAL_S": 0.5,
    "CHANGES": "on",
}
SMALL_REPLIES = "read-states.replies.small"
REPLIES = "read-states.replies.drills"
CANDIDATE = "drills-candidate"
FOLLOW_S, ANSWERS_S = 30.0, 3.0  # until live workers follow; how long the candidate answers


class World:
    """See the module. `start` … `stop`; what runs in between is the drills' to change.

    `in_memory`: an empty folder on a tmpfs, for the tables.
    """

    def __init__(self, folder: Path, in_memory: Path, stack: Stack) -> None:
        self._folder, self._stack = folder, stack
        self.in_memory, self.on_disk = in_memory / "tables", folder / "tables"
        self._port, self._compare_port = free_port(), free_port()
        self._wrong: WrongCandidate | None = None
        self.env = {
            **stack.env(),
            **{f"READ_STATES_{name}": str(value) for name, value in SETTINGS.items()},
            "READ_STATES_CACHE_DIR": str(self.in_memory),
            "READ_STATES_HTTP_PORT": str(self._port),
            "CLOCK_FILE": str(folder / "clock"),
        }
        self.settings = Settings.load(self.env)
        self._admin = AdminClient(self.settings.librdkafka())
        self.worker: WorkerProcess | None = None
        self._pids: list[int] = []
        self._slow: threading.Event | None = None
        self._transaction: Producer | None = None  # one that is open

    def start(self) -> None:
        topics.create(self.settings, PARTITIONS, 1)
        small = NewTopic(SMALL_REPLIES, 1, 1, config={"max.message.bytes": "100"})
        for made in self._admin.create_topics([NewTopic(REPLIES, 1, 1), small]).values():
            made.result(timeout=30)
        store = Store(self.settings)
        store.create_schema()
        store.close()
        self.start_worker()
        self.prometheus = Prometheus(
            self._folder / "prometheus", self._port, self._compare_port, NUMBERS
        )
        self.prometheus.wait()
        self.load = Load(self.settings, REPLIES, PARTITIONS)
        self.load.start()

    # -- causes and fixes -----------------------------------------------------------------------

    def start_worker(self, module: str = "readstates.streams.cli") -> None:
        self.worker = WorkerProcess(self.env, self._folder / "worker.log", module=module).start()
        self.worker.wait_ready()

    def kill_worker(self) -> None:
        assert self.worker is not None
        self.worker.kill()

    def restart_worker(self, module: str = "readstates.streams.cli") -> None:
        assert self.worker is not None
        self.worker.stop()
        self.start_worker(module)

    def start_wrong_candidate(self) -> None:
        """Its replies differ from those of the live worker."""
        self._wrong = WrongCandidate(
            self.settings, self.env, self._folder, self._compare_port, REPLIES
        )
        self._wrong.start()

    def abort_wrong_candidate(self) -> None:
        assert self._wrong is not None
        self._wrong.end()
        self._wrong = None

    def kill_candidate(self) -> None:
        """Start a candidate, give it all users, and kill its worker while it answers them."""
        self._candidate = control.start(self.settings, CANDIDATE)
        own = {"ROLE": "candidate", "KAFKA_GROUP": CANDIDATE, "HTTP_PORT": "0"}
        own["CACHE_DIR"] = f"{self.in_memory}-candidate"
        env = self.env | {f"READ_STATES_{name}": value for name, value in own.items()}
        worker = WorkerProcess(env, self._folder / "candidate.log").start()
        try:
            worker.wait_ready()
            control.set_share(self.settings, self._candidate, SHARE_MAX)
            end = time.monotonic() + FOLLOW_S
            while self._share() < SHARE_MAX and time.monotonic() < end:
                time.sleep(0.2)
            time.sleep(ANSWERS_S)
        finally:
            worker.kill()

    def _share(self) -> float:
        assert self.worker is not None
        return self.worker.metrics().get("read_states_rollout_share", 0.0)

    def back_from_candidate(self) -> None:
        """The share becomes 0, as `readstates rollout back` makes it."""
        control.set_share(self.settings, self._candidate, 0)

    def move_tables(self, folder: Path) -> None:
        """Restart the worker with its tables in another folder."""
        self.env["READ_STATES_CACHE_DIR"] = str(folder)
        self.restart_worker()

    def wrong_clock(self) -> None:
        """Restart the worker as one whose clock can be set, and set it wrong."""
        self.set_clock(0)
        self.restart_worker("readstates.ops.drills.wrong_clock")
        self.set_clock(8)

    def set_clock(self, ahead_s: float) -> None:
        """Set the clock of that worker, so many seconds ahead."""
        Path(self.env["CLOCK_FILE"]).write_text(str(ahead_s), "utf-8")

    def stop_cassandra(self) -> None:
        """It stands still; connections stay."""
        self._signal_cassandra(signal.SIGSTOP)

    def continue_cassandra(self) -> None:
        if self._slow is not None:
            self._slow.set()
            self._slow = None
            time.sleep(1)
        self._signal_cassandra(signal.SIGCONT)

    def slow_cassandra(self, still_s: float = 0.6, runs_s: float = 0.2) -> None:
        """It runs a part of the time only."""
        ended = self._slow = threading.Event()

        def pulse() -> None:
            while not ended.is_set():
                self._signal_cassandra(signal.SIGSTOP)
                time.sleep(still_s)
                self._signal_cassandra(signal.SIGCONT)
                ended.wait(runs_s)

        threading.Thread(target=pulse, daemon=True).start()

    def _signal_cassandra(self, number: int) -> None:
        if not self._pids:
            found = self._stack.status().processes
            self._pids = [one.pid for one in found if one.role == "cassandra" and one.pid]
        for pid in self._pids:
            os.kill(pid, number)

    def larger_replies(self) -> None:
        """`max.message.bytes` of the small reply topic, as the others have it."""
        self._take_records_of(SMALL_REPLIES, 1 << 20)

    def refuse_dead_letters(self) -> None:
        """There are a few, and their topic has no room for any."""
        self._take_records_of(self.settings.dead_letters_topic, 100)
        self.set(bad_s=1.0)

    def take_dead_letters(self) -> None:
        self.set(bad_s=0.0)
        bytes_max = topics.BATCH_BYTES_MAX + topics.HEADERS_BYTES
        self._take_records_of(self.settings.dead_letters_topic, bytes_max)

    def refuse_changes(self) -> None:
        self._take_records_of(self.settings.changes_topic, 100)

    def open_transaction(self) -> None:
        """A producer begins a transaction on all partitions of updates, and does not end it."""
        config = {"transactional.id": "drills", "transaction.timeout.ms": 600_000}
        self._transaction = Producer(self.settings.librdkafka(**config))
        self._transaction.init_transactions(30)
        self._transaction.begin_transaction()
        for number in range(PARTITIONS):
            self._transaction.produce(self.settings.updates_topic, b"{}", partition=number)
        self._transaction.flush(30)

    def end_transaction(self) -> None:
        assert self._transaction is not None
        self._transaction.abort_transaction(30)
        self._transaction = None

    def compact_updates(self) -> None:
        self._set(self.settings.updates_topic, "cleanup.policy", "compact")

    def mend_topics(self) -> None:
        """What `readstates init` does with topics that lack a setting."""
        topics.mend(self.settings)

    def _take_records_of(self, topic: str, bytes_max: int) -> None:
        self._set(topic, "max.message.bytes", str(bytes_max))

    def _set(self, topic: str, name: str, value: str) -> None:
        entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        for done in self._admin.incremental_alter_configs([resource]).values():
            done.result(timeout=30)

    def set(self, **rates: Any) -> None:
        """The load's rates, or its reply topic."""
        for name, value in rates.items():
            setattr(self.load, name, value)

    def stop(self) -> None:
        """Everything that this started, whatever state it is in."""
        if self._pids:
            self.continue_cassandra()
        if self._wrong is not None:
            self._wrong.end()
        if hasattr(self, "load"):
            self.load.close()
        if hasattr(self, "prometheus"):
            self.prometheus.stop()
        if self.worker is not None:
            self.worker.stop()
