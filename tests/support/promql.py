"""What rules and dashboards ask of Prometheus: their expressions, and the names in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

OPS = Path(__file__).parents[2] / "ops"
RULES = OPS / "prometheus/rules.yml"
ALERTS = OPS / "prometheus/alerts.yml"
DASHBOARDS = sorted((OPS / "grafana/dashboards").glob("*.json"))

GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
WINDOW = re.compile(r"\[[^\]]*\]")
NAME = re.compile(r"(?<![\w.$:])([a-zA-Z_:][\w:]*)\s*(?:\{([^{}]*)\})?(\s*\()?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
WORDS = {"and", "or", "unless", "bool", "offset"}


class Matcher(NamedTuple):
    """`label op "value"`, as in `outcome=~"hit|miss"`."""

    label: str
    op: str
    value: str

    def takes(self, value: str) -> bool:
        """Does it select a series with this value of the label?"""
        wanted = self.value.replace(r"\\", "\\")
        same = bool(re.fullmatch(wanted, value)) if "~" in self.op else wanted == value
        return same != self.op.startswith("!")


@dataclass
class Expression:
    """One expression, where it stands, the metrics it reads, the labels it groups or matches by."""

    where: str
    text: str
    reads: list[tuple[str, list[Matcher]]] = field(default_factory=list)
    grouping: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for clause in GROUPING.findall(self.text):
            self.grouping |= {label.strip() for label in clause.split(",") if label.strip()}
        bare = WINDOW.sub(" ", GROUPING.sub(" ", self.text))
        for name, matchers, called in NAME.findall(bare):
            if not called and name not in WORDS:
                self.reads.append((name, [Matcher(*found) for found in MATCHER.findall(matchers)]))


def rules(path: Path) -> Iterator[dict[str, Any]]:
    """The rules of all groups of a file."""
    for group in yaml.safe_load(path.read_text("utf-8"))["groups"]:
        yield from group["rules"]


def recorded() -> set[str]:
    """Names of the series that recording rules make."""
    return {rule["record"] for rule in rules(RULES)}


def panels(path: Path) -> list[dict[str, Any]]:
    """The panels of a dashboard, without its row titles."""
    return [p for p in json.loads(path.read_text("utf-8"))["panels"] if p["type"] != "row"]


def expressions() -> list[Expression]:
    """Of all rules, alerts, panels, variables and annotations."""
    found = [Expression(f"{p.name}: {r.get('record') or r['alert']}", r["expr"])
             for p in (RULES, ALERTS) for r in rules(p)]  # fmt: skip
    for path in DASHBOARDS:
        board = json.loads(path.read_text("utf-8"))
        for panel in panels(path):
            for target in panel["targets"]:
                found.append(Expression(f"{path.name}: {panel['title']}", target["expr"]))
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                asked = variable["query"]["query"]
                form = re.fullmatch(r"label_values\((.+), (\w+)\)", asked)
                assert form is not None, f"{path.name}: {asked}"
                series, label = form.groups()
                where = f"{path.name}: ${variable['name']}"
                found.append(Expression(where, f"count by ({label}) ({series})"))
        for annotation in board["annotations"]["list"]:
            found.append(Expression(f"{path.name}: annotations", annotation["expr"]))
    return found
