"""Asks Prometheus for the samples of an expression."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from ..errors import PrometheusError
from .gates import Sample

TIMEOUT_S = 20.0
BYTES_MAX = 8 << 20  # of an answer; a day in steps of 15 s has 0.2 MB


class Prometheus:
    """A server, by its address, such as http://127.0.0.1:9090. `timeout_s`: of an answer."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self._url, self._timeout_s = url.rstrip("/"), timeout_s

    def samples(self, expression: str, start_s: float, end_s: float, step_s: float) -> list[Sample]:
        """The samples of an expression between two moments, every `step_s`; none if it has none.

        Raises PrometheusError: no answer, a refusal, or more than one series.
        """
        series = self._range(expression, start_s, end_s, step_s)
        if len(series) > 1:
            raise PrometheusError(
                f"{len(series)} series instead of one, so nobody knows which counts: {expression}"
            )
        values = series[0]["values"] if series else []
        return [(float(at), float(value)) for at, value in values]

    def _range(self, expression: str, start_s: float, end_s: float, step_s: float) -> list[Any]:
        asked = {"query": expression, "start": start_s, "end": end_s, "step": step_s}
        url = f"{self._url}/api/v1/query_range"
        body = urllib.parse.urlencode(asked).encode()
        try:
            with urllib.request.urlopen(url, body, timeout=self._timeout_s) as answer:
                found = json.loads(answer.read(BYTES_MAX))
                series: list[Any] = found["data"]["result"]
                return series
        except urllib.error.HTTPError as exc:
            with exc:
                text = exc.read(2000).decode(errors="replace")
            raise PrometheusError(f"{url} refuses {expression!r}: {text}") from exc
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise PrometheusError(f"{url} gave no answer to {expression!r}: {exc}") from exc
