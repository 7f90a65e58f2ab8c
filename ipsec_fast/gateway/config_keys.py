"""swanctl.conf's keys that this version does not act on, and the spellings that make its tree one shape.

A pasted key of swanctl must not be called unknown. Its value may ask for what this version does anyway (`mobike = no`):
nothing is said. Where ignoring it changes neither who is protected nor how, it is one warning (`*_IGNORED`). Otherwise
it is refused as "not supported by this version". A value that swanctl does not have either is an error in any case.
Called by config_tree.py.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

NO = frozenset({"no", "false", "0", "never", "disabled"})
YES = frozenset({"yes", "true", "1", "enabled"})
ZERO = frozenset({"0", "0s"})

# key: the values that are fine because they describe this version; empty: none
CONNECTION_LATER: dict[str, frozenset[str]] = {
    "local_port": frozenset({"500"}),
    "remote_port": frozenset({"500"}),
    "mediation": NO,
    "ppk_required": NO,
    "if_id_in": ZERO,
    "if_id_out": ZERO,
    **dict.fromkeys(("vips", "pools", "ppk_id", "mediated_by", "mediation_peer", "dns"), frozenset()),
}
CHILD_LATER: dict[str, frozenset[str]] = {
    "policies": YES,
    "sha256_96": NO,
    "mark_in_sa": NO,
    "tfc_padding": ZERO,
    "priority": ZERO,
    "updown": frozenset({""}),
    "if_id_in": ZERO,
    "if_id_out": ZERO,
    "interface": frozenset(),
    **dict.fromkeys(
        (
            "ah_proposals", "mark_in", "mark_out", "set_mark_in", "set_mark_out", "label", "label_mode", "trap_label",
        ),
        frozenset(),
    ),
}  # fmt: skip
AUTH_LATER: dict[str, frozenset[str]] = {
    **dict.fromkeys(
        (
            "certs", "cert", "pubkeys", "eap_id", "aaa_id", "xauth_id", "groups", "cert_policy", "cacerts", "cacert",
            "ca_id",
        ),
        frozenset(),
    ),
}  # fmt: skip
# key: values that are accepted silently, and what happens instead of any other value
NO_CERTIFICATES = "no certificates travel with a pre-shared key"
CONNECTION_IGNORED: dict[str, tuple[frozenset[str], str]] = {
    "mobike": (NO, "a peer whose address changes is set up again"),
    "aggressive": (NO, "it is of IKEv1"),
    "pull": (YES, "it is of IKEv1"),
    "childless": (NO | {"allow"}, "every IKE SA begins with a Child SA"),
    "keyingtries": (
        frozenset({"1"}),
        'how often an attempt is repeated follows from the actions of the children: start_action = "start" never gives up',
    ),
    "send_certreq": (NO, NO_CERTIFICATES),
    "send_cert": (NO | {"ifasked"}, NO_CERTIFICATES),
    "ocsp": (NO, NO_CERTIFICATES),
    "dscp": (frozenset({"000000"}), "IKE messages leave with DSCP 0"),
}
CHILD_IGNORED: dict[str, tuple[frozenset[str], str]] = {
    "hostaccess": (NO, "this gateway touches no firewall rule"),
    "replay_window": (frozenset({"1024"}), "every Child SA has an anti-replay window of 1024 packets"),
    "copy_dscp": (frozenset({"out"}), "the DSCP is copied outwards, and the inner one stays as it is"),
    "copy_ecn": (YES, "ECN is copied as RFC 6040 says"),
    "policies_fwd_out": (NO, "forwarded packets need no policy of their own here"),
    "ipcomp": (NO, "nothing is compressed"),
    "hw_offload": (NO | {"auto"}, "the processor encrypts"),
    "reqid": (ZERO, "no kernel policy refers to it"),
}
AUTH_IGNORED: dict[str, tuple[frozenset[str], str]] = {
    "revocation": (frozenset({"relaxed"}), NO_CERTIFICATES),
}
# what swanctl takes for them
YES_OR_NO = ("yes", "no", "true", "false", "1", "0", "enabled", "disabled")
IGNORED_WORDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("mobike", "aggressive", "pull", "send_certreq", "hostaccess", "copy_ecn", "policies_fwd_out", "ipcomp"),
        YES_OR_NO,
    ),
    "childless": ("allow", "prefer", "force", "never", *YES_OR_NO),
    "send_cert": ("always", "never", "ifasked", *YES_OR_NO),
    "ocsp": ("reply", "request", "both", "never", *YES_OR_NO),
    "copy_dscp": ("out", "in", "yes", "no", "true", "false"),
    "hw_offload": ("auto", "crypto", "packet", *YES_OR_NO),
    "revocation": ("strict", "ifuri", "relaxed"),
}
IGNORED_FORMS: dict[str, tuple[str, str]] = {
    "keyingtries": (r"\d{1,10}|%forever", "a number of attempts, or 0 for no end"),
    "dscp": (r"[01]{6}", "six binary digits, such as 101110"),
    "replay_window": (r"\d{1,10}", "a number of packets"),
    "reqid": (r"\d{1,10}", "a number"),
    "round": (r"\d{1,10}", "a number"),
}
PORT_NAT_T = "4500"
# where distributions put strongSwan's script, which opens a firewall for the traffic of its tunnels
_OWN_UPDOWN = re.compile(
    r"(/[\w./-]+/(ipsec|strongswan)/_updown|ipsec _updown|_updown)(\s+(iptables|ip6tables))?", re.ASCII
)
TOP_LATER: dict[str, frozenset[str]] = dict.fromkeys(("pools", "authorities", "include"), frozenset())
SECRETS_LATER = ("eap", "xauth", "ntlm", "ppk", "private", "rsa", "ecdsa", "pkcs8", "pkcs12", "token")


def asks_for_what_we_do(value: object, fine: Iterable[str]) -> bool:
    text = ("yes" if value else "no") if isinstance(value, bool) else str(value).strip().lower()
    return text in fine


def wrong_value(key: str, value: object) -> str | None:
    """What would be right for an ignored key, where its value is one that swanctl refuses too."""
    text = ("yes" if value else "no") if isinstance(value, bool) else str(value).strip().lower()
    if key in IGNORED_FORMS:
        form, right = IGNORED_FORMS[key]
        return None if re.fullmatch(form, text, re.ASCII) and not isinstance(value, bool) else f"must be {right}"
    words = IGNORED_WORDS.get(key, (text,))
    if text in words:
        return None
    listed = [word for word in words if word not in YES_OR_NO[2:]]
    return f"must be {', '.join(listed[:-1])} or {listed[-1]}{nearest(value, listed)}"


def is_own_updown(value: object) -> bool:
    """Whether it is strongSwan's own script, with strongSwan's arguments."""
    return isinstance(value, str) and "/../" not in value and bool(_OWN_UPDOWN.fullmatch(value.strip()))


def port_ignored(value: object) -> bool:
    """Whether it is 4500: our IKE begins at 500 and moves to 4500 by itself."""
    return asks_for_what_we_do(value, (PORT_NAT_T,))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean "remote_ts"?`, or the whole list where nothing is near."""
    names = sorted(known)
    near = difflib.get_close_matches(word.lower().replace("-", "_"), names, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else f"; known here: {', '.join(names)}"


def nearest(value: object, words: Iterable[str]) -> str:
    """`; did you mean "start"?`, to be appended to a text that lists the words of a value, or nothing."""
    word = str(value).strip().lower()[:100] if isinstance(value, str) else ""
    near = difflib.get_close_matches(word, tuple(words), n=1, cutoff=0.6) if word else []
    return f'; did you mean "{near[0]}"?' if near and near[0] != word else ""
