"""The console in a real Chromium, in front of this process' own metrics."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from readstates.ops.console import browser as browsers
from readstates.ops.console.browser import Browser
from readstates.streams import metrics
from readstates.streams.worker.console import page
from readstates.streams.worker.http import Endpoints, listen
from tests.unit.streams.test_http import exchange

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "streams/worker/page"
OF_HISTOGRAM = ("_bucket", "_sum", "_count")
with_chromium = pytest.mark.skipif(
    browsers.find() is None, reason="no Chromium: apt-get install chromium"
)


class Shown:
    """A browser on the console of this process; what it shows, and whether the process is ready."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.ready = (True, "2 partitions")
        self.endpoints = Endpoints(
            listen("127.0.0.1", 0), lambda: (True, "alive"), lambda: self.ready
        )

    async def open(self) -> None:
        await self.endpoints.on_start()
        assert self.endpoints._server is not None
        self.url = f"http://127.0.0.1:{self.endpoints._server.sockets[0].getsockname()[1]}"
        await self.browser.open(self.url + "/")

    async def text(self, selector: str) -> str:
        found = f"document.querySelector({selector!r})?.innerText ?? ''"
        return str(await self.browser.evaluate(found))

    async def until(self, look: Callable[[], Awaitable[bool]], what: str) -> None:
        for _ in range(300):
            if await look():
                return
            await asyncio.sleep(0.1)
        pytest.fail(f"not seen: {what}; the page: {await self.text('body')}")

    async def until_in(self, selector: str, wanted: str) -> None:
        async def look() -> bool:
            return wanted in await self.text(selector)

        await self.until(look, f"{wanted} in {selector}")


@pytest.fixture
async def shown(tmp_path: Path) -> AsyncIterator[Shown]:
    async with Browser(tmp_path / "browser") as browser:
        made = Shown(browser)
        await made.open()
        try:
            yield made
        finally:
            await made.endpoints.on_stop()
            for number in (3, 11, 12):
                metrics.forget_partition(number, "read-states.updates", "read-states.queries")


def of_partition(number: int, **more: float) -> None:
    for gauge in metrics.PARTITION_GAUGES:
        gauge.labels(str(number)).set(0)
    for topic, lag in more.items():
        metrics.PROCESSING_LAG.labels(f"read-states.{topic}", str(number)).set(lag)


@with_chromium
async def test_what_is_shown(shown: Shown) -> None:
    of_partition(11, updates=7, queries=0)
    of_partition(3, updates=12_000, queries=1)
    metrics.RESIDENT_STATES.labels("3").set(1_234_567)
    metrics.DURABILITY_LAG_SECONDS.labels("11").set(83)
    await shown.until_in("#partitions", "1,234,567")
    rows = [line.split("\t") for line in (await shown.text("#partitions tbody")).splitlines()]
    assert [row[:3] for row in rows] == [["3", "12,000", "1"], ["11", "7", "0"]]
    assert await shown.text("#lag-updates") == "12,007"
    assert await shown.text("#dirty-age") == "83 s"
    assert await shown.text("#state") == "● Ready"
    await shown.until_in("[data-chart=lag]", "now")
    assert shown.browser.complaints == []


@with_chromium
async def test_what_is_not_ready_and_why(shown: Shown) -> None:
    await shown.until_in("#state", "● Ready")
    shown.ready = (False, "catching up: 3: 5/10")
    await shown.until_in("#state", "▲ Not ready")
    assert await shown.text("#why") == "catching up: 3: 5/10"
    await shown.endpoints.on_stop()
    await shown.until_in("#state", "✕ No answer")


@with_chromium
async def test_what_to_look_at(shown: Shown) -> None:
    await shown.until_in("#state", "● Ready")
    metrics.WRITE_FAILURES.inc(5)
    await shown.until_in("#attention", "ReadStatesCassandraWritesFail")
    assert "5 batches in the last minute" in await shown.text("#attention")


@with_chromium
async def test_a_hot_partition(shown: Shown) -> None:
    for number in (3, 11, 12):
        of_partition(number)
        metrics.UPDATES_APPLIED.labels(str(number)).inc(0)
    await shown.until_in("#partitions", "12")
    metrics.UPDATES_APPLIED.labels("11").inc(10**6)
    metrics.UPDATES_APPLIED.labels("12").inc(100)
    await shown.until_in("#attention", "ReadStatesPartitionHot")
    assert "Partition 11 takes" in await shown.text("#attention")


