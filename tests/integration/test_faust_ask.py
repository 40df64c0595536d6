"""A real Faust application asks with `agent.ask`, knowing nothing but the topic."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path

from tests.support.wire import Reply as Seen
from tests.support.wire import Wire, check_form, new_user

ASKER = """
import asyncio, json, os, sys
import faust

bootstrap, queries, user, reply_to = sys.argv[1:]
app = faust.App(
    "asker",
    broker=f"kafka://{bootstrap}",
    reply_to=reply_to,
    store="memory://",
    topic_allow_declare=True,
    topic_partitions=4,
    web_enabled=False,
)

topic = app.topic(queries, internal=False)

@app.agent(topic, use_reply_headers=True)
async def read_states(stream):
    async for query in stream:
        yield None  # never run: the service answers


async def main():
    query = {"type": "get", "user_id": user}
    good = asyncio.wait_for(read_states.ask(query, key=user), 60)
    print(json.dumps(await good), flush=True)
    bad = asyncio.wait_for(read_states.ask({**query, "channel_ids": "x"}, key=user), 60)
    print(json.dumps(await bad), flush=True)
    os._exit(0)  # a Faust application in client mode does not stop by itself


asyncio.run(main())
"""


def test_agent_ask(wire: Wire, tmp_path: Path) -> None:
    user = new_user()
    event = {"type": "ack", "channel_id": str(2**60 + 1), "message_id": str(2**61 + 1)}
    offset = wire.produce_update(user, event)
    expected = wire.get(user, after_offset=offset)
    # Faust sends its first query before it makes its reply topic: it must be there beforehand
    reply_to = f"f-reply-{uuid.uuid4()}"
    wire.create_topic(reply_to)
    done = subprocess.run(
        [sys.executable, "-c", ASKER, wire.bootstrap, wire.queries, str(user), reply_to],
        cwd=tmp_path,  # Faust makes a folder for its tables
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    good, bad = (json.loads(line) for line in done.stdout.splitlines())
    check_form(Seen(None, good, {}, "", 0), user)
    assert good["read_states"] == expected.states
    assert bad["user_id"] == str(user)
    assert bad["error"]["code"] == "invalid_query"
