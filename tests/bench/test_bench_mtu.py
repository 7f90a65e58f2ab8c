"""`ipsec-fast bench mtu`: one case as it is measured, and what it prints."""

from __future__ import annotations

import argparse

import pytest

from ipsec_fast import bench
from ipsec_fast.bench.mtu import CASES, Case, Result, run_case
from ipsec_fast.bench.mtu_face import report_of, table
from ipsec_fast.errors import UsageError

SOME = Result("1500 -> 1300", False, "ipv6", 3, 0.6912, 0.75, 0.4, 1300)


@pytest.mark.parametrize("rounds", ["0", "1001", "-1"])
def test_rounds_that_are_not_possible(rounds: str) -> None:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    with pytest.raises(UsageError, match="1 to 1000"):
        bench.main(parser.parse_args(["mtu", "--rounds", rounds]))


def test_the_table_is_one_of_markdown() -> None:
    assert table([SOME])[2] == "| 1500 -> 1300 | filtered | IPv6 | 0.69 s | 0.75 s | 0.40 s | 1300 |"
    assert len({line.count("|") for line in table([SOME])}) == 1
    assert report_of([SOME]).charts[0].series["median"][0].value == SOME.stall_s_median


@pytest.mark.netns
@pytest.mark.timeout(60)
def test_a_case_is_measured() -> None:
    told: list[str] = []
    result = run_case(Case(1500, 1300, filtered=True), 1, told.append)
    assert (result.path, result.icmp, result.outer, result.rounds) == ("1500 -> 1300", False, "ipv4", 1)
    assert result.mtu == 1300
    assert 0 < result.stall_s_median == result.stall_s_max
    assert len(told) == 1


def test_the_cases_are_those_of_the_document() -> None:
    assert {case.name for case in CASES} >= {"1500 -> 1300", "9000 -> 1400", "1500 -> 1492", "1300 from the start"}
