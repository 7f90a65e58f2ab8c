"""strongSwan's charon as gw2 of a bench run, driven through vici as our own gateway is.

It needs Debian's charon-systemd and the libipsec plugin: its ESP is its own userland one, because these namespaces have no other.
Left out: everything that a rekey does not need. Called by rekey.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ..demo.gateways import CHILD, PROPOSALS, SITES, DemoGateway
from ..demo.topology import Topology

# an explicit list: the first plugin that offers an algorithm provides it; kernel-libipsec must stand before kernel-netlink
PLUGINS = (
    "random nonce drbg openssl aes sha2 sha1 hmac kdf gcm curve25519 pem pkcs1 pkcs8 pubkey x509 constraints "
    "kernel-libipsec kernel-netlink socket-default vici"
)
PIDFD_GETFD = 438  # a system call that Python does not name
SO_RCVBUFFORCE = 33
ROOM_BYTES = 8 << 20
_LIBC = ctypes.CDLL(None, use_errno=True)
LIBIPSEC = Path("/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so")
PACKAGES = "charon-systemd strongswan-swanctl libcharon-extra-plugins libstrongswan-extra-plugins libstrongswan-standard-plugins"
STRONGSWAN_CONF = """\
charon-systemd {{
  load = {plugins}
  dos_protection = no
  journal {{
    default = -1
  }}
  filelog {{
    f {{
      path = {log}
      flush_line = yes
      default = 1
    }}
  }}
  plugins {{
    vici {{
      socket = unix://{socket}
    }}
  }}
}}
"""
SWANCTL_CONF = """\
connections {{
  {connection} {{
    version = 2
    local_addrs = {local}
    remote_addrs = {remote}
    proposals = {proposals}
    local {{
      auth = psk
      id = {local_id}
    }}
    remote {{
      auth = psk
      id = {remote_id}
    }}
    children {{
      {child} {{
        local_ts = 10.{here}.0.0/24
        remote_ts = 10.{there}.0.0/24
        esp_proposals = {cipher}
      }}
    }}
  }}
}}
secrets {{
  ike-site {{
    id-1 = {local_id}
    id-2 = {remote_id}
    secret = "{psk}"
  }}
}}
"""


def missing() -> str:
    """What charon needs and this host lacks, with the packages to install; empty where all is there."""
    lacking = [program for program in ("charon-systemd", "swanctl") if shutil.which(program) is None]
    lacking += [] if LIBIPSEC.exists() else ["the plugin kernel-libipsec"]
    return f"no {', no '.join(lacking)}: apt-get install --no-install-recommends {PACKAGES}" if lacking else ""


def version() -> str:
    """`strongSwan 5.9.8`, or `unknown`; swanctl names itself where it finds no daemon to ask."""
    done = subprocess.run(["swanctl", "--version"], capture_output=True, text=True, timeout=10)
    found = re.search(r"strongSwan \S+", done.stdout + done.stderr)
    return found[0] if found else "unknown"


class CharonGateway(DemoGateway):
    """A charon-systemd in its node; what it shares with our gateway is vici."""

    def __init__(
        self, net: Topology, node: str, folder: Path, psk: Path, *, cipher: str, proposals: Sequence[str] = PROPOSALS
    ) -> None:
        self.node, self.folder = node, folder
        self.connection, local, remote, local_id, remote_id, here, there = SITES[node]
        self.log = folder / "charon.log"
        folder.mkdir(mode=0o700)
        settings = folder / "strongswan.conf"
        settings.write_text(STRONGSWAN_CONF.format(plugins=PLUGINS, log=self.log, socket=folder / "vici"))
        self.config = folder / "swanctl.conf"
        self.config.touch(mode=0o600)
        self.config.write_text(
            SWANCTL_CONF.format(
                connection=self.connection, local=local, remote=remote, local_id=local_id, remote_id=remote_id,
                child=CHILD, here=here, there=there, cipher=cipher, proposals=", ".join(proposals), psk=psk.read_text().strip(),
            )
        )  # fmt: skip
        self._environment = os.environ | {"STRONGSWAN_CONF": str(settings), "SWANCTL_DIR": str(folder)}
        self.process = net.start(
            node, "charon-systemd",
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self._environment,
        )  # fmt: skip

    def wait_until_listening(self, seconds: float = 20) -> None:
        super().wait_until_listening(seconds)
        words = ["swanctl", "--load-all", "--file", str(self.config), "--uri", f"unix://{self.folder / 'vici'}"]
        subprocess.run(words, check=True, capture_output=True, env=self._environment, timeout=20)
        give_room(self.process.pid)


def give_room(pid: int) -> int:
    """As much room to the UDP sockets of a process as ours have; how many took it.

    charon leaves them at the host's default, which is 90 packets: 20 ms in which it has no CPU would look like a packet lost by a rekey.
    """
    given = 0
    process = os.pidfd_open(pid)
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if not os.readlink(entry).startswith("socket:"):
                    continue
                copy = _LIBC.syscall(PIDFD_GETFD, process, int(entry.name), 0)
                if copy < 0:
                    continue
                with socket.socket(fileno=copy) as sock:
                    if sock.type == socket.SOCK_DGRAM and sock.family in (socket.AF_INET, socket.AF_INET6):
                        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM_BYTES)
                        given += 1
    finally:
        os.close(process)
    return given
