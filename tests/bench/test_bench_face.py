"""`ipsec-fast bench esp`: the JSON has the issue's fields, bad arguments are refused."""

from __future__ import annotations

import argparse
import json

import pytest

from ipsec_fast import bench
from ipsec_fast.algorithms import ah_suite_names
from ipsec_fast.bench.esp import run_bench_esp
from ipsec_fast.errors import AlgorithmError, UsageError

FIXED = {"direction", "algorithm", "engine", "packet_bytes", "batch", "ns_per_packet", "raw_ns_per_packet", "ratio"}
FIELDS = FIXED | {"spread", "ns_low", "ns_high", "raw_ns_low", "raw_ns_high"}


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(words)


def test_unknown_algorithm_is_refused():
    with pytest.raises(AlgorithmError, match=r"aesNgcm16.*N is 128"):
        run_bench_esp(["rot13"])


def test_the_command_calls_it_a_usage_error_and_prints_nothing_else(capsys):
    with pytest.raises(UsageError, match="rot13"):
        bench.main(parse("esp", "--algorithm", "rot13"))
    assert capsys.readouterr().out == ""


def test_unknown_engine_is_refused():
    with pytest.raises(AlgorithmError, match="openssl"):
        run_bench_esp(["aes128gcm16"], engine="abacus")


@pytest.mark.parametrize(
    "wrong", [{"sizes": [19]}, {"sizes": [65001]}, {"batches": [0]}, {"seconds": 0}, {"seconds": float("nan")}]
)
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(UsageError, match="20 to 65000"):
        run_bench_esp(["aes128gcm16"], **wrong)


def test_json_is_one_document_with_the_fixed_fields(capsys):
    words = "esp --json --seconds 0.001 --algorithm aes128gcm16 --algorithm ah-sha256 --size 64 --batch 4"
    assert bench.main(parse(*words.split())) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"machine", "call_overhead_ns", "results"}
    assert document["call_overhead_ns"] > 0
    assert set(document["machine"]) == {"cpu", "cores", "kernel", "python", "openssl", "ipsecmb"}
    assert [(r["direction"], r["algorithm"]) for r in document["results"]] == [
        ("out", "aes128gcm16"), ("in", "aes128gcm16"), ("out", "ah-sha256"), ("in", "ah-sha256"),
    ]  # fmt: skip
    for row in document["results"]:
        assert set(row) == FIELDS
        assert 0 < row["ns_low"] <= row["ns_per_packet"] <= row["ns_high"]
        assert 0 < row["raw_ns_low"] <= row["raw_ns_per_packet"] <= row["raw_ns_high"]
        assert row["ratio"] == pytest.approx(row["ns_per_packet"] / row["raw_ns_per_packet"], rel=0.1)


def test_table_has_a_row_per_result(capsys):
    assert (
        bench.main(parse("esp", "--seconds", "0.001", "--algorithm", "aes256gcm16", "--size", "64", "--batch", "1"))
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[2].startswith("out aes256gcm16")
    assert lines[4].startswith("a call from Python costs ")


@pytest.mark.parametrize("algorithm", ah_suite_names())
def test_the_bare_engine_opens_what_it_sealed_for_ah_too(algorithm):
    """A row whose raw side failed early would flatter nobody but the kernels' rivals."""
    row_out, row_in = run_bench_esp([f"ah-{algorithm}"], [64, 1400][:1], [4], 0.001)
    assert (row_out.direction, row_in.direction) == ("out", "in")
    assert row_out.algorithm == row_in.algorithm == f"ah-{algorithm}"


def test_an_unknown_name_of_ah_is_refused():
    with pytest.raises(AlgorithmError, match=r"AH.*sha256"):
        run_bench_esp(["ah-rot13"])
