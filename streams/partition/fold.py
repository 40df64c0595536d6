"""Applies each kind of event to a resident user. The table has the rules themselves.

A fold looks at the event, its version and the user's read states, and at nothing else: two owners
that fold the same log get the same rows.
"""

from __future__ import annotations

from readstates.cache.layout import EXTENSION_ENTRIES
from readstates.cache.marks import ENTRIES_MAX, FOR_GOOD
from readstates.cache.table import CHANGED, DIRTIED, NO_ROOM, REPLAYED, TOO_MANY, Table
from readstates.schemas.events import (
    KEEP,
    MENTION_IDS_MAX,
    Ack,
    BulkAck,
    Delete,
    DeleteUser,
    MarkUnread,
    Mention,
    Merge,
    PinsAck,
    RestoreUser,
    RetractMention,
    SetOptions,
    Update,
)

# Events that are not the user's own: they do not move the user to the warm end of the LRU.
COLD_EVENTS = (Mention, RetractMention, Merge, Delete, DeleteUser, RestoreUser)


# Slots that an event may need at most, besides those of the read states that it makes: its read
# state's entries are written anew, before the old ones are free. Of a manual ack they are at most
# what is there, MENTION_IDS_MAX and two more.
CHANGE_SLOTS_MAX = 1 - -(ENTRIES_MAX + MENTION_IDS_MAX + 2) // EXTENSION_ENTRIES
DELETED_USER = 256  # a code as the table's: the user's deletion was final, the event is skipped


def fold(table: Table, user: int, event: Update, version: int) -> int:
    """Apply an event to a resident user; returns a code. NO_ROOM changes nothing."""
    code: int
    if table.is_final(user):
        if not isinstance(event, RestoreUser):
            return DELETED_USER
    elif version <= table.restored_at(user):
        return REPLAYED
    match event:
        case Ack() if event.if_version != KEEP:
            code = table.ack_unless_unread(
                user,
                event.read_state_type,
                event.channel_id,
                event.message_id,
                event.flags,
                event.last_viewed,
                event.if_version,
                version,
            )
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
            rank = event.edit << 1
            code = table.mark(
                user, event.read_state_type, event.channel_id, event.message_id, rank, version
            )
        case RetractMention():
            rank = FOR_GOOD if event.edit == KEEP else event.edit << 1 | 1
            code = table.mark(
                user, event.read_state_type, event.channel_id, event.message_id, rank, version
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
                event.mention_ids,
                event.flags,
                event.last_viewed,
                version,
            )
        case BulkAck():
            code = _fold_bulk(table, user, event, version)
        case SetOptions():
            code = table.set_options(
                user,
                event.read_state_type,
                event.channel_id,
                event.flags,
                event.last_viewed,
                version,
            )
        case Merge():
            code = _fold_merge(table, user, event, version)
        case Delete():
            up_to = max(event.up_to, 0)
            code = table.delete(user, event.read_state_type, event.channel_id, up_to, version)
        case DeleteUser():
            code = table.delete_user(user, version, event.final)
        case RestoreUser():
            code = table.restore_user(user, version)
    return code


def _fold_merge(table: Table, user: int, event: Merge, version: int) -> int:
    code: int = table.merge(
        user,
        event.read_state_type,
        event.channel_id,
        max(event.last_message_id, 0),
        event.mention_ids,
        event.mention_count,
        event.last_pin_timestamp,
        event.flags,
        event.last_viewed,
        version,
    )
    return code


def _fold_bulk(table: Table, user: int, event: BulkAck, version: int) -> int:
    """Apply all entries or none: check the room and the user's limit before the first entry."""
    new = sum(table.would_show(user, *ack) for ack in event.acks)
    if new and table.count(user) + new > table.user_states_max:
        return TOO_MANY
    if slots_needed(table, user, event) > table.free:
        return NO_ROOM
    total = 0
    for kind, channel, message in event.acks:
        total |= table.ack(user, kind, channel, message, -1, -1, version)
    if total & CHANGED:
        total &= CHANGED | DIRTIED
    return total


def slots_needed(table: Table, user: int, event: Update) -> int:
    """How many free slots the event may need at most.

    A read state with entries takes new slots for them before its old ones are free again. It is at
    least one: a single entry that is more than a mention of edit 0 has a slot as well.
    """
    match event:
        case BulkAck():
            new = sum(not table.has(user, kind, channel) for kind, channel, _ in event.acks)
            return new + max(1, *(table.slots_needed(user, *ack[:2], 0) for ack in event.acks))
        case Mention() | RetractMention() | SetOptions() | PinsAck() | Ack():
            more = int(not isinstance(event, (Ack, PinsAck, SetOptions)))
        case MarkUnread():
            more = len(event.mention_ids or ()) + 2
        case Merge():
            more = len(event.mention_ids) + 1
        case Delete():
            more = int(event.up_to != KEEP)
        case DeleteUser() | RestoreUser():
            return 1
    return max(1, table.slots_needed(user, event.read_state_type, event.channel_id, more))
