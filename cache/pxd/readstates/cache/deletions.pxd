# The C functions among the methods of a `Deletions` (cache/deletions.py), for Cython.

from readstates.cache.marked cimport Marked

cdef class Deletions(Marked):
    cdef long long _add_final_mark(self, long long user, long long version) except? -1
