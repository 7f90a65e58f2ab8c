"""The key arena: mapped pages that are locked, left out of dumps, zero in a forked child, and wiped on free.

Every long-lived secret (PSK, SK_*, Child keys) lives here and travels as a Secret handle. Blocks are cut into granules
of 64 bytes; a guard page stands on either side of each block. What RLIMIT_MEMLOCK does not let us lock is still used,
and shows in arena_report(). The allocator runs under the GIL and never from nogil code.
Leaves out: what a library keeps inside its own contexts (OpenSSL wipes those when they are freed).
Called by crypto's other modules, policy (PSK), control and dataplane (Child keys).
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset, strerror

from ipsec_fast.errors import SecretError, StateError, UsageError

__all__ = ["Secret", "arena_report", "harden_process", "random_secret", "reveal_for_test", "secret_from_buffer",
           "secret_from_fd", "wipe"]

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *, size_t, int, int, int, long)
    int munmap(void *, size_t)
    int mprotect(void *, size_t, int)
    int mlock(const void *, size_t)
    int madvise(void *, size_t, int)
    int PROT_NONE, PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MADV_DONTDUMP, MADV_WIPEONFORK
    void *MAP_FAILED

cdef extern from "<unistd.h>" nogil:
    ssize_t read(int, void *, size_t)
    long sysconf(int)
    int _SC_PAGESIZE

cdef extern from "<sys/prctl.h>" nogil:
    int prctl(int, unsigned long, unsigned long, unsigned long, unsigned long)
    int PR_SET_DUMPABLE

cdef extern from "<sys/resource.h>" nogil:
    cdef struct rlimit:
        unsigned long rlim_cur
        unsigned long rlim_max
    int setrlimit(int, const rlimit *)
    int RLIMIT_CORE

cdef extern from "<openssl/crypto.h>" nogil:
    void OPENSSL_cleanse(void *, size_t)

cdef extern from "<openssl/rand.h>" nogil:
    int RAND_priv_bytes(unsigned char *, int)

cdef enum:
    GRANULE = 64
    BLOCK_BYTES = 65536
    LARGEST = 1 << 24

# in granule 0 of every block: a forked child finds zeros here and is refused, instead of working with zero keys
cdef uint64_t ALIVE = 0x6970736563466173

cdef struct arena_block:
    arena_block *next
    unsigned char *pages            # first usable byte; a guard page before and behind
    size_t bytes
    Py_ssize_t granules
    Py_ssize_t used
    bint locked
    unsigned char *taken            # one byte per granule

cdef arena_block *blocks = NULL
cdef unsigned char nothing[1]       # what a secret of 0 bytes points to


cdef class Secret:
    """A handle on bytes in the arena; `repr` shows their number only. Not picklable, not comparable, no buffer."""
    def __cinit__(self):
        self.data = NULL
        self.block = NULL

    def __init__(self):
        raise TypeError("a Secret comes from secret_from_buffer(), secret_from_fd() or random_secret()")

    def __dealloc__(self):
        release(self)

    def __len__(self):
        return self.size

    def __repr__(self):
        return f"<Secret {self.size} bytes{', closed' if self.data == NULL else ''}>"

    def __reduce__(self):
        raise TypeError("a Secret cannot be pickled or copied; use slice() for a copy inside the arena")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        release(self)

    @property
    def closed(self):
        """Whether the bytes are gone."""
        return self.data == NULL

    @property
    def guessable(self):
        """Whether it is a text that can be guessed: of few characters, repetitions, rows (`12345`) or common words."""
        return is_guessable(borrow(self), self.size)

    def close(self):
        """Wipe and free; a second call does nothing, any later use raises StateError."""
        release(self)

    def slice(self, Py_ssize_t start, Py_ssize_t stop):
        """A copy of bytes `start` to `stop`, inside the arena."""
        cdef const unsigned char *data = borrow(self)
        if not 0 <= start <= stop <= self.size:
            raise UsageError(f"a slice of {start}..{stop} does not lie within a secret of {self.size} bytes")
        return secret_from_pointer(data + start, stop - start)


# what the secrets of real gateways are made of; in lower case, letters and digits that stand for letters compared alike
cdef const char **COMMON = ["password", "passwort", "passphrase", "passwd", "pass", "secret", "geheim", "changeme", "change",
                            "default", "example", "letmein", "welcome", "admin", "administrator", "root", "cisco", "juniper",
                            "fortinet", "mikrotik", "strongswan", "libreswan", "openswan", "ipsec", "ikev2", "ike", "vpn",
                            "tunnel", "gateway", "router", "firewall", "network", "office", "company", "server", "client",
                            "site", "branch", "shared", "sharedkey", "preshared", "key", "psk", "test", "testing", "demo", "lab",
                            "hello", "world", "qwertyuiop", "qwerty", "qwertz", "asdfghjkl", "asdf", "zxcvbnm", "yxcvbnm",
                            "iloveyou", "monkey", "dragon", "master", "football", "baseball", "sunshine", "princess", "super",
                            "summer", "winter", "spring", "autumn", "love", "god", "the", "my", "our", "this", "is", "for", "to",
                            "and", "not", "very", "strong", "long", "foo", "bar", "baz", NULL]

cdef enum:
    FEW_BYTES = 4                   # different ones
    OWN_BYTES = 6                   # besides common words and rows
    ROW_BYTES = 3                   # shorter is no row


cdef inline int lower(int c) noexcept nogil:
    return c + 32 if 65 <= c <= 90 else c


cdef inline int letter_of(int c) noexcept nogil:
    """What a digit or sign is often written for."""
    if c == 64 or c == 52:          # @ 4
        return 97
    if c == 48:                     # 0
        return 111
    if c == 51:                     # 3
        return 101
    if c == 36 or c == 53:          # $ 5
        return 115
    return 105 if c == 49 or c == 33 else lower(c)    # 1 !


cdef Py_ssize_t word_at(const unsigned char *data, Py_ssize_t n) noexcept nogil:
    """The length of the longest common word that `data` begins with, or 0."""
    cdef Py_ssize_t longest = 0, length
    cdef const char **word = COMMON
    while word[0] != NULL:
        length = 0
        while length < n and word[0][length] and (lower(data[length]) == word[0][length]
                                                  or letter_of(data[length]) == word[0][length]):
            length += 1
        if word[0][length] == 0 and length > longest:
            longest = length
        word += 1
    return longest


cdef Py_ssize_t row_at(const unsigned char *data, Py_ssize_t n) noexcept nogil:
    """The length of a row such as 12345, cba or xxxx, or 0."""
    cdef Py_ssize_t length = 1
    cdef int step
    if n < ROW_BYTES:
        return 0
    step = data[1] - data[0]
    if not -1 <= step <= 1:
        return 0
    while length < n and data[length] - data[length - 1] == step:
        length += 1
    return length if length >= ROW_BYTES else 0


cdef bint repeats(const unsigned char *data, Py_ssize_t n) noexcept nogil:
    """Whether it is a piece of less than 16 bytes over and over."""
    cdef Py_ssize_t period, at
    for period in range(1, min(15, n // 2) + 1):
        at = period
        while at < n and lower(data[at]) == lower(data[at - period]):
            at += 1
        if at == n:
            return True
    return False


cdef bint is_guessable(const unsigned char *data, Py_ssize_t n) noexcept nogil:
    """By looking at the bytes where they are: nothing of them is copied. What is no text was not thought of by a person."""
    cdef bint seen[256]
    cdef Py_ssize_t at = 0, skip, own = 0, different = 0
    cdef bint is_text = True
    memset(seen, 0, sizeof(seen))
    while at < n:
        is_text = is_text and 32 <= data[at] < 127
        different += not seen[data[at]]
        seen[data[at]] = True
        at += 1
    OPENSSL_cleanse(seen, sizeof(seen))   # the stack says nothing of the secret
    if not is_text:
        return False
    if different <= FEW_BYTES or repeats(data, n):
        return True
    at = 0
    while at < n and own < OWN_BYTES:
        skip = word_at(data + at, n - at)
        if skip == 0:
            skip = row_at(data + at, n - at)
        if skip == 0:
            skip = 1
            own += 1
        at += skip
    return own < OWN_BYTES


cdef Secret new_secret(Py_ssize_t n):
    cdef Secret secret = Secret.__new__(Secret)
    cdef arena_block *block
    cdef Py_ssize_t granules = (n + GRANULE - 1) // GRANULE, first = 0
    if n < 0 or n > LARGEST:
        raise UsageError(f"a secret of {n} bytes; 0 to {LARGEST} are possible")
    secret.size = n
    if n == 0:
        secret.data = nothing
        return secret
    block = blocks
    while block != NULL:
        first = find_run(block, granules)
        if first:
            break
        block = block.next
    if block == NULL:
        block = add_block(granules)
        first = find_run(block, granules)
    memset(block.taken + first, 1, granules)
    block.used += granules
    secret.block, secret.first, secret.granules = block, first, granules
    secret.data = block.pages + first * GRANULE
    return secret


cdef Secret secret_from_pointer(const unsigned char *source, Py_ssize_t n):
    cdef Secret secret = new_secret(n)
    memcpy(secret.data, source, n)
    return secret


cdef unsigned char *borrow(Secret secret) except NULL:
    if secret is None or secret.data == NULL:
        raise StateError("this secret was closed; its bytes are gone")
    if secret.block != NULL and (<uint64_t *> secret.block.pages)[0] != ALIVE:
        raise StateError("secrets do not survive a fork; make them in the process that uses them")
    return secret.data


cdef void release(Secret secret) noexcept:
    cdef arena_block *block = secret.block
    if block != NULL:
        OPENSSL_cleanse(secret.data, secret.granules * GRANULE)
        memset(block.taken + secret.first, 0, secret.granules)
        block.used -= secret.granules
        if block.used == 0 and (block.bytes > BLOCK_BYTES or block.next != NULL or block != blocks):
            drop_block(block)
    secret.data = NULL
    secret.block = NULL


cdef Py_ssize_t find_run(const arena_block *block, Py_ssize_t granules) noexcept:
    """The first granule of a free run, 0 if there is none (granule 0 holds ALIVE)."""
    cdef Py_ssize_t at, run = 0
    if block.granules - 1 - block.used < granules:
        return 0
    for at in range(1, block.granules):
        run = 0 if block.taken[at] else run + 1
        if run == granules:
            return at - granules + 1
    return 0


cdef arena_block *add_block(Py_ssize_t granules) except NULL:
    global blocks
    cdef size_t page = sysconf(_SC_PAGESIZE)
    cdef size_t wanted = (granules + 1) * GRANULE
    cdef size_t size = BLOCK_BYTES if wanted <= BLOCK_BYTES else (wanted + page - 1) // page * page
    cdef arena_block *block = <arena_block *> calloc(1, sizeof(arena_block))
    cdef unsigned char *base
    if block == NULL:
        raise MemoryError
    block.granules = size // GRANULE
    block.taken = <unsigned char *> calloc(block.granules, 1)
    base = <unsigned char *> mmap(NULL, size + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if block.taken == NULL or base == MAP_FAILED or mprotect(base + page, size, PROT_READ | PROT_WRITE) != 0:
        if base != MAP_FAILED:
            munmap(base, size + 2 * page)
        free(block.taken)
        free(block)
        raise MemoryError
    block.pages, block.bytes = base + page, size
    # each of these is a bonus where the kernel grants it; locking is the one that is reported
    madvise(block.pages, size, MADV_DONTDUMP)
    madvise(block.pages, size, MADV_WIPEONFORK)
    block.locked = mlock(block.pages, size) == 0
    (<uint64_t *> block.pages)[0] = ALIVE
    block.next = blocks
    blocks = block
    return block


cdef void drop_block(arena_block *block) noexcept:
    global blocks
    cdef arena_block *before = blocks
    cdef size_t page = sysconf(_SC_PAGESIZE)
    if blocks == block:
        blocks = block.next
    else:
        while before.next != block:
            before = before.next
        before.next = block.next
    munmap(block.pages - page, block.bytes + 2 * page)
    free(block.taken)
    free(block)


def secret_from_buffer(buffer, bint wipe=False):
    """The bytes of `buffer` in the arena; `wipe` zeroes the source afterwards (BufferError where it is read-only)."""
    cdef Py_buffer view
    cdef Secret secret
    PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE if wipe else PyBUF_SIMPLE)
    try:
        secret = secret_from_pointer(<const unsigned char *> view.buf, view.len)
        if wipe:
            OPENSSL_cleanse(view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
    return secret


def secret_from_fd(int fd, Py_ssize_t limit=4096, bint strip_newline=True):
    """All of a file, read straight into the arena; SecretError where it holds more than `limit` bytes."""
    cdef Secret room = new_secret(limit + 1)
    cdef Py_ssize_t filled = 0
    cdef ssize_t got
    try:
        while filled <= limit:
            with nogil:
                got = read(fd, room.data + filled, limit + 1 - filled)
            if got == 0:
                break
            if got < 0:
                if errno != EINTR:
                    raise SecretError(f"a secret could not be read: {strerror(errno).decode()}")
                PyErr_CheckSignals()
                continue
            filled += got
        if filled > limit:
            raise SecretError(f"a secret of more than {limit} bytes; that is no secret of ours")
        if strip_newline and filled and room.data[filled - 1] == c"\n":
            filled -= 1
            if filled and room.data[filled - 1] == c"\r":
                filled -= 1
        return secret_from_pointer(room.data, filled)
    finally:
        release(room)


def random_secret(Py_ssize_t n):
    """`n` bytes of OpenSSL's private random generator."""
    cdef Secret secret = new_secret(n)
    if n and RAND_priv_bytes(secret.data, <int> n) != 1:
        raise SecretError("OpenSSL's random generator gives nothing; is the system short of entropy?")
    return secret


