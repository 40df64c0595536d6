"""Read states that a test makes by acks, and where those of a reply are."""

from __future__ import annotations

from tests.support.wire import Reply, Wire, new_user


def ack(wire: Wire, user: int, channel: int, message: int, kind: int = 0) -> int:
    event = {"type": "ack", "channel_id": str(channel), "message_id": str(message)}
    return wire.produce_update(user, {**event, "read_state_type": kind} if kind else event)


def places(reply: Reply) -> list[tuple[int, int]]:
    return [(s["read_state_type"], int(s["channel_id"])) for s in reply.states]


def user_of_three_types(wire: Wire) -> int:
    """A user with read states of three types."""
    user = new_user()
    for kind, channel in [(2, 7), (0, 2**60), (0, 3), (1, 3), (0, 2**53 + 1), (2, 5)]:
        offset = ack(wire, user, channel, 9, kind)
    wire.get(user, after_offset=offset)
    return user
