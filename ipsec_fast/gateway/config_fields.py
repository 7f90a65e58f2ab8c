"""One parser for each kind of value in swanctl.conf's tree; all take TOML's types and vici's plain strings.

A parser returns the checked value or raises ValueError whose text says what would be right. No text here repeats a
secret: secrets have their own file (config_secrets.py). Called by config_model.py.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, TypeVar

from pydantic import PlainValidator

from ..algorithms import default_esp_proposals, default_ike_proposals, parse_esp_proposal, parse_ike_proposal
from ..errors import IpsecFastError
from ..iana import IdType
from ..model import Address, DynamicSelector, Identity, Proposal, TrafficSelector

T = TypeVar("T")
TIME_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
MIN_SECONDS = 0.1  # well above the resolution of asyncio's and the endpoint's clocks
MAX_SECONDS = 10**9
COUNT_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
MAX_COUNT = (1 << 63) - 1
TRUE_WORDS = ("yes", "true", "enabled", "1")
FALSE_WORDS = ("no", "false", "disabled", "0")
ANY_IDENTITY = ("%any", "%any6", "0.0.0.0", "*", "::", "0::0")  # strongSwan's spellings of anybody


def parse_words(value: object) -> tuple[str, ...]:
    """A list of strings, or one comma-separated string."""
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, str):
        return tuple(word for word in (part.strip() for part in value.split(",")) if word)
    if isinstance(value, list | tuple) and all(isinstance(item, str | bytes) for item in value):
        items = (item.decode() if isinstance(item, bytes) else item for item in value)
        return tuple(word for item in items for word in parse_words(item))
    raise ValueError('must be a list of strings, or one string with commas, such as ["a", "b"] or "a, b"')


def parse_seconds(value: object) -> float:
    """`3600`, `"3600"`, `"45s"`, `"30m"`, `"4h"`, `"1d"`."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError('must be a time such as "1h", "30m", "45s" or a number of seconds')
    if isinstance(value, int | float):
        seconds = float(value) if abs(value) <= MAX_COUNT else math.inf
    else:
        match = re.fullmatch(r"\s*(\d{1,12}(?:\.\d{1,9})?)\s*([smhdSMHD]?)\s*", value)
        if match is None:
            raise ValueError(f'{value!r} is no time; write "1h", "30m", "45s" or a number of seconds')
        seconds = float(match[1]) * TIME_UNITS[match[2].lower()]
    if not math.isfinite(seconds) or not 0 <= seconds <= MAX_SECONDS:
        raise ValueError(f"must be between 0 (never) and {MAX_SECONDS} seconds")
    if 0 < seconds < MIN_SECONDS:
        raise ValueError(f"must be 0 (never) or at least {MIN_SECONDS} seconds")
    return seconds


def parse_bytes(value: object) -> int:
    """`1000000`, `"500m"`, `"2G"`: the suffixes k, m and g are powers of 1024, as in swanctl.conf."""
    return _parse_count(value, r"\s*(\d{1,20})\s*([kmgKMG]?)\s*", 'a number of bytes such as "500m", "2g" or 1000000')


def parse_packets(value: object) -> int:
    return _parse_count(value, r"\s*(\d{1,20})()\s*", "a number of packets such as 1000000")


def _parse_count(value: object, pattern: str, wanted: str) -> int:
    match = None if isinstance(value, bool | float) else re.fullmatch(pattern, str(value))
    if match is None:
        raise ValueError(f"must be {wanted}")
    count = int(match[1]) * COUNT_UNITS[match[2].lower()]
    if count > MAX_COUNT:
        raise ValueError(f"must be between 0 (no limit) and {MAX_COUNT}")
    return count


