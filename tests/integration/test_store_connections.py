"""How a worker's connections to Cassandra are set up."""

from __future__ import annotations

import socket

from readstates.ops.local.stack import Stack
from readstates.streams.cassandra.driver import connect
from readstates.streams.config import Settings


def test_a_load_does_not_wait_for_the_acknowledgement_of_an_earlier_batch(stack: Stack) -> None:
    session = connect(Settings.load(stack.env()))
    try:
        connections = [
            connection for pool in session.get_pools() for connection in pool.get_connections()
        ]
        assert connections
        for connection in connections:
            used = connection._socket
            assert used.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    finally:
        session.cluster.shutdown()
