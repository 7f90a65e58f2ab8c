"""A Pair whose shells ask for one Child SA for each worker (RFC 9611), as the gateway does by control.resources."""

from __future__ import annotations

from pair import Pair, Shell, child, connection

from ipsec_fast.control.resources import Resources
from ipsec_fast.ike.config import ConnectionConfig, EndpointSettings
from ipsec_fast.ike.events import ChildView

NET_B = {"local": "10.2.0.0/24", "remote": "10.1.0.0/24"}


def workers(count: int, **more) -> EndpointSettings:
    return EndpointSettings(resources=count, **more)


def sides(
    options_a: dict | None = None, options_b: dict | None = None, **both
) -> tuple[ConnectionConfig, ConnectionConfig]:
    """Both sides' connections; options of their child."""
    a = connection("a", children=(child(**{**both, **(options_a or {})}),))
    return a, connection("b", children=(child(**NET_B, **{**both, **(options_b or {})}),))


def served(shell: Shell) -> list[int | None]:
    """The resources of the Child SAs that stand, None for a fallback; sorted."""
    found = [c.resource for view in shell.views() for c in view.children if c.state in ("INSTALLED", "REKEYING")]
    return sorted(found, key=lambda resource: -1 if resource is None else resource)


def fallback(shell: Shell) -> ChildView:
    return next(c for c in shell.view.children if c.resource is None and c.state in ("INSTALLED", "REKEYING"))


class ResourcePair(Pair):
    """`asks`: the sides that ask by themselves."""

    def __init__(self, *args, asks: str = "ab", **options) -> None:
        super().__init__(*args, **options)
        self.lines: dict[str, list[str]] = {"a": [], "b": []}
        self._heard = {"a": 0, "b": 0}
        self.askers = {
            side: Resources(self.shell(side).endpoint, self.shell(side).resources, self.lines[side].append)
            for side in asks
        }

    def up_group(self, seconds: float = 20.0) -> ResourcePair:
        self.initiate("a")
        self.run(seconds)
        assert len(served(self.a)) == 1 + max(self.a.resources, self.b.resources)
        return self

    def _timers(self) -> list[float | None]:
        return [*super()._timers(), *(asker.get_timer() for asker in self.askers.values())]

    def _step(self) -> None:
        super()._step()
        for asker in self.askers.values():
            at = asker.get_timer()
            if at is not None and at <= self.now:
                asker.handle_timer(self.now)

    def flush(self) -> None:
        super().flush()
        for side, asker in self.askers.items():
            shell = self.shell(side)
            fresh, self._heard[side] = shell.events[self._heard[side] :], len(shell.events)
            for event in fresh:
                if not hasattr(event, "ticket"):
                    ike_id = getattr(event, "ike_id", 0)
                    view = next((v for v in shell.views() if v.ike_id == ike_id), None)
                    asker.tell(event, view, self.now)
