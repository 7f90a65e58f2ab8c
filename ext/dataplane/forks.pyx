"""A count of forks that tells a child from its parent, since numbering packets and drawing random bytes belong to one process.

A child has a copy of every SA, with the same key and the same next number, so parent and child would use one nonce twice. SAs and
other such state store the count of their process, and their users compare it. Worker threads do not exist in a child, and the
descriptors that they share with the parent (sockets, eventfds) are the parent's. This file also counts the workers that use a
descriptor, per process. Left out: clone() and vfork() without exec, which run no handlers.
Called by: sad, openssl, epoch, worker, crew, and the drivers.
"""

from libc.stdint cimport uint32_t

from ..errors import StateError

cdef extern from *:
    """
    #include <pthread.h>
    static uint32_t fork_number;
    static void note_fork(void) { fork_number++; }
    """
    const uint32_t fork_number
    void note_fork() noexcept nogil

cdef extern from "pthread.h" nogil:
    int pthread_atfork(void (*before)() noexcept nogil, void (*parent)() noexcept nogil, void (*child)() noexcept nogil) noexcept

fork_count = &fork_number

if pthread_atfork(NULL, NULL, note_fork) != 0:
    raise MemoryError


cdef void port_use(port_users *users) noexcept:
    users.count = users.count + 1 if users.forks == fork_count[0] else 1
    users.forks = fork_count[0]


cdef void port_leave(port_users *users) noexcept:
    if users.forks == fork_count[0] and users.count:
        users.count -= 1


cdef int port_check_free(port_users *users, str what) except -1:
    if users.count and users.forks == fork_count[0]:
        raise StateError(f"{what} is in use by a worker that runs: stop the worker first")
    return 0


def forks():
    """How many forks lie between the first process and this one."""
    return fork_count[0]
