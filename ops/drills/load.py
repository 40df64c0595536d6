"""The traffic of the drills: steady, small, and as bad as a drill wants it."""

from __future__ import annotations

import itertools
import json
import threading
import time
import uuid

from confluent_kafka import Producer

from readstates.schemas.partitioner import partition_of
from readstates.streams.config import Settings

TICK_S = 0.05
HOT_USERS = 3


class Load(threading.Thread):
    """Produces until `close`. The rates may be changed at any time; replies are not read."""

    def __init__(self, settings: Settings, reply_topic: str, partitions: int) -> None:
        super().__init__(daemon=True)
        self.updates_s = 100.0  # of users who were seen before
        self.new_users_s = 20.0  # each update of another user
        self.queries_s = 40.0  # of users who were seen before
        self.cold_queries_s = 5.0  # each of another user
        self.bad_s = 0.0  # records that are not JSON
        self.hot_s = 0.0  # updates of the few users of _hot, who are in one partition
        self.reply_topic = reply_topic
        self._settings = settings
        self._ended = threading.Event()
        self._numbers = itertools.count(1)
        self._known = [10**6 + n for n in range(500)]
        one = (user for user in self._known if partition_of(b"%d" % user, partitions) == 0)
        self._hot = list(itertools.islice(one, HOT_USERS))
        self._producer = Producer(
            settings.librdkafka(**{"partitioner": "murmur2_random", "linger.ms": 5})
        )

    def run(self) -> None:
        owed = dict.fromkeys(
            ("updates_s", "new_users_s", "queries_s", "cold_queries_s", "bad_s", "hot_s"), 0.0
        )
        last = time.monotonic()
        while not self._ended.wait(TICK_S):
            now = time.monotonic()
            for name in owed:
                owed[name] += getattr(self, name) * (now - last)
                while owed[name] >= 1:
                    owed[name] -= 1
                    self._one(name)
            last = now
            self._producer.poll(0)

    def _one(self, name: str) -> None:
        number = next(self._numbers)
        cold = name in ("new_users_s", "cold_queries_s")
        users = self._hot if name == "hot_s" else self._known
        user_id = 10**9 + number if cold else users[number * 7919 % len(users)]
        key = str(user_id)
        if name == "bad_s":
            self._producer.produce(self._settings.updates_topic, b"not JSON", key)
        elif "queries" in name:
            self._producer.produce(
                self._settings.queries_topic,
                json.dumps({"type": "get", "user_id": key}),
                key,
                headers=[
                    ("kafka_replyTopic", self.reply_topic.encode()),
                    ("kafka_correlationId", uuid.uuid4().bytes),
                ],
            )
        else:
            event = {
                "type": "ack",
                "user_id": key,
                "channel_id": 1 + number % 5,
                "message_id": number,
            }
            self._producer.produce(self._settings.updates_topic, json.dumps(event), key)

    def close(self) -> None:
        """Ends, and waits for what is on its way."""
        self._ended.set()
        self.join()
        self._producer.flush(10)
