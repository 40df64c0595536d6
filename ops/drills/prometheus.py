"""A Prometheus of our own for the drills: started, asked, stopped."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from ..local.process import last_lines, spawn, stop
from . import scaled

START_TIMEOUT_S = 60.0


class PrometheusError(Exception):
    """It is not there, did not start, or refused a question."""


def free_port() -> int:
    """A port of the loopback that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def find() -> str:
    """The binary: beside this Python (`make drills` puts it there), or in PATH."""
    beside = Path(sys.executable).parent / "prometheus"
    found = shutil.which(beside) or shutil.which("prometheus")
    if found is None:
        raise PrometheusError("no prometheus: bash ops/promtool.sh .venv/bin/promtool")
    return found


class Prometheus:
    """Scrapes a worker and a comparison every second, with the scaled rules."""

    def __init__(
        self, folder: Path, worker_port: int, compare_port: int, numbers: dict[str, str]
    ) -> None:
        folder.mkdir()
        self._folder, self._port = folder, free_port()
        config = folder / "prometheus.yml"
        config.write_text(
            scaled.config(f"127.0.0.1:{worker_port}", f"127.0.0.1:{compare_port}"), "utf-8"
        )
        for name in ("rules.yml", "alerts.yml"):
            (folder / name).write_text(scaled.rules(name, numbers), "utf-8")
        self._log = folder / "prometheus.log"
        self._process = spawn(
            [
                find(),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
            ],
            self._log,
            os.environ,
        )

    def wait(self) -> None:
        """Until it answers. Raises PrometheusError with its log's end."""
        end = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self._ask("query", query="1")
            except (OSError, PrometheusError) as exc:
                if time.monotonic() > end:
                    raise PrometheusError(f"{exc}\n{last_lines(self._log)}") from exc
                time.sleep(0.2)
            else:
                return

    def _ask(self, what: str, **asked: str) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{what}?{urllib.parse.urlencode(asked)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as exc:
            with exc:
                raise PrometheusError(f"{asked}: {exc.read().decode()}") from exc

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression has now."""
        found: list[dict[str, Any]] = self._ask("query", query=expression)["result"]
        return found

    def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        return {
            alert["labels"]["alertname"]
            for alert in self._ask("alerts")["alerts"]
            if alert["state"] == "firing"
        }

    def stop(self) -> None:
        stop([self._process])
