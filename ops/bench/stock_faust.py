"""The peer: a stock Faust agent that folds the same updates into a dict.

    python -m readstates.ops.bench.stock_faust BROKER TOPIC GROUP COUNT STATE_DIR

Prints one line, `events seconds cpu_seconds`, from the first event to the COUNTth, and ends.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import faust
import orjson


def main() -> None:
    """Run one worker until COUNT events were folded."""
    broker, topic, group = sys.argv[1:4]
    count = int(sys.argv[4])
    app = faust.App(
        group,
        broker=f"kafka://{broker}",
        autodiscover=False,
        consumer_auto_offset_reset="earliest",
        datadir=sys.argv[5],
        store="memory://",
        topic_disable_leader=True,
        web_enabled=False,
    )
    states: dict[tuple[int, int], list[int]] = {}
    updates = app.topic(topic, value_type=bytes, value_serializer="raw")

    @app.agent(updates)  # type: ignore[untyped-decorator]
    async def fold(stream: Any) -> None:
        seen, started, started_cpu = 0, 0.0, 0.0
        async for value in stream:
            if not seen:
                started, started_cpu = time.monotonic(), time.process_time()
            event = orjson.loads(value)
            where = int(event["user_id"]), int(event["channel_id"])
            state = states.get(where)
            if state is None:
                state = states[where] = [0, 0, 0]
            last, mentions, last_mention = state
            message_id = int(event["message_id"])
            if event["type"] == "mention":
                if message_id > last and message_id != last_mention:
                    state[1] = mentions + 1
                    state[2] = max(message_id, last_mention)
            elif message_id >= last:
                state[0] = message_id
                if message_id >= last_mention:
                    state[1] = 0
            seen += 1
            if seen == count:
                cpu_s = time.process_time() - started_cpu
                print()  # Faust has written cursor codes
                print(seen, time.monotonic() - started, cpu_s, flush=True)
                os._exit(0)

    faust.Worker(
        app, loglevel="WARNING", redirect_stdouts=False, quiet=True
    ).execute_from_commandline()


if __name__ == "__main__":
    main()
