"""A message of ours as datagrams that fit: whole, or as SKF fragments (RFC 7383 sections 2.4, 2.5), and the same one cut smaller.

A size is always that of the IP datagram, as strongSwan counts it: the IP header without options, UDP, the non-ESP marker and the IKE
message. A message that was sent is kept as its datagrams alone; to cut it smaller (section 2.5.2) they are opened with our own key and
sealed again, under the same message ID and with fresh IVs. The number of fragments then grows, by which the receiver knows the new set.
Leaves out: when that is done (outbound.py), and what is received (reassembly.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...errors import UsageError
from ...iana import ExchangeType
from ...model import Path
from ..header import HEADER_BYTES, IkeHeader
from .message import GENERIC_HEADER_BYTES, MAX_MESSAGE_BYTES, decode_message
from .payloads import EncryptedPayload, FragmentPayload
from .protect import open_content, seal_chain, seal_fragment
from .window import Datagrams

if TYPE_CHECKING:
    from .ike_sa import IkeSA
    from .keymat import IkeKeymat

MAX_FRAGMENTS = 64  # of one message, sent and received
LEAST_BYTES = 576  # RFC 791: what every host takes; a smaller setting would only make more fragments
IPV6_LEAST_BYTES = 1280  # RFC 8200: what every IPv6 link carries
MOST_BYTES = 65535
NUMBERS_BYTES = 4  # Fragment Number and Total Fragments
_STEPS = {4: (IPV6_LEAST_BYTES, LEAST_BYTES), 6: (IPV6_LEAST_BYTES,)}
_IP_HEADER_BYTES = {4: 20, 6: 40}
_UDP_HEADER_BYTES, _MARKER_BYTES = 8, 4


# --- sizes


def overhead(path: Path) -> int:
    """What stands before the IKE message in its IP datagram."""
    return _IP_HEADER_BYTES[path.remote.version] + _UDP_HEADER_BYTES + _MARKER_BYTES * path.marker


def room_in(datagram_bytes: int, path: Path) -> int:
    """The longest IKE message in an IP datagram of that size."""
    return min(datagram_bytes - overhead(path), MAX_MESSAGE_BYTES)


def longest(datagrams: Datagrams, path: Path) -> int:
    """The size of the largest IP datagram of a message."""
    return max(len(one) for one in datagrams) + overhead(path)


def least_bytes(path: Path) -> int:
    return _STEPS[path.remote.version][-1]


def next_step(size: int, path: Path) -> int | None:
    """The size to try where datagrams of `size` seem to be lost; None where none is smaller."""
    return next((step for step in _STEPS[path.remote.version] if step < size), None)


def may_fragment(sa: IkeSA) -> bool:
    """Both sides have announced it, and the configuration lets us."""
    config = sa.connection or next(iter(sa.candidates), None)
    return sa.fragments and config is not None and config.fragmentation.sends


def size_of(sa: IkeSA) -> int:
    """The largest IP datagram that a message of this IKE SA may make: what its path has taught, else the setting."""
    return sa.fragment_bytes or sa.core.settings.fragment_bytes


def check_size(size: int, path: Path) -> None:
    """UsageError unless a message may be cut to IP datagrams of that size there."""
    least = least_bytes(path)
    if not least <= size <= MOST_BYTES:
        raise UsageError(f"a size of IKE datagrams to {path.remote} is {least} to {MOST_BYTES} bytes, not {size}")


# --- cutting


def cut(header: IkeHeader, first: int, chain: bytes, keymat: IkeKeymat, room: int | None) -> Datagrams:
    """SK {chain}, or as many SKF as make each message at most `room` bytes long (None: never); each with an IV of its own."""
    if room is None or sealed_bytes(len(chain), keymat) <= room:
        return (seal_chain(header, first, chain, keymat.outbound, keymat.next_iv()),)
    step = max(_part_bytes(room, keymat), -(-len(chain) // MAX_FRAGMENTS))
    return _seal_parts(header, first, [chain[at : at + step] for at in range(0, len(chain), step)], keymat)


def _seal_parts(header: IkeHeader, first: int, parts: Sequence[bytes], keymat: IkeKeymat) -> Datagrams:
    sealer = keymat.outbound
    return tuple(
        seal_fragment(header, first, number, len(parts), part, sealer, keymat.next_iv())
        for number, part in enumerate(parts, 1)
    )


def cut_smaller(datagrams: Datagrams, keymat: IkeKeymat, room: int) -> Datagrams | None:
    """The same message again in smaller and more fragments; None where it has no longer ones, has too many, or is in clear.

    Where smaller ones alone would not be more, what is behind the first one is divided further: the first still has the whole size.
    """
    header = IkeHeader.decode(datagrams[0])
    if header.exchange == ExchangeType.IKE_SA_INIT or max(map(len, datagrams)) <= room:
        return None
    first, chain = _content_of(datagrams, keymat)
    step, least = _part_bytes(room, keymat), len(datagrams) + 1
    parts = [chain[at : at + step] for at in range(0, len(chain), step)]
    if len(parts) < least:
        rest = chain[step:]
        each = -(-len(rest) // (least - 1))
        parts = [chain[:step], *(rest[at : at + each] for at in range(0, len(rest), max(each, 1)))]
    if not least <= len(parts) <= MAX_FRAGMENTS:
        return None
    return _seal_parts(header, first, parts, keymat)


def padding_for(room: int, keymat: IkeKeymat) -> int:
    """How long a chain of payloads must be to make SK{} as long as fits into `room`: to the byte for an AEAD, to the block for CBC."""
    sealer = keymat.outbound
    space = room - HEADER_BYTES - GENERIC_HEADER_BYTES - sealer.iv_bytes - sealer.icv_bytes
    return space - space % sealer.block_bytes - 1


def sealed_bytes(chain_bytes: int, keymat: IkeKeymat) -> int:
    """The length of the message SK {chain}."""
    sealer = keymat.outbound
    padded = chain_bytes + 1 + -(chain_bytes + 1) % sealer.block_bytes
    return HEADER_BYTES + GENERIC_HEADER_BYTES + sealer.iv_bytes + padded + sealer.icv_bytes


def _part_bytes(room: int, keymat: IkeKeymat) -> int:
    """Of the chain, in one fragment; the pad length octet and the padding to whole blocks are off."""
    return max(padding_for(room - NUMBERS_BYTES, keymat), 1)


def _content_of(datagrams: Datagrams, keymat: IkeKeymat) -> tuple[int, bytes]:
    """The type of the first payload and the chain, out of what we have sealed ourselves."""
    first, parts = 0, []
    for number, data in enumerate(datagrams, 1):
        message = decode_message(data)
        payload = message.get(EncryptedPayload) or message.get(FragmentPayload)
        if payload is None:
            raise AssertionError("a message of ours without SK or SKF")
        first = payload.next_payload if number == 1 else first
        parts.append(open_content(data, payload, keymat.outbound))
    return first, b"".join(parts)
