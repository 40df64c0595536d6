# The C functions among the methods of a `Table` (cache/table.py), for Cython.

cimport cython
from readstates.cache.deletions cimport Deletions

@cython.final
cdef class Table(Deletions):
    cdef tuple _row(self, long long slot)
    cpdef list select(
        self, long long user, long long kind, long long since, bint mentioned, long long after_kind,
        long long after_channel, long long most
    )
