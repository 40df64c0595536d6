"""A deterministic simulation of workers, log, database and group, with every fault ours to place.

The code under test is the real one: `Rebalancer` with its partitions, tables in files,
write-behind, loader, queries, commits (streams/ and cache/). Around it everything is ours and
follows a seed:

    loop.py      virtual time; a loop for each worker, which can be killed between any two steps
    kafka.py     logs with gaps, the group and its generations, the consumer as a worker sees it
    database.py  rows by write timestamp, the store with its failures, time-outs, late answers
    output.py    replies and dead letters
    worker.py    one worker: the real code amid these
    plan.py      what a seed decides beforehand: limits, traffic, faults
    world.py     one run: several workers, the faults as they come, then healing and the end
    checks.py    what must hold at every commit, every reply and at the end
    shrink.py    less of a plan that still fails

A run takes four virtual seconds of traffic and faults; then all is healed, everything must drain
within a bounded time, and the database must be the fold of the log that an independent oracle
made. The same oracle knows what each reply must say, at the reply's own version, and what a
commit says is durable. A zombie, who lost its partition and does not know it, is only excused
from what it shows itself, and a user from being ahead while a zombie's writes are.

    python -m tests.sim 95             one seed; a failure is made smaller and says how to repeat it
    make sim SEEDS=20000               many, on all processors

A worker dies between two steps of its loop, or in the middle of a step, at anything it does to the
world. Between any two stores into its table it dies in tests/model and tests/unit/cache instead.
Left out: the transport and the driver (integration tests), USER_STATES_MAX under a crash.
"""
