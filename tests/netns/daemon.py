"""The two daemons of the interop tests behind one face, since both speak vici: charon (strongSwan, userland ESP) and our gateway."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import vici

import ipsec_fast

from .lab import Namespace, wait_for
from .site import Site, swanctl_conf, toml

# an explicit list: the first plugin that offers an algorithm provides it; kernel-libipsec must stand before kernel-netlink,
# which is needed for addresses and routes
PLUGINS = (
    "random nonce drbg openssl aes sha2 sha1 hmac xcbc cmac kdf gcm curve25519 pem pkcs1 pkcs8 pubkey x509 constraints "
    "kernel-libipsec kernel-netlink socket-default vici updown counters"
)


@dataclass(frozen=True)
class Child:
    name: str
    state: str
    spi_in: str
    spi_out: str
    suite: str
    packets_in: int
    packets_out: int


@dataclass(frozen=True)
class Ike:
    name: str
    state: str
    id: str
    spis: tuple[str, str]
    children: tuple[Child, ...]

    @property
    def installed(self) -> tuple[Child, ...]:
        """Those that carry traffic; strongSwan keeps showing replaced ones for some seconds."""
        return tuple(child for child in self.children if child.state == "INSTALLED")


def text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class Daemon:
    """A process in a namespace with files of its own and a vici socket. `directory` must be short: AF_UNIX allows 107 bytes."""

    program: list[str]
    environment: dict[str, str]

    def __init__(self, namespace: Namespace, directory: Path) -> None:
        self.namespace, self.directory = namespace, directory
        directory.mkdir(parents=True, exist_ok=True)
        self.socket, self.log_file = directory / "vici", directory / "log"
        self.process: subprocess.Popen[bytes] | None = None

    # --- life
    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        with open(self.directory / "output", "ab") as output:
            self.process = subprocess.Popen(
                self.namespace.command(*self.program),
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        wait_for(f"{self.program[0]} answers on its socket", self._answers, 30)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.program} ended with {self.process.returncode}: {self.log()[-2000:]}"
        try:
            self.call("version")
        except (OSError, EOFError):
            return False
        return True

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(6)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def kill(self) -> None:
        """kill -9: the peer learns nothing."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def __enter__(self) -> Daemon:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def log(self) -> str:
        parts = [
            path.read_text(errors="replace") for path in (self.log_file, self.directory / "output") if path.exists()
        ]
        return "\n".join(parts)

    # --- vici
    def session(self, timeout_s: float = 15) -> vici.Session:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(self.socket))
        except OSError:
            connection.close()
            raise
        return vici.Session(connection)

    def call(self, command: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
        session = self.session()
        try:
            return dict(session.request(command, request or {}))
        finally:
            session.transport.close()

    def swanctl(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(
            [shutil.which("swanctl") or "swanctl", *words, "--uri", f"unix://{self.socket}"],
            capture_output=True,
            text=True,
            timeout=30,
            env=os.environ | {"SWANCTL_DIR": str(self.directory)} | self.environment,
        )
        assert not check or done.returncode == 0, f"swanctl {words}: {done.stdout} {done.stderr} {self.log()[-3000:]}"
        return done.stdout + done.stderr

    def initiate(self, child: str = "net", *, check: bool = True) -> str:
        return self.swanctl("--initiate", "--child", child, "--timeout", "8", check=check)

    def sas(self) -> list[Ike]:
        session = self.session()
        try:
            return [self._ike(text(name), section) for entry in session.list_sas({}) for name, section in entry.items()]
        finally:
            session.transport.close()

    @staticmethod
    def _ike(name: str, section: dict[str, Any]) -> Ike:
        children = tuple(
            Child(
                text(child["name"]),
                text(child["state"]),
                text(child.get("spi-in", "")),
                text(child.get("spi-out", "")),
                "-".join(text(child[key]) for key in ("encr-alg", "encr-keysize", "integ-alg") if key in child),
                int(text(child.get("packets-in", "0"))),
                int(text(child.get("packets-out", "0"))),
            )
            for child in section.get("child-sas", {}).values()
        )
        spis = (text(section["initiator-spi"]), text(section["responder-spi"]))
        return Ike(name, text(section["state"]), text(section["uniqueid"]), spis, children)

    def established(self) -> list[Ike]:
        return [ike for ike in self.sas() if ike.state == "ESTABLISHED"]


class Charon(Daemon):
    """charon-systemd, which needs no systemd, no pid file and stays in the foreground. level 4 logs the key material."""

    def __init__(
        self, namespace: Namespace, directory: Path, site: Site, *, level: int = 1, settings: str = ""
    ) -> None:
        super().__init__(namespace, directory)
        self.program = [shutil.which("charon-systemd") or "charon-systemd"]
        (directory / "strongswan.conf").write_text(f"""charon-systemd {{
  load = {PLUGINS}
  journal {{
    default = -1
  }}
  filelog {{
    f {{
      path = {self.log_file}
      flush_line = yes
      default = {level}
    }}
  }}
  plugins {{
    vici {{
      socket = unix://{self.socket}
    }}
  }}
  retransmit_timeout = 1.0
  retransmit_tries = 3
  {settings}
}}
""")
        self.configure(site)
        self.environment = {"STRONGSWAN_CONF": str(directory / "strongswan.conf")}

    def configure(self, site: Site) -> None:
        tree = site.tree()
        for connection in tree["connections"].values():
            connection["version"] = "2"
        (self.directory / "swanctl.conf").write_text(swanctl_conf(tree) + "\n")

    def start(self) -> None:
        super().start()
        self.swanctl("--load-all", "--file", str(self.directory / "swanctl.conf"))

    def version(self) -> str:
        return text(self.call("version")["version"])


class OurGateway(Daemon):
    def __init__(self, namespace: Namespace, directory: Path, site: Site) -> None:
        super().__init__(namespace, directory)
        self.program = [sys.executable, "-m", "ipsec_fast", "gateway", str(directory / "site.toml")]
        self.environment = {"PYTHONPATH": str(Path(ipsec_fast.__file__).parents[1])}
        self.configure(site)

    def configure(self, site: Site) -> None:
        tree = site.tree()
        secret = tree["secrets"]["ike-t"]
        psk = self.directory / "t.psk"
        psk.write_text(secret.pop("secret") + "\n")
        psk.chmod(0o600)
        secret["file"] = str(psk)
        file = self.directory / "site.toml"
        file.write_text(toml({"gateway": {"socket": str(self.socket)} | dict(site.gateway)} | tree) + "\n")
        file.chmod(0o600)


class OurGatewayBySwanctl(OurGateway):
    """Knows nothing but its socket; stock swanctl loads it, from the very file that charon would get."""

    def configure(self, site: Site) -> None:
        (self.directory / "site.toml").write_text(toml({"gateway": {"socket": str(self.socket)}}) + "\n")
        (self.directory / "swanctl.conf").write_text(swanctl_conf(site.tree()) + "\n")

    def start(self) -> None:
        super().start()
        self.load_all()

    def load_all(self) -> str:
        return self.swanctl("--load-all", "--file", str(self.directory / "swanctl.conf"))


def pause(seconds: float) -> None:
    """Where nothing can be polled: that nothing happens."""
    time.sleep(seconds)
