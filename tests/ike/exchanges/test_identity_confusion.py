"""Who the peer is: reflected messages, other holders of a secret, two sessions connected
crosswise (docs/attacks.md, rows 33 and 34).
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from pair import ADDRESS_A, ADDRESS_B, PSK, Pair, Sent, child, connection

import ipsec_fast.ike.v2.ike_auth as ike_auth
from ipsec_fast.crypto.secret import secret_from_buffer
from ipsec_fast.errors import NegotiationError
from ipsec_fast.iana import ExchangeType
from ipsec_fast.ike.config import ConnectionConfig, Fragmentation
from ipsec_fast.ike.events import AskConfig, AskConnection, AskCredential
from ipsec_fast.ike.header import IkeHeader
from ipsec_fast.ike.v2.message import decode_message, encode_message
from ipsec_fast.ike.v2.payloads import KePayload, NoncePayload
from ipsec_fast.model import Identity, Path
from ipsec_fast.policy.credentials import Credentials, SharedKey
from ipsec_fast.policy.peers import Peers

named = Identity.parse
WIDE = (child("net", local="0.0.0.0/0", remote="0.0.0.0/0"),)


def answered_by(pair: Pair, side: str, peers: Peers, credentials: Credentials | None = None) -> list[str]:
    """Let a shell answer with the product's own policy; the identities whose secrets were asked for."""
    shell, asked = pair.shell(side), []
    other = shell.answer_to

    def answer(event):
        match event:
            case AskConfig(path=path):
                return peers.by_path(path)
            case AskConnection():
                return peers.by_identity(event.path, event.candidates, event.remote_id, event.local_id)
            case AskCredential() if credentials is not None:
                asked.append(str(event.remote_id))
                return credentials.shared_key(event.local_id, event.remote_id)
        return other(event)

    shell.answer_to = answer
    return asked


def mirrored(connections: list[ConnectionConfig]) -> Pair:
    """Everything that a sends comes back to a, with its peer's address as the source."""
    pair = Pair(a=connections)
    answered_by(pair, "a", Peers(connections), Credentials([SharedKey("x", (), secret_from_buffer(PSK))]))
    pair._arrival = lambda sender, path: replace(path)
    pair.at = lambda arrival: "a"
    return pair


# --- reflection


@pytest.mark.parametrize(
    "ids",
    [
        ("a.example", None),
        ("a.example", "b.example"),
        ("ops@a.example", None),
        ("@#0a0b", None),
        (None, None),
        ("a.example", "a.example"),
    ],
)
@pytest.mark.parametrize("others", [0, 1])
def test_a_gateway_never_authenticates_itself(ids: tuple[str | None, str | None], others: int) -> None:
    """With one secret for everybody each AUTH would verify. A second connection has another identity of ours."""
    local, remote = (named(text) if text else None for text in ids)
    one = connection("a", local_id=local, remote_id=remote, children=WIDE)
    two = replace(one, name="second", local_id=named("a2.example"), remote_id=None)
    pair = mirrored([one, two][: 1 + others])
    pair.initiate("a")
    pair.run(3.0)
    assert not pair.a.views("ESTABLISHED")
    assert not pair.a.children
    assert "came back from 192.0.2.2" in pair.a.log
    assert len(pair.a.views()) == 1, "the attempt goes on waiting for its true peer"


@pytest.mark.parametrize("what", [NoncePayload, KePayload])
@pytest.mark.parametrize("as_response", [False, True])
def test_neither_our_nonce_nor_our_ke_value_is_taken_from_a_peer(what: type, as_response: bool) -> None:
    pair = Pair(a=connection("a", remote_id=None))

    def tamper(sent: Sent) -> bytes:
        header = IkeHeader.decode(sent.data)
        if header.exchange != ExchangeType.IKE_SA_INIT or not as_response or not header.response:
            return sent.data
        ours = decode_message(pair.sent[0].data).get(what)
        message = decode_message(sent.data)
        payloads = tuple(ours if isinstance(one, what) else one for one in message.payloads)
        return encode_message(message.header, payloads)

    pair.tamper = tamper
    pair.initiate("a")
    if not as_response:
        request = decode_message(pair.sent[0].data)
        stranger = decode_message(Pair(seed=9).up().sent[0].data)
        ours = request.get(what)
        payloads = tuple(ours if isinstance(one, what) else one for one in stranger.payloads)
        pair.inject("a", encode_message(stranger.header, payloads), Path(ADDRESS_A, 500, ADDRESS_B, 500))
        assert len(pair.a.views()) == 1
    else:
        pair.run(3.0)
        assert not pair.a.views("ESTABLISHED")
    assert pair.a.endpoint.counters["reflected"] >= 1


