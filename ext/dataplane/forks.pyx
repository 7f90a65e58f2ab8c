"""A count that tells a child of fork from its parent: what numbers packets, or draws random bytes, belongs to one process.

A child has a copy of every SA, with the same key and the same next number, so both would send two packets under one nonce. Whoever
keeps such state stores the count with it and compares. Worker threads do not exist in a child, and what they share with the parent
(sockets, eventfds) is the parent's. Here too: who uses a descriptor, which goes by the process as well. Left out: clone() and vfork()
without exec, which run no handlers. Called by: sad, openssl, epoch, worker, crew, and the drivers.
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
