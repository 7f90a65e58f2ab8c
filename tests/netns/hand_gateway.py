"""A gateway without IKE: one worker with SAs made by hand, driven by JSON lines on stdin, one JSON answer each.

argv[1] is a JSON document: tun, mtu, inner (addresses with prefix of the TUN), routes, outer, remote, policies [[local,
remote]], spi_out, spi_in; if wanted: algorithm, offload, mss, max_inner, port, wildcard, grant, traps, bypass, spares
(so many SAs each way, of the SPIs that follow, for `switch`), raw (50 or 51: ESP or AH without UDP), outer_mtu (outer
fragments, DF clear), outside_mtu (outer fragments for what must pass and does not fit), mss6, workers (how many; the
SPI says which of them owns the SAs), steer (the kernel is told of that). A command is {"do": ...} with "counters" |
"notices" | "tags" | "news" (notices in full) | "packets" (their selectors) | "echo" | "punted" | "publish" | "switch" |
"grant" | "sendto" | "set mtu" | "stop" | "quit".
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from ipaddress import ip_address
from typing import Any, Literal

from ipsec_fast.control.spi import worker_of
from ipsec_fast.dataplane.crew import Crew
from ipsec_fast.dataplane.echo import echo_request
from ipsec_fast.dataplane.epoch import retired
from ipsec_fast.dataplane.offload import Offload
from ipsec_fast.dataplane.outside import Outside
from ipsec_fast.dataplane.raw_socket import RawSocket
from ipsec_fast.dataplane.sad import SA
from ipsec_fast.dataplane.spd import Policy, Tables, last_received_s, last_sent_s, set_selectors
from ipsec_fast.dataplane.tun import Tun
from ipsec_fast.dataplane.udp import UdpSocket, set_endpoint, set_raw_endpoint
from ipsec_fast.dataplane.worker import Worker
from ipsec_fast.dataplane.workers import Workers
from ipsec_fast.model import OuterHeader, TrafficSelector
from ipsec_fast.system.steering import steer_by_spi

KEY_BYTES = {
    "sha256": 32,
    "aes128gmac": 20,
    "aes128gcm16": 20,
    "aes256gcm16": 36,
    "aes128-sha256": 48,
    "aes256-sha256": 64,
}


class HandGateway:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        offload = Offload(**settings.get("offload", {}))
        local = ip_address(settings["outer"])
        self.tun = Tun(settings["tun"], offload=offload)
        wildcard = settings.get("wildcard", False)
        self.socket = UdpSocket(
            None if wildcard else local, settings.get("port", 4500), version=local.version, offload=offload, mark=0x1F5
        )
        self.raw, mtu, outside_mtu = (
            settings.get("raw", 0),
            settings.get("outer_mtu", 0),
            settings.get("outside_mtu", 0),
        )
        sockets: list[UdpSocket | RawSocket] = [self.socket]
        has_raw = bool(self.raw or mtu or outside_mtu)
        if has_raw:
            sockets.append(RawSocket(local, protocol=self.raw or 50, mark=0x1F5))
        self.count = settings.get("workers", 1)
        self.more: list[tuple[Tun, list[UdpSocket | RawSocket]]] = []
        for _ in range(1, self.count):
            one = self.socket
            row: list[UdpSocket | RawSocket] = [
                UdpSocket(one.local, one.port, version=one.version, offload=offload, mark=0x1F5, beside=one)
            ]
            if has_raw:
                row.append(RawSocket(local, protocol=self.raw or 50, mark=0x1F5, receive=False))
            self.more.append((Tun(settings["tun"], offload=offload), row))
        self.workers = Workers(self.count, lambda *which: self.make_worker(*which, sockets, offload))
        self.worker = self.workers.all[0]
        if settings.get("steer"):
            steer_by_spi(self.socket.socket, self.count)
        algorithm = settings.get("algorithm", "aes128gcm16")
        protocol: Literal["esp", "ah"] = "ah" if self.raw == 51 else "esp"
        key = bytes(range(KEY_BYTES[algorithm]))
        grant = settings.get("grant")
        ends, remote = (local, ip_address(settings["remote"])), ip_address(settings["remote"])
        out = dict.fromkeys(("src", "dst", "encap", "header"))
        if self.raw or mtu:
            port = settings.get("port", 4500)
            df: dict[str, Any] = {"header": OuterHeader(df="clear")} if mtu else {}
            out = {"src": ends[0], "dst": ends[1], "encap": None if self.raw else (port, port)} | df
        into = {"src": ends[1], "dst": ends[0]} if self.raw == 51 else {}
        self.outbound = SA(
            "out", settings["spi_out"], algorithm, key, granted=grant, protocol=protocol, crew=self.count - 1, **out
        )
        self.inbound = SA(
            "in", settings["spi_in"], algorithm, key, window=4096, protocol=protocol, crew=self.count - 1, **into
        )
        for sa in (self.outbound, self.inbound):
            sa.mss_ipv4 = settings.get("mss", 0)
            sa.mss_ipv6 = settings.get("mss6", max(0, settings.get("mss", 0) - 20))
        self.outbound.max_inner = settings.get("max_inner", 0)
        self.outbound.tag = self.inbound.tag = 7
        if self.raw or mtu:
            set_raw_endpoint(self.outbound, 1, mtu, outside_mtu)
        else:
            port = settings.get("port", 4500)
            outside = Outside(1, local, port, outside_mtu) if outside_mtu else None
            set_endpoint(self.outbound, 0, local if wildcard else None, remote, port, outside)
        pairs = [(TrafficSelector.parse(a), TrafficSelector.parse(b)) for a, b in settings["policies"]]
        set_selectors(self.inbound, [a for a, _ in pairs], [b for _, b in pairs])
        self.spares = [
            SA("in", settings["spi_in"] + number, algorithm, key, window=4096)
            for number in range(1, settings.get("spares", 0) + 1)
        ]
        for spare in self.spares:
            set_selectors(spare, [a for a, _ in pairs], [b for _, b in pairs])
        self.pairs, self.algorithm, self.key = pairs, algorithm, key
        self.owner = worker_of(self.inbound.spi, self.count)
        self.policies = [self.protect(a, b) for a, b in pairs]
        self.policies += [Policy("protect", a, b, None, tag=77) for a, b in map(self.parse, settings.get("traps", []))]
        self.policies += [Policy("bypass", a, b) for a, b in map(self.parse, settings.get("bypass", []))]
        self.publish()
        self.configure()
        self.workers.start()

    def make_worker(
        self, index: int, count: int, crew: Crew | None, sockets: list[UdpSocket | RawSocket], offload: Offload
    ) -> Worker:
        if index == 0:
            return Worker(self.tun, sockets, offload=offload, index=index, count=count, crew=crew)
        tun, row = self.more[index - 1]
        return Worker(tun, row, offload=offload, index=index, count=count, crew=crew)

    def protect(self, local: TrafficSelector, remote: TrafficSelector) -> Policy:
        return Policy("protect", local, remote, self.outbound, owner=self.owner if self.count > 1 else None)

    @staticmethod
    def parse(pair: list[str]) -> tuple[TrafficSelector, TrafficSelector]:
        return TrafficSelector.parse(pair[0]), TrafficSelector.parse(pair[1])

    def publish(self) -> None:
        self.publish_inbound([self.inbound, *self.spares])

    def publish_inbound(self, inbound: list[SA]) -> None:
        self.workers.publish(
            lambda index: Tables([sa for sa in inbound if worker_of(sa.spi, self.count) == index], self.policies)
        )

    def switch(self) -> None:
        """A fresh outbound SA in place of the one in use, as a rekey does it, of another worker; the old one goes when it can."""
        settings = self.settings
        self.outbound = SA("out", self.outbound.spi + 1, self.algorithm, self.key)
        set_endpoint(self.outbound, 0, None, ip_address(settings["remote"]), settings.get("port", 4500))
        self.owner = worker_of(self.outbound.spi, self.count)
        self.policies = [self.protect(a, b) for a, b in self.pairs]
        self.publish()

    def configure(self) -> None:
        name = self.tun.name
        run(f"ip link set {name} mtu {self.settings['mtu']} up")
        for address in self.settings["inner"]:
            run(
                f"ip address add {address} dev {name} nodad"
                if ":" in address
                else f"ip address add {address} dev {name}"
            )
        for route in self.settings.get("routes", []):
            run(f"ip route add {route} dev {name}")

    def answer(self, command: dict[str, Any]) -> Any:
        do = command["do"]
        if do == "counters":
            usage = resource.getrusage(resource.RUSAGE_SELF)
            return {
                "worker": self.workers.counters(),
                "each": [one.counters() for one in self.workers.all],
                "in": self.inbound.counters(),
                "out": self.outbound.counters(),
                "features": self.tun.features | self.socket.features,
                "retired": retired(),
                "user_s": usage.ru_utime,
                "system_s": usage.ru_stime,
                "last": [last_sent_s(self.outbound), last_received_s(self.inbound)],
            }
        if do == "notices":
            return [[notice.kind.name, notice.spi] for notice in self.workers.take_notices()]
        if do == "tags":
            return [[notice.kind.name, notice.tag] for notice in self.workers.take_notices()]
        if do == "packets":
            return [[str(ts) for ts in notice.packet or ()] for notice in self.workers.take_notices()]
        if do == "news":
            return [[n.kind.name, n.spi, str(n.remote), n.number, n.size] for n in self.workers.take_notices()]
        if do == "echo":
            for number, length in command["echoes"]:
                packet = echo_request(*map(ip_address, command["ends"]), number, length)
                assert self.worker.inject(command.get("tag", 7), packet)
        if do == "punted":
            return [
                [p.data.hex(), str(p.local), p.local_port, str(p.remote), p.remote_port]
                for p in self.workers.take_punted()
            ]
        if do == "publish":
            for _ in range(command["times"]):
                self.publish()
                set_endpoint(
                    self.outbound, 0, None, ip_address(self.settings["remote"]), self.settings.get("port", 4500)
                )
        if do == "switch":
            for _ in range(self.settings["spares"]):
                self.switch()
                time.sleep(command["pause_s"])
            self.workers.counters()  # lets go of what the worker passed
        if do == "come late":  # the inbound SA is not there for so long, as before control has read a response
            self.publish_inbound(self.spares)
            time.sleep(command["pause_s"])
            self.publish()
        if do == "set mtu":  # as control does it where the path changes
            for sa in (self.outbound, self.inbound):
                sa.max_inner, sa.mss_ipv4, sa.mss_ipv6 = command["max_inner"], command["mss"], command["mss"] - 20
        if do == "stop":
            before = time.monotonic()
            self.workers.stop()
            return time.monotonic() - before
        if do == "grant":
            self.outbound.set_grant(command["granted"])
        if do == "sendto":
            self.socket.sendto(bytes.fromhex(command["data"]), ip_address(self.settings["remote"]), self.socket.port)
        return None

    def serve(self) -> None:
        for line in sys.stdin:
            command = json.loads(line)
            if command["do"] == "quit":
                break
            print(json.dumps(self.answer(command)), flush=True)
        self.workers.stop()
        for tun, row in self.more:
            for one in row:
                one.close()
            tun.close()
        self.socket.close()
        self.tun.close()


def run(command: str) -> None:
    subprocess.run(command.split(), check=True)


if __name__ == "__main__":
    gateway = HandGateway(json.loads(sys.argv[1]))
    print(json.dumps("ready"), flush=True)
    gateway.serve()
