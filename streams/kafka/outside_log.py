"""The errors if Kafka does not have the next record that a worker wants to read."""

from __future__ import annotations

from readstates.schemas.headers import DEADLINE_MAX_MS

from ..errors import DataLossError


def lost_updates(places: str) -> DataLossError:
    """Updates are gone: some of them may be neither applied nor in Cassandra."""
    return DataLossError(
        f"{places}: the next update to be read is outside the log: retention or a deletion removed "
        "updates not yet applied, or the topic was replaced. The worker stops and changes nothing; "
        "when started again, it says which updates are gone, if any was not written to Cassandra"
    )


def lost_queries(places: str) -> DataLossError:
    """Queries are gone, and nothing else."""
    return DataLossError(
        f"{places}: the next query to be read is outside the log: the queries up to there expired "
        "before this worker read them, or the topic was replaced. No update is lost, and nobody "
        f"waits for these queries: their time is over after {DEADLINE_MAX_MS // 1000} s. The "
        "worker stops; when started again, it goes on with the queries that are there"
    )
