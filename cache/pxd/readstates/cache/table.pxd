# The class that `Table` (cache/table.py) derives from, for Cython.

from readstates.cache.deletions cimport Deletions
