"""A Faust application that asks with `agent.ask`, and runs no agent: `start_client`.

Faust names its own reply topic, `f-reply-` and a UUID. It asks before that topic is there unless
`reply_create_topic` is set.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile

import faust

from .common import REPLY_TIMEOUT_S, plan, show

bootstrap, steps = plan()
app = faust.App(
    "gateway",
    broker=f"kafka://{bootstrap}",
    reply_create_topic=True,
    datadir=tempfile.mkdtemp(dir=os.path.dirname(sys.argv[1])),
)


async def only_a_name(stream: object) -> None:
    """Never runs: the service answers."""


AGENTS = [
    app.agent(app.topic(step.topic), name=step.topic)(only_a_name) if step.replies else None
    for step in steps
]


async def main() -> None:
    await app.start_client()
    for number, (step, agent) in enumerate(zip(steps, AGENTS, strict=True)):
        for record, (key, value) in enumerate(step.records):
            if agent is None:
                await app.producer.send_and_wait(
                    step.topic, key.encode(), value.encode(), None, None, None
                )
                continue
            asked = agent.ask(json.loads(value), key=key)
            reply = await asyncio.wait_for(asked, REPLY_TIMEOUT_S)
            error = reply.get("error", {}).get("code")
            show(number, record, error, json.dumps(reply))
    sys.stdout.flush()
    os._exit(0)  # a Faust application in client mode does not stop by itself


asyncio.run(main())