@with_chromium
async def test_nothing_foreign_is_asked_or_run(shown: Shown) -> None:
    evil = '<img src="http://192.0.2.1/x" onerror="document.title=1">\\'
    metrics.DEAD_LETTERS.labels(evil).inc()
    try:
        await shown.until_in("#dead", evil)
    finally:
        metrics.DEAD_LETTERS.remove(evil)
    assert await shown.browser.evaluate("document.querySelectorAll('img').length") == 0
    ours = {f"{shown.url}/", *(f"{shown.url}/{end}" for end in ("metrics", "readyz", "healthz"))}
    assert set(shown.browser.requests) - {"data:,"} == ours
    assert shown.browser.complaints == []
    put = "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; "
    await shown.browser.evaluate(f"{put} document.body.append(s)")
    assert await shown.browser.evaluate("window.ran") is None
    reached = "fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')"
    await shown.browser.evaluate(f"{reached}.then((how) => {{ window.reached = how; }})")
    await asyncio.sleep(0.3)
    assert await shown.browser.evaluate("window.reached") == "refused"
    assert any("Content Security Policy" in said for said in shown.browser.complaints)


@with_chromium
async def test_it_fits(shown: Shown) -> None:
    of_partition(3, updates=123_456, queries=1)
    await shown.until_in("#partitions", "123,456")
    for width in (320, 390, 700, 1000, 1280):
        await shown.browser.look(width, 800, dark=width == 390)
        wide = await shown.browser.evaluate("document.documentElement.scrollWidth")
        assert wide <= width


@with_chromium
async def test_quantiles_are_those_of_prometheus(shown: Shown) -> None:
    """Against figures worked out by hand from histogram_quantile's definition."""
    await shown.until_in("#state", "● Ready")
    for share, buckets, expected in (
        ("0.5", "[[0.1, 0], [0.2, 10], [Infinity, 10]]", 0.15),
        ("0.99", "[[0.1, 50], [0.2, 98], [0.5, 100], [Infinity, 100]]", 0.35),
        ("0.99", "[[0.1, 1], [0.2, 1], [Infinity, 100]]", 0.2),
        ("0.5", "[[0.1, 0], [Infinity, 0]]", None),
        ("0.25", "[[0.1, 4], [Infinity, 4]]", 0.025),
    ):
        found = await shown.browser.evaluate(f"quantile({share}, {buckets})")
        assert found == (expected if expected is None else pytest.approx(expected)), buckets


async def test_the_policy() -> None:
    endpoints = Endpoints(listen("127.0.0.1", 0), lambda: (True, ""), lambda: (True, ""))
    await endpoints.on_start()
    assert endpoints._server is not None
    port = endpoints._server.sockets[0].getsockname()[1]
    head, _, body = (await exchange(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")).partition(
        b"\r\n\r\n"
    )
    await endpoints.on_stop()
    assert body == page()[0]
    (policy,) = re.findall(r"Content-Security-Policy: (.*)\r", head.decode())
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["frame-ancestors"] == "'none'"
    assert rules["connect-src"] == "'self'"
    for kind in ("script-src", "style-src"):
        assert re.fullmatch(r"'sha256-[\w+/]{43}='", rules[kind])
    assert b"nosniff" in head
    assert b"no-store" in head


def test_every_metric_on_the_page_exists() -> None:
    exported = {
        f"{f.name}{end}" for f in REGISTRY.collect() for end in ("", "_total", *OF_HISTOGRAM)
    }
    text = "".join(path.read_text("utf-8") for path in PAGE.iterdir())
    named = set(re.findall(r"\b(?:read_states|process)_\w+", text))
    assert len(named) > 25
    assert named - exported == set()


def test_every_runbook_on_the_page_exists() -> None:
    named = re.findall(r'"(ReadStates\w+)"', (PAGE / "watch.js").read_text("utf-8"))
    assert len(named) > 10
    for name in named:
        assert (ROOT / f"ops/runbooks/{name}.md").exists(), name
