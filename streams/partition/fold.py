"""Applies each kind of event to a resident user. The table has the rules themselves.

A fold looks at the event, its version and the user's read states, and at nothing else: two owners
that fold the same log get the same rows.
"""

from __future__ import annotations

from readstates.cache.table import CHANGED, DIRTIED, NO_ROOM, TOO_MANY, Table
from readstates.schemas.events import (
    Ack,
    BulkAck,
    Delete,
    DeleteUser,
    MarkUnread,
    Mention,
    PinsAck,
    RetractMention,
    Update,
)

# Events that are not the user's own: they do not move the user to the warm end of the LRU.
COLD_EVENTS = (Mention, RetractMention, Delete, DeleteUser)


def fold(table: Table, user: int, event: Update, version: int) -> int:
    """Apply an event to a resident user; returns the table's code. NO_ROOM changes nothing."""
    code: int
    match event:
        case Ack():
            code = table.ack(
                user,
                event.read_state_type,
                event.channel_id,
                event.message_id,
                event.flags,
                event.last_viewed,
                version,
            )
        case Mention():
            code = table.mention(
                user, event.read_state_type, event.channel_id, event.message_id, version
            )
        case RetractMention():
            code = table.retract(
                user, event.read_state_type, event.channel_id, event.message_id, version
            )
        case PinsAck():
            code = table.pins_ack(
                user, event.read_state_type, event.channel_id, event.timestamp, version
            )
        case MarkUnread():
            code = table.mark_unread(
                user,
                event.read_state_type,
                event.channel_id,
                event.message_id,
                event.mention_count,
                event.flags,
                event.last_viewed,
                version,
            )
        case BulkAck():
            code = _fold_bulk(table, user, event, version)
        case Delete():
            code = table.delete(user, event.read_state_type, event.channel_id, version)
        case DeleteUser():
            code = table.delete_user(user, version)
    return code


def _fold_bulk(table: Table, user: int, event: BulkAck, version: int) -> int:
    """Apply all entries or none: check the room and the user's limit before the first entry."""
    new = slots_needed(table, user, event)
    if new and table.count(user) + new > table.user_states_max:
        return TOO_MANY
    if new > table.free:
        return NO_ROOM
    total = 0
    for kind, channel, message in event.acks:
        total |= table.ack(user, kind, channel, message, -1, -1, version)
    if total & CHANGED:
        total &= CHANGED | DIRTIED
    return total


def slots_needed(table: Table, user: int, event: Update) -> int:
    """How many free slots the event may need at most."""
    if not isinstance(event, BulkAck):
        return 1
    return sum(not table.has(user, kind, channel) for kind, channel, _ in event.acks)
