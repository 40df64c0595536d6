"""Prometheus for tests: a server that answers what a test says, and the real one."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from urllib.request import urlopen

from readstates.ops.drills.prometheus import find, free_port
from readstates.ops.local.process import spawn, stop

from .waiting import until

Series = list[dict[str, Any]]


class Asked:
    """A server; `series` has what each expression answers, given start, end and step."""

    def __init__(self) -> None:
        self.series: dict[str, Callable[[float, float, float], Series]] = {}
        self.expressions: list[str] = []  # that were asked
        asked = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                form = {k: v[0] for k, v in parse_qs(self.rfile.read(length).decode()).items()}
                asked.expressions.append(form["query"])
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


@contextmanager
def prometheus() -> Iterator[Asked]:
    """Such a server, as long as the context lasts."""
    made = Asked()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        thread.join()
        made.server.server_close()


CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: read-states
    file_sd_configs: [{{files: ["{targets}"], refresh_interval: 1s}}]
"""


class RealPrometheus:
    """A Prometheus that scrapes every second. Raises PrometheusError if there is no binary."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._targets = folder / "targets.json"
        self.scrape()
        config = folder / "prometheus.yml"
        config.write_text(CONFIG.format(targets=self._targets), "utf-8")
        self.url = f"http://127.0.0.1:{free_port()}"
        self._process = spawn(
            [
                find(),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
            ],
            folder / "log",
            os.environ,
        )
        until(self._answers, "Prometheus answers", 60)

    def scrape(self, *urls: str) -> None:
        """Scrape these addresses, and no others, from now on."""
        targets = [{"targets": [url.removeprefix("http://") for url in urls]}]
        self._targets.write_text(json.dumps(targets), "utf-8")

    def _answers(self) -> bool:
        try:
            with urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        stop([self._process])
