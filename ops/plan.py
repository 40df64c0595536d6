"""`readstates plan`: how many partitions, workers and nodes a load needs, and why.

Simple sums over the figures in figures.json, each of which says whether it was measured or is
assumed; `--set NAME=VALUE` puts another in its place. All traffic is at the peak.

How many changes become one row: a user online keeps ACTIVE_CHANNELS read states changing. One of
them changes every T seconds, is written FLUSH_DELAY_S after the first change, and the next change
is T later: a row each FLUSH_DELAY_S + T, so 1 + FLUSH_DELAY_S / T changes per row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import click

from readstates.cache.layout import slots_for, table_size_bytes
from readstates.schemas.changes import encode_change
from readstates.schemas.events import Ack
from readstates.schemas.queries import Get, encode_query
from readstates.schemas.read_state import Row
from readstates.schemas.replies import Answer, encode_reply
from readstates.schemas.wire import encode_update, key_bytes
from readstates.streams.config import Settings
from readstates.streams.kafka import changes_topic

FIGURES = Path(__file__).with_name("figures.json")
SNOWFLAKE = 1_300_000_000_000_000_000  # one of today, for the length of records
RECORD_BYTES = 40  # assumed: a Kafka record around its key and value, headers included
DAY_S = 86_400
CHANGES_KEPT_S = changes_topic.KEPT_MS / 1000
USER_SLOT_SHARE = 8  # the table has one user slot to so many read states


@dataclass(frozen=True)
class Load:
    """What is asked for; rates at the peak, per second."""

    users: float
    online: float
    read_states_per_user: float
    updates_per_s: float
    queries_per_s: float
    flush_delay_s: float
    worker_memory_gb: float
    changes: bool = False


class Line(NamedTuple):
    """One result: what it is, how much, and how it came about."""

    what: str
    value: str
    how: str


def figures(changed: Mapping[str, float] | None = None) -> tuple[str, dict[str, dict[str, Any]]]:
    """The machine measured on, and the figures by name, with some of them changed."""
    read = json.loads(FIGURES.read_text("utf-8"))
    known: dict[str, dict[str, Any]] = read["figures"]
    for name, value in (changed or {}).items():
        known[name] |= {"value": value, "measured": False, "from": "given with --set"}
    return read["machine"], known


def record_sizes(read_states: float) -> tuple[int, int, int, int]:
    """Bytes in Kafka of an ack, a query for all of a user's read states, its reply, and a change.

    The change names one read state.
    """
    key = len(key_bytes(SNOWFLAKE)) + RECORD_BYTES
    row: Row = (0, SNOWFLAKE, SNOWFLAKE, SNOWFLAKE, 0, 0, 0, 0, SNOWFLAKE, b"")
    reply = Answer(SNOWFLAKE, True, [row] * ceil(read_states))
    return (
        key + len(encode_update(Ack(SNOWFLAKE, SNOWFLAKE, SNOWFLAKE))),
        key + len(encode_query(Get(SNOWFLAKE))),
        key + len(encode_reply(SNOWFLAKE, reply, mentions=False)),
        key + len(encode_change(SNOWFLAKE, SNOWFLAKE, [row], [], False, (1, 1, 1))),
    )


def plan(load: Load, figure: Mapping[str, float]) -> list[Line]:
    """The sums. Sizes are decimal: 1 GB is 10^9 bytes."""
    each = load.read_states_per_user
    told = load.updates_per_s if load.changes else 0.0  # records: at most one for each update
    # a user takes a slot too: with less than 8 read states each, users fill a table first
    share = (1 + 1 / each) / (1 + 1 / USER_SLOT_SHARE)
    resident = load.online * each * max(1.0, share) * figure["skew"]
    busy = (
        load.updates_per_s / figure["worker_updates_per_s"]
        + load.queries_per_s * figure["query_us"] / 1e6
        + told * figure["change_us"] / 1e6
    )
    for_traffic = ceil(busy / figure["busy_share"])
    table_bytes = table_size_bytes(slots_for(ceil(resident)))
    room_bytes = load.worker_memory_gb * 1e9 - figure["base_memory_mb"] * 1e6
    if room_bytes <= 0:
        raise click.UsageError("--worker-memory-gb has no room for tables over base_memory_mb")
    for_memory = ceil(table_bytes / room_bytes)
    workers = max(for_traffic, for_memory) + 1
    partitions = workers * ceil(figure["partitions_per_worker"])
    cache_states = ceil(resident / partitions)
    one_table = table_size_bytes(slots_for(cache_states))
    most = ceil(partitions / (workers - 1))

    changes = 1 + load.flush_delay_s * load.updates_per_s / max(
        1.0, load.online * figure["active_channels"]
    )
    rows = load.updates_per_s / changes
    loads = figure["cold_share"] * (load.updates_per_s + load.queries_per_s)
    nodes = ceil(max(figure["copies"], rows * figure["copies"] / figure["node_rows_per_s"]))
    update, query, reply, change = record_sizes(each)
    copies = figure["copies"]
    kept = load.updates_per_s * figure["average_share"] * figure["retention_days"] * DAY_S * update
    stored = load.users * each * figure["row_disk_bytes"]
    replay = load.flush_delay_s * load.updates_per_s / (workers * figure["worker_updates_per_s"])
    fanout = load.updates_per_s * update + load.queries_per_s * (query + reply) + told * change
    feed = told * change * CHANGES_KEPT_S * copies
    changes_told = [
        Line("changes told", f"{told:,.0f}/s", f"at most, of {change} bytes or more; "
             f"Kafka keeps {_size(feed)}"),
    ] if load.changes else []  # fmt: skip
    return [
        Line("workers", f"{workers}", f"the larger of {for_traffic} for the traffic and "
             f"{for_memory} for memory, plus one spare"),
        Line("partitions", f"{partitions}", "of `updates` and of `queries`"),
        Line("CACHE_STATES", f"{cache_states:,}", "read states of users online, with the skew"),
        Line("size of a table", _size(one_table), f"all tables: {_size(one_table * partitions)}"),
        Line("worker memory", _size(figure["base_memory_mb"] * 1e6 + most * one_table),
             f"{most} tables, with one worker gone"),
        Line("changes per row", f"{changes:.1f}", "coalesced within FLUSH_DELAY_S"),
        Line("replay", f"{replay:.1f} s", "after all workers crashed: FLUSH_DELAY_S of updates"),
        Line("Kafka in", f"{_size(fanout)}/s", f"updates of {update}, queries of {query}, "
             f"replies of {reply} bytes, uncompressed"),
        Line("Kafka copied", f"{_size(fanout * copies)}/s", "on all brokers"),
        Line("Kafka disk", _size(kept * copies), "updates, for their retention"),
        *changes_told,
        Line("Cassandra rows", f"{rows:,.0f}/s", f"{rows * copies:,.0f}/s with copies"),
        Line("Cassandra loads", f"{loads:,.0f}/s", "users who are not resident"),
        Line("Cassandra nodes", f"{nodes}", "for the rows; disk space may need more"),
        Line("Cassandra disk", _size(stored * copies), f"{load.users * each:,.0f} read states"),
    ]  # fmt: skip


def report(load: Load, changed: Mapping[str, float] | None = None) -> Iterator[str]:
    """The plan as text: results, then what they rest on."""
    machine, known = figures(changed)
    values = {name: float(entry["value"]) for name, entry in known.items()}
    for line in plan(load, values):
        yield f"{line.what:<16} {line.value:>14}   {line.how}"
    for measured, title in ((True, f"measured ({machine})"), (False, "assumed")):
        yield f"\n{title}:"
        for name, entry in known.items():
            if entry["measured"] is measured:
                yield f"  {name} = {entry['value']:,} {entry['unit']}: {entry['from']}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"


def _changes(_context: Any, _option: Any, given: tuple[str, ...]) -> dict[str, float]:
    changed = {}
    for text in given:
        name, _, value = text.partition("=")
        if name not in figures()[1]:
            raise click.BadParameter(f"{name}: no such figure; there are {', '.join(figures()[1])}")
        try:
            changed[name] = float(value)
        except ValueError as exc:
            raise click.BadParameter(f"{text}: expected NAME=NUMBER") from exc
        if changed[name] <= 0:
            raise click.BadParameter(f"{text}: must be over 0")
    return changed


POSITIVE = click.FloatRange(min=0, min_open=True)
FLUSH_DELAY_S = Settings().flush_delay_s
NOT_NEGATIVE = click.FloatRange(min=0)


@click.command("plan")
@click.option("--users", type=POSITIVE, required=True, help="Number of users with read states.")
@click.option("--online", type=POSITIVE, required=True, help="Number of users online at the peak.")
@click.option(
    "--read-states-per-user", type=POSITIVE, required=True, help="Average read states per user."
)
@click.option(
    "--updates-per-s", type=POSITIVE, required=True, help="Updates per second at the peak."
)
@click.option(
    "--queries-per-s", type=NOT_NEGATIVE, required=True, help="Queries per second at the peak."
)
@click.option(
    "--flush-delay-s", type=NOT_NEGATIVE, default=FLUSH_DELAY_S, show_default=True,
    help="FLUSH_DELAY_S of the workers.",
)  # fmt: skip
@click.option(
    "--worker-memory-gb", type=POSITIVE, default=16.0, show_default=True,
    help="Memory of a worker, in units of 10^9 bytes.",
)  # fmt: skip
@click.option("--changes", is_flag=True, help="Include the change feed (CHANGES=on).")
@click.option(
    "--set", "changed", multiple=True, metavar="NAME=VALUE", callback=_changes,
    help="Use another value for a figure that the command prints; repeatable.",
)  # fmt: skip
def command(changed: dict[str, float], **given: Any) -> None:
    """Compute the partitions, workers and tables for a load, and the traffic it causes.

    The command also prints the figures that it uses, and says which are measured and which are
    assumed.
    """
    for line in report(Load(**given), changed):
        click.echo(line)
