"""A Pair whose ESP may be lost too, and whose shells tell their endpoints of it, as control.liveness does with real packets."""

from __future__ import annotations

from pair import Pair, Shell, perfect

from ipsec_fast.ike.endpoint import Endpoint
from ipsec_fast.ike.events import IkeDown, PeerBack, PeerSilent

TOLD_EVERY_S = 1.0


class LivePair(Pair):
    """`cut(...)` silences directions ("a": what a sends) for IKE and ESP; `one_way` has only that side send ESP."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.one_way = ""
        self.cuts: frozenset[str] = frozenset()
        self.esp: dict[tuple[str, int], float] = {}  # (what and side, child): when
        self._told_at = self.now

    def cut(self, *senders: str) -> None:
        self.cuts = frozenset(senders)
        self.network = lambda sent: () if sent.sender in self.cuts else perfect(sent)

    def lose_state(self, side: str) -> Shell:
        """kill -9 and a restart without state."""
        old = self.shell(side)
        new = Shell(side, 99, old.endpoint._core.settings, old.configs)
        new.endpoint = Endpoint(old.endpoint._core.settings, new.random.randbytes)
        setattr(self, side, new)
        return new

    def _send_traffic(self) -> None:
        for sender, receiver in ((self.a, self.b), (self.b, self.a)):
            out = sender.outbound()
            if out is None or self.one_way not in ("", sender.side):
                continue
            self.esp["sent " + sender.side, out.ask.child_id] = self.now
            if sender.side in self.cuts:
                continue
            target = receiver.receives(out.ask.spi_out, self.now)
            if target is None:
                receiver.endpoint.note_unknown_spi(out.ask.spi_out, out.ask.path.local, self.now)
            elif not target.is_down:
                self.esp["received " + receiver.side, target.ask.child_id] = self.now
                receiver.endpoint.inbound_seen(target.ask.child_id, self.now)
        if self.now - self._told_at >= TOLD_EVERY_S:
            self._told_at = self.now
            self._tell()
        self.flush()

    def _tell(self) -> None:
        for shell in (self.a, self.b):
            for view in shell.views():
                sent, received = (
                    max((at for c in view.children if (at := self.esp.get((f"{what} {shell.side}", c.child_id)))), default=None)
                    for what in ("sent", "received")
                )  # fmt: skip
                shell.endpoint.note_traffic(view.ike_id, sent, received, self.now)


def silent(shell: Shell) -> list[PeerSilent]:
    return shell.of(PeerSilent)


def back(shell: Shell) -> list[PeerBack]:
    return shell.of(PeerBack)


def downs(shell: Shell) -> list[IkeDown]:
    return shell.of(IkeDown)
