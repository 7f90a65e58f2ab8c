"""The commands that change what a gateway is configured with: connections, keys, trap policies; and what it has of them, with counters.

What this version has no use for (certificates, keys, pools, authorities) is answered by an error that says so where something would be
lost, and by an empty list where there is nothing to show: so `swanctl --load-all` goes through. Called by commands.py.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...algorithms import ENCRYPTION, GROUPS, INTEGRITY, PRFS
from ...crypto.secret import secret_from_buffer, wipe
from ...errors import StateError, UsageError
from .codec import MAX_SEGMENT_BYTES, Decoded, Encodable, encode_message, flag, text, text_list, to_text
from .control import GatewayControl, Handler, Session
from .views import connection_section, policy_section

PROVIDER = "openssl"
# what would be lost if we said yes: the reason follows "not supported by this version: "
REFUSED = {
    "load-cert": "certificates; authentication is by pre-shared key (auth = psk)",
    "load-key": "private keys; authentication is by pre-shared key (auth = psk)",
    "unload-key": "private keys; none is loaded",
    "load-token": "keys on tokens; authentication is by pre-shared key (auth = psk)",
    "flush-certs": "certificates; none is cached",
    "load-authority": "certification authorities; authentication is by pre-shared key (auth = psk)",
    "unload-authority": "certification authorities; none is loaded",
    "load-pool": "address pools are not there yet; leave pools and vips out",
    "unload-pool": "address pools are not there yet; none is loaded",
    "redirect": "redirecting a peer (RFC 5685)",
}


class ConfigCommands:
    def __init__(self, control: GatewayControl) -> None:
        self._control = control
        self._configuration = control.configuration
        self.table: dict[str, Handler] = {
            "load-conn": self.load_conn,
            "unload-conn": self.unload_conn,
            "get-conns": self.get_conns,
            "load-shared": self.load_shared,
            "unload-shared": self.unload_shared,
            "get-shared": self.get_shared,
            "clear-creds": self.clear_creds,
            "list-policies": self.list_policies,
            "install": self.install,
            "uninstall": self.uninstall,
            "reload-settings": self.reload_settings,
            "get-counters": self.get_counters,
            "reset-counters": self.reset_counters,
            "get-algorithms": self.get_algorithms,
            "get-keys": _answer({"keys": []}),
            "get-authorities": _answer({"authorities": []}),
            "get-pools": _answer({}),
            "list-certs": _answer({}),
            "list-authorities": _answer({}),
            **{name: _refusal(reason) for name, reason in REFUSED.items()},
        }

    async def load_conn(self, request: Decoded, session: Session) -> Encodable:
        name, section = _only_section(request)
        connection = self._configuration.parse_connection(name, to_text(section))
        # list-conns and get-conns answer with one message each, which must hold it
        if len(encode_message({name: connection_section(connection.connection)})) > MAX_SEGMENT_BYTES - 1024:
            raise UsageError(f"connections.{name}: is too large for one vici message; split it")
        self._configuration.load_connection(connection)
        return {"success": "yes"}

    async def unload_conn(self, request: Decoded, session: Session) -> Encodable:
        self._configuration.unload_connection(_required_text(request, "name", "the connection to unload"))
        return {"success": "yes"}

    async def get_conns(self, request: Decoded, session: Session) -> Encodable:
        return {"conns": self._configuration.loaded_connections()}

    async def load_shared(self, request: Decoded, session: Session) -> Encodable:
        data = request.get("data")
        try:
            name, kind = text(request, "id") or "", _required_text(request, "type", "ike")
            owners = text_list(request, "owners")
            if not isinstance(data, bytes) or not data:
                raise UsageError("missing data: the secret itself")
            self._configuration.load_secret(name, kind, owners, secret_from_buffer(data))
        finally:
            if isinstance(data, bytes):
                wipe(data)  # the packet that it came in is wiped by the server
        return {"success": "yes"}

    async def unload_shared(self, request: Decoded, session: Session) -> Encodable:
        self._configuration.unload_secret(_required_text(request, "id", "the secret to unload"))
        return {"success": "yes"}

    async def get_shared(self, request: Decoded, session: Session) -> Encodable:
        return {"keys": self._configuration.loaded_secrets()}

    async def clear_creds(self, request: Decoded, session: Session) -> Encodable:
        self._configuration.clear_secrets()
        return {"success": "yes"}

    async def list_policies(self, request: Decoded, session: Session) -> Encodable:
        """Trap policies; there are no others. drop, pass, trap restrict to those kinds, as swanctl sends them."""
        kinds = {kind for kind in ("drop", "pass", "trap") if flag(request, kind)}
        ike, name = text(request, "ike"), text(request, "child")
        for connection, child in self._control.trapped() if not kinds or "trap" in kinds else ():
            if ike in (None, connection.name) and name in (None, child.name):
                section = {"child": child.name, "ike": connection.name, **policy_section(child)}
                await session.send_event("list-policy", {f"{connection.name}/{child.name}": section})
        return {}

    async def install(self, request: Decoded, session: Session) -> Encodable:
        self._control.install(text(request, "ike"), _required_text(request, "child", "the child to trap"))
        return {"success": "yes"}

    async def uninstall(self, request: Decoded, session: Session) -> Encodable:
        self._control.uninstall(text(request, "ike"), _required_text(request, "child", "the child that is trapped"))
        return {"success": "yes"}

    async def reload_settings(self, request: Decoded, session: Session) -> Encodable:
        self._control.reload()
        return {"success": "yes"}

    async def get_counters(self, request: Decoded, session: Session) -> Encodable:
        """Of one connection, of `all` that have any, or of all together, whose section has no name."""
        counting = self._control.exchange_counters
        names = counting.connections() if flag(request, "all") else [self._counted(request)]
        return {"success": "yes", "counters": {name: counting.read(name) for name in names}}

    async def reset_counters(self, request: Decoded, session: Session) -> Encodable:
        counting = self._control.exchange_counters
        for name in counting.connections() if flag(request, "all") else [self._counted(request)]:
            counting.reset(name)
        return {"success": "yes"}

    def _counted(self, request: Decoded) -> str:
        name = text(request, "name") or ""
        if name and name not in self._control.exchange_counters.connections():
            raise StateError(f"no counters found for connection {name!r}")
        return name

    async def get_algorithms(self, request: Decoded, session: Session) -> Encodable:
        """What we can negotiate, under the names that list-sas uses."""
        return {
            "encryption": _provided(row.id.name for row in ENCRYPTION if not row.is_aead),
            "integrity": _provided(row.id.name for row in INTEGRITY),
            "aead": _provided(row.id.name for row in ENCRYPTION if row.is_aead),
            "prf": _provided(row.id.name for row in PRFS),
            "ke": _provided(row.id.name for row in GROUPS),
        }


def _answer(message: Encodable) -> Handler:
    async def handler(request: Decoded, session: Session) -> Encodable:
        return message

    return handler


def _refusal(reason: str) -> Handler:
    return _answer({"success": "no", "errmsg": f"not supported by this version: {reason}"})


def _provided(names: Iterable[str]) -> dict[str, str]:
    return dict.fromkeys(names, PROVIDER)


def _only_section(request: Decoded) -> tuple[str, Decoded]:
    if len(request) != 1 or not isinstance(section := next(iter(request.values())), dict):
        raise UsageError("the message must hold one section, named as the connection")
    return next(iter(request)), section


def _required_text(request: Decoded, key: str, what: str) -> str:
    value = text(request, key)
    if not value:
        raise UsageError(f"missing {key}: {what}")
    return value
