"""Which cluster a worker reads, so that it never reads another one.

KAFKA_BOOTSTRAP may name brokers of two clusters by mistake, such as a mirror's, with topics of the
same names. The offsets of one mean other records in the other.
"""

from __future__ import annotations

from ..errors import ReadStatesError
from .protocol import Broker


class OtherClusterError(ReadStatesError):
    """A broker belongs to another cluster than the worker."""


class Cluster:
    """The ID of the worker's cluster; empty until a broker has said it."""

    def __init__(self, cluster_id: str = "") -> None:
        self.id = cluster_id

    def check(self, place: Broker, cluster_id: str) -> None:
        """Raises OtherClusterError if the broker at `place` is one of another cluster."""
        self.id = self.id or cluster_id
        if cluster_id != self.id:
            raise OtherClusterError(
                f"{place.host}:{place.port} belongs to the cluster {cluster_id}, and the worker to "
                f"{self.id}. Nothing is read from there. Let KAFKA_BOOTSTRAP name brokers of one "
                "cluster only"
            )
