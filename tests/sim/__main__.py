"""python -m tests.sim SEED: run one seed; where it fails, look for less that fails, too.

python -m tests.sim --seeds N [--from SEED]: many of them, on all processors, with progress.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time

from . import plan, shrink, world

STEP = 20  # seeds a task
SHOWN_S = 5.0


def failures(first: int) -> list[tuple[int, str]]:
    """Those of STEP seeds from `first` on that fail, with what was said."""
    found = []
    for seed in range(first, first + STEP):
        try:
            world.run(plan.make(seed))
        except Exception as exc:  # noqa: BLE001 (whatever it is, it is the seed's result)
            found.append((seed, f"{type(exc).__name__}: {exc}"))
    return found


def many(count: int, first: int) -> int:
    """Run `count` seeds; returns how many failed."""
    started = shown = time.monotonic()
    done = bad = 0
    with multiprocessing.Pool(maxtasksperchild=50) as pool:
        for found in pool.imap_unordered(failures, range(first, first + count, STEP)):
            done += STEP
            for seed, text in found:
                bad += 1
                print(f"seed {seed}: {text:.600}\n  again: python -m tests.sim {seed}", flush=True)
            now = time.monotonic()
            if now - shown > SHOWN_S or done >= count:
                shown = now
                rate = done / (now - started)
                print(f"{done:,} seeds, {bad} failed, {rate:.0f}/s", flush=True)
    return bad


def one(seed: int, records: int | None, faults: list[int] | None) -> int:
    """Run one seed, or what is left of it; returns 1 if it fails."""
    found = shrink.part(plan.make(seed), records, faults)
    text = shrink.failure(found)
    if text is None:
        print(f"seed {seed}: nothing wrong")
        return 0
    print(text)
    if records is None and faults is None:
        less = shrink.less(found)
        print(f"\nless fails, too:\n\n{shrink.failure(less)}\n\n{shrink.command(less)}")
    return 1


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("seed", nargs="?", type=int)
    parser.add_argument("--seeds", type=int, help="how many, instead of one")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first of them")
    parser.add_argument("--records", type=int, help="only so many records of the traffic")
    parser.add_argument("--faults", help="only these faults, by number: 0,3; none: empty")
    given = parser.parse_args()
    if given.seeds is not None:
        return int(many(given.seeds, given.first) > 0)
    if given.seed is None:
        parser.error("a seed, or --seeds N")
    faults = None
    if given.faults is not None:
        faults = [int(number) for number in given.faults.split(",") if number]
    return one(given.seed, given.records, faults)


if __name__ == "__main__":
    sys.exit(main())
