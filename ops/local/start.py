"""Steps of `Stack.up`: which servers are missing, on which ports, started, and answering.

The functions work on a State, and return or write down what they change. Stack.up has their order.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from . import cassandra, interrupts, kafka, state
from .cluster import CASSANDRA, KAFKA, Cluster, Node, is_free, with_free_ports
from .errors import PortTaken, StartFailed
from .libs import Progress
from .process import is_alive, last_lines, spawn, stop
from .state import State

START_TIMEOUT_S = 120.0  # for each server that starts: they share the processors
ANSWER_TIMEOUT_S = 3.0
PROGRESS_EVERY_S = 5.0
POLL_S = 0.2
_SERVERS: dict[str, ModuleType] = {KAFKA: kafka, CASSANDRA: cassandra}


def without_dead(current: State) -> State:
    """Drops stale entries: processes that ended, or whose pid another program has by now."""
    dead = {name for name, process in current.processes.items() if not is_alive(process)}
    return current.without(dead)


def with_ports(current: State, anew: bool = False) -> State:
    """The last ports if they are free, otherwise others. A running role keeps its own."""
    cluster = current.cluster
    for role in (KAFKA, CASSANDRA):
        nodes = cluster.of(role)
        if any(node.name in current.processes for node in nodes):
            continue
        ports = [(node.address, port) for node in nodes for port in (node.port, node.peer_port)]
        if anew or not all(port and is_free(address, port) for address, port in ports):
            cluster = with_free_ports(cluster, role)
    return replace(current, cluster=cluster)


def start_nodes(current: State, java: str, libs: dict[str, Path], progress: Progress) -> None:
    """Starts the missing servers and waits for them; on any failure stops what it started."""
    before = set(current.processes)
    # Brokers need each other to answer. Cassandra's nodes join the ring one after another, but come
    # back together at a later start, because each of them first looks for the others.
    databases = current.cluster.of(CASSANDRA)
    members = [n for n in databases if _joined(current.cluster, n).exists()] or databases[:1]
    joining = [node for node in databases if node not in members]
    groups = [(*members, *current.cluster.of(KAFKA)), *((node,) for node in joining)]
    try:
        for group in groups:
            begin = time.monotonic()
            missing = [node for node in group if node.name not in before]
            for node in missing:
                progress(f"{node.name}: starting")
                server = _SERVERS[node.role]
                server.prepare(current.cluster, node, java, libs[node.role])
                argv = server.command(current.cluster, node, java, libs[node.role])
                with interrupts.held():  # so that every process is written down
                    log = current.cluster.log_path(node)
                    current = current.with_process(node.name, spawn(argv, log, _environment()))
                    state.save(current)
            wait(current, group, progress, begin, quiet=not missing)
            for node in group:
                if node in databases:
                    _joined(current.cluster, node).parent.mkdir(parents=True, exist_ok=True)
                    _joined(current.cluster, node).touch()
    except BaseException:
        with interrupts.held():
            try:
                stop(process for name, process in current.processes.items() if name not in before)
            finally:  # a process that could not be stopped stays written down
                state.save(without_dead(current))
        raise


def wait(
    current: State,
    nodes: Sequence[Node],
    progress: Progress,
    begin: float,
    quiet: bool = False,
) -> None:
    """Waits until every one of `nodes` answers. Raises StartFailed, PortTaken."""
    left, told = list(nodes), begin
    while left:
        passed = time.monotonic() - begin
        for node in list(left):
            if not is_alive(current.processes[node.name]):
                raise _died(current.cluster, node)
            if answers(current.cluster, node):
                left.remove(node)
                if not quiet:
                    passed = time.monotonic() - begin
                    progress(f"{node.name}: answers on {node.endpoint} after {passed:.1f} s")
        if not left:
            return
        if passed > START_TIMEOUT_S * len(nodes):
            raise StartFailed(
                f"{left[0].name} did not answer within {START_TIMEOUT_S * len(nodes):.0f} s. "
                + _log_end(current.cluster, left[0])
            )
        if time.monotonic() - told >= PROGRESS_EVERY_S:
            told = time.monotonic()
            progress(f"waiting for {', '.join(n.name for n in left)}, {told - begin:.0f} s")
        time.sleep(POLL_S)


def _joined(cluster: Cluster, node: Node) -> Path:
    """A file that exists once a Cassandra node has answered: it is then in the ring for good."""
    return cluster.state_dir(node) / "has-joined"


def _died(cluster: Cluster, node: Node) -> StartFailed:
    log = last_lines(cluster.log_path(node), 200)
    if any(text in log for text in _SERVERS[node.role].PORT_TAKEN):
        return PortTaken(
            f"{node.name}: port {node.port} or {node.peer_port} was taken by another program\n"
            + _log_end(cluster, node)
        )
    return StartFailed(f"{node.name} ended before it answered. " + _log_end(cluster, node))


def _log_end(cluster: Cluster, node: Node) -> str:
    path = cluster.log_path(node)
    return f"The end of {path}:\n{last_lines(path)}"


def answers(cluster: Cluster, node: Node) -> bool:
    check: Callable[[Cluster, Node, float], bool] = _SERVERS[node.role].answers
    return check(cluster, node, ANSWER_TIMEOUT_S)


def _environment() -> dict[str, str]:
    """Our environment without the variables that would change how a Java server runs."""
    changing = ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH")
    return {name: value for name, value in os.environ.items() if name not in changing}
