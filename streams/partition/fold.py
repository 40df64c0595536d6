"""Applies events to resident users, which are users whose read states are all in the table.

The methods of the table implement the rules. The result depends only on the event, its version and
the user's read states. So two workers that apply the same log get the same rows.
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

# These events are not actions of the user, so they do not mark the user as recently used.
COLD_EVENTS = (Mention, RetractMention, Merge, Delete, DeleteUser, RestoreUser)


# The maximum number of slots that an event needs, not counting those of new read states. The
# entries of a read state (see `cache/marks.py`) get new slots before the old slots are freed. A
# manual ack needs the most entries: the present ones, MENTION_IDS_MAX new ones, and two more.
CHANGE_SLOTS_MAX = 1 - -(ENTRIES_MAX + MENTION_IDS_MAX + 2) // EXTENSION_ENTRIES
DELETED_USER = 256  # a code that the table does not use: the user is deleted for good


def fold(table: Table, user: int, event: Update, version: int) -> int:
    """Apply an event to a resident user; returns a code. With NO_ROOM, nothing has changed."""
    code: int
    if table.is_final(user):
        if not isinstance(event, RestoreUser):
            return DELETED_USER
    elif version <= table.restored_at(user):
        return REPLAYED
    match event:
        case Ack(_, channel, message, kind, flags, viewed, known):
            if known == KEEP:
                code = table.ack(user, kind, channel, message, flags, viewed, version)
            else:
                code = table.ack_unless_unread(
                    user, kind, channel, message, flags, viewed, known, version
                )
        case Mention(_, channel, message, kind, edit):
            code = table.mark(user, kind, channel, message, edit << 1, version)
        case RetractMention(_, channel, message, kind, edit):
            rank = FOR_GOOD if edit == KEEP else edit << 1 | 1
            code = table.mark(user, kind, channel, message, rank, version)
        case PinsAck(_, channel, timestamp, kind):
            code = table.pins_ack(user, kind, channel, timestamp, version)
        case MarkUnread(_, channel, message, count, ids, kind, flags, viewed):
            code = table.mark_unread(
                user, kind, channel, message, count, ids, flags, viewed, version
            )
        case BulkAck():
            code = _fold_bulk(table, user, event, version)
        case SetOptions(_, channel, kind, flags, viewed):
            code = table.set_options(user, kind, channel, flags, viewed, version)
        case Merge(_, channel, kind, message, ids, count, pins, flags, viewed):
            code = table.merge(
                user, kind, channel, max(message, 0), ids, count, pins, flags, viewed, version
            )
        case Delete(_, channel, kind, up_to):
            code = table.delete(user, kind, channel, max(up_to, 0), version)
        case DeleteUser():
            code = table.delete_user(user, version, event.final)
        case RestoreUser():
            code = table.restore_user(user, version)
    return code


def _fold_bulk(table: Table, user: int, event: BulkAck, version: int) -> int:
    """Apply all acks in the event, or none if there is no room for all of them."""
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
    """The maximum number of free slots that the event may need; at least 1.

    The entries of a read state get new slots before the old slots are freed.
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
