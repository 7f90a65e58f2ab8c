"""The answers to what an IKE endpoint asks, all inline: policy, secrets, key exchange, SPIs. Installing a child lies in children.

A later issue may answer some of them elsewhere (a helper process, an HSM, RADIUS); the endpoint does not care when its answer comes.
Called by control.manager.
"""

from __future__ import annotations

from ..crypto.exchange import generate
from ..ike.events import Ask, AskConfig, AskConnection, AskCredential, AskKeyPair, AskSharedSecret, AskSpi
from ..policy.credentials import Credentials
from ..policy.peers import Peers
from .spi import SpiPool


class Answers:
    """`answer` returns the value that the ask's docstring names, or raises what the endpoint shall turn into a notify."""

    def __init__(self, peers: Peers, credentials: Credentials, spis: SpiPool) -> None:
        self._peers = peers
        self._credentials = credentials
        self._spis = spis

    def answer(self, ask: Ask) -> object:
        match ask:
            case AskConfig(path=path):
                return self._peers.by_path(path)
            case AskConnection(path=path, candidates=candidates, remote_id=remote_id, local_id=local_id):
                return self._peers.by_identity(path, candidates, remote_id, local_id)
            case AskCredential(connection=connection, local_id=local_id, remote_id=remote_id):
                weak = self._peers.allows_weak(connection)
                return self._credentials.shared_key(local_id, remote_id, allow_weak=weak)
            case AskKeyPair(group=group):
                return generate(group)
            case AskSharedSecret(key_pair=key_pair, peer_public=peer_public):
                return key_pair.derive(peer_public)
            case AskSpi(resource=resource, replaces=replaced):
                return self._spis.take(resource if replaced is None else replaced)
        raise TypeError(f"nobody answers {type(ask).__name__}")
