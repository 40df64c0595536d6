# The table's store barrier, for the compiled build: no instruction,
# but no store of the program text above it is made after it, and none below it before it. The
# compiler's order is all that counts: a process that dies leaves every store it has executed.
# GCC and Clang print the comment where they put the barrier (`-S`), so a test can find it.
cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define READSTATES_STORE_BARRIER() __asm__ __volatile__("# store barrier" ::: "memory")
    #else
    #include <stdatomic.h>
    #define READSTATES_STORE_BARRIER() atomic_signal_fence(memory_order_seq_cst)
    #endif
    """
    void store_barrier "READSTATES_STORE_BARRIER" () noexcept nogil
