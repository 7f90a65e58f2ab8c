"""`ipsec-fast bench imix`: the mix is exact and spread over the batches, the JSON has its fields, bad mixes are refused."""

from __future__ import annotations

import argparse
import json
from collections import Counter

import pytest

from ipsec_fast import bench
from ipsec_fast.bench.imix import SIMPLE_IMIX, MixCase, batches_of, interleave, parse_mix, run_bench_imix, text_of
from ipsec_fast.dataplane.raw import RawBatch
from ipsec_fast.errors import AlgorithmError, UsageError

FIELDS = {
    "direction", "algorithm", "engine", "mix", "mean_packet_bytes", "batch", "ns_per_packet", "raw_ns_per_packet", "ratio", "gbit_per_s",
    "mpps", "spread", "ns_low", "ns_high", "raw_ns_low", "raw_ns_high",
}  # fmt: skip


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(["imix", *words])


WRONG = ["", "7", "x64", "7x", "-1x64", "0x64", "1x19", "1x65001", "7x40;4x576", "7x40,,1x64", "99999x64"]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_mix_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="7x40,4x576,1x1500"):
        parse_mix(text)


def test_a_mix_that_repeats_too_late_is_refused() -> None:
    with pytest.raises(UsageError, match="at most 65536"):
        batches_of(((4095, 64), (4, 32)), 4096)


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"batch": 4097}, {"seconds": 0}, {"seconds": float("nan")}])
def test_impossible_numbers_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="1 to 4096"):
        run_bench_imix(["aes128gcm16"], **wrong)  # type: ignore[arg-type]


def test_an_engine_that_carries_only_some_is_refused_before_any_is_measured() -> None:
    seen: list[object] = []
    with pytest.raises(AlgorithmError, match="abacus"):
        run_bench_imix(["aes128gcm16"], engine="abacus", on_result=seen.append)
    with pytest.raises(AlgorithmError, match="rot13"):
        run_bench_imix(["aes128gcm16", "rot13"], on_result=seen.append)
    assert not seen


def test_a_mix_survives_its_text() -> None:
    assert parse_mix(text_of(SIMPLE_IMIX)) == SIMPLE_IMIX
    assert parse_mix(" 1x64, 2x1400 ") == ((1, 64), (2, 1400))


def test_sizes_are_spread_evenly_and_no_size_comes_in_a_block() -> None:
    once = interleave(SIMPLE_IMIX)
    assert Counter(once) == {40: 7, 576: 4, 1500: 1}
    for start in range(12):
        window = (once + once)[start : start + 3]
        assert 1 <= window.count(40) <= 3
    assert "576, 576" not in str(once)


@pytest.mark.parametrize("batch", [1, 5, 12, 64])
def test_a_cycle_of_batches_holds_the_mix_exactly(batch: int) -> None:
    batches = batches_of(SIMPLE_IMIX, batch)
    assert {len(one) for one in batches} == {batch}
    counts = Counter(size for one in batches for size in one)
    assert counts[40] * 4 == counts[576] * 7
    assert counts[1500] * 4 == counts[576]
    if batch == 64:
        assert all({40, 576, 1500} == set(one) for one in batches)


def test_the_bare_engine_needs_a_size_for_each_packet() -> None:
    with pytest.raises(ValueError, match="2 sizes for 3 packets"):
        RawBatch("aes128gcm16", [64, 65], 3, True)


@pytest.mark.parametrize("algorithm", ["aes128gcm16", "aes128-sha256", "chacha20poly1305", "null-sha256"])
@pytest.mark.parametrize("direction", ["out", "in"])
def test_a_case_can_be_run_again_and_again(direction: str, algorithm: str) -> None:
    case = MixCase(algorithm, batches_of(((2, 20), (1, 65000), (1, 333)), 8), direction, "openssl")
    assert all(case.run() > 0 and case.run_raw() > 0 for _ in range(5))


def test_json_is_one_document_with_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(parse("--json", "--seconds", "0.01", "--algorithm", "aes128gcm16", "--batch", "12")) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"machine", "results"}
    assert [row["direction"] for row in document["results"]] == ["out", "in"]
    for row in document["results"]:
        assert set(row) == FIELDS
        assert (row["mix"], row["mean_packet_bytes"], row["batch"]) == ("7x40,4x576,1x1500", 340.3, 12)
        assert 0 < row["ns_low"] <= row["ns_per_packet"] <= row["ns_high"]
        assert row["ratio"] == pytest.approx(row["ns_per_packet"] / row["raw_ns_per_packet"], rel=0.05)
        assert row["gbit_per_s"] == pytest.approx(340.333 * 8 / row["ns_per_packet"], rel=0.05)
        assert row["mpps"] == pytest.approx(1000 / row["ns_per_packet"], rel=0.05)


def test_the_table_names_machine_versions_mix_and_batch(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(parse("--seconds", "0.001", "--algorithm", "aes256gcm16", "--mix", "1x64,1x1400")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "OpenSSL" in lines[0]
    assert "ipsec-mb" in lines[0]
    assert "1x64,1x1400" in lines[1]
    assert [line.split()[:2] for line in lines[3:]] == [["out", "aes256gcm16"], ["in", "aes256gcm16"]]
    assert lines[3].split()[3] == "64"