def test_only_what_is_open_is_remembered() -> None:
    pair = Pair()
    shown = pair.a.endpoint._core.shown
    for _ in range(20):
        pair.initiate("a")
    assert len(shown) == 40
    pair.run(3.0)
    assert len(pair.a.views("ESTABLISHED")) == 20
    assert len(shown) == 0, "established"
    pair.network = lambda sent: ()
    for _ in range(5):
        pair.initiate("a")
    assert len(shown) == 10
    pair.run(200.0)
    assert not pair.a.views("CONNECTING")
    assert len(shown) == 0, "given up"


SPELLINGS = ["a.example", "A.Example", "fqdn:a.example", "@a.example"]


@pytest.mark.parametrize("claimed", SPELLINGS)
@pytest.mark.parametrize("role", ["responder", "initiator"])
def test_a_peer_that_shows_our_own_identity_is_refused(monkeypatch, role: str, claimed: str) -> None:
    """She knows the secret, as each holder of it does, and sends a message of her own."""
    a = connection("a", remote_id=None, children=WIDE)
    b = connection("b", local_id=named(claimed), remote_id=None, children=WIDE)
    pair = Pair(a=a, b=b)
    answered_by(pair, "a", Peers([a]))
    real = ike_auth._refuse_own
    hers = pair.b.endpoint._core
    monkeypatch.setattr(ike_auth, "_refuse_own", lambda sa, *ids: None if sa.core is hers else real(sa, *ids))
    pair.initiate("b" if role == "responder" else "a")
    pair.run(4.0)
    assert not pair.a.views("ESTABLISHED")
    assert not pair.a.children
    assert "our own identity" in pair.a.log or "no connection for" in pair.a.log


def test_where_any_peer_will_do_no_identity_of_any_connection_of_ours_does() -> None:
    mine = [connection("a", remote_id=None), replace(connection("a"), name="x", local_id=named("A2.example"))]
    peers, path = Peers(mine), Path(ADDRESS_A, 500, ADDRESS_B, 500)
    for claimed in ("a2.example", "a.example"):
        with pytest.raises(NegotiationError, match="no connection for"):
            peers.by_identity(path, [mine[0]], named(claimed), None)
    assert peers.by_identity(path, mine, named("c.example"), None) is mine[0]


# --- a secret that others hold too


class OtherSecrets:
    """a has a secret with whoever is at b's address, and one with mallory, who is a peer of ours as well."""

    def __init__(self, mallory_ids: tuple[str, ...] = ("a.example", "mallory.example")) -> None:
        self.true, self.hers = PSK, b"the secret of a with mallory, a peer too"
        keys = [
            SharedKey("true", (named("a.example"), named("192.0.2.2")), secret_from_buffer(bytearray(self.true))),
            SharedKey("mallory", tuple(map(named, mallory_ids)), secret_from_buffer(bytearray(self.hers))),
        ]
        self.credentials = Credentials(keys)


@pytest.mark.parametrize("claims", ["mallory.example", "mallory@rome.example", "198.51.100.7"])
def test_an_initiator_without_remote_id_takes_only_the_secret_that_it_proved_itself_with(monkeypatch, claims) -> None:
    """mallory, on the path to b, need not know a's secret with b: she does not check a's AUTH."""
    secrets = OtherSecrets(("a.example", claims))
    a = connection("a", remote_id=None)
    pair = Pair(a=a, b=connection("b", local_id=named(claims)))
    asked = answered_by(pair, "a", Peers([a]), secrets.credentials)
    real = ike_auth.check_auth
    monkeypatch.setattr(ike_auth, "check_auth", lambda sa, *rest: real(sa, *rest) if sa.initiator else None)
    pair.b.psk = secrets.hers
    pair.initiate("a")
    pair.run(4.0)
    assert asked == ["192.0.2.2", claims]
    assert not pair.a.views("ESTABLISHED")
    assert not pair.a.children
    assert "the pre-shared keys differ" in pair.a.log


