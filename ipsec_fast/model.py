"""The values that everyone passes around: selectors, proposals, identities, paths. Frozen, checked once when made."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from .errors import UsageError
from .iana import Encr, Esn, Group, IdType, Integ, Prf, ProtocolId, TransformType, TSType, name_of

Address = IPv4Address | IPv6Address

IDENTITY_MAX_BYTES = 1024  # longer ones are refused, of peers and in a configuration
IDENTITY_TEXT = 512  # characters of one that a text shows

PROTOCOL_NAMES = {
    "icmp": 1,
    "tcp": 6,
    "udp": 17,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": 58,
    "ipv6-icmp": 58,
    "ospf": 89,
    "sctp": 132,
}
_COMMON_PROTOCOLS = (*PROTOCOL_NAMES, "esp", "ah", "ospf", "any")
_SERVICES = {
    "ftp": 21, "ssh": 22, "telnet": 23, "smtp": 25, "domain": 53, "bootps": 67, "bootpc": 68, "tftp": 69, "http": 80, "kerberos": 88,
    "pop3": 110, "sunrpc": 111, "ntp": 123, "imap2": 143, "imap": 143, "snmp": 161, "bgp": 179, "ldap": 389, "https": 443,
    "microsoft-ds": 445, "isakmp": 500, "syslog": 514, "ldaps": 636, "domain-s": 853, "imaps": 993, "pop3s": 995, "l2f": 1701,
    "l2tp": 1701, "radius": 1812, "nfs": 2049, "mysql": 3306, "ms-wbt-server": 3389, "ipsec-nat-t": 4500, "sip": 5060, "sips": 5061,
    "postgresql": 5432,
}  # fmt: skip
_PROTOCOL_TEXT = {1: "icmp", 6: "tcp", 17: "udp", 47: "gre", 58: "ipv6-icmp", 132: "sctp"}


@dataclass(frozen=True, slots=True)
class Path:
    """Where a datagram came from or goes to: both addresses and ports, and whether the non-ESP marker was there (port 4500)."""

    local: Address
    local_port: int
    remote: Address
    remote_port: int
    marker: bool = False

    def __str__(self) -> str:
        return f"{self.local}[{self.local_port}] - {self.remote}[{self.remote_port}]"


@dataclass(frozen=True, slots=True)
class OuterHeader:
    """How the outer header of tunnel mode is made, and what of it the inner one keeps at the other end (RFC 4301 section 5.1.2).

    `dscp`: "copy" or 0..63. `ecn`: copied (RFC 6040 section 4.1 normal mode; False is its compatibility mode, Not-ECT). `df` of an
    IPv4 outer header: "set", "clear" or "copy" (of an IPv6 packet: set). `ttl`: 1..255 or "copy". `flow_label` of an IPv6 outer
    header: 0..0xfffff or "copy" (of an IPv4 packet: 0). `dscp_in`: "keep" the inner DSCP, or "copy" the outer one into it.
    """

    dscp: int | str = "copy"
    ecn: bool = True
    df: str = "set"
    ttl: int | str = 64
    flow_label: int | str = 0
    dscp_in: str = "keep"

    def __post_init__(self) -> None:
        for name, least, most in (("dscp", 0, 63), ("ttl", 1, 255), ("flow_label", 0, 0xFFFFF)):
            value = getattr(self, name)
            if value != "copy" and (not isinstance(value, int) or not least <= value <= most):
                raise UsageError(f'{name} {value!r}: it is {least} to {most}, or "copy"')
        for name, words in (("df", ("set", "clear", "copy")), ("dscp_in", ("keep", "copy"))):
            if getattr(self, name) not in words:
                raise UsageError(f"{name} {getattr(self, name)!r}: it is one of {', '.join(words)}")


@dataclass(frozen=True, slots=True)
class TrafficSelector:
    """One selector (RFC 7296 section 3.13.1): a true range of addresses, a protocol (0: any), a true range of ports.

    Ports 0-65535 mean any, 65535-0 is OPAQUE (the port is not available). For ICMP the port's halves hold type and code.
    """

    start: Address
    end: Address
    protocol: int = 0
    start_port: int = 0
    end_port: int = 65535

    def __post_init__(self) -> None:
        if self.start.version != self.end.version or int(self.start) > int(self.end):
            raise UsageError(
                f"selector {self.start}-{self.end}: the first address must not be above the last, of the same version"
            )
        if not 0 <= self.protocol <= 255 or not (0 <= self.start_port <= 65535 and 0 <= self.end_port <= 65535):
            raise UsageError(f"selector {self.start}-{self.end}: protocol is 0..255, ports are 0..65535")
        if self.start_port > self.end_port and not self.is_opaque:
            raise UsageError(f"selector ports {self.start_port}-{self.end_port}: the first must not be above the last")

    @property
    def version(self) -> int:
        return self.start.version

    @property
    def type(self) -> TSType:
        return TSType.IPV4_ADDR_RANGE if self.version == 4 else TSType.IPV6_ADDR_RANGE

    @property
    def is_opaque(self) -> bool:
        return (self.start_port, self.end_port) == (65535, 0)

    @property
    def is_any_port(self) -> bool:
        return (self.start_port, self.end_port) == (0, 65535)

    @classmethod
    def parse(cls, text: str) -> TrafficSelector:
        """`10.1.0.0/24`, `10.1.0.5-10.1.0.9`, `2001:db8::/64[tcp/443]`, `10.0.0.1[udp/1000-2000]`, `10.0.0.1[tcp/opaque]`."""
        match = re.fullmatch(r"\s*([^\[\]\s]+?)\s*(?:\[([^\]]*)\])?\s*", text)
        if match is None:
            raise UsageError(f"selector {text!r} is not like 10.1.0.0/24, 10.1.0.5-10.1.0.9 or 10.1.0.0/24[tcp/443]")
        addresses, rest = match[1], match[2]
        if "%" in addresses:
            raise UsageError(f"selector {text!r}: a selector holds no scope; leave out % and what follows it")
        try:
            if "-" in addresses:
                first, last = addresses.split("-", 1)
                start, end = ipaddress.ip_address(first), ipaddress.ip_address(last)
            else:
                network = ipaddress.ip_network(addresses)
                start, end = network[0], network[-1]
        except ValueError as error:
            raise UsageError(f"selector {text!r}: {error}") from None
        protocol, start_port, end_port = _parse_protocol_port(text, rest)
        return cls(start, end, protocol, start_port, end_port)

    @classmethod
    def host(cls, address: Address) -> TrafficSelector:
        return cls(address, address)

    def contains(self, other: TrafficSelector) -> bool:
        return self.intersect(other) == other

    def intersect(self, other: TrafficSelector) -> TrafficSelector | None:
        """What both allow, None if nothing. OPAQUE meets OPAQUE and any port, nothing else (RFC 4301 section 4.4.1.1)."""
        if self.version != other.version:
            return None
        start = self.start if int(self.start) >= int(other.start) else other.start
        end = self.end if int(self.end) <= int(other.end) else other.end
        if int(start) > int(end):
            return None
        if self.protocol and other.protocol and self.protocol != other.protocol:
            return None
        protocol = self.protocol or other.protocol
        if self.is_opaque or other.is_opaque:
            if not all(ts.is_opaque or ts.is_any_port for ts in (self, other)):
                return None
            return TrafficSelector(start, end, protocol, 65535, 0)
        first, last = max(self.start_port, other.start_port), min(self.end_port, other.end_port)
        return None if first > last else TrafficSelector(start, end, protocol, first, last)

    def networks(self) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        """The prefixes that make up the address range, for routes."""
        return list(ipaddress.summarize_address_range(self.start, self.end))

    def __str__(self) -> str:
        networks = self.networks()
        addresses = str(networks[0]) if len(networks) == 1 else f"{self.start}-{self.end}"
        if not self.protocol and self.is_any_port:
            return addresses
        ports = "" if self.is_any_port else "/opaque" if self.is_opaque else f"/{self.start_port}"
        if ports and not self.is_opaque and self.end_port != self.start_port:
            ports += f"-{self.end_port}"
        return f"{addresses}[{_PROTOCOL_TEXT.get(self.protocol, str(self.protocol))}{ports}]"


@dataclass(frozen=True, slots=True)
class DynamicSelector:
    """`dynamic`, `dynamic[tcp/22]`: a selector whose address is that of the IKE SA on its side."""

    protocol: int = 0
    start_port: int = 0
    end_port: int = 65535

    @classmethod
    def parse(cls, text: str) -> DynamicSelector:
        match = re.fullmatch(r"\s*dynamic\s*(?:\[([^\]]*)\])?\s*", text)
        if match is None:
            raise UsageError(f"selector {text!r} is not like dynamic or dynamic[tcp/22]")
        protocol, start_port, end_port = _parse_protocol_port(text, match[1])
        TrafficSelector(IPv4Address(0), IPv4Address(0), protocol, start_port, end_port)  # its checks
        return cls(protocol, start_port, end_port)

    def at(self, address: Address) -> TrafficSelector:
        return TrafficSelector(address, address, self.protocol, self.start_port, self.end_port)

    def __str__(self) -> str:
        return "dynamic" + str(self.at(IPv4Address(0))).removeprefix("0.0.0.0/32")


def _parse_protocol_port(text: str, rest: str | None) -> tuple[int, int, int]:
    if not rest:
        return 0, 0, 65535
    name, _, port = rest.partition("/")
    protocol = _protocol_number(name.strip().lower())
    if protocol is None:
        import difflib  # for a wrong word alone: it costs the command line's start

        near = difflib.get_close_matches(name.strip().lower(), _COMMON_PROTOCOLS, n=1)
        hint = f"; did you mean {near[0]}?" if near and near[0] != name.strip().lower() else ""
        raise UsageError(
            f"selector {text!r}: protocol {name!r} is neither a name such as tcp nor a number 0..255{hint}"
        )
    port = port.strip()
    if port in ("", "any"):
        return protocol, 0, 65535
    if port == "opaque":
        return protocol, 65535, 0
    match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", port)
    if match is not None:
        first, last = int(match[1]), int(match[2] or match[1])
        if max(first, last) > 65535:
            raise UsageError(f"selector {text!r}: ports are 0..65535")
        return protocol, first, last
    number = _port_of_service(port, protocol)
    if number is None:
        raise UsageError(
            f"selector {text!r}: port {port[:64]!r} is no number, range (1000-2000), opaque or service that this host knows"
        )
    return protocol, number, number


def _protocol_number(name: str) -> int | None:
    if name in ("", "any"):
        return 0
    if re.fullmatch("[0-9]{1,3}", name):
        return int(name) if int(name) <= 255 else None
    if name in PROTOCOL_NAMES:
        return PROTOCOL_NAMES[name]
    try:
        return socket.getprotobyname(name) if re.fullmatch("[a-z0-9_+.-]{1,32}", name) else None
    except OSError:
        return None


def _port_of_service(name: str, protocol: int) -> int | None:
    """By our own short list first, so that the common names mean the same on a host without /etc/services."""
    name = name.lower()
    if name in _SERVICES:
        return _SERVICES[name]
    if not re.fullmatch("[a-z0-9][a-z0-9_+.-]{0,31}", name):
        return None
    transport = _PROTOCOL_TEXT.get(protocol)
    try:
        return socket.getservbyname(name, transport) if transport else socket.getservbyname(name)
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class Transform:
    """A transform (RFC 7296 section 3.3.2); `key_bits` is its Key Length attribute, `unknown` true if it held one we do not know."""

    type: int
    id: int
    key_bits: int | None = None
    unknown: bool = False

    def __str__(self) -> str:
        tables = {
            TransformType.ENCR: Encr,
            TransformType.PRF: Prf,
            TransformType.INTEG: Integ,
            TransformType.KE: Group,
            TransformType.ESN: Esn,
        }
        table = tables.get(self.type)  # type: ignore[call-overload]
        name = name_of(table, self.id) if table else f"transform {self.type}/{self.id}"
        return f"{name}_{self.key_bits}" if self.key_bits else name


@dataclass(frozen=True, slots=True)
class Proposal:
    """A proposal (RFC 7296 section 3.3.1): transforms to pick one of each type from, or, chosen, one of each type."""

    number: int
    protocol: int
    spi: bytes
    transforms: tuple[Transform, ...]

    def of(self, transform_type: int) -> tuple[Transform, ...]:
        return tuple(t for t in self.transforms if t.type == transform_type)

    def one(self, transform_type: int) -> Transform | None:
        return next(iter(self.of(transform_type)), None)

    def __str__(self) -> str:
        return f"{name_of(ProtocolId, self.protocol)}:" + "/".join(str(t) for t in self.transforms)


@dataclass(frozen=True, slots=True)
class Identity:
    """An identification payload's content (RFC 7296 section 3.5)."""

    type: int
    data: bytes

    @classmethod
    def parse(cls, text: str) -> Identity:
        """By strongSwan's spelling: a prefix such as `keyid:` names the type, `#` and hex digits after it are the bytes themselves.

        Without a prefix the shape tells: an address, `user@host` or `@@user@host`, `@name` or a plain name (FQDN), `@#hex` (KEY_ID),
        and KEY_ID for what has a colon and is no address. UsageError for what strongSwan has and we do not, and for an identity
        that is empty, also after a prefix, or longer than 1,024 bytes.
        """
        identity = cls._parse(text)
        if not 1 <= len(identity.data) <= IDENTITY_MAX_BYTES:
            shown = text if len(text) <= 64 else f"{text[:64]}..."
            raise UsageError(
                f"identity {shown!r} has {len(identity.data)} bytes; 1 to {IDENTITY_MAX_BYTES} are possible, "
                "for example london.example"
            )
        return identity

    @classmethod
    def _parse(cls, text: str) -> Identity:
        text = text.strip()
        if not text:
            raise UsageError(
                "an identity must not be empty; for example london.example, ops@london.example or 192.0.2.1"
            )
        prefix, colon, rest = text.partition(":")
        if colon and (kind := _ID_PREFIXES.get(prefix.lower())) is not None:
            return cls(kind, _id_bytes(text, kind, rest))
        if (colon and prefix.lower() in _ID_PREFIXES_LATER) or text.startswith("{") or "=" in text:
            raise UsageError(
                f"identity {text!r}: this kind (DN, general name, network, type by number) is not supported by this "
                "version; names, mail addresses, single addresses and key IDs are"
            )
        if text.startswith("@#"):
            return cls(IdType.KEY_ID, _id_hex(text, text[2:]))
        if text.startswith("@@"):
            return cls(IdType.RFC822_ADDR, text[2:].encode())
        if text.startswith("@"):
            return cls(IdType.FQDN, text[1:].encode())
        if "@" in text:
            return cls(IdType.RFC822_ADDR, text.encode())
        return cls._of_shape(text)

    @classmethod
    def _of_shape(cls, text: str) -> Identity:
        """Without `@`, `=` and a prefix."""
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            if re.fullmatch(r"[0-9.]+([/-][0-9.]+)?|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*[/-][0-9a-fA-F:.]+", text):
                raise UsageError(
                    f"{text!r} looks like an address and is none; ranges and subnets are no identity here"
                ) from None
            return cls(IdType.KEY_ID if ":" in text else IdType.FQDN, text.encode())
        if "%" in text:
            raise UsageError(f"{text!r}: an identity holds no scope; write {text.partition('%')[0]}")
        return cls.of_address(address)

    @classmethod
    def of_address(cls, address: Address) -> Identity:
        return cls(IdType.IPV4_ADDR if address.version == 4 else IdType.IPV6_ADDR, address.packed)

    def matches(self, other: Identity) -> bool:
        """Equal; names without regard to case (RFC 7296 section 3.5 leaves it to us, DNS does not care)."""
        return self.folded == other.folded

    @property
    def folded(self) -> tuple[int, bytes]:
        """The same for all identities that match."""
        is_name = self.type in (IdType.FQDN, IdType.RFC822_ADDR)
        return self.type, self.data.lower() if is_name else self.data

    @property
    def is_pattern(self) -> bool:
        """`*.example.org` or `*@example.org`: whom a configuration expects. No peer is one: its identity is never a pattern."""
        return self.type in (IdType.FQDN, IdType.RFC822_ADDR) and self.data.startswith(b"*")

    def covers(self, other: Identity) -> bool:
        """This identity of a configuration means `other`: it is equal, or a pattern whose end `other` has, as in strongSwan."""
        if self.matches(other):
            return True
        if not self.is_pattern or self.type != other.type or other.is_pattern or len(other.data) < len(self.data):
            return False
        return other.data.lower().endswith(self.data[1:].lower())

    @property
    def with_type(self) -> str:
        return f"{self} ({name_of(IdType, self.type)})"

    def types_beside(self, wanted: Identity) -> str:
        """For messages in which two identities differ, perhaps in nothing but their type: `192.0.2.2` may be a name."""
        said, right = name_of(IdType, self.type), name_of(IdType, wanted.type)
        return f"(ID type {said}, not {right})" if said != right else f"(both of ID type {said})"

    def __str__(self) -> str:
        """As `parse` reads it, where it is a name; cut where it is long. A name that looks like another type has its type before it."""
        if self.type in (IdType.IPV4_ADDR, IdType.IPV6_ADDR) and len(self.data) in (4, 16):
            return str(ipaddress.ip_address(self.data))
        if self.type not in (IdType.FQDN, IdType.RFC822_ADDR):
            return _cut(f"{name_of(IdType, self.type)}:{self.data[: IDENTITY_TEXT + 1].hex()}", len(self.data))
        text = self.data[: IDENTITY_TEXT + 1].decode("ascii", "backslashreplace")
        shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
        prefix = "" if self._is_plain(text) else "fqdn:" if self.type == IdType.FQDN else "email:"
        return _cut(prefix + shown, len(self.data))

    def _is_plain(self, text: str) -> bool:
        """Whether its text alone says of which type it is."""
        try:
            return Identity._parse(text).type == self.type
        except UsageError:
            return False


