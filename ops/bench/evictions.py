"""Evictions per second under churn: a table with room for one user in a hundred.

    make bench BENCHES=evictions

Users are drawn evenly, so that 99 of 100 are not resident: the coldest user is evicted with all its
read states, and the new one is inserted with its rows. An eviction is one evicted read state, as in
`read_states_evictions_total`. The bench times that loop, on one core; the rows are made before, in
the form in which the database's driver hands them over. The article's whole fleet has 50 billion
evictions per day, which is 580,000 per second.
"""

from __future__ import annotations

import random
import time

from readstates.cache.tablefile import TableIdentity, open_table

from .holders import SCAN_MAX
from .suite import Goal, Suite
from .traffic_of_states import STATES_A_USER, Population

GOAL = Goal(at_least=500_000)
SHARE = 100  # users for each user that has room


def run(suite: Suite) -> None:
    for states_a_user in (STATES_A_USER, 1):
        users = (200_000 if suite.quick else 2_000_000) * STATES_A_USER // (states_a_user + 9)
        found = [_churn(suite, users, states_a_user, seed) for seed in range(suite.rounds)]
        suite.measured[f"evictions_a_second_{states_a_user}_states_a_user"] = found
        suite.bound(
            f"{states_a_user} read states a user, room for {users // SHARE:,} of {users:,} users",
            found, "/s", GOAL,
        )  # fmt: skip


def _churn(suite: Suite, users: int, states_a_user: int, seed: int) -> float:
    """Read states evicted per second of CPU, once the table is full."""
    population = Population(users, states_a_user)
    capacity = users // SHARE
    slots = capacity * (states_a_user + 1) * 8 // 9  # as many users as have room, spare included
    source = random.Random(seed)
    identity = TableIdentity(bytes(16), 8, 0, "bench")
    file = open_table(suite.memory_folder() / "churn.table", identity, slots, slots // 2)
    table, spent, before, evicted = file.table, 0.0, 0, 0.0
    full = False
    for _ in range(2 + (10 if suite.quick else 40)):
        numbers = [source.randrange(users) for _ in range(capacity)]
        people = [(population.user_id(n), population.rows(n)) for n in numbers]
        begin = time.process_time()
        for user_id, rows in people:
            user = table.find(user_id)
            if user:
                table.touch(user)
            elif table.evict(1 + len(rows), SCAN_MAX):
                table.insert(user_id, 0, False, rows)
        if full:
            spent += time.process_time() - begin
        elif table.evictions:
            full, before = True, table.evictions
    evicted = float(table.evictions - before)
    file.close(clean=False)
    file.path.unlink()
    return evicted / spent
