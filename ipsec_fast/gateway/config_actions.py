"""The words of start_action, dpd_action, close_action, unique, fragmentation, dpd_timeout, per_cpu_sas, as swanctl.conf and its
older aliases spell them.

Called by config_model.py.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import PlainValidator

from ..ike.config import Action, Fragmentation, Unique
from .config_fields import FALSE_WORDS, TRUE_WORDS, parse_seconds, parse_yes_no

DPD_TIMEOUT_S = 4.0
PER_CPU_SAS_MOST = 256
_ACTIONS = {
    "none": Action.NONE, "clear": Action.NONE,
    "trap": Action.TRAP, "hold": Action.TRAP, "route": Action.TRAP,
    "start": Action.START, "restart": Action.START,
}  # fmt: skip


def _word(value: object) -> str:
    return str(value).strip().lower()


def _parse_action(value: object) -> Action:
    action = _ACTIONS.get(_word(value))
    if action is None:
        raise ValueError('must be "none" (or "clear"), "trap" (or "hold"), or "start" (or "restart")')
    return action


def _parse_start_action(value: object) -> Action:
    words = {word.strip() for word in _word(value).split("|")}
    if words == {"trap", "start"}:
        return Action.TRAP_START
    if len(words) != 1 or not words <= {"none", "trap", "start"}:
        raise ValueError('must be "none", "trap", "start" or "trap|start"')
    return Action(words.pop())


def _parse_unique(value: object) -> Unique:
    word = "no" if value is False else _word(value)
    try:
        return Unique(word)
    except ValueError:
        raise ValueError('must be "no", "never", "keep" or "replace"') from None


def _parse_fragmentation(value: object) -> Fragmentation:
    word = ("yes" if value else "no") if isinstance(value, bool) else _word(value)
    word = "yes" if word in TRUE_WORDS else "no" if word in FALSE_WORDS else word
    try:
        return Fragmentation(word)
    except ValueError:
        raise ValueError(
            'must be "yes", "accept" (announced, but our own messages leave whole), "force" or "no"'
        ) from None


def _parse_timeout(value: object) -> float:
    """0 is swanctl.conf's default and means ours."""
    return parse_seconds(value) or DPD_TIMEOUT_S


def _parse_per_cpu_sas(value: object) -> bool | None:
    """None for `auto`: where there is more than one worker."""
    word = _word(value)
    if word == "auto":
        return None
    if word == "encap":
        raise ValueError(
            '"encap" (a random source port for each) is not supported by this version; write yes, no or auto'
        )
    try:
        return parse_yes_no(value)
    except ValueError:
        raise ValueError('must be yes, no or "auto"') from None


def _parse_per_cpu_sas_max(value: object) -> int:
    word = _word(value)
    if (
        isinstance(value, bool)
        or not word.isdecimal()
        or not word.isascii()
        or len(word) > 9
        or int(word) > PER_CPU_SAS_MOST
    ):
        raise ValueError(f"must be a number from 1 to {PER_CPU_SAS_MOST}, or 0 for one by the number of workers")
    return int(word)


def _parse_overlap(value: object) -> bool:
    word = _word(value)
    if word not in ("allow", "refuse"):
        raise ValueError('must be "refuse" (a network belongs to the first peer that has it) or "allow"')
    return word == "allow"


StartAction = Annotated[Action, PlainValidator(_parse_start_action)]
DpdAction = Annotated[Action, PlainValidator(_parse_action)]
CloseAction = Annotated[Action, PlainValidator(_parse_action)]
UniquePolicy = Annotated[Unique, PlainValidator(_parse_unique)]
PerCpuSas = Annotated[bool | None, PlainValidator(_parse_per_cpu_sas)]
PerCpuSasMax = Annotated[int, PlainValidator(_parse_per_cpu_sas_max)]
Overlap = Annotated[bool, PlainValidator(_parse_overlap)]
FragmentationPolicy = Annotated[Fragmentation, PlainValidator(_parse_fragmentation)]
DpdTimeout = Annotated[float, PlainValidator(_parse_timeout)]