@pytest.mark.parametrize("knows", ["hers", "ours"])
def test_nor_does_one_whose_remote_id_is_a_wildcard(monkeypatch, knows: str) -> None:
    """mallory fits the wildcard and has a secret of her own with a; the one that a proves itself with is the wildcard's."""
    ours, hers = b"the secret of all who end so", b"the secret of a with mallory alone"
    keys = [
        SharedKey("all", (named("a.example"), named("*.rome.example")), secret_from_buffer(bytearray(ours))),
        SharedKey("mallory", (named("a.example"), named("mallory.rome.example")), secret_from_buffer(bytearray(hers))),
    ]
    claims = "mallory.rome.example" if knows == "hers" else "paris.rome.example"
    a = connection("a", remote_id=named("*.rome.example"))
    pair = Pair(a=a, b=connection("b", local_id=named(claims)))
    answered_by(pair, "a", Peers([a]), Credentials(keys))
    real = ike_auth.check_auth
    monkeypatch.setattr(ike_auth, "check_auth", lambda sa, *rest: real(sa, *rest) if sa.initiator else None)
    pair.b.psk = hers if knows == "hers" else ours
    pair.initiate("a")
    pair.run(4.0)
    assert bool(pair.a.views("ESTABLISHED")) is (knows == "ours")


def test_nor_may_another_peer_answer_that_the_wildcard_covers(monkeypatch) -> None:
    """`*.example` is many peers, each with a secret of its own: as without `remote.id`."""
    secrets = OtherSecrets(("a.example", "mallory.example"))
    a = connection("a", remote_id=named("*.example"))
    pair = Pair(a=a, b=connection("b", local_id=named("mallory.example")))
    true = SharedKey("all", (named("*.example"),), secret_from_buffer(bytearray(PSK)))
    answered_by(pair, "a", Peers([a]), Credentials([*secrets.credentials._keys, true]))
    real = ike_auth.check_auth
    monkeypatch.setattr(ike_auth, "check_auth", lambda sa, *rest: real(sa, *rest) if sa.initiator else None)
    pair.b.psk = secrets.hers
    pair.initiate("a")
    pair.run(4.0)
    assert not pair.a.views("ESTABLISHED")
    assert "the pre-shared keys differ" in pair.a.log


@pytest.mark.parametrize("expected", ["*.example", "*@a.example", None])
@pytest.mark.parametrize("side", ["a", "b"])
def test_no_peer_is_a_wildcard(expected: str | None, side: str) -> None:
    claim = named(expected or "*.example")
    other = "b" if side == "a" else "a"
    pair = Pair(**{side: connection(side, local_id=claim), other: connection(other, remote_id=expected and claim)})
    answered_by(pair, other, Peers(pair.shell(other).configs))
    pair.initiate("a")
    pair.run(4.0)
    assert not pair.shell(other).views("ESTABLISHED")
    assert "a wildcard" in pair.shell(other).log


def test_nor_may_the_true_peer_take_the_name_of_another_one() -> None:
    secrets = OtherSecrets()
    a = connection("a", remote_id=None)
    pair = Pair(a=a, b=connection("b", local_id=named("mallory.example")))
    answered_by(pair, "a", Peers([a]), secrets.credentials)
    pair.b.psk = secrets.true
    pair.initiate("a")
    pair.run(4.0)
    assert not pair.a.views("ESTABLISHED")


@pytest.mark.parametrize(("any_identity", "up"), [(False, False), (True, True)])
def test_nor_does_a_responder_take_another_peers_secret_at_a_named_address(any_identity: bool, up: bool) -> None:
    """mallory, on the path to b, begins from b's address as herself."""
    secrets = OtherSecrets()
    a = connection("a", remote_id=None, remote_addrs=(ADDRESS_B,), any_identity=any_identity)
    pair = Pair(a=a, b=connection("b", local_id=named("mallory.example")))
    answered_by(pair, "a", Peers([a]), secrets.credentials)
    pair.b.psk = secrets.hers
    pair.initiate("b")
    pair.run(4.0)
    assert bool(pair.a.views("ESTABLISHED")) is up
    assert bool(pair.a.children) is up


def test_a_responder_that_keeps_no_secret_for_the_address_goes_by_the_identity() -> None:
    a = connection("a", remote_id=None, remote_addrs=(ADDRESS_B,))
    keys = [SharedKey("b", (named("b.example"),), secret_from_buffer(bytearray(PSK)))]
    pair = Pair(a=a)
    answered_by(pair, "a", Peers([a]), Credentials(keys))
    pair.up("b")


