"""Keyed permutations of IDs: who has the key can repeat them, and nobody else can undo them.

Users and channels get any other ID, users one of the same partition. The messages of a channel all
move by the same amount, which the key and the channel decide, because their order, and which of two
are the same, must not change. The amount is below SHIFT_MAX, so a snowflake's time moves by less
than half a day: less than what workers with ID_EPOCH_MS refuse.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from readstates.schemas.events import SNOWFLAKE_MAX
from readstates.schemas.partitioner import partition_of
from readstates.schemas.wire import key_bytes

BITS = SNOWFLAKE_MAX.bit_length()
ROUNDS = 6
KNOWN_MAX = 200_000  # users whose new ID is kept, and as many channels; about 200 bytes each
SHIFT_MAX = (12 * 3600 * 1000) << 22  # a snowflake's time is in ms, above 22 other bits


class TooLargeIdError(ValueError):
    """A message ID is too near the largest one to be moved."""


class IdPermutation:
    """A permutation of 1 … 2^bits − 1: a Feistel network of ROUNDS rounds with keyed hashes."""

    def __init__(self, key: bytes, purpose: bytes, bits: int = BITS) -> None:
        self._low_bits = (bits + 1) // 2
        self._masks = (1 << (bits - self._low_bits)) - 1, (1 << self._low_bits) - 1
        self._rounds = [
            hashlib.blake2b(purpose + bytes([number]), key=key, digest_size=8)
            for number in range(ROUNDS)
        ]

    def __call__(self, number: int) -> int:
        """The new number; about 10 µs."""
        made = self._once(number)
        while not made:  # 0 is no ID: go on, as for any permutation of a smaller set
            made = self._once(made)
        return made

    def _once(self, number: int) -> int:
        high, low = number >> self._low_bits, number & self._masks[1]
        for count, start in enumerate(self._rounds):
            state = start.copy()
            state.update((high if count & 1 else low).to_bytes(8, "little"))
            hashed = int.from_bytes(state.digest(), "little")
            if count & 1:
                low ^= hashed & self._masks[1]
            else:
                high ^= hashed & self._masks[0]
        return high << self._low_bits | low


class NewIds:
    """The new IDs of users, channels and messages; `key`: 16 to 64 bytes.

    A user who has not been seen before costs about 15 µs for each partition.
    """

    def __init__(self, key: bytes, partitions: int) -> None:
        self._key, self._partitions = key, partitions
        self._of_user = IdPermutation(key, b"user")
        self._of_channel = IdPermutation(key, b"channel")
        self.user = lru_cache(KNOWN_MAX)(self._user)
        self.channel = lru_cache(KNOWN_MAX)(self._of_channel)
        self._shift = lru_cache(KNOWN_MAX)(self._shift_of)

    def _user(self, user_id: int) -> int:
        """The first ID of the same partition, where the permutation is applied again and again."""
        partition = partition_of(key_bytes(user_id), self._partitions)
        made = self._of_user(user_id)
        while partition_of(key_bytes(made), self._partitions) != partition:
            made = self._of_user(made)
        return made

    def message(self, channel_id: int, message_id: int) -> int:
        """Grows with the message ID; 0, which stands for no message, stays. Raises TooLargeIdError.

        `channel_id`: the old one.
        """
        if not message_id:
            return 0
        made = message_id + self._shift(channel_id)
        if made > SNOWFLAKE_MAX:
            raise TooLargeIdError(message_id)
        return made

    def _shift_of(self, channel_id: int) -> int:
        hashed = hashlib.blake2b(b"message%d" % channel_id, key=self._key, digest_size=16)
        return 1 + int.from_bytes(hashed.digest(), "little") % (SHIFT_MAX - 1)

    def opaque(self, *parts: bytes) -> bytes:
        """A name of 32 hexadecimal digits for these bytes."""
        text = b"".join(b"%d:%b" % (len(part), part) for part in parts)
        return hashlib.blake2b(text, key=self._key, digest_size=16).hexdigest().encode()
