"""AUTH with a pre-shared key (RFC 7296 section 2.15): who signs which octets.

The initiator's AUTH covers its IKE_SA_INIT request, Nr and IDi; the responder's its response, Ni and IDr. Signatures
come with certificates, in a later issue.
"""

from __future__ import annotations

from ...crypto.prf import psk_auth, verify
from ...crypto.secret import Secret
from ...errors import IntegrityError, NegotiationError
from ...iana import AuthMethod, NotifyType, name_of
from ...model import Identity
from .ike_sa import IkeSA
from .payloads import AuthPayload, IdPayload


def make_auth(sa: IkeSA, psk: Secret, own_id: IdPayload) -> AuthPayload:
    init = sa.init_octets
    message, nonce = (init.request, init.nonces.nr) if sa.initiator else (init.response, init.nonces.ni)
    data = psk_auth(sa.keys.suite.prf.id, psk, message, nonce, sa.keys.own_sk_p, own_id.body)
    return AuthPayload(AuthMethod.SHARED_KEY, data)


def check_auth(sa: IkeSA, psk: Secret, own: Identity, peer_id: IdPayload, auth: AuthPayload) -> None:
    """NegotiationError (AUTHENTICATION_FAILED) unless the peer has shown that it knows the PSK."""
    if auth.method != AuthMethod.SHARED_KEY:
        method = name_of(AuthMethod, auth.method)
        text = f"{peer_id.identity} authenticates by {method}, the configuration wants a pre-shared key"
        raise NegotiationError(text, NotifyType.AUTHENTICATION_FAILED)
    init = sa.init_octets
    message, nonce = (init.response, init.nonces.ni) if sa.initiator else (init.request, init.nonces.nr)
    wanted = psk_auth(sa.keys.suite.prf.id, psk, message, nonce, sa.keys.peer_sk_p, peer_id.body)
    try:
        verify(auth.data, wanted)
    except IntegrityError:
        text = (
            f"the AUTH payload of {peer_id.identity} does not verify: the pre-shared keys differ between it and {own}"
        )
        raise NegotiationError(text, NotifyType.AUTHENTICATION_FAILED) from None
