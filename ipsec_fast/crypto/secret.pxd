# The arena's handle for compiled code. `data` is NULL after close(); use borrow() unless you checked it yourself.

cdef struct arena_block

cdef class Secret:
    cdef unsigned char *data
    cdef Py_ssize_t size
    cdef arena_block *block
    cdef Py_ssize_t first
    cdef Py_ssize_t granules

cdef Secret new_secret(Py_ssize_t n)                        # n zero bytes
cdef Secret secret_from_pointer(const unsigned char *source, Py_ssize_t n)
cdef unsigned char *borrow(Secret secret) except NULL       # StateError when closed, or wiped by a fork
