"""The TUN queue: what this host lacks is said in one line, and every offload has its switch."""

from __future__ import annotations

import subprocess

import pytest

from ipsec_fast.dataplane import tun
from ipsec_fast.dataplane.offload import Offload
from ipsec_fast.dataplane.tun import Tun
from ipsec_fast.errors import HostError, UsageError


@pytest.mark.parametrize("name", ["", "a" * 16, "a/b"])
def test_name_that_no_device_can_have(name: str) -> None:
    with pytest.raises(UsageError, match="device name"):
        Tun(name)


def test_missing_device_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tun, "DEVICE", "/dev/net/no-such-tun")
    with pytest.raises(HostError, match=r"no /dev/net/no-such-tun: load the tun module .* container"):
        Tun("tt0")


def test_device_that_is_no_tun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tun, "DEVICE", "/dev/null")
    with pytest.raises(HostError, match="cannot create TUN device tt0"):
        Tun("tt0")


@pytest.mark.netns
def test_name_of_another_kind_of_device_is_refused() -> None:
    with pytest.raises(HostError, match="another kind exists"):
        Tun("lo")


@pytest.mark.netns
def test_second_queue_of_the_same_device() -> None:
    first = Tun("tt%d")
    second = Tun(first.name)
    assert second.name == first.name
    assert second.fd != first.fd
    first.close()
    second.close()
    second.close()
    assert second.fd == -1


@pytest.mark.netns
def test_each_offload_has_its_switch() -> None:
    for offload, features in (
        (Offload(tso=False), {"tso": False, "coalesce": True}),
        (Offload(uso=False), {"tso": True, "uso": False}),
        (Offload(coalesce=False), {"tso": True, "coalesce": False}),
    ):
        queue = Tun("tt%d", offload=offload)
        assert features.items() <= queue.features.items()
        queue.close()


@pytest.mark.netns
def test_an_exclusive_queue_is_of_a_device_that_nobody_has() -> None:
    first = Tun("tt%d", exclusive=True)
    with pytest.raises(HostError, match="another process holds it"):
        Tun(first.name, exclusive=True)
    Tun(first.name).close()  # whose device it is may open more of them
    first.close()
    Tun(first.name, exclusive=True).close()
    with pytest.raises(HostError, match="no TUN device"):
        Tun("lo", exclusive=True)


@pytest.mark.netns
def test_a_device_that_was_made_to_stay_is_taken_while_nobody_has_it() -> None:
    subprocess.run(["ip", "tuntap", "add", "mode", "tun", "name", "staying0", "multi_queue", "vnet_hdr"], check=True)
    try:
        first = Tun("staying0", exclusive=True)
        subprocess.run(["ip", "link", "set", "staying0", "up"], check=True)
        with pytest.raises(HostError, match="another process holds it"):
            Tun("staying0", exclusive=True)
        first.close()
        Tun("staying0", exclusive=True).close()
    finally:
        subprocess.run(["ip", "tuntap", "del", "mode", "tun", "name", "staying0", "multi_queue"], check=True)
