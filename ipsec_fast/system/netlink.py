"""One netlink socket in a thread of its own: pyroute2's calls are synchronous faces of its own event loop and refuse to run inside ours.

A call takes about a millisecond and blocks its caller. What the kernel refuses comes back as HostError with the request in words.
pyroute2 costs 150 ms to import, so that happens when a Netlink is made, never when this file is imported.
Used by links, routes and clean.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ..errors import HostError

T = TypeVar("T")


class Netlink:
    """`call` runs a function with the IPRoute; `close` twice is fine. Raises HostError where netlink cannot be had."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="netlink")
        try:
            self._ip: Any = self._thread.submit(_open).result()
        except BaseException:
            self._thread.shutdown(wait=False)
            raise

    def call(self, what: str, function: Callable[[Any], T], *, ignore: tuple[int, ...] = ()) -> T | None:
        """The function's result; None for an errno of `ignore`. `what` names the request in the HostError."""

        def guarded() -> T | None:
            import pyroute2.netlink.exceptions as pyroute2_errors  # late: see the head of this file

            try:
                return function(self._ip)
            except pyroute2_errors.NetlinkError as error:
                if error.code in ignore:
                    return None
                raise HostError(f"cannot {what}: {error.args[1] if len(error.args) > 1 else error}") from None
            except OSError as error:
                raise HostError(f"cannot {what}: {error.strerror or error}") from None

        return self._thread.submit(guarded).result()

    def close(self) -> None:
        if self._ip is None:
            return
        ip, self._ip = self._ip, None
        self._thread.submit(ip.close).result()
        self._thread.shutdown()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _open() -> Any:
    from pyroute2 import IPRoute  # late: see the head of this file

    try:
        return IPRoute()
    except OSError as error:
        raise HostError(f"cannot open a netlink socket: {error.strerror or error}") from None
