"""Shrinks a plan that fails: fewer records, then fewer faults. A person reads the rest."""

from __future__ import annotations

from dataclasses import replace

from . import plan as plans
from . import world
from .plan import Plan


def part(plan: Plan, records: int | None, faults: list[int] | None) -> Plan:
    """The first `records` of the traffic, and the faults of these numbers."""
    kept = plan.faults if faults is None else [plan.faults[number] for number in faults]
    return replace(plan, sends=plan.sends[:records], faults=kept)


def failure(plan: Plan) -> str | None:
    """What is wrong with a run of it, and what happened before; None if nothing is."""
    try:
        world.run(plan)
    except Exception as exc:  # noqa: BLE001 (whatever it is, it is the result)
        notes = "\n".join(getattr(exc, "__notes__", ()))
        cause = f"\nbecause of {exc.__cause__!r}" if exc.__cause__ else ""
        return f"{type(exc).__name__}: {exc}{cause}\n{notes}"
    return None


def less(plan: Plan) -> Plan:
    """Halve the records while it fails, then leave out the faults one by one."""
    step = len(plan.sends)
    while step > 1:
        step = (step + 1) // 2
        shorter = replace(plan, sends=plan.sends[: len(plan.sends) - step])
        while shorter.sends and failure(shorter) is not None:
            plan = shorter
            shorter = replace(plan, sends=plan.sends[: len(plan.sends) - step])
    for fault in list(plan.faults):
        fewer = replace(plan, faults=[other for other in plan.faults if other is not fault])
        if failure(fewer) is not None:
            plan = fewer
    return plan


def command(plan: Plan) -> str:
    """What runs it again."""
    whole = plans.make(plan.seed)
    numbers = ",".join(str(whole.faults.index(fault)) for fault in plan.faults)
    records = len(plan.sends)
    return f"python -m tests.sim {plan.seed} --records {records} --faults {numbers!r}"
