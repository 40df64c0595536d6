"""The asyncio client. It has one method per event; `get` reads a user's read states by pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec.structs import replace

from readstates.schemas import events
from readstates.schemas.queries import Get
from readstates.schemas.replies import REPLY_TOO_LARGE, Reply
from readstates.schemas.wire import decode_update, encode_update, key_bytes

from .connection import Connection, QueryError
from .feed import ChangeFeed, From
from .mirror import Mirror

DEADLINE_S = 5.0
# How many read states `get` requests per page. A reply has room for this many with 19-digit IDs and
# the default REPLY_BYTES_MAX. If many mentions need more room, the service suggests a smaller page.
PAGE_STATES = 2000


class Client:
    """Publishes updates and sends queries for any number of users. A process needs only one.

    `bootstrap`: the brokers, as `host:port,…`. `reply_topic`: the topic for replies to this client.
    The service's REPLY_TOPICS must allow its name, and the topic must exist. With
    `create_reply_topic`, `start` creates a missing topic with one partition. `topic_prefix`: the
    service's TOPIC_PREFIX. `config`: further librdkafka settings, such as TLS and login.

    Use the client as an async context manager, or call `start` and `close`. Make all calls on one
    event loop.
    """

    def __init__(
        self,
        bootstrap: str,
        reply_topic: str,
        *,
        topic_prefix: str = "read-states",
        create_reply_topic: bool = False,
        config: dict[str, Any] | None = None,
    ) -> None:
        self._connection = Connection(
            bootstrap, reply_topic, topic_prefix, create_reply_topic, config or {}
        )

    async def __aenter__(self) -> Client:
        await self.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Connect to the brokers and start the threads.

        If Kafka or a topic is missing, raises ConnectionError. This takes at most a small multiple
        of START_TIMEOUT_S.
        """
        await self._connection.start()

    async def close(self) -> None:
        """Send queued updates within DELIVERY_TIMEOUT_S. Pending queries raise TimeoutError."""
        await self._connection.close()

    # -- queries ------------------------------------------------------------------------------

    async def get(
        self,
        user_id: int,
        channel_ids: Iterable[int] | None = None,
        *,
        read_state_type: int | None = None,
        since_version: int | None = None,
        after_offset: int | None = None,
        mentions: bool = False,
        mentioned: bool = False,
        totals: bool = False,
        limit: int | None = None,
        after: tuple[int, int] | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> Reply:
        """Return the read states of a user, ordered by type and channel.

        These arguments select read states:
        - `channel_ids`: only these channels, at most 1000, without repetition.
        - `read_state_type`: only this type. Default: type 0 with `channel_ids`, otherwise all.
        - `since_version`: only read states with a larger version. Pass the last reply's `version`.
          If the reply is `full`, it replaces all read states that you have of the user.
        - `mentioned`: only read states with a mention.

        Other arguments:
        - `after_offset`: wait until the update at this offset is applied (see `publish`).
        - `mentions`: add the IDs of the messages that mention the user.
        - `totals`: add the sums over all read states of the user. With `channel_ids=[]`, the reply
          has only the sums.
        - `deadline_s`: how long to wait for each page.

        Without `limit`, the client requests all pages and returns them as one reply. The service
        reads each page at a different moment, so the reply has the *first* page's `version`. If you
        pass this version as the next `since_version`, the reply also has the changes that were made
        between the pages.

        With `limit` (1 … 10,000), the client requests one page. The page begins after the type and
        channel in `after`. If more read states follow, the reply's `next` is the `after` of the
        next page. After the last page, use the *first* page's `version` as the next
        `since_version`. If you read the channels of a user in several queries, use the first
        query's `version` in the same way.

        A page costs one round trip through Kafka. Queries can run concurrently. Raises QueryError
        if the service reports an error, and TimeoutError if no reply comes in time (is a worker
        running?). Raises BufferError if the producer's queue is full (send fewer queries at once).
        Raises ConnectionError if a thread of the client has died. That is a bug: please report it,
        and create a new client.
        """
        channels = None if channel_ids is None else tuple(channel_ids)
        get = Get(
            user_id,
            channels,
            read_state_type,
            since_version,
            after_offset,
            mentions,
            mentioned,
            totals,
            limit,
            after,
        )
        if limit is not None:
            return await self._connection.ask(get, deadline_s)
        if channels is None or len(channels) > PAGE_STATES:
            get = replace(get, limit=PAGE_STATES)
        return await self._get_pages(get, deadline_s)

    async def _get_pages(self, get: Get, deadline_s: float) -> Reply:
        first = page = await self._get_page(get, deadline_s)
        states = list(first.read_states)
        # If the first reply is `full` (not only the changes since `since_version`), request the
        # other pages without `since_version`, or read states would be missing.
        get = replace(get, totals=False, since_version=None if first.full else get.since_version)
        while page.next is not None:
            limit = max(1, len(page.read_states))  # a page of this size has just fitted
            page = await self._get_page(replace(get, after=page.next, limit=limit), deadline_s)
            states += page.read_states
        return first._replace(read_states=states, next=None)

    async def _get_page(self, get: Get, deadline_s: float) -> Reply:
        """Get one page. If it is too large for a reply, get a smaller page."""
        while True:
            try:
                return await self._connection.ask(get, deadline_s)
            except QueryError as exc:
                limit = PAGE_STATES if get.limit is None else get.limit
                if exc.code != REPLY_TOO_LARGE or limit == 1:
                    raise
                advised = limit if exc.limit is None else exc.limit
                get = replace(get, limit=advised if 0 < advised < limit else limit // 2)

    # -- changes ------------------------------------------------------------------------------

    def changes(
        self,
        from_: From = "end",
        *,
        group: str | None = None,
        wanted: Callable[[int], bool] | None = None,
    ) -> ChangeFeed:
        """Return the change feed, for `async for change in client.changes()`.

        Workers publish the feed only with CHANGES=on. `from_` says where to begin: "end" for new
        changes, "start" for all changes in the topic, or the `positions` of an earlier feed to
        continue after its last change. `group`: a consumer group whose members share the
        partitions. The group commits its position, so `from_` matters only when the group reads for
        the first time. The feed commits a change when you request the next one. After a crash, the
        feed may repeat the last changes. `wanted`: called in a thread with a user ID; if the result
        is False, the feed skips the user's changes.

        Each change has absolute values. To keep a copy of a user up to date, skip each change whose
        `version` is below the version that you have of the user. Otherwise, the change's read
        states and deletions replace older ones. `mirror` does all of this. A change of more than
        256 read states arrives in several `part`s.

        The first iteration raises ConnectionError if the feed cannot be read. A later one raises
        FeedGapError if records were deleted before they were read.
        """
        config = self._connection.config
        return ChangeFeed(config, self._connection.changes_topic, from_, group, wanted)

    def mirror(self) -> Mirror:
        """Return a copy of some users' read states that stays current; see `Mirror`.

        async with client.mirror() as mirror:
            await mirror.follow(42)
            async for changed in mirror:
                print(changed.user_id, changed.totals.mentions)
        """
        return Mirror(self)

    # -- updates ------------------------------------------------------------------------------

    async def publish(self, event: events.Update) -> int:
        """Publish any event. Return its offset in `updates`, for `get(after_offset=…)`.

        A call returns when the brokers have stored the event. This takes a network round trip plus
        about 1 ms, so publish many events concurrently. Raises ValueError if the service would
        reject the event. Raises KafkaException if the brokers do not store the event within
        DELIVERY_TIMEOUT_S (publish it again). Raises BufferError if the producer's queue is full
        (publish fewer events at once), and ConnectionError as `get` does. The methods below raise
        the same errors.

        In the methods below, `read_state_type` is 0 … 255, `flags` is 0 … 2^32-1, and `last_viewed`
        is in days. A field whose argument is None keeps its value.
        """
        value = encode_update(event)
        decode_update(value)
        return await self._connection.publish(key_bytes(event.user_id), value)

    async def ack(
        self,
        user_id: int,
        channel_id: int,
        message_id: int,
        *,
        read_state_type: int = 0,
        flags: int | None = None,
        last_viewed: int | None = None,
        if_version: int | None = None,
    ) -> int:
        """Publish that the user has read up to `message_id`. An older ID changes nothing.

        `if_version`: for an ack that a device sends by itself, the version that it has. The service
        ignores the ack if the user has marked the channel as unread since then.
        """
        more = _given(flags=flags, last_viewed=last_viewed, if_version=if_version)
        return await self.publish(
            events.Ack(user_id, channel_id, message_id, read_state_type, **more)
        )

    async def mark_unread(
        self,
        user_id: int,
        channel_id: int,
        message_id: int,
        mention_count: int | None = None,
        *,
        mention_ids: Iterable[int] | None = None,
        read_state_type: int = 0,
        flags: int | None = None,
        last_viewed: int | None = None,
    ) -> int:
        """Set the last read message. It may be older than the current one.

        `mention_ids`: the unread messages that mention the user, at most 64, each above
        `message_id`. `mention_count`: the number of these messages, if their IDs are unknown. Pass
        at most one of the two. Without either, the known mentions above `message_id` stay.
        """
        more = _given(mention_count=mention_count, flags=flags, last_viewed=last_viewed)
        ids = None if mention_ids is None else tuple(mention_ids)
        return await self.publish(
            events.MarkUnread(
                user_id,
                channel_id,
                message_id,
                mention_ids=ids,
                read_state_type=read_state_type,
                **more,
            )
        )

    async def bulk_ack(
        self, user_id: int, acks: Iterable[tuple[int, int] | tuple[int, int, int]]
    ) -> int:
        """Publish 1 … 1000 acks as one event. The service applies all of them or none.

        `acks`: `(channel_id, message_id)` or `(channel_id, message_id, read_state_type)`.
        """
        entries = tuple((kind[0] if kind else 0, channel, m) for channel, m, *kind in acks)
        return await self.publish(events.BulkAck(user_id, entries))

    async def mention(
        self,
        user_id: int,
        channel_id: int,
        message_id: int,
        *,
        edit: int = 0,
        read_state_type: int = 0,
    ) -> int:
        """Publish that a message mentions the user, as of its revision `edit`."""
        event = events.Mention(user_id, channel_id, message_id, read_state_type, edit)
        return await self.publish(event)

    async def retract_mention(
        self,
        user_id: int,
        channel_id: int,
        message_id: int,
        *,
        edit: int | None = None,
        read_state_type: int = 0,
    ) -> int:
        """Publish that a message stopped mentioning the user.

        `edit`: the revision without the mention; None if the message was deleted.
        """
        more = _given(edit=edit)
        return await self.publish(
            events.RetractMention(user_id, channel_id, message_id, read_state_type, **more)
        )

    async def pins_ack(
        self, user_id: int, channel_id: int, timestamp: int, *, read_state_type: int = 0
    ) -> int:
        """Publish that the user has seen a channel's pins up to `timestamp` (Unix time in ms)."""
        event = events.PinsAck(user_id, channel_id, timestamp, read_state_type)
        return await self.publish(event)

    async def set_options(
        self,
        user_id: int,
        channel_id: int,
        *,
        flags: int | None = None,
        last_viewed: int | None = None,
        read_state_type: int = 0,
    ) -> int:
        """Set `flags`, `last_viewed` or both, without an ack (event `set`)."""
        more = _given(flags=flags, last_viewed=last_viewed)
        return await self.publish(events.SetOptions(user_id, channel_id, read_state_type, **more))

    async def merge(
        self,
        user_id: int,
        channel_id: int,
        *,
        last_message_id: int | None = None,
        mention_ids: Iterable[int] = (),
        mention_count: int | None = None,
        last_pin_timestamp: int | None = None,
        flags: int | None = None,
        last_viewed: int | None = None,
        read_state_type: int = 0,
    ) -> int:
        """Import a read state. For each field, the service keeps the larger value.

        So an import never overwrites newer values. The service uses `mention_count` only if
        `last_message_id` is larger than the current one.
        """
        more = _given(
            last_message_id=last_message_id,
            mention_count=mention_count,
            last_pin_timestamp=last_pin_timestamp,
            flags=flags,
            last_viewed=last_viewed,
        )
        ids = tuple(mention_ids)
        return await self.publish(
            events.Merge(user_id, channel_id, read_state_type, mention_ids=ids, **more)
        )

    async def delete(
        self, user_id: int, channel_id: int, *, up_to: int | None = None, read_state_type: int = 0
    ) -> int:
        """Delete a read state, because the user left the channel or closed the conversation.

        `up_to`: a message ID. Later events about messages up to this ID change nothing. A newer
        mention creates the read state again, with `up_to` as the last read message. A newer ack
        creates it with the acked message.
        """
        more = _given(up_to=up_to)
        return await self.publish(events.Delete(user_id, channel_id, read_state_type, **more))

    async def delete_user(self, user_id: int, *, final: bool = False) -> int:
        """Delete all read states of the user, including those in the database.

        `final`: until `restore_user`, the service skips all events of the user, and answers queries
        with an empty reply.
        """
        return await self.publish(events.DeleteUser(user_id, final))

    async def restore_user(self, user_id: int) -> int:
        """End a final deletion. The service applies the user's events again."""
        return await self.publish(events.RestoreUser(user_id))


def _given(**fields: int | None) -> dict[str, int]:
    """Return the fields that are not None. Raises ValueError if one is negative."""
    given = {name: value for name, value in fields.items() if value is not None}
    for name, value in given.items():
        if value < 0:
            raise ValueError(f"{name}: expected 0 or more, got {value}")
    return given
