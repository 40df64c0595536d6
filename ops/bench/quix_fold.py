"""The peer: quixstreams, which folds the same updates into its state, RocksDB with a changelog.

    PYTHONPATH=PEERS/quix python ops/bench/quix_fold.py BROKER TOPIC GROUP COUNT STATE_DIR

Each channel of a user is a separate key under the record's key, as the State API works.
Prints one line, `events seconds cpu_seconds`, from the first event to the COUNTth, and ends.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import orjson
from quixstreams import Application  # type: ignore[import-not-found]  # installed by peers.sh


def main() -> None:
    """Run until COUNT events were folded."""
    broker, topic, group = sys.argv[1:4]
    count = int(sys.argv[4])
    app = Application(
        broker_address=broker,
        consumer_group=group,
        auto_offset_reset="earliest",
        state_dir=sys.argv[5],
        loglevel="ERROR",
    )
    seen, started, started_cpu = 0, 0.0, 0.0

    def fold(value: bytes, state: Any) -> None:
        nonlocal seen, started, started_cpu
        if not seen:
            started, started_cpu = time.monotonic(), time.process_time()
        event = orjson.loads(value)
        channel, message_id = str(event["channel_id"]), int(event["message_id"])
        last, mentions, last_mention = state.get(channel) or (0, 0, 0)
        if event["type"] == "mention":
            if message_id > last and message_id != last_mention:
                state.set(channel, (last, mentions + 1, max(message_id, last_mention)))
        elif message_id >= last:
            left = 0 if message_id >= last_mention else mentions
            if message_id != last or left != mentions:
                state.set(channel, (message_id, left, last_mention))
        seen += 1
        if seen == count:
            print(seen, time.monotonic() - started, time.process_time() - started_cpu, flush=True)
            os._exit(0)

    updates = app.topic(topic, key_deserializer="bytes", value_deserializer="bytes")
    app.dataframe(updates).update(fold, stateful=True)
    app.run()


if __name__ == "__main__":
    main()
