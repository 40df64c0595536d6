"""Every metric, label and label value that a rule or a panel names is one that a worker exports."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from readstates.streams.comparison.findings import RESULTS
from tests.support.promql import Expression, expressions, recorded
from tests.support.service import Service
from tests.support.waiting import until
from tests.support.wire import new_user

Exported = Mapping[str, Mapping[str, set[str]]]  # metric -> label -> the values it has
OF_PROMETHEUS = {"job", "instance"}  # the labels that scraping adds
# The first word of a recorded name says which labels it has.
LEVELS = {
    "topic_partition": {"job", "topic", "partition"},
    "partition": {"job", "partition"},
    "instance": {"job", "instance"},
    "job": {"job"},
    "job_reason": {"job", "reason"},
    "read_states": set[str](),
}


def exported_by(text: str) -> dict[str, dict[str, set[str]]]:
    found: dict[str, dict[str, set[str]]] = {
        "up": {},
        "ALERTS": {"alertstate": {"firing"}},
        "read_states_compared_total": {"result": set(RESULTS)},  # of `readstates rollout compare`
    }
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


def faults(expression: Expression, exported: Exported) -> list[str]:
    """What the expression names and nobody exports."""
    said, labels = [], set(OF_PROMETHEUS)
    for name, matchers in expression.reads:
        level = name.partition(":")[0]
        if name in exported:
            has = exported[name].keys() | OF_PROMETHEUS
        elif name in RECORDED:
            has = LEVELS[level]
        else:
            said.append(f"{expression.where}: there is no {name}")
            continue
        labels |= has
        for matcher in matchers:
            values = exported.get(name, {}).get(matcher.label)
            if matcher.label not in has:
                said.append(f"{expression.where}: {name} has no label {matcher.label}")
            elif values and "$" not in matcher.value and not any(map(matcher.takes, values)):
                said.append(f"{expression.where}: no {name} has {matcher}")
    missing = expression.grouping - labels
    return said + [f"{expression.where}: nothing in it has a label {label}" for label in missing]


RECORDED = recorded()


def test_every_name_is_exported(service: Service) -> None:
    service.wire.get(new_user())
    gauge = "read_states_processing_lag_records{"  # exported once per second
    until(lambda: gauge in service.workers[0].get("/metrics")[1], "the partitions' gauges")
    exported = exported_by(service.workers[0].get("/metrics")[1])
    asked = expressions()
    assert len(asked) > 80
    assert [fault for expression in asked for fault in faults(expression, exported)] == []
    read = {name for expression in asked for name, _ in expression.reads}
    bases = {name.removesuffix(s) for name in read for s in ("", "_count", "_sum", "_bucket")}
    ours = {name for name in exported if name.startswith("read_states_")}
    unseen = {
        name
        for name in ours
        if name not in read
        and not any(name.removesuffix(s) in bases for s in ("_count", "_sum", "_bucket"))
    }
    assert unseen == set(), "exported, and on no dashboard and in no rule"


def test_a_wrong_name_would_be_seen() -> None:
    exported = {"m": {"outcome": {"hit"}, "le": {"0.1"}}}
    for wrong in ("n", 'm{kind="hit"}', 'm{outcome="hot"}', "sum by (kind) (m)", 'm{le="0.15"}'):
        assert len(faults(Expression("here", wrong), exported)) == 1, wrong
    for right in ('rate(m{outcome=~"hit|miss"}[5m]) > 1e-9', "sum by (job, le) (m)"):
        assert faults(Expression("here", right), exported) == []
