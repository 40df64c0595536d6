"""The errors if Kafka does not have the next updates that a worker wants to read."""

from __future__ import annotations

from ..errors import DataLossError


def lost_updates(places: str) -> DataLossError:
    """Updates are gone: some of them may be neither applied nor in Cassandra."""
    return DataLossError(
        f"{places}: the next update to be read is outside the log: retention or a deletion removed "
        "updates not yet applied, or the topic was replaced. The worker stops and changes nothing; "
        "when started again, it says which updates are gone, if any was not written to Cassandra"
    )


def missing_updates(place: str, first: int, end: int) -> str:
    """The text if the log goes on at `end`, and has nothing between `first` and there."""
    return (
        f"{place}: updates {first} … {end - 1} are gone, though the log goes on behind them: "
        "compaction took them. They are lost, unless their producers send them again"
    )


def stop_before(missing: str) -> DataLossError:
    """The error if updates are missing, and the worker may not go on without them."""
    return DataLossError(
        f"deviation updates_missing: {missing}. The worker stops and changes nothing. Find out who "
        "set cleanup.policy=compact, and set it back with: readstates init. To accept the loss, "
        "start the workers with MISSING_UPDATES=count until they have caught up"
    )
