"""The asyncio client: one method for each event, and `get`, which reads page by page."""

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
# Read states that `get` asks for at once. With 19-digit IDs and the default REPLY_BYTES_MAX, this
# many fit in a reply. With many mentions fewer may fit, and then the service says how many.
PAGE_STATES = 2000


class Client:
    """Publishes updates and asks queries for any number of users; a process needs only one client.

    `bootstrap`: brokers, `host:port,…`. `reply_topic`: the topic that gets the replies; the
    service's REPLY_TOPICS must allow its name. It must exist, unless `create_reply_topic` is set:
    then it is created, with one partition. `topic_prefix`: that of the service. `config`: more
    librdkafka settings, for TLS and logins.

    Use it as an async context manager, or call `start` and `close`; all on one event loop.
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
        """Connect to the brokers, and start the threads.

        Raises ConnectionError within a few times START_TIMEOUT_S; it says what is missing.
        """
        await self._connection.start()

    async def close(self) -> None:
        """Send what is queued, within DELIVERY_TIMEOUT_S; pending queries raise TimeoutError."""
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
        """The read states of a user, ordered by type and channel.

        `channel_ids`: ask for these channels only, at most 1000, each once, of type 0 unless
        `read_state_type` names another. Without it, the query asks for all of the user's read
        states, of every type unless one is given. `since_version`: ask only for read states with a
        larger version; take it from the last reply's `version`, and replace what you have if the
        reply says `full`. `after_offset`: wait until the update at this offset, from `publish`, is
        applied. `mentions`: each read state has the IDs of the messages that mention the user.
        `mentioned`: ask only for read states with a mention. `totals`: the reply has the sums of
        all read states that the user has; with `channel_ids=[]` it has nothing else.

        Without `limit`, the client asks for as many pages as it takes and returns one reply. Each
        page is read at a different moment. The reply has the *first* page's `version`, so that the
        next `since_version` misses nothing that changed while the pages were read. With `limit` (1
        … 10,000) it asks for one page, which begins after the type and channel in `after`; if more
        follow, the reply's `next` is the next page's `after`. If you read a user in pieces, by
        `limit` or by `channel_ids`, continue with the first piece's `version`, too: with the last
        piece's, you would miss changes made between the pieces.

        `deadline_s`: how long to wait for each page. A page costs a round trip through Kafka;
        queries do not wait for each other. Raises QueryError if the service answers with an error,
        TimeoutError if no reply comes in time (is a worker running?), BufferError if the producer's
        queue is full (send fewer at once), and ConnectionError if the client has failed, which is a
        bug (make another one, and report it).
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
        # The first page decides: a full page followed by a delta would leave read states out.
        get = replace(get, totals=False, since_version=None if first.full else get.since_version)
        while page.next is not None:
            limit = max(1, len(page.read_states))  # as many as fitted just now
            page = await self._get_page(replace(get, after=page.next, limit=limit), deadline_s)
            states += page.read_states
        return first._replace(read_states=states, next=None)

    async def _get_page(self, get: Get, deadline_s: float) -> Reply:
        """Get one page, or a smaller one if it is too large for a reply."""
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
        """The change feed: `async for change in client.changes()`; workers need CHANGES=on.

        `from_`: "end" for what happens from now on, "start" for all that the topic has, or the
        `positions` of an earlier feed to go on after its last change. `group`: a consumer group
        whose members share the partitions; it keeps its own position, and `from_` says where it
        begins the first time. A change counts as dealt with when the next one is asked for. After
        a crash, the last ones may come again. `wanted`: called with a user's ID in a thread; if it
        returns False, the user's changes are left out.

        Each change has absolute values. To keep a user current: skip a change whose `version` is
        below what you have of the user; otherwise its read states, and its deletions, replace what
        is older. `mirror` does this. A change of more than 256 read states comes in `part`s.

        The first step raises ConnectionError if the feed cannot be read. A later one raises
        FeedGapError if records are gone before they were read.
        """
        config = self._connection.config
        return ChangeFeed(config, self._connection.changes_topic, from_, group, wanted)

    def mirror(self) -> Mirror:
        """The read states of users whom you name, kept current; see `Mirror`.

        async with client.mirror() as mirror:
            await mirror.follow(42)
            async for changed in mirror:
                print(changed.user_id, changed.totals.mentions)
        """
        return Mirror(self)

    # -- updates ------------------------------------------------------------------------------

    async def publish(self, event: events.Update) -> int:
        """Publish any event; returns its offset in `updates`, for `get(after_offset=…)`.

        Returns when the brokers have it, which takes about a millisecond more than a round trip. So
        publish many at once rather than one after the other. Raises ValueError for an event that
        the service would refuse (correct it), KafkaException if the brokers did not take it within
        DELIVERY_TIMEOUT_S (publish it again), BufferError if the producer's queue is full (publish
        fewer at once), and ConnectionError as `get` does. The methods below raise the same errors.

        Of the methods' arguments, `read_state_type` is 0 … 255, `flags` 0 … 2^32-1, and
        `last_viewed` is in days. What is None stays as it is.
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
        """The user has read up to `message_id`; an older one changes nothing.

        `if_version`: the version that the device knew, for an ack that the user did not make by
        hand. The ack is ignored if the user has marked the channel as unread since.
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
        """Set the last read message, even to an older one: what follows it is unread.

        `mention_ids`: the unread messages that mention the user, at most 64, each above
        `message_id`. `mention_count`: how many there are, if their IDs are not known. Give one of
        them, or neither, to keep the mentions above `message_id` that the service knows.
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
        """Publish 1 … 1000 acks as one event: all are applied, or none.

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
        """The user is mentioned in a message, from its revision `edit` on."""
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
        """A message no longer mentions the user, from revision `edit` on; None: it was deleted."""
        more = _given(edit=edit)
        return await self.publish(
            events.RetractMention(user_id, channel_id, message_id, read_state_type, **more)
        )

    async def pins_ack(
        self, user_id: int, channel_id: int, timestamp: int, *, read_state_type: int = 0
    ) -> int:
        """The user has seen the pins of a channel up to `timestamp` (ms since the epoch)."""
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
        """Set `flags`, `last_viewed` or both, without an ack (the event `set`)."""
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
        """Import a read state: each field keeps the larger value, so nothing newer is lost.

        `mention_count` is used only with a `last_message_id` that is larger than the present one.
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
        """The read state of a channel is gone: the user left it, or closed the conversation.

        `up_to`: a message ID. What arrives later about messages up to it changes nothing; a newer
        mention or ack brings the read state back, read up to there.
        """
        more = _given(up_to=up_to)
        return await self.publish(events.Delete(user_id, channel_id, read_state_type, **more))

    async def delete_user(self, user_id: int, *, final: bool = False) -> int:
        """All read states of the user are gone, also from the database.

        `final`: until `restore_user`, every later event of this user is skipped, and queries get
        an empty reply.
        """
        return await self.publish(events.DeleteUser(user_id, final))

    async def restore_user(self, user_id: int) -> int:
        """End a final deletion: the user's events count again."""
        return await self.publish(events.RestoreUser(user_id))


def _given(**fields: int | None) -> dict[str, int]:
    """The fields that are not None. Raises ValueError for one below 0, which would mean omitted."""
    given = {name: value for name, value in fields.items() if value is not None}
    for name, value in given.items():
        if value < 0:
            raise ValueError(f"{name}: expected an integer from 0, got {value}")
    return given
