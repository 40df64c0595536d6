"""The local stack: a real Kafka and a real Cassandra as plain processes on loopback.

    Stack(data_dir).up()  →  .env()  →  … work …  →  .down()

How `up` works:
1. take the stack's lock, so that one command at a time changes it;
2. read what was started before, and keep what still runs (same pid, same start time);
3. fetch the jar files if need be, choose free ports, write the settings;
4. start what is missing, each in a session of its own, and write its pid down at once;
5. wait until each answers its own protocol, and is the server that it should be;
6. on any failure or interrupt stop what this call started, and only that.
"""

import contextlib
import os
import shlex
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from . import credentials, start, state
from .cluster import CASSANDRA, KAFKA, NODES_MAX, Cluster, new_cluster
from .errors import NotRunning, PortTaken, StackError
from .java import find_java
from .libs import Progress, jars, locked
from .process import STOP_TIMEOUT_S, freeze, is_alive, stop, thaw
from .settings import LOCAL_DC
from .state import State

LOCK_TIMEOUT_S = 1500.0  # over a download and a start
PORT_ATTEMPTS = 4


@dataclass(frozen=True)
class ProcessStatus:
    """One server. `answering` is what the server itself says, so it implies `alive`."""

    role: str
    number: int
    pid: int | None
    address: str
    port: int
    alive: bool
    answering: bool
    log: str


@dataclass(frozen=True)
class StackStatus:
    """The stack as it is now; `up` if all of its servers answer."""

    data_dir: str
    up: bool
    processes: tuple[ProcessStatus, ...]

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return asdict(self)