def _cut(text: str, count: int) -> str:
    return text if len(text) <= IDENTITY_TEXT else f"{text[:IDENTITY_TEXT]}...({count} bytes)"


# strongSwan's prefixes, in any case; `dns`, `rfc822` and `userfqdn` are older names
_ID_PREFIXES = {
    "fqdn": IdType.FQDN, "dns": IdType.FQDN,
    "email": IdType.RFC822_ADDR, "rfc822": IdType.RFC822_ADDR, "userfqdn": IdType.RFC822_ADDR,
    "keyid": IdType.KEY_ID,
    "ipv4": IdType.IPV4_ADDR, "ipv6": IdType.IPV6_ADDR,
}  # fmt: skip
_ID_PREFIXES_LATER = ("ipv4net", "ipv6net", "ipv4range", "ipv6range", "asn1dn", "asn1gn", "xmppaddr", "uri")
_ID_ADDRESS_BYTES = {IdType.IPV4_ADDR: 4, IdType.IPV6_ADDR: 16}


def _id_bytes(text: str, kind: IdType, rest: str) -> bytes:
    data = _id_hex(text, rest[1:]) if rest.startswith("#") else rest.encode()
    wanted = _ID_ADDRESS_BYTES.get(kind)
    if wanted is not None and (len(data) != wanted or not rest.startswith("#")):
        raise UsageError(
            f"identity {text!r}: behind this prefix strongSwan takes bytes, not an address; write the address alone, or # and "
            f"{2 * wanted} hex digits"
        )
    return data


def _id_hex(text: str, digits: str) -> bytes:
    """Hex digits, with colons between them or not; of an odd number the first stands alone, as in strongSwan."""
    plain = digits.replace(":", "")
    if not re.fullmatch("[0-9a-fA-F]+", plain):
        raise UsageError(f"identity {text!r}: behind # stand hex digits")
    return bytes.fromhex("0" * (len(plain) % 2) + plain)


def selectors_text(selectors: Iterable[TrafficSelector]) -> str:
    return " ".join(str(ts) for ts in selectors)
