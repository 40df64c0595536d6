"""The rules and alerts of ops/prometheus/ with a faster clock.

Every window (`[5m]`), every `for:` and the interval of scraping is divided by SCALE, so that a
window holds as many samples as it does in production. Seconds that an expression compares with stay
what they are (the objective's 100 ms, 30 s of work), but for those in `numbers`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

SCALE = 15  # a scrape every 15 s becomes one per second, 10 minutes become 40 s
PROMETHEUS = Path(__file__).parents[1] / "prometheus"
UNITS = {"s": 1, "m": 60, "h": 3600}
DURATION = re.compile(r"(\d+)([smh])")


def shorter(duration: str) -> str:
    """`10m` as the drills have it: `40s`."""
    found = DURATION.fullmatch(duration)
    assert found is not None, duration
    return f"{int(found[1]) * UNITS[found[2]] // SCALE}s"


def rules(name: str, numbers: dict[str, str]) -> str:
    """A file of rules, scaled. `numbers`: what is to be replaced in its expressions."""
    groups = yaml.safe_load((PROMETHEUS / name).read_text("utf-8"))
    for group in groups["groups"]:
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = shorter(rule["for"])
            expr = re.sub(r"\[(\d+[smh])\]", lambda m: f"[{shorter(m[1])}]", rule["expr"])
            for old, new in numbers.items():
                expr = expr.replace(old, new)
            rule["expr"] = expr
    return str(yaml.safe_dump(groups, sort_keys=False))


def config(target: str, compare: str) -> str:
    """The configuration, for one worker and one `readstates rollout compare` at fixed places."""
    found: dict[str, Any] = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text("utf-8"))
    found["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (job,) = found["scrape_configs"]
    job.pop("dns_sd_configs")
    job["scrape_timeout"] = "1s"
    job["static_configs"] = [{"targets": [target]}]
    found["scrape_configs"].append(
        {"job_name": "compare", "static_configs": [{"targets": [compare]}]}
    )
    return str(yaml.safe_dump(found, sort_keys=False))


def alerts() -> list[str]:
    """The name of every alert."""
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text("utf-8"))["groups"]
    return [rule["alert"] for group in groups for rule in group["rules"]]
