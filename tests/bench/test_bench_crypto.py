"""`ipsec-fast bench crypto`: every engine that carries an algorithm has its rows, the fastest is 1.0; bad arguments are refused."""

from __future__ import annotations

import argparse
import json

import pytest

from ipsec_fast import bench
from ipsec_fast.bench.crypto import run_bench_crypto
from ipsec_fast.dataplane.engine import engines
from ipsec_fast.errors import AlgorithmError, UsageError

FIELDS = {
    "algorithm", "engine", "direction", "packet_bytes", "batch", "ns_per_packet", "gbit_per_s", "spread", "of_best", "ns_low", "ns_high",
}  # fmt: skip


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(["crypto", *words])


@pytest.mark.parametrize(
    "wrong", [("--size", "19"), ("--size", "65001"), ("--batch", "0"), ("--seconds", "0"), ("--seconds", "nan")]
)
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(UsageError, match="20 to 65000"):
        bench.main(parse("--json", *wrong))


def test_unknown_names_are_refused():
    with pytest.raises(UsageError, match=r"abacus.*openssl"):
        bench.main(parse("--json", "--engine", "abacus"))
    with pytest.raises(AlgorithmError, match="rot13"):
        run_bench_crypto(["rot13"], [64], [4], 0.001)
    if "ipsecmb" in engines():
        with pytest.raises(UsageError, match="ipsecmb does not carry aes192ccm16"):
            run_bench_crypto(["aes192ccm16"], [64], [4], 0.001, "ipsecmb")


def test_each_engine_has_its_rows_and_one_of_them_is_the_best(capsys):
    words = "--json --seconds 0.002 --algorithm aes128gcm16 --algorithm aes256-sha256 --size 64 --size 1400 --batch 4"
    assert bench.main(parse(*words.split())) == 0
    document = json.loads(capsys.readouterr().out)
    rows = document["results"]
    assert set(document) == {"machine", "results"}
    assert all(set(row) == FIELDS and row["ns_per_packet"] > 0 for row in rows)
    assert len(rows) == 2 * 2 * 2 * len(engines())
    for at in range(0, len(rows), len(engines())):
        assert min(row["of_best"] for row in rows[at : at + len(engines())]) == 1.0


def test_without_json_it_is_a_table(capsys):
    assert bench.main(parse("--seconds", "0.001", "--algorithm", "aes128gcm16", "--size", "64", "--batch", "2")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:3] == ["algorithm", "engine", "dir"]
    assert len(lines) == 2 + 2 * len(engines())
