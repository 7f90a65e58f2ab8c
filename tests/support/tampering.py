"""A peer that breaks the protocol: changes the payloads of one side's messages before they are sealed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pair import Pair

from ipsec_fast.ike.header import IkeHeader
from ipsec_fast.ike.v2 import outbound
from ipsec_fast.ike.v2.payloads import Payload

Change = Callable[[IkeHeader, Sequence[Payload]], Sequence[Payload]]


def change_messages(monkeypatch: pytest.MonkeyPatch, pair: Pair, side: str, change: Change) -> None:
    """Every message that this side makes goes through `change`."""
    encode, core = outbound._encode, pair.shell(side).endpoint._core

    def changed(sa: Any, header: IkeHeader, payloads: Sequence[Payload], *rest: Any) -> Any:
        return encode(sa, header, tuple(change(header, payloads)) if sa.core is core else payloads, *rest)

    monkeypatch.setattr(outbound, "_encode", changed)


def change_one(
    monkeypatch: pytest.MonkeyPatch, pair: Pair, side: str, exchange: int, *, response: bool, change: Callable[..., Any]
) -> None:
    """The messages of one exchange and direction; `change` gets their payloads."""

    def choose(header: IkeHeader, payloads: Sequence[Payload]) -> Sequence[Payload]:
        is_it = header.exchange == exchange and header.response == response
        return change(payloads) if is_it else payloads

    change_messages(monkeypatch, pair, side, choose)


def without(*types: int) -> Callable[[Sequence[Payload]], tuple[Payload, ...]]:
    return lambda payloads: tuple(p for p in payloads if p.type not in types)


def replaced(*new: Payload) -> Callable[[Sequence[Payload]], tuple[Payload, ...]]:
    """The payloads of the same types give way to these."""
    types = {p.type for p in new}
    return lambda payloads: (*(p for p in payloads if p.type not in types), *new)


def added(*new: Payload) -> Callable[[Sequence[Payload]], tuple[Payload, ...]]:
    return lambda payloads: (*payloads, *new)
