"""The verdict of a packet: value, counter name and help text, in one table.

Kernels and worker give each packet one byte (the enum of status.pxd); counters, metrics and texts for people are made from the rows here. The
dataplane never raises and never logs a packet: this table is all it has to say. Called by: everyone who shows a counter.
"""

from ipsec_fast.dataplane.status cimport *

_ROWS = (
    (VERDICT_OK, "ok", "sealed, or opened and accepted"),
    (VERDICT_NO_SA, "no_sa", "no SA was handed in with the packet"),
    (VERDICT_WRONG_DIRECTION, "wrong_direction", "the SA is of the other direction"),
    (VERDICT_BAD_INNER, "bad_inner", "not an IPv4 or IPv6 packet, or its length does not fit (RFC 4303 section 3.4.4.1)"),
    (VERDICT_TOO_BIG, "too_big", "sealed it would exceed 65535 bytes"),
    (VERDICT_NO_GRANT, "no_grant", "the next sequence number is above the granted watermark"),
    (VERDICT_SEQ_EXHAUSTED, "seq_exhausted", "the sequence numbers of the SA are used up (RFC 4303 section 3.3.3)"),
    (VERDICT_CRYPTO_FAILED, "crypto_failed", "the crypto library refused to seal"),
    (VERDICT_RUNT, "runt", "shorter than ESP header, IV, trailer and ICV"),
    (VERDICT_BAD_OUTER, "bad_outer", "the outer IP or UDP header is wrong, or not the SA's kind"),
    (VERDICT_OUTER_FRAGMENT, "outer_fragment", "a fragment: reassemble before ESP (RFC 4303 section 3.4.1)"),
    (VERDICT_WRONG_SPI, "wrong_spi", "the SPI is not that of the SA handed in"),
    (VERDICT_BAD_LENGTH, "bad_length", "the encrypted part is no multiple of the cipher's block or of 4"),
    (VERDICT_REPLAY_OLD, "replay_old", "the sequence number is behind the anti-replay window"),
    (VERDICT_REPLAY_SEEN, "replay_seen", "the sequence number was seen before"),
    (VERDICT_BAD_ICV, "bad_icv", "the integrity check failed"),
    (VERDICT_BAD_PADDING, "bad_padding", "authentic, but the padding is not 1, 2, 3, ... or longer than the packet"),
    (VERDICT_BAD_NEXT_HEADER, "bad_next_header", "authentic, but the next header is not IPv4, IPv6 or none"),
    (VERDICT_DUMMY, "dummy", "a dummy packet, next header 59 (RFC 4303 section 2.6)"),
    (VERDICT_BAD_ECN, "bad_ecn", "congestion was marked on a packet that cannot carry the mark (RFC 6040 section 4.2)"),
    (VERDICT_UNKNOWN_SPI, "unknown_spi", "no SA has this SPI"),
    (VERDICT_SELECTOR_MISMATCH, "selector_mismatch", "the inner packet is outside the selectors of its SA (RFC 4301 section 5.2)"),
    (VERDICT_POLICY_DISCARD, "policy_discard", "the policy says discard, or none matches"),
    (VERDICT_POLICY_NO_SA, "policy_no_sa", "the policy says protect, but there is no SA yet"),
    (VERDICT_PMTU_EXCEEDED, "pmtu_exceeded", "larger than the path takes; the sender was told"),
    (VERDICT_NO_ROOM, "no_room", "no free buffer or ring slot"),
    (VERDICT_SEND_FAILED, "send_failed", "the system refused to send"),
    (VERDICT_LIFETIME, "lifetime", "the SA has carried as many packets or bytes as its lifetime allows"),
    (VERDICT_WRONG_PROTOCOL, "wrong_protocol", "the SA is of the other protocol, ESP or AH"),
    (VERDICT_FRAGMENT_LENGTH, "fragment_length", "an empty fragment, or not the last one and no multiple of 8 bytes (RFC 791, RFC 8200 section 4.5)"),
    (VERDICT_FRAGMENT_TOO_LONG, "fragment_too_long", "a fragment that ends beyond 65535 bytes"),
    (VERDICT_FRAGMENT_TINY, "fragment_tiny", "a first fragment without all headers up to the transport's (RFC 1858, RFC 7112)"),
    (VERDICT_FRAGMENT_OVERLAP, "fragment_overlap", "fragments of one packet overlap or end it twice: all of it is dropped (RFC 5722)"),
    (VERDICT_FRAGMENT_DUPLICATE, "fragment_duplicate", "an exact copy of a fragment that was there"),
    (VERDICT_FRAGMENT_TIMEOUT, "fragment_timeout", "the other fragments of the packet did not come in time"),
    (VERDICT_FRAGMENT_EVICTED, "fragment_evicted", "the oldest fragments went to make room for newer ones"),
    (VERDICT_FRAGMENT_UNMATCHED, "fragment_unmatched", "a later fragment whose first one was not let through before it (RFC 4301 section 7)"),
    (VERDICT_HANDOVER_FULL, "handover_full", "the worker that owns the SA did not keep up with what others handed to it"),
)
assert tuple(row[0] for row in _ROWS) == tuple(range(VERDICT_COUNT)), "status.pxd and status.pyx do not agree"

# name by verdict, help text by verdict: index is the verdict
NAMES = tuple(row[1] for row in _ROWS)
HELP = tuple(row[2] for row in _ROWS)
VERDICTS = {row[1]: row[0] for row in _ROWS}


def verdict_text(verdict) -> str:
    """`bad_icv: the integrity check failed` for a verdict's number."""
    value = int(verdict)
    return f"{NAMES[value]}: {HELP[value]}" if 0 <= value < len(NAMES) else f"verdict {value}"
