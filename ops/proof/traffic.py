"""Sample traffic with a shape like production's, the same for the same seed.

- Users are drawn by Zipf's law, so are channels: a few are hot, most are quiet.
- Sessions: a user comes online, fetches everything, then acknowledges channels in a run.
- A message in a hot channel now and then mentions a crowd, most of them offline; another one is
  read by many people at once, who all acknowledge the same message (correlated acks).
- Events overtake one another, as they do where several systems produce them: a mention arrives
  after its message was deleted or edited, or after its channel was left. Some records are sent
  twice. In one hot channel some users have more unread mentions than are kept one by one.
- Queries: most are session starts, which fetch everything; a third look at one screen.
- `fill` gives every user read states in all of its channels; `crowds` is a storm of mentions.
- `moments` spreads records over a time as a day does: busy hours and quiet ones.
- 1 % of the records are bad: not JSON, wrong types, unknown types, foreign keys, no value, …
"""

from __future__ import annotations

import json
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain, islice, repeat
from typing import Any, NamedTuple

ZIPF_EXPONENT = 0.9
CHANNELS = 4000
CHANNELS_A_USER_MAX = 24
BAD_SHARE = 0.01
CROWD = 300  # users that one message mentions
CROWD_EVERY = 6000  # updates between two such messages
STORM_CROWD = 1000  # users that a message of a storm mentions
STORM_ABSENT_SHARE = 0.8  # of them
READERS = 200  # users who read one message at once
READERS_EVERY = 5000
SESSION_ACKS = 6
BUSY_MENTIONS = 80  # unread ones of one user in the hot channel
BUSY_EVERY = 7000
REPEATED_SHARE = 0.005  # of the records: a producer without idempotence sends them twice
LATER_SHARE = 0.3  # of the records, one that is due comes before
KINDS = {  # how often, of 1,000 events
    "ack": 620,
    "mention": 190,
    "retract": 35,
    "edited": 15,
    "bulk": 40,
    "unread": 25,
    "pins": 35,
    "options": 5,
    "import": 5,
    "leave": 29,
    "delete_user": 1,
}
KIND_WEIGHTS = tuple(accumulate(KINDS.values()))
OPTIONS_SHARE = 0.08  # of the acks
OVERTAKING_SHARE = 0.3  # of the retractions
UP_TO_SHARE = 0.5  # of the deletions
FINAL_SHARE = 0.5  # of the deletions of users
SCREEN_CHANNELS = 20
SCREEN_SHARE = 1 / 3  # of the queries
SWING = 0.6  # a busy hour has 1 + SWING times the mean, a quiet one 1 - SWING
FIRST_MESSAGE_ID = 1_150_000_000_000_000_000


