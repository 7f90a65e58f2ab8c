"""The ring between worker and Python: order, wrap-around, and full means lost and counted."""

from __future__ import annotations

import os
import select

import pytest

from ipsec_fast.dataplane.ring import Ring, Wake


def test_size_must_be_a_power_of_two() -> None:
    with pytest.raises(ValueError, match="power of two"):
        Ring(1000)


def test_full_ring_loses_the_newest_and_counts_it() -> None:
    ring = Ring(64)
    assert ring.push(b"a" * 20)
    assert ring.push(b"b" * 20)
    assert not ring.push(b"c" * 20)
    assert ring.overflows == 1
    assert ring.take() == [b"a" * 20, b"b" * 20]


def test_record_larger_than_the_ring_is_refused() -> None:
    ring = Ring(64)
    assert not ring.push(b"x" * 64)
    assert ring.take() == []


def test_descriptor_is_readable_only_while_there_is_something() -> None:
    ring = Ring(64)
    assert select.select([ring.fd], [], [], 0)[0] == []
    ring.push(b"1")
    assert select.select([ring.fd], [], [], 0)[0] == [ring.fd]
    ring.take()
    assert select.select([ring.fd], [], [], 0)[0] == []


def test_order_and_content_survive_many_wraps() -> None:
    ring, sent, seen = Ring(256), [], []
    for number in range(500):
        record = bytes([number % 256]) * (number % 97)
        if not ring.push(record):
            seen += ring.take()
            assert ring.push(record)
        sent.append(record)
    seen += ring.take()
    assert seen == sent


def test_rings_that_share_a_descriptor_keep_it_open_until_the_last_is_gone() -> None:
    wake = Wake()
    fd, one, other = wake.fd, Ring(64, wake), Ring(64, wake)
    assert one.fd == other.fd == fd
    del wake, one
    assert other.push(b"1")  # into what it was, not into whatever got the number since
    assert os.eventfd_read(fd) == 1
    del other
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
