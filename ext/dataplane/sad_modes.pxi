"""What the mode of an SA puts into its struct: outer header and its rules, inner addresses of BEET, the addresses before a NAT. Included by sad.pyx."""

PROTOCOLS = {"esp": PROTOCOL_ESP, "ah": PROTOCOL_AH}
MODES = {"tunnel": MODE_TUNNEL, "transport": MODE_TRANSPORT, "beet": MODE_BEET}


cdef void set_encap(SA sa, encap) except *:
    if encap is None:
        return
    try:
        sport, dport = (int(port) for port in encap)
    except (TypeError, ValueError):
        sport = dport = 0
    if not (0 < sport < 65536 and 0 < dport < 65536):
        raise UsageError(f"encap {encap!r}: (source port, destination port), each 1 to 65535")
    sa.encap = (sport, dport)
    sa.hot.encap, sa.hot.sport, sa.hot.dport = 1, sport, dport


cdef void set_outer(SA sa, src, dst, encap) except *:
    if sa.hot.protocol == PROTOCOL_AH:
        if sa.hot.mode == MODE_BEET or encap is not None:
            raise UsageError("AH has tunnel and transport mode, and no UDP: it covers the addresses that a NAT would change")
        if sa.hot.mode == MODE_TUNNEL and (src is None or dst is None):
            raise UsageError("AH in tunnel mode needs src and dst: it covers the outer header")
    if sa.hot.mode == MODE_TRANSPORT and (src is not None or dst is not None):
        raise UsageError("transport mode keeps the packet's own addresses: leave out src and dst")
    if sa.hot.mode == MODE_BEET and (src is None or dst is None):
        raise UsageError("BEET mode needs src and dst, the outer addresses")
    if (src is None) != (dst is None):
        raise UsageError("src and dst go together: both for an SA with an outer header, none for ESP alone")
    if encap is not None and src is None and sa.hot.mode != MODE_TRANSPORT:
        raise UsageError("encap (UDP) needs src and dst")
    sa.src = sa.dst = sa.encap = None
    set_encap(sa, encap)
    if src is None:
        return
    try:
        sa.src, sa.dst = ipaddress.ip_address(src), ipaddress.ip_address(dst)
    except ValueError as error:
        raise UsageError(f"outer address: {error}") from None
    if sa.src.version != sa.dst.version:
        raise UsageError(f"src {src} and dst {dst}: one is IPv4, the other IPv6")
    write_template(sa)


cdef void write_template(SA sa) except *:
    cdef uint8_t *header = sa.hot.outer_header
    cdef uint32_t length
    cdef bytes addresses = sa.src.packed + sa.dst.packed
    protocol = 17 if sa.encap else sa.hot.protocol
    if sa.src.version == 4:
        sa.hot.outer, length = OUTER_IPV4, 20
        header[0], header[6], header[8], header[9] = 0x45, 0x40, 64, protocol
        memcpy(header + 12, <const char *> addresses, 8)
    else:
        sa.hot.outer, length = OUTER_IPV6, 40
        header[0], header[6], header[7] = 0x60, protocol, 64
        memcpy(header + 8, <const char *> addresses, 32)
    if sa.encap:
        store_be16(header + length, sa.encap[0])
        store_be16(header + length + 2, sa.encap[1])
        length += 8
    sa.hot.outer_length = length


cdef void share_ids(SA sa) except *:
    """Whether its packets may be fragmented, so that no other SA to this peer may use their identifications (RFC 6864)."""
    if sa.hot.outer != OUTER_IPV4 or sa.hot.direction != SA_OUTBOUND:
        return
    if (sa.src.packed, sa.dst.packed, 17 if sa.encap else sa.hot.protocol) not in _peer_ids:
        sa.hot.rules |= RULE_ONE_COUNT
    sa.peer_ids = peer_ids_of(sa.src, sa.dst, 17 if sa.encap else sa.hot.protocol, sa.hot.outer_id)
    sa.hot.ids = &sa.peer_ids.next


cdef void set_header_rules(SA sa, header) except *:
    if header is not None and not isinstance(header, OuterHeader):
        raise UsageError(f"header {header!r}: it is an OuterHeader")
    if header is not None and sa.hot.mode != MODE_TUNNEL:
        raise UsageError(f"{sa.mode} mode has no header rules: the packet's own header goes outside")
    rules = OuterHeader() if header is None else header
    sa.header = rules if sa.hot.mode == MODE_TUNNEL else None
    cdef uint8_t *template = sa.hot.outer_header
    if sa.hot.mode == MODE_BEET:
        sa.hot.tos_keep = 0xFF
        sa.hot.rules = RULE_DF_COPY | RULE_TTL_COPY | RULE_LABEL_COPY
        share_ids(sa)
        return
    sa.hot.tos_keep = (0xFC if rules.dscp == "copy" else 0) | (3 if rules.ecn else 0)
    sa.hot.tos_set = 0 if rules.dscp == "copy" else rules.dscp << 2
    sa.hot.rules = (
        (RULE_DF_COPY if rules.df == "copy" else 0) | (RULE_TTL_COPY if rules.ttl == "copy" else 0)
        | (RULE_LABEL_COPY if rules.flow_label == "copy" else 0) | (RULE_DSCP_IN if rules.dscp_in == "copy" else 0)
    )
    if sa.hot.outer == OUTER_IPV4:
        template[6] = 0 if rules.df == "clear" else 0x40
        if rules.df != "set":
            share_ids(sa)
    if sa.hot.outer != OUTER_NONE and rules.ttl != "copy":
        template[8 if sa.hot.outer == OUTER_IPV4 else 7] = rules.ttl
    if sa.hot.outer == OUTER_IPV6 and rules.flow_label != "copy":
        template[1] |= rules.flow_label >> 16
        store_be16(template + 2, rules.flow_label & 0xFFFF)


