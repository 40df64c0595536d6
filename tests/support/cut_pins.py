"""A worker that keeps the timestamps of pins in whole seconds: a fault of a candidate."""

from __future__ import annotations

from readstates.schemas import events, wire
from readstates.streams.cli import main


def cut(user_id: int, channel_id: int, timestamp: int, read_state_type: int) -> events.PinsAck:
    return events.PinsAck(user_id, channel_id, timestamp // 1000 * 1000, read_state_type)


if __name__ == "__main__":
    vars(wire)["PinsAck"] = cut
    main()
