"""`ipsec-fast bench sa-scale`, small: the JSON has its fields, every search finds its SA, bad arguments are refused."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest

from ipsec_fast import SA, SAD, bench
from ipsec_fast.bench.lookup import lookup_ns
from ipsec_fast.bench.scale import run_bench_sa_scale
from ipsec_fast.errors import IpsecFastError, UsageError

FIELDS = {
    "sas", "lookup_ns", "lookup_ratio", "single_lookup_ns", "single_lookup_ratio", "esp_ns_per_packet", "esp_ratio",
    "esp_out_ns_per_packet", "esp_out_ratio", "bytes_per_sa",
    "longest_search", "algorithm", "engine", "packet_bytes",
}  # fmt: skip
SMALL = "sa-scale --seconds 0.01 --sas 10 --sas 1000 --size 64"


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize(
    "wrong", [{"counts": []}, {"counts": [0]}, {"counts": [10, 10]}, {"packet_bytes": 19}, {"seconds": 0}]
)
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(UsageError, match="no number twice"):
        run_bench_sa_scale(**wrong)


@pytest.mark.parametrize("words", ["--size 64 --size 65", "--algorithm a --algorithm b", "--algorithm rot13"])
def test_more_than_one_of_what_is_one_is_refused(words, capsys):
    with pytest.raises(UsageError):
        bench.main(parse("sa-scale", *words.split()))
    assert capsys.readouterr().out == ""


def test_a_lookup_that_finds_nothing_is_no_result():
    for one_by_one in (False, True):
        with pytest.raises(IpsecFastError, match="lost 2 SAs"):
            lookup_ns(SAD(), np.array([1, 2], np.uint32), one_by_one)


def test_json_is_one_document_with_the_fixed_fields(capsys):
    assert bench.main(parse(*SMALL.split(), "--json", "--engine", "openssl")) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"machine", "results"}
    assert [row["sas"] for row in document["results"]] == [10, 1000]
    for row in document["results"]:
        assert set(row) == FIELDS
        assert row["lookup_ns"] > 0
        assert row["esp_ns_per_packet"] > 0
        assert row["longest_search"] <= 64
        assert (row["algorithm"], row["engine"], row["packet_bytes"]) == ("aes128gcm16", "openssl", 64)
    first, second = document["results"]
    assert first["lookup_ratio"] == first["esp_ratio"] == first["esp_out_ratio"] == 1.0
    assert second["esp_out_ratio"] == pytest.approx(
        second["esp_out_ns_per_packet"] / first["esp_out_ns_per_packet"], rel=0.02
    )
    assert second["esp_ratio"] == pytest.approx(second["esp_ns_per_packet"] / first["esp_ns_per_packet"], rel=0.02)
    assert first["bytes_per_sa"] is None  # of so few nothing can be said


def test_table_has_a_row_per_number_of_sas(capsys):
    assert bench.main(parse(*SMALL.split())) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert "batch 64" in lines[1]
    assert lines[4].split()[0] == "1000"


def test_a_hundred_thousand_sas_in_random_order_are_found_in_few_rows():
    spis = np.random.default_rng(7).choice(np.uint32(0xFFFF_0000), 100_000, replace=False).astype(
        np.uint32
    ) + np.uint32(256)
    sad = SAD(bare=True)
    for spi in spis.tolist():
        sad.add(SA("in", spi, "null-sha256", bytes(32), window=64))
    assert len(sad) == 100_000
    assert sad.longest_search <= 64
    assert lookup_ns(sad, np.random.default_rng(8).permutation(spis).byteswap(), False) > 0
