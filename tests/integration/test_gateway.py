"""The example of a gateway: badges follow on every device, through the death of a worker."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from readstates.ops.console import browser as browsers
from readstates.ops.console.browser import Browser
from readstates.ops.console.gateway_process import GatewayProcess
from tests.integration.test_workers import event_of
from tests.support.gateway_devices import Devices
from tests.support.load import Load, Log
from tests.support.service import Make, Service
from tests.support.waiting import WAIT_S
from tests.support.wire import new_user

CHANNELS = 9
LOOK = """({
  badges: Object.fromEntries([...document.querySelectorAll("li")].map(
    (row) => [row.dataset.channel, row.querySelector(".badge").textContent])),
  total: document.getElementById("total")?.textContent,
  title: document.title,
  connection: document.getElementById("connection")?.textContent,
})"""
CLICK = """[...document.querySelectorAll("li[data-channel='%s'] button")]
  .find((one) => one.textContent === "%s").click()"""


async def eventually(look: Callable[[], Any], should: Any, timeout_s: float = WAIT_S) -> None:
    """Until `look` returns this; `look` may be a coroutine function."""
    end = time.monotonic() + timeout_s
    while True:
        found = look()
        found = await found if asyncio.iscoroutine(found) else found
        if found == should:
            return
        assert time.monotonic() < end, f"not within {timeout_s} s: {should}; last: {found}"
        await asyncio.sleep(0.1)


@pytest.mark.skipif(browsers.find() is None, reason="no Chromium: apt-get install chromium")
async def test_an_ack_in_one_window_clears_the_badge_in_the_other(
    service: Service, tmp_path: Path
) -> None:
    user, log = new_user(), tmp_path / "gateway.log"
    async with Browser(tmp_path / "phone") as phone, Browser(tmp_path / "desk") as desk:

        async def both_show(connection: str, **badges: str) -> None:
            total = str(sum(map(int, badges.values())) or "")
            should = {
                "badges": {"7": "", "8": "", "9": ""} | {k[1:]: v for k, v in badges.items()},
                "total": total,
                "title": f"({total}) Channels" if total else "Channels",
                "connection": connection,
            }
            for window in (phone, desk):
                await eventually(partial(window.evaluate, LOOK), should)

        with GatewayProcess(service.env, log) as gateway:
            port = gateway.port
            for window in (phone, desk):
                await window.open(f"{gateway.url}/?user={user}")
            await both_show("connected")
            await phone.evaluate(CLICK % (7, "mention me"))
            await both_show("connected", _7="1")
            await phone.evaluate(CLICK % (7, "mention me"))
            await desk.evaluate(CLICK % (9, "mention me"))
            await both_show("connected", _7="2", _9="1")
            await desk.evaluate(CLICK % (7, "read"))
            await both_show("connected", _9="1")
            service.wire.produce_update(user, {"type": "delete", "channel_id": "9"})
            await both_show("connected")
            assert phone.complaints == desk.complaints == []
            assert gateway.stop() == 0
            assert gateway.output().endswith("stopped\n"), gateway.output()
        await both_show("connecting …")
        mention = {"type": "mention", "channel_id": "8", "message_id": "5"}
        service.wire.produce_update(user, mention)
        with GatewayProcess(service.env, log, port):
            await both_show("connected", _8="1")


async def test_what_makes_no_sense_is_refused(service: Service, tmp_path: Path) -> None:
    user = new_user()
    with GatewayProcess(service.env, tmp_path / "gateway.log") as gateway:
        async with aiohttp.ClientSession() as http:
            for who in ("", "?user=", "?user=0", "?user=-1", f"?user={2**63}", "?user=x"):
                async with http.get(f"{gateway.url}/devices{who}") as answer:
                    assert answer.status == 400
            ack = {"type": "ack", "channel_id": "7"}
            wrong = [{"type": "ack"}, ack, ack | {"message_id": "0"}, ack | {"type": "leave"}]
            for said in ("[]", "{", "7", *map(json.dumps, wrong), "x" * 2000):
                async with http.ws_connect(f"{gateway.url}/devices?user={user}") as socket:
                    assert (await socket.receive_json())["all"]
                    await socket.send_str(said)
                    closed = await asyncio.wait_for(socket.receive(), WAIT_S)
                    assert closed.type is aiohttp.WSMsgType.CLOSE, said
                    assert closed.data in (1003, 1009), said
        assert "Traceback" not in gateway.output()


def traffic(users: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    rng, clock = random.Random(26), 1_000_000
    while True:
        clock += 1
        yield rng.choice(users), event_of(rng, rng.randint(1, CHANNELS), clock)


@pytest.mark.parametrize(
    ("count", "deaths"), [(100, 1), pytest.param(5000, 4, marks=pytest.mark.long)]
)
async def test_no_device_misses_anything_when_workers_are_killed(
    services: Make, tmp_path: Path, count: int, deaths: int
) -> None:
    """Two devices a user, some of which connect while nobody serves them; acks from devices."""
    users, rng = [new_user() for _ in range(count // 2)], random.Random(1)
    states = 4 * len(users) * CHANNELS
    service = services(f"gateway{count}", changes="on", cache_states=states)
    worker = service.start()
    await asyncio.to_thread(worker.wait_ready)
    load = Load(service.wire, traffic(users), 400)
    log = Log(service.wire, set(users).__contains__)
    try:
        with GatewayProcess(service.env, tmp_path / "gateway.log") as gateway:
            async with Devices(gateway.url, users * 2) as devices:
                load.go()
                everybody = devices.all
                await eventually(lambda: sum(d.is_current for d in everybody), count, 120)
                for _ in range(deaths):
                    for device in rng.sample(everybody, count // 10):
                        await device.ack(rng.randint(1, CHANNELS), 1_000_000 + load.sent)
                    await more_messages(devices, count)
                    worker.kill()
                    for device in rng.sample(everybody, count // 10):
                        await device.disconnect()
                    worker = service.start()
                    await asyncio.to_thread(worker.wait_ready)
                await asyncio.to_thread(load.pause)

                def wrong() -> list[int]:
                    return [d.user for d in everybody if not d.is_right(log.oracle)]

                await eventually(lambda: read_and(log, wrong), [], 120)
                assert sum(d.connections for d in everybody) >= count + deaths * (count // 10)
                assert sum(map(bool, map(log.oracle.seen, users))) > len(users) // 2
    finally:
        load.close()
        log.close()


async def more_messages(devices: Devices, count: int) -> None:
    """Until the devices have had so many more messages."""
    before = devices.messages
    await eventually(lambda: devices.messages > before + count, True, 120)


async def read_and(log: Log, wrong: Callable[[], list[int]]) -> list[int]:
    """Up to three users of whom a device does not show what the log says as it is now."""
    await asyncio.to_thread(log.read)
    return wrong()[:3]