def wipe(buffer):
    """Overwrite a buffer with zeros: a writable one, or the `bytes` of a library that cannot do without (2 bytes and more)."""
    cdef Py_buffer view
    if PyBytes_CheckExact(buffer):
        # Python shares the empty and the one-byte objects with everybody
        if PyBytes_GET_SIZE(buffer) > 1:
            OPENSSL_cleanse(PyBytes_AS_STRING(buffer), PyBytes_GET_SIZE(buffer))
        return
    PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
    OPENSSL_cleanse(view.buf, view.len)
    PyBuffer_Release(&view)


def arena_report():
    """`bytes` mapped for secrets, `locked_bytes` of them locked, `used_bytes` of secrets now alive."""
    cdef arena_block *block = blocks
    cdef size_t total = 0, locked = 0, used = 0
    while block != NULL:
        total += block.bytes
        locked += block.bytes if block.locked else 0
        used += block.used * GRANULE
        block = block.next
    return {"bytes": total, "locked_bytes": locked, "used_bytes": used}


def harden_process():
    """No core dumps and no ptrace by others (PR_SET_DUMPABLE 0, RLIMIT_CORE 0); returns what the system refused, one line each."""
    cdef rlimit none
    refused = []
    none.rlim_cur = none.rlim_max = 0
    if setrlimit(RLIMIT_CORE, &none) != 0:
        refused.append(f"core dumps stay possible: RLIMIT_CORE 0: {strerror(errno).decode()}")
    if prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        refused.append(f"other processes of this user may look into ours: PR_SET_DUMPABLE 0: {strerror(errno).decode()}")
    return refused


def reveal_for_test(Secret secret not None):
    """The bytes themselves, as a copy that nobody wipes: for tests against vectors, never for the product."""
    cdef unsigned char *data = borrow(secret)
    return PyBytes_FromStringAndSize(<char *> data, secret.size)
