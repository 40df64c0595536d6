"""Anonymises the records of a recording: IDs become others, and only what is known is kept.

A record is read into its known fields and written anew, so text that a producer added, or a client
put into a header, is not in the recording. What cannot be read is left out and counted; so is a
reply to a page, since the channels have another order now, and a reply whose query has not been
seen. A replay of the result gives the read states of the original with the new IDs.

The times stay, and so do counts, flags and the distances between a channel's messages. Whoever
knows when somebody read something may recognise them. Thus the result is less sensitive than the
original, and not harmless.
"""

from __future__ import annotations

from typing import Any

import orjson
from msgspec.structs import fields, replace

from readstates.schemas.events import KEEP, BulkAck, Update
from readstates.schemas.headers import (
    DIALECT_PLAIN,
    HEADER_CORRELATION_ID,
    HEADER_DEADLINE,
    HEADER_ERROR,
    HEADER_FAUST_CORRELATION_ID,
    HEADER_FAUST_REPLY_TOPIC,
    HEADER_REPLY_TOPIC,
    ReplyAddress,
    reply_address,
)
from readstates.schemas.queries import Get, decode_query, encode_query
from readstates.schemas.replies import ErrorReply, Reply, decode_reply, unwrapped
from readstates.schemas.wire import decode_update, encode_update, key_bytes

from .id_permutation import NewIds
from .recording import QUERIES, UPDATES, Recorded

ASKED_MAX = 100_000  # queries whose reply may still come; of more, the oldest are forgotten
REPLY_TOPIC = b"anonymous"
WRONG = b"wrong"  # in place of a deadline that is no number

_MESSAGES = ("message_id", "last_message_id", "up_to")

Headers = list[tuple[str, bytes | None]]


