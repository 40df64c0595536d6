"""The database as a candidate uses it: it reads `read_states`, and writes `read_states_candidate`.

`overlay.py` says how the two tables make one. The overlay's partition key has the candidate's run,
so candidates know nothing of each other, and a run knows nothing of an earlier one. A load is two
requests at once, one for each table.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from readstates.schemas.read_state import Row

from ..config import Settings
from ..errors import StoreError
from .driver import DRIVER_ERRORS, packed_batch
from .loaded_rows import COLUMNS
from .overlay import MARKED, OVERLAY_TTL_S, USER_MARK, Overlaid, merged, overlay_rows
from .requests import Request
from .row_bytes import Change, RowBytes
from .store import INIT, PAGE_ROWS, Store

Done = Callable[[dict[int, list[Row]] | None], None]
_BIGINT = struct.Struct(">q").pack


class CandidateStore(Store):
    """See the module. `run`: of the candidate."""

    taken_over = (*Store.taken_over, "_select_overlay")

    def __init__(self, settings: Settings, run: str) -> None:
        super().__init__(settings)
        self.run = run
        part = run.encode()
        self._key_end = struct.pack(f">xH{len(part)}sx", len(part), part)

    def another(self) -> CandidateStore:
        return CandidateStore(self.settings, self.run)

    def prepare(self) -> None:
        super().prepare()  # of these statements, only the SELECT is used
        table = f"{self.settings.cassandra_keyspace}.read_states_candidate"
        where = f"WHERE user_id = ? AND run = '{self.run}'"
        try:
            # Each has the values that `RowBytes` packs, in the same order.
            self._insert = self._prepare(
                f"INSERT INTO {table} (user_id, {COLUMNS}, mentions, run, deleted) "
                f"VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '{self.run}', false) "
                f"USING TIMESTAMP ? AND TTL {OVERLAY_TTL_S}"
            )
            self._delete = self._prepare(
                f"UPDATE {table} USING TIMESTAMP ? AND TTL {OVERLAY_TTL_S} SET deleted = true "
                f"{where} AND read_state_type = ? AND channel_id = ?"
            )
            self._delete_user = self._prepare(f"DELETE FROM {table} USING TIMESTAMP ? {where}")
            self._select_overlay = self._prepare(
                f"SELECT user_id, {COLUMNS}, {MARKED} FROM {table} "
                f"WHERE user_id IN ? AND run = '{self.run}'"
            )
        except DRIVER_ERRORS as exc:
            raise StoreError(f"Cassandra refused a statement on {table}: {exc}. {INIT}") from exc
        self._select_overlay.fetch_size = PAGE_ROWS
        written = (self._insert, self._delete, self._delete_user)
        self._row_bytes = RowBytes(*(statement.query_id for statement in written))

    def write(self, changes: list[Change], done: Callable[[bool | None], None]) -> None:
        """As in `Store`. The deletion of a user also leaves its mark, in the same batch."""
        all_changes: list[Change] = []
        for change in changes:
            all_changes.append(change)
            if change[2] is None:
                all_changes.append((change[0], -change[1], USER_MARK))
        key, keyspace = self._routing_key(changes[0][0]), self._insert.keyspace
        batch = packed_batch(self._row_bytes.pack(all_changes), key, keyspace)
        self._send(batch, None, Request(done, f"write rows={len(all_changes)}", True))

    def group_of(self, user_id: int) -> object:
        """As in `Store`, for the overlay's rows."""
        metadata = self._session.cluster.metadata
        key = self._routing_key(user_id)
        replicas = metadata.get_replicas(self.settings.cassandra_keyspace, key)
        return None if len(replicas) in (0, len(metadata.all_hosts())) else replicas[0]

    def _routing_key(self, user_id: int) -> bytes:
        """Both columns of the partition key, as Cassandra joins them."""
        return b"\0\x08" + _BIGINT(user_id) + self._key_end

    def _load(self, user_ids: list[int], done: Done, rows_max: float) -> None:
        """Load from both tables; `done` gets None or {} if it came from either."""
        base: dict[int, list[Row]] | None = None
        overlay: dict[int, list[Overlaid]] | None = None
        left = 2

        def ended() -> None:
            nonlocal left
            left -= 1
            if left:
                return
            if base is None or overlay is None:
                done(None)
            elif not base or not overlay:  # one of them has too many rows for such a request
                done({})
            else:
                rows, own = base, overlay
                done({user_id: merged(rows[user_id], own[user_id]) for user_id in rows})

        def base_loaded(found: dict[int, list[Row]] | None) -> None:
            nonlocal base
            base = found
            ended()

        def overlay_loaded(found: dict[int, list[Overlaid]] | None) -> None:
            nonlocal overlay
            overlay = found
            ended()

        super()._load(user_ids, base_loaded, rows_max)
        of_user: dict[int, list[Overlaid]] = {user_id: [] for user_id in user_ids}
        what = f"load overlay users={len(of_user)}"
        request: Any = Request(overlay_loaded, what, of_user, rows_max, add=overlay_rows)
        self._load_from(self._select_overlay, user_ids, request)
