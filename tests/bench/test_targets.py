"""What is aimed at: the hardest goal of those whose other side is in the run; none where nothing was aimed at."""

from __future__ import annotations

import pytest

from ipsec_fast.bench.targets import gateway_target, ratio_target


@pytest.mark.parametrize(
    ("case", "goal"),
    [
        (("aes128gcm16", "ipsecmb", "out", 1400, 100.0), 1.20),
        (("aes128gcm16", "ipsecmb", "in", 1400, 100.0), 1.25),
        (("aes256gcm16", "ipsecmb", "in", 1400, 100.0), 1.20),
        (("aes128gmac", "ipsecmb", "out", 1400, 100.0), 1.60),
        (("aes128gmac", "openssl", "out", 1400, 100.0), 1.12),
        (("aes128gcm16", "ipsecmb", "out", 64, 30.0), 1.7),
        (("aes128gcm16", "ipsecmb", "out", 64, 20.0), 2.0),  # 40 ns
        (("aes128gcm16", "openssl", "out", 64, 20.0), None),
        (("aes128gcm16", "ipsecmb", "in", 64, 20.0), None),
        (("aes128gcm16", "ipsecmb", "out", 256, 20.0), None),
    ],
)
def test_ratios_of_kernels(case: tuple[str, str, str, int, float], goal: float | None) -> None:
    assert ratio_target(*case) == goal


@pytest.mark.parametrize(
    ("figure", "engine", "others", "goal"),
    [
        ("tcp1_gbit_per_s", "ipsecmb", {"wireguard-go": 2.0, "charon": 0.7, "null": 7.0}, 6.3),
        ("tcp1_gbit_per_s", "ipsecmb", {"null": 8.0, "veth": 20.0}, 6.8),
        ("tcp1_gbit_per_s", "openssl", {"wireguard-go": 2.0, "charon": 0.7, "null": 7.0}, 4.0),
        ("tcp1_gbit_per_s", "openssl", {"charon": 0.7}, None),
        ("cpu_s_per_gbyte", "openssl", {"wireguard-go": 5.0}, 2.0),
        ("rtt_ms_median", "ipsecmb", {"wireguard-go": 0.5, "veth": 0.01}, 0.4),
        ("tcp4_gbit_per_s", "ipsecmb", {"wireguard-go": 2.0}, None),
        ("rss_mbytes", "ipsecmb", {}, 96.0),
    ],
)
def test_figures_of_gateways(figure: str, engine: str, others: dict[str, float], goal: float | None) -> None:
    assert gateway_target(figure, engine, others) == (None if goal is None else pytest.approx(goal))