cdef tuple address_pair(str name, pair):
    try:
        source, destination = (ipaddress.ip_address(one) for one in pair)
    except (TypeError, ValueError):
        raise UsageError(f"{name} {pair!r}: it is (source address, destination address)") from None
    if source.version != destination.version:
        raise UsageError(f"{name} {source}, {destination}: one is IPv4, the other IPv6")
    return source, destination


cdef void set_inner(SA sa, pair) except *:
    if (pair is not None) != (sa.hot.mode == MODE_BEET):
        raise UsageError("BEET mode, and only that, has inner=(source, destination), the addresses of all its packets")
    sa.inner = None
    if pair is None:
        return
    sa.inner = address_pair("inner", pair)
    cdef bytes packed = sa.inner[0].packed + sa.inner[1].packed
    sa.hot.inner = sa.inner[0].version
    memcpy(sa.hot.inner_addresses, <const char *> packed, len(packed))
    if sa.hot.inner == 6 and sa.hot.outer == OUTER_IPV4 and 8 * sa.hot.encap + sa.hot.iv_length + sa.hot.icv_length < 10:
        raise UsageError(f"{sa.algorithm} adds too little for an IPv6 packet in BEET mode over IPv4: take one with an IV or a longer ICV, or encap")


cdef void set_original(SA sa, original) except *:
    sa.original = None
    if original is None:
        return
    if sa.hot.mode != MODE_TRANSPORT or sa.encap is None or sa.hot.direction != SA_INBOUND:
        raise UsageError("original addresses are for inbound transport mode in UDP, behind a NAT (RFC 3948 section 3.1.2)")
    if original == "recompute":
        sa.original, sa.hot.nat = original, NAT_RECOMPUTE
        return
    sa.original = address_pair("original", original)
    cdef bytes packed = sa.original[0].packed + sa.original[1].packed
    sa.hot.nat = NAT_ADJUST
    sa.hot.original_sum = csum_add(0, <const uint8_t *> <const char *> packed, len(packed))


cdef void set_room(SA sa, tfc) except *:
    cdef uint32_t around = 8 + sa.hot.iv_length, least
    if sa.hot.protocol == PROTOCOL_AH:
        if tfc:
            raise UsageError("AH hides nothing: TFC padding is ESP's (RFC 4303 section 2.7)")
        sa.hot.headroom = sa.hot.outer_length + ah_length(sa.hot.iv_length + sa.hot.icv_length, sa.hot.outer if sa.hot.outer else 6)
        sa.hot.tailroom = 0
        return
    if not isinstance(tfc, int) or not 0 <= tfc <= 65000:
        raise UsageError(f"tfc {tfc!r}: the least length of an inner packet, to which shorter ones are padded, 0 to 65000")
    if tfc and (sa.hot.mode != MODE_TUNNEL or sa.hot.direction != SA_OUTBOUND):
        raise UsageError("TFC padding is for outbound tunnel mode: there the inner packet tells its own length (RFC 4303 section 2.7)")
    sa.hot.tfc = tfc
    if sa.hot.mode == MODE_TUNNEL:
        sa.hot.headroom = sa.hot.outer_length + around
    elif sa.hot.mode == MODE_TRANSPORT:
        sa.hot.headroom = 8 * sa.hot.encap + around
    else:
        # the inner header makes room; options come back with up to 8 bytes of pseudo header
        least = 12 if sa.hot.inner == 4 else 40
        sa.hot.headroom = sa.hot.outer_length + around - least if sa.hot.outer_length + around > least else 0
    sa.hot.tailroom = tfc + sa.hot.align - 1 + 2 + sa.hot.icv_length


cdef uint32_t kept_length(SA sa, header_length) except? 0xFFFFFFFF:
    # bytes of the inner packet that are not sealed
    if sa.hot.mode == MODE_TUNNEL:
        if header_length is not None:
            raise UsageError("tunnel mode seals the header too: leave out header_length")
        return 0
    if header_length is None:
        return 40 if sa.hot.mode == MODE_BEET and sa.hot.inner == 6 else 20
    if not isinstance(header_length, int) or not 20 <= header_length <= 296:
        raise UsageError(f"header_length {header_length!r}: the bytes of header that stay outside, 20 to 296")
    return header_length


cdef uint32_t front_length(SA sa, uint32_t kept) noexcept:
    cdef uint32_t version
    # outer header to ESP header; of AH to what is behind it
    if sa.hot.protocol == PROTOCOL_AH:
        # transport mode: a header of 40 bytes may be either; AH of IPv6 is never the shorter one
        version = sa.hot.outer if sa.hot.outer else 4 if kept < 40 else 6
        return sa.hot.outer_length + kept + ah_length(sa.hot.iv_length + sa.hot.icv_length, version)
    return kept + 8 * sa.hot.encap if sa.hot.mode == MODE_TRANSPORT else sa.hot.outer_length