def parse_yes_no(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in TRUE_WORDS or word in FALSE_WORDS:
        return word in TRUE_WORDS
    raise ValueError("must be true or false (yes and no are understood too)")


def parse_addresses(value: object) -> tuple[Address, ...]:
    """IKE addresses; `%any` and nothing at all both mean any."""
    words = parse_words(value)
    if any(word in ("%any", "0.0.0.0/0", "::/0") for word in words):
        return ()
    return tuple(_each(words, _parse_address))


def _parse_address(word: str) -> Address:
    try:
        address = ipaddress.ip_address(word)
    except ValueError:
        if re.fullmatch(r"[0-9.]+", word) or ":" in word:
            raise ValueError(f"{word!r} is no IPv4 or IPv6 address") from None
        if word.startswith("%"):
            raise ValueError(f"{word!r} is no address; write one, or %any for any of either version") from None
        hint = "ranges and subnets" if "/" in word or ("-" in word and word[0].isdigit()) else "host names"
        raise ValueError(f"{word!r}: {hint} are not supported by this version; write an address, or %any") from None
    if address.version == 6 and address.is_link_local:
        raise ValueError(
            f"{word!r}: a link-local address means nothing without its interface, and this version keeps none; "
            "write a global or unique local address (fd00::/8)"
        )
    if address.version == 6 and "%" in word:
        raise ValueError(f"{word!r}: only a link-local address has a scope; leave out % and what follows it")
    if address.is_unspecified or address.is_multicast:
        raise ValueError(f"{word!r} is nobody's address; write one that is, or %any for any")
    return address


def parse_selectors(value: object) -> tuple[TrafficSelector | DynamicSelector, ...]:
    """Traffic selectors; `dynamic` (the IKE SA's own address) is the empty tuple."""
    words = parse_words(value)
    if not words:
        raise ValueError('must not be empty; leave the key out for "dynamic", or write for example ["10.1.0.0/24"]')
    if words == ("dynamic",):
        return ()
    return tuple(_each(words, _parse_selector))


def _parse_selector(word: str) -> TrafficSelector | DynamicSelector:
    if word.startswith("%"):
        raise ValueError(f"{word!r} is no network; write 0.0.0.0/0 or ::/0 for all, dynamic for the IKE SA's address")
    try:
        return DynamicSelector.parse(word) if word.startswith("dynamic") else TrafficSelector.parse(word)
    except IpsecFastError as error:
        raise ValueError(f"{error}{_meant_network(word)}") from None


def _meant_network(word: str) -> str:
    """A hint for host bits after the prefix; empty if the network is not what is wrong."""
    try:
        address, bracket, rest = word.partition("[")
        meant = f"{ipaddress.ip_network(address.strip(), strict=False)}{bracket}{rest}"
        TrafficSelector.parse(meant)
        return f"; did you mean {meant}?"
    except (ValueError, IpsecFastError):
        return ""


def parse_ike_proposals(value: object) -> tuple[Proposal, ...]:
    return _parse_proposals(value, default_ike_proposals, parse_ike_proposal)


def parse_esp_proposals(value: object) -> tuple[Proposal, ...]:
    return _parse_proposals(value, default_esp_proposals, parse_esp_proposal)


def _parse_proposals(
    value: object, default: Callable[[], tuple[Proposal, ...]], parse: Callable[[str], Proposal]
) -> tuple[Proposal, ...]:
    words = parse_words(value)
    if not words:
        raise ValueError("must not be empty; leave the key out for our own list")
    found: list[Proposal] = []
    for many in _each(words, lambda word: default() if word == "default" else (parse(word),)):
        found.extend(many)
    return tuple(replace(proposal, number=number) for number, proposal in enumerate(found, 1))


def parse_identity(value: object) -> Identity | None:
    """An IKE identity in strongSwan's spelling; None for `%any`."""
    if not isinstance(value, str):
        raise ValueError("must be a string, for example london.example, ops@london.example or 192.0.2.1")
    text = value.strip()
    if text in ANY_IDENTITY:
        return None
    if text.startswith("%"):
        raise ValueError(f"{text!r} is no identity; write %any for anybody")
    if re.fullmatch(r"([a-z0-9]+:)?\^.*\$", text, re.IGNORECASE):
        raise ValueError(f"{text!r}: regular expressions are not supported by this version; write *.example.org")
    try:
        identity = Identity.parse(text)
    except IpsecFastError as error:
        raise ValueError(str(error)) from None
    if any(c.isspace() or not c.isprintable() for c in text):
        raise ValueError(f"{text!r} holds a space or a control character; write one identity only")
    if not identity.data or len(identity.data) > 255:
        raise ValueError("an identity must be 1 to 255 bytes long")
    if identity.type in (IdType.FQDN, IdType.RFC822_ADDR):
        _check_asterisk(text, identity)
    return identity


def parse_own_identity(value: object) -> Identity | None:
    identity = parse_identity(value)
    if identity is not None and identity.is_pattern:
        raise ValueError(
            f"{value!r}: nobody is a wildcard; write our own whole identity, or leave it out for our address"
        )
    return identity


def _check_asterisk(text: str, identity: Identity) -> None:
    """ValueError unless one asterisk stands at the beginning, followed by text that restricts it."""
    if b"*" in identity.data[1:]:
        raise ValueError(f"{text!r}: an asterisk may be at the head only, as in *.example.org or *@example.org")
    if identity.data in (b"*", b"*.", b"*@"):
        raise ValueError(f"{text!r} means everybody; write %any, or a name such as *.example.org")


def _each(words: tuple[str, ...], parse: Callable[[str], T]) -> list[T]:
    """Parse every word, so that one error text names all that are wrong."""
    found: list[T] = []
    wrong: list[str] = []
    for word in words:
        try:
            found.append(parse(word))
        except (ValueError, IpsecFastError) as error:
            wrong.append(str(error))
    if wrong:
        raise ValueError("; ".join(wrong))
    return found


Words = Annotated[tuple[str, ...], PlainValidator(parse_words)]
Seconds = Annotated[float, PlainValidator(parse_seconds)]
Bytes = Annotated[int, PlainValidator(parse_bytes)]
Packets = Annotated[int, PlainValidator(parse_packets)]
YesNo = Annotated[bool, PlainValidator(parse_yes_no)]
Addresses = Annotated[tuple[Address, ...], PlainValidator(parse_addresses)]
Selectors = Annotated[tuple[TrafficSelector | DynamicSelector, ...], PlainValidator(parse_selectors)]
IkeProposals = Annotated[tuple[Proposal, ...], PlainValidator(parse_ike_proposals)]
EspProposals = Annotated[tuple[Proposal, ...], PlainValidator(parse_esp_proposals)]
MaybeIdentity = Annotated[Identity | None, PlainValidator(parse_identity)]
OwnIdentity = Annotated[Identity | None, PlainValidator(parse_own_identity)]
