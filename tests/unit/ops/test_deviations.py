"""The table of deviations, its runbook and its metric say the same."""

from __future__ import annotations

import re

import pytest

from readstates.streams import metrics
from readstates.streams.deviations import DEVIATIONS
from tests.support.promql import OPS

PAGE = (OPS / "runbooks" / "ReadStatesDeviation.md").read_text("utf-8")


def test_the_runbook_has_the_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)
    assert rows == [(name, one.decision.value, one.why) for name, one in DEVIATIONS.items()]


def test_the_runbook_has_a_section_for_each() -> None:
    sections = re.findall(r"^### (\w+)\n(?!\n)", PAGE, re.MULTILINE)
    assert sections == list(DEVIATIONS)


@pytest.mark.parametrize("name", DEVIATIONS)
def test_each_is_exported_before_it_is_found(name: str) -> None:
    (family,) = metrics.DEVIATION.collect()
    assert name in {sample.labels["name"] for sample in family.samples}
