"""A server that answers as Prometheus does, with what a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs

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
