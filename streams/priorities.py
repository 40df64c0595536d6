"""What gives way to what in a worker: the limits of all work that a query may have to wait for.

A worker has one interpreter, which one thread at a time may use, and one event loop. From what goes
first to what goes last:

1. Queries of residents: the thread that reads queries answers them. They wait for the interpreter,
   and for work on their own partition that has begun.
2. Other queries, and the loads that they wait for: the event loop takes them between two pieces of
   other work, and a quarter of the load requests is theirs.
3. Updates: an update may wait some milliseconds to be taken together with others, and is then
   folded in slices.
4. Loads for which only updates wait: one message can mention thousands of users who are offline.
5. Writes: a change may wait for FLUSH_DELAY_S. If an update needs room, they go before updates.
6. The change feed: a change may wait for CHANGES_DELAY_MS, to be told with others.
7. Commits, deadlines and gauges: short, and at most some dozens of times per second.

`read_states_query_waited_seconds_total` has the time that queries waited, by these kinds of work:
on their partition FOLD, LOAD, WRITE_OUT, QUERIES (2) or OTHER; LOOP, from the thread to the event
loop (2); POSITION and DATABASE while the partition keeps them.
"""

from __future__ import annotations

FOLD, LOAD, WRITE_OUT, QUERIES, OTHER = "fold", "load", "write_out", "queries", "other"
LOOP, POSITION, DATABASE = "loop", "position", "database"
WORKS = (FOLD, LOAD, WRITE_OUT, QUERIES, OTHER, LOOP, POSITION, DATABASE)

# All: a thread that wants the interpreter gets it after this time. By default it is 5 ms, which a
# query would wait several times.
GIL_SWITCH_S = 0.0005

# 2. A poll of queries takes about a millisecond on the event loop.
QUERIES_IN_POLL = 64

# 3. SLICE_UPDATES, a setting, limits a slice. A fetch waits this long for this many bytes while
# updates arrive, because it costs about as much as a hundred records.
GATHER_MS, GATHER_BYTES = 20, 32 << 10

# 2 and 4. Of LOADS_IN_FLIGHT_MAX, the share for which only updates wait: usually, and while a
# query's load is under way, because the database would otherwise answer that one last.
UPDATES_SHARE, UPDATES_SHARE_BESIDE_QUERIES = 0.75, 0.25

# 4 and 5. Cassandra's answers come many at once; they are given out for this long at a time.
DELIVERY_SLICE_S = 0.001

# 5. While no write is urgent, this share of WRITES_IN_FLIGHT_MAX is used, because a burst takes
# processor time from the database and from the programs that share its machine.
NOT_URGENT_SHARE = 0.25
# Until the next step: urgent, not urgent, nothing dirty.
SOON_S, LATER_S, IDLE_S = 0.02, 0.05, 0.1

# 6. Records that a partition sends in one step of the feed. Until the next step: more is due, and
# the shortest and the longest time if nothing is.
CHANGES_AT_ONCE = 100
CHANGES_SOON_S, CHANGES_STEP_S = 0.0, (0.002, 0.01)

# 7. Between two passes of the deadlines, while queries wait.
EXPIRE_INTERVAL_S = 0.02
