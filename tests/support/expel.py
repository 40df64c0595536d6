"""Puts a member out of its group, from outside: the requests with which a member itself leaves."""

from __future__ import annotations

import socket
import struct

from readstates.streams.config import CLASSIC, Settings

LEAVE_GROUP, CONSUMER_GROUP_HEARTBEAT = 13, 68  # api keys
CORRELATION_ID = 7
LEAVING_EPOCH = -1


def expel(settings: Settings, member_id: str) -> None:
    """One broker only: it is every group's coordinator."""
    if settings.group_protocol == CLASSIC:
        header = struct.pack(">hhi", LEAVE_GROUP, 1, CORRELATION_ID) + _text("test")
        body = _text(settings.kafka_group) + _text(member_id)
        error = _asked(settings, header + body)[4:6]  # after the throttle time
    else:
        header = struct.pack(">hhi", CONSUMER_GROUP_HEARTBEAT, 0, CORRELATION_ID) + _text("test")
        header += b"\0"  # no tags
        body = _compact(settings.kafka_group) + _compact(member_id)
        body += struct.pack(">i", LEAVING_EPOCH) + b"\0\0"  # no instance ID, no rack
        body += struct.pack(">i", -1) + b"\0\0\0\0"  # no timeout, topics, assignor, partitions
        error = _asked(settings, header + body)[5:7]  # after the header's tags as well
    assert error == b"\0\0", f"the broker answers with error {error!r}"


def _asked(settings: Settings, request: bytes) -> bytes:
    """What the broker answers, without the correlation ID."""
    host, port = settings.kafka_bootstrap.rsplit(":", 1)
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        answers = connection.makefile("rb")
        (size,) = struct.unpack(">i", answers.read(4))
        answer = answers.read(size)
    assert answer[:4] == struct.pack(">i", CORRELATION_ID)
    return answer[4:]


def _text(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


def _compact(text: str) -> bytes:
    assert len(text) < 127
    return bytes([len(text) + 1]) + text.encode()
