"""`rollout gates` against a server that answers as Prometheus does."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from click.testing import CliRunner, Result

from readstates.streams.commands.rollout import rollout

PLAN = """
[[phases]]
share = 0
hours = 1
[[phases]]
share = 100
hours = 1
[[gates]]
name = "age"
means = "age, candidate / live"
expr = "age_ratio"
at_most = 1.1
hold_s = 600
[[gates]]
name = "pairs"
means = "pairs"
expr = "pairs_total"
at_least = 5
shares = [0]
"""
Series = list[dict[str, Any]]


class Asked:
    """A server; `series` has what each expression answers, given start, end and step."""

    def __init__(self) -> None:
        self.series: dict[str, Callable[[float, float, float], Series]] = {}
        asked = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                form = {k: v[0] for k, v in parse_qs(self.rfile.read(length).decode()).items()}
                answer = asked.series.get(form["query"])
                if self.path != "/api/v1/query_range" or answer is None:
                    self.send_error(400, "bad_data")
                    return
                times = (float(form[name]) for name in ("start", "end", "step"))
                body = json.dumps({"status": "success", "data": {"result": answer(*times)}})
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_arguments: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


def steady(value: str) -> Callable[[float, float, float], Series]:
    def answer(start: float, end: float, step: float) -> Series:
        count = int((end - start) / step) + 1
        return [{"metric": {}, "values": [[start + step * n, value] for n in range(count)]}]

    return answer


@pytest.fixture
def asked() -> Iterator[Asked]:
    made = Asked()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def gates(folder: Path, url: str, *arguments: str) -> Result:
    plan = folder / "plan.toml"
    plan.write_text(PLAN, "utf-8")
    argv = ["gates", str(plan), "--prometheus", url, *arguments]
    return CliRunner().invoke(rollout, argv)


def test_all_gates_hold(asked: Asked, tmp_path: Path) -> None:
    asked.series = {"age_ratio": steady("1.02"), "pairs_total": steady("7")}
    done = gates(tmp_path, asked.url)
    assert done.exit_code == 0, done.output
    age, pairs = done.output.splitlines()
    assert age.startswith("holds  age: age, candidate / live: 1.02, wants at most 1.1, for 6")
    assert "pairs: pairs: 7, wants at least 5" in pairs


@pytest.mark.parametrize(
    "answer",
    [
        steady("1.2"),
        steady("NaN"),
        lambda _start, _end, _step: [],
        lambda _start, end, _step: [{"metric": {}, "values": [[end, "1"]]}],
    ],
    ids=["above", "NaN", "nothing", "only now"],
)
def test_a_gate_that_fails_is_named(
    asked: Asked, tmp_path: Path, answer: Callable[[float, float, float], Series]
) -> None:
    asked.series = {"age_ratio": answer, "pairs_total": steady("7")}
    done = gates(tmp_path, asked.url, "--json")
    assert done.exit_code == 1
    assert {one["name"]: one["holds"] for one in json.loads(done.output)} == {
        "age": False,
        "pairs": True,
    }


def test_the_share_says_which_gates_count(asked: Asked, tmp_path: Path) -> None:
    asked.series = {"age_ratio": steady("1"), "pairs_total": steady("0")}
    assert gates(tmp_path, asked.url).exit_code == 1
    done = gates(tmp_path, asked.url, "--share", "150")
    assert (done.exit_code, "pairs" in done.output) == (0, False)


def test_two_series_are_no_figure(asked: Asked, tmp_path: Path) -> None:
    asked.series = {"age_ratio": lambda *times: steady("1")(*times) * 2}
    done = gates(tmp_path, asked.url)
    assert (done.exit_code, "2 series instead of one" in done.output) == (1, True)


def test_a_refusal_and_no_server(asked: Asked, tmp_path: Path) -> None:
    done = gates(tmp_path, asked.url)
    assert (done.exit_code, "refuses 'age_ratio'" in done.output) == (1, True)
    done = gates(tmp_path, "http://127.0.0.1:1")
    assert (done.exit_code, "gave no answer to 'age_ratio'" in done.output) == (1, True)


def test_a_held_time_is_counted_to_now(asked: Asked, tmp_path: Path) -> None:
    """A break in the middle: the bound has held since then, and not for long enough."""

    def broken(start: float, end: float, step: float) -> Series:
        (series,) = steady("1")(start, end, step)
        series["values"][10][1] = "5"
        return [series]

    asked.series = {"age_ratio": broken, "pairs_total": steady("7")}
    (age, _) = json.loads(gates(tmp_path, asked.url, "--json").output)
    assert not age["holds"]
    assert 0 < time.time() - age["since_s"] < 600
