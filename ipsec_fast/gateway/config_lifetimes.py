"""Lifetimes that cannot work: each named once, at the key that has to change, with a value that would do.

swanctl takes such values and then rekeys at once, or never. Called by config_check.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from .config_model import ChildSection, ConnectionSection
from .config_tree import Location

Blame = tuple[Location, str]


def check_ike_lifetimes(where: Location, section: ConnectionSection) -> Iterator[Blame]:
    limits = section.lifetimes()
    ends = {"rekey_time": limits.rekey_time_s, "reauth_time": limits.reauth_time_s}
    if section.over_time == 0 and any(ends.values()):
        yield (*where, "over_time"), "0 ends the IKE SA when its rekey has only begun; leave it out for a tenth of it"
    for key, seconds in ends.items():
        if seconds and limits.rand_time_s >= seconds:
            yield _rand_too_long((*where, "rand_time"), limits.rand_time_s, key, seconds, "s")
            return


def check_child_lifetimes(where: Location, section: ChildSection) -> Iterator[Blame]:
    limits = section.lifetimes()
    for kind, unit, limit in (("time", "s", limits.time), ("bytes", "", limits.bytes), ("packets", "", limits.packets)):
        if limit.rekey and limit.life and limit.life <= limit.rekey:
            rekey, life = _text(limit.rekey, unit), _text(limit.life, unit)
            right = _text(-(-limit.rekey * 11 // 10), unit)
            text = f"{life} is not more than rekey_{kind}, {rekey}; leave it out, or write for example {right}"
            yield (*where, f"life_{kind}"), text
        elif limit.rekey and limit.rand >= limit.rekey:
            yield _rand_too_long((*where, f"rand_{kind}"), limit.rand, f"rekey_{kind}", limit.rekey, unit)


def warn_child_lifetimes(where: Location, section: ChildSection) -> Iterator[Blame]:
    """A life_time equal to rekey_time leaves no time for the rekey; other products write both the same."""
    life_s = section.life_time
    if life_s and life_s == section.rekey_time:
        began_s = section.lifetimes().time.rekey
        text = f"{life_s:g}s is rekey_time too, which leaves no time for a rekey: it begins at {began_s:.0f}s already"
        yield (*where, "life_time"), text


def _rand_too_long(where: Location, rand: float, key: str, rekey: float, unit: str) -> Blame:
    text = f"{_text(rand, unit)} may be taken off {key}, {_text(rekey, unit)}, and nothing is left"
    return where, f"{text}; leave it out, or write at most {_text(rekey // 2, unit)}"


def _text(value: float, unit: str) -> str:
    return f"{value:g}{unit}" if unit else str(int(value))