class Record(NamedTuple):
    """What a producer sends: key and value as bytes."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]] | None = None


def moments(count: int, seconds: float, days: float = 3) -> Iterator[float]:
    """When each of `count` records is due, in seconds from the start: `days` waves of a rate.

    The rate is the mean times 1 + SWING · sin. A step of the wave's integral is found from the one
    before by Newton's method; two steps are enough for a microsecond.
    """
    pace = 2 * math.pi * days / seconds
    at = 0.0
    for number in range(count):
        target = number / count * seconds
        for _ in range(2):
            behind = target - (at + SWING / pace * (1 - math.cos(pace * at)))
            at += behind / (1 + SWING * math.sin(pace * at))
        yield at


def _zipf(count: int) -> list[float]:
    return list(accumulate(1 / (rank + 1) ** ZIPF_EXPONENT for rank in range(count)))


class Traffic:
    """A seeded source of update records and of users who ask.

    `absent`: more users, of whom `updates` knows nothing.
    """

    def __init__(self, seed: int, users: int, absent: Sequence[int] = ()) -> None:
        self._seed, self.absent = seed, absent
        self._random = random.Random(seed)
        self.user_ids = self._random.sample(range(10**17, 10**18), users)
        self._channel_ids = self._random.sample(range(10**17, 10**18), CHANNELS)
        self._user_weights = _zipf(users)
        self._channel_weights = _zipf(CHANNELS)
        self._channels_of: dict[int, list[int]] = {}
        self._latest: dict[int, int] = {}
        self._quiet = set(self.user_ids[users // 2 :])
        self._later: deque[dict[str, Any]] = deque()  # events that come late
        self._message_id = FIRST_MESSAGE_ID

    def users(self, count: int) -> list[int]:
        """`count` users drawn by Zipf's law."""
        return self._random.choices(self.user_ids, cum_weights=self._user_weights, k=count)

    def channels_of(self, user_id: int) -> list[int]:
        """The channels a user is in, busiest first; 1 … CHANNELS_A_USER_MAX of them.

        They are the same whoever is asked about first, and in any process.
        """
        channels = self._channels_of.get(user_id)
        if channels is None:
            own = random.Random(self._seed ^ user_id)
            count = min(CHANNELS_A_USER_MAX, 1 + int(own.expovariate(1 / 8)))
            drawn = own.choices(self._channel_ids, cum_weights=self._channel_weights, k=count)
            channels = self._channels_of[user_id] = list(dict.fromkeys(drawn))
        return channels

    def updates(self, count: int) -> Iterator[Record]:
        """`count` records in the order in which they are sent."""
        sent = 0
        while sent < count:
            for record in self._burst(sent):
                again = 1 + (self._random.random() < REPEATED_SHARE)
                for _ in range(min(again, count - sent)):
                    yield record
                    sent += 1
                if sent == count:
                    return

    def fill(self, count: int) -> Iterator[Record]:
        """A `bulk_ack` of all its channels for each of `count` users, the busiest of them last."""
        users = [*self.absent, *reversed(self.user_ids)]
        for user_id in users[:count]:
            yield self._record(self._bulk_ack(user_id, lambda _channel: FIRST_MESSAGE_ID))

    def crowds(self, count: int) -> Iterator[Record]:
        """`count` mentions: each message mentions a crowd, most of them absent."""
        absent = min(int(STORM_CROWD * STORM_ABSENT_SHARE), len(self.absent))
        present = min(STORM_CROWD - absent, len(self.user_ids))
        messages = (
            self._mentions(
                self._random.sample(self.absent, absent)
                + self._random.sample(self.user_ids, present)
            )
            for _ in repeat(None)
        )
        return islice(chain.from_iterable(messages), count)

    def _burst(self, sent: int) -> Iterator[Record]:
        if sent and sent % CROWD_EVERY < SESSION_ACKS:
            yield from self._crowd()
            return
        if sent and sent % READERS_EVERY < SESSION_ACKS:
            yield from self._readers()
            return
        if sent and sent % BUSY_EVERY < SESSION_ACKS:
            busy = self.users(1)
            for _ in range(BUSY_MENTIONS):
                yield from self._mentions(busy)
            return
        (user_id,) = self.users(1)
        for _ in range(1 + int(self._random.expovariate(1 / SESSION_ACKS))):
            if self._random.random() < BAD_SHARE:
                yield self._bad(user_id)
            else:
                yield self._record(self._event(user_id))
            if self._later and self._random.random() < LATER_SHARE:
                yield self._record(self._later.popleft())

    def _crowd(self) -> Iterator[Record]:
        yield from self._mentions(
            self._random.sample(self.user_ids, min(CROWD, len(self.user_ids)))
        )

    def _mentions(self, user_ids: Sequence[int]) -> Iterator[Record]:
        """A new message in the busiest channel mentions these users."""
        channel_id, message_id = self._channel_ids[0], self._next_message()
        for user_id in user_ids:
            yield self._record(
                {
                    "type": "mention",
                    "user_id": user_id,
                    "channel_id": channel_id,
                    "message_id": message_id,
                }
            )

    def _readers(self) -> Iterator[Record]:
        """A hot channel's new message, acknowledged by users who are online."""
        (channel_id,) = self._random.choices(self._channel_ids, cum_weights=self._channel_weights)
        self._latest[channel_id] = message_id = self._next_message()
        for user_id in dict.fromkeys(self.users(READERS)):
            yield self._record(
                {
                    "type": "ack",
                    "user_id": user_id,
                    "channel_id": channel_id,
                    "message_id": message_id,
                }
            )

    def queries(self, count: int) -> Iterator[Record]:
        """`count` queries, without a reply address."""
        for user_id in self.users(count):
            query: dict[str, Any] = {"type": "get", "user_id": str(user_id)}
            if self._random.random() < SCREEN_SHARE:
                screen = self.channels_of(user_id)[:SCREEN_CHANNELS]
                query["channel_ids"] = [str(channel_id) for channel_id in screen]
            yield Record(b"%d" % user_id, json.dumps(query, separators=(",", ":")).encode())

    def _next_message(self) -> int:
        self._message_id += self._random.randint(1, 1 << 22)
        return self._message_id

    def _channel(self, user_id: int) -> int:
        channels = self.channels_of(user_id)
        return channels[min(int(self._random.expovariate(0.5)), len(channels) - 1)]

    def _message_in(self, channel_id: int) -> int:
        if self._random.random() < 0.3 or channel_id not in self._latest:
            self._latest[channel_id] = self._next_message()
        if self._random.random() < 0.05:  # an old device sends an older one
            return max(1, self._latest[channel_id] - self._random.randint(1, 1 << 24))
        return self._latest[channel_id]

    def _event(self, user_id: int) -> dict[str, Any]:
        channel_id = self._channel(user_id)
        event: dict[str, Any] = {"type": "ack", "user_id": user_id, "channel_id": channel_id}
        (kind,) = self._random.choices(tuple(KINDS), cum_weights=KIND_WEIGHTS)
        getattr(self, f"_{kind}")(event)
        return event

    def _ack(self, event: dict[str, Any]) -> None:
        event["message_id"] = self._message_in(event["channel_id"])
        if self._random.random() < OPTIONS_SHARE:
            event.update(flags=1, last_viewed=4000 + self._random.randint(0, 50))

    def _mention(self, event: dict[str, Any]) -> None:
        event.update(type="mention", message_id=self._message_in(event["channel_id"]))

    def _retract(self, event: dict[str, Any]) -> None:
        """A message was deleted: the last one, or one whose mention comes later."""
        event["type"] = "retract_mention"
        event["message_id"] = self._latest.get(event["channel_id"], 1)
        if self._random.random() < OVERTAKING_SHARE:
            event["message_id"] = self._next_message()
            self._later.append({**event, "type": "mention"})

    def _edited(self, event: dict[str, Any]) -> None:
        """A message's mention is taken out by an edit; another edit may put it back."""
        event["message_id"] = self._message_in(event["channel_id"])
        event.update(type="retract_mention", edit=self._random.choice((1, 3)))
        self._later.append({**event, "type": "mention", "edit": 2})

    def _bulk(self, event: dict[str, Any]) -> None:
        del event["channel_id"]
        event.update(self._bulk_ack(event["user_id"], self._message_in))

    def _unread(self, event: dict[str, Any]) -> None:
        event.update(message_id=self._message_in(event["channel_id"]), manual=True)
        dice = self._random.random()
        if dice < 0.4:
            event["mention_count"] = self._random.randint(0, 3)
        elif dice < 0.8:
            event["mention_ids"] = [event["message_id"] + n for n in range(1, 4)]
            self._later.append(self._automatic_ack(event))

    def _automatic_ack(self, event: dict[str, Any]) -> dict[str, Any]:
        """An ack that was under way when the channel was marked unread, so of a lower version."""
        names = ("type", "user_id", "channel_id")
        ack = {name: event[name] for name in names}
        return {**ack, "message_id": event["message_id"] + 9, "if_version": 1}

    def _pins(self, event: dict[str, Any]) -> None:
        event["type"] = "pins_ack"
        event["timestamp"] = 1_700_000_000_000 + self._random.randint(0, 10**9)

    def _options(self, event: dict[str, Any]) -> None:
        event.update(type="set", flags=self._random.randint(0, 3))

    def _import(self, event: dict[str, Any]) -> None:
        """What another system knew of the channel some time ago."""
        last = max(1, self._message_in(event["channel_id"]) - self._random.randint(0, 1 << 24))
        event.update(type="merge", last_message_id=last, mention_count=self._random.randint(0, 3))
        event["mention_ids"] = [last + self._random.randint(1, 1 << 22)]

    def _leave(self, event: dict[str, Any]) -> None:
        """Left, or closed: what comes late about the messages until then changes nothing."""
        event.update(type="delete")
        if self._random.random() < UP_TO_SHARE:
            message_id = self._latest.get(event["channel_id"], 1)
            self._later.append({**event, "type": "mention", "message_id": message_id})
            event["up_to"] = message_id

    def _delete_user(self, event: dict[str, Any]) -> None:
        del event["channel_id"]
        event["type"] = "delete_user"
        if self._random.random() < FINAL_SHARE:
            event["final"] = True
            if event["user_id"] not in self._quiet:  # the account comes back
                self._later.append({"type": "restore_user", "user_id": event["user_id"]})

    def _bulk_ack(self, user_id: int, message_in: Callable[[int], int]) -> dict[str, Any]:
        acks = [{"channel_id": c, "message_id": message_in(c)} for c in self.channels_of(user_id)]
        return {"type": "bulk_ack", "user_id": user_id, "acks": acks}

    def _record(self, event: dict[str, Any]) -> Record:
        user_id = event["user_id"]
        if self._random.random() < 0.5:  # half of the producers write IDs as strings
            event = {
                key: str(value) if key.endswith("_id") or key == "up_to" else value
                for key, value in event.items()
            }
        return Record(b"%d" % user_id, json.dumps(event, separators=(",", ":")).encode())

    def _bad(self, user_id: int) -> Record:
        key = b"%d" % user_id
        good = {"type": "ack", "user_id": user_id, "channel_id": 1, "message_id": 1}
        worse: list[tuple[bytes | None, Any]] = [
            (key, b'{"type": "ack", '),
            (key, {**good, "message_id": -1}),
            (key, {**good, "message_id": 1.5}),
            (key, {**good, "channel_id": None}),
            (key, {**good, "message_id": 2**63}),
            (key, {**good, "type": "acknowledge"}),
            (key, {"type": "bulk_ack", "user_id": user_id, "acks": []}),
            (b"%d" % (user_id + 1), good),
            (key, None),
        ]
        bad_key, value = self._random.choice(worse)
        if isinstance(value, dict):
            value = json.dumps(value).encode()
        return Record(bad_key, value)
