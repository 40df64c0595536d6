"""What the commands of a rollout see in a test: a topic, a Prometheus, and a small plan."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from readstates.schemas.rollout import Candidate
from readstates.streams.commands.rollout import rollout

from .prometheus import Asked, steady
from .rollout_topic import Topic

PLAN = """
[[phases]]
share = 0
hours = 1
[[phases]]
share = 100
hours = 1
[[phases]]
share = 10000
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
goal = true
[[gates]]
name = "differences"
means = "pairs that differ"
expr = "differ_total"
at_most = 0.5
goal = true
accepts = true
"""
GROUP, RUN = "new", "0123456789abcdef"


def candidate(share: int = 0, hours: float = 2, **more: Any) -> Candidate:
    """One that has had this share for so many hours."""
    since_ms = int((time.time() - hours * 3600) * 1000)
    return Candidate(GROUP, share, True, RUN, since_ms, since_ms)._replace(**more)


class World:
    """All gates hold; a test changes what it wants."""

    def __init__(self, folder: Path, asked: Asked, topic: Topic) -> None:
        self.asked, self.topic = asked, topic
        self.plan = folder / "plan.toml"
        self.plan.write_text(PLAN, "utf-8")
        self.set(age_ratio="1", pairs_total="7", differ_total="0")

    def set(self, **values: str) -> None:
        self.asked.series |= {name: steady(value) for name, value in values.items()}

    def run(self, command: str, *arguments: str) -> Result:
        argv = [command, "--plan", str(self.plan), "--prometheus", self.asked.url, *arguments]
        return CliRunner().invoke(rollout, argv, catch_exceptions=False)

    @property
    def share(self) -> int:
        return self.topic.candidates[GROUP].share


Worlds = Callable[[Candidate], World]
