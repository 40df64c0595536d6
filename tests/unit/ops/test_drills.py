"""What the drills change of the rules, that none is missing, and how they judge."""

from __future__ import annotations

import re
from itertools import chain, repeat
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from readstates.ops.drills import __main__ as drills
from readstates.ops.drills import queries, scaled
from readstates.ops.drills.drills import DRILLS, Drill
from readstates.ops.drills.world import NUMBERS
from tests.support.promql import ALERTS, OPS, RULES, rules

PAGE = (OPS / "runbooks" / "README.md").read_text("utf-8")


def test_every_alert_has_one_drill() -> None:
    tried = [alert for drill in DRILLS for alert in drill.alerts]
    assert sorted(tried) == sorted(rule["alert"] for rule in rules(ALERTS))


def test_the_runbooks_table_has_the_words_of_the_drills() -> None:
    """The times are of real runs."""
    rows = re.findall(
        r"^\| (ReadStates\w+) \| (.+) \| \d+ s \| (.+) \| \d+ s \|$", PAGE, re.MULTILINE
    )
    drills = [(alert, drill.cause, drill.fix) for drill in DRILLS for alert in drill.alerts]
    assert len(rows) > 20
    assert set(rows) <= set(drills)


def test_durations_are_scaled() -> None:
    assert scaled.shorter("5m") == "20s"
    assert scaled.shorter("6h") == "1440s"
    found = scaled.rules("alerts.yml", NUMBERS)
    assert "[5m]" not in found
    assert "for: 40s" in found
    for path in (RULES, ALERTS):
        written = yaml.safe_load(scaled.rules(path.name, {}))["groups"]
        assert sum(len(group["rules"]) for group in written) == len(list(rules(path)))


@pytest.mark.parametrize("old", NUMBERS)
def test_what_is_replaced_is_there(old: str) -> None:
    assert old in RULES.read_text("utf-8") + ALERTS.read_text("utf-8")


def test_panels_have_no_variable_left() -> None:
    found = queries.of_panels()
    assert len(found) > 50
    for where, query in found:
        assert "$" not in query, where
        assert not re.search(r"\[\d+[mh]\]", query), where


def test_every_query_of_a_runbook_is_asked() -> None:
    found = queries.of_runbooks()
    pages = [path.read_text("utf-8") for path in (OPS / "runbooks").glob("*.md")]
    assert len(found) == sum(page.count("/api/v1/query ") for page in pages) > 70
    for where, query in found:
        assert not re.search(r"\[\d+[mh]\]", query), where


def test_the_restart_loop_is_first() -> None:
    """Restarts of other drills would count."""
    assert DRILLS[0].alerts == ("ReadStatesRestartLoop",)


class Scripted:
    """A world whose Prometheus says what is written, a word a look; the last for ever.

    One text until the cause, one until the fix, one after it. A letter is an alert that fires.
    """

    def __init__(self, *texts: str) -> None:
        self._texts = list(texts)
        self.prometheus = SimpleNamespace(firing=lambda: set(next(self._looks)))
        self.next()

    def next(self) -> None:
        words = self._texts.pop(0).split()
        self._looks = chain(words, repeat(words[-1]))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look takes a second."""
    now = SimpleNamespace(s=0.0)

    def sleep(_seconds: float) -> None:
        now.s += 1

    fake = SimpleNamespace(monotonic=lambda: now.s, sleep=sleep)
    monkeypatch.setattr(drills, "time", fake)
    monkeypatch.setattr(drills, "_start", 0.0)


def judge(before: str, broken: str, mended: str, alerts: str = "a") -> list[drills.Verdict]:
    world: Any = Scripted(before, broken, mended)

    def next_text(_world: object) -> None:
        world.next()

    drill = Drill("cause", "fix", tuple(alerts), next_text, next_text)
    return drills.run(world, drill)


@pytest.mark.usefixtures("clock")
def test_an_alert_that_fires_and_clears_is_good() -> None:
    (verdict,) = judge("az a z", "z z z az", "az az z")
    assert (verdict.good, verdict.fired_s, verdict.cleared_s) == (True, 3, 2)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("before", "broken", "mended"),
    [
        pytest.param("-", "-", "-", id="never fires"),
        pytest.param("a", "a", "-", id="fires before its cause"),
        pytest.param("-", "a", "a", id="never clears"),
        pytest.param("-", "a", "- a -", id="comes back for a moment"),
        pytest.param("-", "a", "- " * 15 + "a", id="comes back after a while"),
    ],
)
def test_what_is_bad(before: str, broken: str, mended: str) -> None:
    (verdict,) = judge(before, broken, mended)
    assert not verdict.good


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("broken", ["- a - b", "- a - ab"])
def test_an_alert_that_stops_before_its_fix_is_bad(broken: str) -> None:
    """While the drill waits for another one; also if it fires again by then."""
    first, second = judge("-", broken, "-", "ab")
    assert (first.good, second.good) == (False, True)
    assert first.lapsed
    assert (first.fired_s, first.cleared_s) == (1, 0)


def test_options_are_checked(tmp_path: Any) -> None:
    (tmp_path / "kept").touch()
    for asked, said in (
        (["--only", "ReadStatesNothing"], "ReadStatesNothing"),
        (["--data-dir", str(tmp_path)], "not empty"),
    ):
        done = CliRunner().invoke(drills.drills, asked)
        assert done.exit_code == 2
        assert said in done.output
