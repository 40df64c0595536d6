"""A worker whose watch looks as an ordinary one's does, but ten times as often.

It also needs to see a transaction open for only a fifth of the usual time.
"""

from __future__ import annotations

from readstates.streams.cli import main
from readstates.streams.worker import watch

SOONER = {"LOOK_S": watch.LOOK_S / 10, "OPEN_TRANSACTION_S": watch.OPEN_TRANSACTION_S / 5}

if __name__ == "__main__":
    vars(watch).update(SOONER)
    main()
