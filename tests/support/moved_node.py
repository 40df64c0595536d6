"""Cassandra's only node, killed and started again under another address."""

from __future__ import annotations

import signal
from dataclasses import replace

from readstates.ops.local import process, state
from readstates.ops.local.cluster import CASSANDRA
from readstates.ops.local.stack import Stack

from .waiting import until


def move(stack: Stack, address: str, brokers: int = 1) -> None:
    """Kill the node, and start it with its data at that address; returns once it answers.

    `brokers`: how many the stack has.
    """
    current = state.load(stack.data_dir)
    assert current is not None
    process.send(current.processes["cassandra-1"], signal.SIGKILL)
    nodes = tuple(
        replace(node, address=address) if node.role == CASSANDRA else node
        for node in current.cluster.nodes
    )
    until(lambda: not process.is_alive(current.processes["cassandra-1"]), "the node's end")
    state.save(replace(current, cluster=replace(current.cluster, nodes=nodes)))
    stack.up(brokers, brief=True)
