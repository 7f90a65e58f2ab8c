"""How often this process was forked off. See ext/dataplane/forks.pyx."""

from libc.stdint cimport uint32_t

# Number of running workers of this process that poll a descriptor.
cdef struct port_users:
    uint32_t forks
    uint32_t count

cdef void port_use(port_users *users) noexcept
cdef void port_leave(port_users *users) noexcept
# StateError if a worker polls it. In a child of fork no worker does, so that the child can close what it inherited.
cdef int port_check_free(port_users *users, str what) except -1

# One more in a child of fork than in its parent, at the same address in all modules.
cdef const uint32_t *fork_count
