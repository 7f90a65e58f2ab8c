"""`ipsec-fast down` of a fallback (RFC 9611): the Child SAs of single workers go too, and after it."""

from __future__ import annotations

from dataclasses import replace

from support.fake_control import child_view, ike_view

from ipsec_fast.gateway.operations import _whole_groups
from ipsec_fast.model import TrafficSelector

OTHER = (TrafficSelector.parse("10.9.0.0/24"),)
FALLBACK = replace(child_view(5), in_group=True)
FIRST, SECOND = (replace(child_view(n), in_group=True, resource=n) for n in (1, 2))
OTHERS = replace(child_view(3), in_group=True, resource=0, remote_ts=OTHER)
PLAIN = child_view(4, "plain")
VIEW = ike_view(children=(FIRST, SECOND, OTHERS, PLAIN, FALLBACK))


def test_the_end_of_one_or_of_an_ordinary_one_is_no_others_end() -> None:
    assert _whole_groups(VIEW, (FIRST,)) == [FIRST]
    assert _whole_groups(VIEW, (PLAIN,)) == [PLAIN]


def test_a_fallback_goes_first_and_its_own_group_with_it() -> None:
    assert _whole_groups(VIEW, (FALLBACK,)) == [FALLBACK, FIRST, SECOND]
    assert _whole_groups(VIEW, VIEW.children)[:2] == [PLAIN, FALLBACK]
    assert len(_whole_groups(VIEW, VIEW.children)) == 5
