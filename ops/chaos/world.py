"""The system under attack: servers and workers, and the hands that hurt and heal them.

What the faults do to it is known here, so that `close` can undo it: stopped processes go on, cut
ways are mended, workers end in good order. Servers and mounts are the owner's to end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from readstates.streams.config import Settings

from ..local import state
from ..local.cluster import CASSANDRA, KAFKA
from ..local.errors import StartFailed
from ..local.owner import Owner
from ..local.process import ProcessId, is_alive
from ..local.stack import Stack
from ..local.worker import WorkerProcess
from .history import Gone
from .proxy import Proxy, behind

SERVERS = 3  # of a kind
PARTITIONS = 12
WORKERS = ("worker-1", "worker-2", "worker-3")
GUEST = "worker-4"
BEHIND_PROXY = "worker-3"
SESSION_TIMEOUT_S = 6.0
CACHE_STATES = 2_000
HEALTHY_LAG = 20_000  # records not durable; with the flush delay some thousands are normal
HEALTHY_TIMEOUT_S = 180.0
POLL_S = 0.5
START_ATTEMPTS = 3
AWAY = ("Cassandra", "Kafka did not say", "no Kafka answers")  # a worker's words about it
SETTINGS = {
    "READ_STATES_CHANGES": "on",
    "READ_STATES_FLUSH_DELAY_S": "3",
    "READ_STATES_SESSION_TIMEOUT_S": str(SESSION_TIMEOUT_S),
    "READ_STATES_CACHE_STATES": str(CACHE_STATES),
    "READ_STATES_USER_STATES_MAX": "500",
    "READ_STATES_CASSANDRA_REPLICATION": (
        f"{{'class': 'NetworkTopologyStrategy', 'replication_factor': {SERVERS}}}"
    ),
}


class Stopping(Exception):
    """The campaign is being stopped; a fault ends where it stands."""


class NotHealthyError(Exception):
    """The system did not come back by itself; the text says what is missing."""


class World:
    """See the module. `say` gets a line at a time."""

    stack: Stack

    def __init__(self, owner: Owner, say: Callable[[str], None]) -> None:
        self._owner, self.folder = owner, owner.folder
        self.say = say
        self.cache_dir = self.folder / "tables"
        self.workers: dict[str, WorkerProcess] = {}
        self.stopping = threading.Event()
        self.crashed: list[str] = []  # workers that ended by themselves
        self.refused: list[str] = []  # those that could not start: a server was away
        self.probe: Callable[[], float] = time.monotonic  # when a query was last answered
        self.lag: Callable[[], int] = lambda: 0
        self.renew_client: Callable[[], None] = lambda: None  # whose queries are sent to `queries`
        self.gone: list[Gone] = []  # when the queries topic did not exist
        self._stopped: set[int] = set()
        self._proxy: Proxy | None = None

    def start(self) -> Settings:
        """Servers, topics, schema, workers; returns the settings of a client."""
        self.stack = self._owner.stack("stack", SERVERS, SERVERS, self.say, brief=True)
        self.env = {
            **self.stack.env(),
            **SETTINGS,
            "READ_STATES_CACHE_DIR": str(self.cache_dir),
        }
        settings = Settings.load(self.env)
        self.init()
        nodes = self._state().cluster.of(CASSANDRA)
        self._proxy = Proxy((node.address, node.port) for node in nodes).start()
        self._watcher = AdminClient(settings.librdkafka(log_level=2))
        for name in WORKERS:
            self.start_worker(name)
        for name in WORKERS:
            self.workers[name].wait_ready(HEALTHY_TIMEOUT_S)
        return settings

    def init(self) -> str:
        """Topics and schema, as an operator makes them; returns what was said.

        Raises NotHealthyError.
        """
        argv = [sys.executable, "-m", "readstates.streams.cli", "init"]
        argv += ["--partitions", str(PARTITIONS), "--replication-factor", str(SERVERS)]
        done = subprocess.run(
            argv, env={**os.environ, **self.env}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise NotHealthyError(f"readstates init: {done.stderr}")
        return done.stdout

    def close(self) -> None:
        """Undoes the faults and ends the workers; safe at any time, also twice."""
        self.stopping.set()
        for pid in list(self._stopped):
            self._signal(pid, signal.SIGCONT)
        for worker in self.workers.values():
            if worker.returncode is None:
                worker.stop()
        if self._proxy is not None:
            self._proxy.close()
            self._proxy = None

    def rest(self, seconds: float) -> None:
        """Wait. Raises Stopping."""
        if self.stopping.wait(seconds):
            raise Stopping

    # -- workers ------------------------------------------------------------------------------

    def start_worker(self, name: str, module: str | None = None, **more: str) -> WorkerProcess:
        """Start a worker again, or a new one. Does not wait for it.

        `module`: another one to run in place of the usual; not for BEHIND_PROXY.
        """
        env = {**self.env, "READ_STATES_INSTANCE_ID": name, **more}
        module = module or "readstates.streams.cli"
        if name == BEHIND_PROXY:
            module = "readstates.ops.chaos.behind_proxy"
            hosts = self.env["READ_STATES_CASSANDRA_HOSTS"].split(",")
            env["READ_STATES_CASSANDRA_HOSTS"] = ",".join(behind(host) for host in hosts)
        log = self.folder / "log" / f"{name}.log"
        worker = self.workers[name] = WorkerProcess(env, log, module=module).start()
        return worker

    def forget(self, name: str) -> None:
        """A guest left for good."""
        del self.workers[name]

    def freeze(self, pid: int) -> None:
        """SIGSTOP."""
        self._stopped.add(pid)
        self._signal(pid, signal.SIGSTOP)

    def thaw(self, pid: int) -> None:
        """SIGCONT."""
        self._signal(pid, signal.SIGCONT)
        self._stopped.discard(pid)

    @property
    def proxy(self) -> Proxy:
        assert self._proxy is not None
        return self._proxy

    # -- servers ------------------------------------------------------------------------------

    def connect_admin(self) -> AdminClient:
        """A new client: librdkafka's goes on asking a coordinator or controller that was killed.

        Its questions end with it, so it must be kept until they are answered.
        """
        return AdminClient(Settings.load(self.env).librdkafka(log_level=2))

    def server(self, name: str) -> ProcessId:
        return self._state().processes[name]

    def kill_server(self, name: str) -> None:
        """SIGKILL, and until it is gone."""
        process = self.server(name)
        self._signal(process.pid, signal.SIGKILL)
        while is_alive(process):
            time.sleep(0.05)

    def start_servers(self) -> None:
        """Starts those that are not running, and waits for them. Raises StackError."""
        for attempt in range(START_ATTEMPTS):
            try:
                self._owner.stack("stack", SERVERS, SERVERS, brief=True)
            except StartFailed as exc:  # a busy machine: the next attempt begins anew
                if attempt == START_ATTEMPTS - 1 or self.stopping.is_set():
                    raise
                self.say(f"    {str(exc).splitlines()[0]}; once more")
            else:
                return

    def mount_small(self, size_bytes: int) -> Path:
        """A folder in memory with so much room. Raises OSError where we may not mount."""
        folder = self.folder / "small"
        folder.mkdir(exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"mode=700,size={size_bytes}", "tmpfs", str(folder)],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise OSError(done.stderr.strip())
        return folder

    def unmount(self, folder: Path) -> None:
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)

    # -- health -------------------------------------------------------------------------------

    def wait_healthy(self) -> None:
        """Until all is well again. Raises NotHealthyError with what is missing, Stopping."""
        begin = time.monotonic()
        while what := self._unhealthy(begin):
            if time.monotonic() - begin > HEALTHY_TIMEOUT_S:
                raise NotHealthyError(f"not well after {HEALTHY_TIMEOUT_S:.0f} s: {what}")
            self.rest(POLL_S)

    def _unhealthy(self, begin: float) -> str:
        """What is missing; empty if nothing is."""
        partitions = 0
        for name, worker in self.workers.items():
            if worker.returncode is not None:
                self._restart(name, worker)
            status, body = worker.get("/readyz")
            if status != 200:
                return f"{name}: {body or 'no answer'}"
            partitions += int(body.removeprefix("ok: ").split()[0])  # "ok: 4 partitions"
        if partitions != PARTITIONS:
            return f"workers say they own {partitions} partitions of {PARTITIONS}"
        if self.probe() < begin:
            return "no query was answered"
        return self._unhealthy_servers()

    def _unhealthy_servers(self) -> str:
        try:
            found = self._watcher.list_topics(timeout=5)
            lag = self.lag()
        except KafkaException as exc:
            return f"Kafka: {exc}"
        short = sum(
            len(partition.isrs) < SERVERS
            for topic in found.topics.values()
            for partition in topic.partitions.values()
            if len(partition.replicas) == SERVERS
        )
        if len(found.brokers) < SERVERS or short:
            return f"Kafka: {len(found.brokers)} brokers, {short} partitions with a replica behind"
        if lag > HEALTHY_LAG:
            return f"{lag} records are not durable"
        return ""

    def _restart(self, name: str, worker: WorkerProcess) -> None:
        """As a supervisor would. To end without a word about a server being away is a defect."""
        lines = [line for line in worker.output().splitlines() if line.strip()] or [""]
        text = f"{name} ended with {worker.returncode}: {lines[-1][-300:]}"
        words = [line for line in lines if line.startswith("read-states: ")]
        said = any(away in line for line in words for away in AWAY)
        (self.refused if said else self.crashed).append(text)
        self.say(f"    {text}; starting it again")
        self.start_worker(name)

    @staticmethod
    def _signal(pid: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def _state(self) -> state.State:
        current = state.load(self.stack.data_dir)
        assert current is not None
        return current


BROKERS = tuple(f"{KAFKA}-{n}" for n in range(1, SERVERS + 1))
NODES = tuple(f"{CASSANDRA}-{n}" for n in range(1, SERVERS + 1))
