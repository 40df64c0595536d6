# The fields of a `Kernel` (cache/kernel.py) and the C functions among its methods, for Cython.

cdef class Kernel:
    # of both kinds of slots
    cdef long long[:] _words  # all slots as numbers of 64 bits, eight each
    cdef unsigned int[:] _links  # all slots as numbers of 32 bits, sixteen each
    cdef unsigned char[:] _status
    cdef unsigned short[:] _checksum
    # of a user
    cdef long long[:] _user_id
    cdef long long[:] _floor
    cdef long long[:] _first_version
    cdef long long[:] _delete_version
    cdef unsigned int[:] _colder
    cdef unsigned int[:] _warmer
    cdef unsigned int[:] _first_state
    cdef unsigned short[:] _live_states  # the lower 16 of 20 bits, as in the next field
    cdef unsigned short[:] _side_slots
    cdef unsigned char[:] _count_tops  # the upper 4 bits of both
    cdef unsigned int[:] _dirty_since
    # of a state
    cdef long long[:] _channel_id
    cdef long long[:] _last_message_id
    cdef long long[:] _last_mention_id
    cdef long long[:] _version
    cdef unsigned long long[:] _pins_and_viewed
    cdef unsigned short[:] _last_viewed
    cdef unsigned int[:] _mention_count
    cdef unsigned int[:] _flags
    cdef unsigned int[:] _owner
    cdef unsigned int[:] _next
    cdef unsigned int[:] _previous
    cdef unsigned char[:] _type

    cdef unsigned int[:] _index
    cdef long long[:] _header
    cdef dict _views
    cdef long long[:] _ends
    cdef long long[:] _prefetched  # what `_prefetch` found: users, or index places
    cdef object _marks  # of the read state that an event changes
    cdef long long[:] _buffer  # the entries of `_marks`
    cdef long long _prefetch_sink  # takes what is loaded, so that the compiler keeps the loads
    cdef long long _entries
    cdef long long _free_head
    cdef long long _used
    cdef readonly long long slots
    cdef readonly long long free
    cdef readonly long long resident_users
    cdef readonly long long resident_states
    cdef readonly long long dirty_states
    cdef readonly long long dirty_users
    cdef readonly long long evictions
    cdef readonly long long user_states_max
    cdef long long _side_max  # a user's slots for extensions and hidden read states
    cdef long long _marks_max  # how many of these slots marks may take; see `_put`
    cdef public long long now_ms

    cdef inline long long _place(self, unsigned long long hashed) noexcept
    cdef inline long long _place_of_state(
        self, long long user, long long kind, long long channel_id
    ) noexcept
    cdef inline long long _place_of(self, long long slot) except? -1
    cdef int _index_add(self, long long slot) except? -1
    cdef int _index_drop(self, long long slot) except? -1
    cdef long long _find(self, long long user_id) except? -1
    cdef long long _find_state(
        self, long long user, long long kind, long long channel_id
    ) except? -1
    cdef long long _sum_of(self, long long slot) except? -1
    cdef inline int _seal(self, long long slot) except? -1
    cdef inline int _check(self, long long slot) except? -1
    cdef long long _new_slot(self) except? -1
    cdef int _free_slot(self, long long slot) except? -1
    cdef long long _add_state(self, long long user, long long kind, long long channel_id) except? -1
    cdef inline int _fill_state(
        self, long long slot, long long user, long long kind, long long channel_id
    ) except? -1
    cdef inline long long _live(self, long long user) except? -1
    cdef inline long long _side(self, long long user) except? -1
    cdef int _count_live(self, long long user, long long more) except? -1
    cdef int _count_side(self, long long user, long long more) except? -1
    cdef int _drop_state(self, long long user, long long slot) except? -1
    cdef inline long long _first_extension(self, long long slot) except? -1
    cdef long long _free_extensions(self, long long extension) except? -1
    cdef long long _read_entries(self, long long slot) except? -1
    cdef long long _write_entries(self, long long slot, long long count) except? -1
    cdef inline long long _after(self, long long slot, long long steps) except? -1
    cdef inline int _link(self, long long user, long long end) except? -1
    cdef inline int _unlink(self, long long user, long long end) except? -1
    cdef inline int _touch(self, long long user) except? -1
    cdef long long _load(self, long long user, tuple row, long long before) except? -2
    cdef int _evict(self, long long user) except? -1
    cdef int _prefetch_states(self, long long slot) except? -1
    cdef int _queue_add(self, long long user, long long end) except? -1
    cdef long long _user_changed(self, long long user, long long version) except? -1
    cdef long long _changed(self, long long user, long long slot, long long version) except? -1
    cdef long long _open(
        self, long long user, long long kind, long long channel_id, long long value,
        long long version
    ) except? -1
    cdef bint _set_options(self, long long slot, long long flags, long long last_viewed) except? -1
    cdef long long _ack(
        self, long long user, long long kind, long long channel_id, long long message_id,
        long long flags, long long last_viewed, long long version
    ) except? -1
    cdef long long _mention(
        self, long long user, long long kind, long long channel_id, long long message_id,
        long long version
    ) except? -1
    cdef long long _ack_marks(
        self, long long user, long long slot, long long message_id, long long flags,
        long long last_viewed, long long if_version, long long version
    ) except? -1
    cdef long long _mark(
        self, long long user, long long slot, long long kind, long long channel_id,
        long long message_id, long long rank, long long version
    ) except? -1
    cdef long long _refusal(self, long long user, long long version) except? -1
    cdef int _prefetch(self, long long[:] events, long long begin, long long end) except? -1
    cdef tuple _row(self, long long slot)
    cdef inline bint _shown(self, long long slot) except? -1
    cpdef list select(
        self, long long user, long long kind, long long since, bint mentioned, long long after_kind,
        long long after_channel, long long most
    )
