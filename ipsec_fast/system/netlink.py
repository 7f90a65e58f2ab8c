"""One netlink socket in a thread of its own: pyroute2's calls are synchronous faces of its own
event loop and refuse to run inside ours.

A call takes about a millisecond and blocks its caller. What the kernel refuses comes back as HostError with the
request in words. The kernel does not answer while another process holds its lock of links and routes. So no request
waits longer than PATIENCE_S, and while one is overdue, further ones are refused at once: the caller's event loop goes
on. `post` does not wait at all. Requests are carried out in the order in which they were made, those of `call`,
`batch` and `post` alike. pyroute2 costs 150 ms to import, so that happens when a Netlink is made, never when this
file is imported. Used by links, routes and clean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from ..errors import HostError
from .route_messages import Message, RouteSocket

T = TypeVar("T")
PATIENCE_S = 2.0
BATCH_PATIENCE_S = 1.0


class Netlink:
    """`call` runs a function with the IPRoute; `close` twice is fine. Raises HostError where netlink cannot be had."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="netlink")
        self._overdue: Future[Any] | None = None
        try:
            self._ip, self._routes = self._thread.submit(_open).result()
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

        return self._wait(what, self._submit(what, guarded), PATIENCE_S)

    def batch(self, messages: Sequence[Message]) -> list[int]:
        """Change routes and rules in order; returns the errno of each (0: done).
        HostError if the kernel does not answer.
        """
        what = f"{messages[0].what} and {len(messages) - 1} more changes" if messages else "change nothing"
        return self._wait(what, self._submit(what, lambda: self._send(messages)), BATCH_PATIENCE_S)

    def post(self, messages: Sequence[Message]) -> Future[list[int]]:
        """As `batch`, without waiting: the future has the errno of each, or a HostError."""
        return self._thread.submit(self._send, messages)

    def _send(self, messages: Sequence[Message]) -> list[int]:
        try:
            return self._routes.send(messages)
        except OSError as error:
            raise HostError(f"cannot change routes: {error.strerror or error}") from None

    def _submit(self, what: str, function: Callable[[], T]) -> Future[T]:
        if self._overdue is not None and not self._overdue.done():
            raise HostError(f"cannot {what}: the kernel has not answered an earlier request on routes or links yet")
        self._overdue = None
        return self._thread.submit(function)

    def _wait(self, what: str, future: Future[T], patience_s: float) -> T:
        try:
            return future.result(patience_s)
        except TimeoutError:
            if future.done():  # the request itself timed out
                raise HostError(f"cannot {what}: it timed out") from None
            self._overdue = future
            raise HostError(f"cannot {what}: no answer from the kernel within {patience_s:g} s") from None

    def close(self) -> None:
        if self._ip is None:
            return
        ip, self._ip = self._ip, None
        closing = [self._thread.submit(ip.close), self._thread.submit(self._routes.close)]
        wait(closing, PATIENCE_S)
        self._thread.shutdown(wait=all(one.done() for one in closing))

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _open() -> tuple[Any, RouteSocket]:
    from pyroute2 import IPRoute  # late: see the head of this file

    try:
        routes = RouteSocket()
    except OSError as error:
        raise HostError(f"cannot open a netlink socket: {error.strerror or error}") from None
    try:
        return IPRoute(), routes
    except OSError as error:
        routes.close()
        raise HostError(f"cannot open a netlink socket: {error.strerror or error}") from None
