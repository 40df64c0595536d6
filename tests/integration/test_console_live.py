"""The console of a real worker in a real Chromium: the values on the page are those of /metrics."""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from readstates.ops.console import browser as browsers
from readstates.ops.console.browser import Browser
from tests.support.load import Load
from tests.support.service import Service
from tests.support.waiting import until
from tests.support.wire import new_user

pytestmark = pytest.mark.skipif(
    browsers.find() is None, reason="no Chromium: apt-get install chromium"
)

UNITS = {"µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
READ = """
Object.fromEntries([...document.querySelectorAll('[data-metric]')].map(
  (one) => [one.dataset.metric, one.textContent]))
"""
CELLS = """
[...document.querySelectorAll('#partitions tbody tr')].map(
  (row) => Object.fromEntries([...row.cells].map((cell) => [cell.dataset.name, cell.textContent])))
"""
SINCE = """
[...document.querySelectorAll('[data-histogram="%s"] [data-since]')].map(
  (one) => [Number(one.dataset.since), one.textContent])
"""
OF_PARTITION = {
    "not durable": "durability_lag_records",
    "dirty": "dirty_states",
    "residents": "resident_states",
    "users": "resident_users",
    "parked": "parked_updates",
}


def quantile(share: float, seen: dict[str, float], name: str) -> float:
    """As Prometheus' histogram_quantile."""
    buckets = sorted(
        (float(key.partition("le=")[2][:-1]), value)
        for key, value in seen.items()
        if key.startswith(f"{name}_bucket{{")
    )
    rank, lower, below = share * buckets[-1][1], 0.0, 0.0
    for bound, upto in buckets:
        if upto >= rank:
            return lower + (bound - lower) * (rank - below) / (upto - below)
        lower, below = bound, upto
    raise AssertionError(buckets)


def in_seconds(text: str) -> float:
    number, unit = text.split(" ")
    return float(number) * UNITS[unit]


def ack(message_id: int) -> dict[str, Any]:
    return {"type": "ack", "channel_id": "7", "message_id": str(message_id)}


def integer(value: float) -> str:
    return f"{int(value):,}"


def differences(
    prefix: str, page: dict[str, str], rows: list[dict[str, str]], seen: dict[str, float]
) -> dict[str, Any]:
    """What the page says otherwise than /metrics: name -> (page, metrics)."""
    expected = {name: integer(seen.get(name, 0)) for name in page}
    shown = dict(page)
    for row in rows:
        number = row["partition"]
        for column, metric in OF_PARTITION.items():
            name = f"read_states_{metric}{{partition={number}}}"
            shown[name], expected[name] = row[column], integer(seen[name])
        for kind in ("updates", "queries"):
            name = f"read_states_processing_lag_records{{partition={number},topic={prefix}.{kind}}}"
            shown[name], expected[name] = row[f"lag: {kind}"], integer(seen[name])
    return {n: (shown[n], expected[n]) for n in shown if shown[n] != expected[n]}


async def test_values_are_those_of_metrics(service: Service, tmp_path: Path) -> None:
    wire, worker = service.wire, service.workers[0]
    user = new_user()
    load = Load(wire, ((user, ack(n)) for n in count(1)), 1000)
    load.go()
    until(lambda: load.sent > 1500, "1500 updates")  # over a thousand: separators
    load.pause()
    load.close()
    wire.produce(new_user(), b"not JSON")
    for _ in range(20):
        wire.get(user)
    service.wait_durable(wire.ends(wire.updates))
    async with Browser(tmp_path / "browser") as browser:
        await browser.open(f"{worker.url}/")
        found: dict[str, Any] = {"nothing": "read yet"}
        for _ in range(30):
            await asyncio.sleep(2.5)  # the page has asked meanwhile
            page, rows = await browser.evaluate(READ), await browser.evaluate(CELLS)
            seen = worker.metrics()
            if len(rows) == 4 and not (found := differences(wire.prefix, page, rows, seen)):
                break
        assert found == {}
        assert {name.partition("{")[0] for name in page} > {
            "read_states_evictions_total",
            "read_states_dead_letters_total",
            "read_states_queries_total",
            "read_states_rebalances_total",
            "read_states_gc_pause_seconds_count",
        }
        assert int(page["read_states_updates_applied_total"].replace(",", "")) > 1000
        assert int(page["read_states_dead_letters_total{reason=invalid_json}"]) >= 1
        for name in ("read_states_query_age_seconds", "read_states_query_service_seconds"):
            shown = await browser.evaluate(SINCE % name)
            assert [share for share, _ in shown] == [0.5, 0.99, 0.999]
            for share, text in shown:
                assert in_seconds(text) == pytest.approx(quantile(share, seen, name), rel=0.06)
        assert browser.complaints == []
