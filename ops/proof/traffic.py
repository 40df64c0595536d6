"""Sample traffic with a shape like production's, the same for the same seed.

- Users are drawn by Zipf's law, so are channels: a few are hot, most are quiet.
- Sessions: a user comes online, fetches everything, then acknowledges channels in a run.
- A message in a hot channel now and then mentions a crowd, most of them offline; another one is
  read by many people at once, who all acknowledge the same message (correlated acks).
- Queries: most are session starts, which fetch everything; a third look at one screen.
- `fill` gives every user read states in all of its channels; `crowds` is a storm of mentions.
- `moments` spreads records over a time as a day does: busy hours and quiet ones.
- 1 % of the records are bad: not JSON, wrong types, unknown types, foreign keys, no value, …
"""

from __future__ import annotations

import json
import math
import random
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
        (user_id,) = self.users(1)
        for _ in range(1 + int(self._random.expovariate(1 / SESSION_ACKS))):
            if self._random.random() < BAD_SHARE:
                yield self._bad(user_id)
            else:
                yield self._record(self._event(user_id))

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
        rand = self._random
        channel_id = self._channel(user_id)
        event: dict[str, Any] = {"type": "ack", "user_id": user_id, "channel_id": channel_id}
        dice = rand.random()
        if dice < 0.66:
            event["message_id"] = self._message_in(channel_id)
            if dice < 0.05:
                event["last_viewed"] = 4000 + int(dice * 1000)
                event["flags"] = 1
        elif dice < 0.84:
            event.update(type="mention", message_id=self._message_in(channel_id))
        elif dice < 0.87:
            event.update(type="retract_mention", message_id=self._latest.get(channel_id, 1))
        elif dice < 0.91:
            event = self._bulk_ack(user_id, self._message_in)
        elif dice < 0.94:
            event.update(
                message_id=self._message_in(channel_id),
                manual=True,
                mention_count=rand.randint(0, 3),
            )
        elif dice < 0.98:
            event.update(type="pins_ack", timestamp=1_700_000_000_000 + rand.randint(0, 10**9))
        elif dice < 0.9995:
            event["type"] = "delete"
        else:
            event = {"type": "delete_user", "user_id": user_id}
        return event

    def _bulk_ack(self, user_id: int, message_in: Callable[[int], int]) -> dict[str, Any]:
        acks = [{"channel_id": c, "message_id": message_in(c)} for c in self.channels_of(user_id)]
        return {"type": "bulk_ack", "user_id": user_id, "acks": acks}

    def _record(self, event: dict[str, Any]) -> Record:
        user_id = event["user_id"]
        if self._random.random() < 0.5:  # half of the producers write IDs as strings
            event = {
                key: str(value) if key.endswith("_id") else value for key, value in event.items()
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