class Anonymiser:
    """See the module. `left_out`: records that are not in the result."""

    def __init__(self, ids: NewIds) -> None:
        self._ids = ids
        self._asked: dict[bytes, bool] = {}  # new correlation ID → whether it asks for a page
        self.left_out = 0

    def __call__(self, record: Recorded) -> Recorded | None:
        """The record as it may be written; None if it is left out."""
        try:
            if record.topic == UPDATES:
                return self._update(record)
            if record.topic == QUERIES:
                return self._query(record)
            return self._reply(record)
        except (_LeftOutError, ValueError):  # DecodeError and TooLargeIdError, too
            self.left_out += 1
            return None

    # -- updates ------------------------------------------------------------------------------

    def _update(self, record: Recorded) -> Recorded:
        event = decode_update(record.value)
        _check_key(record, event.user_id)
        new = self._event(event)
        return record._replace(key=key_bytes(new.user_id), value=encode_update(new), headers=[])

    def _event(self, event: Update) -> Update:
        ids = self._ids
        changes: dict[str, Any] = {"user_id": ids.user(event.user_id)}
        if isinstance(event, BulkAck):
            acks = event.acks
            changes["acks"] = tuple((k, ids.channel(c), ids.message(c, m)) for k, c, m in acks)
            return replace(event, **changes)
        names = {field.name for field in fields(event)}
        if "channel_id" in names:
            channel = getattr(event, "channel_id")  # noqa: B009
            changes["channel_id"] = ids.channel(channel)
            for name in names.intersection(_MESSAGES):
                message = getattr(event, name)
                if message != KEEP:
                    changes[name] = ids.message(channel, message)
            mentions = getattr(event, "mention_ids", None)
            if mentions is not None:
                changes["mention_ids"] = tuple(ids.message(channel, each) for each in mentions)
        return replace(event, **changes)

    # -- queries and replies ------------------------------------------------------------------

    def _query(self, record: Recorded) -> Recorded:
        ids, get = self._ids, decode_query(record.value)
        _check_key(record, get.user_id)
        address = reply_address(record.headers)
        if address is None:
            raise _LeftOutError
        new = replace(get, user_id=ids.user(get.user_id))
        if get.channel_ids is not None:
            new = replace(new, channel_ids=tuple(map(ids.channel, get.channel_ids)))
        if get.after is not None:
            new = replace(new, after=(get.after[0], ids.channel(get.after[1])))
        headers = self._query_headers(record, address, get)
        key, value = key_bytes(new.user_id), encode_query(new)
        return record._replace(key=key, value=value, headers=headers)

    def _query_headers(self, record: Recorded, address: ReplyAddress, get: Get) -> Headers:
        is_plain = address.dialect == DIALECT_PLAIN
        names = (
            (HEADER_REPLY_TOPIC, HEADER_CORRELATION_ID)
            if is_plain
            else (HEADER_FAUST_REPLY_TOPIC, HEADER_FAUST_CORRELATION_ID)
        )
        headers: Headers = [(names[0], REPLY_TOPIC)]
        if address.correlation_id is not None:
            correlation_id = self._ids.opaque(address.topic.encode(), address.correlation_id)
            headers.append((names[1], correlation_id))
            self._note(correlation_id, get.limit is not None or get.after is not None)
        given = dict(record.headers)
        if HEADER_DEADLINE in given:
            deadline = given[HEADER_DEADLINE] or b""
            headers.append((HEADER_DEADLINE, deadline if deadline.isdigit() else WRONG))
        return headers

    def _note(self, correlation_id: bytes, is_page: bool) -> None:
        if len(self._asked) >= ASKED_MAX:
            del self._asked[next(iter(self._asked))]
        self._asked[correlation_id] = is_page

    def _reply(self, record: Recorded) -> Recorded:
        headers = dict(record.headers)
        topic, old_id = headers.get(HEADER_REPLY_TOPIC), headers.get(HEADER_CORRELATION_ID)
        if topic is None or old_id is None:
            raise _LeftOutError
        correlation_id = self._ids.opaque(topic, old_id)
        if self._asked.pop(correlation_id, True):  # a page, or a query not seen
            raise _LeftOutError
        body = unwrapped(orjson.loads(record.value or b""))
        found = decode_reply(orjson.dumps(body))
        value = self._error(found) if isinstance(found, ErrorReply) else self._answer(found)
        made: Headers = [(HEADER_REPLY_TOPIC, REPLY_TOPIC), (HEADER_CORRELATION_ID, correlation_id)]
        if HEADER_ERROR in headers:
            made.append((HEADER_ERROR, headers[HEADER_ERROR]))
        return record._replace(key=None, value=orjson.dumps(value), headers=made)

    def _error(self, error: ErrorReply) -> dict[str, Any]:
        user = None if error.user_id is None else str(self._ids.user(error.user_id))
        limit = {} if error.limit is None else {"limit": error.limit}
        return {"user_id": user, "error": {"code": error.code, "message": "", **limit}}

    def _answer(self, reply: Reply) -> dict[str, Any]:
        ids = self._ids
        states = []
        for state in reply.read_states:
            channel = state.channel_id
            made: dict[str, Any] = {
                "channel_id": str(ids.channel(channel)),
                "read_state_type": state.read_state_type,
                "last_message_id": str(ids.message(channel, state.last_message_id)),
                "mention_count": state.mention_count,
                "last_mention_id": str(ids.message(channel, state.last_mention_id)),
                "last_pin_timestamp": state.last_pin_timestamp,
                "flags": state.flags,
                "last_viewed": state.last_viewed,
                "version": str(state.version),
            }
            if state.mentions is not None:
                made["mentions"] = [str(ids.message(channel, each)) for each in state.mentions]
            states.append(made)
        states.sort(key=lambda state: (state["read_state_type"], int(state["channel_id"])))
        return {
            "user_id": str(ids.user(reply.user_id)),
            "version": str(reply.version),
            "full": reply.full,
            "read_states": states,
            **({} if reply.totals is None else {"totals": reply.totals._asdict()}),
        }


class _LeftOutError(Exception):
    """The record cannot be in an anonymised recording."""


def _check_key(record: Recorded, user_id: int) -> None:
    if record.key != key_bytes(user_id):
        raise _LeftOutError
