"""One value of every form on the wire, and the golden file that holds its bytes."""

from __future__ import annotations

import struct
from pathlib import Path

from readstates.schemas import events as e
from readstates.schemas.queries import Get
from readstates.schemas.read_state import Row

GOLDEN = Path(__file__).resolve().parents[2] / "schemas" / "golden"
BIG = 2**63 - 1

EVENTS: dict[str, e.Update] = {
    "ack": e.Ack(101, 202, 303),
    "ack_all_fields": e.Ack(BIG, BIG - 1, BIG - 2, 255, e.COUNT_MAX, e.DAYS_MAX),
    "ack_if_version": e.Ack(101, 202, 303, 0, e.KEEP, e.KEEP, BIG),
    "ack_zero_options": e.Ack(1, 1, 1, 0, 0, 0),
    "ack_zero_version": e.Ack(1, 1, 1, 0, e.KEEP, e.KEEP, 0),
    "ack_manual": e.MarkUnread(101, 202, 300, 7),
    "ack_manual_all_fields": e.MarkUnread(101, 202, 300, e.COUNT_MAX, None, 3, 5, 19_700),
    "ack_manual_alone": e.MarkUnread(101, 202, 300),
    "ack_manual_mentions": e.MarkUnread(101, 202, 300, e.KEEP, (301, BIG), 3, 5, 19_700),
    "ack_manual_no_mentions": e.MarkUnread(101, 202, 300, e.KEEP, ()),
    "bulk_ack": e.BulkAck(101, ((0, 202, 303), (2, 202, 9), (0, 203, BIG))),
    "mention": e.Mention(101, 202, 304),
    "mention_typed": e.Mention(101, 202, 304, 2),
    "mention_edit": e.Mention(101, 202, 304, 2, e.EDIT_MAX),
    "retract_mention": e.RetractMention(101, 202, 304),
    "retract_mention_edit": e.RetractMention(101, 202, 304, 2, e.EDIT_MAX),
    "retract_mention_edit_zero": e.RetractMention(101, 202, 304, 0, 0),
    "pins_ack": e.PinsAck(101, 202, 1_700_000_000_000),
    "pins_ack_zero": e.PinsAck(101, 202, 0, 1),
    "set": e.SetOptions(101, 202, 0, 0),
    "set_all_fields": e.SetOptions(101, 202, 255, 0, 19_700),
    "merge": e.Merge(101, 202),
    "merge_all_fields": e.Merge(101, 202, 1, 303, (304, BIG), 7, 1_700_000_000_000, 5, 19_700),
    "merge_zeros": e.Merge(101, 202, 0, 0, (), 0, 0, 0, 0),
    "delete": e.Delete(101, 202),
    "delete_typed": e.Delete(101, 202, 255),
    "delete_up_to": e.Delete(101, 202, 255, BIG),
    "delete_user": e.DeleteUser(101),
    "delete_user_final": e.DeleteUser(101, True),
    "restore_user": e.RestoreUser(101),
}

QUERIES: dict[str, Get] = {
    "get": Get(101),
    "get_none": Get(101, ()),
    "get_channels": Get(101, (203, 202, BIG)),
    "get_type": Get(101, None, 0),
    "get_all_fields": Get(101, (202,), 2, (8 << 48) | 5, 0),
    "get_more_fields": Get(101, None, 2, 5, 0, True, True, True, 10_000, (255, BIG)),
    "get_page": Get(101, limit=1, after=(0, 1)),
}

ROWS: list[Row] = [
    (0, 202, 303, 304, 1, 1_700_000_000_000, 5, 19_700, (8 << 48) | 5, b""),
    (2, BIG, BIG, 0, 2**32 - 1, 2**48 - 1, 2**32 - 1, 65_535, BIG, b""),
]

MARKED_ROWS: list[Row] = [
    ROWS[0],
    (2, 7, 303, 306, 2, 0, 0, 0, BIG, struct.pack("=qQqQqQ", 304, 0, 305, 1, 306, 4)),
    (2, BIG, BIG, 0, 2**32 - 1, 0, 0, 0, BIG, struct.pack("=qQ", BIG, 1 << 40 | 2**32 - 1)),
]
