"""The servers of a stack and the address of each; the search for ports is the only I/O.

Each of Kafka's brokers has its own port on 127.0.0.1. Each of Cassandra's nodes has its own
loopback address and the same port, because a driver knows only one port for all nodes.
"""

import base64
import socket
import uuid
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .errors import StackError

KAFKA = "kafka"
CASSANDRA = "cassandra"
NODES_MAX = 9  # of a role; each has its own loopback address or pair of ports


@dataclass(frozen=True)
class Node:
    """One server. `port` is for clients, `peer_port` for Kafka's controller, Cassandra's gossip."""

    role: str
    number: int  # 1, 2, …; Kafka's node.id
    address: str
    port: int = 0
    peer_port: int = 0

    @property
    def name(self) -> str:
        return f"{self.role}-{self.number}"

    @property
    def endpoint(self) -> str:
        return f"{self.address}:{self.port}"


@dataclass(frozen=True)
class Cluster:
    """All servers of one stack. `cluster_id` is Kafka's; Cassandra's cluster name carries it."""

    data_dir: Path
    cluster_id: str
    nodes: tuple[Node, ...]
    secure: bool = False  # TLS and logins at every port; see credentials.py
    brief: bool = False  # its servers live for minutes; see settings.py

    def of(self, role: str) -> tuple[Node, ...]:
        """The nodes of a role, by number."""
        return tuple(node for node in self.nodes if node.role == role)

    def conf_dir(self, node: Node) -> Path:
        return self.data_dir / "conf" / node.name

    def state_dir(self, node: Node) -> Path:
        return self.data_dir / "data" / node.name

    def log_path(self, node: Node) -> Path:
        return self.data_dir / "log" / f"{node.name}.log"

    def as_dict(self) -> dict[str, Any]:
        nodes = [asdict(node) for node in self.nodes]
        kind = {"secure": self.secure, "brief": self.brief}
        return {"cluster_id": self.cluster_id, **kind, "nodes": nodes}

    @classmethod
    def from_dict(cls, data_dir: Path, value: dict[str, Any]) -> "Cluster":
        nodes = tuple(Node(**node) for node in value["nodes"])
        secure, brief = bool(value.get("secure")), bool(value.get("brief"))
        return cls(data_dir, str(value["cluster_id"]), nodes, secure, brief)


def new_cluster(
    data_dir: Path, brokers: int, cassandra_nodes: int, secure: bool = False
) -> Cluster:
    """A cluster with a fresh id and no ports yet."""
    kafka = [Node(KAFKA, n, "127.0.0.1") for n in range(1, brokers + 1)]
    cassandra = [Node(CASSANDRA, n, f"127.0.0.{n}") for n in range(1, cassandra_nodes + 1)]
    # Kafka's own form of a UUID, with a letter first, because it takes a leading '-' for an option.
    cluster_id = "R" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]
    return Cluster(data_dir, cluster_id, (*kafka, *cassandra), secure)


def with_free_ports(cluster: Cluster, role: str) -> Cluster:
    """The same cluster with ports for `role` that were free a moment ago.

    Another program may take one before the server does: the caller then tries again.
    Raises StackError if a node's loopback address cannot be bound at all.
    """
    with ExitStack() as held:  # all at once, so that no two get the same
        nodes = cluster.of(role)
        if role == CASSANDRA:
            addresses = tuple(node.address for node in nodes)
            port, peer_port = (_hold_port(held, addresses) for _ in range(2))
            chosen = [replace(node, port=port, peer_port=peer_port) for node in nodes]
        else:
            chosen = [
                replace(
                    node,
                    port=_hold_port(held, (node.address,)),
                    peer_port=_hold_port(held, (node.address,)),
                )
                for node in nodes
            ]
    others = tuple(node for node in cluster.nodes if node.role != role)
    return replace(cluster, nodes=tuple(sorted((*others, *chosen), key=_order)))


def is_free(address: str, port: int) -> bool:
    """True if a server could listen there now."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
        except OSError:
            return False
    return True


def _order(node: Node) -> tuple[bool, int]:
    return node.role != KAFKA, node.number


def _hold_port(held: ExitStack, addresses: tuple[str, ...]) -> int:
    """One port that is free on every address, held until `held` closes."""
    for _ in range(100):
        with ExitStack() as trial:
            port = 0
            try:
                for address in addresses:
                    listener = trial.enter_context(socket.socket())
                    listener.bind((address, port))
                    port = listener.getsockname()[1]
            except OSError as error:
                if port == 0:
                    raise StackError(
                        f"cannot listen on {address}: {error.strerror}. Where the system "
                        f"has only 127.0.0.1 (macOS), add it: sudo ifconfig lo0 alias {address}"
                    ) from error
                continue
            held.push(trial.pop_all())
            return port
    raise StackError(f"no port is free on all of {', '.join(addresses)}")
