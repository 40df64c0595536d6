"""The end of a rollout: the version of the candidate becomes the live one.

A candidate's state is never copied. Both roles fold the same log, so the live workers have the same
read states once they are of the candidate's version and have folded as far. Meanwhile, the
candidate answers everybody, so no client notices that the live workers are replaced one after
another.

D1: a candidate ends only at the last share, after the gates of that phase have held, and after
    every live worker that Prometheus knows was started since then.
D2: before it ends, the live group has committed everything that was in the log when D1 was seen to
    hold. What is below a commit is in `read_states`, so nothing is needed that is in the overlay
    alone (V3), and no reply is older than one that the candidate gave before that moment.
D3: up to the record that ends the candidate, each step only looks, or repeats what an interrupted
    command has done.

From that record on, the live workers answer everybody, and the candidate's workers go on for
GRACE_S (S1), so for that long a client may get two replies.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from readstates.schemas.rollout import Candidate

from ..config import Settings
from ..errors import RolloutError
from ..kafka.admin import connect_admin
from ..kafka.group_commits import commits_of, log_offsets
from ..kafka.topics import described
from .prometheus import Prometheus

# Seconds since the oldest live worker was started.
OLDEST_LIVE = """
time() - min(process_start_time_seconds
  and on (job, instance) (read_states_role{role="live"} == 1))
"""
STEP_S = 15.0
POLL_S = 1.0


def refuse_old_workers(prometheus: Prometheus, candidate: Candidate, now_s: float) -> None:
    """Raise RolloutError unless every live worker was started after the last gates held (D1).

    Raises PrometheusError.
    """
    samples = prometheus.samples(OLDEST_LIVE.strip(), now_s - STEP_S, now_s, STEP_S)
    if not samples:
        raise RolloutError(
            "Prometheus knows no live worker. Start the live workers with the candidate's version "
            "and settings, and run this again"
        )
    at_s, age_s = samples[-1]
    if at_s - age_s < candidate.finishing_ms / 1000:
        raise RolloutError(
            f"a live worker was started {age_s:.0f} s ago, before the last gates held. Restart all "
            "live workers with the candidate's version and settings, one after another, and run "
            "this again"
        )


def wait_for_commits(settings: Settings, timeout_s: float, left: Callable[[int], None]) -> None:
    """Wait until the live group has committed all that is in the log now (D2).

    `settings`: those of the live workers. `left` is called with the number of records that are not
    committed yet, at most every POLL_S. Raises RolloutError after `timeout_s`.
    """
    client, name = connect_admin(settings), settings.updates_topic
    found = described(client, name)
    if found is None:
        raise RolloutError(f"topic {name} does not exist")
    partitions = found.topic.partitions
    starts, ends, _ = log_offsets(client, name, partitions, None)
    until = time.monotonic() + timeout_s
    while True:
        committed = [offset for offset, _ in commits_of(settings, name, partitions)]
        missing = sum(
            end - max(start, offset)
            for start, end, offset in zip(starts, ends, committed, strict=True)
            if offset < end and start < end
        )
        left(missing)
        if not missing:
            return
        if time.monotonic() > until:
            raise RolloutError(
                f"group {settings.kafka_group} has not committed {missing} records of {name} "
                f"within {timeout_s:g} s. Nothing was changed. Look at the live workers with "
                "readstates status, and run this again"
            )
        time.sleep(POLL_S)