@pytest.mark.parametrize("local_id", [None, "b.example"])
def test_the_peer_at_the_address_is_taken_by_its_address_or_by_any_name_with_that_secret(local_id) -> None:
    a = connection("a", remote_id=None)
    pair = Pair(a=a, b=connection("b", local_id=named(local_id) if local_id else None))
    answered_by(pair, "a", Peers([a]), Credentials([SharedKey("one", (), secret_from_buffer(bytearray(PSK)))]))
    pair.up()
    assert str(pair.a.view.remote_id) == (local_id or "192.0.2.2")


# --- two sessions connected crosswise


@pytest.mark.parametrize("what", ["requests", "responses", "both"])
@pytest.mark.parametrize("first", [ExchangeType.IKE_SA_INIT, ExchangeType.IKE_AUTH])
def test_of_two_sessions_wired_crosswise_the_second_never_stands(what: str, first: int) -> None:
    """From IKE_SA_INIT on, or from IKE_AUTH on, the second gets what the first one said, under its own SPIs."""
    pair = Pair()

    def cross(sent: Sent) -> bytes:
        header = IkeHeader.decode(sent.data)
        if header.exchange < first or what == ("requests" if header.response else "responses"):
            return sent.data
        twins = (s for s in pair.sent if s.sender == sent.sender and s.data[:8] != sent.data[:8])
        twin = next((s for s in twins if s.data[18:24] == sent.data[18:24]), None)
        return sent.data if twin is None else sent.data[:16] + twin.data[16:]

    pair.tamper = cross
    one, two = pair.initiate("a"), pair.initiate("a")
    pair.run(4.0)
    assert {view.ike_id for view in pair.a.views("ESTABLISHED")} <= {one}
    assert two in {view.ike_id for view in pair.a.views("CONNECTING", "DELETING")} or not pair.a.live
    assert len(pair.a.live) <= 1


# --- several connections for any address


def any_address(name: str, remote: str, ike: str, **more) -> ConnectionConfig:
    return replace(connection("b", ike=tuple(ike.split()), remote_id=named(remote)), name=name, **more)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("who", ["other.example", "a.example"])
@pytest.mark.parametrize(
    ("first", "second", "offer_first", "offer_second"),
    [
        ("aes128gcm16-prfsha256-ecp384", "aes128gcm16-prfsha256-x25519", "ecp384-x25519", "x25519-ecp384"),
        ("aes256gcm16-prfsha384-ecp384", "aes128gcm16-prfsha256-x25519", "ecp384", "x25519"),
        ("aes128-sha256-ecp256", "aes128gcm16-prfsha256-x25519-ecp256", "ecp256", "ecp256"),
    ],
)
def test_two_connections_with_other_proposals_both_serve_their_peers(
    order, who, first, second, offer_first, offer_second
) -> None:
    one, two = any_address("first", "other.example", first), any_address("second", "a.example", second)
    cipher = {"other.example": (first, offer_first), "a.example": (second, offer_second)}[who]
    offer = "-".join([word for word in cipher[0].split("-") if not word.startswith(("x2", "ecp"))]) + "-" + cipher[1]
    pair = Pair(a=connection("a", ike=(offer,), local_id=named(who)), b=[one, two][::order])
    answered_by(pair, "b", Peers([one, two][::order]))
    pair.up()
    assert pair.b.view.connection == ("first" if who == "other.example" else "second")
    assert "wants group" not in pair.a.log


@pytest.mark.parametrize("last", [2, 17, 40])
def test_of_many_connections_with_a_list_of_their_own_none_is_lost(last: int) -> None:
    """More lists than are weighed: the one that fits stands behind all of them."""
    ciphers = ("aes256gcm16", "aes192gcm16", "aes256")
    groups = ("ecp256", "ecp384", "ecp521", "x25519", "modp2048", "modp3072", "modp4096")
    words = [
        f"{c}{'-sha256' if c == 'aes256' else ''}-prfsha{p}-{g}" for c in ciphers for g in groups for p in (256, 512)
    ]
    some = [any_address(f"c{i}", f"x{i}.example", word) for i, word in enumerate(words[: last - 1])]
    mine = any_address("mine", "a.example", "aes128gcm16-prfsha256-x25519")
    pair = Pair(a=connection("a", ike=("aes128gcm16-prfsha256-x25519",)), b=[*some, mine])
    answered_by(pair, "b", Peers([*some, mine]))
    pair.up()
    assert pair.b.view.connection == "mine"


