"""The probe: every PROBE_INTERVAL_S, a worker asks a query of each of its partitions, as a client.

The probe goes the whole way: through a producer to `queries`, through this worker, with a load from
Cassandra, and through a reply topic to a consumer. So it notices whatever keeps queries from being
answered, also what no other check knows of. What counts:

- An answer within LATE_S is good. Its time is in `read_states_probe_seconds`.
- A later answer is a failure: a client with the default deadline has given up by then. So it is if
  the reply waits in the producer, because the brokers throttle it.
- No answer within ANSWER_S, and an error in place of an answer, are failures. So it is a failure if
  Cassandra does not answer (`store_unavailable`): users who are not resident are not served then.
- `not_caught_up` is a failure only if the partition has applied nothing since the probe was sent.
  Otherwise it is behind its producers, which the lag shows, and not standing.
- A partition is asked while it is open and has caught up. A probe whose partition was handed over
  or lost meanwhile does not count: the next owner may answer it, or nobody.

FAILURES_MAX failures among the last RECENT probes of a partition make the worker not ready: not in
a row, because only some of them fail if some users' queries go to partitions that nobody reads.

The fault may be with the probe's own clients (`lasting_producer.py` says which). So they are made
anew if nothing at all is heard for a while; if a partition is bad, at most once in RENEW_S; and if
the watch has seen that one of their topics was made anew.

Two replies to the same probe, again and again, mean that another group answers the same queries:
the deviation `answered_twice`. A candidate's group is none of these, because each user has a reply
from the candidate or from the live workers, and a probe's user does, too.

A thread of its own does all this, because Kafka's clients block.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import NamedTuple

from readstates.schemas.headers import DEADLINE_DEFAULT_MS
from readstates.schemas.replies import NOT_CAUGHT_UP

from .. import metrics
from ..deviations import ANSWERED_TWICE, Found
from ..kafka.prober import UNSENT, Prober, Taken
from ..kafka.pulse import Pulse
from .partitions import Partitions

log = logging.getLogger(__name__)

LATE_S = DEADLINE_DEFAULT_MS / 1000
ANSWER_S = 7.0  # a query has 5 s by default; the rest is for the way there and back
RECENT, FAILURES_MAX = 10, 3  # a broker that restarts may cost one or two probes
POLL_S, IDLE_POLL_S = 0.2, 1.0  # a wait for replies: while some are missing, and otherwise
RENEW_S = 30.0  # between new clients because of a bad partition
TWICE_S = 30.0  # a worker that has lost its partitions hears of it sooner
LOG_S = 60.0
JOIN_TIMEOUT_S = 2.0
SILENT_MAX_S = 60.0  # several requests, each with its time limit, and new clients
NO_ANSWER, LATE = "no answer", "late"
ERROR_LENGTH_MAX = 300  # characters of an error that are shown


class Asked(NamedTuple):
    """A probe under way."""

    number: int  # of the partition
    incarnation: int
    position: int  # of the partition when it was asked
    at: float  # time.monotonic(), when it had been sent


class Probe:
    """See the module. `partitions` is only read. `ready` may be called from any thread."""

    def __init__(self, partitions: Partitions, prober: Prober) -> None:
        self._owned = partitions.owned
        self._settings, self._prober = partitions.settings, prober
        self._pending: dict[bytes, Asked] = {}  # by correlation ID, the oldest first
        self._answered: dict[bytes, Asked] = {}  # the same; until no second reply is to be expected
        self._twice_since = self._twice_at = -math.inf  # first and last second reply, of a series
        self._series: dict[int, metrics.ProbeOfPartition] = {}  # by partition
        self._recent: dict[int, tuple[str, ...]] = {}  # by partition: errors, "" for an answer
        self._heard_at = time.monotonic()  # of any reply, or of the last new clients
        self._renewed_at = -RENEW_S
        self._made_anew = ""  # a topic
        self._logged_at = self._renewal_logged_at = -LOG_S
        self._ended = ""  # why there are no more probes
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)
        self.pulse = Pulse(self._thread.name, SILENT_MAX_S)

    def start(self) -> None:
        if self._settings.probe_interval_s:
            self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(JOIN_TIMEOUT_S)

    def ready(self) -> tuple[bool, str]:
        """False if a partition does not answer, or the probe has ended; and which, and why."""
        if self._ended:
            return False, self._ended
        recent = self._recent.copy()
        bad = sorted(number for number, one in recent.items() if _is_bad(one))
        if bad:
            shown = ", ".join(map(str, bad[:8]))
            return False, f"probes fail, partitions {shown}; {bad[0]}: {_error(recent[bad[0]])}"
        return True, "probes are answered"

    def found(self) -> list[Found]:
        """The deviation, if another group answers the same queries."""
        if self._twice_at - self._twice_since < TWICE_S or not self._goes_on(time.monotonic()):
            return []
        settings = self._settings
        text = (
            f"the queries that this worker sends to itself get two replies each: workers of "
            f"another group than {settings.kafka_group} answer {settings.queries_topic} as well. "
            "kafka-consumer-groups.sh --describe --all-groups says which groups have committed "
            f"offsets of {settings.updates_topic}. Stop the workers that should not be there"
        )
        return [Found(ANSWERED_TWICE, text)]

    def topic_made_anew(self, topic: str) -> None:
        """The watch has seen that this topic was deleted and made anew; any thread may say so."""
        if topic in (self._settings.queries_topic, self._settings.probes_topic):
            self._made_anew = topic

    # -- in the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        next_at = time.monotonic()
        try:
            while not self._stopping.is_set():
                self.pulse.beat()
                now = time.monotonic()
                if now >= next_at:
                    next_at = now + (self._settings.probe_interval_s if self._ask(now) else POLL_S)
                poll_s = POLL_S if self._pending else IDLE_POLL_S
                wait_s = min(poll_s, max(0.0, next_at - now))
                for taken in self._prober.take(wait_s):
                    self._note(taken)
                self._give_up(time.monotonic() - ANSWER_S)
        except Exception as exc:
            self._ended = f"the probe has ended: {exc!r}"
            log.exception("probe_ended: restart the worker, and report this as a bug")
        finally:
            self._prober.close()

    def _ask(self, now: float) -> bool:
        """Send a probe to each partition that should answer; False if there is none."""
        owned = {
            number: one.partition
            for number, one in self._owned.copy().items()
            if not one.partition.closing and one.partition.progress.caught_up
        }
        for number in self._recent.keys() - owned.keys():
            del self._recent[number]
        for number in owned.keys() - self._series.keys():
            self._series[number] = metrics.ProbeOfPartition(number)
        if not owned:
            self._heard_at = now
            return False
        if why := self._why_renew(now):
            self._renew(now, why)
        asked = self._prober.ask([*owned])
        if not asked:  # the topic for the replies is gone: nothing is known of any partition
            self._recent.clear()
        sent_at = time.monotonic()  # what `ask` looks up before may take its time
        for correlation_id, number in asked.items():
            one = owned[number]
            self._pending[correlation_id] = Asked(number, one.incarnation, one.position, sent_at)
        return True

    def _why_renew(self, now: float) -> str:
        """Why the probe needs new clients; empty if it does not."""
        if self._made_anew:
            return f"topic {self._made_anew} was deleted and made anew"
        if now - self._heard_at > ANSWER_S + self._settings.probe_interval_s:
            return "nothing is heard"
        bad = sorted(number for number, one in self._recent.items() if _is_bad(one))
        if bad and now - self._renewed_at > RENEW_S:
            return f"partition {bad[0]} does not answer"
        return ""

    def _renew(self, now: float, why: str) -> None:
        self._made_anew = ""
        self._prober.reopen()
        self._heard_at = self._renewed_at = now
        metrics.CLIENTS_RENEWED.labels("probe").inc()
        if now - self._renewal_logged_at > LOG_S:
            self._renewal_logged_at = now
            log.warning(
                "client_renewed client=probe why=%r: the fault may be with the probe's own "
                "clients, so it asks with new ones. If it is not, the probes go on failing",
                why,
            )

    def _note(self, taken: Taken) -> None:
        """Judge a reply, or a probe that could not be sent."""
        asked = self._pending.pop(taken.correlation_id, None)
        if taken.code != UNSENT:
            self._heard_at = taken.at
        if asked is None:  # too late, or a second reply
            if self._answered.pop(taken.correlation_id, None) is not None:
                self._note_second(taken.at)
            return
        self._answered[taken.correlation_id] = asked
        if taken.code:
            self._fail(asked, taken.code, taken.text)
            return
        took_s = taken.at - asked.at
        self._series[asked.number].seconds.observe(took_s)
        if took_s > LATE_S:
            self._fail(asked, LATE, f"the answer took {took_s:.1f} s")
        else:
            self._keep(asked.number, "")

    def _note_second(self, at: float) -> None:
        if not self._goes_on(at):
            self._twice_since = at
        self._twice_at = at

    def _goes_on(self, now: float) -> bool:
        """True if one of the last two rounds has got a second reply."""
        return now - self._twice_at <= 2 * self._settings.probe_interval_s + ANSWER_S

    def _give_up(self, before: float) -> None:
        """Judge the probes that were sent before that and have no answer; forget the others."""
        while self._pending:
            correlation_id, asked = next(iter(self._pending.items()))  # the oldest
            if asked.at > before:
                break
            del self._pending[correlation_id]
            self._fail(asked, NO_ANSWER, f"within {ANSWER_S:g} s")
        while self._answered:
            correlation_id, asked = next(iter(self._answered.items()))
            if asked.at > before:
                break
            del self._answered[correlation_id]

    def _fail(self, asked: Asked, code: str, text: str) -> None:
        number = asked.number
        owned = self._owned.get(number)
        if owned is None or owned.partition.closing:
            return
        if owned.partition.incarnation != asked.incarnation:
            return
        if code == NOT_CAUGHT_UP and owned.partition.position > asked.position:
            return
        self._series[number].failures.inc()
        self._keep(number, f"{code}: {text}"[:ERROR_LENGTH_MAX])

    def _keep(self, number: int, error: str) -> None:
        """Keep what came of a probe, and say if the partition is bad now, or good again."""
        before = self._recent.get(number, ())
        recent = self._recent[number] = (*before, error)[-RECENT:]
        if _is_bad(before) and not _is_bad(recent):
            log.info("probe_answered partition=%d", number)
        if _is_bad(recent) and time.monotonic() - self._logged_at > LOG_S:
            self._logged_at = time.monotonic()
            log.error(
                "probe_failed topic=%s partition=%d failures=%d of=%d error=%s: this worker asks "
                "itself as a client does, and does not get an answer. So clients get none either. "
                "See ReadStatesProbeFails.md",
                self._settings.queries_topic,
                number,
                _failures(recent),
                len(recent),
                _error(recent),
            )


def _failures(recent: tuple[str, ...]) -> int:
    return sum(map(bool, recent))


def _is_bad(recent: tuple[str, ...]) -> bool:
    return _failures(recent) >= FAILURES_MAX


def _error(recent: tuple[str, ...]) -> str:
    """The last error."""
    return next(error for error in reversed(recent) if error)