def default_data_dir() -> Path:
    """The folder of the stack unless another is given."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "read-states" / "stack"


class Stack:
    """One stack in one data folder; stacks in different folders do not know of each other.

    Every method raises StackError (see errors.py) with a text for the person at the terminal.
    """

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.expanduser().absolute()
        if any(c in str(self.data_dir) for c in ",:\n"):
            raise StackError(f"{self.data_dir}: Kafka and Java take no ',' or ':' in a folder name")

    def up(
        self,
        brokers: int = 1,
        cassandra_nodes: int = 1,
        progress: Progress = lambda _line: None,
        *,
        secure: bool = False,
        brief: bool = False,
    ) -> bool:
        """Starts what is not running; True if it started something, False if all ran already.

        Takes about 10 s, and the download (120 MB) the first time. `progress` gets a line at a
        time. `brief`: the servers that it starts will live for minutes only (settings.BRIEF_JVM).
        After an interrupt or a failure nothing runs that was not running before.
        """
        for count in (brokers, cassandra_nodes):
            if not 1 <= count <= NODES_MAX:
                raise StackError(f"a stack has 1 to {NODES_MAX} servers of a kind, not {count}")
        if secure and cassandra_nodes > 1:
            raise StackError("a secure stack has one Cassandra node: between nodes there is no TLS")
        with self._lock(progress):
            known = state.load(self.data_dir)
            current = known or State(new_cluster(self.data_dir, brokers, cassandra_nodes, secure))
            self._check_kind(current.cluster, brokers, cassandra_nodes, secure)
            current = replace(current, cluster=replace(current.cluster, brief=brief))
            current = start.without_dead(current)
            if all(n.name in current.processes for n in current.cluster.nodes):
                start.wait(current, current.cluster.nodes, progress, time.monotonic(), quiet=True)
                return False
            self._start(current, progress)
            return True

    def down(self, remove: bool = False, progress: Progress = lambda _line: None) -> bool:
        """Stops the stack, within about 50 s; True if something ran.

        `remove` deletes its data, and so the servers are killed: they need not write anything out.
        It stops only processes that `up` started: pid and start time must both be as recorded.
        """
        if not self.data_dir.is_dir():
            return False
        with self._lock(progress):
            current = state.load(self.data_dir)
            running = start.without_dead(current).processes if current else {}
            if current:
                if running:
                    progress(f"stopping {', '.join(sorted(running))}")
                try:
                    stop(running.values(), 0.0 if remove else STOP_TIMEOUT_S)
                finally:  # a process that could not be stopped stays written down
                    state.save(start.without_dead(current))
            if remove:
                self._remove()
            return bool(running)

    def _remove(self) -> None:
        """Removes its data. Raises StackError if that fails."""
        for folder in ("conf", "data", "log", "secrets"):
            try:
                shutil.rmtree(self.data_dir / folder)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StackError(f"{self.data_dir / folder} cannot be removed: {error}") from error
        state.state_path(self.data_dir).unlink(missing_ok=True)
        (self.data_dir / "lock").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the folder may hold other files
            self.data_dir.rmdir()

    def status(self) -> StackStatus:
        """What runs and what answers, asked now; up to 3 s for a server that hangs."""
        current = state.load(self.data_dir)
        if current is None:
            return StackStatus(str(self.data_dir), False, ())
        shown = []
        for node in current.cluster.nodes:
            process = current.processes.get(node.name)
            alive = process is not None and is_alive(process)
            shown.append(
                ProcessStatus(
                    node.role,
                    node.number,
                    process.pid if process else None,
                    node.address,
                    node.port,
                    alive,
                    alive and start.answers(current.cluster, node),
                    str(current.cluster.log_path(node)),
                )
            )
        return StackStatus(str(self.data_dir), all(p.answering for p in shown), tuple(shown))

    @contextlib.contextmanager
    def standing_still(self, *roles: str) -> Iterator[None]:
        """Freezes the servers of these roles: connections stay, but nobody answers."""
        current = state.load(self.data_dir)
        named = [] if current is None else [n for n in current.cluster.nodes if n.role in roles]
        if current is None or not named:
            raise NotRunning(f"no {' or '.join(roles)} in {self.data_dir}")
        found = [current.processes[node.name] for node in named]
        try:
            for process in found:
                freeze(process)
            yield
        finally:
            for process in found:
                thaw(process)

    def env(self) -> dict[str, str]:
        """The settings that point at this stack. Raises NotRunning if a server is gone."""
        current = state.load(self.data_dir)
        alive = set(start.without_dead(current).processes) if current else set()
        if current is None or any(node.name not in alive for node in current.cluster.nodes):
            raise NotRunning(
                f"no stack runs in {self.data_dir}; "
                f"start it with: readstates stack up --data-dir {shlex.quote(str(self.data_dir))}"
            )
        databases = current.cluster.of(CASSANDRA)
        more = credentials.load(self.data_dir).env() if current.cluster.secure else {}
        return {
            **more,
            "READ_STATES_KAFKA_BOOTSTRAP": ",".join(n.endpoint for n in current.cluster.of(KAFKA)),
            "READ_STATES_CASSANDRA_HOSTS": ",".join(n.address for n in databases),
            "READ_STATES_CASSANDRA_PORT": str(databases[0].port),
            "READ_STATES_CASSANDRA_LOCAL_DC": LOCAL_DC,
        }

    def _start(self, current: State, progress: Progress) -> None:
        """Steps 3 to 6, with other ports if one is taken meanwhile."""
        java = find_java()
        missing = [n for n in current.cluster.nodes if n.name not in current.processes]
        libs = {role: jars(role, progress) for role in dict.fromkeys(n.role for n in missing)}
        if current.cluster.secure:
            credentials.make(self.data_dir, java)
        current = start.with_ports(current)
        for attempt in range(1, PORT_ATTEMPTS + 1):
            try:
                start.start_nodes(current, java, libs, progress)
            except PortTaken as error:
                if attempt == PORT_ATTEMPTS:
                    raise
                progress(f"{str(error).splitlines()[0]}; trying others")
                current = start.with_ports(current, anew=True)
            else:
                return

    def _check_kind(
        self, cluster: Cluster, brokers: int, cassandra_nodes: int, is_secure: bool
    ) -> None:
        made = (len(cluster.of(KAFKA)), len(cluster.of(CASSANDRA)))
        if made != (brokers, cassandra_nodes):
            raise StackError(
                f"the stack in {self.data_dir} was made with {made[0]} broker(s) and {made[1]} "
                "Cassandra node(s). Remove it (readstates stack down --remove) or use another "
                "--data-dir."
            )
        if cluster.secure != is_secure:
            raise StackError(
                f"the stack in {self.data_dir} was made {'with' if cluster.secure else 'without'} "
                "--secure. Remove it (readstates stack down --remove) or use another --data-dir."
            )

    @contextlib.contextmanager
    def _lock(self, progress: Progress) -> Iterator[None]:
        path = self.data_dir / "lock"
        note = f"waiting: another command is at work in {self.data_dir}"
        with locked(path, LOCK_TIMEOUT_S, lambda: progress(note)):
            yield
