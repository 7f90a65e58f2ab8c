"""The public names, pinned: a name that appears or goes away is a decision, made here as well.

Every `__all__` must say what is there; the faces of the library, the wire format, crypto and the errors are spelled out.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PINNED = {
    "ipsec_fast": """
        SA SAD Audit AuditEvent LastDrop OuterHeader PacketBatch Reassembler __version__ fragment_packet open_for_test protect
        protect_dummies protect_packet sas_from_ike seal_with_iv_for_test unprotect unprotect_packet verdict_text
    """,
    "ipsec_fast.errors": """
        AlgorithmError ConfigError HostError IntegrityError IpsecFastError LocalError NegotiationError ParseError Problem
        RemoteError SecretError StateError UsageError
    """,
    "ipsec_fast.ike.header": "FLAG_INITIATOR FLAG_RESPONSE FLAG_VERSION HEADER_BYTES IkeHeader",
    "ipsec_fast.ike.nat": """
        NAT_HASH_BYTES NatResult destination_hash detect_nat fake_source_hash nat_hash source_hash
    """,
    "ipsec_fast.ike.v2.payloads": """
        AuthPayload DeletePayload EncryptedPayload FragmentPayload IdPayload KePayload NoncePayload NotifyPayload Payload SaPayload
        TsPayload UnknownPayload VendorPayload decode_payload
    """,
    "ipsec_fast.ike.v2.message": """
        GENERIC_HEADER_BYTES MAX_INIT_BYTES MAX_MESSAGE_BYTES MAX_PAYLOADS Message P decode_message encode_chain encode_message first_type
        parse_chain
    """,
    "ipsec_fast.ike.v2.negotiate": """
        check_chosen check_narrowed choose_proposal narrow numbered uses_esn wanted_group without_ke
    """,
    "ipsec_fast.ike.v2.protect": "open_content open_message seal_chain seal_fragment seal_message",
    "ipsec_fast.crypto.secret": """
        Secret arena_report harden_process random_secret reveal_for_test secret_from_buffer secret_from_fd wipe
    """,
    "ipsec_fast.crypto.prf": """
        IkeKeys derive_child_keys derive_ike_keys derive_ike_rekey_keys prf prf_plus psk_auth verify
    """,
    "ipsec_fast.crypto.exchange": "KeyPair generate key_pair_for_test",
    "ipsec_fast.crypto.rest": "MIN_KEY_BYTES OpenedRecord RestKey SEALED_EXTRA_BYTES",
    "ipsec_fast.crypto.seal": "Sealer",
}
WITH_ALL = sorted(
    path
    for path in (ROOT / "ipsec_fast").rglob("*.py*")
    if path.suffix in {".py", ".pyi"} and "__all__" in path.read_text()
)


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def source_of(module: str) -> Path:
    """The Python source, or the typed face of a compiled module."""
    path = ROOT.joinpath(*module.split("."))
    return next(p for p in (path.with_suffix(".py"), path.with_suffix(".pyi"), path / "__init__.py") if p.is_file())


def assigned(tree: ast.Module) -> set[str]:
    """What a module defines itself, without what it imports."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {t.id for t in targets if isinstance(t, ast.Name)}
    return names


def public_names(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return set(ast.literal_eval(node.value))
    return {name for name in assigned(tree) if not name.startswith("_")}


@pytest.mark.parametrize("module", PINNED)
def test_public_names_are_the_pinned_ones(module: str) -> None:
    assert public_names(source_of(module)) == set(PINNED[module].split())


@pytest.mark.parametrize("path", WITH_ALL, ids=dotted)
def test_every_name_of_all_is_there(path: Path) -> None:
    module = importlib.import_module(dotted(path))
    missing = {name for name in public_names(path) if not hasattr(module, name)}
    assert not missing


@pytest.mark.parametrize("path", WITH_ALL, ids=dotted)
def test_all_names_nothing_twice(path: Path) -> None:
    listed = next(
        ast.literal_eval(node.value)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
    )
    assert len(listed) == len(set(listed))
