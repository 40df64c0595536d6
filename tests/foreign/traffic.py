"""What each client sends: events of some users, and queries about them; IDs of both forms."""

from __future__ import annotations

import json
import random
from typing import Any, NamedTuple

USERS = 50
EVENTS = 750
PLACED = 3  # records of each user that show where the default partitioner puts them
CHANNELS = 6
SMALL_USERS = 10  # of the users have an ID of a few digits, the others one over 2^53
BAD_QUERIES = 2


class Record(NamedTuple):
    """A key and a value, as text."""

    key: str
    value: str


def _record(user: int, body: dict[str, Any]) -> Record:
    return Record(str(user), json.dumps(body))


class Traffic:
    """The records of one client, the same for the same number of a client."""

    def __init__(self, client: int) -> None:
        self._random = random.Random(client)
        small = [1 + client * SMALL_USERS + number for number in range(SMALL_USERS)]
        low = (client + 1) * 10**17
        self.users = small + self._random.sample(range(low, low + 10**17), USERS - SMALL_USERS)

    def _id(self, number: int) -> int | str:
        """Half of the identifiers are JSON integers."""
        return number if self._random.random() < 0.5 else str(number)

    def places(self) -> list[Record]:
        """Records that show where the client's partitioner puts a key."""
        return [_record(user, {}) for _ in range(PLACED) for user in self.users]

    def events(self) -> list[Record]:
        """Updates of all kinds but the deletion of a user."""
        return [self._event(self.users[number % USERS]) for number in range(EVENTS)]

    def _event(self, user: int) -> Record:
        draw = self._random
        message = draw.randrange(2**60, 2**60 + 100)
        body: dict[str, Any] = {
            "type": draw.choice(["ack", "ack", "mention", "mention", "retract_mention"]),
            "channel_id": self._id(draw.randrange(1, CHANNELS)),
            "message_id": self._id(message),
        }
        if body["type"] != "ack" and draw.random() < 0.3:
            body["edit"] = draw.randrange(3)
        kind = draw.randrange(24)
        if kind == 0:
            body = {"type": "delete", "channel_id": body["channel_id"]}
        elif kind == 1:
            acks = [
                {"channel_id": self._id(channel), "message_id": self._id(message)}
                for channel in range(1, CHANNELS)
            ]
            body = {"type": "bulk_ack", "acks": acks}
        elif kind == 2:
            count = draw.randrange(2**32)
            body = {**body, "type": "ack", "manual": True, "mention_count": count}
        elif kind == 3:
            moment = draw.randrange(2**48)
            body = {"type": "pins_ack", "channel_id": body["channel_id"], "timestamp": moment}
        elif kind == 4:
            body = {**body, "type": "ack", "flags": draw.randrange(2**32), "last_viewed": 65535}
        elif kind == 5:
            body["read_state_type"] = draw.randrange(1, 3)
        elif kind == 6:
            ids = [self._id(message + draw.randrange(1, 9)) for _ in range(3)]
            body = {**body, "type": "ack", "manual": True, "mention_ids": ids}
        elif kind == 7:
            body = {"type": "set", "channel_id": body["channel_id"], "flags": draw.randrange(2)}
        elif kind == 8:
            body = {
                "type": "merge",
                "channel_id": body["channel_id"],
                "last_message_id": body["message_id"],
                "mention_ids": [self._id(message + 1)],
                "last_pin_timestamp": 5,
            }
        elif kind == 9:
            body = {
                "type": "delete",
                "channel_id": body["channel_id"],
                "up_to": body["message_id"],
            }
        return _record(user, {**body, "user_id": self._id(user)})

    def queries(self, versions: dict[int, int]) -> list[Record]:
        """A query for each user, and some that are refused; `versions`: to ask what is newer."""
        made = []
        for number, user in enumerate(self.users):
            body: dict[str, Any] = {"type": "get", "user_id": self._id(user)}
            if number % 5 == 1:
                body["channel_ids"] = [self._id(channel) for channel in (5, 1, 3, 77)]
            elif number % 5 == 2:
                body["read_state_type"] = 0
            elif number % 5 == 3:
                body["since_version"] = self._id(versions[user])
            elif number % 5 == 4:
                body |= {"mentions": True, "totals": True, "limit": 3}
                body["after"] = {"channel_id": self._id(1)}
            if number % 7 == 0:
                body |= {"mentioned": True, "mentions": True}
            made.append(_record(user, body))
        for user in self.users[-BAD_QUERIES:]:
            wrong = {"type": "get", "user_id": self._id(user), "channel_ids": "all"}
            made.append(_record(user, wrong))
        return made
