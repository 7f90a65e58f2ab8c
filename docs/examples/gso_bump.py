"""A bump in the wire at full speed: a host's packets, super-packets as they are, are sealed on their way out and opened on their way in.

    python gso_bump.py --inner lan0 --outer 192.0.2.1 --peer 192.0.2.2 --spi-out 0x1000 --spi-in 0x2000 --key-out HEX --key-in HEX \\
        --protect 10.1.0.0/24=10.2.0.0/24 --protect fd01::/64=fd02::/64

The host sits behind --inner and takes an address of that interface as its next hop; nothing is asked of it, its offloads stay as they are.
This box must not forward (net.ipv4.conf.lan0.forwarding=0, the same for ipv6), and its kernel needs a blackhole route to each remote
network, or it would say "no route" to the host: the kernel answers ARP and ND, everything else between the networks goes through here.
ESP in UDP (RFC 3948) to --peer, tunnel mode. Each --key-out with its --key-in makes a worker of its own, with SPIs and ports counted
up, and the kernel spreads the flows over them. SIGTERM ends it and prints what was counted as JSON. Needs CAP_NET_RAW and CAP_NET_ADMIN.

Keys on a command line are for trying it out: numbers begin at 1 at every start, so a second start needs other keys.
"""

import argparse
import json
import signal
from ipaddress import ip_address

from ipsec_fast import SA
from ipsec_fast.dataplane.packet_socket import PacketSocket
from ipsec_fast.dataplane.spd import Policy, Tables, set_selectors
from ipsec_fast.dataplane.udp import UdpSocket, set_endpoint
from ipsec_fast.dataplane.worker import Worker
from ipsec_fast.errors import IpsecFastError
from ipsec_fast.model import TrafficSelector

ALGORITHM, PORT, IP_AND_UDP = "aes128gcm16", 4500, {4: 28, 6: 48}


def make_worker(inner: PacketSocket, given: argparse.Namespace, number: int) -> tuple[Worker, UdpSocket]:
    """One worker with an SA in each direction of its own."""
    keys = given.key_out[number], given.key_in[number]
    outbound = SA("out", given.spi_out + number, ALGORITHM, keys[0], engine=given.engine)
    inbound = SA("in", given.spi_in + number, ALGORITHM, keys[1], window=4096, engine=given.engine)
    outbound.max_inner = outbound.max_inner_length(given.path_mtu - IP_AND_UDP[given.outer.version])
    for sa in (outbound, inbound):
        sa.mss_ipv4, sa.mss_ipv6 = outbound.max_inner - 40, outbound.max_inner - 60
    outer = UdpSocket(given.outer, PORT + number)
    set_endpoint(outbound, 0, None, given.peer, PORT + number)
    set_selectors(inbound, [local for local, _ in given.protect], [remote for _, remote in given.protect])
    worker = Worker(inner, [outer], engine=given.engine)
    worker.publish(Tables([inbound], [Policy("protect", local, remote, outbound) for local, remote in given.protect]))
    return worker, outer


def main() -> int:
    given = arguments()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    many = len(given.key_out) > 1
    try:
        first = PacketSocket(
            given.inner, peer_mac=given.peer_mac, promiscuous=given.promiscuous, fanout=many, qdisc_bypass=given.bypass
        )
        inners = [first, *(first.another() for _ in given.key_out[1:])]
        made = [make_worker(inner, given, number) for number, inner in enumerate(inners)]
    except IpsecFastError as error:
        print(error)
        return 1
    for worker, _ in made:
        worker.start()
    for address in given.host or ():
        first.solicit(address)
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    for worker, _ in made:
        worker.stop()
    report = {
        "peer_mac": first.peer_mac,
        "workers": [worker.counters() for worker, _ in made],
        "notices": [notice.kind.name for worker, _ in made for notice in worker.take_notices()],
        "kernel_dropped": [inner.take_dropped() for inner in inners],
    }
    for inner, (_, outer) in zip(inners, made, strict=True):
        inner.close()
        outer.close()
    print(json.dumps(report))
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inner", required=True, help="the interface of the host to protect")
    parser.add_argument("--outer", required=True, type=ip_address, help="our address towards the peer")
    parser.add_argument("--peer", required=True, type=ip_address, help="its address")
    parser.add_argument("--protect", required=True, action="append", type=pair, metavar="LOCAL=REMOTE")
    for way in ("out", "in"):
        parser.add_argument(
            f"--key-{way}", required=True, action="append", type=bytes.fromhex, help="20 bytes: AES-128 and salt"
        )
        parser.add_argument(f"--spi-{way}", required=True, type=lambda text: int(text, 0))
    parser.add_argument("--peer-mac", help="of the host; without it whoever was heard last")
    parser.add_argument(
        "--host", action="append", type=ip_address, help="an address of it, to ask for, so that it need not speak first"
    )
    parser.add_argument("--path-mtu", type=int, default=1500, help="between the two boxes")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--promiscuous", action="store_true", help="take frames to other stations too")
    parser.add_argument("--bypass", action="store_true", help="write past the queueing discipline of the interface")
    given = parser.parse_args()
    if len(given.key_out) != len(given.key_in):
        parser.error("each --key-out needs a --key-in")
    return given


def pair(text: str) -> tuple[TrafficSelector, TrafficSelector]:
    local, _, remote = text.partition("=")
    return TrafficSelector.parse(local), TrafficSelector.parse(remote)


if __name__ == "__main__":
    raise SystemExit(main())
