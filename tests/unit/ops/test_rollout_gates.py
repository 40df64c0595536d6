"""The gates of ops/rollout.toml do what they say: promtool computes them from made-up series.

`make promtool` gets it. Without it this test is skipped, and says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from readstates.schemas.rollout import Candidate
from readstates.streams.rollout.gates import Gate, read_plan
from readstates.streams.rollout.phase import filled
from tests.support.promql import OPS

GATES = read_plan((OPS / "rollout.toml").read_text("utf-8")).gates
HOURS, NOW_S = 2, 1_800_000_000
SAMPLES = HOURS * 240  # one every 15 s
OLD_MS = (NOW_S - HOURS * 3600) * 1000
PHASE_MS = (NOW_S - 1800) * 1000
CANDIDATE = Candidate("new", 100, True, "0123456789abcdef", PHASE_MS, OLD_MS)
Series = dict[str, str]


def grows(by: float) -> str:
    return f"0+{by}x{SAMPLES}"


def stays(at: float) -> str:
    return f"{at:g}x{SAMPLES}"


def worker(name: str, role: str) -> Series:
    """The figures of a worker that is well."""

    def of(metric: str, labels: str = "") -> str:
        return f'{metric}{{job="read-states",instance="{name}"{labels}}}'

    buckets = {
        of(f"read_states_{histogram}_bucket", f',le="{le}"'): grows(1000)
        for histogram in ("query_age_seconds", "gc_pause_seconds")
        for le in ("0.005", "0.01", "0.05", "+Inf")
    }
    return buckets | {
        of("read_states_role", ',role="live"'): stays(float(role == "live")),
        of("read_states_role", ',role="candidate"'): stays(float(role == "candidate")),
        of("read_states_queries_total", ',outcome="hit"'): grows(1000),
        of("read_states_queries_total", ',outcome="error"'): grows(0),
        of("process_cpu_seconds_total"): grows(3),
        of("process_resident_memory_bytes"): stays(1e9),
        of("process_start_time_seconds"): stays(1e9),
        of(
            "read_states_processing_lag_records", ',topic="read-states.updates",partition="0"'
        ): stays(5),
        of(
            "read_states_processing_lag_records", ',topic="read-states.queries",partition="0"'
        ): stays(90_000),
    }


GOOD: Series = {
    **worker("a", "live"),
    **worker("b", "live"),
    **worker("c", "candidate"),
    'read_states_compared_total{job="compare",result="equal"}': grows(10_000),
    'read_states_compared_total{job="compare",result="different"}': grows(0),
    'read_states_compared_total{job="compare",result="not_comparable"}': grows(10),
}
ONCE = f"0x200 1x{SAMPLES - 200}"
BEFORE = SAMPLES - 200  # 50 minutes before the end, 20 before the phase
BAD: dict[str, tuple[Series, set[str]]] = {
    "few pairs": ({'read_states_compared_total{job="compare",result="equal"}': grows(1)},
                  {"pairs", "comparable"}),
    "a quiet phase": (
        {f'read_states_queries_total{{job="read-states",instance="{one}",outcome="hit"}}':
         f"0+1000x{BEFORE} {1000 * BEFORE + 500}+500x199" for one in "abc"},
        {"peak"},
    ),
    "one difference": (
        {'read_states_compared_total{job="compare",result="different"}': ONCE},
        {"differences"},
    ),
    "many differences": (
        {'read_states_compared_total{job="compare",result="different"}': grows(1)},
        {"differences", "agreement"},
    ),
    "not comparable": (
        {'read_states_compared_total{job="compare",result="not_comparable"}': grows(200)},
        {"comparable"},
    ),
    "1 % are late": (
        {'read_states_query_age_seconds_bucket{job="read-states",instance="c",le="0.005"}':
         grows(985)},
        {"age-p99", "age-p99.9"},
    ),
    "0.1 % are late": (
        {'read_states_query_age_seconds_bucket{job="read-states",instance="c",le="0.005"}':
         grows(995)},
        {"age-p99.9"},
    ),
    "errors": (
        {'read_states_queries_total{job="read-states",instance="c",outcome="error"}': grows(1)},
        {"errors"},
    ),
    "processor": (
        {'process_cpu_seconds_total{job="read-states",instance="c"}': grows(8)}, {"cpu"},
    ),
    "memory": (
        {'process_resident_memory_bytes{job="read-states",instance="c"}': stays(1.3e9)}, {"memory"},
    ),
    "a pause": (
        {f'read_states_gc_pause_seconds_bucket{{job="read-states",instance="c",le="{le}"}}':
         f"0+1000x{BEFORE} {1000 * (BEFORE + 1) - 1}+1000x199"
         for le in ("0.005", "0.01")},
        {"pauses"},
    ),
    "lag": (
        {'read_states_processing_lag_records{job="read-states",instance="c",'
         'topic="read-states.updates",partition="0"}': stays(20_000)},
        {"lag"},
    ),
    "a restart": (
        {'process_start_time_seconds{job="read-states",instance="c"}':
         f"1000000000x400 1000000900x{SAMPLES - 400}"},
        {"restarts"},
    ),
}  # fmt: skip


NO_PAUSES = {
    f'read_states_gc_pause_seconds_bucket{{job="read-states",instance="c",le="{le}"}}': grows(0)
    for le in ("0.005", "0.01", "0.05", "+Inf")
}


def as_test(name: str, series: Series, broken: set[str]) -> dict[str, Any]:
    """A test of promtool: exactly these gates are out of their bound."""
    return {
        "name": name,
        "interval": "15s",
        "input_series": [{"series": key, "values": value} for key, value in series.items()],
        "promql_expr_test": [
            {
                "expr": f"({filled(gate.expr, CANDIDATE, NOW_S)}) {bound_of(gate)}",
                "eval_time": f"{HOURS}h",
                "exp_samples": [{"labels": "{}", "value": int(gate.name not in broken)}],
            }
            for gate in GATES
        ],
    }


def bound_of(gate: Gate) -> str:
    op, bound = ("<=", gate.at_most) if gate.at_least is None else (">=", gate.at_least)
    return f"{op} bool {bound}"


def test_every_gate_is_seen_broken() -> None:
    assert {name for _, names in BAD.values() for name in names} == {gate.name for gate in GATES}
    assert all(key in GOOD for series, _ in BAD.values() for key in series)


def test_each_gate_breaks_for_its_own_reason_and_no_other(tmp_path: Path) -> None:
    beside = Path(sys.executable).parent / "promtool"
    promtool = os.environ.get("PROMTOOL") or shutil.which("promtool") or shutil.which(beside)
    if not promtool:
        pytest.skip("no promtool: `make promtool` gets it")
    tests = [as_test("all is well", GOOD, set())]
    tests += [as_test("no pauses", GOOD | NO_PAUSES, set())]
    tests += [as_test(name, GOOD | series, broken) for name, (series, broken) in BAD.items()]
    path = tmp_path / "gates.yml"
    path.write_text(yaml.safe_dump({"evaluation_interval": "15s", "tests": tests}), "utf-8")
    done = subprocess.run(
        [promtool, "test", "rules", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
