"""Anti-replay window for tests: a thin face on ext/include/replay.h, the header that the kernels run."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free

from ipsec_fast.errors import UsageError


cdef extern from "replay.h" nogil:
    struct replay_window:
        uint64_t top
        uint32_t size
    replay_window *replay_new(uint32_t size, uint64_t top) noexcept
    int replay_check(const replay_window *window, uint64_t seq) noexcept
    int replay_advance(replay_window *window, uint64_t seq) noexcept
    uint64_t replay_infer_esn(const replay_window *window, uint32_t low) noexcept
    void replay_failed(replay_window *window) noexcept
    bint replay_resync_due(const replay_window *window) noexcept
    uint64_t replay_resync_number(replay_window *window, uint32_t low) noexcept


cdef class ReplayWindow:
    """The anti-replay window of the kernels, for tests: `size` numbers (32 to 1048576), all up to `top` seen."""

    def __cinit__(self, size, top=0):
        if not 32 <= size <= 1048576:
            raise UsageError(f"anti-replay window {size}: it is 32 to 1048576 packets")
        self.window = replay_new(size, top)
        if self.window == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.window)

    @property
    def top(self):
        """The highest number that was seen."""
        return (<replay_window *> self.window).top

    def check(self, uint64_t seq):
        """What this number would be, without taking it."""
        return ("new", "old", "seen")[replay_check(<replay_window *> self.window, seq)]

    def advance(self, uint64_t seq):
        """Check and, where it is new, mark as seen."""
        return ("new", "old", "seen")[replay_advance(<replay_window *> self.window, seq)]

    def infer(self, uint32_t low):
        """The 64-bit number of a low half (RFC 4303 A2.2); 0 where there is none."""
        return replay_infer_esn(<replay_window *> self.window, low)

    def failed(self, uint32_t low):
        """A packet with this low half had no good ICV; the number to try it under once more, or 0 (RFC 4303 appendix A3)."""
        cdef replay_window *window = <replay_window *> self.window
        if replay_resync_due(window):
            return replay_resync_number(window, low)
        replay_failed(window)
        return 0
