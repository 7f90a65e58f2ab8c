"""Which worker's socket and which worker's TUN queue the kernel gives a packet to (SO_REUSEPORT with classic BPF, TUNSETSTEERINGEBPF).

Outside: the sockets of one port form a group, and a program of three instructions picks the one whose number is the SPI modulo their
count; IKE (SPI 0) comes to the first. Inside: a program made from the selectors sends what one worker's SA carries to that worker's
queue, and what every worker has an SA for to a queue by its flow, the same one for both directions, so that a flow's packets stay in
order. Where the kernel refuses such a program it picks queues by its own hash, and workers hand packets over: slower, never wrong.
Called by gateway.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import ipaddress
import os
import platform
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import HostError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

SO_ATTACH_REUSEPORT_CBPF = 51
TUNSETSTEERINGEBPF = 0x800454E0
RULES_MAX = 256  # a program stays short: what comes behind is spread, and handed over
_SYS_BPF = {"x86_64": 321, "aarch64": 280}
_PROG_LOAD, _SOCKET_FILTER = 5, 1
_SPREAD = -1

# classic and extended BPF share these: linux/bpf_common.h, linux/bpf.h
_LD_ABS_W, _LD_ABS_B, _LD_ABS_H = 0x20, 0x30, 0x28
_LD_IND_W = 0x40
_ALU_MOD_K, _RET_A = 0x94, 0x16
_MOV_X, _MOV_K, _MOV32_X = 0xBF, 0xB7, 0xBC
_XOR_X, _AND32_K, _RSH_K, _RSH32_K, _LSH_K, _MUL32_K, _MOD32_K = 0xAF, 0x54, 0x77, 0x74, 0x67, 0x24, 0x94
_JA, _JEQ_K, _JNE_K, _JNE32_K, _JEQ32_K, _EXIT = 0x05, 0x15, 0x55, 0x56, 0x16, 0x95


@dataclass(frozen=True, slots=True)
class Rule:
    """Packets to `network` go to the queue of worker `owner`; None: to one by their flow."""

    network: Network
    owner: int | None


def steer_by_spi(sock: socket.socket, workers: int) -> None:
    """For all sockets of this one's SO_REUSEPORT group, in the order in which they were bound."""
    program = [(_LD_ABS_W, 0, 0, 0), (_ALU_MOD_K, 0, 0, workers), (_RET_A, 0, 0, 0)]
    code = b"".join(struct.pack("=HBBI", *line) for line in program)
    held = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("@HP", len(program), ctypes.addressof(held))
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, head)
    except OSError as error:
        raise HostError(f"cannot spread datagrams over {workers} sockets by SPI: {error.strerror}") from None


class TunSteering:
    """The program of a TUN device. `set_rules` replaces it; `works` tells whether the kernel takes such programs."""

    def __init__(self, tun_fd: int, workers: int) -> None:
        self._tun_fd, self._workers = tun_fd, workers
        self._rules: tuple[Rule, ...] | None = None
        self.works = workers > 1

    def set_rules(self, rules: Iterable[Rule]) -> None:
        """The narrowest network that holds a packet's destination decides. What no rule holds is spread."""
        ordered = tuple(sorted(set(rules), key=lambda rule: (-rule.network.prefixlen, str(rule.network))))[:RULES_MAX]
        if not self.works or ordered == self._rules:
            return
        self._rules = ordered
        with contextlib.suppress(OSError):
            self._attach(build_program(ordered, self._workers))
            return
        self.works = False

    def forget(self) -> None:
        """Forget the program, because the device was made again and has none."""
        self._rules = None

    def _attach(self, code: bytes) -> None:
        fd = _load(code)
        try:
            fcntl.ioctl(self._tun_fd, TUNSETSTEERINGEBPF, struct.pack("i", fd))
        finally:
            os.close(fd)  # the device holds the program


def build_program(rules: Sequence[Rule], workers: int) -> bytes:
    """Extended BPF of a socket filter over an IP packet; its result is the number of a queue."""
    out = _Assembler()
    out.add(_MOV_X, 6, 1)  # where packet loads look for the packet
    out.add(_LD_ABS_B, imm=0)
    out.add(_RSH32_K, 0, imm=4)
    out.jump(_JEQ32_K, 0, 4, "v4")
    out.jump(_JEQ32_K, 0, 6, "v6")
    out.add(_MOV_K, 0, imm=0)
    out.add(_EXIT)
    for version, at, words in ((4, 16, 1), (6, 24, 4)):
        out.label(f"v{version}")
        reached = _reached([rule for rule in rules if rule.network.version == version])
        for number, rule in enumerate(reached):
            _match(out, rule, at, f"next{version}.{number}", f"spread{version}")
        if not _takes_all(reached) or any(rule.owner is None for rule in reached):
            out.label(f"spread{version}")
            _spread(out, version, words, workers)
    return out.code()


