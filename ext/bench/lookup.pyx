"""The loop that `ipsec-fast bench sa-scale` times: SPIs in a given order, searched for in a SAD, in batches as the kernels do it or one by one.

Nothing else is in it: no packet is read and no SA touched. Called by: bench/scale.py.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from ipsec_fast.dataplane.net_io cimport monotonic_ns
from ipsec_fast.dataplane.sad cimport PROTOCOL_ESP, esp_sa
from ipsec_fast.dataplane.sad_table cimport SAD, SAD_BATCH, sad_find_batch, sad_find_spi, sad_query, sad_table

from ..errors import IpsecFastError


def lookup_ns(SAD sad not None, const uint32_t[::1] spis_be, bint one_by_one):
    """Nanoseconds for one pass over SPIs as they stand on the wire, each of which must be there."""
    cdef const sad_table *table = &sad.rows.table
    cdef sad_query queries[SAD_BATCH]
    cdef esp_sa *found[SAD_BATCH]
    cdef uint32_t n = <uint32_t> spis_be.shape[0], at = 0, count, i
    cdef uint64_t missing = 0, start
    memset(queries, 0, sizeof(queries))
    for i in range(SAD_BATCH):
        queries[i].protocol = PROTOCOL_ESP
    with nogil:
        start = monotonic_ns()
        if one_by_one:
            for i in range(n):
                missing += sad_find_spi(table, spis_be[i], PROTOCOL_ESP) is NULL
        else:
            while at < n:
                count = n - at if n - at < SAD_BATCH else SAD_BATCH
                for i in range(count):
                    queries[i].spi_be = spis_be[at + i]
                sad_find_batch(table, queries, found, count)
                for i in range(count):
                    missing += found[i] is NULL
                at += count
        start = monotonic_ns() - start
    if missing:
        raise IpsecFastError(f"the benchmark lost {missing} SAs")
    return start
