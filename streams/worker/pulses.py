"""Looks whether every thread and every loop of the worker still moves, and says which does not.

`health` is about the vital ones: an orchestrator restarts a worker whose /healthz says no. `ready`
is about all of them. If the event loop itself hangs, /healthz does not answer, which comes to the
same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from functools import partial

from .. import metrics
from ..kafka.pulse import Pulse

log = logging.getLogger(__name__)

LOG_S = 60.0  # between two log lines about one that is stuck


class Pulses:
    """See the module. The threads end with the worker, so the list is complete from the start."""

    def __init__(self, pulses: Iterable[Pulse]) -> None:
        self._pulses = tuple(pulses)
        self._logged_at: dict[str, float] = {}  # time.monotonic(), by name
        for pulse in self._pulses:
            metrics.STUCK.labels(pulse.name).set_function(partial(_is_stuck, pulse))

    def health(self) -> tuple[bool, str]:
        """False if something is stuck without which nobody is served; and what."""
        return _judged([pulse for pulse in self._pulses if pulse.is_vital])

    def ready(self) -> tuple[bool, str]:
        """False if anything is stuck; and what."""
        return _judged(self._pulses)

    def log_stuck(self) -> None:
        """Log what is stuck, from time to time; the metric is computed when it is read."""
        now = time.monotonic()
        for pulse in self._pulses:
            if not pulse.is_stuck:
                self._logged_at.pop(pulse.name, None)
            elif now - self._logged_at.get(pulse.name, -LOG_S) >= LOG_S:
                self._logged_at[pulse.name] = now
                log.error(
                    "stuck name=%s silent_s=%.0f: this part of the worker has not moved for so "
                    "long. Restart the worker, and report this. See ReadStatesWorkerStuck.md",
                    pulse.name,
                    pulse.silent_s(),
                )


def _is_stuck(pulse: Pulse) -> float:
    return float(pulse.is_stuck)


def _judged(pulses: Iterable[Pulse]) -> tuple[bool, str]:
    stuck = [f"{one.name} for {one.silent_s():.0f} s" for one in pulses if one.is_stuck]
    return not stuck, f"stuck: {', '.join(stuck)}" if stuck else "everything moves"
