# The C functions among the methods of a `Marked` (cache/marked.py), for Cython.

from readstates.cache.kernel cimport Kernel

cdef class Marked(Kernel):
    cdef int _read_marks(self, long long slot) except? -1
    cdef long long _known(
        self, long long user, long long kind, long long channel_id, long long version
    ) except? -1
    cdef int _raise_floor(self, long long user, long long version) except? -1
    cdef long long _bury(self, long long user, long long slot, long long version) except? -1
    cdef long long _put(
        self, long long user, long long slot, long long kind, long long channel_id,
        unsigned long long packed, long long flags, long long version
    ) except? -1
    cdef long long _count_extensions(self, long long slot) except? -1
    cdef long long _show(
        self, long long user, long long slot, unsigned long long packed, long long flags,
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
