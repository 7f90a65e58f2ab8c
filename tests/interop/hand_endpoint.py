"""An IKE endpoint on real sockets that does what it is told, for what the gateway has no command for: probes of a path's MTU.

Run inside a namespace: hand_endpoint.py LOCAL REMOTE, then one JSON command per line on stdin: {"do": "initiate"}, {"do": "probe",
"sizes": [...], "wait_s": 0.2}. Its dataplane is the picture of tests/support/pair.py. Prints what the endpoint tells, as JSON.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import sys
import time
from ipaddress import ip_address

from netns.site import PSK
from pair import Shell, connection

from ipsec_fast.errors import IpsecFastError
from ipsec_fast.gateway.ike_cut import CutSender
from ipsec_fast.ike.config import EndpointSettings
from ipsec_fast.ike.events import ChildUp, IkeDown, Outer, ProbeAnswered, ProbeFailed
from ipsec_fast.model import Path

MARKER = bytes(4)
PMTUDISC_PROBE, IP_MTU_DISCOVER = 3, 10


class Hand:
    def __init__(self, local: str, remote: str) -> None:
        self.local, self.remote = ip_address(local), ip_address(remote)
        self.shell = Shell("a", 1, EndpointSettings(), [connection("a", local_addrs=(self.local,))])
        self.shell.psk = PSK.encode()
        self.sockets = {port: socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for port in (500, 4500)}
        for port, one in self.sockets.items():
            one.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE)
            one.bind((local, port))
        self.cut = CutSender()
        self.told = 0

    def run(self) -> None:
        while True:
            at = self.shell.endpoint.get_timer()
            wait_s = 0.2 if at is None else min(max(at - time.monotonic(), 0), 0.2)
            ready, _, _ = select.select([sys.stdin, *self.sockets.values()], [], [], wait_s)
            for one in ready:
                if one is sys.stdin:
                    line = sys.stdin.readline()
                    if not line:
                        return
                    self.obey(json.loads(line))
                else:
                    self.receive(one)
            self.shell.endpoint.handle_timer(time.monotonic())
            self.flush()

    def obey(self, command: dict[str, object]) -> None:
        endpoint, now = self.shell.endpoint, time.monotonic()
        try:
            if command["do"] == "initiate":
                path = Path(self.local, 500, self.remote, 500)
                endpoint.initiate(self.shell.configs[0], (), path, now)
            else:
                told = endpoint.probe(self.shell.view.ike_id, command["sizes"], command["wait_s"], now)
                self.tell("probing", bytes=told)
        except IpsecFastError as error:
            self.tell("error", text=str(error))

    def receive(self, one: socket.socket) -> None:
        data, (remote, port) = one.recvfrom(65535)
        local_port = one.getsockname()[1]
        marker = local_port == 4500
        if marker and data[:4] != MARKER:
            return
        path = Path(self.local, local_port, ip_address(remote), port, marker)
        self.shell.endpoint.receive_datagram(data[4:] if marker else data, path, time.monotonic())

    def flush(self) -> None:
        now = time.monotonic()
        self.shell.drain(now)
        for path, datagrams, outer in self.shell.endpoint.datagrams_to_send(now):
            for data in datagrams:
                payload = (MARKER if path.marker else b"") + data
                if outer is Outer.CUT:
                    self.cut.send(payload, path)
                    continue
                with contextlib.suppress(OSError):  # longer than the interface takes
                    self.sockets[path.local_port].sendto(payload, (str(path.remote), path.remote_port))
        for event in self.shell.events[self.told :]:
            if isinstance(event, ProbeAnswered | ProbeFailed | ChildUp | IkeDown):
                words = {name: getattr(event, name) for name in event.__slots__}
                self.tell(type(event).__name__, **words)
        self.told = len(self.shell.events)

    def tell(self, what: str, **words: object) -> None:
        print(json.dumps({"what": what, **words}), flush=True)


if __name__ == "__main__":
    Hand(*sys.argv[1:]).run()