@pytest.mark.parametrize(("lacking", "asked"), [(1, False), (2, True), (3, True)])
def test_another_group_is_asked_for_only_if_most_lack_the_one_that_was_sent(lacking: int, asked: bool) -> None:
    have = any_address("have", "a.example", "aes128gcm16-prfsha256-x25519-ecp384")
    lack = [any_address(f"lack{i}", f"x{i}.example", "aes128gcm16-prfsha256-ecp384") for i in range(lacking)]
    pair = Pair(a=connection("a", ike=("aes128gcm16-prfsha256-x25519-ecp384",)), b=[*lack, have])
    answered_by(pair, "b", Peers([*lack, have]))
    pair.up()
    assert ("wants group" in pair.a.log) is asked
    assert pair.b.view.connection == "have"


def test_who_names_the_address_decides_before_those_for_any() -> None:
    named = any_address("named", "a.example", "aes128gcm16-prfsha256-ecp384", remote_addrs=(ADDRESS_A,))
    many = [any_address(f"any{i}", f"x{i}.example", "aes128gcm16-prfsha256-x25519") for i in range(3)]
    pair = Pair(a=connection("a", ike=("aes128gcm16-prfsha256-x25519-ecp384",)), b=[*many, named])
    answered_by(pair, "b", Peers([*many, named]))
    pair.up()
    assert pair.b.view.connection == "named"


def test_a_refusal_names_the_other_connections_too() -> None:
    some = [
        any_address(f"c{i}", f"x{i}.example", f"aes256-sha512-{group}")
        for i, group in enumerate(("ecp256", "modp2048"))
    ]
    pair = Pair(b=some)
    answered_by(pair, "b", Peers(some))
    pair.initiate()
    pair.run(2.0)
    assert "(connection c0); nor with c1" in pair.b.log


@pytest.mark.parametrize("order", [1, -1])
def test_fragmentation_is_the_chosen_connections_and_encapsulation_as_far_as_it_can_be(order: int) -> None:
    mine = any_address("mine", "a.example", "aes128gcm16-prfsha256-x25519", fragmentation=Fragmentation.YES, encap=True)
    other = replace(mine, name="other", remote_id=named("x.example"), fragmentation=Fragmentation.NO, encap=False)
    pair = Pair(a=connection("a", encap=False), b=[mine, other][::order])
    answered_by(pair, "b", Peers([mine, other][::order]))
    pair.up()
    (sa,) = pair.b.endpoint._core.sas.values()
    assert sa.fragments
    assert pair.b.view.nat_fake
    assert pair.b.view.children[0].encap == pair.a.view.children[0].encap is True


def test_a_peer_without_nat_traversal_gets_the_connection_that_needs_none() -> None:
    mine = any_address("mine", "a.example", "aes128gcm16-prfsha256-x25519", encap=False)
    other = replace(mine, name="other", remote_id=named("x.example"), encap=True)
    pair = Pair(a=connection("a", encap=False), b=[other, mine])
    answered_by(pair, "b", Peers([other, mine]))

    def without_nat(sent: Sent) -> bytes:
        message = decode_message(sent.data) if sent.data[18] == ExchangeType.IKE_SA_INIT else None
        if message is None or sent.sender != "a":
            return sent.data
        kept = tuple(one for one in message.payloads if getattr(one, "notify", 0) not in (16388, 16389))
        return encode_message(message.header, kept)

    pair.tamper = without_nat
    pair.initiate()
    pair.run(0.02)
    (sa,) = pair.b.endpoint._core.sas.values()
    assert [one.name for one in sa.candidates] == ["mine"]


def test_the_cost_of_choosing_goes_with_the_lists_of_proposals_not_with_the_connections(monkeypatch) -> None:
    import ipsec_fast.ike.v2.candidates as candidates

    calls = []
    real = candidates.choose_proposal
    monkeypatch.setattr(candidates, "choose_proposal", lambda *args, **more: (calls.append(1), real(*args, **more))[1])
    counts = []
    for number in (10, 1000):
        some = [any_address("x", "x.example", "aes128gcm16-prfsha256-ecp384")] * number
        some += [any_address("y", "y.example", "aes128gcm16-prfsha256-x25519")] * number
        offered = connection("a", ike=("aes128gcm16-prfsha256-x25519-ecp384",)).proposals
        calls.clear()
        _, kept = candidates.choose(some, offered, 31)
        assert {one.name for one in kept} == {"y"}
        counts.append(len(calls))
    assert counts[0] == counts[1] <= 8
