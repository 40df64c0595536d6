"""What dashboards and runbooks ask of Prometheus, as the drills can ask it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from . import scaled

OPS = Path(__file__).parents[1]
FILLED = {
    "$__rate_interval": "20s",
    "$__range": "60s",
    "$job": "read-states",
    "$partition": "0",
}


def _scaled(query: str) -> str:
    return re.sub(r"\[(\d+[mh])\]", lambda m: f"[{scaled.shorter(m[1])}]", query)


def of_panels() -> list[tuple[str, str]]:
    """Where, and the query with its variables filled in."""
    found = []
    for path in sorted((OPS / "grafana/dashboards").glob("*.json")):
        for panel in json.loads(path.read_text("utf-8"))["panels"]:
            for target in panel.get("targets", ()):
                query = target["expr"]
                for name, value in FILLED.items():
                    query = query.replace(name, value)
                found.append((f"{path.stem}: {panel['title']}", _scaled(query)))
    return found


def of_runbooks() -> list[tuple[str, str]]:
    """Where, and the query; each is an argument of curl there."""
    return [
        (path.stem, _scaled(query))
        for path in sorted((OPS / "runbooks").glob("*.md"))
        for query in re.findall(r"--data-urlencode 'query=([^']+)'", path.read_text("utf-8"))
    ]
