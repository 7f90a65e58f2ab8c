"""The commands of the control socket."""

from __future__ import annotations

from .control import ChildCounters, ChildMtu, ControlLog, GatewayControl, GatewayStats, Listener, Selection

__all__ = ["ChildCounters", "ChildMtu", "ControlLog", "GatewayControl", "GatewayStats", "Listener", "Selection"]
