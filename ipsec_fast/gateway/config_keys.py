"""swanctl.conf's keys that this version does not act on, and the spellings that make its tree one shape.

A pasted key of swanctl must not be called unknown, and must not be ignored either: it is refused as "not supported by
this version", unless its value asks for what this version does anyway (`mobike = no`). Called by config_tree.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

NO = frozenset({"no", "false", "0", "never"})
ZERO = frozenset({"0", "0s"})

# key: the values that are fine because they describe this version; empty: none
CONNECTION_LATER: dict[str, frozenset[str]] = {
    "local_port": frozenset({"500"}),
    "remote_port": frozenset({"500"}),
    "mobike": NO,
    "aggressive": NO,
    "mediation": NO,
    "ppk_required": NO,
    "childless": NO,
    "keyingtries": frozenset({"1"}),
    "pull": frozenset({"yes", "true"}),
    "send_certreq": NO,
    "send_cert": NO,
    "dscp": frozenset({"000000"}),
    "if_id_in": ZERO,
    "if_id_out": ZERO,
    **dict.fromkeys(("vips", "pools", "ppk_id", "mediated_by", "mediation_peer", "dns"), frozenset()),
}
CHILD_LATER: dict[str, frozenset[str]] = {
    "policies": frozenset({"yes", "true"}),
    "policies_fwd_out": NO,
    "ipcomp": NO,
    "hostaccess": NO,
    "sha256_96": NO,
    "hw_offload": NO,
    "mark_in_sa": NO,
    "tfc_padding": ZERO,
    "reqid": ZERO,
    "priority": ZERO,
    "if_id_in": ZERO,
    "if_id_out": ZERO,
    "interface": frozenset(),
    **dict.fromkeys(
        (
            "ah_proposals", "updown", "mark_in", "mark_out", "set_mark_in", "set_mark_out", "label", "label_mode", "replay_window",
            "copy_ecn", "copy_dscp", "trap_label",
        ),
        frozenset(),
    ),
}  # fmt: skip
AUTH_LATER: dict[str, frozenset[str]] = {
    "round": ZERO,
    **dict.fromkeys(
        (
            "certs", "cert", "pubkeys", "eap_id", "aaa_id", "xauth_id", "groups", "cert_policy", "cacerts", "cacert",
            "ca_id", "revocation",
        ),
        frozenset(),
    ),
}  # fmt: skip
TOP_LATER: dict[str, frozenset[str]] = dict.fromkeys(("pools", "authorities", "include"), frozenset())
SECRETS_LATER = ("eap", "xauth", "ntlm", "ppk", "private", "rsa", "ecdsa", "pkcs8", "pkcs12", "token")


def asks_for_what_we_do(value: object, fine: Iterable[str]) -> bool:
    text = ("yes" if value else "no") if isinstance(value, bool) else str(value).strip().lower()
    return text in fine


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean "remote_ts"?`, or the whole list where nothing is near."""
    names = sorted(known)
    near = difflib.get_close_matches(word.lower().replace("-", "_"), names, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else f"; known here: {', '.join(names)}"
