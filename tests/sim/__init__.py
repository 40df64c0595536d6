"""A deterministic simulation of workers, log, database and group that can inject every fault.

It runs the real code: `Rebalancer` with its partitions, tables in files, write-behind, loader,
queries, commits (streams/ and cache/). Everything around the real code is simulated and follows a
seed:

    loop.py      virtual time; a loop for each worker, which can be killed between any two steps
    kafka.py     logs with gaps, the incremental group, and a worker's membership and readers
    database.py  rows by write timestamp, the store with its failures, time-outs, late answers
    output.py    replies and dead letters
    feed.py      the change feed, and a mirror that consumes it
    live.py      the live workers, in seeds whose workers are a candidate's
    worker.py    one worker: the real code amid these
    plan.py      the limits, the traffic and the faults that a seed decides beforehand
    world.py     one run: several workers, the faults as they come, then healing and the end
    checks.py    the checks at every commit, at every reply and at the end
    shrink.py    finds a smaller plan that still fails

A run has four virtual seconds of traffic and faults. Then all faults are healed, everything must
drain within a bounded time, and the database must equal the fold of the log by an independent
oracle. The same oracle computes each reply at the reply's own version, and the changes that a
commit calls durable. A zombie (a worker that has lost its partition and does not know it) is
excused only for its own replies; whoever let a partition go may not answer from it, and nobody may
commit what it does not own. A mirror consumes the change feed: at each record it must hold what a
query would have been answered (F1), no commit may pass a change that is not in the feed, and at the
end nothing is missing (F2). A user may be ahead of the log only as far as a zombie's writes are.

    python -m tests.sim 95             one seed; a failure is made smaller and says how to repeat it
    make sim SEEDS=20000               many, on all processors

A worker dies between two steps of its loop, or in the middle of a step, at any effect on the world.
tests/model and tests/unit/cache kill it between any two stores into its table. The simulation
leaves out the group's thread, the readers and the driver (integration tests cover them), and
USER_STATES_MAX under a crash.
"""
