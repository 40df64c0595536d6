"""`readstates rollout compare`: compares the replies of the live workers and of a candidate."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from readstates.schemas.headers import HEADER_ROLE, headers_of, reply_address
from readstates.schemas.probes import HEADER_PROBE
from readstates.schemas.rollout import GROUP

from ..comparison.findings import DIFFERENT, EQUAL, RESULTS
from ..comparison.tally import Sides, Tally
from ..comparison.two_roles import CANDIDATE, LIVE, Message, TwoRoles
from ..config import Settings
from .options import KAFKA_ONLY, SettingsCommand, errors_as_messages, with_settings
from .record import open_private
from .recording import QUERIES, REPLIES

if TYPE_CHECKING:
    from .recorder import RecordedTopics

SETTLE_S = 5.0  # for the last replies, once it is to end
PROGRESS_S = 10.0


@click.command(
    "compare",
    cls=SettingsCommand,
    short_help="Compare the replies of the live workers and the candidate.",
)
@click.argument("group")
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    help="Seconds to compare.  [default: until SIGINT or SIGTERM]",
)
@click.option("--pairs-max", type=click.IntRange(1), help="Stop after this many pairs.")
@click.option(
    "--examples",
    type=click.Path(dir_okay=False, path_type=Path),
    help="New file for the pairs that are different or not comparable.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    help="Serve read_states_compared_total on this port, at /metrics.",
)
@click.option(
    "--metrics-host",
    default="127.0.0.1",
    show_default=True,
    help="Address of this machine for --metrics-port; 0.0.0.0: all of them.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_settings(*KAFKA_ONLY, "reply_topics")
def compare(
    settings: Settings,
    group: str,
    seconds: float | None,
    pairs_max: int | None,
    examples: Path | None,
    metrics_port: int | None,
    metrics_host: str,
    as_json: bool,
) -> None:
    """Compare the replies of the live workers with those of the candidate GROUP.

    The live workers and the candidate each compute a reply to each query. One reply goes to the
    client, and the other to the topic <TOPIC_PREFIX>.shadow.<GROUP>. The command reads both replies
    and changes nothing. The two replies may be from different positions of the log. If updates
    between these positions may explain a difference, the pair is not comparable. The exit status is
    1 if the replies of a pair differ, or if no pair matches.
    """
    from .reading import open_reader
    from .recorder import RecordedTopics

    if not GROUP.fullmatch(group):
        raise click.UsageError(f"GROUP must match {GROUP.pattern}")
    with errors_as_messages(), ExitStack() as stack:
        out = None
        if examples is not None:
            out = stack.enter_context(os.fdopen(open_private(examples, force=False), "wb"))
        tally = Tally(Sides(LIVE, CANDIDATE), out)
        shadow = f"{settings.topic_prefix}.shadow.{group}"
        reader = open_reader(settings, settings.queries_topic, shadow)
        stack.callback(reader.consumer.close)
        comparing = _Comparing(RecordedTopics(settings, reader.consumer, True), shadow, tally)
        if metrics_port is not None:
            comparing.serve(stack, metrics_host, metrics_port)
        click.echo("comparing", err=True)
        comparing.run(seconds, pairs_max)
    roles = comparing.roles
    if as_json:
        missing = {"without_pair": roles.without_pair, "without_query": roles.without_query}
        click.echo(json.dumps({**tally.summary(), **missing}))
    else:
        click.echo("\n".join(tally.lines()))
        click.echo(
            f"queries of which a reply is missing: {roles.without_pair}; "
            f"replies without a query: {roles.without_query}"
        )
    if tally.counts[DIFFERENT] or not tally.counts[EQUAL]:
        raise click.exceptions.Exit(1)


class _Comparing:
    """Reads the topics, and gives each message to `roles`."""

    def __init__(self, topics: RecordedTopics, shadow: str, tally: Tally) -> None:
        self._topics, self._shadow, self._tally = topics, shadow, tally
        self.roles = TwoRoles(tally)
        self._counters: dict[str, Any] = {}
        self._exported = dict.fromkeys(RESULTS, 0)

    def serve(self, stack: ExitStack, host: str, port: int) -> None:
        """Export the counts."""
        from prometheus_client import CollectorRegistry, Counter, start_http_server

        registry = CollectorRegistry()
        counter = Counter(
            "read_states_compared_total",
            "pairs of replies of the live workers and of the candidate, by result",
            ["result"],
            registry=registry,
        )
        self._counters = {result: counter.labels(result) for result in RESULTS}
        server, thread = start_http_server(port, host, registry)
        stack.callback(thread.join)
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        click.echo(f"http port={server.server_port}", err=True)

    def run(self, seconds: float | None, pairs_max: int | None) -> None:
        """Compare until the time is up, enough was compared, or a signal comes."""
        signals: list[int] = []
        handlers = {
            number: signal.signal(number, lambda number, _frame: signals.append(number))
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        end = None if seconds is None else time.monotonic() + seconds
        try:
            while not signals and (end is None or time.monotonic() < end):
                self._step()
                if pairs_max is not None and sum(self._tally.counts.values()) >= pairs_max:
                    break
            else:
                end = time.monotonic() + SETTLE_S
                while self.roles.pending and time.monotonic() < end:
                    self._step()
        finally:
            self.roles.finish()
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _step(self) -> None:
        for kind, message in self._topics.read():
            self._take(kind, message)
        self.roles.expire(time.monotonic())
        for result, count in self._tally.counts.items():
            if result in self._counters:
                self._counters[result].inc(count - self._exported[result])
                self._exported[result] = count

    def _take(self, kind: str, message: Any) -> None:
        headers, now_s = dict(headers_of(message)), time.monotonic()
        if message.topic() == self._shadow:
            role = (headers.get(HEADER_ROLE) or b"").decode(errors="replace")
            self.roles.shadow(_message(message, headers), role, now_s)
        elif kind == QUERIES:
            address = reply_address(headers)
            if address is not None and HEADER_PROBE not in headers:
                found = Message(message.key(), message.value(), headers, address.correlation_id)
                self.roles.query(found, message.partition(), now_s)
        elif kind == REPLIES:
            self.roles.sent(_message(message, headers), now_s)


def _message(message: Any, headers: dict[str, bytes | None]) -> Message:
    from .recorder import correlation_id_of

    correlation_id = correlation_id_of(headers, message.value())
    return Message(message.key(), message.value(), headers, correlation_id)
