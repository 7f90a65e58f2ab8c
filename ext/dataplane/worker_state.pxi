"""What a worker has: its bounds, what it sends to control, its state. Included by worker.pyx, which cimports for all its parts."""

cdef enum:
    MAX_SOCKETS = 32
    TUN_READS = 32           # of one turn
    FLUSH_BYTES = 256 * 1024 # sent before the turn is over: more would leave the cache
    GRO_MESSAGES = 8
    GRO_BYTES = 65536
    PLAIN_MESSAGES = 32      # without UDP_GRO
    PLAIN_BYTES = 66624      # a whole IP packet behind RAW_BEFORE; 17 lines past 64 KB, or all places would share the same sets of the cache
    RAW_BEFORE = 64          # before what a raw socket gives: an IPv6 header is made there
    IN_PACKETS = 512
    PACKET_AT = 64           # of the read buffer; the virtio-net header stands before it, and what header the link has
    NAME_BYTES = 28
    ANSWERS_BURST = 50       # too-big answers: a bucket of 50, 100 a second
    ANSWERS_PER_S = 100
    LEAST_MTU_V6 = 1280      # no sender is told less; a packet of this length must pass (RFC 8200 section 5)
    TOLD_POLICIES = 64
    PUNT_RING_BYTES = 1 << 20
    NOTIFY_RING_BYTES = 1 << 16
    INJECT_RING_BYTES = 1 << 18
    BIG_BYTES = 512          # from here on a packet may not pass some path
    TOLD_ERRORS_BURST = 200  # ICMP that control is to judge: a bucket of 200, 200 a second
    TOLD_ERRORS_PER_S = 200
    KEEPALIVE_BYTE = 0xFF
    IKE_HEADER_BYTES = 28
    WORKERS_MAX = 64

# kinds of notice.py
cdef enum:
    FIRST_INBOUND = 1
    REKEY_SOON = 2
    GRANT_WANTED = 3
    SEQ_EXHAUSTED = 4
    UNKNOWN_SPI = 5
    NO_SA = 6
    TUN_LOST = 7
    LIFE_OVER = 8
    IN_REKEY_SOON = 9
    IN_LIFE_OVER = 10
    TOO_BIG = 11
    ECHO_ANSWERED = 12
    BIG_SENT = 13
    INNER_DOWN = 14
    PEER_MOVED = 15

# esp_sa.flags: what control was told of this SA; esp_sa.user is one more than the `granted` for which GRANT_WANTED went up
cdef enum:
    TOLD_FIRST = 1
    TOLD_REKEY = 2
    TOLD_EXHAUSTED = 4

cdef uint64_t SECOND_NS = 1000000000

cdef struct punt_head:
    uint16_t socket_index
    uint16_t remote_port
    uint8_t remote_version
    uint8_t local_version
    uint8_t remote[16]
    uint8_t local[16]

cdef struct notice_record:
    uint64_t value
    uint64_t tag             # of the SA that it is about; an SPI may be another peer's too
    uint32_t number
    uint32_t size
    uint8_t kind
    uint8_t remote_version   # 0: no address
    uint8_t remote[16]
    uint8_t protocol         # from here on of NO_SA alone, whose ports are in `number`, the local one in its upper half
    uint8_t has_ports
    uint8_t has_local
    uint8_t local[16]

cdef struct worker_state:
    inner_port *tun
    udp_port *ports[MAX_SOCKETS]
    uint32_t port_count
    void *tables
    epoch_slot *epoch
    esp_batch_ctx *esp
    ah_batch_ctx *ah
    record_ring *punt
    record_ring *notify
    record_ring *inject      # packets that control made, for an outbound SA by its tag
    int stop_fd
    int tun_fd               # -1 once the device is gone
    int hand_fd              # readable when another worker handed something over
    uint32_t index           # of this worker among `count`
    uint32_t count
    record_ring *hand_to[WORKERS_MAX]
    record_ring *hand_from[WORKERS_MAX]
    uint8_t hand_wake[WORKERS_MAX]
    uint64_t now_ns
    uint64_t unknown_told_ns
    uint64_t no_sa_told_ns[TOLD_POLICIES]
    uint64_t answers_at_ns
    uint64_t answers_left
    uint64_t errors_at_ns
    uint64_t errors_left
    uint8_t cookie[8]        # of our echoes
    uint8_t *read_buffer
    uint8_t *scratch
    uint8_t *receive_memory
    uint8_t *held            # HOLD_BYTES, the first held_bytes in use
    uint32_t held_bytes
    uint32_t held_count
    void *held_tables        # when they were last looked through
    uint64_t held_looked_ns
    flow_entry *cache
    track_table *track_out   # ports of first fragments, for the later ones
    track_table *track_in
    uint32_t in_count
    bint in_has_ah           # a packet of an AH SA is among them
    esp_packet in_packets[IN_PACKETS]
    uint8_t in_tos[IN_PACKETS]
    uint32_t in_seqs[IN_PACKETS]  # of the ESP header
    const packet_source *in_from[IN_PACKETS]
    packet_source sources[PLAIN_MESSAGES]  # of the messages that were received last
    mmsghdr messages[PLAIN_MESSAGES]
    iovec vectors[PLAIN_MESSAGES]
    uint8_t names[PLAIN_MESSAGES][NAME_BYTES]
    uint8_t controls[PLAIN_MESSAGES][CONTROL_BYTES]
    io_counters counters
    tx_queue queue
    merge_table merge