def _reached(rules: list[Rule]) -> list[Rule]:
    """Those up to the first that holds every address: a kernel refuses a program with instructions that nothing leads to."""
    ends = (number for number, rule in enumerate(rules, 1) if rule.network.prefixlen == 0)
    return rules[: next(ends, None)]


def _takes_all(reached: list[Rule]) -> bool:
    return bool(reached) and reached[-1].network.prefixlen == 0


def _match(out: _Assembler, rule: Rule, at: int, otherwise: str, spread: str) -> None:
    left = rule.network.prefixlen
    address = rule.network.network_address.packed
    for word in range(0, len(address), 4):
        if left <= 0:
            break
        bits = min(left, 32)
        mask = (0xFFFFFFFF << (32 - bits)) & 0xFFFFFFFF
        out.add(_LD_ABS_W, imm=at + word)
        if bits < 32:
            out.add(_AND32_K, 0, imm=mask)
        out.jump(_JNE32_K, 0, int.from_bytes(address[word : word + 4], "big") & mask, otherwise)
        left -= 32
    if rule.owner is None:
        out.jump(_JA, 0, 0, spread)
    else:
        out.add(_MOV_K, 0, imm=rule.owner)
        out.add(_EXIT)
    out.label(otherwise)


def _spread(out: _Assembler, version: int, words: int, workers: int) -> None:
    """Both addresses, and both ports of TCP and UDP unless it is a fragment: their exclusive or, so that both directions agree."""
    source = 12 if version == 4 else 8
    out.add(_LD_ABS_W, imm=source)
    out.add(_MOV_X, 7, 0)
    for word in range(1, 2 * words):
        out.add(_LD_ABS_W, imm=source + 4 * word)
        out.add(_XOR_X, 7, 0)
    end = f"mix{version}"
    if version == 4:
        out.add(_LD_ABS_H, imm=6)
        out.add(_AND32_K, 0, imm=0x3FFF)
        out.jump(_JNE32_K, 0, 0, end)
    out.add(_LD_ABS_B, imm=9 if version == 4 else 6)
    out.jump(_JEQ32_K, 0, socket.IPPROTO_TCP, f"ports{version}")
    out.jump(_JNE32_K, 0, socket.IPPROTO_UDP, end)
    out.label(f"ports{version}")
    if version == 4:
        out.add(_LD_ABS_B, imm=0)
        out.add(_AND32_K, 0, imm=0xF)
        out.add(_LSH_K, 0, imm=2)
        out.add(_MOV_X, 2, 0)
        out.add(_LD_IND_W, 0, 2)
    else:
        out.add(_LD_ABS_W, imm=40)
    out.add(_MOV_X, 8, 0)
    out.add(_RSH_K, 8, imm=16)
    out.add(_XOR_X, 8, 0)
    out.add(_AND32_K, 8, imm=0xFFFF)  # one port alone would tell the directions apart
    out.add(_XOR_X, 7, 8)
    out.label(end)
    out.add(_MOV32_X, 0, 7)
    out.add(_MOV32_X, 8, 7)
    out.add(_RSH32_K, 8, imm=16)
    out.add(_XOR_X, 0, 8)
    out.add(_AND32_K, 0, imm=0xFFFF)
    out.add(_MUL32_K, 0, imm=0x9E3779B1)
    out.add(_RSH32_K, 0, imm=16)
    out.add(_MOD32_K, 0, imm=workers)
    out.add(_EXIT)


class _Assembler:
    """Instructions of eight bytes, and jumps to labels that come later."""

    def __init__(self) -> None:
        self._lines: list[tuple[int, int, int | str, int]] = []
        self._labels: dict[str, int] = {}

    def add(self, code: int, dst: int = 0, src: int = 0, *, imm: int = 0) -> None:
        self._lines.append((code, src << 4 | dst, 0, imm))

    def jump(self, code: int, dst: int, imm: int, label: str) -> None:
        self._lines.append((code, dst, label, imm))

    def label(self, name: str) -> None:
        self._labels[name] = len(self._lines)

    def code(self) -> bytes:
        packed = []
        for number, (code, registers, target, imm) in enumerate(self._lines):
            offset = self._labels[target] - number - 1 if isinstance(target, str) else target
            packed.append(struct.pack("=BBhI", code, registers, offset, imm & 0xFFFFFFFF))
        return b"".join(packed)


def _load(code: bytes) -> int:
    """The descriptor of a loaded program; OSError where the kernel does not let us."""
    number = _SYS_BPF.get(platform.machine())
    if number is None:
        raise OSError(f"the number of bpf() on {platform.machine()} is not known here")
    held, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"Apache-2.0")
    attributes = struct.pack(
        "=IIQQIIQI", _SOCKET_FILTER, len(code) // 8, ctypes.addressof(held), ctypes.addressof(licence), 0, 0, 0, 0
    ).ljust(128, b"\0")
    request = ctypes.create_string_buffer(attributes, len(attributes))
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.syscall(number, _PROG_LOAD, request, len(attributes)))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "the kernel refused a steering program")
    return fd
