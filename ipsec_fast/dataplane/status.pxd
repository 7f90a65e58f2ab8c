# The verdict of a packet: one byte. The table with counter names and texts is ext/dataplane/status.pyx; add rows at the end of a group there and here.

cdef enum:
    VERDICT_OK = 0
    # what outbound may say before a number is used
    VERDICT_NO_SA = 1
    VERDICT_WRONG_DIRECTION = 2
    VERDICT_BAD_INNER = 3
    VERDICT_TOO_BIG = 4
    VERDICT_NO_GRANT = 5
    VERDICT_SEQ_EXHAUSTED = 6
    VERDICT_CRYPTO_FAILED = 7
    # inbound, before the ICV
    VERDICT_RUNT = 8
    VERDICT_BAD_OUTER = 9
    VERDICT_OUTER_FRAGMENT = 10
    VERDICT_WRONG_SPI = 11
    VERDICT_BAD_LENGTH = 12
    VERDICT_REPLAY_OLD = 13
    VERDICT_REPLAY_SEEN = 14
    # inbound, at and after the ICV
    VERDICT_BAD_ICV = 15
    VERDICT_BAD_PADDING = 16
    VERDICT_BAD_NEXT_HEADER = 17
    VERDICT_DUMMY = 18
    VERDICT_BAD_ECN = 19
    # said by the worker
    VERDICT_UNKNOWN_SPI = 20
    VERDICT_SELECTOR_MISMATCH = 21
    VERDICT_POLICY_DISCARD = 22
    VERDICT_POLICY_NO_SA = 23
    VERDICT_PMTU_EXCEEDED = 24
    VERDICT_NO_ROOM = 25
    VERDICT_SEND_FAILED = 26
    # said in both directions, before and after
    VERDICT_LIFETIME = 27
    # said in both directions, before a number is used or looked at
    VERDICT_WRONG_PROTOCOL = 28
    # said of fragments, before they are whole
    VERDICT_FRAGMENT_LENGTH = 29
    VERDICT_FRAGMENT_TOO_LONG = 30
    VERDICT_FRAGMENT_TINY = 31
    VERDICT_FRAGMENT_OVERLAP = 32
    VERDICT_FRAGMENT_DUPLICATE = 33
    VERDICT_FRAGMENT_TIMEOUT = 34
    VERDICT_FRAGMENT_EVICTED = 35
    VERDICT_FRAGMENT_UNMATCHED = 36
    # said by the worker, of a packet that another worker's SA would carry
    VERDICT_HANDOVER_FULL = 37
    VERDICT_COUNT = 38
    # room for more without a change of esp_sa
    VERDICT_SLOTS = 48
