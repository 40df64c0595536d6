"""Decides when a watch must take a candidate back to share 0. It asks nobody.

J3: while the candidate answers users, a broken gate of the running phase takes it back at once.
J4: a gate without a figure is tolerated for as long as the watch may be blind, and then takes the
    candidate back, too: nobody knows any more whether it is good.
J5: at share 0 there is nothing to take back, and while a rollout is being finished, the live
    workers are being replaced, so figures that compare with theirs say nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from readstates.schemas.rollout import Candidate

from .gates import Verdict

HOLDS, BROKEN, UNKNOWN = "within its limit", "broken", "without a figure"


class Watching:
    """What was seen of a candidate. Times are those of a monotonic clock, in seconds."""

    def __init__(self, blind_s: float) -> None:
        self._blind_s = blind_s
        self._states: dict[str, str] = {}
        self._unknown_since: dict[str, float] = {}
        self._seen: tuple[int, int] | None = None

    def look(
        self, candidate: Candidate, verdicts: Sequence[tuple[Verdict, str]], now: float
    ) -> tuple[list[str], str]:
        """Lines that say what has changed, and why the candidate must go back, or an empty text.

        `verdicts`: of `phase.judged_now`.
        """
        lines = self._phase(candidate)
        reasons = []
        for verdict, why in verdicts:
            name, state = verdict.gate.name, _state(verdict)
            if state == UNKNOWN:
                since = self._unknown_since.setdefault(name, now)
                if now - since > self._blind_s:
                    reasons.append(f"{name} has had no figure for {now - since:.0f} s")
            else:
                self._unknown_since.pop(name, None)
            if state == BROKEN:
                reasons.append(f"{name} is {verdict.value:g}, wants {verdict.gate.bound}")
            if state != self._states.get(name):
                shown = f": {verdict.value:g}" if state != UNKNOWN else f": {why}"
                lines.append(f"{name} is {state}{shown}, wants {verdict.gate.bound}")
            self._states[name] = state
        can_go_back = candidate.share > 0 and not candidate.finishing_ms
        return lines, "; ".join(reasons) if can_go_back else ""

    def _phase(self, candidate: Candidate) -> list[str]:
        """A line if the phase has changed; in a new phase nothing is known of the gates."""
        phase = candidate.share, candidate.finishing_ms
        if phase == self._seen:
            return []
        self._seen = phase
        self._states.clear()
        self._unknown_since.clear()
        finishing = ", is being finished: gates only shown" if candidate.finishing_ms else ""
        return [f"{candidate.group} has share {candidate.share}{finishing}"]


def _state(verdict: Verdict) -> str:
    if verdict.is_broken:
        return BROKEN
    return UNKNOWN if verdict.since_s is None else HOLDS
